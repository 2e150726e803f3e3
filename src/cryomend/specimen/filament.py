"""Filaments: strands of subunits along worm-like chains, alone, in bundles and in branched networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryomend.specimen.lattice import HelicalLattice, actin_lattice, helical_poses, microtubule_lattice
from cryomend.specimen.macromolecule import Macromolecule

__all__ = [
    "CentreLine",
    "Filament",
    "Strand",
    "actin_filament",
    "bundle",
    "helical_filament",
    "microtubule",
    "network",
    "outer_radius",
    "worm_like_chain",
]

BRANCH_ANGLE = 70.0  # degrees between daughter and mother, Arp2/3 (doi:10.1073/pnas.95.11.6181)


@dataclass(frozen=True)
class Strand:
    """Copies of one subunit: ``positions_zyx`` (n, 3) Å in the specimen's frame, ``rotations`` (n, 3, 3)."""

    unit: Macromolecule
    positions_zyx: NDArray[np.float64]
    rotations: NDArray[np.float64]


Filament = list[Strand]  # what is claimed as one instance
CentreLine = tuple[NDArray[np.float64], NDArray[np.float64]]  # points and frames of a worm-like chain


def worm_like_chain(
    rng: np.random.Generator,
    *,
    start_zyx: NDArray[np.float64],
    direction_zyx: NDArray[np.float64],
    length: float,
    step: float,
    persistence_length: float,
) -> CentreLine:
    """Centre line of a semi-flexible polymer with a frame that never twists about it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    start_zyx, direction_zyx : array, shape (3,)
        Start in Å, tangent there.
    length, step, persistence_length : float
        Å; the mean cosine of the angle between tangents ``s`` apart is ``exp(-s / persistence_length)``.

    Returns
    -------
    points_zyx : array, shape (n, 3)
        Å.
    frames : array, shape (n, 3, 3)
        Rotation matrices; columns are the images of the Z, Y and X unit vectors, the tangent first.

    Raises
    ------
    ValueError
        If a length is not positive.
    """
    if min(length, step, persistence_length) <= 0:
        raise ValueError(
            "length, step and persistence length must be positive, got "
            f"{length:g}, {step:g} and {persistence_length:g} Å"
        )
    n = max(2, int(length / step))
    tangent = direction_zyx / np.linalg.norm(direction_zyx)
    side = np.cross(tangent, np.eye(3)[np.argmin(np.abs(tangent))])
    side /= np.linalg.norm(side)
    bend = np.sqrt(step / persistence_length)
    points, frames = np.empty((n, 3)), np.empty((n, 3, 3))
    point = np.array(start_zyx, dtype=np.float64)
    for i in range(n):
        third = np.cross(tangent, side)
        points[i], frames[i] = point, np.stack([tangent, side, third], axis=1)
        point = point + step * tangent
        kick = bend * rng.standard_normal(2)
        tangent = tangent + kick[0] * side + kick[1] * third
        tangent /= np.linalg.norm(tangent)
        side = side - tangent * (side @ tangent)
        side /= np.linalg.norm(side)
    return points, frames


def microtubule(
    rng: np.random.Generator,
    points_zyx: NDArray[np.float64],
    frames: NDArray[np.float64],
    protofilaments: int,
    alpha: Macromolecule,
    beta: Macromolecule,
) -> Filament:
    """Microtubule with the B lattice of αβ dimers, its seam at a random azimuth.

    Like monomers lie side by side, except across the seam of a lattice with an odd number
    of starts, where α meets β; see `microtubule_lattice`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    points_zyx, frames : array, shape (n, 3), (n, 3, 3)
        From `worm_like_chain` with a step of 40 Å; the plus end is the last point.
    protofilaments : int
        12 to 15 in nature.
    alpha, beta : Macromolecule
        Monomers with Z towards the plus end, Y outwards, the origin in the middle of the wall.

    Returns
    -------
    list of Strand
        α, then β.

    Raises
    ------
    ValueError
        As `microtubule_lattice` and `helical_poses`.
    """
    lattice = microtubule_lattice(protofilaments)
    positions, rotations = helical_poses(lattice, points_zyx, _turned(rng, frames))
    even = np.repeat(np.arange(len(points_zyx)), protofilaments) % 2 == 0
    return [Strand(alpha, positions[even], rotations[even]), Strand(beta, positions[~even], rotations[~even])]


def actin_filament(
    rng: np.random.Generator,
    points_zyx: NDArray[np.float64],
    frames: NDArray[np.float64],
    unit: Macromolecule,
) -> Filament:
    """F-actin along a centre line with steps of 27.5 Å; see `actin_lattice` and `helical_filament`."""
    return helical_filament(rng, points_zyx, frames, actin_lattice(), unit)


def helical_filament(
    rng: np.random.Generator,
    points_zyx: NDArray[np.float64],
    frames: NDArray[np.float64],
    lattice: HelicalLattice,
    unit: Macromolecule,
) -> Filament:
    """Helical filament of any subunit, at a random azimuth.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    points_zyx, frames : array, shape (n, 3), (n, 3, 3)
        From `worm_like_chain` with ``step = lattice.rise``.
    lattice : HelicalLattice
        Rise, twist, radius and starts.
    unit : Macromolecule
        Subunit with Z along the axis and Y outwards.

    Raises
    ------
    ValueError
        As `helical_poses`.
    """
    return [Strand(unit, *helical_poses(lattice, points_zyx, _turned(rng, frames)))]


def outer_radius(filament: Filament, line: CentreLine) -> float:
    """Distance in Å of a filament's outermost point from its centre line, over its first subunits."""
    points, frames = line
    tree = cKDTree(points)
    radius = 0.0
    for strand in filament:
        some = slice(0, 48)
        beads = strand.unit.positions_zyx @ strand.rotations[some].transpose(0, 2, 1)
        beads = (beads + strand.positions_zyx[some, None]).reshape(-1, 3)
        nearest = tree.query(beads)[1]
        local = np.einsum("nji,nj->ni", frames[nearest], beads - points[nearest])
        radius = max(radius, float(np.hypot(local[:, 1], local[:, 2]).max(initial=0.0)))
    return radius


def bundle(
    rng: np.random.Generator,
    line: CentreLine,
    make: Callable[[NDArray[np.float64], NDArray[np.float64]], Filament],
    *,
    count: int,
    gap: float,
) -> list[Filament]:
    """Parallel filaments on a hexagonal array that bend together.

    Each is shifted off its site by up to a quarter of the gap, so that neighbouring surfaces are
    half a gap to one and a half gaps apart, and starts at a random point of its first step.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    line : tuple of array
        Centre line of the bundle, from `worm_like_chain`.
    make : callable
        Makes one filament from the points and frames of its own centre line.
    count : int
        Number of filaments.
    gap : float
        Between the outer surfaces of neighbours, Å.

    Raises
    ------
    ValueError
        If the count is below 1 or the gap negative.
    """
    if count < 1 or gap < 0:
        raise ValueError(f"a bundle needs count >= 1 and gap >= 0, got {count} and {gap:g} Å")
    spacing = 2 * outer_radius(make(*line), line) + gap
    angle, shift = rng.uniform(0, 2 * np.pi, count), gap / 4 * np.sqrt(rng.uniform(0, 1, count))
    disorder = shift[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    offsets = spacing * _hexagonal_sites(rng, count) + disorder
    return [make(*_parallel_line(rng, line, offset)) for offset in offsets]


def network(
    rng: np.random.Generator,
    line: CentreLine,
    make: Callable[[NDArray[np.float64], NDArray[np.float64]], Filament],
    *,
    branches: int,
    length: float,
    persistence_length: float,
) -> list[Filament]:
    """Branched network: daughters leave mothers at 70° towards their far (barbed) end.

    Each daughter's mother is any filament made before it. Of twelve random azimuths the one nearest
    to the plane of the slab is taken: networks are flat, as in lamellipodia. Daughters start where
    their surface clears the mother's by about one subunit, the room of the Arp2/3 complex, which is
    not made.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    line : tuple of array
        Centre line of the first mother, from `worm_like_chain`.
    make : callable
        Makes one filament from the points and frames of its centre line.
    branches : int
        Number of daughters.
    length, persistence_length : float
        Of the daughters, Å.

    Returns
    -------
    list of list of Strand
        The first mother, then the daughters.
    """
    filaments, lines = [make(*line)], [line]
    step = float(np.linalg.norm(line[0][1] - line[0][0]))
    radius = outer_radius(filaments[0], line)
    polar = np.radians(BRANCH_ANGLE)
    clear = radius * (1 + np.cos(polar)) + 2 * step  # the rim of the daughter's first disc tilts inwards
    for _ in range(branches):
        points, frames = lines[int(rng.integers(len(lines)))]
        i, azimuths = int(rng.integers(len(points))), rng.uniform(0, 2 * np.pi, 12)
        outward = np.stack([0 * azimuths, np.cos(azimuths), np.sin(azimuths)], axis=1)
        directions = (np.array([np.cos(polar), 0, 0]) + np.sin(polar) * outward) @ frames[i].T
        direction = directions[np.argmin(np.abs(directions[:, 0]))]
        lines.append(
            worm_like_chain(
                rng,
                start_zyx=points[i] + clear / np.sin(polar) * direction,
                direction_zyx=direction,
                length=length,
                step=step,
                persistence_length=persistence_length,
            )
        )
        filaments.append(make(*lines[-1]))
    return filaments


def _turned(rng: np.random.Generator, frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frames turned about the tangent by one random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    return frames @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _hexagonal_sites(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """The ``count`` sites of a hexagonal array (spacing 1) nearest to a random point, about their mean."""
    reach = int(np.sqrt(count)) + 2
    a, b = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    sites = np.stack([a + b / 2, b * np.sqrt(3) / 2], axis=-1).reshape(-1, 2)
    order = np.argsort(np.linalg.norm(sites - rng.uniform(-0.5, 0.5, 2), axis=1), kind="stable")
    return sites[order[:count]] - sites[order[:count]].mean(0)


def _parallel_line(rng: np.random.Generator, line: CentreLine, offset: NDArray[np.float64]) -> CentreLine:
    """A centre line beside another, ``offset`` Å along its Y and X axes, with the same step."""
    points, frames = line
    step = float(np.linalg.norm(points[1] - points[0]))
    path = points + frames[:, :, 1:] @ offset
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.arange(rng.uniform(0, min(step, arc[-1])), arc[-1], step / 100)
    fine = np.stack([np.interp(at, arc, path[:, i]) for i in range(3)], axis=1)
    chosen, i = [0], 0  # points one straight step apart: outer lines of a bend are longer, kinks are cut
    while (far := np.linalg.norm(fine[i + 1 : i + 1000] - fine[i], axis=1) >= step).any():
        i += 1 + int(far.argmax())
        chosen.append(i)
    return fine[chosen], frames[np.searchsorted(arc, at[chosen], side="right") - 1]
