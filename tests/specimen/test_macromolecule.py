from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryomend.io import write_volume
from cryomend.specimen.build import load_structure
from cryomend.specimen.macromolecule import (
    ICE_POTENTIAL,
    PROTEIN_CONTRAST,
    atom_weights,
    beads_from_atoms,
    beads_from_map,
    procedural_macromolecule,
    read_atoms,
    render_beads,
    symmetry_rotations,
)


def write_pdb(path: Path, atoms, assembly: bool = False) -> Path:
    """A PDB file of single-atom residues; optionally with a two-fold biological assembly about Z."""
    lines = []
    if assembly:
        lines += ["REMARK 350 BIOMOLECULE: 1", "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A"]
        for n, rows in ((1, ((1, 0, 0), (0, 1, 0), (0, 0, 1))), (2, ((-1, 0, 0), (0, -1, 0), (0, 0, 1)))):
            for i, row in enumerate(rows, start=1):
                numbers = "".join(f"{v:10.6f}" for v in row)
                lines.append(f"REMARK 350   BIOMT{i}   {n}{numbers}        0.00000")
    for i, (element, x, y, z) in enumerate(atoms, start=1):
        lines.append(
            f"ATOM  {i:5d}  {element:<3s} ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
            f"  1.00 10.00          {element:>2s}"
        )
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def test_weight_of_an_atom_is_its_form_factor_at_the_origin_less_the_ice_it_displaces():
    f = sum(gemmi.Element("C").c4322.a)
    assert f == pytest.approx(2.509, abs=0.01)  # Å, the tabulated f(0) of carbon
    expected = 47.878 * f - ICE_POTENTIAL * 16.44
    assert atom_weights(["C"], implicit_hydrogens=False)[0] == pytest.approx(expected, rel=1e-6)


def test_ice_potential_is_that_of_water_at_its_density():
    water = 47.878 * (sum(gemmi.Element("O").c4322.a) + 2 * sum(gemmi.Element("H").c4322.a))
    per_volume = 0.94 * 6.02214e23 / 18.015 * 1e-24  # molecules per Å3 at 0.94 g/cm3
    assert water * per_volume == pytest.approx(ICE_POTENTIAL, rel=0.02)


def test_unknown_elements_are_refused():
    with pytest.raises(ValueError, match="scattering factor for element 'X'"):
        atom_weights(["C", "X"], implicit_hydrogens=False)


def test_positions_are_zyx_and_the_assembly_is_expanded(tmp_path):
    path = write_pdb(tmp_path / "two.pdb", [("C", 1, 2, 3), ("N", 4, 5, 6)], assembly=True)
    positions, elements = read_atoms(path)
    assert elements == ["C", "N", "C", "N"]
    np.testing.assert_allclose(positions, [[3, 2, 1], [6, 5, 4], [3, -2, -1], [6, -5, -4]])


def test_beads_keep_the_total_weight_of_the_atoms(tmp_path):
    rng = np.random.default_rng(0)
    atoms = [("C", *rng.uniform(-40, 40, 3)) for _ in range(500)]
    beads = beads_from_atoms(write_pdb(tmp_path / "a.pdb", atoms), spacing=6)
    total = 500 * atom_weights(["C"], implicit_hydrogens=True)[0]
    assert beads.weights.sum() == pytest.approx(total, rel=1e-4)
    assert len(beads.weights) < 500


@pytest.mark.parametrize("content", ["", "not a structure\n"])
def test_files_without_atoms_are_refused(tmp_path, content):
    path = tmp_path / "empty.pdb"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"empty\.pdb"):
        read_atoms(path)


def test_mmcif_and_pdb_give_the_same_beads(tmp_path):
    path = write_pdb(tmp_path / "a.pdb", [("C", 1, 2, 3), ("O", 9, 5, 6), ("N", -7, 0, 2)])
    gemmi.read_structure(str(path)).make_mmcif_document().write_file(str(tmp_path / "a.cif"))
    ours, theirs = load_structure(path), load_structure(tmp_path / "a.cif")
    np.testing.assert_allclose(ours.positions_zyx, theirs.positions_zyx, atol=1e-3)


def test_rendered_beads_keep_their_sum_and_centre_of_mass():
    rng = torch.Generator().manual_seed(0)
    positions = 6 + 12 * torch.rand(300, 3, generator=rng)
    weights = torch.rand(300, generator=rng)
    volume = render_beads(positions, weights, shape=(24, 25, 26), voxel_size=2.0)
    assert volume.sum().item() * 8 == pytest.approx(weights.sum().item(), rel=1e-5)
    for axis in range(3):
        grid = torch.arange(volume.shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)])
        centre = (volume * grid).sum() / volume.sum()
        assert centre.item() == pytest.approx(
            ((positions[:, axis] * weights).sum() / weights.sum()).item(), abs=1e-3
        )


def test_beads_outside_the_volume_are_dropped():
    volume = render_beads(
        torch.tensor([[-5.0, 2, 2], [2, 2, 2]]), torch.ones(2), shape=(5, 5, 5), voxel_size=1.0
    )
    assert volume.sum() == 1


def test_total_potential_does_not_depend_on_the_pose_or_the_voxel_size():
    species = procedural_macromolecule(np.random.default_rng(0), mass_kda=300)
    totals = []
    for voxel_size in (5.0, 10.0):
        for rotation in symmetry_rotations("O")[:4]:
            beads = torch.tensor(species.positions_zyx @ rotation.T.astype(np.float32)) / voxel_size + 40
            volume = render_beads(
                beads, torch.tensor(species.weights), shape=(80, 80, 80), voxel_size=voxel_size
            )
            totals.append(volume.sum().item() * voxel_size**3)
    np.testing.assert_allclose(totals, totals[0], rtol=1e-4)


@pytest.mark.parametrize("symmetry", ["C1", "C7", "D3", "T", "O", "I"])
def test_procedural_assemblies_are_symmetric_and_have_their_mass(symmetry):
    species = procedural_macromolecule(np.random.default_rng(1), mass_kda=600, symmetry=symmetry)
    volume = species.weights.sum() / PROTEIN_CONTRAST
    assert volume == pytest.approx(
        600e3 * 1.21, rel=0.1
    )  # the beads' texture has a mean of one within its spread
    first, *others = symmetry_rotations(symmetry)
    np.testing.assert_allclose(first, np.eye(3), atol=1e-12)
    for rotation in others[:3]:
        turned = species.positions_zyx @ rotation.T
        moments = [np.einsum("ni,nj,n->ij", p, p, species.weights) for p in (species.positions_zyx, turned)]
        np.testing.assert_allclose(moments[1], moments[0], atol=1e-3 * np.abs(moments[0]).max())


def test_equal_seeds_make_equal_macromolecules():
    a, b = (procedural_macromolecule(np.random.default_rng(5), mass_kda=200, symmetry="C3") for _ in range(2))
    np.testing.assert_array_equal(a.positions_zyx, b.positions_zyx)


def test_maps_of_any_grey_scale_come_out_alike(tmp_path):
    z, y, x = np.mgrid[:24, :24, :24] - 12
    blob = np.exp(-(z**2 + y**2 + (x - 3) ** 2) / 30).astype(np.float32)
    a = beads_from_map(blob, voxel_size=10, name="a")
    b = beads_from_map(1000 * blob - 7, voxel_size=10, name="b", threshold=None)
    assert b.weights.sum() == pytest.approx(
        a.weights.sum(), rel=0.02
    )  # Otsu's bins fall a little differently
    centre = (a.positions_zyx * a.weights[:, None]).sum(0) / a.weights.sum()
    np.testing.assert_allclose(centre, [0, 0, 30], atol=0.5)
    write_volume(tmp_path / "m.mrc", blob, voxel_size=10)
    assert load_structure(tmp_path / "m.mrc").weights.sum() == pytest.approx(a.weights.sum(), rel=1e-5)


def test_a_map_with_nothing_above_the_threshold_is_refused():
    with pytest.raises(ValueError, match="no voxel of the map"):
        beads_from_map(np.zeros((8, 8, 8)), voxel_size=5, name="void", threshold=1.0)


def test_other_files_are_no_structures(tmp_path):
    with pytest.raises(ValueError, match="structure is a"):
        load_structure(tmp_path / "notes.txt")


@pytest.mark.parametrize(("mass", "symmetry", "message"), [(0, "C1", "mass"), (100, "Q9", "point group")])
def test_impossible_procedural_species_are_refused(mass, symmetry, message):
    with pytest.raises(ValueError, match=message):
        procedural_macromolecule(np.random.default_rng(0), mass_kda=mass, symmetry=symmetry)


def test_main_axis_of_cyclic_groups_is_z():
    for rotation in symmetry_rotations("C5"):
        np.testing.assert_allclose(rotation @ [1, 0, 0], [1, 0, 0], atol=1e-12)
