"""Macromolecules from density maps of any grey scale."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, zoom

from cryomend.specimen.macromolecule import PROTEIN_CONTRAST, FormFactor, Macromolecule

__all__ = ["macromolecule_from_map", "otsu_threshold"]

_MOST_POINTS = 300_000
_COARSE_VOXEL = 5.0  # Å; maps with larger voxels are interpolated to twice as fine


def macromolecule_from_map(
    density: NDArray[Any], *, voxel_size: float, name: str, threshold: float | None = None
) -> Macromolecule:
    """Turn a density map of any grey scale into points in V Å³.

    Voxels above the threshold are the macromolecule, but for specks of less than a hundredth of its
    largest part; their mean is set to the contrast of
    protein against ice, so that maps from different programs come out alike. The origin of the
    points is voxel ``n // 2`` of the map, which maps of membrane proteins keep in the bilayer.

    Maps of more than 5 Å per voxel are interpolated by cubic splines to half their voxel size, and of
    fine maps so many voxels are added up that at most 300,000 points remain. Points are as spread as
    they are apart (a Gaussian of half the distance).

    Parameters
    ----------
    density : array, shape (Z, Y, X)
        Map with the macromolecule bright.
    voxel_size : float
        Å.
    name : str
        Name of the species.
    threshold : float, optional
        In the map's grey levels, such as the contour level of an EMDB entry; Otsu's threshold if None.

    Raises
    ------
    ValueError
        If nothing lies above the threshold, or what lies there is not positive on the whole.
    """
    values = np.asarray(density, dtype=np.float32)
    if threshold is None:
        threshold = otsu_threshold(values)
    centre = np.array(values.shape) // 2
    values, low = _crop(values, threshold, name)
    step = 1.0
    if voxel_size > _COARSE_VOXEL:
        values, low, step = _interpolate(values, low)
    inside = _without_dust(values > threshold)
    mean = float(values[inside].mean(dtype=np.float64))
    if mean <= 0:
        raise ValueError(
            f"{name}: voxels above the threshold {threshold:g} are negative on the whole; raise it"
        )
    values = np.where(inside, values, 0)
    factor = math.ceil((np.count_nonzero(inside) / _MOST_POINTS) ** (1 / 3))
    while np.count_nonzero((sums := _add_blocks(values, factor)) > 0) > _MOST_POINTS:
        factor += 1  # blocks at the surface are not full
    index = np.argwhere(sums > 0)
    positions = low - centre + step * (index * factor + (factor - 1) / 2)
    weights = sums[sums > 0] * (PROTEIN_CONTRAST / mean * (step * voxel_size) ** 3)
    spread = FormFactor((1.0,), ((0.5 * factor * step * voxel_size) ** 2,))
    return Macromolecule(
        name,
        (positions * voxel_size).astype(np.float32),
        weights.astype(np.float32),
        form_factors=(spread,),
    )


def otsu_threshold(values: NDArray[Any]) -> float:
    """Grey level that best splits the histogram in two (Otsu 1979, doi:10.1109/TSMC.1979.4310076)."""
    thinned = values[tuple(slice(None, None, max(1, n // 200)) for n in values.shape)]
    counts, edges = np.histogram(thinned, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (moment[-1] * below / total - moment) ** 2 / (below * (total - below))
    between = np.where(np.isfinite(between), between, -1)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))  # all of the gap if there is one
    return float(edges[1:][best].mean())


def _crop(
    values: NDArray[np.float32], threshold: float, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The box of what lies above the threshold, two voxels wider, and its lowest corner."""
    above = values > threshold
    low, high = [], []
    for axis in range(3):
        taken = np.flatnonzero(above.any(axis=tuple(i for i in range(3) if i != axis)))
        if len(taken) == 0:
            raise ValueError(f"{name}: no voxel of the map lies above the threshold {threshold:g}; lower it")
        low.append(max(0, int(taken[0]) - 2))
        high.append(int(taken[-1]) + 3)
    box = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return box, np.array(low, dtype=np.float64)


def _without_dust(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts that are no specks of noise; one at the rim would make the molecule huge."""
    parts, _ = label(inside)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept: NDArray[np.bool_] = sizes >= 0.01 * sizes.max()
    kept[0] = False
    return kept[parts]


def _interpolate(
    values: NDArray[np.float32], low: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Values on half the voxel size; the new voxels are the eighths of the old ones."""
    fine: NDArray[np.float32] = zoom(values, 2.0, order=3, grid_mode=True, mode="nearest")
    return fine, low - 0.25, 0.5


def _add_blocks(values: NDArray[np.float32], factor: int) -> NDArray[np.float64]:
    """Sums over blocks of ``factor`` voxels along each axis; the last may be cut."""
    sums: NDArray[Any] = values
    for axis in range(3):
        starts = np.arange(0, sums.shape[axis], factor)
        sums = np.add.reduceat(sums, starts, axis=axis, dtype=np.float64)
    return sums
