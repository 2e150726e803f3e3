"""Record a tilt series of a specimen: from potential in V to electrons per pixel."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.acquisition.exposure import (
    count_electrons,
    detector_mtf,
    dose_symmetric_order,
    thickness_transmission,
)
from cryomend.config import AcquisitionConfig
from cryomend.ctf import Optics, contrast_transfer, interaction_constant
from cryomend.dose import radiation_damage
from cryomend.fourier import filter_fourier
from cryomend.geometry import tilt_angles_from_range
from cryomend.mixing import mix_noise
from cryomend.projection import project_density

__all__ = ["Exposure", "acquire_tilt_series", "draw_exposure", "draw_tilt_angles"]


@dataclass(frozen=True)
class Exposure:
    """How one tilt series is recorded; units as in CONVENTIONS.md.

    ``thickness`` of the ice in Å, ``misalignment`` the standard deviation of residual shifts in Å,
    ``dqe`` the share of the electrons that counts; ``snr`` replaces counting by white noise of that
    power ratio when given.
    """

    optics: Optics
    defocus_um: float = 4.0
    astigmatism_um: float = 0.0
    astigmatism_angle: float = 0.0
    fluence: float = 100.0
    thickness: float = 1000.0
    mean_free_path: float = 3200.0
    mtf_nyquist: float = 0.6
    misalignment: float = 0.0
    dqe: float = 1.0
    damage: bool = True
    snr: float | None = None

    def record(self) -> dict[str, Any]:
        """Everything that was drawn, for the file beside the result."""
        return asdict(self)


def draw_tilt_angles(config: AcquisitionConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a regular tilt scheme from the ranges of a configuration, rounded to half degrees."""
    low, high, step = (
        round(2 * float(rng.uniform(*bounds))) / 2
        for bounds in (config.tilt_min, config.tilt_max, config.tilt_step)
    )
    return tilt_angles_from_range(low, high, max(step, 0.5))


def draw_exposure(config: AcquisitionConfig, rng: np.random.Generator, *, thickness: float) -> Exposure:
    """Draw one recording from the ranges of a configuration, for ice of ``thickness`` Å."""

    def draw(bounds: tuple[float, float]) -> float:
        return float(rng.uniform(*bounds))

    optics = Optics(config.voltage_kv, config.spherical_aberration_mm, draw(config.amplitude_contrast))
    return Exposure(
        optics=optics,
        defocus_um=draw(config.defocus_um),
        astigmatism_um=float(rng.normal(0, 0.05)),
        astigmatism_angle=draw((0, 180)),
        fluence=draw(config.fluence),
        thickness=thickness,
        mean_free_path=draw(config.mean_free_path),
        mtf_nyquist=draw(config.mtf_nyquist),
        misalignment=draw(config.misalignment),
        dqe=draw(config.dqe),
        damage=config.radiation_damage,
        snr=config.snr,
    )


def acquire_tilt_series(
    density: Tensor,
    tilt_angles: NDArray[Any],
    *,
    pixel_size: float,
    exposure: Exposure,
    generator: torch.Generator,
    noise: Tensor | None = None,
) -> Tensor:
    """Simulate the images that a microscope records of a specimen.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        Potential in V relative to ice.
    tilt_angles : array, shape (tilt,)
        Degrees, in the order of the images; recorded dose-symmetrically.
    pixel_size : float
        Å, equal to the voxel size.
    exposure : Exposure
        Optics, electrons, detector.
    generator : torch.Generator
        Source of the randomness, on the device of ``density``.
    noise : Tensor, optional, shape (tilt, Y, X)
        Noise of unit variance, learned say, that replaces white noise when ``exposure.snr`` is given.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)
        Electrons per pixel, protein dark.

    Raises
    ------
    ValueError
        If an angle lies outside ±90 degrees, or ``noise`` has another shape.

    Notes
    -----
    Weak phase: ``I = I0 (1 + 2 σ v ⊗ CTF)`` with the projected potential ``v`` in V Å and
    ``CTF = -sin γ``. One defocus for the whole image: the phase error at 20 Å and 300 kV is
    0.15 rad for 1,000 Å of depth, so 0.21 rad at the corners of a 2,000 Å cube tilted to 60 degrees, and
    grows with the width of the image. The MTF acts on signal and counting noise alike (a DQE that
    is flat in frequency).
    """
    shape = (density.shape[1], density.shape[2])
    device = density.device
    potential = project_density(density, tilt_angles) * pixel_size
    shared = contrast_transfer(
        shape,
        pixel_size=pixel_size,
        defocus_um=exposure.defocus_um,
        optics=exposure.optics,
        astigmatism_um=exposure.astigmatism_um,
        astigmatism_angle=exposure.astigmatism_angle,
        device=device,
    ) * (2 * interaction_constant(exposure.optics.voltage_kv))
    mtf = detector_mtf(shape, at_nyquist=exposure.mtf_nyquist, device=device)
    per_tilt = exposure.fluence / len(tilt_angles)
    when = dose_symmetric_order(tilt_angles)
    passed = thickness_transmission(
        tilt_angles, thickness=exposure.thickness, mean_free_path=exposure.mean_free_path
    )
    series = torch.empty_like(potential)
    for i, image in enumerate(potential):
        transfer = shared.to(torch.complex64)
        if exposure.damage:
            transfer = transfer * radiation_damage(
                shape,
                pixel_size=pixel_size,
                accumulated_fluence=per_tilt * (float(when[i]) + 0.5),
                device=device,
            )
        if exposure.misalignment:
            shift = exposure.misalignment / pixel_size * torch.randn(2, generator=generator, device=device)
            transfer = transfer * _shift_phase(shape, shift)
        contrast = filter_fourier(image, transfer)
        electrons = per_tilt * pixel_size**2 * float(passed[i]) * exposure.dqe
        if exposure.snr is None:
            counts = count_electrons(electrons * (1 + contrast), generator)
            series[i] = filter_fourier(counts, mtf)
        else:
            series[i] = filter_fourier(electrons * (1 + contrast), mtf)
    if exposure.snr is not None:
        if noise is None:
            noise = torch.randn(series.shape, generator=generator, device=device)
        series = mix_noise(series, noise, snr=exposure.snr)
    return series


def _shift_phase(shape: tuple[int, int], shift_yx_px: Tensor) -> Tensor:
    """Fourier factor (``rfft2`` layout) that moves an image by a sub-pixel shift."""
    ky = torch.fft.fftfreq(shape[0], device=shift_yx_px.device)[:, None]
    kx = torch.fft.rfftfreq(shape[1], device=shift_yx_px.device)[None]
    angle = -2 * torch.pi * (ky * shift_yx_px[0] + kx * shift_yx_px[1])
    return torch.polar(torch.ones_like(angle), angle)
