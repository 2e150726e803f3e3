"""Where surfaces are drawn: the frame of the volume, the distance field and the nodes it is found on.

Membranes are smooth on the scale of a voxel, so distances are found on nodes up to 28 Å apart and
interpolated, on no more of the volume than the surface needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NODE_SPACING", "Frame", "Grid", "Surface"]

NODE_SPACING = 28.0  # Å; two voxels of the coarsest usual tomograms


@dataclass(frozen=True)
class Frame:
    """The volume that a surface is drawn in: ``shape`` (Z, Y, X), ``voxel_size`` in Å, and ``reach``.

    Distances are needed up to ``reach`` Å from the mid-surface and right only there.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    reach: float

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be three positive numbers of voxels, got {self.shape}")
        if not (0 < self.voxel_size < math.inf and 0 < self.reach < math.inf):
            raise ValueError(
                f"voxel_size and reach must be positive, got {self.voxel_size:g} and {self.reach:g} Å"
            )

    def grid(self, low: NDArray[Any], high: NDArray[Any], *, radius: float, margin: float = 0.0) -> Grid:
        """Nodes for the part of the volume within reach of what spans ``low`` to ``high``.

        Parameters
        ----------
        low, high : array, shape (3,)
            Å from voxel 0.
        radius : float
            Smallest radius of curvature, Å; three nodes or more to it leave errors below 1 Å.
        margin : float
            How far nodes are needed beyond the box, Å.

        Raises
        ------
        ValueError
            If that part is empty.
        """
        step = max(1, int(min(radius / 3 / self.voxel_size, NODE_SPACING / self.voxel_size, 4)))
        first = np.maximum(np.floor((low - self.reach) / self.voxel_size), 0).astype(int)
        last = np.minimum(np.ceil((high + self.reach) / self.voxel_size), np.array(self.shape) - 1).astype(
            int
        )
        if (last < first).any():
            raise ValueError(f"the surface does not come within {self.reach:g} Å of the volume; move it")
        n_beyond = 1 + math.ceil(margin / (step * self.voxel_size))
        z, y, x = (int(i) for i in first)
        nz, ny, nx = (int(i) for i in last - first + 1)
        return Grid((z, y, x), (nz, ny, nx), step, n_beyond, self.voxel_size)


@dataclass(frozen=True)
class Surface:
    """Signed distance in Å to a mid-surface, on a box of the volume.

    Attributes
    ----------
    distance : array of float32, shape (Z, Y, X) of the box
        Negative inside where the surface is closed; to within a tenth of a voxel up to ``reach``,
        any larger value of the right sign beyond.
    corner_px : tuple of int
        Voxel of the volume at which the box starts; the box never leaves the volume.
    voxel_size : float
        Å.
    closed : bool
        Whether the sign tells inside from outside. Sheets have two sides but no inside; surfaces
        from labels have no sides, and no negative distance.
    reach : float
        Up to where the distances are right, Å.
    """

    distance: NDArray[np.float32]
    corner_px: tuple[int, int, int]
    voxel_size: float
    closed: bool
    reach: float = math.inf


@dataclass(frozen=True)
class Grid:
    """Nodes every ``step`` voxels over a box of the volume, ``n_beyond`` more before it and after it."""

    corner_px: tuple[int, int, int]
    size_px: tuple[int, int, int]
    step: int
    n_beyond: int
    voxel_size: float

    @property
    def spacing(self) -> float:
        """Distance between nodes in Å."""
        return self.step * self.voxel_size

    @property
    def axes(self) -> list[NDArray[Any]]:
        """Coordinates of the nodes along Z, Y and X in Å from voxel 0 of the volume."""
        return [
            (corner + self.step * np.arange(-self.n_beyond, (size - 1) // self.step + 2 + self.n_beyond))
            * self.voxel_size
            for corner, size in zip(self.corner_px, self.size_px, strict=True)
        ]

    def evaluate(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.float32]:
        """Values at the nodes of a function of points (n, 3) in Å from voxel 0, plane by plane."""
        z, y, x = self.axes
        values = np.empty((len(z), len(y), len(x)), dtype=np.float32)
        points = np.empty((len(y), len(x), 3))
        points[..., 1], points[..., 2] = np.meshgrid(y, x, indexing="ij")
        for plane, points[..., 0] in zip(values, z, strict=True):
            plane[:] = function(points.reshape(-1, 3)).reshape(plane.shape)
        return values

    def trim(self, values: NDArray[np.float32], within: float) -> tuple[Grid, NDArray[np.float32]]:
        """Cut grid and values down to the box that holds every node of ``|values| <= within``.

        Raises
        ------
        ValueError
            If there is none.
        """
        near = [np.zeros(n, dtype=bool) for n in values.shape]
        for z, plane in enumerate(values):
            mask = (plane <= within) & (plane >= -within)
            near[0][z] = mask.any()
            near[1] |= mask.any(1)
            near[2] |= mask.any(0)
        if not near[0].any():
            raise ValueError(f"the surface does not come within {within:g} Å of the volume; move it")
        corner, size, cut = [], [], []
        for axis, (start, n) in enumerate(zip(self.corner_px, self.size_px, strict=True)):
            inside = np.flatnonzero(near[axis]) - self.n_beyond
            # one more cell on either side: the band may begin between two nodes
            last_cell = (n - 1) // self.step
            low = min(max(int(inside[0]) - 1, 0), last_cell)
            high = max(min(int(inside[-1]) + 1, last_cell), low)
            corner.append(start + low * self.step)
            size.append(min((high - low + 1) * self.step, n - low * self.step))
            cut.append(slice(low, high + 2 + 2 * self.n_beyond))
        grid = replace(self, corner_px=(corner[0], corner[1], corner[2]), size_px=(size[0], size[1], size[2]))
        return grid, values[cut[0], cut[1], cut[2]]

    def refine(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Interpolate from the nodes to the voxels of the box by cubic Lagrange polynomials."""
        for axis, size in enumerate(self.size_px):
            nodes = np.moveaxis(values, axis, 0)
            shape = list(values.shape)
            shape[axis] = size
            fine = np.empty(shape, dtype=np.float32)
            voxels = np.moveaxis(fine, axis, 0)
            for phase in range(self.step):
                part = voxels[phase :: self.step]
                taps = [nodes[self.n_beyond + k : self.n_beyond + k + len(part)] for k in (-1, 0, 1, 2)]
                if phase == 0:
                    part[:] = taps[1]
                    continue
                weights = _lagrange_weights(phase / self.step)
                np.multiply(taps[0], weights[0], out=part)
                for tap, weight in zip(taps[1:], weights[1:], strict=True):
                    part += weight * tap
            values = fine
        return values

    def surface(self, values: NDArray[np.float32], *, closed: bool, reach: float) -> Surface:
        """Trim and refine distances at the nodes to a `Surface`."""
        grid, kept = self.trim(values, reach)
        return Surface(grid.refine(kept), grid.corner_px, self.voxel_size, closed, reach)


def _lagrange_weights(t: float) -> NDArray[np.float32]:
    """Weights of the nodes -1, 0, 1 and 2 for a value at ``t`` in [0, 1]."""
    weights = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    return np.array(weights, dtype=np.float32)
