"""Mid-surfaces from label volumes: thin, rough sheets of voxels made smooth at any voxel size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from cryomend.specimen.surface_grid import Frame, Surface

__all__ = ["labelled_surface"]

_SMOOTHING = 56.0  # Å; radius of the patches that a plane is laid through, four voxels of a usual tomogram
_CELL = 24.0  # Å, about; voxels of one cell share the nearest facet


def labelled_surface(
    labels: NDArray[Any],
    label_voxel_size: float,
    *,
    frame: Frame,
    rng: np.random.Generator | None = None,
) -> Surface:
    """Distance to the mid-surfaces that a label volume marks.

    Each labelled voxel is moved onto a plane through its neighbours of the same label, which takes
    away the steps of the voxels; the distance is to the plane of the nearest one. Open edges end round.

    Parameters
    ----------
    labels : array of integers, shape (Z, Y, X)
        0 for nothing; every other value marks a sheet about one voxel thick.
    label_voxel_size : float
        Å.
    frame : Frame
        Volume, voxel size and reach.
    rng : numpy.random.Generator, optional
        Mirrors the labels along each axis, turns them about Z by 0° or 90° and puts a random labelled
        voxel at a random place in the middle half; if None they are centred on the volume as they are.

    Returns
    -------
    Surface
        Without sides: no distance is negative.

    Raises
    ------
    ValueError
        If nothing is labelled, the voxel size is not positive, or no label comes within reach.
    """
    if not 0 < label_voxel_size < math.inf:
        raise ValueError(f"label_voxel_size must be positive, got {label_voxel_size:g} Å")
    if labels.ndim != 3 or not labels.any():
        raise ValueError(f"need a volume (Z, Y, X) with labels that are not zero, got shape {labels.shape}")
    index = np.argwhere(labels)
    kinds = labels[tuple(index.T)]
    positions = (index - np.array(labels.shape) // 2) * label_voxel_size
    if rng is not None:
        positions = _posed_at_random(rng, positions, frame)
    positions += np.array(frame.shape) // 2 * frame.voxel_size
    margin = frame.reach + _SMOOTHING
    span = (np.array(frame.shape) - 1) * frame.voxel_size
    inside = ((positions > -margin) & (positions < span + margin)).all(1)
    feet, normals = _smooth_facets(positions[inside], kinds[inside], label_voxel_size)
    return _distance_to_planes(feet, normals, frame, rim=1.5 * label_voxel_size)


def _posed_at_random(
    rng: np.random.Generator, positions: NDArray[np.float64], frame: Frame
) -> NDArray[np.float64]:
    """Mirror, turn and shift positions relative to the volume's centre; along Z to fill the volume."""
    positions = positions * rng.choice((-1.0, 1.0), 3)
    if rng.random() < 0.5:
        positions = positions[:, [0, 2, 1]]
    half = np.array(frame.shape) * frame.voxel_size / 2
    shift = rng.uniform(-half / 2, half / 2) - positions[rng.integers(len(positions))]
    ends = np.sort([-half[0] - positions[:, 0].min(), half[0] - positions[:, 0].max()])
    shift[0] = np.clip(shift[0], *ends)
    return positions + shift


def _smooth_facets(
    positions: NDArray[np.float64], kinds: NDArray[Any], voxel_size: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Feet and unit normals (n, 3) of the planes through the neighbours of each point, per label."""
    radius = max(_SMOOTHING, 2.5 * voxel_size)
    n_neighbours = 1 + int(math.pi * (radius / voxel_size) ** 2)
    feet, normals = np.empty_like(positions), np.empty_like(positions)
    for kind in np.unique(kinds):
        chosen = np.flatnonzero(kinds == kind)
        points = positions[chosen]
        tree = cKDTree(points)
        for part in np.array_split(np.arange(len(points)), 1 + len(points) // 20_000):
            distance, near = tree.query(points[part], k=min(n_neighbours, len(points)))
            weight = np.exp(-2 * (distance.reshape(len(part), -1) / radius) ** 2)
            cloud = points[near.reshape(len(part), -1)]
            weight /= weight.sum(1, keepdims=True)
            middle = np.einsum("nk,nki->ni", weight, cloud)
            cloud -= middle[:, None]
            spread = np.einsum("nk,nki,nkj->nij", weight, cloud, cloud, optimize=True)
            normal = np.linalg.eigh(spread)[1][:, :, 0]
            offset = np.einsum("ni,ni->n", points[part] - middle, normal)
            feet[chosen[part]] = points[part] - offset[:, None] * normal
            normals[chosen[part]] = normal
    return feet, normals


def _distance_to_planes(
    feet: NDArray[np.float64], normals: NDArray[np.float64], frame: Frame, *, rim: float
) -> Surface:
    """Unsigned distance to the plane of the nearest foot; round off farther than ``rim`` from it."""
    step = max(1, round(_CELL / frame.voxel_size))
    cell = step * frame.voxel_size
    low = np.maximum(np.floor((feet.min(0) - frame.reach) / frame.voxel_size), 0).astype(int)
    high = np.minimum(np.ceil((feet.max(0) + frame.reach) / frame.voxel_size) + 1, frame.shape).astype(int)
    if (high <= low).any():
        raise ValueError(f"no label comes within {frame.reach:g} Å of the volume; move the labels")
    n_cells = -(-(high - low) // step)
    middles = low * frame.voxel_size + (cell - frame.voxel_size) / 2
    cells = _cells_within(feet, middles, cell, n_cells, frame.reach)
    nearest = cKDTree(feet).query(cells * cell + middles)[1]
    foot, normal = feet[nearest].astype(np.float32), normals[nearest].astype(np.float32)
    distance = np.full(n_cells * step, 2 * frame.reach, dtype=np.float32)
    half_cell = math.sqrt(3) / 2 * (cell - frame.voxel_size)
    for shift in np.ndindex(step, step, step):
        voxel = cells * step + np.array(shift)
        offset = ((voxel + low) * frame.voxel_size).astype(np.float32) - foot
        height = np.abs(np.einsum("ni,ni->n", offset, normal))
        across = np.sqrt(np.maximum(np.einsum("ni,ni->n", offset, offset) - height**2, 0))
        distance[tuple(voxel.T)] = np.hypot(height, np.maximum(across - rim - half_cell, 0))
    nz, ny, nx = (int(i) for i in high - low)
    corner = (int(low[0]), int(low[1]), int(low[2]))
    return Surface(distance[:nz, :ny, :nx], corner, frame.voxel_size, False, frame.reach)


def _cells_within(
    feet: NDArray[np.float64], middles: NDArray[Any], cell: float, n_cells: NDArray[Any], reach: float
) -> NDArray[np.int64]:
    """Indices (n, 3) of the cells that have voxels within ``reach`` of a foot."""
    beyond = 1 + math.ceil(reach / cell)  # feet outside the volume count as well
    occupied = np.zeros(n_cells + 2 * beyond, dtype=bool)
    index = np.rint((feet - middles) / cell).astype(int) + beyond
    inside = ((index >= 0) & (index < occupied.shape)).all(1)
    occupied[tuple(index[inside].T)] = True
    gap = distance_transform_edt(~occupied).astype(np.float32)
    core = gap[beyond:-beyond, beyond:-beyond, beyond:-beyond]
    return np.argwhere(core * cell <= reach + math.sqrt(3) * cell)
