"""Wiener-like deconvolution of a tomogram by its CTF, as users of Warp and IsoNet know it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryomend.ctf import Optics, contrast_transfer
from cryomend.fourier import radial_frequency

__all__ = ["deconvolution_filter", "deconvolve_tomogram"]

_POINTS = 4096


def deconvolution_filter(
    k: Tensor,
    *,
    voxel_size: float,
    defocus_um: float,
    optics: Optics,
    snr_falloff: float = 1.0,
    strength: float = 1.0,
    highpass: float = 0.02,
    phase_flipped: bool = False,
) -> Tensor:
    """Radial filter ``c / (c² + 1 / SNR)``, c the CTF with the sign that keeps protein as it was.

    Parameters
    ----------
    k : Tensor
        Frequencies in cycles per voxel.
    voxel_size : float
        Å.
    defocus_um : float
        µm, positive = underfocus.
    optics : Optics
        The microscope.
    snr_falloff, strength : float
        ``SNR(u) = h exp(-100 snr_falloff u / voxel_size) 10^(3 strength)`` with ``u = k / Nyquist``.
    highpass : float
        ``h = 1 - cos(π min(1, u / highpass))`` leaves less of the lowest frequencies.
    phase_flipped : bool
        Use |c|: phases were flipped before.

    Returns
    -------
    Tensor of float32, shape of ``k``

    Notes
    -----
    The definition of Tegunov's tom_deconv, with its names and numbers (Tegunov & Cramer 2019,
    doi:10.1038/s41592-019-0580-y), which IsoNet took over (Liu et al. 2022,
    doi:10.1038/s41467-022-33957-8).
    """
    size = 2 * _POINTS
    # one row of a large image samples the CTF along k; 1-D interpolation between its points is exact enough
    points = contrast_transfer((1, size), pixel_size=voxel_size, defocus_um=defocus_um, optics=optics)[0]
    place = (k.double() * size).clamp(max=_POINTS - 1)
    low = place.floor().long()
    points = points.double().to(k.device)
    ctf = -(points[low] * (1 - (place - low)) + points[low + 1] * (place - low))
    if phase_flipped:
        ctf = ctf.abs()
    relative = k.double() * 2
    rise = 1 - torch.cos(math.pi * (relative / highpass).clamp(max=1))
    snr = torch.exp(-100 * snr_falloff * relative / voxel_size) * 10 ** (3 * strength) * rise + 1e-6
    return (ctf / (ctf**2 + 1 / snr)).float()


def deconvolve_tomogram(
    tomogram: Tensor,
    *,
    voxel_size: float,
    defocus_um: float,
    optics: Optics,
    snr_falloff: float = 1.0,
    strength: float = 1.0,
    phase_flipped: bool = False,
) -> Tensor:
    """Filter a tomogram by `deconvolution_filter`; its mean becomes zero.

    Parameters
    ----------
    tomogram : Tensor, shape (Z, Y, X)
        Reconstruction.
    voxel_size, defocus_um, optics, snr_falloff, strength, phase_flipped
        As in `deconvolution_filter`.

    Returns
    -------
    Tensor of float32, shape of ``tomogram``
        Takes about three times the memory of the tomogram while it works.
    """
    spectrum = torch.fft.rfftn(tomogram)
    for plane, kz in enumerate(torch.fft.fftfreq(tomogram.shape[0], device=tomogram.device)):
        in_plane = radial_frequency(tomogram.shape[1:], half=True, device=tomogram.device)
        k = (in_plane.square() + kz.square()).sqrt()
        spectrum[plane] *= deconvolution_filter(
            k,
            voxel_size=voxel_size,
            defocus_um=defocus_um,
            optics=optics,
            snr_falloff=snr_falloff,
            strength=strength,
            phase_flipped=phase_flipped,
        )
    return torch.fft.irfftn(spectrum, s=tomogram.shape)
