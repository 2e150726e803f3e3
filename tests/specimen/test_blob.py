import numpy as np
import pytest

from cryomend.specimen.blob import box_offsets, smooth_grain, trimmed_blob, turned_offsets, voxel_coverage


def test_box_is_clipped_and_its_offsets_are_in_angstrom():
    corner, (z, y, x) = box_offsets(np.array([1.25, 50.0, 8.5]), 3.0, (20, 100, 10), voxel_size=4.0)
    assert corner == (0, 47, 5)
    np.testing.assert_allclose(z.ravel(), (np.arange(6) - 1.25) * 4)
    np.testing.assert_allclose(y.ravel(), (np.arange(7) - 3) * 4)
    np.testing.assert_allclose(x.ravel(), (np.arange(5) - 3.5) * 4)  # ends with the volume
    assert z.shape == (6, 1, 1) and y.shape == (1, 7, 1) and x.shape == (1, 1, 5)


@pytest.mark.parametrize("radius", [12.0, 40.0, 150.0])
def test_coverage_adds_up_to_the_volume_of_balls_and_cubes(radius):
    _, offsets = box_offsets(np.array([40.3, 39.8, 40.1]), 25, (80, 80, 80), voxel_size=10.0)
    ball = voxel_coverage(offsets, voxel_size=10.0, radius=radius).sum(dtype=float) * 1000
    # (w / 2R)² of the parts of a voxel: 0.1 %, or 0.3 % where the split is limited to 8
    assert ball == pytest.approx(4 / 3 * np.pi * radius**3, rel=4e-3)
    planes = np.concatenate([np.eye(3), -np.eye(3)])
    cube = voxel_coverage(offsets, voxel_size=10.0, radius=radius, planes=(planes, np.full(6, radius)))
    # A face along the grid is exact; edges lose up to a third of a part's square.
    assert cube.sum(dtype=float) * 1000 == pytest.approx((2 * radius) ** 3, rel=5e-3)
    assert 0 <= cube.min() and cube.max() <= 1


def test_turned_offsets_are_coordinates_along_the_turned_axes():
    _, offsets = box_offsets(np.full(3, 5.0), 3, (11, 11, 11), voxel_size=2.0)
    turn = np.array([[0, 1.0, 0], [0, 0, 1], [1, 0, 0]])
    turned = np.stack(np.broadcast_arrays(*turned_offsets(offsets, turn)), axis=-1)
    plain = np.stack(np.broadcast_arrays(*offsets), axis=-1)
    np.testing.assert_allclose(turned @ turn.T, plain, atol=1e-6)


def test_grain_is_smooth_noise_of_unit_variance():
    noise = smooth_grain(np.random.default_rng(0), (40, 40, 40), 2.0)
    assert noise.std() == pytest.approx(1, abs=1e-3) and abs(noise.mean()) < 1e-3
    # Correlation over a shift of 2 sigma: exp(-(2 sigma)² / (4 sigma²)) = e⁻¹
    assert (noise[4:] * noise[:-4]).mean() == pytest.approx(np.exp(-1), abs=0.06)


def test_blob_is_trimmed_to_what_it_takes():
    potential = np.zeros((6, 7, 8), np.float32)
    potential[2:4, 3, 5:8] = 2
    blob = trimmed_blob("thing", potential, (10, 20, 30))
    assert blob.corner_px == (12, 23, 35) and blob.potential.shape == (2, 1, 3)
    assert blob.occupied.all() and blob.name == "thing"
