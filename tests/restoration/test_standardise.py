"""Standardisation: plain moments for Gaussian data, blind to gold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomend.restoration.standardise import robust_mean_std, stream_mean_std


@pytest.fixture
def gaussian():
    return 100 + 7 * torch.randn(40, 50, 60, generator=torch.Generator().manual_seed(0))


def test_gaussian_data_give_the_plain_moments(device, gaussian):
    mean, std = robust_mean_std(gaussian.to(device))
    assert mean == pytest.approx(gaussian.double().mean().item(), rel=1e-9)
    assert std == pytest.approx(gaussian.double().std(correction=0).item(), rel=1e-9)


def test_gold_does_not_count(gaussian):
    plain = robust_mean_std(gaussian)
    gold = gaussian.clone()
    gold[5:9, 5:9, 5:9] = -5000.0
    assert robust_mean_std(gold) == pytest.approx(plain, rel=2e-3)
    assert gold.std() > 3 * plain[1]  # the plain one is far off


@pytest.mark.parametrize(("scale", "offset"), [(3.0, 0.0), (-2.0, 1e4), (1e-6, 0.5), (1e6, -1e9)])
def test_moments_follow_scale_and_offset(gaussian, scale, offset):
    data = gaussian.double()
    mean, std = robust_mean_std(data)
    scaled = robust_mean_std(data * scale + offset)
    assert scaled == pytest.approx((mean * scale + offset, std * abs(scale)), rel=1e-6)


def test_half_empty_volume_still_has_a_deviation(gaussian):
    gaussian[:30] = 0.0
    mean, std = robust_mean_std(gaussian)
    assert 0 < mean < 100 and std > 7


def test_one_voxel_that_differs_is_the_signal():
    volume = torch.zeros(16, 16, 16)
    volume[3, 4, 5] = 4096.0
    mean, std = robust_mean_std(volume)
    assert mean == pytest.approx(1.0)
    assert std == pytest.approx(4095**0.5, rel=1e-12)


def test_constant_volume_is_refused():
    with pytest.raises(ValueError, match="constant and cannot be standardised"):
        robust_mean_std(torch.full((16, 16, 16), 2.0))


def test_the_pass_over_sections_does_as_the_whole_volume():
    rng = np.random.default_rng(7)
    volume = rng.normal(100, 3, (20, 30, 40)).astype(np.float32)
    volume[3:5, 3:5, 3:5] = 1e5  # gold
    whole = robust_mean_std(torch.from_numpy(volume))
    assert stream_mean_std(iter(volume), volume) == pytest.approx(whole, rel=1e-12)
    assert stream_mean_std(iter(volume), volume[:, ::7]) == pytest.approx(whole, rel=1e-4)


def test_a_sample_that_says_nothing_leaves_it_to_the_sections():
    volume = np.zeros((16, 16, 16), np.float32)
    volume[0, 0, 0] = 1
    assert stream_mean_std(iter(volume), volume[1:]) == pytest.approx((volume.mean(), volume.std()), rel=1e-6)
    sample = np.full((3, 3), np.nan, np.float32)
    assert stream_mean_std(iter(volume), sample) == pytest.approx((volume.mean(), volume.std()), rel=1e-6)
    with pytest.raises(ValueError, match="constant"):
        stream_mean_std(iter(volume[1:]), volume[1:])


def test_a_few_voxels_that_the_sample_met_are_the_signal_where_all_others_are_equal():
    volume = np.zeros((16, 16, 16), np.float32)
    volume[0, 0, :2] = 1
    sample = np.array([0, 0, 0, 1], np.float32)
    mean, std = stream_mean_std(iter(volume[1:]), sample)
    assert (mean, std) == pytest.approx((0.25, sample.std()))
