import itertools
import time

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.spatial import cKDTree

from cryomend.specimen.macromolecule import PROTEIN_CONTRAST, Macromolecule, potential_grid
from cryomend.specimen.procedural import procedural_macromolecule, symmetry_rotations

GROUPS = {"C1": 1, "C2": 2, "C7": 7, "C12": 12, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60}
MASSES = (50, 600, 5000)


def made(symmetry: str, mass: float, seed: int = 1) -> Macromolecule:
    return procedural_macromolecule(np.random.default_rng(seed), mass_kda=mass, symmetry=symmetry)


def bead_spacing(molecule: Macromolecule) -> float:
    return 2 * molecule.form_factors[0].variances[0] ** 0.5


def fitted_motion(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and shift that carry one set of points onto another (Kabsch)."""
    u, _, vt = np.linalg.svd((target - target.mean(0)).T @ (source - source.mean(0)))
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return rotation, target.mean(0) - rotation @ source.mean(0)


@pytest.mark.parametrize(("symmetry", "order"), GROUPS.items())
def test_point_groups_are_closed_and_begin_with_the_identity(symmetry, order):
    rotations = symmetry_rotations(symmetry)
    assert len(rotations) == order
    np.testing.assert_allclose(rotations[0], np.eye(3), atol=1e-12)
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    distance = cKDTree(rotations.reshape(-1, 9)).query(products)[0]
    assert distance.max() < 1e-9
    np.testing.assert_allclose(np.linalg.det(rotations), 1)


def test_main_axis_of_cyclic_and_dihedral_groups_is_z():
    for rotation in symmetry_rotations("C5"):
        np.testing.assert_allclose(rotation @ [1, 0, 0], [1, 0, 0], atol=1e-12)
    axes = symmetry_rotations("D5") @ [1, 0, 0]
    np.testing.assert_allclose(np.abs(axes), np.tile([1, 0, 0], (10, 1)), atol=1e-12)


@pytest.mark.parametrize("symmetry", [s for s in GROUPS if s != "C1"])
def test_assemblies_are_carried_onto_themselves_by_their_symmetry(symmetry):
    molecule = made(symmetry, 600)
    tree = cKDTree(molecule.positions_zyx)
    for rotation in symmetry_rotations(symmetry)[1:]:
        distance, partner = tree.query(molecule.positions_zyx @ rotation.T)
        assert distance.max() < 1e-2 and len(set(partner)) == len(partner)
        np.testing.assert_array_equal(molecule.weights[partner], molecule.weights)


@pytest.mark.parametrize("seed", range(4))
def test_helices_are_carried_onto_themselves_by_one_screw_along_z_but_for_their_ends(seed):
    molecule = made("H", 2000, seed)
    # copies stand one after the other with equal weights
    m = next(
        i
        for i in range(8, len(molecule.weights))
        if molecule.weights[i] == molecule.weights[0] and len(molecule.weights) % i == 0
    )
    copies = molecule.positions_zyx.astype(float).reshape(-1, m, 3)
    assert 6 <= len(copies) <= 60
    rotation, shift = fitted_motion(copies[0], copies[1])
    np.testing.assert_allclose(rotation @ [1, 0, 0], [1, 0, 0], atol=1e-4)  # about Z,
    np.testing.assert_allclose(shift[1:], 0, atol=0.05)  # through the origin,
    assert shift[0] > 3 and np.trace(rotation) < 3 - 0.1  # with a rise and a twist
    for here, there in itertools.pairwise(copies):
        np.testing.assert_allclose(here @ rotation.T + shift, there, atol=0.05)
    np.testing.assert_allclose(copies.mean((0, 1))[0], 0, atol=0.01)


@pytest.mark.parametrize("symmetry", [*GROUPS, "H"])
@pytest.mark.parametrize("mass", MASSES)
def test_mass_density_and_extent_are_those_of_proteins(symmetry, mass):
    for seed in range(3):
        molecule = made(symmetry, mass, seed)
        assert molecule.volume == pytest.approx(1210 * mass, rel=1e-4)
        # points fill that volume, one per cell of their spacing, so that its density is that of protein
        filled = len(molecule.weights) * bead_spacing(molecule) ** 3
        assert filled == pytest.approx(1210 * mass, rel=0.03)
        centre = np.average(molecule.positions_zyx, axis=0, weights=molecule.weights)
        squared = ((molecule.positions_zyx - centre) ** 2).sum(1)
        gyration = np.sqrt(np.average(squared, weights=molecule.weights))
        # Erickson 2009, doi:10.1007/s12575-009-9008-x: a ball of M daltons has R = 0.066 M^(1/3) nm
        smallest = 0.6**0.5 * 0.66 * (1000 * mass) ** (1 / 3)
        assert 0.97 < gyration / smallest < 3.5


@pytest.mark.parametrize("symmetry", ["C7", "D7", "T", "I", "H"])
def test_copies_do_not_overlap_and_hang_together(symmetry):
    for seed in range(3):
        molecule = made(symmetry, 2000, seed)
        spacing = bead_spacing(molecule)
        grid = potential_grid(molecule, spacing=spacing, sigma=spacing).numpy()
        # two copies in one place would have twice the contrast; the interior texture reaches 1.7 times
        assert grid.max() < 1.7 * PROTEIN_CONTRAST
        parts = label(grid > 0.35 * PROTEIN_CONTRAST)[0]
        sizes = np.bincount(parts[parts > 0])
        assert sizes.max() > 0.9 * sizes.sum()


def test_interiors_show_no_lattice_of_points():
    molecule = made("C1", 3000)
    spacing = bead_spacing(molecule)
    k = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]) / spacing
    phases = np.exp(-2j * np.pi * molecule.positions_zyx.astype(float) @ k.T)
    lattice = np.abs((molecule.weights[:, None] * phases).sum(0)) / molecule.weights.sum()
    spread = np.exp(-2 * np.pi**2 * molecule.form_factors[0].variances[0] / spacing**2)
    assert lattice.min() > 0.9  # the points do stand on a lattice,
    assert (lattice * spread).max() < 0.01  # which their form factor removes


def test_equal_seeds_make_equal_macromolecules():
    for symmetry in ("C3", "H"):
        a, b = (made(symmetry, 200, seed=5) for _ in range(2))
        np.testing.assert_array_equal(a.positions_zyx, b.positions_zyx)
        np.testing.assert_array_equal(a.weights, b.weights)
    assert made("C3", 200, seed=6).radius != made("C3", 200, seed=5).radius


@pytest.mark.parametrize(("symmetry", "mass", "limit"), [("C1", 300, 0.5), ("I", 5000, 1.5)])
def test_macromolecules_are_made_in_milliseconds(symmetry, mass, limit):
    begin = time.process_time()
    for seed in range(5):
        made(symmetry, mass, seed)
    assert time.process_time() - begin < 5 * limit  # ten and a hundred times what they take


@pytest.mark.parametrize(
    ("mass", "symmetry", "message"),
    [(0, "C1", "mass"), (-5, "H", "mass"), (float("nan"), "C1", "mass"), (100, "Q9", "point group")],
)
def test_impossible_species_are_refused(mass, symmetry, message):
    with pytest.raises(ValueError, match=message):
        made(symmetry, mass)
