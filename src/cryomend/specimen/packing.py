"""Packing: poses without overlap on a voxel grid of what is taken.

Copies are thrown at random while throws hit (`Packing.place_at_random`), many at a time; where they
miss, windows of the volume are searched whole for the places that are left, by Fourier correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from cryomend.geometry import random_rotations
from cryomend.specimen.template import Template, occupied_cells, whole_balls

__all__ = ["Packing", "Poses"]

_THROWS_AT_ONCE = 1 << 14
_CELLS_AT_ONCE = 1 << 21  # voxels tested together; bounds the memory
_MISSES_PER_HIT = 3000  # throws that cost as much as finding a place by searching a window
_FORGET = 10 * _MISSES_PER_HIT  # throws after which the rate of hits is counted afresh
_ORIENTATIONS = 3  # in which a window is searched before it counts as full
_NOBODY = torch.iinfo(torch.int32).max


@dataclass(frozen=True)
class Poses:
    """Copies of one species that have been placed: (b, 3) voxels, (b, 3, 3), (b,) instance numbers."""

    template: Template
    positions_px: Tensor
    rotations: Tensor
    instances: Tensor


@dataclass
class Packing:
    """What stands where, on a voxel grid.

    Objects may be cut by the borders in Y and X, or go on at the other side if ``periodic``; along Z they
    stay inside the slab. Time grows with the number of copies placed times their volume, memory with
    the volume (8 bytes per voxel).

    Parameters
    ----------
    shape : tuple of int
        Volume shape (Z, Y, X).
    slab : tuple of int
        First and one-past-last voxel plane along Z that may be filled.
    periodic : bool
        Wrap around in Y and X.
    device : torch.device or str, optional
        Where the grid lives.

    Raises
    ------
    ValueError
        If the slab is empty or leaves the volume.
    """

    shape: tuple[int, int, int]
    slab: tuple[int, int]
    periodic: bool = False
    device: torch.device | str | None = None
    poses: list[Poses] = field(init=False, default_factory=list)
    n_instances: int = field(init=False, default=0)
    taken: int = field(init=False, default=0)  # voxels

    def __post_init__(self) -> None:
        if not 0 <= self.slab[0] < self.slab[1] <= self.shape[0]:
            raise ValueError(
                f"slab {self.slab} is empty or leaves the {self.shape[0]} planes of the volume; make the "
                "volume (shape) higher or the free ice (slab_margin) thinner"
            )
        size = int(np.prod(self.shape))
        # two more voxels than there are: what lies beyond the borders is free, beyond the slab it is not
        self._labels = torch.zeros(size + 2, dtype=torch.int32, device=self.device)
        self._labels[size + 1] = -1
        self._owner = torch.full((size + 2,), _NOBODY, dtype=torch.int32, device=self.device)

    @property
    def instances(self) -> Tensor:
        """Number of the object in each voxel (Z, Y, X), 0 for ice; int32, shared memory."""
        return self._labels[:-2].view(self.shape)

    @property
    def slab_voxels(self) -> int:
        """Voxels that may be filled."""
        return (self.slab[1] - self.slab[0]) * self.shape[1] * self.shape[2]

    @property
    def occupancy(self) -> float:
        """Share of the slab's voxels that are taken."""
        return self.taken / self.slab_voxels

    def poses_by_species(self) -> list[Poses]:
        """All poses, one entry per species."""
        grouped: dict[int, list[Poses]] = {}
        for poses in self.poses:
            grouped.setdefault(id(poses.template), []).append(poses)
        return [
            Poses(
                some[0].template,
                self._wrapped(torch.cat([p.positions_px for p in some])),
                torch.cat([p.rotations for p in some]),
                torch.cat([p.instances for p in some]),
            )
            for some in grouped.values()
        ]

    def _wrapped(self, positions_px: Tensor) -> Tensor:
        """Positions inside the volume of what a periodic one repeats."""
        if not self.periodic:
            return positions_px
        period = torch.tensor(self.shape[1:], dtype=positions_px.dtype, device=positions_px.device)
        beside = torch.remainder(positions_px[:, 1:] + 0.5, period) - 0.5
        return torch.cat([positions_px[:, :1], beside], dim=1)

    def place(
        self, template: Template, rotations: NDArray[Any], positions_px: NDArray[Any], *, allowed: int = 0
    ) -> NDArray[np.bool_]:
        """Place copies at given poses, each that overlaps nothing before it.

        Parameters
        ----------
        template : Template
            The species.
        rotations, positions_px : array, shape (b, 3, 3), (b, 3)
            Poses in order of precedence.
        allowed : int
            Instance whose voxels count as free and are taken over.

        Returns
        -------
        array of bool, shape (b,)
            Which were placed.
        """
        turns = torch.as_tensor(np.asarray(rotations, dtype=np.float32), device=self.device)
        places = torch.as_tensor(np.asarray(positions_px, dtype=np.float32), device=self.device)
        placed = torch.zeros(len(turns), dtype=torch.bool, device=self.device)
        step = max(1, _CELLS_AT_ONCE // len(template.near))
        for start in range(0, len(turns), step):
            batch = slice(start, start + step)
            placed[batch] = self._place_batch(template, turns[batch], places[batch], allowed)
        return placed.cpu().numpy()

    def place_at_random(
        self,
        rng: np.random.Generator,
        template: Template,
        count: int,
        *,
        draw_places: Callable[[int], NDArray[Any]] | None = None,
        compact: bool = False,
    ) -> int:
        """Place up to ``count`` copies in random orientations; return how many found a place.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of randomness.
        template : Template
            The species.
        count : int
            How many.
        draw_places : callable, optional
            Draws that many positions (n, 3) in voxels; uniform over the slab if None.
        compact : bool
            Search windows from the start and let each copy touch as much as it can: denser than chance.
        """
        draw = draw_places or (lambda n: self._uniform_places(rng, n))
        placed, throws, hits = 0, 0, 0
        while not compact and placed < count and throws <= _MISSES_PER_HIT * (hits + 4):
            if throws > _FORGET:
                throws, hits = 0, 0
            n = min(_THROWS_AT_ONCE, max(256, 8 * (count - placed)))
            turns, places = random_rotations(rng, n), draw(n).astype(np.float32)
            hit = self._core_is_free(template, turns, places)[: 2 * (count - placed)]
            done = 0
            for some in np.array_split(hit, max(1, -(-len(hit) // max(1, count - placed)))):
                need = count - placed - done
                if need > 0:
                    done += int(self.place(template, turns[some[:need]], places[some[:need]]).sum())
            placed, hits, throws = placed + done, hits + done, throws + n
        if placed < count and draw_places is None:
            placed += self._search(rng, template, count - placed, compact=compact)
        return placed

    def is_free(self, positions_px: NDArray[Any]) -> bool:
        """Tell whether all voxels at ``positions_px`` (n, 3) are free; those beyond Y and X borders are."""
        places = torch.as_tensor(np.asarray(positions_px, dtype=np.float32), device=self.device)
        cells = torch.round(places).long()
        return bool((self._labels[self._flatten(cells)] == 0).all())

    def place_assembly(
        self, parts: Sequence[tuple[Template, NDArray[Any], NDArray[Any]]], *, minimum: int = 2
    ) -> int:
        """Claim all poses of ``parts`` (template, rotations, positions_px) as one instance, or nothing.

        Copies that pass a face of the slab or lie beyond the borders are left out; of what is longer than
        a periodic volume, those half a period or more from its middle. Returns the instance number, 0 if
        anything overlaps or fewer than ``minimum`` copies are left.
        """
        middle = np.concatenate([np.asarray(places)[:, 1:] for _, _, places in parts] or [np.zeros((1, 2))])
        middle = (middle.min(0) + middle.max(0)) / 2
        kept: list[tuple[Template, Tensor, Tensor]] = []
        claimed = []
        for template, rotations, positions_px in parts:
            turns = torch.as_tensor(np.asarray(rotations, dtype=np.float32), device=self.device)
            places = torch.as_tensor(np.asarray(positions_px, dtype=np.float32), device=self.device)
            step = max(1, _CELLS_AT_ONCE // len(template.near))
            for start in range(0, len(turns), step):
                batch = slice(start, start + step)
                flat = self._flat_cells(template, turns[batch], places[batch])
                size = len(self._labels) - 2
                inside = (flat <= size).all(1) & (flat < size).any(1)
                if self.periodic:
                    away = places[batch, 1:] - torch.as_tensor(middle.astype(np.float32), device=self.device)
                    half = torch.tensor(self.shape[1:], device=self.device) / 2 - template.reach_px
                    inside &= (away.abs() < half).all(1)
                claimed.append(torch.unique(flat[inside]))
                kept.append((template, turns[batch][inside], places[batch][inside]))
        if sum(len(turns) for _, turns, _ in kept) < minimum:
            return 0
        instance = self._claim(torch.unique(torch.cat(claimed)))
        if instance:
            for template, turns, places in kept:
                numbers = torch.full((len(turns),), instance, dtype=torch.int32, device=turns.device)
                self.poses.append(Poses(template, places, turns, numbers))
        return instance

    def claim_region(
        self,
        region: NDArray[np.bool_],
        corner_px: Sequence[int],
        *,
        clip_slab: bool = False,
        anywhere: bool = False,
    ) -> int:
        """Take the voxels of a box for a new instance; return its number, 0 if one is not free.

        Parameters
        ----------
        region : array of bool, shape (z, y, x)
            True where taken.
        corner_px : sequence of int
            Voxel of the volume at which the box starts; the box lies inside the volume.
        clip_slab : bool
            Cut the region at the slab's faces instead of refusing one that passes them.
        anywhere : bool
            Take what lies beyond the slab as well.
        """
        z, y, x = (axis + start for axis, start in zip(np.nonzero(region), corner_px, strict=True))
        inside = (z >= self.slab[0]) & (z < self.slab[1])
        if not (clip_slab or anywhere or inside.all()):
            return 0
        flat = (z * self.shape[1] + y) * self.shape[2] + x
        before = self.taken
        instance = self._claim(torch.as_tensor(flat if anywhere else flat[inside], device=self.device))
        if instance:
            self.taken = before + int(inside.sum())
        return instance

    def _claim(self, flat: Tensor) -> int:
        if len(flat) == 0 or bool((self._labels[flat] != 0).any()):
            return 0
        self.n_instances += 1
        self._labels[flat] = self.n_instances
        self._labels[-2] = 0
        self.taken += int((flat < len(self._labels) - 2).sum())
        return self.n_instances

    def _uniform_places(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        low = (self.slab[0] - 0.5, -0.5, -0.5)
        high = (self.slab[1] - 0.5, self.shape[1] - 0.5, self.shape[2] - 0.5)
        return rng.uniform(low, high, (n, 3))

    def _flatten(self, cells: Tensor) -> Tensor:
        """Index into the labels of voxels (..., 3), beyond the borders and the slab included."""
        z, y, x = cells.unbind(-1)
        size = len(self._labels) - 2
        if self.periodic:
            y, x = y % self.shape[1], x % self.shape[2]
        flat = (z * self.shape[1] + y) * self.shape[2] + x
        beside = (y < 0) | (y >= self.shape[1]) | (x < 0) | (x >= self.shape[2])
        flat = torch.where(beside, size, flat)
        return torch.where((z < self.slab[0]) | (z >= self.slab[1]), size + 1, flat)

    def _flat_cells(self, template: Template, turns: Tensor, places: Tensor) -> Tensor:
        """Indices (b, k) into the labels of the voxels that poses take; else what lies beside the volume."""
        middles, taken = occupied_cells(template, turns, places)
        size = len(self._labels) - 2
        flat = torch.empty(taken.shape, dtype=torch.int64, device=taken.device)
        # those inside need no look at the borders
        whole, indices = whole_balls(middles, template.near, self.shape, planes=self.slab)
        flat[whole] = indices
        flat[~whole] = self._flatten(middles[~whole, None] + template.near.long())
        return flat.masked_fill_(~taken, size)

    def _core_is_free(
        self, template: Template, turns: NDArray[Any], places: NDArray[Any]
    ) -> NDArray[np.int64]:
        """Which throws have a free core: a cheap test that sorts out most of the hopeless ones."""
        rotations = torch.as_tensor(turns.astype(np.float32), device=self.device)
        centres = torch.as_tensor(places, device=self.device)
        shift = torch.matmul(template.core, rotations.transpose(1, 2)) / template.voxel_size
        cells = torch.round(centres[:, None] + shift).long()
        free = (self._labels[self._flatten(cells)] == 0).all(1)
        return torch.nonzero(free).flatten().cpu().numpy()

    def _place_batch(self, template: Template, turns: Tensor, places: Tensor, allowed: int) -> Tensor:
        """`place` for as many poses as fit in memory at once."""
        if self.periodic and 2 * template.reach_px >= min(self.shape[1:]):  # would overlap itself
            return torch.zeros(len(turns), dtype=torch.bool, device=turns.device)
        size = len(self._labels) - 2
        flat = self._flat_cells(template, turns, places)
        labels = self._labels[flat]
        fits = ((labels == 0) | (labels == allowed if allowed else False)).all(1) & (flat < size).any(1)
        which = torch.nonzero(fits).flatten()
        flat = flat[which]
        order = torch.arange(len(which), dtype=torch.int32, device=flat.device)[:, None].expand_as(flat)
        self._owner.scatter_reduce_(0, flat.reshape(-1), order.reshape(-1), "amin")
        wins = ((self._owner[flat] == order) | (flat == size)).all(1)
        self._owner[flat.reshape(-1)] = _NOBODY
        which, flat = which[wins], flat[wins]
        numbers = self.n_instances + 1 + torch.arange(len(which), dtype=torch.int32, device=flat.device)
        real = flat < size
        self.taken += int((real & (self._labels[flat] == 0)).sum())
        self._labels[flat[real]] = numbers[:, None].expand_as(flat)[real]
        self.n_instances += len(which)
        self.poses.append(Poses(template, places[which], turns[which], numbers))
        placed = torch.zeros(len(turns), dtype=torch.bool, device=flat.device)
        placed[which] = True
        return placed

    # ---- searching windows -------------------------------------------------------------------------

    def _search(self, rng: np.random.Generator, template: Template, count: int, *, compact: bool) -> int:
        """Place copies where whole windows of the volume say that one fits, until none is left."""
        reach = template.reach_px
        side = next_fast_len(2 * reach + max(24, reach))
        stride = side - 2 * reach
        tiles = self._window_corners(rng, stride) - reach
        misses = np.zeros(len(tiles), dtype=np.int64)
        placed = 0
        at_once = max(1, _CELLS_AT_ONCE // side**3)
        while placed < count and len(tiles):
            chosen = rng.permutation(len(tiles))[:at_once]
            turns = random_rotations(rng, len(chosen))
            found, places = self._best_places(rng, template, turns, tiles[chosen], side, compact)
            misses[chosen[~found]] += 1
            if found.any():
                good = np.flatnonzero(found)[: count - placed]
                done = self.place(template, turns[good], places[good])
                placed += int(done.sum())
                misses[chosen[good[~done]]] += 1
            keep = misses < _ORIENTATIONS
            tiles, misses = tiles[keep], misses[keep]
        return placed

    def _window_corners(self, rng: np.random.Generator, stride: int) -> NDArray[np.int64]:
        """First searched voxel of windows that cover the slab, from a random origin."""
        low = (self.slab[0], 0, 0)
        high = (self.slab[1], self.shape[1], self.shape[2])
        axes = [np.arange(a - rng.integers(stride), b, stride) for a, b in zip(low, high, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    def _best_places(
        self,
        rng: np.random.Generator,
        template: Template,
        turns: NDArray[np.float64],
        corners: NDArray[np.int64],
        side: int,
        compact: bool,
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """In each window a place where a pose fits: the one that touches most if ``compact``, else any."""
        reach = template.reach_px
        axis = torch.arange(side, device=self.device)
        grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
        cells = torch.as_tensor(corners, device=self.device)[:, None, None, None] + grid
        taken = (self._labels[self._flatten(cells)] != 0).float()
        footprint = _footprints(template, torch.as_tensor(turns.astype(np.float32), device=self.device), side)
        spectrum = torch.fft.rfftn(taken, dim=(1, 2, 3))
        shape = (side, side, side)
        overlap = torch.fft.irfftn(spectrum * torch.fft.rfftn(footprint, dim=(1, 2, 3)).conj(), s=shape)
        inner = slice(reach, side - reach)
        free = overlap[:, inner, inner, inner] < 0.5
        score = torch.as_tensor(rng.random(free.shape, dtype=np.float32), device=self.device)
        if compact:
            rim = _thicken(footprint) - footprint
            touch = torch.fft.irfftn(spectrum * torch.fft.rfftn(rim, dim=(1, 2, 3)).conj(), s=shape)
            score = score + touch[:, inner, inner, inner]
        limit = torch.tensor(self.shape, device=self.device)
        middle = cells[:, inner, inner, inner]
        free &= ((middle >= 0) & (middle < limit)).all(-1)
        score = torch.where(free, score, -1.0).flatten(1)
        best = score.argmax(1)
        n = side - 2 * reach
        inside = torch.stack([best // n**2, best // n % n, best % n], dim=1).cpu().numpy()
        return (score.amax(1) >= 0).cpu().numpy(), corners + reach + inside


def _footprints(template: Template, turns: Tensor, side: int) -> Tensor:
    """Occupied voxels (b, side, side, side) of poses whose origin is voxel 0, wrapped around."""
    middles, taken = occupied_cells(template, turns, torch.zeros(len(turns), 3, device=turns.device))
    z, y, x = ((middles[:, None] + template.near.long()) % side).unbind(-1)
    batch = torch.arange(len(turns), device=turns.device)[:, None]
    volume = torch.zeros(len(turns), side, side, side, device=turns.device)
    volume[batch.expand_as(z)[taken], z[taken], y[taken], x[taken]] = 1.0
    return volume


def _thicken(footprint: Tensor) -> Tensor:
    """Voxels within one voxel of a footprint, wrapped around."""
    for axis in (1, 2, 3):
        footprint = torch.maximum(footprint, torch.maximum(footprint.roll(1, axis), footprint.roll(-1, axis)))
    return footprint
