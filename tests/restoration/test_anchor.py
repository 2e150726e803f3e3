"""The place from which tiles are counted goes with the content."""

from __future__ import annotations

import numpy as np
import pytest

from cryomend.restoration.anchor import find_anchor


def anchor(volume, mean=0.0):
    return find_anchor(volume, mean=mean)


@pytest.fixture
def noise():
    return np.random.default_rng(0).standard_normal((40, 64, 80)).astype(np.float32)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_is_the_voxel_farthest_from_the_mean_on_either_side(noise, sign):
    noise[20, 30, 40] = sign * 50
    assert anchor(noise) == (20, 30, 40)


def test_the_mean_decides_which_side_is_farther(noise):
    noise[20, 30, 40], noise[21, 31, 41] = 50, -40
    assert anchor(noise) == (20, 30, 40)
    assert anchor(noise, mean=10.0) == (21, 31, 41)


@pytest.mark.parametrize("shift", [(0, 0, 1), (3, 0, 0), (0, 7, 0), (2, 5, 6)])
def test_it_goes_with_the_content_of_a_shifted_volume(noise, shift):
    noise[20, 30, 40] = 9
    moved = anchor(np.roll(noise, shift, axis=(0, 1, 2)))
    assert moved == tuple(a + s for a, s in zip((20, 30, 40), shift, strict=True))


def test_grey_levels_do_not_matter(noise):
    assert anchor(noise * -3 + 100, mean=100.0) == anchor(noise)


def test_extreme_voxels_at_a_face_do_not_count(noise):
    noise[20, 30, 40] = 9
    noise[0, 30, 40] = noise[20, 0, 40] = noise[20, 30, -1] = 1000
    assert anchor(noise) == (20, 30, 40)


def test_of_equal_voxels_the_surroundings_decide_wherever_they_lie(noise):
    noise[20, 30, 40] = noise[10, 20, 30] = noise[20, 12, 20] = 9
    noise[20, 29, 40] = 8.5
    assert anchor(noise) == (20, 30, 40)
    assert anchor(np.roll(noise, -5, axis=2)) == (20, 30, 35)


def test_a_saturated_volume_of_bytes_has_one_that_goes_with_the_content():
    stored = np.random.default_rng(1).integers(-128, 128, (40, 96, 96)).astype(np.float32)
    z, y, x = anchor(stored)
    assert abs(stored[z, y, x]) >= 127
    assert anchor(np.roll(stored, (1, -2, 1), (0, 1, 2))) == (z + 1, y - 2, x + 1)


def test_what_was_filled_in_has_no_say(noise):
    tomogram = np.tile(noise, (1, 2, 2))[:, :, :150] + 128
    tomogram[20, 100, 100] = 140
    tomogram[:, :60] = 0  # as a rotation leaves it
    assert anchor(tomogram, mean=128.0) == (20, 100, 100)
    assert anchor(tomogram[:, 3:, 5:], mean=128.0) == (20, 97, 95)


def test_a_flat_volume_gives_the_first_voxel():
    assert anchor(np.full((16, 16, 16), 3.0, np.float32), mean=1.0) == (0, 0, 0)
