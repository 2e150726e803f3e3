"""Averaging along what runs near Y."""

from __future__ import annotations

import numpy as np
import pytest

from cryomend.evaluation.straighten import find_slopes, mean_along_slopes


def rod(slope_z: float, slope_x: float, *, noise: float = 0.0) -> np.ndarray:
    """A Gaussian rod through the centre, plus noise."""
    z, y, x = np.ogrid[:30, :60, :50]
    offset = y - 30
    distance = (z - 15 - slope_z * offset) ** 2 + (x - 25 - slope_x * offset) ** 2
    return np.exp(-distance / (2 * 2.5**2)) + noise * np.random.default_rng(0).standard_normal((30, 60, 50))


@pytest.mark.parametrize("slopes", [(0.0, 0.0), (0.1, -0.32), (-0.08, 0.6)])
def test_the_slopes_of_a_rod_in_noise_are_found(slopes: tuple[float, float]) -> None:
    # an error of 0.03 displaces the ends of the rod by one voxel, less than its width of 2.5
    assert find_slopes(rod(*slopes, noise=1.0)) == pytest.approx(slopes, abs=0.03)


def test_the_average_along_a_slanting_rod_is_its_central_section() -> None:
    volume = rod(0.1, -0.3)
    # linear interpolation flattens a Gaussian of 2.5 voxels by up to 1 / (8 * 2.5^2) = 0.02 along each axis
    np.testing.assert_allclose(mean_along_slopes(volume, 0.1, -0.3), volume[:, 30], atol=0.04)


def test_the_average_without_slopes_is_the_plain_mean() -> None:
    volume = rod(0.1, -0.3)
    np.testing.assert_allclose(mean_along_slopes(volume, 0, 0), volume.mean(axis=1), atol=1e-6)


def test_what_a_shift_brings_in_from_outside_does_not_count() -> None:
    volume = np.full((16, 40, 20), 7.0)
    np.testing.assert_allclose(mean_along_slopes(volume, 0.2, 0.9), 7.0, rtol=1e-6)


def test_a_large_volume_is_searched_in_bins_and_gives_the_same_slopes() -> None:
    small = rod(0.05, 0.3, noise=0.5)
    large = np.kron(small, np.ones((3, 3, 3)))
    assert find_slopes(large) == pytest.approx(find_slopes(small), abs=0.03)
