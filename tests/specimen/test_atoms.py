import gzip
import logging
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryomend.io import InputError
from cryomend.specimen.atoms import atom_potential, macromolecule_from_atoms, read_atoms
from cryomend.specimen.macromolecule import ICE_POTENTIAL, Macromolecule, potential_grid, sigma_of_resolution

PDB_FOLDER = Path(__file__).parents[3] / "shared/data/structures/pdb"
B_FACTOR = 40.0


def write_pdb(path: Path, atoms, assembly: bool = False, residues=("ALA",)) -> Path:
    """A PDB file of single-atom residues ``(element, x, y, z[, altloc, occupancy, residue number])``."""
    lines = []
    if assembly:  # a two-fold axis along Z
        lines += ["REMARK 350 BIOMOLECULE: 1", "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A"]
        for n, rows in ((1, ((1, 0, 0), (0, 1, 0), (0, 0, 1))), (2, ((-1, 0, 0), (0, -1, 0), (0, 0, 1)))):
            for i, row in enumerate(rows, start=1):
                numbers = "".join(f"{v:10.6f}" for v in row)
                lines.append(f"REMARK 350   BIOMT{i}   {n}{numbers}        0.00000")
    for i, (element, x, y, z, *rest) in enumerate(atoms, start=1):
        altloc, occupancy, number = (*rest, *(" ", 1.0, i)[len(rest) :])
        lines.append(
            f"ATOM  {i:5d}  {element:<3s}{altloc}{residues[i % len(residues)]:>3s} A{number:4d}    "
            f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f} 10.00          {element:>2s}"
        )
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def scattered_atoms(n: int = 100, half: float = 7.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    elements = rng.choice(["C", "N", "O", "S", "P", "H"], n, p=[0.4, 0.15, 0.15, 0.05, 0.05, 0.2])
    positions = np.round(rng.uniform(-half, half, (n, 3)), 3)
    corners = [("C", half, half, half), ("C", -half, -half, -half)]  # so that the box is centred
    return [(str(e), *p) for e, p in zip(elements, positions, strict=True)] + corners


def test_weight_of_an_atom_is_its_form_factor_at_the_origin_less_the_ice_it_displaces():
    f = sum(gemmi.Element("C").c4322.a)
    assert f == pytest.approx(2.509, abs=0.01)  # Å, the tabulated f(0) of carbon
    assert atom_potential("C")[0] == pytest.approx(47.878 * f - ICE_POTENTIAL * 16.44, rel=1e-6)
    with_hydrogens = atom_potential("C", hydrogens=2)[0] - 2 * atom_potential("H")[0]
    assert with_hydrogens == pytest.approx(atom_potential("C")[0])


def test_ice_potential_is_that_of_water_at_its_density():
    water = sum(n * atom_potential(e, solvent=False)[0] for e, n in (("O", 1), ("H", 2)))
    per_volume = 0.94 * 6.02214e23 / 18.015 * 1e-24  # molecules per Å3 at 0.94 g/cm3
    assert water * per_volume == pytest.approx(ICE_POTENTIAL, rel=0.02)


def test_one_carbon_has_the_profile_of_its_five_gaussians_less_a_gaussian_of_ice(tmp_path):
    molecule = macromolecule_from_atoms(write_pdb(tmp_path / "c.pdb", [("C", 5, 6, 7), ("H", 5, 6, 7)]))
    carbon = gemmi.Element("C").c4322
    hydrogen = gemmi.Element("H").c4322
    grid = potential_grid(molecule, spacing=0.5, sigma=0.6)
    r = 0.5 * np.arange(len(grid) - len(grid) // 2)
    profile = np.zeros(len(r))
    for table in (carbon, hydrogen):
        for a, b in zip(table.a, table.b, strict=True):
            width = b + B_FACTOR + 8 * np.pi**2 * 0.6**2  # in units of B
            profile += 47.878 * a * (4 * np.pi / width) ** 1.5 * np.exp(-4 * np.pi**2 * r**2 / width)
    for volume in (16.44, 5.15):
        variance = volume ** (2 / 3) / (2 * np.pi) + B_FACTOR / (8 * np.pi**2) + 0.6**2
        gaussian = (2 * np.pi * variance) ** -1.5 * np.exp(-(r**2) / (2 * variance))
        profile -= ICE_POTENTIAL * volume * gaussian
    line = grid[len(grid) // 2, len(grid) // 2, len(grid) // 2 :].numpy()
    assert np.abs(line - profile).max() < 2e-3 * profile.max()


@pytest.mark.parametrize("resolution", [2.0, 10.0])
def test_vacuum_potential_agrees_with_torch_calculate_electrostatic_potential(tmp_path, resolution):
    tcep = pytest.importorskip("torch_calculate_electrostatic_potential")
    atoms = scattered_atoms()
    molecule = macromolecule_from_atoms(write_pdb(tmp_path / "a.pdb", atoms), solvent=False)
    sigma, spacing = sigma_of_resolution(resolution), 0.5
    ours = potential_grid(molecule, spacing=spacing, sigma=sigma)
    n = len(ours)
    first = -(n // 2) * spacing
    stack = tcep.AtomStack.from_coords_and_atomic_numbers(
        torch.tensor([a[:0:-1] for a in atoms], dtype=torch.float32),
        torch.tensor([gemmi.Element(a[0]).atomic_number for a in atoms]),
        B_FACTOR,
    )
    box = ((n,) * 3, (spacing,) * 3, (first,) * 3, (first + (n - 1) * spacing,) * 3)
    averaged = stack.to_scattering_potential_3d(tcep.GridConfig(*box, sublattice_radius=7.0))
    k = torch.fft.fftfreq(n)
    k = torch.stack(torch.meshgrid(k, k, k, indexing="ij"))
    # theirs is averaged over voxels: undo that, and blur
    transfer = torch.exp(-2 * (np.pi * sigma / spacing) ** 2 * (k**2).sum(0)) / torch.sinc(k).prod(0)
    theirs = torch.fft.ifftn(torch.fft.fftn(averaged) * transfer).real
    # they cut atoms off at 7 Å, which is 1e-5 of the sum and 5e-4 of the finest structure
    assert (ours - theirs).abs().max() < 2e-3 * theirs.max()
    assert ours.sum().item() == pytest.approx(averaged.sum().item(), rel=1e-4)


def test_vacuum_potential_agrees_with_gemmi(tmp_path):
    path = write_pdb(tmp_path / "a.pdb", scattered_atoms())
    ours = potential_grid(
        macromolecule_from_atoms(path, solvent=False), spacing=0.5, sigma=sigma_of_resolution(2.0)
    )
    n, structure = len(ours), gemmi.read_structure(str(path))
    structure.cell, structure.spacegroup_hm = gemmi.UnitCell(*(n * 0.5,) * 3, 90, 90, 90), "P 1"
    blur = 8 * np.pi**2 * sigma_of_resolution(2.0) ** 2  # as a B-factor
    for row in structure[0].all():
        row.atom.b_iso = B_FACTOR + blur
    calculator = gemmi.DensityCalculatorE()
    calculator.cutoff = 1e-7
    calculator.grid.set_size(n, n, n)
    calculator.grid.set_unit_cell(structure.cell)
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.add_model_density_to_grid(structure[0])
    theirs = 47.878 * np.roll(calculator.grid.array, n // 2, axis=(0, 1, 2)).T  # origin at a corner, XYZ
    assert np.abs(ours.numpy() - theirs).max() < 5e-3 * theirs.max()  # Gaussians cut off by gemmi


def test_positions_are_zyx_and_the_assembly_is_expanded(tmp_path):
    path = write_pdb(tmp_path / "two.pdb", [("C", 1, 2, 3), ("N", 4, 5, 6)], assembly=True)
    model = read_atoms(path)
    assert list(model.elements) == ["C", "N", "C", "N"]
    np.testing.assert_allclose(model.positions_zyx, [[3, 2, 1], [6, 5, 4], [3, -2, -1], [6, -5, -4]])
    molecule = macromolecule_from_atoms(path)
    np.testing.assert_allclose(
        molecule.positions_zyx, model.positions_zyx - np.array([4.5, 0, 0], np.float32), atol=1e-5
    )


def test_assemblies_of_mmcif_files_agree_with_gemmi(tmp_path):
    structure = gemmi.read_structure(str(write_pdb(tmp_path / "a.pdb", scattered_atoms(30), assembly=True)))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "a.cif"))
    structure.transform_to_assembly("1", gemmi.HowToNameCopiedChain.Short)
    expected = np.array([row.atom.pos.tolist() for row in structure[0].all()])[:, ::-1]
    for name in ("a.pdb", "a.cif"):
        positions = read_atoms(tmp_path / name).positions_zyx
        assert len(positions) == 64
        np.testing.assert_allclose(np.sort(positions, 0), np.sort(expected, 0), atol=2e-3)


def test_gzip_compressed_files_give_the_same_points(tmp_path):
    path = write_pdb(tmp_path / "a.pdb", scattered_atoms(30))
    (tmp_path / "b.pdb.gz").write_bytes(gzip.compress(path.read_bytes()))
    ours, theirs = macromolecule_from_atoms(path), macromolecule_from_atoms(tmp_path / "b.pdb.gz")
    np.testing.assert_array_equal(ours.positions_zyx, theirs.positions_zyx)
    assert theirs.name == "b"


@pytest.mark.parametrize(
    ("occupancies", "total"), [((0.6, 0.4), 1.0), ((1.0, 1.0), 1.0), ((0.3, 0.3), 0.6), ((0.0, 0.0), 2.0)]
)
def test_conformers_count_by_their_occupancy_and_once_at_most(tmp_path, occupancies, total):
    atoms = [
        ("O", 0, 0, 3 * i, altloc, occupancy, 7)
        for i, (altloc, occupancy) in enumerate(zip("AB", occupancies, strict=True))
    ]
    if not total == 2.0:  # of files whose occupancies all are 0 every atom counts
        atoms.append(("O", 9, 9, 9))
        total += 1
    molecule = macromolecule_from_atoms(write_pdb(tmp_path / "alt.pdb", atoms), solvent=False)
    oxygen = atom_potential("O", hydrogens=0.25, solvent=False)[0]
    assert molecule.weights.sum() / oxygen == pytest.approx(total, rel=1e-4)


def test_water_is_left_out_and_deuterium_counts_as_hydrogen(tmp_path):
    path = write_pdb(tmp_path / "w.pdb", [("D", 1, 2, 3), ("O", 4, 5, 6)], residues=("HOH", "ALA"))
    assert list(read_atoms(path).elements) == ["H"]


def structure_factors(molecule: Macromolecule, k: np.ndarray) -> np.ndarray:
    """Amplitudes of the potential at spatial frequencies (n, 3), which do not depend on the origin."""
    squared = torch.from_numpy((k**2).sum(1))
    spread = torch.stack([f(squared) for f in molecule.form_factors]).numpy()[molecule.kinds]
    phases = np.exp(-2j * np.pi * molecule.positions_zyx.astype(float) @ k.T)
    return np.abs((molecule.weights[:, None] * spread * phases).sum(0))


def test_large_assemblies_are_thinned_to_the_same_potential_and_symmetry(tmp_path, caplog):
    rng = np.random.default_rng(3)
    atoms = [("CNO"[i % 3], *rng.uniform(2, 32, 3)) for i in range(3000)]
    path = write_pdb(tmp_path / "big.pdb", atoms, assembly=True)
    whole = macromolecule_from_atoms(path)
    with caplog.at_level(logging.WARNING):
        thin = macromolecule_from_atoms(path, most_points=1500)
    assert "big.pdb: 6000 atoms merged in cells of 4 Å" in caplog.text
    assert 500 < len(thin.weights) <= 1500
    first, second = thin.positions_zyx.reshape(2, -1, 3)
    middle = np.array([0, *(first + second)[0, 1:] / 2])
    np.testing.assert_allclose(second - middle, (first - middle) * [1, -1, -1], atol=1e-3)
    # at 16 Å and coarser what a cell's atoms lose by standing in one point is second order
    k = rng.uniform(-1, 1, (200, 3)) / 16 / 3**0.5
    exact = structure_factors(whole, k)
    np.testing.assert_allclose(structure_factors(thin, k), exact, atol=0.01 * whole.weights.sum())
    assert exact.min() < 0.1 * whole.weights.sum()  # not all near k = 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pdb", b""),
        ("words.pdb", b"not a structure\n"),
        ("empty.cif", b""),
        ("words.cif", b"not a structure\n"),
        ("cell.cif", b"data_x\n_cell.length_a 3\n"),
        ("cut.pdb.gz", gzip.compress(np.random.default_rng(0).bytes(900))[:500]),
        ("cut.cif.gz", b"\x1f\x8b\x08"),
        ("binary.cif", bytes(range(256))),
    ],
)
def test_files_without_readable_atoms_are_refused_in_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        macromolecule_from_atoms(path)
    assert len(str(caught.value).splitlines()) == 1 and ";" in str(caught.value)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.pdb does not exist"):
        read_atoms(tmp_path / "none.pdb")


def test_unknown_elements_are_refused_with_the_name_of_the_file(tmp_path):
    path = write_pdb(tmp_path / "odd.pdb", [("C", 1, 2, 3), ("X", 4, 5, 6)])
    with pytest.raises(InputError, match=r"odd\.pdb: no electron scattering factor for element 'X'; remove"):
        macromolecule_from_atoms(path)
    with pytest.raises(ValueError, match="element 'Es'"):
        atom_potential("Es")


@pytest.mark.skipif(not PDB_FOLDER.is_dir(), reason="no shared data here")
@pytest.mark.parametrize("name", ["1s3x", "3gl1", "3h84"])
def test_real_proteins_have_the_contrast_of_protein(name):
    model = read_atoms(PDB_FOLDER / f"{name}.pdb")
    hydrogens = {"C": 1.2, "N": 1.1, "O": 0.25}
    mass = sum(
        o * (gemmi.Element(str(e)).weight + 1.008 * hydrogens.get(str(e), 0))
        for e, o in zip(model.elements, model.occupancies, strict=True)
    )
    total = macromolecule_from_atoms(PDB_FOLDER / f"{name}.pdb").weights.sum()
    assert total / (1.21 * mass) == pytest.approx(3.3, abs=0.15)


@pytest.mark.skipif(not PDB_FOLDER.is_dir(), reason="no shared data here")
def test_ribosomal_rna_stands_out_against_ribosomal_protein(tmp_path):
    structure = gemmi.read_structure(str(PDB_FOLDER / "4v4r_30S.pdb"))
    contrast = {}
    for kind, volume, hydrogens in (
        ("nucleic", 0.91, {"C": 0.82, "N": 0.53, "O": 0.14}),  # Å3/Da at 0.55 cm3/g
        ("protein", 1.21, {"C": 1.2, "N": 1.1, "O": 0.25}),
    ):
        part = structure.clone()
        for chain in part[0]:
            for i in reversed(range(len(chain))):
                if gemmi.find_tabulated_residue(chain[i].name).is_nucleic_acid() != (kind == "nucleic"):
                    del chain[i]
        part.remove_empty_chains()
        part.write_pdb(str(tmp_path / f"{kind}.pdb"))
        model = read_atoms(tmp_path / f"{kind}.pdb")
        mass = sum(gemmi.Element(str(e)).weight + 1.008 * hydrogens.get(str(e), 0) for e in model.elements)
        molecule = macromolecule_from_atoms(tmp_path / f"{kind}.pdb")
        contrast[kind] = molecule.weights.sum() / (volume * mass)
    assert contrast["protein"] == pytest.approx(3.4, abs=0.1)
    assert contrast["nucleic"] == pytest.approx(4.9, abs=0.1)
