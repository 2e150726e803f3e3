"""Areas without structure: what is planted must be avoided, what is pure noise must be kept."""

import numpy as np
import pytest
from scipy import ndimage

from cryomend.noise import find_empty_areas

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
            r"1 non-finite pixels, the first at \(y, x\) = \(3, 4\)",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(rng, change, patch, message):
    with pytest.raises(ValueError, match=message):
        find_empty_areas(change(rng.standard_normal((64, 64))), patch=patch)
