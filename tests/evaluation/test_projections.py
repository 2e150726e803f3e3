"""Volumes against tilts whose projections are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryomend.evaluation.projections import (
    compare_projections,
    hold_out_tilts,
    least_supported,
    local_support,
)
from cryomend.fourier import gaussian_lowpass

SHAPE, VOXEL = (32, 48, 56), 10.0
ANGLES = np.arange(-60.0, 61.0, 6.0)
WIDTH = 1.6  # voxels


def points(n: int = 60, seed: int = 0) -> np.ndarray:
    """Centres of balls (z, y, x) from the centre, away from the edges."""
    rng = np.random.default_rng(seed)
    half = np.array([9.0, 20.0, 20.0])
    return rng.uniform(-half, half, (n, 3))


def volume_of(centres: np.ndarray, shift_xyz=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """Gaussian balls, dark."""
    z, y, x = (torch.arange(n) - n // 2 for n in SHAPE)
    total = torch.zeros(SHAPE)
    for cz, cy, cx in centres:
        parts = [
            torch.exp(-((axis - centre) ** 2) / (2 * WIDTH**2))
            for axis, centre in ((z, cz + shift_xyz[2]), (y, cy + shift_xyz[1]), (x, cx + shift_xyz[0]))
        ]
        total += parts[0][:, None, None] * parts[1][:, None] * parts[2]
    return -total


def tilts_of(centres: np.ndarray, angles: np.ndarray = ANGLES) -> torch.Tensor:
    """Their projections: a ball at (x, z) is a disc at x cos t + z sin t, in closed form."""
    y, x = (torch.arange(n) - n // 2 for n in SHAPE[1:])
    images = torch.zeros(len(angles), *SHAPE[1:])
    for image, t in zip(images, np.radians(angles), strict=True):
        for cz, cy, cx in centres:
            across = torch.exp(-((x - cx * math.cos(t) - cz * math.sin(t)) ** 2) / (2 * WIDTH**2))
            image -= torch.exp(-((y - cy) ** 2) / (2 * WIDTH**2))[:, None] * across
    return images * WIDTH * math.sqrt(2 * math.pi)


@pytest.fixture(scope="module")
def centres() -> np.ndarray:
    return points()


@pytest.fixture(scope="module")
def tilts(centres) -> torch.Tensor:
    return tilts_of(centres)


def mean_correlation(volume, tilts, angles=ANGLES, **options) -> float:
    return float(compare_projections(volume, tilts, angles, voxel_size=VOXEL, **options).mean())


def test_the_true_volume_agrees_with_every_clean_tilt(centres, tilts, device):
    found = compare_projections(volume_of(centres).to(device), tilts.to(device), ANGLES, voxel_size=VOXEL)
    assert found.shape == (len(ANGLES),)
    assert found.min() > 0.98


@pytest.mark.parametrize(
    ("shift_xyz", "lost"),
    [((0.5, 0, 0), 0.03), ((0, 0.5, 0), 0.05), ((0, 0, 0.5), 0.015)],  # by x cos t, y and z sin t
)
def test_half_a_voxel_beside_is_noticed(centres, tilts, shift_xyz, lost):
    right, beside = (mean_correlation(volume_of(centres, s), tilts) for s in ((0, 0, 0), shift_xyz))
    assert beside < right - lost


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_volume_does_not_agree(centres, tilts, axis):
    volume = torch.roll(volume_of(centres).flip(axis), 1, axis)  # about voxel n // 2
    assert abs(mean_correlation(volume, tilts)) < 0.3


def test_a_volume_mirrored_along_z_agrees_with_angles_of_the_other_sign_only(centres, tilts):
    volume = torch.roll(volume_of(centres).flip(0), 1, 0)
    assert mean_correlation(volume, tilts, -ANGLES) > 0.98
    assert mean_correlation(volume, tilts) < 0.3


def test_the_other_contrast_gives_the_other_sign(centres, tilts):
    volume = volume_of(centres)
    assert mean_correlation(-volume, tilts) == pytest.approx(-mean_correlation(volume, tilts), abs=1e-4)


def test_an_unrelated_volume_does_not_agree(tilts):
    assert abs(mean_correlation(volume_of(points(seed=5)), tilts)) < 0.15


def test_a_gain_of_frequency_and_a_scale_of_each_tilt_change_nothing(centres, tilts):
    volume = volume_of(centres)
    filtered = gaussian_lowpass(tilts, 0.8, ndim=2) * torch.rand(len(ANGLES), 1, 1).add(0.1) + 7
    assert mean_correlation(volume, filtered) == pytest.approx(mean_correlation(volume, tilts), abs=0.04)


def test_a_true_volume_reaches_the_ceiling_that_the_noise_sets(centres, tilts):
    """White noise of the power of the signal in every ring: sqrt(1 / 2)."""
    spectrum = torch.fft.rfft2(tilts - tilts.mean(dim=(1, 2), keepdim=True))
    phases = torch.fft.rfft2(torch.randn(tilts.shape, generator=torch.Generator().manual_seed(0)))
    noisy = torch.fft.irfft2(spectrum + spectrum.abs() * phases / phases.abs(), s=tilts.shape[1:])
    assert mean_correlation(volume_of(centres), noisy) == pytest.approx(math.sqrt(0.5), abs=0.05)


def test_only_the_band_counts(centres, tilts):
    row = torch.cos(2 * math.pi * torch.arange(SHAPE[2]) * 20 / SHAPE[2])  # period 28 Å
    spoilt = tilts + tilts.std() * row
    volume = volume_of(centres)
    assert mean_correlation(volume, spoilt) > 0.95  # the window of 56 pixels leaks a little
    clean, wide = (mean_correlation(volume, images, band=(400.0, 25.0)) for images in (tilts, spoilt))
    assert wide < clean - 0.03


def test_a_rotation_centre_off_the_middle_is_followed(centres, tilts):
    moved = volume_of(centres, (0, 0, 3))
    assert mean_correlation(moved, tilts, centre_z=SHAPE[0] // 2 + 3) > 0.98
    assert mean_correlation(moved, tilts) < 0.8


def test_a_constant_volume_or_tilt_agrees_with_nothing(centres, tilts):
    assert mean_correlation(torch.zeros(SHAPE), tilts) == 0
    assert mean_correlation(volume_of(centres), torch.ones_like(tilts)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("images", "angles", "band", "message"),
    [
        (21, ANGLES[1:], (400, 40), "21 images but 20 tilt angles"),
        (21, ANGLES, (15, 10), "no period of 15 to 10 Å"),
    ],
)
def test_what_does_not_fit_is_refused(tilts, images, angles, band, message):
    with pytest.raises(ValueError, match=message):
        compare_projections(torch.zeros(SHAPE), tilts[:images], angles, voxel_size=VOXEL, band=band)


def test_tilts_of_another_size_are_refused_with_both(tilts):
    with pytest.raises(ValueError, match=r"48 x 56 pixels .* 48 x 50"):
        compare_projections(torch.zeros(32, 48, 50), tilts, ANGLES, voxel_size=VOXEL)


def add_noise(tilts, factor=1.0):
    return tilts + factor * tilts.std() * torch.randn(tilts.shape, generator=torch.Generator().manual_seed(1))


def test_the_tilts_confirm_every_place_of_the_true_volume(centres, tilts):
    share, _ = least_supported(local_support(volume_of(centres), add_noise(tilts), ANGLES, voxel_size=VOXEL))
    assert share > 0.75


def test_an_invented_structure_is_found_where_it_is(centres, tilts):
    invented = np.array([[0.0, 12.0, -12.0], [3.0, 9.0, -9.0], [-3.0, 14.0, -9.0]])
    volume = volume_of(
        np.concatenate([centres[np.abs(centres[:, 1:] - [12, -12]).max(axis=1) > 9], invented])
    )
    real = tilts_of(centres[np.abs(centres[:, 1:] - [12, -12]).max(axis=1) > 9])
    support = local_support(volume, add_noise(real), ANGLES, voxel_size=VOXEL)
    share, centre = least_supported(support)
    assert share < 0.6
    assert np.abs(np.array(centre)[1:] - [24 + 12, 28 - 12]).max() <= 8


def test_an_invention_lowers_the_agreement(centres, tilts):
    volume = volume_of(centres)
    invented = volume_of(points(8, seed=9))
    assert mean_correlation(volume + 2 * invented, tilts) < mean_correlation(volume, tilts) - 0.05


def test_a_volume_of_the_wrong_contrast_has_no_support(centres, tilts):
    for images in (tilts, add_noise(tilts, 3.0)):
        share, _ = least_supported(local_support(-volume_of(centres), images, ANGLES, voxel_size=VOXEL))
        assert share == 0


def test_support_has_a_value_for_every_place(centres, tilts):
    support = local_support(volume_of(centres), tilts, ANGLES, voxel_size=VOXEL)
    assert support.share.shape == (3, 5, 6) == support.deviation.shape == support.energy.shape
    assert support.side == 16


def test_every_so_many_th_tilt_is_kept_apart_but_never_the_ends():
    angles = np.array([0, 3, -3, 6, -6, 9, -9, 12, -12, 15.0])
    apart = hold_out_tilts(angles, every=3)
    assert sorted(angles[apart]) == [-9, 0, 9]
    assert not hold_out_tilts(ANGLES, every=2)[[0, -1]].any()


def test_the_outermost_tilts_are_kept_apart_in_any_order():
    angles = np.array([0, 3, -3, 6, -6, 9, -9, 12, -12.0])
    assert sorted(angles[hold_out_tilts(angles, outermost=2)]) == [-12, -9, 9, 12]


def test_images_of_one_angle_go_together():
    angles = np.repeat(np.arange(-15.0, 16.0, 3.0), 2)
    apart = hold_out_tilts(angles, every=3)
    np.testing.assert_array_equal(apart[::2], apart[1::2])
    assert apart.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of them"),
        ({"every": 3, "outermost": 1}, "one of them"),
        ({"every": 1}, "at least 2"),
        ({"outermost": 0}, "at least 1"),
        ({"outermost": 9}, "of 21 tilt angles 3 would be left; at least 5"),
        ({"every": 50}, "one to keep apart"),
    ],
)
def test_impossible_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hold_out_tilts(ANGLES, **options)
