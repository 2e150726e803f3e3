"""Clutter of real tomograms, made straight in voxels: gold, carbon, ice crystals, lipid debris, granules.

Every function draws one object, its size and its place, and returns the box of voxels that it covers:
memory grows with the object and not with the volume.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryomend.geometry import random_rotation
from cryomend.specimen.blob import (
    Blob,
    box_offsets,
    smooth_grain,
    trimmed_blob,
    turned_offsets,
    voxel_coverage,
)
from cryomend.specimen.macromolecule import ICE_POTENTIAL
from cryomend.specimen.membrane import bilayer_profile
from cryomend.specimen.random_field import random_field

__all__ = [
    "Blob",
    "carbon_edge",
    "dense_granule",
    "gold_fiducial",
    "ice_crystal",
    "lipid_debris",
]

# Mean inner potentials in V. Gold: form factors (International Tables C, 4.3.2.2) over 16.96 Å³ per atom;
# holography finds more for clusters (arXiv:0705.1065). Carbon: measured at
# 1.75 g/cm³ (doi:10.1016/j.ultramic.2005.10.004). Hexagonal ice: that of vitreous ice, by density.
GOLD_POTENTIAL = 29.8
CARBON_POTENTIAL = 9.09
CRYSTAL_POTENTIAL = ICE_POTENTIAL * 0.93 / 0.94

_CARBON_PER_VOLUME = 0.0877  # atoms per Å³ at 1.75 g/cm³
_CARBON_WEIGHT = CARBON_POTENTIAL / _CARBON_PER_VOLUME  # V Å³ per atom
_CARBON_ORDER = 0.2  # variance of the number of atoms over that of a gas; assumed
_OIL_DEPTH = 8.0  # Å from a bilayer's middle, beyond its trough: hydrocarbon as in oil (1.6 V above ice)
_GRANULE_POTENTIAL = (3.0, 8.0)  # V above ice

# Facets of a truncated octahedron, the shape of small gold crystals: {111} and {100}, and how far they lie
# from the middle in radii of the sphere of equal volume.
_EDGE = (np.pi / (6 * np.sqrt(2))) ** (1 / 3)
_GOLD_NORMALS = np.array(
    [[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)] + [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    + [[0, 0, -1], [0, -1, 0], [-1, 0, 0]], dtype=np.float64,
)  # fmt: skip
_GOLD_NORMALS /= np.linalg.norm(_GOLD_NORMALS, axis=1, keepdims=True)
_GOLD_DISTANCES = _EDGE * np.array([np.sqrt(3 / 2)] * 8 + [np.sqrt(2)] * 6)


def gold_fiducial(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    slab: tuple[int, int],
    radius: tuple[float, float] = (25.0, 75.0),
) -> Blob:
    """Gold particle inside the slab, round or (one in two) a truncated octahedron.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        Volume shape (Z, Y, X).
    voxel_size : float
        Å.
    slab : tuple of int
        First and one-past-last plane of the slab.
    radius : tuple of float
        Range in Å; of the sphere of equal volume.

    Returns
    -------
    Blob
        25.2 V above ice inside (bulk gold 29.8 V less 4.57 V), averaged over each voxel at the surface.

    Raises
    ------
    ValueError
        If the slab or the range is not one.
    """
    size = _drawn_radius(rng, radius, shape, slab)
    centre = _place(rng, shape, slab, size / voxel_size)
    corner, offsets = box_offsets(centre, 1.16 * size / voxel_size + 1, shape, voxel_size=voxel_size)
    faceted = rng.random() < 0.5
    planes = (_GOLD_NORMALS @ random_rotation(rng).T, _GOLD_DISTANCES * size) if faceted else None
    coverage = voxel_coverage(offsets, voxel_size=voxel_size, radius=size, planes=planes)
    return trimmed_blob("gold", coverage * np.float32(GOLD_POTENTIAL - ICE_POTENTIAL), corner)


def carbon_edge(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    slab: tuple[int, int],
    radius: tuple[float, float] = (5000.0, 10000.0),
) -> Blob:
    """Amorphous carbon film, 150 to 300 Å thick, at one face of the slab, up to the rim of a round hole.

    Parameters
    ----------
    rng, shape, voxel_size, slab
        As `gold_fiducial`.
    radius : tuple of float
        Of the hole, Å; its rim, rough by about 15 Å, passes through the middle half of the field.

    Returns
    -------
    Blob
        On average 4.5 V above ice (9.09 V at 1.75 g/cm³ less 4.57 V). The film has the granularity of
        randomly placed atoms: white, with 0.2 of the variance of a gas. At most half the slab.

    Raises
    ------
    ValueError
        As `gold_fiducial`.
    """
    hole = _drawn_radius(rng, radius, shape, slab)
    azimuth, through = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75, 2) * shape[1:] * voxel_size
    centre = through - hole * np.array([np.sin(azimuth), np.cos(azimuth)])
    y = np.arange(shape[1])[:, None] * voxel_size - centre[0]
    x = np.arange(shape[2])[None, :] * voxel_size - centre[1]
    rim = random_field(rng, wavelength=400.0).on_grid([np.zeros(1), y[:, 0], x[0]])[0]
    outside = np.hypot(y, x) - hole + 15 * rim
    film = np.clip(0.5 + outside / voxel_size, 0, 1).astype(np.float32)
    thick = min(rng.uniform(150.0, 300.0) / voxel_size, (slab[1] - slab[0]) / 2)
    through_thickness = np.clip(thick - np.arange(int(np.ceil(thick))), 0, 1).astype(np.float32)
    lower = rng.random() < 0.5
    profile = through_thickness if lower else through_thickness[::-1]
    coverage = profile[:, None, None] * film
    grain = _CARBON_WEIGHT * np.sqrt(_CARBON_PER_VOLUME * _CARBON_ORDER / voxel_size**3)
    potential = rng.standard_normal(coverage.shape, dtype=np.float32)
    potential = coverage * (np.float32(grain) * potential + np.float32(CARBON_POTENTIAL - ICE_POTENTIAL))
    first = slab[0] if lower else slab[1] - len(profile)
    return trimmed_blob("carbon", potential, (first, 0, 0), coverage > 0)


def ice_crystal(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    slab: tuple[int, int],
    radius: tuple[float, float] = (200.0, 800.0),
) -> Blob:
    """Crystal of hexagonal ice that sits with a flat face on the slab's upper or lower surface.

    A hexagonal prism in any orientation with chipped corners; facets lie 0.6 to 1 radii from its middle.
    What sticks out of the volume is cut off. Bragg reflections are not modelled.

    Parameters
    ----------
    rng, shape, voxel_size, slab
        As `gold_fiducial`.
    radius : tuple of float
        Range, Å.

    Returns
    -------
    Blob
        4.5 V, relative to vacuum: outside the slab that is what a crystal displaces, and a density
        of 0 there stands for it (the slab itself has been subtracted). 4.57 V times 0.93 over 0.94 g/cm³.

    Raises
    ------
    ValueError
        As `gold_fiducial`, and if neither surface has free planes.
    """
    size = _drawn_radius(rng, radius, shape, slab)
    sides = [side for side, free in ((-1, slab[0]), (1, shape[0] - slab[1])) if free > 0]
    if not sides:
        raise ValueError("ice crystals sit outside the slab: leave free ice (slab_margin) of a voxel or more")
    side = int(rng.choice(sides))
    height = size * rng.uniform(0.3, 0.8)  # of the crystal's middle over the surface
    surface = (slab[0] if side < 0 else slab[1]) - 0.5
    centre = np.array([surface + side * height / voxel_size, *_anywhere(rng, shape)])
    angles = np.pi / 3 * np.arange(6)
    prism = np.stack([np.zeros(6), np.cos(angles), np.sin(angles)], axis=1)
    chips = rng.standard_normal((5, 3))
    chips /= np.linalg.norm(chips, axis=1, keepdims=True)
    normals = np.concatenate([prism, [[1, 0, 0], [-1, 0, 0]], chips]) @ random_rotation(rng).T
    distances = size * np.concatenate([rng.uniform(0.6, 1, 8), rng.uniform(0.7, 1, 5)])
    planes = (np.concatenate([normals, [[-side, 0, 0]]]), np.append(distances, height))
    corner, offsets = box_offsets(centre, 1.6 * size / voxel_size + 1, shape, voxel_size=voxel_size)
    coverage = voxel_coverage(offsets, voxel_size=voxel_size, radius=size, planes=planes)
    return trimmed_blob("ice", coverage * np.float32(CRYSTAL_POTENTIAL), corner)


def lipid_debris(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    slab: tuple[int, int],
    radius: tuple[float, float] = (60.0, 300.0),
) -> Blob:
    """Scrap of lipid, cut by the slab: a bent bilayer with a closed rim, a micelle, or an oil droplet.

    Parameters
    ----------
    rng, shape, voxel_size, slab
        As `gold_fiducial`.
    radius : tuple of float
        Of fragments and droplets, Å; micelles are as thick as a bilayer and up to one radius long.

    Returns
    -------
    Blob
        The potential of `bilayer_profile` at the distance from a cap, a line or a ball.

    Raises
    ------
    ValueError
        As `gold_fiducial`.
    """
    size = _drawn_radius(rng, radius, shape, slab)
    head = rng.uniform(33.0, 41.0)
    kind = str(rng.choice(["fragment", "fragment", "micelle", "droplet"]))
    centre = _place(rng, shape, slab, size / voxel_size)
    corner, offsets = box_offsets(centre, (size + head) / voxel_size + 1, shape, voxel_size=voxel_size)
    z, y, x = turned_offsets(offsets, random_rotation(rng))
    if kind == "fragment":
        distance = _cap_distance(z, np.hypot(y, x), size, size * rng.uniform(0.7, 4.0))
    elif kind == "micelle":
        half = size * rng.uniform(0, 0.5)
        distance = np.sqrt((z - np.clip(z, -half, half)) ** 2 + y**2 + x**2)
    else:
        distance = np.maximum(np.sqrt(z**2 + y**2 + x**2) - (size - head / 2), _OIL_DEPTH)
    planes = corner[0] + np.arange(len(distance))
    distance[(planes < slab[0]) | (planes >= slab[1])] = np.inf
    potential = bilayer_profile(distance, head_distance=head, voxel_size=voxel_size)
    return trimmed_blob("lipid", potential, corner, distance < head / 2 + 8)


def dense_granule(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    slab: tuple[int, int],
    radius: tuple[float, float] = (100.0, 400.0),
) -> Blob:
    """Rough, grainy ball like the granules of polyphosphate and of calcium phosphate in cells.

    Parameters
    ----------
    rng, shape, voxel_size, slab
        As `gold_fiducial`.
    radius : tuple of float
        Mean radius, Å.

    Returns
    -------
    Blob
        3 to 8 V above ice, uneven by 12 %. By the form factors Ca3(PO4)2 at 1.4 to 1.75 g/cm³ lies
        2.8 to 4.6 V and KPO3 at 1.5 to 2 g/cm³ 2.9 to 5.4 V above ice; denser ones more.

    Raises
    ------
    ValueError
        As `gold_fiducial`.
    """
    size = _drawn_radius(rng, radius, shape, slab)
    centre = _place(rng, shape, slab, size / voxel_size)
    corner, (z, y, x) = box_offsets(centre, 1.4 * size / voxel_size + 1, shape, voxel_size=voxel_size)
    distance = np.sqrt(z**2 + y**2 + x**2) - np.float32(size)
    rough = 0.08 * size * smooth_grain(rng, distance.shape, size / 3 / voxel_size)
    rough += 0.03 * size * smooth_grain(rng, distance.shape, size / 10 / voxel_size)
    coverage = np.clip(0.5 - (distance + rough) / voxel_size, 0, 1)
    texture = 1 + 0.12 * np.clip(smooth_grain(rng, distance.shape, 12.0 / voxel_size), -3, 3)
    return trimmed_blob("granule", coverage * texture * np.float32(rng.uniform(*_GRANULE_POTENTIAL)), corner)


def _drawn_radius(
    rng: np.random.Generator, radius: tuple[float, float], shape: tuple[int, int, int], slab: tuple[int, int]
) -> float:
    """A radius from its range, after a look at what every function is given."""
    if not 0 < radius[0] <= radius[1]:
        raise ValueError(f"a range of radii is (low, high) with 0 < low <= high, got {radius}")
    if not 0 <= slab[0] < slab[1] <= shape[0]:
        raise ValueError(f"slab {slab} is empty or leaves the {shape[0]} planes of the volume")
    return float(rng.uniform(*radius))


def _anywhere(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    return rng.uniform(-0.5, np.array(shape[1:]) - 0.5)


def _place(
    rng: np.random.Generator, shape: tuple[int, int, int], slab: tuple[int, int], reach: float
) -> NDArray[np.float64]:
    """A centre in voxels: anywhere in Y and X, along Z inside the slab (in its middle if it is too thin)."""
    low, high = slab[0] - 0.5 + reach, slab[1] - 0.5 - reach
    z = rng.uniform(low, high) if low < high else (low + high) / 2
    return np.array([z, *_anywhere(rng, shape)])


def _cap_distance(
    z: NDArray[np.float32], rho: NDArray[np.float32], radius: float, curvature: float
) -> NDArray[np.float32]:
    """Distance to a spherical cap about Z whose pole is the origin; ``radius`` Å of arc from pole to rim."""
    edge = radius / curvature
    z = z + np.float32(curvature)
    rim = np.hypot(rho - curvature * np.sin(edge), z - curvature * np.cos(edge))
    inside = np.arctan2(rho, z) < edge
    return np.where(inside, np.abs(np.hypot(rho, z) - curvature), rim).astype(np.float32)
