"""Turning training crops without blurring their noise, and where a turned crop has its wedge."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cryomend.fourier import filter_fourier, radial_frequency
from cryomend.training.spline_kernel import sample_spline

__all__ = ["rotate_crop", "rotated_side", "rotated_wedge_mask"]

_PAD = 8  # voxels mirrored at each face, so that the periodic filter does not join opposite faces
_KEPT = (0.5, 0.65)  # cycles per voxel; what lies beyond the second is taken out of a turned crop


def rotated_side(side: int) -> int:
    """Side of the cube that holds a cube of ``side`` voxels in any rotation."""
    return math.ceil(side * math.sqrt(3)) + 1


def rotate_crop(crops: Tensor, rotation_zyx: NDArray[Any], *, side: int) -> Tensor:
    """Turn cubes about their centre and cut the inner cube.

    Trilinear interpolation takes half of the noise power at 0.35 cycles per voxel, so that a network
    trained on turned crops would meet rougher noise in a tomogram. Here the cube becomes the cubic
    spline that is nearest to the band-limited function through its voxels (least squares), and that is
    sampled: white noise keeps its power within 3 % up to 0.35 cycles per voxel.

    Parameters
    ----------
    crops : Tensor, shape (C, N, N, N)
        Cubes of float32 that share the rotation.
    rotation_zyx : array, shape (3, 3)
        Output voxel ``p`` (ZYX from the centre) shows the input at ``rotation @ p``. Any orthogonal
        matrix.
    side : int
        Side of the output; nothing is empty if ``N >= rotated_side(side)``.

    Returns
    -------
    Tensor of float32, shape (C, side, side, side)

    Raises
    ------
    ValueError
        If the turned cube is not inside.

    Notes
    -----
    With B the transform of the cubic B-spline, ``sinc(f)**4``, the coefficients are the voxels filtered
    along each axis by ``B(f) / sum_m B(f + m)**2``, without the corners beyond 0.65 cycles per voxel, which
    no turned grid can hold. An accelerator finds the 64 taps of a spline by eight trilinear look-ups (Sigg
    and Hadwiger 2005, GPU Gems 2, chapter 20).
    """
    matrix = np.ascontiguousarray(rotation_zyx, dtype=np.float32)
    reach = (side - 1) / 2 * np.abs(matrix).sum(axis=1).max()
    if reach > min((crops.shape[-1] - 1) / 2, crops.shape[-1] - 3):
        raise ValueError(
            f"a cube of {crops.shape[-1]} voxels is too small to be turned and cut to {side}; "
            f"it needs {rotated_side(side)}"
        )
    # Mirrored faces give the spline its outermost taps, and the filter no opposite face.
    pad = min(_PAD, crops.shape[-1] - 1)
    padded = F.pad(crops[None], (pad,) * 6, mode="reflect")[0]
    coefficients = filter_fourier(padded, _spline_gain(padded.shape[-1]).to(crops))
    if crops.device.type != "cpu":
        return _sample_in_pairs(coefficients, torch.from_numpy(matrix).to(crops), side)
    turned = torch.empty(crops.shape[0], side, side, side)
    for source, target in zip(coefficients, turned, strict=True):
        sample_spline(source.contiguous().numpy(), matrix, target.numpy())
    return turned


def rotated_wedge_mask(
    shape: Sequence[int],
    rotation_zyx: NDArray[Any] | None,
    *,
    tilt_min: float,
    tilt_max: float,
    device: torch.device | str | None = None,
) -> Tensor:
    """`missing_wedge_mask` of an imaging frame turned by a rotation; None leaves it in place.

    A crop ``g(p) = f(R p)`` of data ``f`` has the transform ``F(R k)``, so ``R`` is also what was given to
    `rotate_crop`; mirrored crops have a matrix with the determinant -1.

    Returns
    -------
    Tensor of bool, shape ``shape``
        True where measured; layout of ``fftn``, Friedel-symmetric.
    """
    axes = [torch.fft.fftfreq(n, device=device) for n in shape]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    if rotation_zyx is not None:
        k = k @ torch.as_tensor(rotation_zyx, dtype=torch.float32, device=device).T
    kz, kx = k[..., 0], k[..., 2]
    kz = torch.where(kx < 0, -kz, kz)
    low, high = (kx.abs() * math.tan(math.radians(t)) for t in (tilt_min, tilt_max))
    mask = (low - 1e-6 <= kz) & (kz <= high + 1e-6)
    # At kx = 0 and on the Nyquist planes of even sizes, rounding and missing mates break the symmetry.
    return mask & mask.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))


@functools.lru_cache(maxsize=4)
def _spline_gain(n: int) -> Tensor:
    """The filter of `rotate_crop` on the ``rfftn`` grid of a cube of ``n`` voxels."""
    f = torch.fft.fftfreq(n, dtype=torch.float64)
    images = torch.stack([torch.sinc(f + m) ** 8 for m in range(-3, 4)]).sum(0)
    gain = torch.sinc(f) ** 4 / images
    # The corners of the Fourier cube turn out of the grid and would fold back; from 0.65 on, below 0.35.
    radius = radial_frequency((n, n, n), half=True).double()
    keep = 0.5 + 0.5 * torch.cos(math.pi * ((radius - _KEPT[0]) / (_KEPT[1] - _KEPT[0])).clamp(0, 1))
    return (gain[:, None, None] * gain[:, None] * gain[: n // 2 + 1].clone() * keep).float()


def _sample_in_pairs(coefficients: Tensor, matrix: Tensor, side: int) -> Tensor:
    """`sample_spline` on any device: the 64 taps of a voxel are eight trilinear look-ups."""
    n = coefficients.shape[-1]
    axis = torch.arange(side, dtype=torch.float32, device=matrix.device) - (side - 1) / 2
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    weights, places = _paired_taps(grid @ matrix.T + (n - 1) / 2)
    turned = torch.zeros(coefficients.shape[0], side, side, side, device=matrix.device)
    for taps in itertools.product((0, 1), repeat=3):
        at = torch.stack([places[tap][..., i] for i, tap in enumerate(taps)], dim=-1)
        weight = torch.stack([weights[tap][..., i] for i, tap in enumerate(taps)]).prod(0)
        # grid_sample wants XYZ and, without align_corners, edges at ±1
        where = ((at.flip(-1) + 0.5) * (2 / n) - 1)[None]
        turned += weight * F.grid_sample(coefficients[None], where, align_corners=False)[0]
    return turned


def _paired_taps(position: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Weights and places of the two linear look-ups that are the four taps of a cubic B-spline, per axis."""
    whole = position.floor()
    a = position - whole
    b = 1 - a
    first, last = b**3 / 6, a**3 / 6
    second, third = 2 / 3 - a**2 * (2 - a) / 2, 2 / 3 - b**2 * (2 - b) / 2
    lower, upper = first + second, third + last
    return (lower, upper), (whole - 1 + second / lower, whole + 1 + last / upper)
