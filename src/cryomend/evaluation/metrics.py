"""Scores of one volume against another, and of areas inside one volume.

The last stage of the pipeline; Fourier shell correlation is in ``fsc.py``. Volumes are
(Z, Y, X) tensors in any grey-level unit; where a score depends on the unit, the volume is
first scaled to [0, 1] by its own minimum and maximum, as the docstring then says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "CnrVariant",
    "EnlVariant",
    "Region",
    "contrast_to_noise",
    "correlation",
    "equivalent_number_of_looks",
    "grey_limits",
    "psnr",
    "scale_to_unit",
    "ssim",
]

Region = tuple[slice, slice, slice]
CnrVariant = Literal["pooled", "sum"]
EnlVariant = Literal["unit", "stored"]

SSIM_WINDOW = 7  # voxels; the default of scikit-image
SSIM_TILE = 16  # windows along z and y at a time: the float64 copies of 16 x 16 rows stay in the cache
BLOCK_VOXELS = 2**18  # voxels summed at a time, for the same reason


def wide_dtype(device: torch.device) -> torch.dtype:
    """Widest floating type of a device, for sums over many voxels (MPS has no float64)."""
    return torch.float32 if device.type == "mps" else torch.float64


def _require_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")


def _blocks(*volumes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Walk through equally shaped arrays a few rows at a time, in the widest floating type."""
    flat = [v.reshape(len(v), -1) if v.ndim > 1 else v.reshape(-1, 1) for v in volumes]
    step = max(1, BLOCK_VOXELS // max(1, flat[0].shape[1]))
    wide = wide_dtype(volumes[0].device)
    for start in range(0, len(flat[0]), step):
        yield tuple(v[start : start + step].to(wide) for v in flat)


def grey_limits(volume: Tensor) -> tuple[float, float]:
    """Least and greatest grey level of a volume: what becomes 0 and 1 when it is scaled.

    Raises
    ------
    ValueError
        If the volume is constant.
    """
    low, high = (level.item() for level in torch.aminmax(volume))
    if not high > low:
        raise ValueError(f"a constant volume (all {low:g}) cannot be scaled to [0, 1]")
    return low, high


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
    low, high = grey_limits(volume)
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
    ``10 log10(MAX^2 / MSE)``, scaled and summed in float64 whatever the type of the volumes.
    """
    _require_same_shape(volume, truth)
    (low_a, high_a), (low_b, high_b) = grey_limits(volume), grey_limits(truth)
    error = 0.0
    for a, b in _blocks(volume, truth):
        difference = a.sub(low_a).div_(high_a - low_a).sub_(b.sub(low_b).div_(high_b - low_b))
        error += difference.square_().sum().item()
    error /= volume.numel()
    return -10 * math.log10(error) if error > 0 else math.inf


def _window_sum(blocks: Tensor) -> Tensor:
    """Sum over every whole window of blocks (block, Z, Y, X), one axis at a time: 7 voxels are 4 + 2 + 1."""
    for axis in (1, 2, 3):
        n = blocks.shape[axis]
        two = blocks.narrow(axis, 0, n - 1) + blocks.narrow(axis, 1, n - 1)
        four = two.narrow(axis, 0, n - 3) + two.narrow(axis, 2, n - 3)
        windows = n - SSIM_WINDOW + 1
        one = blocks.narrow(axis, 6, windows)
        blocks = four.narrow(axis, 0, windows).add(two.narrow(axis, 4, windows)).add_(one)
    return blocks


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    """Local structural similarity of two blocks scaled to [0, 1], at every whole window."""
    c1, c2 = 0.01**2, 0.03**2  # (K L)^2 with K1 = 0.01, K2 = 0.03, L = 1
    n = SSIM_WINDOW**3
    mean_a, mean_b, squares, product = _window_sum(torch.stack([a, b, a * a + b * b, a * b])).div_(n)
    mean_product, mean_squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    unbiased = n / (n - 1)
    covariances = (product - mean_product).mul_(2 * unbiased).add_(c2)
    variances = (squares - mean_squares).mul_(unbiased).add_(c2)
    return covariances.mul_(mean_product.mul_(2).add_(c1)).div_(variances.mul_(mean_squares.add_(c1)))


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
    (low_a, high_a), (low_b, high_b) = grey_limits(volume), grey_limits(truth)
    wide = wide_dtype(volume.device)
    total, count = 0.0, 0
    for z in range(0, volume.shape[0] - SSIM_WINDOW + 1, SSIM_TILE):
        for y in range(0, volume.shape[1] - SSIM_WINDOW + 1, SSIM_TILE):
            tile = tuple(slice(i, i + SSIM_TILE + SSIM_WINDOW - 1) for i in (z, y))
            a = volume[tile].to(wide).sub(low_a).div_(high_a - low_a)
            b = truth[tile].to(wide).sub(low_b).div_(high_b - low_b)
            local = _similarity(a, b)
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
    mean_a, mean_b = a.mean(dtype=wide), b.mean(dtype=wide)
    cross = power_a = power_b = 0.0
    for x, y in _blocks(a, b):
        x, y = x - mean_a, y - mean_b
        cross += (x * y).sum().item()
        power_a += x.square_().sum().item()
        power_b += y.square_().sum().item()
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


def equivalent_number_of_looks(volume: Tensor, background: Region, variant: EnlVariant = "unit") -> float:
    """Equivalent number of looks: how flat a background area is.

    The number depends on where zero is, so the published one is taken on the volume scaled to [0, 1] by
    its own minimum and maximum: it changes when the contrast is inverted or an outlier added. On the grey
    levels as stored it changes with any offset; tomograms have a mean near zero, and then it says nothing.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
    background : tuple of three slices
        Ranges of voxels along z, y, x.
    variant : {"unit", "stored"}
        Scaled to [0, 1] first, or grey levels as they are.

    Returns
    -------
    float
        ``m^2 / v`` with the mean m and the population variance v of the area; infinite if flat.

    Raises
    ------
    ValueError
        If the volume is constant (``unit``), the area holds no voxel or the variant is unknown.
    """
    if variant not in ("unit", "stored"):
        raise ValueError(f"unknown ENL variant {variant!r}; use 'unit' or 'stored'")
    offset = grey_limits(volume)[0] if variant == "unit" else 0.0  # the scale cancels
    mean, variance = _region_statistics(volume, background)
    return (mean - offset) ** 2 / variance if variance > 0 else math.inf
