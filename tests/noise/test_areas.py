"""Areas without structure: what is planted must be avoided, what is pure noise must be kept."""

import numpy as np
import pytest
from scipy import ndimage

from cryomend.noise import find_empty_areas
from cryomend.noise.areas import place_windows

P = 32


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def touches(corners, y, x):
    """Whether any window holds the pixel (y, x)."""
    return bool(
        (
            (corners[:, 0] <= y) & (y < corners[:, 0] + P) & (corners[:, 1] <= x) & (x < corners[:, 1] + P)
        ).any()
    )


def test_pure_noise_is_nearly_unselected_and_keeps_its_variance(rng):
    for image in (rng.standard_normal((512, 512)), rng.gamma(4.0, size=(512, 512))):
        areas = find_empty_areas(image, patch=P)
        kept = np.mean([image[y : y + P, x : x + P].var() for y, x in areas.corners])
        every = find_empty_areas(image, patch=P, tolerance=1e9)
        whole = np.mean([image[y : y + P, x : x + P].var() for y, x in every.corners])
        assert len(areas.corners) > 0.95 * areas.candidates
        # 900 half-overlapping windows know the variance to 0.3 %; a tenth of that is left for the selection.
        assert kept == pytest.approx(whole, rel=3e-3)


def test_windows_and_reasons_add_up_to_all_candidates(rng):
    image = rng.standard_normal((200, 160))
    image[100:140, 50:90] += 3 * ndimage.gaussian_filter(rng.standard_normal((40, 40)), 2) / 0.14
    areas = find_empty_areas(image, patch=P)
    assert len(areas.corners) + sum(areas.rejected.values()) == areas.candidates


def test_a_hot_pixel_is_in_no_window(rng):
    image = rng.standard_normal((160, 160))
    image[80, 70] = 40
    corners = find_empty_areas(image, patch=P).corners
    assert len(corners) > 20
    assert not touches(corners, 80, 70)


def test_a_gold_bead_under_an_ice_gradient_is_in_no_window(rng):
    y, x = np.mgrid[:200, :200]
    image = rng.standard_normal((200, 200)) + 0.05 * x
    image -= 6.0 * (np.hypot(y - 100, x - 90) < 3)
    corners = find_empty_areas(image, patch=P).corners
    assert len(corners) > 20
    assert not touches(corners, 100, 90)


def test_a_filled_border_is_in_no_window(rng):
    image = rng.standard_normal((160, 200))
    image[:, 170:] = image[:, :170].mean()
    corners = find_empty_areas(image, patch=P).corners
    assert len(corners) > 20
    assert (corners[:, 1] + P <= 172).all()  # two pixels of the border look varied to a 5-pixel test


def test_weak_structure_is_found_although_it_hardly_changes_the_variance(rng):
    image = rng.standard_normal((320, 320))
    texture = ndimage.gaussian_filter(rng.standard_normal((320, 320)), 3)
    image[:160] += 0.6 * (texture / texture.std())[:160]  # a third of the noise's variance, at low frequency
    corners = find_empty_areas(image, patch=P).corners
    inside, outside = (corners[:, 0] < 130).sum(), (corners[:, 0] >= 160).sum()
    assert outside > 100
    assert inside < 0.05 * outside


@pytest.mark.parametrize("patch", [32, 64])
def test_walls_are_avoided_and_the_noise_between_them_keeps_its_low_frequencies(rng, patch):
    size, spacing, radius = 768, 160, 25
    y, x = np.mgrid[:size, :size]
    centres = np.stack(np.meshgrid(*[np.arange(80, size, spacing)] * 2), axis=-1).reshape(-1, 2)
    shells = sum(np.exp(-((np.hypot(y - a, x - b) - radius) ** 2) / 18) for a, b in centres)
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), 0.7)
    noise /= noise.std()
    corners = find_empty_areas(noise - shells, patch=patch).corners
    grid = np.arange(patch // 4, size - patch, patch // 2)
    every = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    assert len(corners) > 0.4 * len(every)

    def low(image, where):
        band = ndimage.gaussian_filter(image, 2) - ndimage.gaussian_filter(image, 8)
        return np.mean([(band[a : a + patch, b : b + patch] ** 2).mean() for a, b in where])

    # The shells, of the noise's own deviation at their middle, add a tenth to the energy of the band.
    added, let_through = (low(noise - shells, c) / low(noise, c) - 1 for c in (every, corners))
    assert added > 0.1
    assert let_through < 0.3 * added
    # Keeping what is quiet costs hardly any noise.
    assert low(noise, corners) > 0.96 * low(noise, every)


def test_a_small_particle_is_in_no_window_though_it_adds_little_energy(rng):
    image = rng.standard_normal((512, 512))
    y, x = np.mgrid[:512, :512]
    image -= 1.2 * (np.hypot(y - 256, x - 250) < 6)
    corners = find_empty_areas(image, patch=64).corners
    inside = (np.abs(corners + 32 - (256, 250)) < 26).all(axis=1)
    assert len(corners) > 150
    assert not inside.any()


def test_windows_cover_given_boxes_and_damaged_ones_are_counted_not_dropped(rng):
    image = rng.standard_normal((160, 160))
    image[18, 14] = 60
    areas = place_windows(image, [(10, 74, 8, 72), (96, 128, 100, 132)], patch=P)
    assert len(areas.corners) == areas.candidates == 10
    assert areas.corners[0].tolist() == [10, 8]
    assert areas.corners[-1].tolist() == [96, 100]
    assert areas.suspect == 1
    assert areas.rejected == {}


def test_areas_that_overlap_on_one_grid_give_each_window_once(rng):
    areas = place_windows(rng.standard_normal((96, 96)), [(0, 64, 0, 64), (0, 64, 16, 64)], patch=P)
    assert len(areas.corners) == 9


def test_the_edge_is_left_out(rng):
    corners = find_empty_areas(rng.standard_normal((128, 128)), patch=P, edge=20).corners
    assert corners.min() >= 20
    assert (corners + P).max() <= 108


def test_an_image_of_one_patch_gives_one_window(rng):
    assert find_empty_areas(rng.standard_normal((P, P)), patch=P).corners.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("change", "patch", "message"),
    [
        (lambda a: a, 33, "patch must be even and at least 16 pixels, got 33"),
        (lambda a: a, 8, "patch must be even and at least 16"),
        (lambda a: a, 128, "patch of 128 is larger than the image of 64 x 64"),
        (lambda a: np.zeros_like(a), 32, "constant image"),
        (
            lambda a: np.where(a == a[3, 4], np.nan, a),
            32,
            r"1 pixels that are NaN or infinite, the first at \(Y, X\) = \(3, 4\)",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(rng, change, patch, message):
    with pytest.raises(ValueError, match=message):
        find_empty_areas(change(rng.standard_normal((64, 64))), patch=patch)
