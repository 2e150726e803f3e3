"""Record a tilt series of a specimen: from potential in V to electrons per pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.acquisition.defocus_gradient import transfer_specimen
from cryomend.acquisition.detector import count_electrons, counting_filters, detector_mtf, draw_defects
from cryomend.acquisition.exposure import Exposure, Lens, thickness_transmission
from cryomend.acquisition.placement import Placement, place_image, rotate_about_x
from cryomend.ctf import interaction_constant
from cryomend.dose import radiation_damage
from cryomend.fourier import filter_fourier, shift_phase
from cryomend.mixing import mix_noise

__all__ = ["TiltSeries", "acquire_halves", "acquire_tilt_series", "exposure_mtf"]


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
    on_tilt: Callable[[int], None] = lambda tilt: None,
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
    on_tilt : callable
        Told the number of each tilt when it is done.

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
    middle of each exposure. What the detector does to signal and noise stands in `counting_filters`.
    """
    if exposure.snr is None:
        recorded = _record(
            density, tilt_angles, pixel_size, exposure, generator, exposures=1, on_tilt=on_tilt
        )
        return recorded[0]
    mtf = exposure_mtf(exposure, (density.shape[1], density.shape[2]), pixel_size, density.device)
    images = []
    for i, image in enumerate(_expected_counts(density, tilt_angles, pixel_size, exposure)):
        images.append(filter_fourier(image, mtf))
        on_tilt(i)
    series = torch.stack(images)
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
    density, tilt_angles, pixel_size, exposure, generator, on_tilt
        As in `acquire_tilt_series`; ``exposure.snr`` plays no part.

    Returns
    -------
    TiltSeries

    Raises
    ------
    ValueError
        If an angle lies outside ±90 degrees.
    """
    even, odd = _record(density, tilt_angles, pixel_size, exposure, generator, exposures=2, on_tilt=on_tilt)
    return TiltSeries(even + odd, even, odd)


_HOT = 20.0  # counts of a hot pixel over the mean


def _record(
    density: Tensor,
    tilt_angles: NDArray[Any],
    pixel_size: float,
    exposure: Exposure,
    generator: torch.Generator,
    *,
    exposures: int,
    on_tilt: Callable[[int], None],
) -> Tensor:
    """Count the electrons of each tilt in several exposures alike, (exposure, tilt, Y, X)."""
    shape = (density.shape[1], density.shape[2])
    before, after = counting_filters(
        exposure_mtf(exposure, shape, pixel_size, density.device),
        shape,
        noise_power=exposure.noise_power,
        dqe_nyquist=exposure.dqe_nyquist,
    )
    gain, hot = draw_defects(
        shape, gain_error=exposure.gain_error, hot_per_million=exposure.hot_pixels, generator=generator
    )
    recorded = torch.empty(exposures, len(tilt_angles), *shape, device=density.device)
    for i, image in enumerate(_expected_counts(density, tilt_angles, pixel_size, exposure)):
        expected = filter_fourier(image, before) / exposures
        extra = _HOT * float(expected.mean()) * hot
        for part in recorded:
            part[i] = filter_fourier(count_electrons(expected, generator), after) * gain + extra
        on_tilt(i)
    return recorded


def exposure_mtf(
    exposure: Exposure, shape: tuple[int, int], pixel_size: float, device: torch.device
) -> Tensor:
    """Modulation transfer of an exposure's detector at a pixel size in Å, shape of ``rfft2``."""
    binning = 1.0 if exposure.detector_pixel is None else pixel_size / exposure.detector_pixel
    return detector_mtf(
        shape, at_nyquist=exposure.mtf_nyquist, curve=exposure.mtf, binning=binning, device=device
    )


def _expected_counts(
    density: Tensor, tilt_angles: NDArray[Any], pixel_size: float, exposure: Exposure
) -> Iterator[Tensor]:
    """Electrons expected in each pixel, tilt by tilt."""
    shape = (density.shape[1], density.shape[2])
    specimen = rotate_about_x(density, exposure.x_tilt) if exposure.x_tilt else density
    specimen = specimen.permute(0, 2, 1).contiguous().permute(0, 2, 1)  # rows along Y, for the projection
    _, doses = exposure.timing(tilt_angles)
    prior, shares = exposure.prior_doses(tilt_angles), exposure.shares(tilt_angles)
    passed = thickness_transmission(
        tilt_angles, thickness=exposure.thickness, mean_free_path=exposure.mean_free_path
    )
    for i, lens in enumerate(exposure.lenses(tilt_angles)):
        spectrum = _transferred(specimen, float(tilt_angles[i]), pixel_size, exposure, lens)
        if exposure.damage:
            spectrum = spectrum * radiation_damage(
                shape,
                pixel_size=pixel_size,
                accumulated_fluence=float(prior[i] + doses[i] / 2),
                voltage_kv=exposure.optics.voltage_kv,
                device=density.device,
            )
        contrast = _placed(spectrum, shape, exposure, i, float(shares[i]) * exposure.motion / pixel_size)
        yield float(doses[i]) * pixel_size**2 * float(passed[i]) * exposure.dqe * (1 + contrast)


def _transferred(
    specimen: Tensor, tilt_angle: float, pixel_size: float, exposure: Exposure, lens: Lens
) -> Tensor:
    """Spectrum of the contrast of one tilt, twice the phase times the CTF."""
    spectrum = transfer_specimen(
        specimen,
        tilt_angle,
        pixel_size=pixel_size,
        defocus_um=lens.defocus_um,
        optics=replace(exposure.optics, phase_shift=lens.phase_shift),
        astigmatism_um=lens.astigmatism_um,
        astigmatism_angle=lens.astigmatism_angle,
        defocus_hand=exposure.defocus_hand,
        beam_tilt_mrad_xy=exposure.beam_tilt_mrad_xy,
    )
    return spectrum * (2 * interaction_constant(exposure.optics.voltage_kv))


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
