"""Compiled inner loops of projection and back-projection about Y on a CPU.

All columns along Y share one geometry, so volumes and images are kept with blocks of `BLOCK` rows of Y
innermost: two weights move a whole contiguous run of `BLOCK` numbers, and four tilts (or planes) are
summed before each is stored. `cryomend.projection` has the geometry and the public functions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.compilation import compile_kernel

__all__ = ["BLOCK", "block_rows", "project_block", "smear_block", "unblock_rows"]

BLOCK = 128  # floats along Y that move together: 512 bytes, eight cache lines


@compile_kernel
def block_rows(images: NDArray[np.float32], blocked: NDArray[np.float32]) -> None:
    """Turn (n, up to BLOCK rows, X) into (n, margin + X + margin, BLOCK); what is not given is left alone."""
    n, rows, width = images.shape
    margin = (blocked.shape[1] - width) // 2
    for i in range(n):
        for start in range(0, width, 16):
            for j in range(rows):
                for x in range(start, min(start + 16, width)):
                    blocked[i, margin + x, j] = images[i, j, x]


@compile_kernel
def unblock_rows(blocked: NDArray[np.float32], volume: NDArray[np.float32]) -> None:
    """Turn (n, margin + X + margin, BLOCK) into (n, up to BLOCK rows, X)."""
    depth, rows, width = volume.shape
    margin = (blocked.shape[1] - width) // 2
    for z in range(depth):
        for start in range(0, width, 16):
            for j in range(rows):
                for x in range(start, min(start + 16, width)):
                    volume[z, j, x] = blocked[z, margin + x, j]


@compile_kernel
def smear_block(
    images: NDArray[np.float32],
    cosine: NDArray[np.float64],
    sine: NDArray[np.float64],
    reach: NDArray[np.float64],
    centre: tuple[float, float, float],
    volume: NDArray[np.float32],
) -> None:
    """Sum over tilts what each voxel reads at its place in the images.

    ``images`` is (tilt, X' + 2, BLOCK) with tilts in fours, ``volume`` (Z, X, BLOCK) is overwritten.
    The two pixels beside the place ``q`` weigh ``max(0, 1 - |x' - q| / reach) / reach``: reach 1
    interpolates linearly, reach max(|cos|, |sin|) is the adjoint of Joseph's projector.
    ``centre`` is the rotation centre as (z, x, x'), from the first voxel of ``volume``.
    """
    tilts, padded, _ = images.shape
    depth, width, _ = volume.shape
    rows = images.ravel()
    out = volume.ravel()
    step = np.uint64(BLOCK)
    for x in range(width):
        for z in range(depth):
            o = np.uint64((z * width + x) * BLOCK)
            for j in range(BLOCK):
                out[o + np.uint64(j)] = 0.0
            dz = z - centre[0]
            dx = x - centre[1]
            for t in range(0, tilts, 4):
                i0, a0, b0 = _taps(dx, dz, cosine[t], sine[t], reach[t], centre[2], t, padded)
                i1, a1, b1 = _taps(dx, dz, cosine[t + 1], sine[t + 1], reach[t + 1], centre[2], t + 1, padded)
                i2, a2, b2 = _taps(dx, dz, cosine[t + 2], sine[t + 2], reach[t + 2], centre[2], t + 2, padded)
                i3, a3, b3 = _taps(dx, dz, cosine[t + 3], sine[t + 3], reach[t + 3], centre[2], t + 3, padded)
                for j in range(BLOCK):
                    k = np.uint64(j)
                    out[o + k] += (
                        a0 * rows[i0 + k]
                        + b0 * rows[i0 + step + k]
                        + a1 * rows[i1 + k]
                        + b1 * rows[i1 + step + k]
                        + a2 * rows[i2 + k]
                        + b2 * rows[i2 + step + k]
                        + a3 * rows[i3 + k]
                        + b3 * rows[i3 + step + k]
                    )


@compile_kernel
def _taps(
    dx: float, dz: float, cosine: float, sine: float, reach: float, centre: float, tilt: int, padded: int
) -> tuple[Any, Any, Any]:
    """Where the first of two neighbouring pixels starts in memory, and the weights of both."""
    q = dx * cosine + dz * sine + centre
    low = math.floor(q)
    fraction = q - low
    first = max(0.0, 1.0 - fraction / reach) / reach
    second = max(0.0, 1.0 - (1.0 - fraction) / reach) / reach
    place = int(low) + 1  # one column of zeros stands in front
    if place < 0 or place > padded - 2:
        place, first, second = 0, 0.0, 0.0
    return np.uint64((tilt * padded + place) * BLOCK), np.float32(first), np.float32(second)


@compile_kernel
def project_block(
    volume: NDArray[np.float32],
    cosine: float,
    sine: float,
    centre: tuple[float, float, float],
    planes: tuple[int, int],
    image: NDArray[np.float32],
) -> None:
    """Add the sum along Joseph's rays of one tilt over a range of planes, (Z, X, BLOCK) to (X' + 2, BLOCK).

    A ray is sampled once per plane of the axis that it runs along most, between two neighbours.
    """
    depth, width, _ = volume.shape
    voxels = volume.ravel()
    out = image.ravel()
    along_z = abs(cosine) >= abs(sine)
    main = cosine if along_z else sine  # x' = x cos + z sin, solved for the other axis
    other = sine if along_z else cosine
    size = width if along_z else depth
    plane_centre, size_centre = (centre[0], centre[1]) if along_z else (centre[1], centre[0])
    plane_step, size_step = (width * BLOCK, BLOCK) if along_z else (BLOCK, width * BLOCK)
    scale = 1.0 / abs(main)
    for pixel in range(image.shape[0] - 2):
        o = np.uint64((pixel + 1) * BLOCK)
        for plane in range(planes[0], planes[1], 4):
            p0, q0, a0, b0 = _voxels(pixel - centre[2], plane, planes[1], other, main, plane_centre,
                                     size_centre, size, plane_step, size_step, scale)  # fmt: skip
            p1, q1, a1, b1 = _voxels(pixel - centre[2], plane + 1, planes[1], other, main, plane_centre,
                                     size_centre, size, plane_step, size_step, scale)  # fmt: skip
            p2, q2, a2, b2 = _voxels(pixel - centre[2], plane + 2, planes[1], other, main, plane_centre,
                                     size_centre, size, plane_step, size_step, scale)  # fmt: skip
            p3, q3, a3, b3 = _voxels(pixel - centre[2], plane + 3, planes[1], other, main, plane_centre,
                                     size_centre, size, plane_step, size_step, scale)  # fmt: skip
            if a0 + b0 + a1 + b1 + a2 + b2 + a3 + b3 == 0:
                continue
            for j in range(BLOCK):
                k = np.uint64(j)
                out[o + k] += (
                    a0 * voxels[p0 + k]
                    + b0 * voxels[q0 + k]
                    + a1 * voxels[p1 + k]
                    + b1 * voxels[q1 + k]
                    + a2 * voxels[p2 + k]
                    + b2 * voxels[q2 + k]
                    + a3 * voxels[p3 + k]
                    + b3 * voxels[q3 + k]
                )


@compile_kernel
def _voxels(
    dx: float,
    plane: int,
    planes: int,
    other: float,
    main: float,
    plane_centre: float,
    size_centre: float,
    size: int,
    plane_step: int,
    size_step: int,
    scale: float,
) -> tuple[Any, Any, Any, Any]:
    """Where the two voxels beside a ray start in memory, and their weights; 0 outside of the volume."""
    position = (dx - (plane - plane_centre) * other) / main + size_centre
    low = math.floor(position)
    fraction = position - low
    place = int(low)
    first = scale * (1.0 - fraction) if 0 <= place < size and plane < planes else 0.0
    second = scale * fraction if 0 <= place + 1 < size and plane < planes else 0.0
    start = min(plane, planes - 1) * plane_step
    return (
        np.uint64(start + min(max(place, 0), size - 1) * size_step),
        np.uint64(start + min(max(place + 1, 0), size - 1) * size_step),
        np.float32(first),
        np.float32(second),
    )
