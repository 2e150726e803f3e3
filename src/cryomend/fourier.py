"""Frequency grids and Fourier filters shared by all rooms.

Frequencies are in cycles per voxel (Nyquist 0.5), un-shifted layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "filter_fourier",
    "gaussian_lowpass",
    "radial_frequency",
    "radial_mean",
    "resample_fourier",
    "shell_index",
    "shift_phase",
]


def radial_frequency(
    shape: Sequence[int], *, half: bool = False, device: torch.device | str | None = None
) -> Tensor:
    """Distance of every Fourier voxel from the origin.

    Parameters
    ----------
    shape : sequence of int
        Real-space shape, any number of axes.
    half : bool
        Layout of ``rfftn`` (last axis halved) instead of ``fftn``.
    device : torch.device or str, optional
        Where the grid is made.

    Returns
    -------
    Tensor of float32
        ``|k|`` in cycles per voxel, un-shifted layout.
    """
    squared = torch.zeros((), device=device)
    for axis, n in enumerate(shape):
        last = half and axis == len(shape) - 1
        k = torch.fft.rfftfreq(n, device=device) if last else torch.fft.fftfreq(n, device=device)
        squared = squared + (k**2).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return squared.sqrt()


def filter_fourier(array: Tensor, transfer: Tensor) -> Tensor:
    """Multiply the Fourier transform of the last axes by a transfer function.

    Parameters
    ----------
    array : Tensor, shape (..., *S)
        Real data.
    transfer : Tensor, shape of ``rfftn`` of S (or broadcastable to it)
        Transfer function; its number of axes says how many axes are transformed.

    Returns
    -------
    Tensor, shape of ``array``
    """
    dims = tuple(range(-transfer.ndim, 0))
    shape = array.shape[-transfer.ndim :]
    return torch.fft.irfftn(torch.fft.rfftn(array, dim=dims) * transfer, s=shape, dim=dims)


def gaussian_lowpass(array: Tensor, sigma: float, *, ndim: int = 3) -> Tensor:
    """Blur the last ``ndim`` axes by a Gaussian of standard deviation ``sigma`` voxels (periodic)."""
    k = radial_frequency(array.shape[-ndim:], half=True, device=array.device)
    return filter_fourier(array, torch.exp(-2 * (math.pi * sigma * k) ** 2))


def shell_index(
    shape: Sequence[int], *, half: bool = False, device: torch.device | str | None = None
) -> Tensor:
    """Number of the Fourier shell of every voxel; shells are one Fourier voxel of the smallest axis wide.

    Returns
    -------
    Tensor of int64
        0 at the origin, ``min(shape) // 2`` at Nyquist; corners beyond Nyquist have larger numbers.
    """
    return (radial_frequency(shape, half=half, device=device) * min(shape)).round().long()


def radial_mean(values: Tensor, shells: Tensor, n_shells: int) -> Tensor:
    """Mean of ``values`` in each of the first ``n_shells`` shells; 0 where a shell is empty."""
    index = shells.flatten().clamp(max=n_shells)
    total = torch.zeros(n_shells + 1, dtype=torch.float64, device=values.device)
    count = torch.zeros_like(total)
    total.index_add_(0, index, values.flatten().double())
    count.index_add_(0, index, torch.ones_like(index, dtype=torch.float64))
    return (total / count.clamp(min=1))[:n_shells].float()


def resample_fourier(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Give images of one field more or fewer pixels by padding or cropping their Fourier transform.

    Parameters
    ----------
    images : Tensor, shape (..., Y, X)
        Periodic; centre at pixel ``n // 2``, which stays on the centre.
    shape : tuple of int
        Pixels (Y, X) of the result.

    Returns
    -------
    Tensor, shape (..., *shape)
        Grey levels keep their mean; every frequency that both grids have keeps its amplitude, but the new
        Nyquist of a cropped even side half of it.

    Raises
    ------
    ValueError
        If ``shape`` is not positive.
    """
    if min(shape) < 1:
        raise ValueError(f"images have a positive number of pixels, got {shape}")
    old = images.shape[-2:]
    centred = torch.fft.ifftshift(images, dim=(-2, -1))  # the centre becomes the origin, so no phase is lost
    spectrum = torch.fft.fftshift(torch.fft.fft2(centred), dim=(-2, -1))
    low = [m // 2 - n // 2 for n, m in zip(old, shape, strict=True)]  # negative where it is cropped
    high = [m - n - start for n, m, start in zip(old, shape, low, strict=True)]
    spectrum = torch.nn.functional.pad(spectrum, (low[1], high[1], low[0], high[0]))
    resampled = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real
    return torch.fft.fftshift(resampled, dim=(-2, -1)) * (shape[0] * shape[1] / (old[0] * old[1]))


def shift_phase(shape: tuple[int, int], shift_xy_px: Sequence[float], device: torch.device) -> Tensor:
    """Fourier factor (``rfft2`` layout) that moves an image by a sub-pixel shift."""
    ky = torch.fft.fftfreq(shape[0], device=device)[:, None]
    kx = torch.fft.rfftfreq(shape[1], device=device)[None]
    angle = -2 * math.pi * (kx * shift_xy_px[0] + ky * shift_xy_px[1])
    return torch.polar(torch.ones_like(angle), angle)
