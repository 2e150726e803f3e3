"""Filaments: helical arrays of subunits along a worm-like chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HelicalLattice", "actin_lattice", "helical_poses", "microtubule_lattice", "worm_like_chain"]


@dataclass(frozen=True)
class HelicalLattice:
    """Cylindrical lattice of subunits: ``radius`` and ``rise`` in Å, ``twist`` in degrees per subunit.

    ``starts`` subunits share one height; strand ``s`` is turned by ``360 s / starts`` degrees and
    shifted along the axis by ``strand_shift * s`` Å.
    """

    radius: float
    rise: float
    twist: float
    starts: int = 1
    strand_shift: float = 0.0


def microtubule_lattice(protofilaments: int = 13) -> HelicalLattice:
    """Microtubule of tubulin monomers: 40 Å along a protofilament, three-start helix, seam included.

    The radius of 112 Å of 13 protofilaments (outer diameter 250 Å) scales with their number.
    """
    return HelicalLattice(112.0 * protofilaments / 13, 40.0, 0.0, protofilaments, 3 * 40.0 / protofilaments)


def actin_lattice() -> HelicalLattice:
    """F-actin: 27.5 Å rise and -166.7 degrees twist per subunit, centres 16 Å off the axis.

    Angles here run from Y to X about Z, against the right-hand rule of XYZ: hence the plus sign.
    """
    return HelicalLattice(16.0, 27.5, 166.7)


def worm_like_chain(
    rng: np.random.Generator,
    *,
    start_zyx: NDArray[np.float64],
    direction_zyx: NDArray[np.float64],
    length: float,
    step: float,
    persistence_length: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre line of a semi-flexible polymer with a frame that never twists about it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    start_zyx, direction_zyx : array, shape (3,)
        Start in Å, unit tangent there.
    length, step, persistence_length : float
        Å; the mean cosine of the angle between tangents ``s`` apart is ``exp(-s / persistence_length)``.

    Returns
    -------
    points_zyx : array, shape (n, 3)
        Å.
    frames : array, shape (n, 3, 3)
        Rotation matrices; columns are the images of the Z, Y and X unit vectors, the tangent first.
    """
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


def helical_poses(
    lattice: HelicalLattice, points_zyx: NDArray[np.float64], frames: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions and orientations of the subunits on a lattice wound around a centre line.

    Parameters
    ----------
    lattice : HelicalLattice
        The lattice; its rise is the step of the centre line.
    points_zyx, frames : array, shape (n, 3), (n, 3, 3)
        From `worm_like_chain` with ``step = lattice.rise``.

    Returns
    -------
    positions_zyx : array, shape (n * starts, 3)
        Å.
    rotations : array, shape (n * starts, 3, 3)
        The subunit's Z along the axis, its Y pointing outwards.
    """
    n = len(points_zyx)
    strand = np.tile(np.arange(lattice.starts), n)
    level = np.repeat(np.arange(n), lattice.starts)
    angle = np.radians(lattice.twist * level + 360 / lattice.starts * strand)
    c, s = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(c), np.ones_like(c)
    spin = np.stack([one, zero, zero, zero, c, -s, zero, s, c], axis=1).reshape(-1, 3, 3)
    local = np.stack([lattice.strand_shift * strand, lattice.radius * c, lattice.radius * s], axis=1)
    frame = frames[level]
    positions = points_zyx[level] + np.einsum("nij,nj->ni", frame, local)
    return positions, frame @ spin
