"""Chromatin: nucleosomes and linker DNA made in code, and fibres of them that avoid themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryomend.geometry import random_rotation
from cryomend.specimen.filament import Filament, Strand
from cryomend.specimen.macromolecule import PROTEIN_VOLUME_PER_DALTON, Macromolecule
from cryomend.specimen.subunit import as_macromolecule, carve_protein, grid_points

__all__ = ["b_dna", "nucleosome", "nucleosome_fibre", "nucleosome_sites"]

BASE_PAIR_RISE = 3.4  # Å
BASE_PAIRS_PER_TURN = 10.5
# V Å³ above ice: form factors of a mean pair (C19.5 H22.5 N7.5 O12.5 P2) less the ice in 570 Å³ (0.55 cm³/g).
BASE_PAIR_POTENTIAL = 2815.0
DNA_PERSISTENCE = 500.0  # Å
DNA_RADIUS = 10.0  # Å

# Superhelix of the DNA on the histone octamer (doi:10.1038/38444, doi:10.1038/nature01595); left-handed.
SUPERHELIX_RADIUS, SUPERHELIX_PITCH, SUPERHELIX_TURNS = 41.8, 26.0, 1.65  # Å, Å
CORE_BASE_PAIRS = 147  # the ends beyond the superhelix leave straight
OCTAMER_KDA = 108.8

_MINOR_GROOVE = np.radians(150)  # between the two backbones at one height
# Phosphate, sugar and base of a nucleotide: distance from the axis in Å, share of the potential.
_NUCLEOTIDE = ((8.9, 0.24), (6.3, 0.32), (2.8, 0.44))
_BODY_RADIUS, _ROD_RADIUS = 5.0, DNA_RADIUS  # of the balls that stand for a nucleosome and a linker, Å
_TRIES_PER_SITE = 24


def b_dna(base_pairs: int) -> Macromolecule:
    """Straight right-handed B-DNA along Z about its middle: 3.4 Å per pair, 10.5 pairs per turn.

    Raises
    ------
    ValueError
        If there is no base pair.
    """
    if base_pairs < 1:
        raise ValueError(f"DNA needs at least 1 base pair, got {base_pairs}")
    points = np.zeros((base_pairs, 3))
    points[:, 0] = (np.arange(base_pairs) - (base_pairs - 1) / 2) * BASE_PAIR_RISE
    frames = np.broadcast_to(np.eye(3), (base_pairs, 3, 3))
    return as_macromolecule(f"DNA-{base_pairs}bp", *_duplex(points, frames), spread=2.0)


def nucleosome(rng: np.random.Generator, *, name: str = "nucleosome") -> Macromolecule:
    """Make a nucleosome core particle: a disc about 105 Å wide and 60 Å high of about 200 kDa.

    147 base pairs of DNA, 1.65 left-handed turns of them on a superhelix of radius 41.8 Å and pitch
    26 Å around the histone octamer, the ends straight. Superhelix axis along Z, dyad along Y,
    where the two ends cross.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the octamer's texture.
    name : str
        Name of the species.

    References
    ----------
    Luger et al. 1997, doi:10.1038/38444; Richmond & Davey 2003, doi:10.1038/nature01595.
    """
    along = (np.arange(CORE_BASE_PAIRS, dtype=np.float64) - (CORE_BASE_PAIRS - 1) / 2) * BASE_PAIR_RISE
    path, frames = _superhelix(along)
    dna, dna_weights = _duplex(path, frames)
    points, cell = grid_points((60.0, 76.0, 76.0), 4.0)
    points = points[cKDTree(path).query(points)[0] > DNA_RADIUS]
    radial = np.hypot(points[:, 1], points[:, 2])
    depth = 1 - np.hypot((radial / 34) ** 2, (points[:, 0] / 29) ** 2)
    volume = 1000 * OCTAMER_KDA * PROTEIN_VOLUME_PER_DALTON
    histones = carve_protein(rng, "histones", points, depth, cell=cell, volume=volume)
    positions = np.concatenate([histones.positions_zyx, dna])
    return as_macromolecule(name, positions, np.concatenate([histones.weights, dna_weights]), spread=2.0)


def nucleosome_sites() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where DNA enters and leaves a `nucleosome`: positions (2, 3) in Å, directions (2, 3) along the DNA."""
    points, frames = _ends()
    return points, frames[:, :, 0]


def nucleosome_fibre(
    rng: np.random.Generator,
    start_zyx: NDArray[np.float64],
    core: Macromolecule,
    *,
    count: int,
    linker_bp: int,
    is_free: Callable[[NDArray[np.float64]], bool] | None = None,
) -> Filament:
    """Grow a zigzag of nucleosomes and straight linkers that never runs into itself.

    The two-angle model: a linker runs on from where DNA leaves one nucleosome, and the next is threaded
    onto its end, turned about it by any angle. At both ends the linker bends by what thermal
    motion gives it. What collides is drawn again, and dead ends are retraced.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    start_zyx : array, shape (3,)
        Centre of the first nucleosome, Å.
    core : Macromolecule
        From `nucleosome`, or any in its frame.
    count : int
        Number of nucleosomes wanted; fewer where the fibre finds no way on (short linkers).
    linker_bp : int
        Base pairs between nucleosomes.
    is_free : callable, optional
        Tells whether points (n, 3) in Å may all be taken; anywhere if None.

    Returns
    -------
    list of Strand
        The nucleosomes, then the linkers (rods of `b_dna`) if there are any; empty if not even the first
        nucleosome fits.

    Raises
    ------
    ValueError
        If the count or the linker is below 1.

    References
    ----------
    Woodcock et al. 1993, doi:10.1073/pnas.90.19.9021.
    """
    if count < 1:
        raise ValueError(f"a fibre needs at least 1 nucleosome, got {count}")
    rod = b_dna(linker_bp)
    chain = _Chain(_coarse(core.positions_zyx), linker_bp * BASE_PAIR_RISE, is_free or (lambda _: True))
    chain.begin(rng, np.asarray(start_zyx, dtype=np.float64))
    stuck, tries, longest = 0, 0, chain.strands(core, rod)
    while 0 < len(chain.centres) < count and 2 * tries < _TRIES_PER_SITE * count:
        stuck, tries = (0 if chain.extend(rng) else stuck + 1), tries + 1
        if longest and len(chain.centres) > len(longest[0].positions_zyx):
            longest = chain.strands(core, rod)
        if stuck == _TRIES_PER_SITE:
            chain.retrace(int(rng.integers(1, 9)))  # a fixed number would run into the same end again
            stuck = 0
    return longest


@dataclass
class _Chain:
    """Nucleosomes and linkers of a growing fibre."""

    body: NDArray[np.float64]  # coarse points of a nucleosome about its centre
    length: float  # of a linker
    is_free: Callable[[NDArray[np.float64]], bool]
    centres: list[NDArray[np.float64]] = field(default_factory=list)
    rotations: list[NDArray[np.float64]] = field(default_factory=list)
    middles: list[NDArray[np.float64]] = field(default_factory=list)
    turns: list[NDArray[np.float64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.entry, self.exit), frames = _ends()
        self.to_entry, self.exit_along = frames[0].T, frames[1, :, 0]
        along = np.arange(0, self.length, 5.0) - (self.length - 1e-9) / 2
        self.rod = np.stack([along, np.zeros_like(along), np.zeros_like(along)], axis=1)

    def strands(self, core: Macromolecule, rod: Macromolecule) -> Filament:
        """The chain as it stands."""
        parts = [(core, self.centres, self.rotations), (rod, self.middles, self.turns)]
        return [Strand(unit, np.array(places), np.array(turns)) for unit, places, turns in parts if places]

    def begin(self, rng: np.random.Generator, centre: NDArray[np.float64]) -> None:
        """Put down the first nucleosome, in an orientation that is free."""
        for _ in range(_TRIES_PER_SITE):
            rotation = random_rotation(rng)
            if self.is_free(self.body @ rotation.T + centre):
                self.centres.append(centre)
                self.rotations.append(rotation)
                return

    def extend(self, rng: np.random.Generator) -> bool:
        """Try one linker and nucleosome at the end of the chain."""
        last = self.rotations[-1]
        leave = self.centres[-1] + last @ self.exit
        along = _bent(rng, last @ self.exit_along, self.length)
        turn = _frame_along(rng, along)
        middle = leave + along * self.length / 2
        rotation = _frame_along(rng, _bent(rng, along, self.length)) @ self.to_entry
        centre = leave + along * self.length - rotation @ self.entry
        body, rod = self.body @ rotation.T + centre, self.rod @ turn.T + middle
        if not self.is_free(np.concatenate([body, rod])) or self._collides(body, rod):
            return False
        self.centres.append(centre)
        self.rotations.append(rotation)
        self.middles.append(middle)
        self.turns.append(turn)
        return True

    def retrace(self, steps: int) -> None:
        """Forget the last nucleosomes and linkers, but keep the first nucleosome."""
        keep = max(1, len(self.centres) - steps)
        del self.centres[keep:], self.rotations[keep:], self.middles[keep - 1 :], self.turns[keep - 1 :]

    def _collides(self, body: NDArray[np.float64], rod: NDArray[np.float64]) -> bool:
        """Tell whether a nucleosome and the linker that leads to it touch what stands already."""
        mixed = _BODY_RADIUS + _ROD_RADIUS
        last = len(self.centres) - 1  # the linker comes from it
        return (
            _closer(body, self.body, self.rotations, self.centres, 2 * _BODY_RADIUS)
            or _closer(rod, self.body, self.rotations[:last], self.centres[:last], mixed)
            or _closer(body, self.rod, self.turns, self.middles, mixed)
            or _closer(rod, self.rod, self.turns, self.middles, 2 * _ROD_RADIUS)
        )


def _closer(
    points: NDArray[np.float64],
    shape: NDArray[np.float64],
    rotations: list[NDArray[np.float64]],
    centres: list[NDArray[np.float64]],
    distance: float,
) -> bool:
    """Tell whether any point lies within a distance of any point of any copy of a shape."""
    if not centres:
        return False
    middle = points.mean(0)
    reach = np.sqrt(((points - middle) ** 2).sum(1).max()) + np.sqrt((shape**2).sum(1).max()) + distance
    near = np.flatnonzero(((np.array(centres) - middle) ** 2).sum(1) < reach**2)
    if len(near) == 0:
        return False
    others = np.concatenate([shape @ rotations[i].T + centres[i] for i in near])
    return bool(np.isfinite(cKDTree(points).query(others, distance_upper_bound=distance)[0]).any())


def _bent(rng: np.random.Generator, along: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """A direction bent by half of what a worm-like chain bends over a length."""
    kick = rng.normal(0, np.sqrt(length / (2 * DNA_PERSISTENCE)), 3)
    bent: NDArray[np.float64] = along + kick - along * (kick @ along)
    return bent / np.linalg.norm(bent)


def _frame_along(rng: np.random.Generator, along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation that carries Z onto a unit direction, with a random turn about it."""
    a, b, c = along
    p, q, r = rng.standard_normal(3)
    side = np.array([b * r - c * q, c * p - a * r, a * q - b * p])
    p, q, r = side = side / np.sqrt(side @ side)
    return np.array([along, side, (b * r - c * q, c * p - a * r, a * q - b * p)]).T


def _ends() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and frames of the DNA's axis at the two ends of a nucleosome's DNA."""
    return _superhelix(np.array([-0.5, 0.5]) * CORE_BASE_PAIRS * BASE_PAIR_RISE)


def _superhelix(along: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and frames of the DNA's axis at arc lengths from the dyad; straight beyond the superhelix."""
    turn = np.hypot(2 * np.pi * SUPERHELIX_RADIUS, SUPERHELIX_PITCH)  # arc length
    wound = np.clip(along, -SUPERHELIX_TURNS * turn / 2, SUPERHELIX_TURNS * turn / 2)
    angle = 2 * np.pi * wound / turn  # from Y to X about Z, which is left-handed in XYZ
    c, s, zero = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    tangent = np.stack(
        [zero + SUPERHELIX_PITCH, *(2 * np.pi * SUPERHELIX_RADIUS * np.array([-s, c]))], axis=1
    )
    tangent /= turn
    radial = np.stack([zero, c, s], axis=1)
    points = (
        np.stack([SUPERHELIX_PITCH * angle / (2 * np.pi), zero, zero], axis=1) + SUPERHELIX_RADIUS * radial
    )
    frames = np.stack([tangent, radial, np.cross(tangent, radial)], axis=2)
    return points + (along - wound)[:, None] * tangent, frames


def _duplex(
    points: NDArray[np.float64], frames: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions and weights of the double helix around an axis with one point per base pair."""
    positions, weights = [], []
    for strand in (0.0, _MINOR_GROOVE):
        angle = 2 * np.pi * np.arange(len(points)) / BASE_PAIRS_PER_TURN + strand
        outward = np.stack(
            [np.zeros_like(angle), np.sin(angle), np.cos(angle)], axis=1
        )  # X to Y: right-handed
        for radius, share in _NUCLEOTIDE:
            positions.append(points + radius * np.einsum("nij,nj->ni", frames, outward))
            weights.append(np.full(len(points), share * BASE_PAIR_POTENTIAL / 2))
    return np.concatenate(positions), np.concatenate(weights)


def _coarse(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means of the points in cells of 8 Å."""
    cells, inverse = np.unique(np.floor(points / 8), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    share = np.bincount(inverse, minlength=len(cells))
    return np.stack([np.bincount(inverse, points[:, i]) / share for i in range(3)], axis=1)
