"""Helical lattices, and the poses of subunits on a lattice wound around a centre line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cryomend.specimen.subunit import TUBULIN_CELL, TUBULIN_RADIUS

__all__ = ["HelicalLattice", "actin_lattice", "helical_poses", "microtubule_lattice"]


@dataclass(frozen=True)
class HelicalLattice:
    """Cylindrical lattice of subunits.

    Angles are right-handed about the axis in XYZ, as in the field's files, in degrees; lengths in Å.

    Attributes
    ----------
    radius : float
        Of the subunits' origins from the axis.
    rise, twist : float
        From one subunit of a strand to the next; a negative twist makes a left-handed helix.
    starts : int
        Number of strands, ``360 / starts`` apart.
    strand_shift : float
        Along the axis from one strand to the next, which the twist follows.
    """

    radius: float
    rise: float
    twist: float
    starts: int = 1
    strand_shift: float = 0.0

    def __post_init__(self) -> None:
        if self.rise <= 0 or self.radius < 0 or self.starts < 1:
            raise ValueError(
                "a helical lattice needs rise > 0, radius >= 0 and starts >= 1, got "
                f"{self.rise:g}, {self.radius:g}, {self.starts}"
            )


def microtubule_lattice(protofilaments: int = 13) -> HelicalLattice:
    """Lattice of tubulin monomers, one strand per protofilament.

    The helix through lateral contacts is left-handed with the number of starts that skews the
    protofilaments least: three for 11 to 15, which leaves one seam. The radius grows with the number of
    protofilaments, the supertwist follows from the lattice accommodation model.

    Parameters
    ----------
    protofilaments : int
        At least 3.

    Raises
    ------
    ValueError
        If there are fewer than 3.

    Notes
    -----
    With ``S`` starts, monomer length ``a``, lateral stagger ``d = 3 a / 13`` and spacing ``w``, the
    skew of ``N`` protofilaments is ``tan θ = (S a - N d) / (N w)``, right-handed when positive: none for
    13, +0.9° for 12, -0.7° for 14 (Chrétien & Wade 1991, doi:10.1016/0248-4900(91)90062-R).
    15 protofilaments are also seen with four starts, which are not made here.
    """
    if protofilaments < 3:
        raise ValueError(f"a microtubule needs at least 3 protofilaments, got {protofilaments}")
    length, width = TUBULIN_CELL
    radius = TUBULIN_RADIUS * protofilaments / 13
    starts = max(1, round(3 * protofilaments / 13))
    skew = (starts * length - protofilaments * 3 * length / 13) / (protofilaments * width)
    twist = float(np.degrees(length * skew / radius))
    return HelicalLattice(radius, length, twist, protofilaments, -starts * length / protofilaments)


def actin_lattice() -> HelicalLattice:
    """F-actin: 27.5 Å rise and -166.7° twist per subunit, centres 16 Å off the axis.

    The one-start helix is left-handed, the two long-pitch strands right-handed (Holmes et al. 1990,
    doi:10.1038/347044a0).
    """
    return HelicalLattice(16.0, 27.5, -166.7)


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
        Å, all strands of the first point, then of the second.
    rotations : array, shape (n * starts, 3, 3)
        The subunit's Z along the axis, its Y pointing outwards.

    Raises
    ------
    ValueError
        If the step of the centre line is not the rise, to 2 %.
    """
    n = len(points_zyx)
    step = np.linalg.norm(np.diff(points_zyx, axis=0), axis=1)
    if n > 1 and abs(step.mean() / lattice.rise - 1) > 0.02:
        raise ValueError(
            f"the centre line has steps of {step.mean():g} Å, but the lattice rises {lattice.rise:g} Å"
        )
    strand = np.tile(np.arange(lattice.starts), n)
    height = lattice.rise * np.repeat(np.arange(n), lattice.starts) + lattice.strand_shift * strand
    # Y to X about Z runs against the right hand of XYZ: hence the minus.
    angle = -np.radians(lattice.twist * height / lattice.rise + 360 / lattice.starts * strand)
    c, s = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(c), np.ones_like(c)
    spin = np.stack([one, zero, zero, zero, c, -s, zero, s, c], axis=1).reshape(-1, 3, 3)
    below = np.clip(np.floor(height / lattice.rise + 1e-6).astype(np.int64), 0, n - 1)
    along = height - lattice.rise * below
    local = np.stack([along, lattice.radius * c, lattice.radius * s], axis=1)
    frame = frames[below]
    return points_zyx[below] + np.einsum("nij,nj->ni", frame, local), frame @ spin
