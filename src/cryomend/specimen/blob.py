"""Objects drawn straight in voxels: their box, and how much of each voxel a shape covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = [
    "Blob",
    "Offsets",
    "box_offsets",
    "smooth_grain",
    "trimmed_blob",
    "turned_offsets",
    "voxel_coverage",
]

Offsets = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Blob:
    """Something that stands in voxels.

    ``potential`` (z, y, x) in V above ice and ``occupied``, the voxels that it takes, share a box that lies
    inside the volume and starts at voxel ``corner_px``.
    """

    potential: NDArray[np.float32]
    occupied: NDArray[np.bool_]
    corner_px: tuple[int, int, int]
    name: str


def box_offsets(
    centre_px: NDArray[np.float64], reach_px: float, shape: tuple[int, int, int], *, voxel_size: float
) -> tuple[tuple[int, int, int], Offsets]:
    """The part of a cube that lies in the volume.

    Returns
    -------
    corner_px : tuple of int
        Its first voxel.
    offsets : tuple of array, shapes (z, 1, 1), (1, y, 1), (1, 1, x)
        Coordinates of its voxels from the centre, Å.
    """
    last = np.array(shape) - 1
    low = np.clip(np.floor(centre_px - reach_px), 0, last).astype(int)
    high = np.clip(np.ceil(centre_px + reach_px), 0, last).astype(int)
    axes = [(np.arange(a, b + 1) - c) * voxel_size for a, b, c in zip(low, high, centre_px, strict=True)]
    z, y, x = np.ix_(*(axis.astype(np.float32) for axis in axes))
    return (int(low[0]), int(low[1]), int(low[2])), (z, y, x)


def turned_offsets(offsets: Offsets, rotation: NDArray[np.float64]) -> Offsets:
    """Coordinates of the voxels along the rotated axes."""
    z, y, x = (sum(np.float32(a) * o for a, o in zip(axis, offsets, strict=True)) for axis in rotation.T)
    return z, y, x  # type: ignore[return-value]


def voxel_coverage(
    offsets: Offsets,
    *,
    voxel_size: float,
    radius: float,
    planes: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> NDArray[np.float32]:
    """Share of each voxel of a box that a ball or a polyhedron covers.

    Voxels are split until the ramp over each part is wrong by less than 0.1 % of the ball's volume.

    Parameters
    ----------
    offsets : tuple of array
        From `box_offsets`, Å.
    voxel_size, radius : float
        Å; the radius of the ball, or about that of the polyhedron.
    planes : tuple of array, shapes (n, 3) and (n,), optional
        Outward normals of the polyhedron's faces and their distances from the centre in Å.

    Returns
    -------
    array of float32, shape (z, y, x)
        0 to 1.
    """
    parts = int(np.clip(np.ceil(16 * voxel_size / radius), 1, 8))
    fine = np.float32(voxel_size / parts)
    shifts = (np.arange(parts) - (parts - 1) / 2).astype(np.float32) * fine
    shape = np.broadcast_shapes(*(axis.shape for axis in offsets))
    total = np.zeros(shape, dtype=np.float32)
    for dz, dy, dx in np.stack(np.meshgrid(shifts, shifts, shifts), axis=-1).reshape(-1, 3):
        z, y, x = offsets[0] + dz, offsets[1] + dy, offsets[2] + dx
        if planes is None:
            distance = np.sqrt(z**2 + y**2 + x**2) - np.float32(radius)
        else:
            distance = np.full(shape, -np.inf, dtype=np.float32)
            for normal, reach in zip(*planes, strict=True):
                a, b, c = normal.astype(np.float32)
                np.maximum(distance, a * z + (b * y + (c * x - np.float32(reach))), out=distance)
        total += np.clip(0.5 - distance / fine, 0, 1)
    return total / np.float32(parts**3)


def smooth_grain(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float32]:
    """Gaussian noise, smooth over ``sigma`` voxels, of zero mean and unit variance in the box."""
    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3.0)
    noise -= noise.mean()
    return noise / max(float(noise.std()), 1e-9)


def trimmed_blob(
    name: str,
    potential: NDArray[Any],
    corner: tuple[int, int, int],
    occupied: NDArray[np.bool_] | None = None,
) -> Blob:
    """A blob without the empty planes around it; it takes what has potential if not told otherwise."""
    occupied = potential > 0 if occupied is None else occupied
    present = occupied | (potential > 0)
    some = [np.flatnonzero(present.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(s[0]), int(s[-1]) + 1) if len(s) else slice(0, 1) for s in some)
    first = (corner[0] + box[0].start, corner[1] + box[1].start, corner[2] + box[2].start)
    return Blob(np.ascontiguousarray(potential[box], dtype=np.float32), occupied[box].copy(), first, name)
