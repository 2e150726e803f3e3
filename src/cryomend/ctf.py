"""Contrast transfer: weak-phase optics in true units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Optics", "coma_phase", "contrast_transfer", "electron_wavelength", "interaction_constant"]

_REST_ENERGY_KEV = 510.99895


@dataclass(frozen=True)
class Optics:
    """Electron optics.

    ``phase_shift`` of a phase plate in degrees; ``focal_spread`` the standard deviation of the defocus
    in Å, from energy spread, high tension and lens current; ``source_angle_mrad`` the half-angle of the
    source, where its Gaussian has fallen to 1/e; the rest in the units of the names.
    """

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07
    phase_shift: float = 0.0
    focal_spread: float = 0.0
    source_angle_mrad: float = 0.0


def electron_wavelength(voltage_kv: float) -> float:
    """Relativistic de Broglie wavelength in Å: ``h c / sqrt(E (E + 2 m c²))``."""
    return 12.398419843 / math.sqrt(voltage_kv * (voltage_kv + 2 * _REST_ENERGY_KEV))


def interaction_constant(voltage_kv: float) -> float:
    """Phase shift per projected potential in rad/(V Å).

    ``σ = 2π/(λ E) (m c² + E)/(2 m c² + E)`` (Kirkland, Advanced Computing in Electron Microscopy),
    6.526e-4 rad/(V Å) at 300 kV.
    """
    volts = 1000 * voltage_kv
    ratio = (_REST_ENERGY_KEV + voltage_kv) / (2 * _REST_ENERGY_KEV + voltage_kv)
    return 2 * math.pi / (electron_wavelength(voltage_kv) * volts) * ratio


def contrast_transfer(
    shape: tuple[int, int],
    *,
    pixel_size: float,
    defocus_um: float,
    optics: Optics,
    astigmatism_um: float = 0.0,
    astigmatism_angle: float = 0.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Contrast transfer function of an image, ``-E sin γ``: negative at low frequency at underfocus.

    Parameters
    ----------
    shape : tuple of int
        Image shape (Y, X).
    pixel_size : float
        Å.
    defocus_um : float
        Mean defocus, positive = underfocus, µm.
    optics : Optics
        Voltage, aberration, amplitude contrast, phase plate.
    astigmatism_um : float
        Half the difference of the two main defoci, µm.
    astigmatism_angle : float
        Direction of the larger defocus, degrees from X towards Y.
    device : torch.device or str, optional
        Where the result is made.

    Returns
    -------
    Tensor of float32, shape of ``rfft2``

    Raises
    ------
    ValueError
        If the pixel size is not positive or the amplitude contrast outside [0, 1].

    Notes
    -----
    ``γ = π λ Δf(φ) k² - π/2 Cs λ³ k⁴ + phase shift + asin(amplitude contrast)`` with
    ``Δf(φ) = defocus + astigmatism cos 2(φ - angle)`` (Rohou & Grigorieff 2015,
    doi:10.1016/j.jsb.2015.08.008). E holds the envelopes of partial coherence (Frank 1973; Kirkland, Advanced
    Computing in Electron Microscopy): ``exp(-(π λ Δ k²)² / 2)`` with the focal spread Δ, and
    ``exp(-(π α)² (Cs λ² k³ - Δf k)²)`` with the source's half-angle α.
    """
    if pixel_size <= 0:
        raise ValueError(f"pixel size must be positive, got {pixel_size:g} Å")
    if not 0 <= optics.amplitude_contrast <= 1:
        raise ValueError(f"amplitude contrast must lie in 0..1, got {optics.amplitude_contrast:g}")
    wavelength = electron_wavelength(optics.voltage_kv)
    squares = [part / pixel_size**2 for part in _frequency_squares(shape, torch.device(device or "cpu"))]
    twice = 2 * math.radians(astigmatism_angle)
    k2 = squares[0]
    blurred = 1e4 * defocus_um * k2  # Δf(φ) k²
    if astigmatism_um:
        along = math.cos(twice) * squares[1] + math.sin(twice) * squares[2]  # k² cos 2(φ - angle)
        blurred = blurred + 1e4 * astigmatism_um * along
    aberration = optics.spherical_aberration_mm * 1e7 * wavelength**2 * k2**2
    constant = math.radians(optics.phase_shift) + math.asin(optics.amplitude_contrast)
    transfer = -torch.sin(math.pi * wavelength * (blurred - aberration / 2) + constant)
    if optics.focal_spread or optics.source_angle_mrad:
        temporal = (math.pi * wavelength * optics.focal_spread * k2) ** 2 / 2
        slope = math.pi * 1e-3 * optics.source_angle_mrad * (aberration - blurred)
        transfer = transfer * torch.exp(-temporal - slope**2 / k2.clamp(min=1e-12))
    return transfer.float()


@lru_cache(maxsize=8)
def _frequency_squares(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """``k²``, ``k² cos 2φ`` and ``k² sin 2φ`` of every frequency, cycles per pixel; ``rfft2`` layout."""
    ky = torch.fft.fftfreq(shape[0], device=device, dtype=torch.float64)[:, None]
    kx = torch.fft.rfftfreq(shape[1], device=device, dtype=torch.float64)[None]
    return kx**2 + ky**2, kx**2 - ky**2, 2 * kx * ky


def coma_phase(
    shape: tuple[int, int],
    *,
    pixel_size: float,
    optics: Optics,
    beam_tilt_mrad_xy: tuple[float, float],
    device: torch.device | str | None = None,
) -> Tensor:
    """Fourier factor of the axial coma that a tilted beam brings in, ``exp(-2πi Cs λ² k² (k · β))``.

    Parameters
    ----------
    shape : tuple of int
        Image shape (Y, X).
    pixel_size : float
        Å.
    optics : Optics
        Voltage and aberration.
    beam_tilt_mrad_xy : pair of float
        β along X and Y; what lies at depth z' appears displaced by ``z' tan β``.
    device : torch.device or str, optional
        Where the result is made.

    Returns
    -------
    Tensor of complex64, shape of ``rfft2``

    Notes
    -----
    The odd third-order term of ``γ(k + β/λ)``; the linear one is an image shift, which alignment removes
    (Zemlin et al. 1978, doi:10.1016/S0304-3991(78)80006-0).
    """
    ky = torch.fft.fftfreq(shape[0], device=device, dtype=torch.float64)[:, None] / pixel_size
    kx = torch.fft.rfftfreq(shape[1], device=device, dtype=torch.float64)[None] / pixel_size
    aberration = optics.spherical_aberration_mm * 1e7 * electron_wavelength(optics.voltage_kv) ** 2
    along = 1e-3 * (kx * beam_tilt_mrad_xy[0] + ky * beam_tilt_mrad_xy[1])
    phase = -2 * math.pi * aberration * (kx**2 + ky**2) * along
    return torch.polar(torch.ones_like(phase), phase).to(torch.complex64)
