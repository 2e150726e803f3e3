"""Packing: random poses without overlap, on a voxel grid of what is already taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.geometry import random_rotation
from cryomend.specimen.macromolecule import Macromolecule

__all__ = ["Packing", "Placement"]


@dataclass(frozen=True)
class Placement:
    """One copy in the specimen: its species, centre (Å from the volume's centre) and orientation."""

    species: Macromolecule
    position_zyx: NDArray[np.float64]
    rotation_matrix: NDArray[np.float64]
    instance: int


@dataclass
class Packing:
    """What stands where, on a voxel grid.

    Macromolecules may be cut by the borders in X and Y; along Z they stay inside the slab.

    Parameters
    ----------
    shape : tuple of int
        Volume shape (Z, Y, X).
    voxel_size : float
        Å.
    slab : tuple of int
        First and one-past-last voxel plane along Z that may be filled.

    Raises
    ------
    ValueError
        If the slab is empty or leaves the volume.
    """

    shape: tuple[int, int, int]
    voxel_size: float
    slab: tuple[int, int]
    instances: NDArray[np.int32] = field(init=False)
    placements: list[Placement] = field(init=False, default_factory=list)
    n_instances: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not 0 <= self.slab[0] < self.slab[1] <= self.shape[0]:
            raise ValueError(
                f"slab {self.slab} is empty or leaves the {self.shape[0]} planes of the volume; make the "
                "volume (shape) higher or the free ice (slab_margin) thinner"
            )
        self.instances = np.zeros(self.shape, dtype=np.int32)

    @property
    def occupancy(self) -> float:
        """Share of the slab's voxels that are taken."""
        return float((self.instances[self.slab[0] : self.slab[1]] > 0).mean())

    def footprint(
        self, species: Macromolecule, rotation: NDArray[Any], position_px: NDArray[Any] | float = 0.0
    ) -> NDArray[np.int64]:
        """Voxels (n, 3) that a pose covers, unclipped."""
        beads = species.positions_zyx @ np.asarray(rotation, dtype=np.float32).T / self.voxel_size
        cells = np.rint(beads + np.asarray(position_px, dtype=np.float32)).astype(np.int64)
        span = cells.max(0) - cells.min(0) + 1
        low = cells.min(0)
        flat = np.unique(
            ((cells[:, 0] - low[0]) * span[1] + cells[:, 1] - low[1]) * span[2] + cells[:, 2] - low[2]
        )
        return np.stack(np.unravel_index(flat, tuple(span)), axis=1) + low

    def claim(self, cells: NDArray[np.int64], *, allowed: int = 0) -> int:
        """Take the voxels ``cells`` for a new instance; 0 and nothing taken if any belongs to another.

        Voxels of instance ``allowed`` count as free and keep their label. Cells beyond the borders
        in X and Y are dropped; a cell outside the slab refuses the pose.
        """
        if len(cells) == 0 or cells[:, 0].min() < self.slab[0] or cells[:, 0].max() >= self.slab[1]:
            return 0
        inside = ((cells[:, 1:] >= 0) & (cells[:, 1:] < self.shape[1:])).all(1)
        z, y, x = cells[inside].T
        labels = self.instances[z, y, x]
        if len(labels) == 0 or (labels[labels != allowed] != 0).any():
            return 0
        self.n_instances += 1
        free = labels == 0
        self.instances[z[free], y[free], x[free]] = self.n_instances
        return self.n_instances

    def place(
        self,
        species: Macromolecule,
        *,
        position_px: NDArray[Any],
        rotation: NDArray[Any],
        allowed: int = 0,
    ) -> bool:
        """Put one copy at a given voxel position and orientation; False if it does not fit."""
        instance = self.claim(self.footprint(species, rotation, position_px), allowed=allowed)
        if instance:
            self.remember(species, position_px, rotation, instance)
        return bool(instance)

    def place_at_random(self, rng: np.random.Generator, species: Macromolecule, *, tries: int = 400) -> bool:
        """Put one copy at a random orientation in a random free place; False if none of ``tries`` fits."""
        rotation = random_rotation(rng)
        cells = self.footprint(species, rotation)
        low = self.slab[0] - cells[:, 0].min()
        high = self.slab[1] - 1 - cells[:, 0].max()
        if high < low:
            return False
        centres = np.stack(
            [
                rng.integers(low, high + 1, tries),
                rng.integers(0, self.shape[1], tries),
                rng.integers(0, self.shape[2], tries),
            ],
            axis=1,
        )
        coarse = cells[:: max(1, len(cells) // 24)]  # a few cells sort out most of the hopeless places
        for centre in centres[self._all_free(coarse, centres)]:
            if instance := self.claim(cells + centre):
                self.remember(species, centre, rotation, instance)
                return True
        return False

    def _all_free(self, cells: NDArray[np.int64], centres: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell for each centre whether all ``cells`` around it that lie inside the volume are free."""
        z, y, x = np.moveaxis(cells[None] + centres[:, None], -1, 0)
        outside = (y < 0) | (y >= self.shape[1]) | (x < 0) | (x >= self.shape[2])
        taken = self.instances[z, y.clip(0, self.shape[1] - 1), x.clip(0, self.shape[2] - 1)] > 0
        free: NDArray[np.bool_] = (outside | ~taken).all(1)
        return free

    def remember(
        self, species: Macromolecule, position_px: NDArray[Any], rotation: NDArray[Any], instance: int
    ) -> None:
        """Note a pose whose voxels have been claimed."""
        centre = np.array(self.shape) // 2
        position = (np.asarray(position_px, dtype=np.float64) - centre) * self.voxel_size
        self.placements.append(Placement(species, position, np.asarray(rotation, dtype=np.float64), instance))
