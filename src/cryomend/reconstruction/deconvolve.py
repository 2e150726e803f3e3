"""Wiener-like deconvolution of a tomogram by its CTF, as users of Warp and IsoNet know it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryomend.ctf import Optics, contrast_transfer
from cryomend.fourier import radial_frequency

__all__ = ["deconvolution_filter", "deconvolve_tomogram"]

_POINTS = 4096  # of the filter from 0 to Nyquist; between them it is interpolated
_PLANES = 8  # transformed together, so that the buffers of a transform stay small


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
        Frequencies in cycles per voxel; beyond Nyquist, in the corners, the filter stays what it is there.
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
    The definition of Tegunov's tom_deconv (Tegunov & Cramer 2019, doi:10.1038/s41592-019-0580-y), with its
    names and numbers, SNR + 1e-6 included. At strength 1 the SNR is taken to be 2000 where the highpass
    lets go (2 above ``highpass``, times 1000); with fall-off 1 and 10 Å voxels it is lower by e^10 at
    Nyquist, 20 Å: it falls by a factor e per 1/200 of 1/Å whatever the voxel size. IsoNet
    (Liu et al. 2022, doi:10.1038/s41467-022-33957-8) has the same ``snrfalloff`` but raises 10 to
    ``deconvstrength`` itself: its 1 is 1/3 here.
    """
    u = torch.linspace(0, 1, _POINTS + 1, dtype=torch.float64)
    row = contrast_transfer((1, 2 * _POINTS), pixel_size=voxel_size, defocus_um=defocus_um, optics=optics)
    ctf = -row[0].double()
    if phase_flipped:
        ctf = ctf.abs()
    rise = 1 - torch.cos(math.pi * (u / highpass).clamp(max=1))
    snr = torch.exp(-100 * snr_falloff * u / voxel_size) * 10 ** (3 * strength) * rise + 1e-6
    points = (ctf / (ctf**2 + 1 / snr)).float().to(k.device)
    place = (k.float() * (2 * _POINTS)).clamp(max=_POINTS)
    low = place.long().clamp(max=_POINTS - 1)
    return torch.lerp(points[low], points[low + 1], place - low)


def deconvolve_tomogram(
    tomogram: Tensor,
    *,
    voxel_size: float,
    defocus_um: float,
    optics: Optics,
    snr_falloff: float = 1.0,
    strength: float = 1.0,
    highpass: float = 0.02,
    phase_flipped: bool = False,
) -> Tensor:
    """Filter a tomogram by `deconvolution_filter`; its mean becomes zero.

    Parameters
    ----------
    tomogram : Tensor, shape (Z, Y, X)
        Reconstruction.
    voxel_size, defocus_um, optics, snr_falloff, strength, highpass, phase_flipped
        As in `deconvolution_filter`.

    Returns
    -------
    Tensor of float32, shape of ``tomogram``
        Beside it and ``tomogram`` a spectrum of the same size is held; opposite faces are neighbours to
        the Fourier transform.
    """
    depth, height, width = tomogram.shape
    kz = torch.fft.fftfreq(depth, device=tomogram.device)
    in_plane = radial_frequency((height, width), half=True, device=tomogram.device).square()
    spectrum = torch.empty(depth, *in_plane.shape, dtype=torch.complex64, device=tomogram.device)
    for planes in _blocks(depth):
        spectrum[planes] = torch.fft.rfft2(tomogram[planes].float())
    for rows in _blocks(height):
        block = torch.fft.fft(spectrum[:, rows], dim=0)
        block *= deconvolution_filter(
            (in_plane[rows] + kz.square()[:, None, None]).sqrt(),
            voxel_size=voxel_size,
            defocus_um=defocus_um,
            optics=optics,
            snr_falloff=snr_falloff,
            strength=strength,
            highpass=highpass,
            phase_flipped=phase_flipped,
        )
        spectrum[:, rows] = torch.fft.ifft(block, dim=0)
    filtered = torch.empty(depth, height, width, device=tomogram.device)
    for planes in _blocks(depth):
        filtered[planes] = torch.fft.irfft2(spectrum[planes], s=(height, width))
    return filtered


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _PLANES, count)) for start in range(0, count, _PLANES)]
