"""Macromolecules from atomic models: PDB and mmCIF files to points with electron form factors."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryomend.io.path import InputError, existing_file, reason
from cryomend.specimen.macromolecule import (
    ICE_POTENTIAL,
    VOLT_PER_FORM_FACTOR,
    FormFactor,
    Macromolecule,
)

__all__ = ["AtomicModel", "atom_potential", "macromolecule_from_atoms", "read_atoms"]

# Solvent volume displaced by an atom in Å³ (Fraser, MacRae & Suzuki 1978, doi:10.1107/S0021889878014296).
_DISPLACED_VOLUME = {"H": 5.15, "C": 16.44, "N": 2.49, "O": 9.13, "P": 5.73, "S": 19.86}
# Mean number of hydrogens that models without hydrogens leave out: counted over the twenty amino acids
# at their frequencies in proteins, and over the four nucleotides of RNA.
_PROTEIN_HYDROGENS = {"C": 1.2, "N": 1.1, "O": 0.25}
_NUCLEIC_HYDROGENS = {"C": 0.82, "N": 0.53, "O": 0.14}
_BOND_VARIANCE = 1 / 3  # Å² per axis: implicit hydrogens lie 1 Å from their atom, in any direction
# Å², between crystal structures at 2 Å (25) and cryo-EM models (60 to 100). One for all atoms, since the
# values in files are refined against each map's sharpening, and are often 0 in predicted models.
_B_FACTOR = 40.0
_MOST_POINTS = 2_000_000

Copies = list[tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AtomicModel:
    """Atoms: ``positions_zyx`` (n, 3) in Å, and per atom ``elements``, ``occupancies``, ``nucleic``.

    Elements are symbols (deuterium counts as H); occupancies of the conformers of an atom sum to at
    most 1; ``nucleic`` tells the atoms of nucleotides.
    """

    positions_zyx: NDArray[np.float32]
    elements: NDArray[np.str_]
    occupancies: NDArray[np.float32]
    nucleic: NDArray[np.bool_]

    def select(self, chosen: NDArray[Any]) -> AtomicModel:
        """Atoms of an index or mask."""
        return AtomicModel(
            self.positions_zyx[chosen], self.elements[chosen], self.occupancies[chosen], self.nucleic[chosen]
        )


def read_atoms(path: str | Path) -> AtomicModel:
    """Atoms of the first biological assembly of a PDB or mmCIF file (also gzip-compressed).

    Water is left out; of several models the first is read; conformers are kept with their occupancies.

    Raises
    ------
    cryomend.io.InputError
        If the file is missing, damaged or holds no readable atoms.
    """
    model, copies = _read(Path(path))
    parts = [
        (chosen, rotation, shift)
        for chosen, rotations, shifts in copies
        for rotation, shift in zip(rotations, shifts, strict=True)
    ]
    whole = model.select(np.concatenate([np.flatnonzero(chosen) for chosen, _, _ in parts]))
    positions = [model.positions_zyx[chosen] @ turn.T + shift for chosen, turn, shift in parts]
    return AtomicModel(
        np.concatenate(positions).astype(np.float32), whole.elements, whole.occupancies, whole.nucleic
    )


def atom_potential(
    element: str, *, hydrogens: float = 0.0, b_factor: float = _B_FACTOR, solvent: bool = True
) -> tuple[float, FormFactor]:
    """Potential of one atom relative to the ice that it displaces.

    Parameters
    ----------
    element : str
        Symbol.
    hydrogens : float
        Mean number of hydrogens bound to the atom that the model leaves out.
    b_factor : float
        Å².
    solvent : bool
        Subtract the displaced ice; the potential in vacuum if False.

    Returns
    -------
    weight : float
        Integral over space, V Å³.
    form_factor : FormFactor
        How it is spread.

    Raises
    ------
    ValueError
        If the element has no electron scattering factor.

    Notes
    -----
    ``φ(k) = 47.878 Σ a_i exp(-(b_i + B) k²/4) - 4.57 V exp(-π V^(2/3) k²)`` in V Å³: the five-Gaussian
    electron form factor (International Tables C, 4.3.2.2; Peng et al. 1996,
    doi:10.1107/S0108767395014371) less a Gaussian of ice of the volume ``V`` that the atom displaces
    (Fraser, MacRae & Suzuki 1978, doi:10.1107/S0021889878014296).
    """
    terms = _gaussians(element, solvent=solvent)
    if hydrogens:
        terms += [(hydrogens * a, v + _BOND_VARIANCE) for a, v in _gaussians("H", solvent=solvent)]
    weight = sum(a for a, _ in terms)
    blur = b_factor / (8 * math.pi**2)
    return weight, FormFactor(tuple(a / weight for a, _ in terms), tuple(v + blur for _, v in terms))


def _gaussians(element: str, *, solvent: bool) -> list[tuple[float, float]]:
    """Integrals in V Å³ and variances in Å² of the Gaussians of one atom at rest."""
    entry = gemmi.Element(element)
    if entry.atomic_number == 0 or entry.c4322 is None:
        raise ValueError(f"no electron scattering factor for element {element!r}")
    terms = [
        (VOLT_PER_FORM_FACTOR * a, b / (8 * math.pi**2))
        for a, b in zip(entry.c4322.a, entry.c4322.b, strict=True)
    ]
    if solvent:
        volume = _DISPLACED_VOLUME.get(entry.name, 4 / 3 * math.pi * entry.vdw_r**3)
        terms.append((-ICE_POTENTIAL * volume, volume ** (2 / 3) / (2 * math.pi)))
    return terms


def macromolecule_from_atoms(
    path: str | Path,
    *,
    solvent: bool = True,
    b_factor: float = _B_FACTOR,
    most_points: int = _MOST_POINTS,
    in_membrane: bool = False,
) -> Macromolecule:
    """Read a PDB or mmCIF file into points, one per atom.

    Hydrogens that the model leaves out are added to the atoms that bear them. Assemblies of more than
    ``most_points`` atoms are thinned: the atoms in cells of 4 Å or more become one point that is as
    spread as the cell, in the asymmetric unit, so that copies stay alike; a warning is logged.

    Parameters
    ----------
    path : path-like
        Structure file.
    solvent : bool
        Subtract the ice that the atoms displace; the potential in vacuum if False.
    b_factor : float
        Å², of every atom.
    most_points : int
        Largest number of points.
    in_membrane : bool
        The file's Z = 0 is the middle of a bilayer, as in the OPM database.

    Returns
    -------
    Macromolecule
        Its origin is the middle of the bounding box; along Z that of the file if ``in_membrane``.

    Raises
    ------
    cryomend.io.InputError
        As `read_atoms`, and for elements without an electron scattering factor.
    """
    name = Path(path)
    model, copies = _read(name)
    try:
        kinds, weights, form_factors = _potentials(model, solvent=solvent, b_factor=b_factor)
    except ValueError as error:
        raise InputError(f"{name}: {error}; remove such atoms from the file") from None
    points = _Points(model.positions_zyx, weights, kinds, form_factors)
    atoms = sum(int(chosen.sum()) * len(shifts) for chosen, _, shifts in copies)
    if atoms > most_points:
        points, copies, cell = _thin(points, copies, most_points)
        _log.warning("%s: %d atoms merged in cells of %g Å", name, atoms, cell)
    positions, order = _expand(points.positions, copies)
    middle = (positions.min(0) + positions.max(0)) / 2
    positions -= middle * np.array([not in_membrane, True, True])
    return Macromolecule(
        _stem(name),
        positions.astype(np.float32),
        points.weights[order].astype(np.float32),
        points.kinds[order],
        points.form_factors,
    )


@dataclass(frozen=True)
class _Points:
    """Points of the asymmetric unit, float64."""

    positions: NDArray[Any]
    weights: NDArray[np.float64]
    kinds: NDArray[np.uint8]
    form_factors: tuple[FormFactor, ...]


def _stem(path: Path) -> str:
    """Name of a structure without its endings."""
    return path.name.split(".")[0]


def _potentials(
    model: AtomicModel, *, solvent: bool, b_factor: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64], tuple[FormFactor, ...]]:
    """Kind and weight of each atom, and the form factors of the kinds."""
    implicit = "H" not in model.elements
    labels = np.char.add(model.elements, np.where(model.nucleic & implicit, "*", ""))
    names, kinds = np.unique(labels, return_inverse=True)
    table = []
    for label in names:
        element = str(label).rstrip("*")
        shares = _NUCLEIC_HYDROGENS if label.endswith("*") else _PROTEIN_HYDROGENS
        hydrogens = shares.get(element, 0.0) if implicit else 0.0
        table.append(atom_potential(element, hydrogens=hydrogens, b_factor=b_factor, solvent=solvent))
    weights = np.array([weight for weight, _ in table])[kinds] * model.occupancies.astype(np.float64)
    return kinds.astype(np.uint8), weights, tuple(form_factor for _, form_factor in table)


def _thin(points: _Points, copies: Copies, most_points: int) -> tuple[_Points, Copies, float]:
    """Merge the points in cubic cells, in the smallest of a few sizes that leaves few enough."""
    merged, new_copies, cell = points, copies, 0.0
    for cell in (4.0, 6.0, 8.0, 12.0, 16.0, 24.0):
        merged, new_copies = _merge(points, copies, cell)
        if sum(int(chosen.sum()) * len(shifts) for chosen, _, shifts in new_copies) <= most_points:
            break
    return merged, new_copies, cell


def _merge(points: _Points, copies: Copies, cell: float) -> tuple[_Points, Copies]:
    """One point per occupied cell, for atoms that go to the same copies; one form factor for all."""
    groups = np.unique(np.stack([chosen for chosen, _, _ in copies], axis=1), axis=0, return_inverse=True)[1]
    cells = np.floor((points.positions - points.positions.min(0)) / cell).astype(np.int64)
    keys = np.column_stack([groups.reshape(-1), cells])
    first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)[1:]
    inverse = inverse.reshape(-1)
    count = np.bincount(inverse)
    centres = np.stack([np.bincount(inverse, x) / count for x in points.positions.T], axis=1)
    totals = np.bincount(points.kinds, points.weights, len(points.form_factors))
    shares = totals / totals.sum()
    amplitudes = [s * a for s, f in zip(shares, points.form_factors, strict=True) for a in f.amplitudes]
    variances = [v + cell**2 / 12 for f in points.form_factors for v in f.variances]
    mean = FormFactor(tuple(amplitudes), tuple(variances))
    weights: NDArray[np.float64] = np.bincount(inverse, points.weights).astype(np.float64)
    merged = _Points(centres, weights, np.zeros(len(weights), dtype=np.uint8), (mean,))
    return merged, [(chosen[first], turns, shifts) for chosen, turns, shifts in copies]


def _expand(positions: NDArray[Any], copies: Copies) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Positions of all copies, and for each the point that it is a copy of."""
    placed, order = [], []
    for chosen, rotations, shifts in copies:
        index = np.flatnonzero(chosen)
        placed.append((positions[index] @ rotations.transpose(0, 2, 1) + shifts[:, None]).reshape(-1, 3))
        order.append(np.tile(index, len(shifts)))
    return np.concatenate(placed), np.concatenate(order)


def _read(path: Path) -> tuple[AtomicModel, Copies]:
    """Atoms of the asymmetric unit, and the rigid motions that make the assembly of them."""
    structure = _parse(path)
    structure.setup_entities()
    structure.remove_waters()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise InputError(f"{path} holds no atoms; give a PDB, mmCIF or MRC file of a macromolecule")
    rows = list(structure[0].all())
    positions = np.array([row.atom.pos.tolist() for row in rows], dtype=np.float32)[:, ::-1]
    if not np.isfinite(positions).all():
        raise InputError(f"{path} holds atoms without coordinates; remove them from the file")
    elements = np.array(["H" if row.atom.element.is_hydrogen else row.atom.element.name for row in rows])
    residues = {row.residue.name for row in rows}
    nucleotides = {r for r in residues if gemmi.find_tabulated_residue(r).is_nucleic_acid()}
    nucleic = np.array([row.residue.name in nucleotides for row in rows])
    model = AtomicModel(np.ascontiguousarray(positions), elements, _occupancies(rows), nucleic)
    present = model.occupancies > 0
    chains = np.array([row.chain.name for row in rows])[present]
    subchains = np.array([row.residue.subchain for row in rows])[present]
    return model.select(present), _assembly(structure, chains, subchains)


def _parse(path: Path) -> gemmi.Structure:
    """Read the file as its name says; gemmi alone would take a cut gzip file for a smaller structure."""
    name = existing_file(path)
    try:
        data = name.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{path} is a damaged gzip file; copy or download it again") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    text = data.decode("latin-1")
    try:
        if ".pdb" in path.name.lower() or ".ent" in path.name.lower():
            return gemmi.read_pdb_string(text)
        blocks = [b for b in gemmi.cif.read_string(text) if b.find_values("_atom_site.Cartn_x")]
        return gemmi.make_structure_from_block(blocks[0]) if blocks else gemmi.Structure()
    except (RuntimeError, ValueError, IndexError) as error:
        what = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a readable PDB or mmCIF file ({what}); download it again") from None


def _occupancies(rows: list[Any]) -> NDArray[np.float32]:
    """Occupancies in [0, 1]; those of the conformers of one atom sum to at most 1."""
    occupancies = np.clip([row.atom.occ for row in rows], 0, 1)
    if not occupancies.any():  # as some programs write models that were never refined
        return np.ones(len(rows), dtype=np.float32)
    alternatives: dict[tuple[str, str, str], list[int]] = {}
    for i, row in enumerate(rows):
        if row.atom.has_altloc():
            key = (row.chain.name, str(row.residue.seqid), row.atom.name)
            alternatives.setdefault(key, []).append(i)
    for index in alternatives.values():
        occupancies[index] /= max(1.0, occupancies[index].sum())
    return occupancies.astype(np.float32)


def _assembly(structure: gemmi.Structure, chains: NDArray[Any], subchains: NDArray[Any]) -> Copies:
    """Atoms and rigid motions (ZYX) of each generator of the first assembly; the model itself if none."""
    copies: Copies = []
    for generator in structure.assemblies[0].generators if structure.assemblies else ():
        # PDB files name chains, mmCIF files subchains
        names = (chains, generator.chains) if generator.chains else (subchains, generator.subchains)
        chosen = np.isin(names[0], list(names[1]))
        transforms = [operator.transform for operator in generator.operators]
        if chosen.any() and transforms:
            rotations = np.array([t.mat.tolist() for t in transforms])[:, ::-1, ::-1]
            shifts = np.array([t.vec.tolist() for t in transforms])[:, ::-1]
            copies.append((chosen, rotations, shifts))
    if not copies:
        copies.append((np.ones(len(chains), dtype=bool), np.eye(3)[None], np.zeros((1, 3))))
    return copies
