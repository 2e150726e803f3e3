import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryomend.specimen.density_map import macromolecule_from_map, otsu_threshold
from cryomend.specimen.macromolecule import PROTEIN_CONTRAST, potential_grid


def ball(shape, centre_px, radius_px) -> np.ndarray:
    """A ball with an edge of about one voxel."""
    grid = np.indices(shape).astype(np.float32)
    distance = np.sqrt(((grid - np.reshape(centre_px, (3, 1, 1, 1))) ** 2).sum(0))
    return 1 / (1 + np.exp(2 * (distance - radius_px)))


@pytest.mark.parametrize("voxel_size", [2.0, 4.0, 10.0])
def test_a_ball_has_its_place_its_volume_and_the_contrast_of_protein(voxel_size):
    shape, offset = (33, 40, 47), np.array([-2, 3, 5])
    density = ball(shape, np.array(shape) // 2 + offset, 9.3)
    molecule = macromolecule_from_map(density, voxel_size=voxel_size, name="ball", threshold=0.5)
    centre = np.average(molecule.positions_zyx, axis=0, weights=molecule.weights)
    np.testing.assert_allclose(centre, offset * voxel_size, atol=0.02 * voxel_size)
    # the threshold is the radius, to what the voxels of its surface leave open
    assert molecule.volume == pytest.approx(4 / 3 * np.pi * (9.3 * voxel_size) ** 3, rel=0.02)
    grid = potential_grid(molecule, spacing=voxel_size, sigma=voxel_size)
    inside = grid[tuple(slice(i - 3, i + 4) for i in np.array(grid.shape) // 2 + offset)]
    # the edge counts to the mean but not to the middle, which is a little higher; and no lattice shows
    assert PROTEIN_CONTRAST <= inside.min() and inside.max() < 1.15 * PROTEIN_CONTRAST
    assert inside.std() < 0.01 * PROTEIN_CONTRAST


def test_maps_of_any_grey_scale_come_out_alike():
    blob = ball((24, 24, 24), (12, 12, 15), 5)
    a = macromolecule_from_map(blob, voxel_size=10, name="a")
    b = macromolecule_from_map(1000 * blob, voxel_size=10, name="b")
    np.testing.assert_allclose(b.weights, a.weights, rtol=1e-3)
    shifted = macromolecule_from_map(1000 * blob - 7, voxel_size=10, name="c")
    assert shifted.volume == pytest.approx(a.volume, rel=0.02)  # Otsu's bins fall a little differently


@pytest.mark.parametrize("shape", [(120, 120, 120), (121, 119, 118)])
def test_binned_maps_keep_their_total_and_place(shape, monkeypatch):
    density = ball(shape, np.array(shape) // 2 + [3, -4, 0], 40)
    whole = macromolecule_from_map(density, voxel_size=1.0, name="fine", threshold=0.5)
    monkeypatch.setattr("cryomend.specimen.density_map._MOST_POINTS", 12_000)
    binned = macromolecule_from_map(density, voxel_size=1.0, name="fine", threshold=0.5)
    assert len(binned.weights) <= 12_000 < len(whole.weights)
    assert binned.weights.sum() == pytest.approx(whole.weights.sum(), rel=1e-5)
    for molecule in (whole, binned):
        centre = np.average(molecule.positions_zyx, axis=0, weights=molecule.weights)
        np.testing.assert_allclose(centre, [3, -4, 0], atol=0.02)
    fine, coarse = (potential_grid(m, spacing=4.0, sigma=4.0) for m in (whole, binned))
    n = min(len(fine), len(coarse)) // 2 - 1
    fine, coarse = (g[(slice(len(g) // 2 - n, len(g) // 2 + n + 1),) * 3] for g in (fine, coarse))
    # blocks of 3 Å and their form factor blur the edge by 2 Å more
    assert (fine - coarse).abs().max() < 0.15 * fine.max()
    assert (fine - coarse).abs().mean() < 0.01 * fine.max()


def test_points_serve_the_voxel_size_of_their_map():
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.standard_normal((32, 32, 32)), 1.5)
    density = ball((32, 32, 32), (16, 16, 16), 10) * (1 + 0.2 * texture / texture.std())
    molecule = macromolecule_from_map(density, voxel_size=8.0, name="textured", threshold=0.5)
    grid = potential_grid(molecule, spacing=8.0).numpy()
    middle = len(grid) // 2
    ours = grid[(slice(middle - 4, middle + 5),) * 3].ravel()
    theirs = density[12:21, 12:21, 12:21].ravel()
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98  # blurred by a quarter of a voxel, no more


def test_specks_of_noise_do_not_count_but_separate_parts_do():
    density = ball((40, 40, 40), (20, 20, 13), 6) + ball((40, 40, 40), (20, 20, 30), 5)
    clean = macromolecule_from_map(density, voxel_size=4.0, name="two", threshold=0.5)
    density[1, 1, 1] = density[2, 30, 38] = 1
    dusty = macromolecule_from_map(density, voxel_size=4.0, name="two", threshold=0.5)
    np.testing.assert_array_equal(dusty.weights, clean.weights)
    assert dusty.radius == clean.radius


def test_otsu_threshold_parts_two_levels():
    values = np.concatenate([np.random.default_rng(0).normal(m, 0.5, 5000) for m in (0, 10)])
    assert 4 < otsu_threshold(values.reshape(10, 10, 100)) < 6


@pytest.mark.parametrize(
    ("level", "threshold", "message"),
    [
        (0.0, 1.0, "void: no voxel of the map lies above the threshold 1; lower it"),
        (-2.0, -3.0, "negative on the whole"),
    ],
)
def test_maps_with_nothing_positive_above_the_threshold_are_refused(level, threshold, message):
    with pytest.raises(ValueError, match=message):
        macromolecule_from_map(np.full((8, 8, 8), level), voxel_size=5, name="void", threshold=threshold)
