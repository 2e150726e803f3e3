"""Closed shells of one protein: even coats and icosahedral capsids, about the origin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryomend.geometry import random_rotation
from cryomend.specimen.filament import Strand
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.procedural import symmetry_rotations
from cryomend.specimen.random_field import random_field
from cryomend.specimen.subunit import carve_protein, grid_points

__all__ = ["TRIANGULATIONS", "icosahedral_capsid", "protein_shell"]

TRIANGULATIONS = {
    1: (1, 0),
    3: (1, 1),
    4: (2, 0),
    7: (2, 1),
    13: (3, 1),
}  # steps h, k from pentamer to pentamer
_CAPSID_THICKNESS = 30.0  # Å
_CLOSE = 1.15  # spacing of even units over the cube root of their volume: just touching


def protein_shell(rng: np.random.Generator, unit: Macromolecule, radius: float) -> Strand:
    """Closed coat of evenly spread copies, each with its Z outwards and a random turn about it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    unit : Macromolecule
        The protein; as many copies as cover the sphere.
    radius : float
        From the shell's centre to the units' origins, Å.

    Returns
    -------
    Strand
        At least 12 copies; positions about the shell's centre.

    Raises
    ------
    ValueError
        If the radius is not positive.

    Notes
    -----
    Fibonacci spiral in a random orientation: equal areas, nearest neighbours 0.87 or more of the
    mean spacing apart.
    """
    if radius <= 0:
        raise ValueError(f"the radius of a shell must be positive, got {radius:g} Å")
    count = max(12, round(4 * np.pi * (radius / (_CLOSE * unit.volume ** (1 / 3))) ** 2))
    i = np.arange(count) + 0.5
    height, azimuth = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - height**2)
    normals = np.stack([height, ring * np.sin(azimuth), ring * np.cos(azimuth)], axis=1)
    normals = normals @ random_rotation(rng).T
    return Strand(unit, radius * normals, _facing(normals, rng.standard_normal((count, 3))))


def icosahedral_capsid(
    rng: np.random.Generator, unit: Macromolecule | None, *, triangulation: int, radius: float
) -> Strand:
    """Quasi-equivalent capsid of 60 T copies with exact icosahedral symmetry.

    Every copy has its Z outwards and its Y towards the middle of its pentamer or hexamer: 12 pentamers,
    10 (T - 1) hexamers. Of T = 7 and 13, which have a hand, either is made.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the orientation, the hand and, if there is no unit, the unit's texture.
    unit : Macromolecule or None
        Capsid protein; one that closes the shell is made up if None.
    triangulation : int
        T: 1, 3, 4, 7 or 13.
    radius : float
        From the centre to the units' origins, Å.

    Returns
    -------
    Strand
        Positions about the capsid's centre.

    Raises
    ------
    ValueError
        If T is none of these or the radius not positive.

    References
    ----------
    Caspar & Klug 1962, doi:10.1101/sqb.1962.027.001.005.
    """
    if triangulation not in TRIANGULATIONS or radius <= 0:
        raise ValueError(
            f"a capsid needs T of {', '.join(map(str, TRIANGULATIONS))} and a positive radius, "
            f"got T = {triangulation} and {radius:g} Å"
        )
    h, k = TRIANGULATIONS[triangulation]
    h, k = (h, k) if rng.random() < 0.5 else (k, h)
    group = symmetry_rotations("I")
    weights, centre_weights = _face_sites(h, k)
    corners = _face_corners(group)
    directions, middles = _on_sphere(weights, corners), _on_sphere(centre_weights, corners)
    local = _facing(directions, middles - directions)
    turned = random_rotation(rng) @ group
    positions = radius * np.einsum("gij,nj->gni", turned, directions).reshape(-1, 3)
    rotations = np.einsum("gij,njk->gnik", turned, local).reshape(-1, 3, 3)
    return Strand(unit or _capsid_protein(rng, 60 * triangulation, radius), positions, rotations)


def _face_corners(group: NDArray[np.float64]) -> NDArray[np.float64]:
    """Three neighbouring five-fold axes (3, 3), counter-clockwise in ZYX seen from outside, as rows."""
    fifth = Rotation.from_matrix(group).as_rotvec()
    angle = np.linalg.norm(fifth, axis=1)
    axes = fifth[np.isclose(angle, 2 * np.pi / 5)] / (2 * np.pi / 5)
    near = np.flatnonzero(np.isclose(axes @ axes[0], 1 / np.sqrt(5)))
    first = near[0]
    second = next(j for j in near if np.linalg.det(axes[[0, first, j]]) > 0.5)
    return axes[[0, first, second]]


def _face_sites(h: int, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Barycentric weights (T, 3) of the subunits next to a face's first corner, and of their capsomers.

    The hexagonal lattice has capsomers at its points; their subunits lie at the centroids of the kites
    into which each small triangle splits, seven twelfths of the way to its middle.
    """
    step = np.exp(1j * np.pi / 3)
    corners = np.array([0, h + k * step, (h + k * step) * step])
    reach = range(-2 * (h + k) - 1, 2 * (h + k) + 2)
    points = np.array([a + b * step for a in reach for b in reach])
    arms = 7 / 12 / np.sqrt(3) * np.exp(1j * (np.pi / 6 + np.pi / 3 * np.arange(6)))
    centres = np.repeat(points, 6)
    sites = centres + np.tile(arms, len(points))
    # Subunits that lie on an edge belong to both faces: a small turn of all arms decides.
    decided = _barycentric(centres + np.tile(arms * np.exp(1e-3j), len(points)), corners)
    own = (decided.min(1) > 0) & (decided[:, 0] > decided[:, 1:].max(1))
    return _barycentric(sites[own], corners), _barycentric(centres[own], corners)


def _barycentric(points: NDArray[np.complex128], corners: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Weights (n, 3) of a triangle's corners that add up to points of the plane."""
    matrix = np.array([corners.real, corners.imag, np.ones(3)])
    return np.linalg.solve(matrix, np.array([points.real, points.imag, np.ones(len(points))])).T


def _on_sphere(weights: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions of barycentric weights: great arcs along the edges, nearly even spacing between."""
    edge = np.arccos(1 / np.sqrt(5))
    directions: NDArray[np.float64] = np.sin(weights * edge) @ corners
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _facing(normals: NDArray[np.float64], towards: NDArray[Any]) -> NDArray[np.float64]:
    """Rotations (n, 3, 3) with Z along the normals and Y as far as possible along ``towards``."""
    side = towards - normals * (normals * towards).sum(1, keepdims=True)
    side = side / np.linalg.norm(side, axis=1, keepdims=True)
    return np.stack([normals, side, np.cross(normals, side)], axis=2)


def _capsid_protein(rng: np.random.Generator, copies: int, radius: float) -> Macromolecule:
    """A plate as wide as its share of the sphere, rounded at the rim and of uneven height."""
    area = 4 * np.pi * radius**2 / copies
    width = 1.3 * np.sqrt(area)
    points, cell = grid_points((1.6 * _CAPSID_THICKNESS, width, width), min(4.0, width / 6))
    across = np.hypot(points[:, 1], points[:, 2]) / np.sqrt(area / np.pi)
    depth = 1 - np.hypot(across**2, (2 * points[:, 0] / _CAPSID_THICKNESS) ** 2)
    depth += 0.25 * random_field(rng, wavelength=1.2 * width).at(points)
    return carve_protein(rng, "capsid-unit", points, depth, cell=cell, volume=0.85 * area * _CAPSID_THICKNESS)
