"""Rotations that cover SO(3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryomend.evaluation.rotation_grid import rotation_grid


def angles_to_grid(step: float, n: int = 400) -> np.ndarray:
    """Angle in degrees from random rotations to the nearest of the grid."""
    grid, drawn = rotation_grid(step), Rotation.random(n, random_state=0).as_matrix()
    traces = np.einsum("gij,rij->rg", grid, drawn).max(axis=1)
    return np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))


@pytest.mark.parametrize("step", [60.0, 30.0, 15.0])
def test_no_rotation_is_farther_from_the_grid_than_a_step_and_half_a_step_in_the_mean(step: float) -> None:
    angles = angles_to_grid(step)
    assert angles.max() < step
    assert angles.mean() == pytest.approx(0.49 * step, rel=0.06)


def test_the_grid_holds_proper_rotations_as_many_as_fit() -> None:
    grid = rotation_grid(30.0)
    assert len(grid) == math.ceil(8 * math.pi**2 / math.radians(30) ** 3) == 551
    np.testing.assert_allclose(
        grid @ grid.transpose(0, 2, 1), np.broadcast_to(np.eye(3), grid.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(grid), 1)


def test_the_grid_prefers_no_direction() -> None:
    grid = rotation_grid(20.0)
    # over SO(3) the mean of R is 0 and that of its squared entries 1/3
    np.testing.assert_allclose(grid.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose((grid**2).mean(axis=0), 1 / 3, atol=0.01)


@pytest.mark.parametrize("step", [1.0, 61.0])
def test_a_step_without_sense_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=f"between 2 and 60 degrees, got {step:g}"):
        rotation_grid(step)
