"""Record a tilt series of a specimen: from potential in V to electrons per pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.acquisition.defocus_gradient import shift_phase, transfer_specimen
from cryomend.acquisition.detector import count_electrons, detector_mtf, draw_defects
from cryomend.acquisition.exposure import Exposure, thickness_transmission
from cryomend.acquisition.placement import Placement, place_image, rotate_about_x
from cryomend.ctf import interaction_constant
from cryomend.dose import radiation_damage
from cryomend.fourier import filter_fourier
from cryomend.mixing import mix_noise

__all__ = ["TiltSeries", "acquire_halves", "acquire_tilt_series"]


@dataclass(frozen=True)
class TiltSeries:
    """Images (tilt, Y, X) in electrons per pixel; those of the even and odd frames add up to them."""

    images: Tensor
    even: Tensor
    odd: Tensor


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
        Degrees, in the order of the images.
    pixel_size : float
        Å, equal to the voxel size.
    exposure : Exposure
        Optics, electrons, detector, all that was drawn.
    generator : torch.Generator
        Source of the counting noise and the detector's defects, on the device of ``density``.
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
    ``CTF = -sin γ``, every depth with its own defocus (`transfer_specimen`). Damage is that of the
    middle of each exposure. The MTF acts on the signal; on the counting noise as well (DQE flat in
    frequency) or not (``noise_power = "white"``: DQE falls as MTF²).
    """
    if exposure.snr is None:
        return acquire_halves(
            density, tilt_angles, pixel_size=pixel_size, exposure=exposure, generator=generator
        ).images
    expected = _expected_counts(density, tilt_angles, pixel_size, exposure)
    mtf = _mtf(exposure, (density.shape[1], density.shape[2]), pixel_size, density.device)
    series = torch.stack([filter_fourier(image, mtf) for image in expected(range(len(tilt_angles)))])
    if noise is None:
        noise = torch.randn(series.shape, generator=generator, device=density.device)
    return mix_noise(series, noise, snr=exposure.snr)


def acquire_halves(
    density: Tensor,
    tilt_angles: NDArray[Any],
    *,
    pixel_size: float,
    exposure: Exposure,
    generator: torch.Generator,
    on_tilt: Callable[[int], None] = lambda tilt: None,
) -> TiltSeries:
    """Record a tilt series together with its even and odd frames.

    Half of the electrons fall into each, counted independently: a sum of two Poisson numbers is one.

    Parameters
    ----------
    density, tilt_angles, pixel_size, exposure, generator
        As in `acquire_tilt_series`; ``exposure.snr`` plays no part.
    on_tilt : callable
        Told the number of each tilt when it is done.

    Returns
    -------
    TiltSeries

    Raises
    ------
    ValueError
        If an angle lies outside ±90 degrees.
    """
    shape = (density.shape[1], density.shape[2])
    mtf = _mtf(exposure, shape, pixel_size, density.device)
    gain, hot = draw_defects(
        shape, gain_error=exposure.gain_error, hot_per_million=exposure.hot_pixels, generator=generator
    )
    halves = torch.empty(2, len(tilt_angles), *shape, device=density.device)
    expected = _expected_counts(density, tilt_angles, pixel_size, exposure)
    for i, image in enumerate(expected(range(len(tilt_angles)))):
        if exposure.noise_power == "white":
            image = filter_fourier(image, mtf)
        for half in range(2):
            counts = count_electrons(image / 2, generator)
            if exposure.noise_power == "mtf":
                counts = filter_fourier(counts, mtf)
            counts = counts * gain
            halves[half, i] = torch.where(hot, counts + _HOT * float(image.mean()) / 2, counts)
        on_tilt(i)
    return TiltSeries(halves[0] + halves[1], halves[0], halves[1])


_HOT = 20.0  # counts of a hot pixel over the mean


def _mtf(exposure: Exposure, shape: tuple[int, int], pixel_size: float, device: torch.device) -> Tensor:
    binning = 1.0 if exposure.detector_pixel is None else pixel_size / exposure.detector_pixel
    return detector_mtf(
        shape, at_nyquist=exposure.mtf_nyquist, curve=exposure.mtf, binning=binning, device=device
    )


def _expected_counts(
    density: Tensor, tilt_angles: NDArray[Any], pixel_size: float, exposure: Exposure
) -> Callable[[range], Any]:
    """A generator of the electrons expected in each pixel of the tilts of a range."""
    shape = (density.shape[1], density.shape[2])
    specimen = rotate_about_x(density, exposure.x_tilt) if exposure.x_tilt else density
    _, doses = exposure.timing(tilt_angles)
    prior = exposure.prior_doses(tilt_angles)
    passed = thickness_transmission(
        tilt_angles, thickness=exposure.thickness, mean_free_path=exposure.mean_free_path
    )

    def images(tilts: range) -> Any:
        for i in tilts:
            spectrum = transfer_specimen(
                specimen,
                float(tilt_angles[i]),
                pixel_size=pixel_size,
                defocus_um=exposure.defocus_um,
                optics=exposure.optics,
                astigmatism_um=exposure.astigmatism_um,
                astigmatism_angle=exposure.astigmatism_angle,
                defocus_hand=exposure.defocus_hand,
                beam_tilt_mrad_xy=exposure.beam_tilt_mrad_xy,
            ) * (2 * interaction_constant(exposure.optics.voltage_kv))
            middle = float(prior[i] + doses[i] / 2)
            if exposure.damage:
                spectrum = spectrum * radiation_damage(
                    shape,
                    pixel_size=pixel_size,
                    accumulated_fluence=middle,
                    voltage_kv=exposure.optics.voltage_kv,
                    device=density.device,
                )
            share = middle / max(float(doses.sum()), 1e-12)
            contrast = _placed(spectrum, shape, exposure, i, share * exposure.motion / pixel_size)
            electrons = float(doses[i]) * pixel_size**2 * float(passed[i]) * exposure.dqe
            yield electrons * (1 + contrast)

    return images


def _placed(
    spectrum: Tensor, shape: tuple[int, int], exposure: Exposure, tilt: int, motion_px: float
) -> Tensor:
    """The contrast where it falls on the detector; a mere shift is made in Fourier space."""
    placement = exposure.placements[tilt] if exposure.placements else Placement()
    if placement.rotation == 0 and placement.magnification == 1 and motion_px == 0:
        if any(placement.shift_xy):
            spectrum = spectrum * shift_phase(shape, placement.shift_xy, spectrum.device)
        return torch.fft.irfft2(spectrum, s=shape)
    displacement = _motion(exposure.motion_field, shape) * motion_px if motion_px else None
    return place_image(torch.fft.irfft2(spectrum, s=shape), placement, displacement_xy=displacement)


def _motion(coefficients: tuple[float, ...], shape: tuple[int, int]) -> Tensor:
    """A smooth displacement field (Y, X, 2) of second order, at most 1 anywhere."""
    y, x = torch.linspace(-1, 1, shape[0])[:, None], torch.linspace(-1, 1, shape[1])[None]
    terms = [x + 0 * y, y + 0 * x, x * y, x**2 + 0 * y, y**2 + 0 * x]
    values = torch.tensor(coefficients).reshape(2, 5)
    pattern = torch.stack([torch.stack(terms, -1) @ row for row in values], dim=-1)
    return pattern / pattern.norm(dim=-1).max().clamp(min=1e-9)
