import numpy as np
import pytest

from cryomend.specimen.subunit import (
    actin_monomer,
    carve_protein,
    grid_points,
    tubulin_monomer,
)


@pytest.mark.parametrize(("make", "kda"), [(tubulin_monomer, 50), (actin_monomer, 42)])
def test_subunits_carry_the_potential_of_their_mass_of_protein(make, kda):
    unit = make(np.random.default_rng(0))
    # 1.21 Å³/Da at 3.3 V above ice
    assert unit.weights.sum() == pytest.approx(kda * 1000 * 1.21 * 3.3, rel=1e-4)
    assert unit.weights.min() > 0
    again, other = make(np.random.default_rng(0)), make(np.random.default_rng(1))
    np.testing.assert_array_equal(unit.weights, again.weights)
    assert np.abs(unit.weights - other.weights).max() > 0.05 * unit.weights.mean()


def test_tubulin_tiles_its_cell_and_spans_the_wall():
    positions = tubulin_monomer(np.random.default_rng(0)).positions_zyx
    z, x = np.unique(positions[:, 0]), np.unique(positions[:, 2].round(3))
    columns = {(a, b) for a, b in zip(positions[:, 0], positions[:, 2].round(3), strict=True)}
    assert len(columns) == len(z) * len(x)  # no hole through the wall
    assert len(z) * (z[1] - z[0]) == pytest.approx(40)
    assert len(x) * (x[1] - x[0]) == pytest.approx(51.2, abs=0.05)
    assert 36 <= np.ptp(positions[:, 1]) + 4 <= 46


def test_actin_has_the_size_of_the_monomer_and_its_cleft():
    positions = actin_monomer(np.random.default_rng(0)).positions_zyx
    z, y, x = np.ptp(positions, axis=0) + 4  # cells of 4 Å
    assert 50 <= z <= 66 and 50 <= y <= 62 and 28 <= x <= 40  # about 55 x 55 x 35 Å
    slender = np.abs(positions[:, 1]) < 3
    assert slender.sum() < 0.8 * (np.abs(positions[:, 1] - 12) < 3).sum()


def test_grid_tiles_its_box_and_the_field_is_normal():
    points, cell = grid_points((10.0, 21.0, 7.0), 4.0)
    assert cell * len(points) == pytest.approx(10 * 21 * 7)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(points.max(0), [5 - 10 / 6, 10.5 - 21 / 12, 3.5 - 7 / 4])


def test_carving_keeps_the_deepest_points_and_refuses_what_does_not_fit():
    points, cell = grid_points((80.0, 80.0, 80.0), 4.0)
    depth = -np.linalg.norm(points, axis=1)
    ball = carve_protein(
        np.random.default_rng(0), "ball", points, depth, cell=cell, volume=4 / 3 * np.pi * 30**3
    )
    assert np.linalg.norm(ball.positions_zyx, axis=1).max() == pytest.approx(30, abs=2)
    with pytest.raises(ValueError, match="do not fit into the"):
        carve_protein(np.random.default_rng(0), "ball", points, depth, cell=cell, volume=81.0**3)
