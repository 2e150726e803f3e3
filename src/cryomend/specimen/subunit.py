"""Subunits made in code for filaments and shells: shapes cut to the volume of a mass of protein.

Each stands with its Z along the filament (or out of the shell) and its Y away from the filament's axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.specimen.macromolecule import (
    PROTEIN_CONTRAST,
    PROTEIN_VOLUME_PER_DALTON,
    FormFactor,
    Macromolecule,
)
from cryomend.specimen.random_field import random_field

__all__ = ["actin_monomer", "carve_protein", "grid_points", "tubulin_monomer"]

TUBULIN_CELL = (40.0, 51.2)  # Å along and between protofilaments
TUBULIN_RADIUS = 106.0  # Å, centre of the wall of 13 protofilaments: 13 x 51.2 / (2 π)
_SPACING = 4.0  # Å between grid points, fine enough for voxels of 4 Å

# Subdomains 1 to 4 of actin: centre ZYX relative to the subunit's, with the barbed end at +Z, and radius, Å.
_ACTIN_SUBDOMAINS = (
    ((13.0, 12.0, 0.0), 17.0),
    ((-17.0, 13.0, 0.0), 12.0),
    ((13.0, -11.0, 0.0), 17.0),
    ((-13.0, -11.0, 0.0), 16.0),
)


def tubulin_monomer(rng: np.random.Generator, *, name: str = "tubulin") -> Macromolecule:
    """Make a tubulin monomer of 50 kDa that tiles the wall of a microtubule without a gap.

    It fills its cell of 40 by 51.2 Å; the wall is 40 Å thick along the middle of a protofilament
    and thins to about half where two meet. Two calls give two different textures, as of
    α and β tubulin.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the texture.
    name : str
        Name of the species.

    References
    ----------
    Cell: Chrétien & Wade 1991, doi:10.1016/0248-4900(91)90062-R.
    """
    height, width = TUBULIN_CELL
    points, cell = grid_points((height, 44.0, width), _SPACING)
    across, along = 2 * np.abs(points[:, 2]) / width, 2 * np.abs(points[:, 0]) / height
    half = (11 + 9 * np.cos(np.pi * across / 2) ** 2) * (1 - 0.1 * along**2)
    # Lateral contacts lie inside of the protofilament's middle: ridges without, a smoother lumen.
    depth = 1 - np.abs(points[:, 1] + 4 * across**2) / half
    return carve_protein(rng, name, points, depth, cell=cell, volume=50_000 * PROTEIN_VOLUME_PER_DALTON)


def actin_monomer(rng: np.random.Generator, *, name: str = "actin") -> Macromolecule:
    """Make an actin monomer of 42 kDa from its four subdomains, with the barbed end towards +Z.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the texture.
    name : str
        Name of the species.

    References
    ----------
    Sizes: Kabsch et al. 1990, doi:10.1038/347037a0.
    """
    points, cell = grid_points((64.0, 64.0, 40.0), _SPACING)
    balls = [1 - np.linalg.norm(points - centre, axis=1) / radius for centre, radius in _ACTIN_SUBDOMAINS]
    depth = np.max(balls, axis=0)
    return carve_protein(rng, name, points, depth, cell=cell, volume=42_000 * PROTEIN_VOLUME_PER_DALTON)


def grid_points(size_zyx: tuple[float, float, float], spacing: float) -> tuple[NDArray[np.float64], float]:
    """Centres (n, 3) and volume of equal cells, no wider than ``spacing`` Å, that tile a box about 0."""
    counts = [max(1, int(np.ceil(size / spacing - 1e-9))) for size in size_zyx]
    axes = [(np.arange(n) + 0.5) * size / n - size / 2 for n, size in zip(counts, size_zyx, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points, float(np.prod(size_zyx)) / len(points)


def carve_protein(
    rng: np.random.Generator,
    name: str,
    points: NDArray[np.float64],
    depth: NDArray[np.float64],
    *,
    cell: float,
    volume: float,
) -> Macromolecule:
    """Keep the deepest grid points, as much as a volume, and fill them with protein of uneven density.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the texture.
    name : str
        Name of the species.
    points : array, shape (n, 3)
        Å, from `grid_points`.
    depth : array, shape (n,)
        Largest where the protein is surest to be.
    cell, volume : float
        Of one grid point and of the protein, Å³; the total potential is ``volume`` times the contrast.

    Raises
    ------
    ValueError
        If the grid is smaller than the volume.
    """
    count = max(1, round(volume / cell))
    if count > len(points):
        raise ValueError(f"{name}: {volume:g} Å³ do not fit into the {len(points)} cells of the grid")
    kept = points[np.argsort(-depth, kind="stable")[:count]]
    texture = np.clip(1 + 0.25 * random_field(rng, wavelength=20.0, n_waves=24).at(kept), 0.3, 2)
    weights = PROTEIN_CONTRAST * volume * texture / texture.sum()
    return as_macromolecule(name, kept, weights, spread=_SPACING / 2)


def as_macromolecule(
    name: str, positions: NDArray[Any], weights: NDArray[Any], *, spread: float
) -> Macromolecule:
    """Points that are Gaussians of standard deviation ``spread`` Å, so that no grid shows."""
    kinds = np.zeros(len(weights), dtype=np.uint8)
    shape = (FormFactor((1.0,), (spread**2,)),)
    return Macromolecule(name, positions.astype(np.float32), weights.astype(np.float32), kinds, shape)
