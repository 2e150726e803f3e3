import math

import numpy as np
import pytest
import torch

from cryomend.reconstruction.align import align_images, bin_images, dose_weight

IDENTITY = np.eye(2)[None]


def bead(shape, y, x, sigma=2.0):
    rows, columns = torch.arange(shape[0])[:, None] - y, torch.arange(shape[1])[None] - x
    return torch.exp(-(rows**2 + columns**2) / (2 * sigma**2))[None]


def place(image):
    weight = image[0] - image[0].median()
    weight = weight.clamp(min=0.05 * weight.max()) - 0.05 * weight.max()
    rows, columns = torch.arange(image.shape[1]), torch.arange(image.shape[2])
    return [
        float((weight.sum(1) * rows).sum() / weight.sum()),
        float((weight.sum(0) * columns).sum() / weight.sum()),
    ]


@pytest.mark.parametrize("size", [40, 41])
def test_the_middle_of_an_imod_image_becomes_our_centre(size):
    middle = (size - 1) / 2
    aligned = align_images(
        bead((size, size), middle, middle), IDENTITY, np.zeros((1, 2)), output_shape=(36, 38)
    )
    assert place(aligned) == pytest.approx([18, 19], abs=0.02)


def test_xf_rows_turn_and_shift_as_imod_defines_them():
    middle = (64 - 1) / 2
    angle = math.radians(25)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    x, y, shift = 9.0, -6.0, np.array([2.5, -4.0])
    image = bead((64, 64), middle + y, middle + x)
    aligned = align_images(image, matrix[None], shift[None], output_shape=(64, 64))
    expected = matrix @ [x, y] + shift
    assert place(aligned) == pytest.approx([32 + expected[1], 32 + expected[0]], abs=0.03)


def test_what_the_raw_image_does_not_reach_gets_its_mean():
    image = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0)) + 5
    aligned = align_images(image, IDENTITY, np.array([[100.0, 0.0]]), output_shape=(32, 32))
    torch.testing.assert_close(aligned, image.mean().expand_as(aligned))


def test_an_alignment_that_cannot_be_inverted_is_refused():
    with pytest.raises(ValueError, match="image 1: its alignment matrix cannot be inverted"):
        align_images(torch.ones(1, 16, 16), np.zeros((1, 2, 2)), np.zeros((1, 2)), output_shape=(16, 16))


@pytest.mark.parametrize(("size", "factor"), [(64, 2), (65, 2), (66, 3), (63, 1.5), (100, 2.7)])
def test_binning_keeps_the_centre_the_mean_and_band_limited_images(size, factor):
    y, x = size // 2 + 3.0, size // 2 - 5.0
    binned, grown = bin_images(bead((size, size), y, x, 4.0), factor)
    assert grown == pytest.approx(factor, rel=0.02)
    n = binned.shape[1]
    expected = bead((n, n), n // 2 + 3 / grown, n // 2 - 5 / grown, 4.0 / grown)
    assert (binned - expected).abs().max() < 0.02


def test_binning_too_far_or_below_one_is_refused():
    with pytest.raises(ValueError, match="would magnify"):
        bin_images(torch.ones(1, 64, 64), 0.5)
    with pytest.raises(ValueError, match="leaves 8 pixels"):
        bin_images(torch.ones(1, 64, 64), 8)


def test_dose_weights_are_the_amplitudes_that_grant_and_grigorieff_leave():
    image = torch.zeros(1, 64, 64)
    image[0, 0, 0] = 1
    weighted = dose_weight(image, np.array([20.0]), np.array([3.0]), pixel_size=4.0)
    spectrum = torch.fft.rfft2(weighted[0]).real
    k = 16 / 64 / 4.0
    critical = 0.245 * k**-1.665 + 2.81
    assert spectrum[0, 16].item() == pytest.approx(math.exp(-23 / (2 * critical)), rel=1e-4)
    assert spectrum[0, 0].item() == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="1 images but 2"):
        dose_weight(image, np.zeros(2), np.zeros(2), pixel_size=4.0)


@pytest.mark.parametrize("size", [40, 41])
def test_an_alignment_and_its_inverse_give_back_what_lies_inside(size):
    angle = math.radians(-31)
    matrix = 1.03 * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    image, shift = bead((size, size), 17.3, 22.8, 3.0), np.array([1.7, -2.2])
    there = align_images(image, matrix[None], shift[None], output_shape=(64, 64))
    # the output is centred on pixel n // 2, the input on (n - 1) / 2
    inverse, half = np.linalg.inv(matrix), np.full(2, 0.5)
    back_shift = -inverse @ (shift + half) - np.full(2, 0.5 if size % 2 == 0 else 0.0)
    back = align_images(there, inverse[None], back_shift[None], output_shape=(size, size))
    assert (back - image).abs()[:, 6:-6, 6:-6].max() < 0.02


@pytest.mark.parametrize("size", [32, 33])
def test_a_quarter_turn_moves_pixels_without_blur(size):
    """X' = -Y, Y' = X: what stood right of the middle stands above it (larger Y)."""
    image = torch.randn(1, size, size, generator=torch.Generator().manual_seed(0))
    shift = np.full((1, 2), -0.5 if size % 2 == 0 else 0.0)  # from the middle to pixel n // 2 and back
    turned = align_images(image, np.array([[[0.0, -1], [1, 0]]]), shift, output_shape=(size, size))
    torch.testing.assert_close(turned[0], torch.rot90(image[0], -1), atol=1e-4, rtol=1e-4)


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="2 images but 1 matrices"):
        align_images(torch.ones(2, 16, 16), IDENTITY, np.zeros((2, 2)), output_shape=(16, 16))
