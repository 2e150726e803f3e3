"""Fidelity scores against noises whose distance is known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.io import InputError, write_volume
from cryomend.noise import check_noise, compare_noise, cut_noise_patches, draw_fidelity, write_patches
from cryomend.noise.classifier import classify
from cryomend.noise.fidelity import (
    NoiseSet,
    cut_stack,
    fidelity_score,
    load_noise_set,
)

UNKNOWN = np.full(2, np.nan)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def white(seed, count=60, side=32):
    return torch.randn(count, side, side, generator=rng(seed))


def correlated(seed, count=60, side=32):
    """A two-pixel mean along x: power 2 cos²(pi kx) of white noise, unit variance."""
    noise = white(seed, count, side + 1)[:, :side]
    return (noise[:, :, 1:] + noise[:, :, :-1]) / math.sqrt(2)


def noise_set(patches, std=1.0):
    count = len(patches) // 2
    return NoiseSet(patches, np.repeat([0, 1], count), np.array([std, std]), np.arange(2), UNKNOWN)


def test_a_set_has_no_distance_to_itself():
    same = noise_set(white(0))
    result = compare_noise(same, same, steps=0)
    assert result["spectrum_db_max"] == result["wasserstein"] == result["autocorrelation_max"] == 0
    assert result["std_ratio"] == result["std_ratio_worst"] == 1
    assert result["skewness"][0] == result["skewness"][1]


def test_the_spectrum_distance_is_that_of_the_filter():
    result = compare_noise(noise_set(white(0, 400)), noise_set(correlated(1, 400)), steps=0)
    frequency = np.array(result["spectrum"]["frequency"])
    found = np.array(result["spectrum"]["sampled_db"]) - np.array(result["spectrum"]["real_db"])
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    ring = (2 * np.cos(np.pi * frequency[:, None] * np.cos(angle)) ** 2).mean(axis=1)
    np.testing.assert_allclose(
        found, 10 * np.log10(ring), atol=0.45
    )  # 400 patches: 0.2 dB in the smallest shell


def test_autocorrelation_distance_of_a_two_pixel_mean_is_one_half():
    result = compare_noise(noise_set(white(0)), noise_set(correlated(1)), steps=0)
    assert result["autocorrelation_max"] == pytest.approx(0.5, abs=0.02)


def test_marginal_distance_and_moments_of_an_exponential_law_are_the_known_ones():
    exponential = -torch.log1p(-torch.rand(200, 32, 32, generator=rng())) - 1
    result = compare_noise(noise_set(white(1, 200)), noise_set(exponential), steps=0)
    assert result["skewness"][1] == pytest.approx(2, abs=0.1)
    assert result["kurtosis"][1] == pytest.approx(6, abs=0.9)
    assert result["skewness"][0] == pytest.approx(0, abs=0.03)
    level = (np.arange(20000) + 0.5) / 20000
    normal = torch.special.ndtri(torch.from_numpy(level)).numpy()
    assert result["wasserstein"] == pytest.approx(np.abs(-np.log1p(-level) - 1 - normal).mean(), rel=0.03)


def test_deviations_are_compared_over_all_and_for_the_worst_tilt():
    real = NoiseSet(white(0), np.repeat([0, 1], 30), np.array([1.0, 2.0]), np.array([0, 1]), UNKNOWN)
    sampled = NoiseSet(white(1), np.repeat([0, 1], 30), np.array([1.0, 1.0]), np.array([0, 1]), UNKNOWN)
    result = compare_noise(real, sampled, steps=0)
    assert result["std_ratio"] == pytest.approx(math.sqrt(2 / 5))
    assert result["std_ratio_worst"] == pytest.approx(0.5)
    assert result["std_ratio_rms"] == pytest.approx(math.sqrt(0.5**2 / 2))
    assert result["std_tilts"] == [[0, 1, 1], [1, 2, 1]]
    sampled.label = np.array([0, 7])  # tilt 1 has no partner now
    assert compare_noise(real, sampled, steps=0)["std_ratio_worst"] == pytest.approx(1.0)


def test_tilts_are_paired_by_angle_where_angles_are_known():
    angles = np.array([-30.0, 30.0])
    real = NoiseSet(white(0), np.repeat([0, 1], 30), np.array([1.0, 2.0]), np.array([0, 1]), angles)
    turned = NoiseSet(white(1), np.repeat([0, 1], 30), np.array([2.0, 1.0]), np.array([0, 1]), -angles)
    result = compare_noise(real, turned, steps=0)
    assert result["std_ratio_worst"] == pytest.approx(1)
    assert [row[0] for row in result["std_tilts"]] == [-30, 30]


def test_sectors_see_anisotropy_that_the_radial_mean_does_not():
    noise = white(0, 400)
    turned = noise_set(correlated(1, 400).transpose(1, 2).contiguous())
    result = compare_noise(noise_set(correlated(2, 400)), turned, steps=0)
    assert result["spectrum_db_max"] < 0.5
    assert result["sector_db_max"] > 5
    assert compare_noise(noise_set(noise), noise_set(white(3, 400)), steps=0)["sector_db_max"] < 0.6


def test_the_score_is_one_where_every_distance_is_at_its_limit():
    row = {
        "spectrum_db_max": 1.0,
        "sector_db_mean": 0.5,
        "wasserstein": 0.02,
        "autocorrelation_max": 0.02,
        "classifier": 0.65,
    }
    assert fidelity_score(row) == pytest.approx(1)
    assert fidelity_score(row | {"classifier": 0.45}) == pytest.approx(4 / 6)


def test_repetition_is_one_over_the_degrees_of_freedom_and_one_for_copies():
    copies = white(5, 1).expand(60, 32, 32)
    result = compare_noise(noise_set(white(0)), noise_set(copies.contiguous()), steps=0)
    assert result["repetition"][0] == pytest.approx(1 / (32 * 32 - 1), rel=0.1)
    assert result["repetition"][1] == pytest.approx(1, rel=1e-4)


def told_apart(first, second, steps):
    """Train on the first half of each, test on the second."""
    half = len(first) // 2
    return classify((first[:half], second[:half]), (first[half:], second[half:]), steps=steps)


def test_the_classifier_is_at_chance_for_one_law_and_sure_for_two():
    # 512 test crops of each of 30 patches: chance scatters by a few per cent.
    assert told_apart(white(0, 240), white(1, 240), steps=60) == pytest.approx(0.5, abs=0.08)
    assert told_apart(white(0), correlated(1), steps=100) > 0.97


def test_the_classifier_sees_the_marginal_law_too():
    exponential = -torch.log1p(-torch.rand(60, 32, 32, generator=rng())) - 1
    assert told_apart(white(0), exponential, steps=100) > 0.97


def test_halves_are_disjoint_complete_and_of_every_tilt():
    patches = torch.arange(7.0)[:, None, None] + white(0, 7) * 1e-3
    first, second = NoiseSet(
        patches, np.array([0, 0, 0, 1, 1, 1, 2]), np.ones(3), np.arange(3), np.full(3, np.nan)
    ).halves()
    levels = sorted(torch.cat([first.patches, second.patches]).mean(dim=(1, 2)).round().tolist())
    assert levels == [0, 1, 2, 3, 4, 5, 6]
    assert min(len(first.patches), len(second.patches)) == 3


def test_a_stack_is_cut_into_tiles_standardised_per_tilt():
    stack = np.random.default_rng(0).standard_normal((2, 70, 100)).astype(np.float32) * [[[3.0]], [[5.0]]] + 9
    noise = cut_stack(stack, 32, Path("a.mrc"))
    assert noise.patches.shape == (2 * 2 * 3, 32, 32)
    np.testing.assert_allclose(noise.std, [3, 5], rtol=0.05)
    last = stack[1, 32:64, 64:96]
    np.testing.assert_allclose(noise.patches[11], (last - last.mean()) / noise.std[1], atol=1e-5)


def test_files_of_patches_and_stacks_are_compared_with_the_floor(tmp_path: Path):
    stack = np.random.default_rng(0).standard_normal((3, 128, 128)).astype(np.float32)
    write_patches(tmp_path / "real.h5", cut_noise_patches(stack, patch=32)[0])
    write_volume(tmp_path / "fake.mrc", 2 * stack[:, ::-1], voxel_size=1.0, stack=True)
    result = check_noise(tmp_path / "real.h5", [tmp_path / "fake.mrc"], steps=20)
    (row,) = result["sampled"].values()
    assert row["std_ratio"] == pytest.approx(2, rel=0.03)
    assert row["spectrum_db_mean"] < 0.5
    assert result["floor"]["std_ratio"] == pytest.approx(1, rel=0.05)
    assert result["patch"] == 32


def test_what_cannot_be_compared_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="patches of 32 and 16 pixels cannot be compared"):
        compare_noise(noise_set(white(0)), noise_set(white(0, side=16)), steps=0)
    with pytest.raises(InputError, match="images of 20 x 40 are smaller than the 32 x 32 patches"):
        cut_stack(np.zeros((1, 20, 40)), 32, Path("a.mrc"))
    with pytest.raises(InputError, match="tilt 1 is constant"):
        cut_stack(np.stack([white(0, 1, 40)[0].numpy(), np.ones((40, 40))]), 32, Path("a.mrc"))
    write_volume(tmp_path / "small.mrc", white(0, 1, 40).numpy(), voxel_size=1.0, stack=True)
    with pytest.raises(InputError, match="4 patches are too few to halve"):
        check_noise(tmp_path / "small.mrc", [tmp_path / "small.mrc"])
    with pytest.raises(InputError, match="1 images for 2 tilt angles; give the angles of this stack"):
        cut_stack(white(0, 1, 40).numpy(), 32, Path("a.mrc"), np.array([0.0, 3.0]))


def test_patches_set_apart_have_their_own_deviation(tmp_path: Path):
    stack = np.random.default_rng(0).standard_normal((2, 128, 128)).astype(np.float32)
    noise = cut_noise_patches(stack, patch=32, tilt_angles=np.array([0.0, 40.0]))[0]
    loud = noise.patches.copy()
    loud[noise.tilt_index == 1] *= 2
    write_patches(tmp_path / "p.h5", replace(noise, patches=loud))
    read = load_noise_set(tmp_path / "p.h5", None)
    np.testing.assert_allclose(read.std, [1, 2], rtol=0.05)
    np.testing.assert_array_equal(read.angle, [0, 40])


def test_the_figure_is_drawn_with_and_without_deviations_per_tilt(tmp_path: Path):
    same, other = noise_set(white(0)), noise_set(white(1))
    row = compare_noise(same, other, steps=1)
    bare = {k: v for k, v in row.items() if not k.startswith("std_")}
    draw_fidelity(tmp_path / "f.png", {"floor": row, "sampled": {"a.mrc": row, "b.mrc": bare}})
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
