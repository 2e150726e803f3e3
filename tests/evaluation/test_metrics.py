"""Scores of one volume against another and of areas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cryomend.evaluation.metrics import (
    contrast_to_noise,
    correlation,
    equivalent_number_of_looks,
    grey_limits,
    psnr,
    scale_to_unit,
    ssim,
)


def random_volume(shape: tuple[int, ...] = (20, 22, 25), seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def box(z: slice, y: slice = slice(None), x: slice = slice(None)) -> tuple[slice, slice, slice]:
    return z, y, x


def test_psnr_of_a_known_error_is_ten_log_ten_of_max_squared_over_mse(device: torch.device) -> None:
    truth = torch.zeros(4, 5, 10, device=device)
    truth[0, 0, 0] = 2.0  # scaled to 1
    volume = truth / 2
    volume[1] = 0.1  # 50 of 200 voxels are off by 0.1 after scaling: MSE = 0.0025
    assert psnr(volume, truth) == pytest.approx(-10 * math.log10(0.0025), abs=1e-5)


def test_psnr_does_not_depend_on_the_grey_level_units_of_either_volume() -> None:
    a, b = random_volume(), random_volume(seed=1)
    # float32 rounding of values around 1e3 moves the scaled levels by about 1e-6
    assert psnr(3 * a + 900, b) == pytest.approx(psnr(a, 0.1 * b - 4), abs=1e-3)


def test_psnr_of_equal_volumes_is_infinite() -> None:
    a = random_volume()
    assert psnr(a, a) == math.inf


SHAPES = [(7, 7, 7), (7, 9, 12), (20, 22, 25), (45, 16, 17), (38, 39, 40)]


def similar_pair(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Volumes far from zero, as tomograms of counting detectors are."""
    truth = torch.nn.functional.avg_pool3d(random_volume(shape)[None, None], 3, 1, 1)[0, 0]
    return (100 + truth + 0.2 * random_volume(shape, 1)).to(dtype), truth.to(dtype)


def unit(volume: torch.Tensor) -> np.ndarray:
    """Scaled to [0, 1] by NumPy in float64."""
    values = volume.double().numpy()
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_agrees_with_scikit_image(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    volume, truth = similar_pair(shape, dtype)
    expected = structural_similarity(unit(volume), unit(truth), data_range=1.0)
    assert 0.1 < expected < 0.95
    assert ssim(volume.to(device), truth.to(device)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_agrees_with_scikit_image(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    volume, truth = similar_pair(shape, dtype)
    before = volume.clone(), truth.clone()
    expected = peak_signal_noise_ratio(unit(truth), unit(volume), data_range=1.0)
    assert psnr(volume.to(device), truth.to(device)) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(volume, before[0])
    assert torch.equal(truth, before[1])


def test_ssim_of_volumes_larger_than_a_tile_counts_every_window_once() -> None:
    volume, truth = similar_pair((23, 40, 9), torch.float32)  # tiles of 16 windows: one ends short
    expected = structural_similarity(unit(volume), unit(truth), data_range=1.0)
    assert ssim(volume, truth) == pytest.approx(expected, abs=1e-9)
    assert ssim(volume.mT.contiguous().mT, truth) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_a_volume_with_itself_in_other_units_is_one() -> None:
    a = random_volume()
    # float32 rounding of the levels is 1e-7, far below the constant C2 = 9e-4
    assert ssim(a, 5 * a - 3) == pytest.approx(1.0, abs=1e-5)


def test_ssim_refuses_an_axis_shorter_than_its_window() -> None:
    with pytest.raises(ValueError, match="needs 7 voxels"):
        ssim(random_volume((6, 10, 10)), random_volume((6, 10, 10), 1))


def test_correlation_agrees_with_numpy_also_inside_a_mask(device: torch.device) -> None:
    a, b = random_volume(), random_volume(seed=1)
    b = b + 0.5 * a + 100
    mask = a > 0.2
    expected = np.corrcoef(a[mask].double(), b[mask].double())[0, 1]
    on = (t.to(device) for t in (a, b, mask))
    # the offset of 100 costs float32 two digits
    assert correlation(*on) == pytest.approx(expected, abs=1e-5)
    assert correlation(a, b) != pytest.approx(expected, abs=1e-3)


def test_correlation_of_a_volume_with_its_negative_is_minus_one() -> None:
    a = random_volume()
    assert correlation(a, 2 - 3 * a) == pytest.approx(-1, abs=1e-6)


def test_contrast_to_noise_of_known_areas_in_both_variants(device: torch.device) -> None:
    volume = torch.zeros(4, 10, 10, device=device)
    volume[:2] = 5 + torch.tensor([-3.0, 3.0], device=device).repeat(5)  # mean 5, variance 9
    volume[2:] = 1 + torch.tensor([-4.0, 4.0], device=device).repeat(5)  # mean 1, variance 16
    areas = box(slice(0, 2)), box(slice(2, 4))
    assert contrast_to_noise(volume, *areas) == pytest.approx(4 / math.sqrt(12.5), rel=1e-6)
    assert contrast_to_noise(volume, *areas, variant="pooled") == pytest.approx(4 / math.sqrt(12.5), rel=1e-6)
    assert contrast_to_noise(volume, *areas, variant="sum") == pytest.approx(4 / 5, rel=1e-6)


def test_contrast_to_noise_does_not_depend_on_scale_or_sign() -> None:
    volume, areas = random_volume(), (box(slice(0, 5)), box(slice(9, 15)))
    volume[:5] += 2
    assert contrast_to_noise(7 - 3 * volume, *areas) == pytest.approx(
        contrast_to_noise(volume, *areas), rel=1e-5
    )


def test_contrast_to_noise_of_flat_areas_is_infinite_or_undefined() -> None:
    volume = torch.zeros(4, 4, 4)
    volume[0] = 1
    assert contrast_to_noise(volume, box(slice(0, 1)), box(slice(2, 3))) == math.inf
    assert math.isnan(contrast_to_noise(volume, box(slice(1, 2)), box(slice(2, 3))))


def test_contrast_to_noise_refuses_an_unknown_variant_and_an_area_without_voxels() -> None:
    volume = random_volume()
    with pytest.raises(ValueError, match="unknown CNR variant 'half'"):
        contrast_to_noise(volume, box(slice(0, 1)), box(slice(1, 2)), "half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds no voxel"):
        contrast_to_noise(volume, box(slice(50, 60)), box(slice(1, 2)))


def test_equivalent_number_of_looks_is_taken_on_the_volume_scaled_to_unit() -> None:
    volume = torch.zeros(4, 10, 10)
    volume[0, 0, 0], volume[0, 0, 1] = -10.0, 10.0  # scaled: 0 and 1
    volume[2:] = 2 + torch.tensor([-1.0, 1.0]).repeat(5)  # scaled: mean 0.6, deviation 0.05
    assert equivalent_number_of_looks(volume, box(slice(2, 4))) == pytest.approx(144, rel=1e-5)
    # inverted contrast: mean 0.4
    assert equivalent_number_of_looks(-volume, box(slice(2, 4))) == pytest.approx(64, rel=1e-5)
    assert equivalent_number_of_looks(volume, box(slice(1, 2))) == math.inf


@pytest.mark.parametrize("score", [psnr, ssim, correlation])
def test_scores_refuse_different_shapes_and_constant_volumes(score) -> None:
    a = random_volume((8, 8, 8))
    with pytest.raises(ValueError, match=r"shapes differ: \(8, 8, 8\) and \(8, 8, 9\)"):
        score(a, random_volume((8, 8, 9)))
    with pytest.raises(ValueError, match="constant"):
        score(torch.full((8, 8, 8), 3.0), a)


def test_looks_of_a_constant_volume_are_refused() -> None:
    with pytest.raises(ValueError, match="constant volume"):
        equivalent_number_of_looks(torch.ones(4, 4, 4), box(slice(0, 2)))


def test_looks_on_stored_grey_levels_change_with_an_offset_and_those_scaled_to_unit_do_not() -> None:
    volume, area = random_volume(), box(slice(0, 8))
    values = volume[area].double()
    stored = values.mean().item() ** 2 / values.var(correction=0).item()
    assert equivalent_number_of_looks(volume, area, "stored") == pytest.approx(stored, rel=1e-6)
    assert equivalent_number_of_looks(volume + 50, area, "stored") > 1000 * stored
    scaled = equivalent_number_of_looks(volume, area)
    assert equivalent_number_of_looks(3 * volume + 50, area, "unit") == pytest.approx(scaled, rel=1e-4)
    # the offset is the least grey level, the scale cancels
    low, high = grey_limits(volume)
    assert (low, high) == (volume.min().item(), volume.max().item())
    by_hand = ((values - low) / (high - low)).mean() ** 2 / ((values - low) / (high - low)).var(correction=0)
    assert scaled == pytest.approx(by_hand.item(), rel=1e-6)
    with pytest.raises(ValueError, match="unknown ENL variant 'raw'"):
        equivalent_number_of_looks(volume, area, "raw")  # type: ignore[arg-type]


def test_a_volume_scaled_to_unit_ends_at_zero_and_one() -> None:
    scaled = scale_to_unit(random_volume() * 7 - 40)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert correlation(scaled, random_volume()) == pytest.approx(1, abs=1e-6)
