"""Tilt about X: a slab of rows as seen from the frame in which the tilt axis is Y.

IMOD's XAXISTILT ``a``: the specimen point (y, z) stands at ``y' = y cos a - z sin a``,
``z' = y sin a + z cos a`` before it is tilted about Y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TiltedSlab", "cut_tilted_slab", "resample_tilted"]

_MARGIN = 2  # rows and planes that cubic interpolation needs beyond the outermost


@dataclass(frozen=True)
class TiltedSlab:
    """The rows and planes in the untilted frame that a slab of rows needs.

    ``rows`` are ``first_row`` to ``last_row`` of the images; of ``depth`` planes, ``centre_z`` is the
    place of the rotation centre (beyond them when the slab lies far from the middle).
    """

    first_row: int
    last_row: int
    depth: int
    centre_z: float


def cut_tilted_slab(
    rows: tuple[int, int],
    *,
    height: int,
    thickness: int,
    centre_z: float,
    x_tilt: float,
    whole_depth: bool = False,
) -> TiltedSlab:
    """Say which part of the untilted frame holds the rows ``rows[0]`` to ``rows[1] - 1`` of a tomogram.

    Parameters
    ----------
    rows : tuple of int
        First row and the one after the last.
    height, thickness : int
        Rows of the images and planes of the tomogram.
    centre_z : float
        Plane of the tomogram at the rotation centre.
    x_tilt : float
        Degrees.
    whole_depth : bool
        Take the planes that all rows need: what an iterative method finds depends on the volume that
        it may fill, which must not depend on the slabs.
    """
    y, z = _corners(rows, height, thickness, centre_z, x_tilt)
    if whole_depth:
        _, z = _corners((0, height), height, thickness, centre_z, x_tilt)
    first = max(0, math.floor(min(y)) - _MARGIN + height // 2)
    last = min(height, math.ceil(max(y)) + _MARGIN + 1 + height // 2)
    lowest = math.floor(min(z)) - _MARGIN
    return TiltedSlab(
        min(first, height - 1), max(last, 1), math.ceil(max(z)) + _MARGIN + 1 - lowest, float(-lowest)
    )


def _corners(
    rows: tuple[int, int], height: int, thickness: int, centre_z: float, x_tilt: float
) -> tuple[list[float], list[float]]:
    """Where the four corners of a slab stand in the untilted frame, from the centre."""
    c, s = math.cos(math.radians(x_tilt)), math.sin(math.radians(x_tilt))
    points = [
        (row - height // 2, plane - centre_z)
        for row in (rows[0], rows[1] - 1)
        for plane in (0, thickness - 1)
    ]
    return [y * c - z * s for y, z in points], [y * s + z * c for y, z in points]


def resample_tilted(
    source: Tensor,
    slab: TiltedSlab,
    *,
    rows: tuple[int, int],
    height: int,
    thickness: int,
    centre_z: float,
    x_tilt: float,
) -> Tensor:
    """Read the rows of a tomogram out of what was reconstructed in the untilted frame.

    Cubic interpolation (Keys 1981, doi:10.1109/TASSP.1981.1163711, a = -1/2) in the (z, y) plane.

    Parameters
    ----------
    source : Tensor, shape (slab.depth, slab.last_row - slab.first_row, X)
        Reconstruction with the tilt axis along Y.
    slab : TiltedSlab
        Where ``source`` stands.
    rows, height, thickness, centre_z, x_tilt
        As in `cut_tilted_slab`.

    Returns
    -------
    Tensor of float32, shape (thickness, rows, X)
        Zero where ``source`` does not reach.
    """
    c, s = math.cos(math.radians(x_tilt)), math.sin(math.radians(x_tilt))
    device = source.device
    y = torch.arange(*rows, device=device, dtype=torch.float64) - height // 2
    flat = source.reshape(-1, source.shape[2])
    planes = []
    for plane in range(thickness):
        z = plane - centre_z
        place_y = y * c - z * s + height // 2 - slab.first_row
        place_z = y * s + z * c + slab.centre_z
        planes.append(_interpolate_rows(flat, source.shape[:2], place_z, place_y))
    return torch.stack(planes)


def _interpolate_rows(flat: Tensor, shape: tuple[int, ...], z: Tensor, y: Tensor) -> Tensor:
    """Cubic interpolation of whole rows of X at points (z, y) of a grid of ``shape``."""
    low_z, low_y = z.floor(), y.floor()
    total = torch.zeros(len(z), flat.shape[1], device=flat.device)
    for i in range(-1, 3):
        for j in range(-1, 3):
            at_z, at_y = low_z + i, low_y + j
            inside = (at_z >= 0) & (at_z < shape[0]) & (at_y >= 0) & (at_y < shape[1])
            weight = _keys(z - at_z) * _keys(y - at_y) * inside
            index = at_z.clamp(0, shape[0] - 1) * shape[1] + at_y.clamp(0, shape[1] - 1)
            total += flat[index.long()] * weight.float()[:, None]
    return total


def _keys(distance: Tensor) -> Tensor:
    """Cubic convolution kernel with a = -1/2."""
    d = distance.abs()
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
