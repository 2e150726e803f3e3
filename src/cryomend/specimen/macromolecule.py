"""Macromolecules as weighted beads: from atomic models, from density maps, and made from nothing.

A bead carries potential times volume (V Å³) relative to the ice that it displaces, so that
any pose at any voxel size is one splat of rotated points (`render_beads`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

__all__ = [
    "ICE_POTENTIAL",
    "PROTEIN_CONTRAST",
    "Macromolecule",
    "atom_weights",
    "beads_from_atoms",
    "beads_from_map",
    "procedural_macromolecule",
    "read_atoms",
    "render_beads",
    "symmetry_rotations",
]

ICE_POTENTIAL = 4.57  # V, vitreous ice at 0.94 g/cm³ from the same form factors (CONVENTIONS.md)
PROTEIN_CONTRAST = 3.3  # V above ice, the mean over the atomic models of proteins tried (docs/stages.md)
VOLT_PER_FORM_FACTOR = 47.878  # h²/(2π m e) in V Å²: potential integral per Å of scattering factor at s = 0
PROTEIN_VOLUME_PER_DALTON = 1.21  # Å³/Da, partial specific volume 0.73 cm³/g

# Solvent volume displaced by an atom in Å³ (Fraser, MacRae & Suzuki 1978, doi:10.1107/S0021889878014296).
_DISPLACED_VOLUME = {"H": 5.15, "C": 16.44, "N": 2.49, "O": 9.13, "P": 5.73, "S": 19.86}
# Mean number of hydrogens that models without hydrogens leave out, for proteins.
_IMPLICIT_HYDROGENS = {"C": 1.2, "N": 1.1, "O": 0.25}


@dataclass(frozen=True)
class Macromolecule:
    """A named set of beads: ``positions_zyx`` (n, 3) in Å from the centre, ``weights`` (n,) in V Å³."""

    name: str
    positions_zyx: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def radius(self) -> float:
        """Distance of the outermost bead from the centre, in Å."""
        return float(np.linalg.norm(self.positions_zyx, axis=1).max())


def atom_weights(elements: list[str], *, implicit_hydrogens: bool) -> NDArray[np.float32]:
    """Integral over space of an atom's potential relative to the ice that it displaces.

    Parameters
    ----------
    elements : list of str
        Element symbols.
    implicit_hydrogens : bool
        Add the mean share of hydrogens to C, N and O, for models that leave them out.

    Returns
    -------
    array, shape (n,)
        V Å³: ``47.878 f(0) - 4.57 V_displaced``.

    Raises
    ------
    ValueError
        If an element has no electron scattering factor.

    Notes
    -----
    ``f`` is the five-Gaussian electron form factor (International Tables C, 4.3.2.2;
    Peng et al. 1996, doi:10.1107/S0108767395014371) at zero scattering angle.
    """
    import gemmi

    def weight(symbol: str) -> float:
        element = gemmi.Element(symbol)
        if element.atomic_number == 0 or element.c4322 is None:
            raise ValueError(f"no electron scattering factor for element {symbol!r}")
        volume = _DISPLACED_VOLUME.get(symbol, 4 / 3 * np.pi * element.vdw_r**3)
        return float(VOLT_PER_FORM_FACTOR * sum(element.c4322.a) - ICE_POTENTIAL * volume)

    hydrogen = weight("H")
    table = {
        s: weight(s) + (_IMPLICIT_HYDROGENS.get(s, 0.0) * hydrogen if implicit_hydrogens else 0.0)
        for s in set(elements)
    }
    return np.array([table[s] for s in elements], dtype=np.float32)


def read_atoms(path: str | Path) -> tuple[NDArray[np.float32], list[str]]:
    """Atom positions and elements of the first biological assembly of a PDB or mmCIF file.

    Returns
    -------
    positions_zyx : array, shape (n, 3)
        Å, in the file's frame.
    elements : list of str
        Element symbols; water is left out.

    Raises
    ------
    ValueError
        If the file holds no readable atoms.
    """
    import gemmi

    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, IndexError, OSError) as error:  # IndexError: an empty mmCIF
        raise ValueError(f"{path}: not a readable PDB or mmCIF file ({str(error).splitlines()[0]})") from None
    structure.setup_entities()
    structure.remove_waters()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise ValueError(f"{path}: holds no atoms; give a PDB, mmCIF or MRC file of a macromolecule")
    if structure.assemblies:
        structure.transform_to_assembly(structure.assemblies[0].name, gemmi.HowToNameCopiedChain.Short)
    atoms = [cra.atom for cra in structure[0].all()]
    positions = np.array([a.pos.tolist() for a in atoms], dtype=np.float32)[:, ::-1]
    if not np.isfinite(positions).all():
        raise ValueError(f"{path}: holds atoms without coordinates; remove them from the file")
    return np.ascontiguousarray(positions), [a.element.name for a in atoms]


def beads_from_atoms(path: str | Path, *, spacing: float = 4.0) -> Macromolecule:
    """Read a PDB or mmCIF file into beads, one per occupied cell of ``spacing`` Å.

    Raises
    ------
    ValueError
        As `read_atoms` and `atom_weights`.
    """
    positions, elements = read_atoms(path)
    try:
        weights = atom_weights(elements, implicit_hydrogens="H" not in elements)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove such atoms from the file") from None
    cells = np.floor((positions - positions.min(0)) / spacing).astype(np.int64)
    _, inverse = np.unique(cells, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    total = np.bincount(inverse, weights)
    share = np.bincount(inverse)
    centres = np.stack([np.bincount(inverse, positions[:, i]) / share for i in range(3)], axis=1)
    return _centred(Path(path).stem, centres, total)


def beads_from_map(
    density: NDArray[Any],
    *,
    voxel_size: float,
    name: str,
    threshold: float | None = None,
    spacing: float = 5.0,
) -> Macromolecule:
    """Turn a density map of any grey scale into beads in V Å³.

    Voxels above the threshold are the macromolecule; their mean is set to the contrast of
    protein against ice, so that maps from different programs come out alike. The origin of the
    beads is voxel ``n // 2`` of the map, which maps of membrane proteins keep in the bilayer.

    Parameters
    ----------
    density : array, shape (Z, Y, X)
        Map with the macromolecule bright.
    voxel_size : float
        Å.
    name : str
        Name of the species.
    threshold : float, optional
        In the map's grey levels; Otsu's threshold of the map if None.
    spacing : float
        Largest distance between beads in Å; coarser maps are interpolated linearly.

    Raises
    ------
    ValueError
        If nothing lies above the threshold.
    """
    values = np.asarray(density, dtype=np.float32)
    if threshold is None:
        threshold = _otsu_threshold(values)
    if not (values > threshold).any():
        raise ValueError(f"{name}: no voxel of the map lies above the threshold {threshold:g}")
    factor = max(1.0, voxel_size / spacing)
    fine = zoom(values, factor, order=1, grid_mode=True, mode="nearest") if factor > 1 else values
    step = voxel_size * np.array(values.shape) / np.array(fine.shape)
    inside = fine > threshold
    scale = PROTEIN_CONTRAST / float(fine[inside].mean())
    centre = (np.array(values.shape) // 2) * voxel_size
    # Cell centres of the finer grid lie (i + 1/2) steps from the box edge, those of the map half a voxel.
    positions = (np.argwhere(inside) + 0.5) * step - voxel_size / 2 - centre
    weights = fine[inside] * scale * step.prod()
    return Macromolecule(name, positions.astype(np.float32), weights.astype(np.float32))


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
    """Make up a macromolecule: a chain of globular domains, folded compactly and copied by a point group.

    Domains are balls with rough surfaces and an uneven interior; the volume follows from the
    mass (1.21 Å³/Da), the contrast is that of protein. Copies share space by nearest domain, so
    they touch and never overlap, and the symmetry is exact.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    mass_kda : float
        Total mass in kDa.
    symmetry : str
        Point group, as in `symmetry_rotations`.
    name : str
        Name of the species.

    Raises
    ------
    ValueError
        If the mass is not positive or the point group unknown.
    """
    if mass_kda <= 0:
        raise ValueError(f"mass must be positive, got {mass_kda:g} kDa")
    rotations = symmetry_rotations(symmetry)
    volume = 1000 * mass_kda * PROTEIN_VOLUME_PER_DALTON / len(rotations)
    spacing = 5.0 if volume < 2e6 else 7.0
    centres, radii = _fold_domains(rng, volume, crowded=len(rotations) > 1)
    centres = centres + _axis_offset(rng, centres, radii, len(rotations))
    copies = np.einsum("nij,dj->ndi", rotations, centres).reshape(-1, 3)  # copy 0 is the identity
    axes = [
        np.arange(lo, hi, spacing)
        for lo, hi in zip(
            (centres - 1.5 * radii[:, None]).min(0), (centres + 1.5 * radii[:, None]).max(0), strict=True
        )
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    owner = cKDTree(copies).query(grid, workers=1)[1]
    grid, owner = grid[owner < len(centres)], owner[owner < len(centres)]
    depth = 1 - np.linalg.norm(grid - centres[owner], axis=1) / radii[owner]
    depth += rng.uniform(0.1, 0.35) * _smooth_noise(rng, grid, wavelength=rng.uniform(18, 45))
    count = min(len(grid), max(8, round(volume / spacing**3)))
    keep = np.argpartition(-depth, count - 1)[:count]
    texture = 1 + 0.25 * _smooth_noise(rng, grid[keep], wavelength=rng.uniform(12, 25))
    weights = PROTEIN_CONTRAST * spacing**3 * np.clip(texture, 0.2, 2)
    beads = np.einsum("nij,bj->nbi", rotations, grid[keep]).reshape(-1, 3)
    return Macromolecule(name, beads.astype(np.float32), np.tile(weights, len(rotations)).astype(np.float32))


def render_beads(
    positions_px: Tensor, weights: Tensor, *, shape: tuple[int, int, int], voxel_size: float
) -> Tensor:
    """Splat beads into a volume with trilinear weights; what falls outside is dropped.

    Parameters
    ----------
    positions_px : Tensor, shape (n, 3)
        Voxel coordinates ZYX; voxel centres are integers.
    weights : Tensor, shape (n,)
        V Å³.
    shape : tuple of int
        Volume shape (Z, Y, X).
    voxel_size : float
        Å.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)
        Potential in V; for beads inside, its sum times the voxel volume is the sum of the weights.
    """
    volume = torch.zeros(shape, dtype=torch.float32, device=positions_px.device).flatten()
    corner = positions_px.floor()
    fraction = positions_px - corner
    low = corner.long()
    size = torch.tensor(shape, device=positions_px.device)
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                offset = torch.tensor((dz, dy, dx), device=positions_px.device)
                index = low + offset
                share = torch.where(offset.bool(), fraction, 1 - fraction).prod(1) * weights
                inside = ((index >= 0) & (index < size)).all(1)
                flat = (index[:, 0] * shape[1] + index[:, 1]) * shape[2] + index[:, 2]
                volume.index_add_(0, flat[inside], share[inside].float())
    return volume.reshape(shape) / voxel_size**3


def _centred(name: str, positions: NDArray[Any], weights: NDArray[Any]) -> Macromolecule:
    """Beads moved so that the middle of their bounding box is the origin."""
    positions = positions - (positions.min(0) + positions.max(0)) / 2
    return Macromolecule(name, positions.astype(np.float32), weights.astype(np.float32))


def _otsu_threshold(values: NDArray[np.float32]) -> float:
    """Grey level that best splits the histogram in two (Otsu 1979, doi:10.1109/TSMC.1979.4310076)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (moment[-1] * below / total - moment) ** 2 / (below * (total - below))
    return float(centres[np.nanargmax(np.where(np.isfinite(between), between, -1))])


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
        step = 0.85 * (radii[i] + radii[i - 1])
        tries = np.array(centres[-1]) + step * _unit_vectors(rng, 24)
        gap = np.linalg.norm(tries[:, None] - np.array(centres)[None], axis=2).min(1) / step
        far = np.linalg.norm(tries - np.mean(centres, axis=0), axis=1) / step
        centres.append(
            tries[np.argmax(np.minimum(gap, 0.95) * 3 - pull * far + 0.1 * rng.standard_normal(24))]
        )
    return np.array(centres) - np.mean(centres, axis=0), radii


def _axis_offset(
    rng: np.random.Generator, centres: NDArray[Any], radii: NDArray[Any], order: int
) -> NDArray[np.float64]:
    """Shift of the asymmetric unit off the symmetry axes, so that copies touch."""
    if order == 1:
        return np.zeros(3)
    extent = float((np.linalg.norm(centres, axis=1) + radii).max())
    distance = extent * max(0.6, 0.45 * order**0.5) * rng.uniform(0.8, 1.2)
    offset: NDArray[np.float64] = distance * _unit_vectors(rng, 1)[0]
    return offset


def _unit_vectors(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """``n`` directions uniform on the sphere."""
    v = rng.standard_normal((n, 3))
    unit: NDArray[np.float64] = v / np.linalg.norm(v, axis=1, keepdims=True)
    return unit


def _smooth_noise(
    rng: np.random.Generator, points: NDArray[Any], *, wavelength: float
) -> NDArray[np.float64]:
    """Random field of unit variance at ``points``: sixteen plane waves of about ``wavelength`` Å."""
    k = 2 * np.pi / wavelength * rng.uniform(0.6, 1.4, (16, 1)) * _unit_vectors(rng, 16)
    waves = np.cos(points.astype(np.float32) @ k.T.astype(np.float32) + rng.uniform(0, 2 * np.pi, 16))
    field: NDArray[np.float64] = waves.sum(1) / np.sqrt(8)
    return field
