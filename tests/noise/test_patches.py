"""Patches: standardised per tilt, labelled, and the same after a round trip through a file."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from cryomend.io import InputError, write_tilt_angles, write_volume
from cryomend.noise import cut_noise_patches, extract_noise, read_patches, write_patches

ANGLES = np.array([-40.0, 0.0, 40.0])


@pytest.fixture
def series():
    """Noise whose offset and deviation differ from tilt to tilt."""
    rng = np.random.default_rng(2)
    scale = np.array([3.0, 1.0, 2.0])[:, None, None]
    return (100 + scale * (rng.standard_normal((3, 128, 128)) + 5)).astype(np.float32)


@pytest.fixture
def stack(tmp_path: Path, series):
    write_volume(tmp_path / "ts.mrc", series, voxel_size=4.0, stack=True)
    write_tilt_angles(tmp_path / "ts.tlt", ANGLES)
    return tmp_path / "ts.mrc"


def test_patches_of_every_tilt_have_mean_zero_and_deviation_one(series):
    noise, _ = cut_noise_patches(series, patch=32, tilt_angles=ANGLES)
    for tilt in range(3):
        values = noise.patches[noise.tilt_index == tilt].astype(np.float64)
        assert values.mean() == pytest.approx(0, abs=1e-5)
        assert values.std() == pytest.approx(1, abs=1e-5)


def test_the_stored_deviation_is_that_of_the_tilt(series):
    noise, _ = cut_noise_patches(series, patch=32, tilt_angles=ANGLES)
    found = [noise.tilt_std[noise.tilt_angle == a][0] for a in ANGLES]
    # 120 x 120 independent pixels know a deviation to 0.6 %.
    np.testing.assert_allclose(found, [3, 1, 2], rtol=0.025)


def test_a_patch_is_the_image_at_its_corner_up_to_the_moments_of_the_tilt(series):
    noise, _ = cut_noise_patches(series, patch=32)
    y, x = noise.corner_yx[7]
    source = series[noise.tilt_index[7], y : y + 32, x : x + 32].astype(np.float64)
    back = noise.patches[7] * noise.tilt_std[7]
    np.testing.assert_allclose(back - back.mean(), source - source.mean(), atol=1e-4)


def test_unknown_angles_are_nan(series):
    noise, _ = cut_noise_patches(series, patch=32)
    assert np.isnan(noise.tilt_angle).all()


def test_angles_must_match_the_tilts(series):
    with pytest.raises(ValueError, match="2 tilt angles for 3 tilts"):
        cut_noise_patches(series, patch=32, tilt_angles=ANGLES[:2])


def test_the_tilt_that_cannot_be_searched_is_named(series):
    series[1] = 7
    with pytest.raises(ValueError, match="tilt 1: constant image"):
        cut_noise_patches(series, patch=32)


def test_extraction_reports_every_tilt(stack):
    noise, report = extract_noise([stack], tilt_angles=[stack.with_suffix(".tlt")], patch=32)
    assert [line.split(":")[0] for line in report[1:4]] == [
        "tilt 0 (-40.0 deg)",
        "tilt 1 (+0.0 deg)",
        "tilt 2 (+40.0 deg)",
    ]
    assert report[0] == f"{stack}: 3 images of 128 x 128, pixel 4 Å"
    assert report[4].startswith(f"in all {len(noise.patches)} patches of 32 x 32 from 3 of 3 images; every")
    assert noise.pixel_size == pytest.approx(4.0)
    assert noise.sources == ("ts.mrc",)


def test_extraction_without_angles_says_what_is_approximate(stack):
    stack.with_suffix(".tlt").unlink()
    _, report = extract_noise([stack], patch=32)
    assert "approximate" in report[1]
    assert [line.split(":")[0] for line in report[2:5]] == ["slice 0", "slice 1", "slice 2"]


def test_two_stacks_share_one_angle_file_and_keep_apart(stack):
    noise, report = extract_noise([stack, stack], tilt_angles=[stack.with_suffix(".tlt")], patch=32)
    assert noise.sources == ("ts.mrc", "ts.mrc")
    assert np.bincount(noise.source_index).tolist() == [len(noise.patches) // 2] * 2
    assert sum(line.startswith("tilt ") for line in report) == 6


def test_a_file_gives_back_the_patches_written_to_it(tmp_path: Path, series):
    noise, _ = cut_noise_patches(series, patch=32, tilt_angles=ANGLES, pixel_size=4.0, source="a")
    write_patches(tmp_path / "p.h5", noise)
    back = read_patches(tmp_path / "p.h5")
    for name in ("patches", "tilt_index", "source_index", "tilt_angle", "tilt_std", "corner_yx"):
        np.testing.assert_array_equal(getattr(back, name), getattr(noise, name))
    assert (back.pixel_size, back.sources) == (4.0, ("a",))
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["patches"].chunks == (1, 32, 32)
        assert file["patches"].dtype == np.float32


def test_stacks_of_different_pixel_size_are_refused(stack, series):
    other = stack.with_name("other.mrc")
    write_volume(other, series, voxel_size=5.0, stack=True)
    with pytest.raises(InputError, match=r"different pixel size.*ts.mrc 4, other.mrc 5"):
        extract_noise([stack, other], patch=32)


def test_the_pixel_size_given_replaces_that_of_the_headers(stack, series):
    other = stack.with_name("other.mrc")
    write_volume(other, series, voxel_size=0.0, stack=True)
    noise, report = extract_noise([stack, other], patch=32, pixel_size=5.5)
    assert noise.pixel_size == 5.5
    noise, report = extract_noise([other], patch=32)
    assert noise.pixel_size == 0.0
    assert "pixel size unknown (0 in the header; give --pixel-size)" in report[0]


def test_a_limit_is_shared_evenly_and_keeps_the_order(stack, series):
    every, _ = extract_noise([stack], patch=32)
    counts = np.bincount(every.tilt_index)
    noise, report = extract_noise([stack], patch=32, max_patches=30)
    assert np.bincount(noise.tilt_index).tolist() == [10, 10, 10]
    for tilt in range(3):
        corners = noise.corner_yx[noise.tilt_index == tilt]
        places = np.ravel_multi_index(tuple(corners.T), (128, 128))
        assert (np.diff(places) > 0).all()
        # Evenly spread: from the first rows to the last.
        assert corners[0, 0] < 32 and corners[-1, 0] > 64
        y, x = corners[3]
        patch = series[tilt, y : y + 32, x : x + 32].astype(np.float64)
        found = noise.patches[noise.tilt_index == tilt][3]
        np.testing.assert_allclose(found * noise.tilt_std[10 * tilt], patch - patch.mean(), atol=1e-4)
    assert f"from {counts.sum()}: stopped by --max-patches" in report[-2]
    assert "10 of them used" in report[2]


def test_angle_files_must_be_one_or_one_per_stack(stack):
    with pytest.raises(InputError, match="2 angle files for 3 stacks"):
        extract_noise([stack] * 3, tilt_angles=[stack.with_suffix(".tlt")] * 2, patch=32)


def test_too_few_areas_are_refused_with_the_next_step(stack):
    with pytest.raises(
        InputError, match=r"only 3 areas of 96 x 96 without structure, need 8; try a smaller --patch"
    ):
        extract_noise([stack], patch=96)


def test_files_that_are_no_patches_are_refused(tmp_path: Path, stack):
    with pytest.raises(InputError, match="no such file"):
        read_patches(tmp_path / "absent.h5")
    with pytest.raises(InputError, match="not a file of noise patches"):
        read_patches(stack)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["something"] = 1
    with pytest.raises(InputError, match="not a file of noise patches"):
        read_patches(tmp_path / "other.h5")


def test_patches_that_are_not_finite_are_refused(tmp_path: Path, series):
    noise, _ = cut_noise_patches(series, patch=32)
    noise.patches[0, 0, 0] = np.nan
    write_patches(tmp_path / "p.h5", noise)
    with pytest.raises(InputError, match="patches must be finite"):
        read_patches(tmp_path / "p.h5")
