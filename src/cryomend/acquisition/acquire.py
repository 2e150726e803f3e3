"""Record a tilt series of a specimen: from potential in V to electrons per pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
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
from cryomend.mixing import measure_power, scale_noise
from cryomend.projection import project_density

__all__ = [
    "TiltSeries",
    "acquire_halves",
    "acquire_signal_and_noise",
    "acquire_tilt_series",
    "exposure_mtf",
    "specimen_area",
]


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
    ``exposure.snr`` holds over the `specimen_area` and inside ``exposure.snr_band``.
    """
    if exposure.snr is not None:
        signal, noise = acquire_signal_and_noise(
            density, tilt_angles, pixel_size=pixel_size, exposure=exposure, generator=generator,
            noise=noise, on_tilt=on_tilt,
        )  # fmt: skip
        return signal.add_(noise)
    series = torch.empty(len(tilt_angles), *density.shape[1:], device=density.device)
    recorded = _record(density, tilt_angles, pixel_size, exposure, generator, exposures=1)
    for i, (_, counted) in enumerate(recorded):
        series[i] = counted[0]
        on_tilt(i)
    return series


def acquire_signal_and_noise(
    density: Tensor,
    tilt_angles: NDArray[Any],
    *,
    pixel_size: float,
    exposure: Exposure,
    generator: torch.Generator,
    noise: Tensor | None = None,
    on_tilt: Callable[[int], None] = lambda tilt: None,
) -> tuple[Tensor, Tensor]:
    """Simulate a tilt series as its expected images and what counting, or noise of a given SNR, adds to them.

    Parameters
    ----------
    density, tilt_angles, pixel_size, exposure, generator, noise, on_tilt
        As in `acquire_tilt_series`.

    Returns
    -------
    signal, noise : Tensor of float32, shape (tilt, Y, X)
        Electrons per pixel; they add up to `acquire_tilt_series` of the same seed. The detector's defects
        stand still and belong to the signal.

    Raises
    ------
    ValueError
        If an angle lies outside ±90 degrees, or ``noise`` has another shape or no power.
    """
    signal = torch.empty(len(tilt_angles), *density.shape[1:], device=density.device)
    if exposure.snr is None:
        counting = torch.empty_like(signal)
        recorded = _record(density, tilt_angles, pixel_size, exposure, generator, exposures=1)
        for i, (expected, counted) in enumerate(recorded):
            signal[i], counting[i] = expected, counted[0] - expected
            on_tilt(i)
        return signal, counting
    mtf = exposure_mtf(exposure, (density.shape[1], density.shape[2]), pixel_size, density.device)
    for i, image in enumerate(_expected_counts(density, tilt_angles, pixel_size, exposure)):
        signal[i] = filter_fourier(image, mtf)
        on_tilt(i)
    if noise is None:
        noise = torch.randn(signal.shape, generator=generator, device=density.device)
    elif noise.shape != signal.shape:
        raise ValueError(f"noise {tuple(noise.shape)} for images {tuple(signal.shape)}")
    where: dict[str, Any] = {
        "band": exposure.band(pixel_size), "area": specimen_area(density, tilt_angles, exposure)
    }  # fmt: skip
    power = measure_power(signal, **where)
    if not bool((power > 0).all()):
        raise ValueError("a tilt shows nothing of the specimen, so it has no snr; count electrons instead")
    return signal, scale_noise(noise, power=power / exposure.snr, **where)


def specimen_area(density: Tensor, tilt_angles: NDArray[Any], exposure: Exposure) -> Tensor:
    """Pixels of each tilt that show the specimen.

    Rays that run through the volume for at least half of the longest way through it at that tilt. On a slab
    these are the rays that cross its mid-plane inside the volume, however much ice lies above and below.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        Only its shape and device matter.
    tilt_angles : array, shape (tilt,)
        Degrees.
    exposure : Exposure
        Tilt about X, and where the images fall on the detector; local motion and beam tilt are left out.

    Returns
    -------
    Tensor of bool, shape (tilt, Y, X)

    Raises
    ------
    ValueError
        If an angle lies outside ±90 degrees.
    """
    depth, height, width = density.shape
    if exposure.x_tilt:
        solid = rotate_about_x(torch.ones(depth, height, width, device=density.device), exposure.x_tilt)
    else:
        solid = torch.ones(depth, 1, width, device=density.device)  # every plane along Y looks the same
    area = torch.empty(len(tilt_angles), height, width, dtype=torch.bool, device=density.device)
    for i, angle in enumerate(tilt_angles):
        path = project_density(solid, np.array([angle]))[0]
        shown = (path / path.max()).expand(height, width)
        if exposure.placements:
            shown = place_image(shown, exposure.placements[i])
        area[i] = shown >= 0.499  # a plateau of exactly half counts, whatever the rounding
    return area


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
    halves = torch.empty(2, len(tilt_angles), *density.shape[1:], device=density.device)
    recorded = _record(density, tilt_angles, pixel_size, exposure, generator, exposures=2)
    for i, (_, counted) in enumerate(recorded):
        halves[:, i] = counted
        on_tilt(i)
    return TiltSeries(halves[0] + halves[1], halves[0], halves[1])


_HOT = 20.0  # counts of a hot pixel over the mean


def _record(
    density: Tensor,
    tilt_angles: NDArray[Any],
    pixel_size: float,
    exposure: Exposure,
    generator: torch.Generator,
    *,
    exposures: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per tilt the image (Y, X) expected of each of several exposures alike, and these (exposure, Y, X)."""
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
    for image in _expected_counts(density, tilt_angles, pixel_size, exposure):
        expected = filter_fourier(image, before) / exposures
        extra = _HOT * float(expected.mean()) * hot
        counted = [count_electrons(expected, generator) for _ in range(exposures)]
        shown = [filter_fourier(counts, after) * gain + extra for counts in (expected, *counted)]
        yield shown[0], torch.stack(shown[1:])


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
