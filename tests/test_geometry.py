import math

import numpy as np
import pytest
import torch

from cryomend.geometry import angular_weights, missing_wedge_mask, random_rotation, tilt_angles_from_range


@pytest.mark.parametrize(("low", "high"), [(-60, 60), (-45, 45), (-57, 67), (-30, 65)])
def test_measured_share_of_a_disc_is_the_tilt_range_over_180(low, high, device):
    n = 257
    mask = missing_wedge_mask((n, 1, n), tilt_min=low, tilt_max=high, device=device)[:, 0]
    k = torch.fft.fftfreq(n, device=device)
    disc = k[:, None] ** 2 + k[None] ** 2 < 0.25
    # 51,000 voxels in the disc; those cut by the wedge's four edges (257 each) bound the error.
    assert mask[disc].float().mean().item() == pytest.approx((high - low) / 180, abs=0.01)


@pytest.mark.parametrize("shape", [(15, 3, 17), (9, 9, 9)])
def test_mask_is_friedel_symmetric_on_odd_sizes(shape):
    mask = missing_wedge_mask(shape, tilt_min=-40, tilt_max=55)
    mate = mask.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    assert torch.equal(mask, mate)


def test_mask_keeps_the_plane_of_an_inside_tilt_and_not_that_of_an_outside_one():
    mask = missing_wedge_mask((64, 1, 64), tilt_min=-20, tilt_max=50)[:, 0]
    kx = 10
    for tilt, measured in ((45, True), (-45, False), (15, True), (-15, True), (60, False)):
        kz = round(kx * math.tan(math.radians(tilt)))
        assert bool(mask[kz, kx]) is measured
        assert bool(mask[-kz, -kx]) is measured


@pytest.mark.parametrize(("low", "high"), [(60, -60), (-90, 60), (-60, 90), (0, 0)])
def test_mask_refuses_angles_out_of_order_or_range(low, high):
    with pytest.raises(ValueError, match="tilt_min < tilt_max"):
        missing_wedge_mask((8, 8, 8), tilt_min=low, tilt_max=high)


def test_tilt_angles_hold_both_ends():
    np.testing.assert_allclose(tilt_angles_from_range(-60, 60, 3), np.arange(-60, 61, 3))
    np.testing.assert_allclose(tilt_angles_from_range(-1, 1, 0.1)[[0, -1]], [-1, 1])


@pytest.mark.parametrize(("arguments", "message"), [((-60, 60, 0), "step"), ((10, -10, 1), "range|tilt_min")])
def test_tilt_angles_refuse_an_empty_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        tilt_angles_from_range(*arguments)


def test_angular_weights_of_a_regular_series_are_its_step_in_any_order():
    angles = np.arange(-60, 61, 3.0)[::-1]
    np.testing.assert_allclose(angular_weights(angles), math.radians(3))


def test_angular_weights_of_a_repeated_angle_share_its_interval():
    weights = angular_weights(np.array([-10.0, 0, 0, 10]))
    np.testing.assert_allclose(weights, np.radians([10, 5, 5, 10]))


def test_random_rotations_are_proper_and_uniform():
    rng = np.random.default_rng(0)
    matrices = np.stack([random_rotation(rng) for _ in range(2000)])
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.eye(3)[None].repeat(2000, 0), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1)
    # Haar measure: each entry has mean 0 and variance 1/3; five standard errors of 2,000 draws.
    assert np.abs(matrices.mean(0)).max() < 5 * math.sqrt(1 / 3 / 2000)
    assert np.abs((matrices**2).mean(0) - 1 / 3).max() < 5 * 0.3 / math.sqrt(2000)
