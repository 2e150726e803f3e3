"""Macromolecules made from nothing: folded chains of domains, copied by a point group or a screw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryomend.specimen.macromolecule import (
    PROTEIN_CONTRAST,
    PROTEIN_VOLUME_PER_DALTON,
    FormFactor,
    Macromolecule,
)
from cryomend.specimen.random_field import random_field

__all__ = ["procedural_macromolecule", "symmetry_rotations"]

_POINTS = 10_000  # about so many describe a macromolecule, and
_SUBUNIT_POINTS = 300  # at least so many a subunit,
_SPACING = (3.0, 7.5)  # Å, unless they would lie closer or farther apart than this
_HELIX_SUBUNITS = (60, 6)  # at most and at least, of 20 kDa or more where that leaves enough
_HELIX_NEIGHBOURS = 40  # copies on either side that can touch a subunit
_LATTICES = 12  # tries to find a helix that hangs together
_DIRECTIONS = 3  # tries to find a place for the subunit of a point group
_CONTACT = 0.85  # distance of neighbouring domains over the sum of their radii,
_INTERFACE = 0.75  # of domains where copies touch: rough surfaces must still meet

Motions = tuple[NDArray[np.float64], NDArray[np.float64]]


def symmetry_rotations(symmetry: str) -> NDArray[np.float64]:
    """Rotation matrices (n, 3, 3) of a point group, the identity first: Cn, Dn, T, O or I.

    They act on ZYX columns; the main axis of Cn and Dn is Z.

    Raises
    ------
    ValueError
        If the name is no such group.
    """
    try:
        matrices: NDArray[np.float64] = Rotation.create_group(symmetry.upper()).as_matrix()
    except ValueError:
        raise ValueError(f"unknown point group {symmetry!r}; use Cn, Dn, T, O or I") from None
    matrices = matrices[:, ::-1, ::-1]  # SciPy's act on XYZ
    identity_first = np.argsort(-np.trace(matrices, axis1=1, axis2=2), kind="stable")
    return matrices[identity_first]


def procedural_macromolecule(
    rng: np.random.Generator, *, mass_kda: float, symmetry: str = "C1", name: str = "procedural"
) -> Macromolecule:
    """Make up a macromolecule: a chain of globular domains, folded compactly and copied by symmetry.

    Domains are balls with rough surfaces and an uneven interior; the volume follows from the
    mass (1.21 Å³/Da), the contrast is that of protein. Copies share space by nearest domain, so
    they touch and never overlap, and the symmetry is exact. A helix (``H``) has a drawn rise and
    twist along Z and as many subunits as its mass needs; it is symmetric but for its ends.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    mass_kda : float
        Total mass in kDa.
    symmetry : str
        Point group, as in `symmetry_rotations`, or ``H``.
    name : str
        Name of the species.

    Returns
    -------
    Macromolecule
        Points copy by copy, each in the same order; the origin is the centre of mass where the
        symmetry leaves it free, and lies on the axes where not.

    Raises
    ------
    ValueError
        If the mass is not positive or the symmetry unknown.
    """
    if not mass_kda > 0:
        raise ValueError(f"mass must be positive, got {mass_kda:g} kDa")
    total = 1000 * mass_kda * PROTEIN_VOLUME_PER_DALTON
    if symmetry.upper() == "H":
        centres, radii, copies, neighbours = _helix(rng, total)
    else:
        centres, radii, copies = _point_group(rng, total, symmetry_rotations(symmetry))
        neighbours = copies
    volume = total / len(copies[0])
    spacing = min(total / _POINTS, volume / _SUBUNIT_POINTS) ** (1 / 3)
    spacing = float(np.clip(spacing, *_SPACING))
    grid, depth = _own_space(centres, radii, neighbours, spacing)
    depth = depth + rng.uniform(0.1, 0.35) * random_field(rng, wavelength=rng.uniform(18, 45), n_waves=16).at(
        grid
    )
    keep = np.argsort(-depth, kind="stable")[: max(8, round(volume / spacing**3))]
    texture = np.clip(
        1 + 0.25 * random_field(rng, wavelength=rng.uniform(12, 25), n_waves=16).at(grid[keep]), 0.2, 2
    )
    weights = PROTEIN_CONTRAST * volume * texture / texture.sum()
    points = _copy(grid[keep], copies)
    points -= _free_centre(points, symmetry)
    spread = FormFactor((1.0,), ((spacing / 2) ** 2,))
    return Macromolecule(
        name,
        points.astype(np.float32),
        np.tile(weights, len(copies[0])).astype(np.float32),
        form_factors=(spread,),
    )


def _copy(points: NDArray[Any], motions: Motions) -> NDArray[np.float64]:
    """Points of all copies, one copy after the other."""
    rotations, shifts = motions
    copies: NDArray[np.float64] = (points @ rotations.transpose(0, 2, 1) + shifts[:, None]).reshape(-1, 3)
    return copies


def _free_centre(points: NDArray[np.float64], symmetry: str) -> NDArray[np.float64]:
    """Centre of mass along the directions in which the symmetry does not fix the origin."""
    centre: NDArray[np.float64] = points.mean(0)
    if symmetry.upper() == "C1":
        return centre
    free = symmetry[0].upper() in "CH"
    return np.array([centre[0] if free else 0.0, 0.0, 0.0])


def _point_group(
    rng: np.random.Generator, total: float, rotations: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], Motions]:
    """Domains of one subunit, as far off the symmetry axes as lets the copies touch, and the copies."""
    order = len(rotations)
    copies = (rotations, np.zeros((order, 3)))
    centres, radii = _fold_domains(rng, total / order, crowded=order > 1)
    if order == 1:
        return centres, radii, copies
    least = 0.7 * (3 / (4 * np.pi) * total) ** (1 / 3)  # a full ball; nearer would leave no room
    directions = _unit_vectors(rng, _DIRECTIONS)
    distances = [_touching_distance(centres, radii, u, rotations, least) for u in directions]
    best = int(np.argmax(distances))  # on a symmetry axis copies crowd before all of them touch
    distance = max(least, distances[best] * rng.uniform(0.8, 1.0))
    return centres + distance * directions[best], radii, copies


def _touching_distance(
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    direction: NDArray[np.float64],
    rotations: NDArray[np.float64],
    least: float,
) -> float:
    """Largest distance from the origin, from ``least`` on, at which the copies hang together."""
    quotients = _quotients(rotations)
    extent = float((np.linalg.norm(centres, axis=1) + radii).max())
    most = max(least, extent * (1 + 0.45 * len(rotations)))
    before = np.zeros(len(rotations), dtype=bool)
    for distance in np.geomspace(most, least, 30):
        touching = _touches(centres + distance * direction, radii, (rotations, np.zeros((len(rotations), 3))))
        if (touching != before).any() and connected_components(touching[quotients], directed=False)[0] == 1:
            return float(distance)
        before = touching
    return least


def _quotients(rotations: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the element that carries copy a to copy b, seen from copy a, for all pairs of copies."""
    products = np.einsum("aji,bjk->abik", rotations, rotations).reshape(len(rotations) ** 2, 9)
    nearest = np.argmax(products @ rotations.reshape(-1, 9).T, axis=1)
    return nearest.reshape(len(rotations), -1)


def _touches(centres: NDArray[np.float64], radii: NDArray[np.float64], copies: Motions) -> NDArray[np.bool_]:
    """Tell for each copy whether a domain of it meets a domain of the subunit."""
    other = _copy(centres, copies).reshape(-1, len(centres), 3)
    gaps = np.linalg.norm(other[:, :, None] - centres, axis=-1) - _INTERFACE * (radii[:, None] + radii)
    touches: NDArray[np.bool_] = gaps.min(axis=(1, 2)) < 0
    return touches


def _helix(
    rng: np.random.Generator, total: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], Motions, Motions]:
    """Domains of one subunit of a helix along Z, its copies, and the neighbours that share its space.

    Subunits spread over the surface of a cylinder so that each has about its own cross section,
    ``2π R rise = A``; lattices are drawn until one hangs together. Neighbours go on beyond the ends,
    so that all copies are alike.
    """
    kda = 1000 * PROTEIN_VOLUME_PER_DALTON
    low, high = (total / kda / most for most in _HELIX_SUBUNITS)
    n = round(total / (kda * rng.uniform(min(max(20.0, low), high), high)))
    centres, radii = _fold_domains(rng, total / n, crowded=True)
    width = (total / n) ** (1 / 3) * rng.uniform(1.0, 1.2)
    steps = np.arange(-_HELIX_NEIGHBOURS, _HELIX_NEIGHBOURS + 1)
    steps = steps[np.argsort(np.abs(steps), kind="stable")]  # the subunit itself first
    for tries in range(_LATTICES):
        radius = width * rng.uniform(0.35, 1.5 if tries < _LATTICES - 1 else 0.4)
        rise = min(0.9 * width, width**2 / (2 * np.pi * radius)) * rng.uniform(0.8, 1.0)
        twist = float(rng.choice([-1, 1]) * rng.uniform(np.radians(25), np.pi))
        subunit = centres + np.array([0.0, 0.0, radius])
        touching = steps[_touches(subunit, radii, _screw(steps, rise, twist))]
        if np.gcd.reduce(touching) == 1:
            break
    return subunit, radii, _screw(np.arange(n), rise, twist), _screw(steps, rise, twist)


def _screw(steps: NDArray[np.int64], rise: float, twist: float) -> Motions:
    """Rigid motions ``steps`` times along and about Z."""
    rotations = Rotation.from_rotvec(steps[:, None] * twist * np.array([0.0, 0.0, 1.0])).as_matrix()
    return rotations[:, ::-1, ::-1], np.stack([steps * rise, 0 * steps, 0 * steps], axis=1)


def _own_space(
    centres: NDArray[np.float64], radii: NDArray[np.float64], neighbours: Motions, spacing: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Grid points nearer to a domain of the first copy than to any other copy's, and their depth.

    The depth is 1 in the middle of a domain, 0 on its surface and negative outside.
    """
    low = (centres - 2 * radii[:, None]).min(0)
    high = (centres + 2 * radii[:, None]).max(0)
    axes = [np.arange(a, b, spacing) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    near = cKDTree(centres).query(grid, workers=1, distance_upper_bound=2 * radii.max())[0] < np.inf
    grid = grid[near]
    distance, owner = cKDTree(_copy(centres, neighbours)).query(grid, workers=1)
    own = owner < len(centres)
    grid, distance, owner = grid[own], distance[own], owner[own]
    clear = _distance_to_images(grid, neighbours) > 0.7 * spacing
    return grid[clear], 1 - distance[clear] / radii[owner[clear]]


def _distance_to_images(points: NDArray[np.float64], neighbours: Motions) -> NDArray[np.float64]:
    """Distance of each point to the nearest of its own copies; small near symmetry axes."""
    least = np.full(len(points), np.inf)
    for rotation, shift in zip(*neighbours, strict=True):
        if np.trace(rotation) < 3 - 1e-9 or shift.any():
            moved = points @ (rotation - np.eye(3)).T + shift
            least = np.minimum(least, np.square(moved).sum(1))
    return np.sqrt(least)


def _fold_domains(
    rng: np.random.Generator, volume: float, *, crowded: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and radii in Å of the domains of one chain: a compact self-avoiding walk."""
    mean_volume = max(volume / 60, rng.uniform(15, 60) * 1000 * PROTEIN_VOLUME_PER_DALTON)
    n = max(1, round(volume / mean_volume))
    shares = rng.uniform(0.5, 1.5, n)
    radii = (3 / (4 * np.pi) * volume * shares / shares.sum()) ** (1 / 3)
    pull = rng.uniform(0.2, 1.0) if not crowded else rng.uniform(0.0, 1.0)  # 0: extended, 1: globular
    centres = [np.zeros(3)]
    for i in range(1, n):
        step = _CONTACT * (radii[i] + radii[i - 1])
        tries = np.array(centres[-1]) + step * _unit_vectors(rng, 24)
        gap = np.linalg.norm(tries[:, None] - np.array(centres)[None], axis=2).min(1) / step
        far = np.linalg.norm(tries - np.mean(centres, axis=0), axis=1) / step
        score = np.minimum(gap, 0.95) * 3 - pull * far + 0.1 * rng.standard_normal(24)
        centres.append(tries[np.argmax(score)])
    return np.array(centres) - np.mean(centres, axis=0), radii


def _unit_vectors(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """``n`` directions uniform on the sphere."""
    v = rng.standard_normal((n, 3))
    unit: NDArray[np.float64] = v / np.linalg.norm(v, axis=1, keepdims=True)
    return unit
