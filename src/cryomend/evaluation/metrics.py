"""Scores of one volume against another, and of areas inside one volume.

The last stage of the pipeline; Fourier shell correlation is in ``fsc.py``. Volumes are
(Z, Y, X) tensors in any grey-level unit; where a score depends on the unit, the volume is
first scaled to [0, 1] by its own minimum and maximum, as the docstring then says.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "CnrVariant",
    "Region",
    "contrast_to_noise",
    "correlation",
    "equivalent_number_of_looks",
    "psnr",
    "scale_to_unit",
    "ssim",
]

Region = tuple[slice, slice, slice]
CnrVariant = Literal["pooled", "sum"]

SSIM_WINDOW = 7  # voxels; the default of scikit-image
SSIM_SLAB = 32  # planes at a time, so that a 512 cube needs little memory beyond itself


def wide_dtype(device: torch.device) -> torch.dtype:
    """Widest floating type of a device, for sums over many voxels (MPS has no float64)."""
    return torch.float32 if device.type == "mps" else torch.float64


def _require_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")


def scale_to_unit(volume: Tensor) -> Tensor:
    """Scale a volume to [0, 1] by its own minimum and maximum.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)

    Returns
    -------
    Tensor, shape of ``volume``

    Raises
    ------
    ValueError
        If the volume is constant.
    """
    low, high = torch.aminmax(volume)
    if not high > low:
        raise ValueError(f"a constant volume (all {low.item():g}) cannot be scaled to [0, 1]")
    return (volume - low) / (high - low)


def psnr(volume: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio of a volume against the truth.

    Both are scaled to [0, 1], each by its own minimum and maximum, so MAX = 1.

    Parameters
    ----------
    volume, truth : Tensor, shape (Z, Y, X)

    Returns
    -------
    float
        Decibels; infinite if the two scaled volumes are equal.

    Raises
    ------
    ValueError
        If the shapes differ or a volume is constant.

    Notes
    -----
    ``10 log10(MAX^2 / MSE)``.
    """
    _require_same_shape(volume, truth)
    difference = scale_to_unit(volume) - scale_to_unit(truth)
    error = (difference**2).mean(dtype=wide_dtype(volume.device)).item()
    return -10 * math.log10(error) if error > 0 else math.inf


def _window_mean(block: Tensor) -> Tensor:
    """Mean over every whole cubic window of a block, one axis at a time."""
    for axis in range(3):
        kernel = [SSIM_WINDOW if i == axis else 1 for i in range(3)]
        block = torch.nn.functional.avg_pool3d(block[None, None], kernel, stride=1)[0, 0]
    return block


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Local structural similarity of two blocks scaled to [0, 1], at every whole window."""
    c1, c2 = 0.01**2, 0.03**2  # (K L)^2 with K1 = 0.01, K2 = 0.03, L = 1
    n = SSIM_WINDOW**3
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variances = (_window_mean(a * a) - mean_a**2 + _window_mean(b * b) - mean_b**2) * n / (n - 1)
    covariance = (_window_mean(a * b) - mean_a * mean_b) * n / (n - 1)
    structure = (2 * covariance + c2) / (variances + c2)
    return structure * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)


def ssim(volume: Tensor, truth: Tensor) -> float:
    """Mean structural similarity of a volume and the truth.

    Both are scaled to [0, 1], each by its own minimum and maximum. The window is a uniform
    cube of 7 voxels with the sample (n - 1) covariance, and windows that leave the volume
    are left out: the defaults of scikit-image.

    Parameters
    ----------
    volume, truth : Tensor, shape (Z, Y, X)
        At least 7 voxels along each axis.

    Returns
    -------
    float
        At most 1, which only equal scaled volumes reach.

    Raises
    ------
    ValueError
        If the shapes differ, a volume is constant or an axis is shorter than the window.

    References
    ----------
    Wang et al. 2004, eq. 13 with K1 = 0.01, K2 = 0.03, L = 1; doi:10.1109/TIP.2003.819861.
    """
    _require_same_shape(volume, truth)
    if min(volume.shape) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs {SSIM_WINDOW} voxels along each axis, got shape {tuple(volume.shape)}")
    a, b = scale_to_unit(volume), scale_to_unit(truth)
    wide = wide_dtype(volume.device)
    total, count = 0.0, 0
    for start in range(0, a.shape[0] - SSIM_WINDOW + 1, SSIM_SLAB):
        block = slice(start, start + SSIM_SLAB + SSIM_WINDOW - 1)
        local = _similarity(a[block].to(wide), b[block].to(wide))
        total, count = total + local.sum().item(), count + local.numel()
    return total / count


def correlation(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Pearson correlation of two arrays.

    Parameters
    ----------
    a, b : Tensor, equal shapes
    mask : Tensor of bool, shape of ``a``, optional
        Compare only where True.

    Returns
    -------
    float
        In [-1, 1].

    Raises
    ------
    ValueError
        If the shapes differ or one array is constant where compared.
    """
    _require_same_shape(a, b)
    if mask is not None:
        _require_same_shape(a, mask)
        a, b = a[mask], b[mask]
    wide = wide_dtype(a.device)
    a, b = a - a.mean(dtype=wide).to(a.dtype), b - b.mean(dtype=wide).to(b.dtype)
    cross, power_a, power_b = ((x * y).sum(dtype=wide).item() for x, y in ((a, b), (a, a), (b, b)))
    if not (power_a > 0 and power_b > 0):
        raise ValueError("the correlation with a constant array is not defined")
    return max(-1.0, min(1.0, cross / math.sqrt(power_a * power_b)))


def _region_statistics(volume: Tensor, region: Region) -> tuple[float, float]:
    """Mean and population variance of the voxels in a region."""
    voxels = volume[region].to(wide_dtype(volume.device))
    if voxels.numel() == 0:
        raise ValueError(f"the region {region} holds no voxel of a volume of shape {tuple(volume.shape)}")
    return voxels.mean().item(), voxels.var(correction=0).item()


def contrast_to_noise(
    volume: Tensor, foreground: Region, background: Region, variant: CnrVariant = "pooled"
) -> float:
    """Contrast-to-noise ratio between two areas of a volume.

    The ratio does not depend on the scaling or the sign of the grey levels.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
    foreground, background : tuple of three slices
        Ranges of voxels along z, y, x.
    variant : {"pooled", "sum"}
        What the contrast is divided by, see Notes.

    Returns
    -------
    float
        Never negative; infinite between two flat areas of different level, not a number
        between two of the same.

    Raises
    ------
    ValueError
        If an area holds no voxel or the variant is unknown.

    Notes
    -----
    With means m and population variances v of the foreground (f) and background (b),
    ``pooled`` is ``|mf - mb| / sqrt((vf + vb) / 2)`` and ``sum`` is ``|mf - mb| / sqrt(vf + vb)``,
    smaller by the square root of 2. Publications use both, often without saying which.
    """
    if variant not in ("pooled", "sum"):
        raise ValueError(f"unknown CNR variant {variant!r}; use 'pooled' or 'sum'")
    mean_f, variance_f = _region_statistics(volume, foreground)
    mean_b, variance_b = _region_statistics(volume, background)
    noise = math.sqrt((variance_f + variance_b) / (2 if variant == "pooled" else 1))
    if noise == 0:
        return math.inf if mean_f != mean_b else math.nan
    return abs(mean_f - mean_b) / noise


def equivalent_number_of_looks(volume: Tensor, background: Region) -> float:
    """Equivalent number of looks: how flat a background area is.

    The volume is scaled to [0, 1] by its own minimum and maximum first, because the number
    depends on where zero is: it changes when the contrast is inverted or an outlier added.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
    background : tuple of three slices
        Ranges of voxels along z, y, x.

    Returns
    -------
    float
        ``m^2 / v`` with the mean m and the population variance v of the area; infinite if flat.

    Raises
    ------
    ValueError
        If the volume is constant or the area holds no voxel.
    """
    low, high = (x.item() for x in torch.aminmax(volume))
    if not high > low:
        raise ValueError(f"a constant volume (all {low:g}) cannot be scaled to [0, 1]")
    mean, variance = _region_statistics(volume, background)
    return (mean - low) ** 2 / variance if variance > 0 else math.inf
