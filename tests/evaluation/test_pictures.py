"""Pictures for the report."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from matplotlib.image import imread

from cryomend.evaluation import pictures


def test_central_sections_cross_at_the_rotation_centre() -> None:
    volume = np.arange(16 * 17 * 18, dtype=np.float32).reshape(16, 17, 18)
    sections = pictures.central_sections(volume)
    assert {name: s.shape for name, s in sections.items()} == {"xy": (17, 18), "xz": (16, 18), "yz": (17, 16)}
    assert sections["xy"][8, 9] == sections["xz"][8, 9] == sections["yz"][8, 8] == volume[8, 8, 9]


def test_grey_range_ignores_a_few_outliers() -> None:
    volume = np.random.default_rng(0).uniform(0, 1, (20, 20, 20))
    volume[0, 0, :3] = [1e6, -1e6, 1e6]
    low, high = pictures.grey_range(volume)
    assert -0.1 < low < 0.05
    assert 0.95 < high < 1.1


def test_grey_range_of_a_flat_picture_is_not_empty() -> None:
    low, high = pictures.grey_range(np.full((4, 4), 3.0))
    assert low < 3 < high


@pytest.mark.parametrize("shape", [(16, 3000), (1500, 700), (100, 90)])
def test_binned_pictures_fit_and_keep_the_mean(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).normal(5, 1, shape).astype(np.float32)
    binned = pictures.bin_picture(picture, 640)
    assert max(binned.shape) <= 640
    assert binned.mean() == pytest.approx(picture.mean(), abs=0.02)


def test_a_wave_shows_as_two_points_at_its_frequency() -> None:
    z, y, x = np.ogrid[:32, :20, :48]
    wave = np.cos(2 * np.pi * (z * 8 / 32 + x * 6 / 48)) + 0 * y  # kz = 0.25, kx = 0.125
    plane = pictures.fourier_plane(wave, side=401)
    brightest = np.unravel_index(plane.argmax(), plane.shape)
    expected = np.array([[300, 250], [100, 150]])  # 200 is the origin, 400 pixels are one cycle per voxel
    assert np.abs(expected - brightest).max(axis=1).min() <= 1
    assert plane[300, 250] == pytest.approx(plane[100, 150], abs=1e-3)
    assert plane[100, 250] < plane[300, 250] - 2


@pytest.mark.parametrize("shape", [(16, 40, 50), (33, 21, 17)])
def test_white_noise_has_amplitude_one_at_all_frequencies(shape: tuple[int, int, int]) -> None:
    volume = 7 + 3 * np.random.default_rng(0).standard_normal(shape)
    plane = pictures.fourier_plane(volume, side=101)
    # the mean of the logarithm of a chi-squared power of few degrees of freedom lies below that of its mean
    assert -0.2 < plane.mean() < 0.05


def test_pngs_have_the_first_row_at_the_bottom_and_low_levels_dark() -> None:
    picture = np.array([[0.0, 1.0], [1.0, 1.0]], dtype=np.float32)
    uri = pictures.encode_png(picture, (0.0, 1.0))
    assert uri.startswith("data:image/png;base64,")
    decoded = imread(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    np.testing.assert_allclose(decoded[:, :, 0], [[1, 1], [0, 1]])


@pytest.mark.parametrize(("width", "bar"), [(99.0, 20), (150.0, 50), (60.0, 20), (16.0, 5), (5.0, 1)])
def test_scale_bars_are_round_and_span_at_most_a_third(width: float, bar: float) -> None:
    assert pictures.scale_bar_nm(width) == pytest.approx(bar)


def test_a_name_that_is_no_unicode_can_be_drawn_and_every_other_stays() -> None:
    assert pictures.plain_text("a\udcff.mrc") == "a?.mrc"
    assert pictures.plain_text("日本 $x$ µ") == "日本 $x$ µ"


def test_hatching_is_black_and_white_where_the_mask_is_set_and_transparent_elsewhere() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[:10] = True  # the lower half: row 0 is drawn at the bottom
    source = pictures.hatch_png(mask, side=300)
    picture = imread(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert picture.shape == (200, 300, 4)
    assert not picture[:100, :, 3].any()
    drawn = picture[100:][picture[100:, :, 3] > 0]
    assert 0.4 < (picture[100:, :, 3] > 0).mean() < 0.6  # as many gaps as stripes: what lies below is seen
    assert set(np.unique(drawn[:, :3])) == {0.0, 1.0}
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.02)
