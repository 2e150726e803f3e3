import math

import pytest
import torch

from cryomend.fourier import filter_fourier, gaussian_lowpass, radial_frequency, radial_mean, shell_index


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8)])
def test_half_grid_is_the_left_part_of_the_full_one(shape):
    full, half = radial_frequency(shape), radial_frequency(shape, half=True)
    torch.testing.assert_close(full[..., : shape[-1] // 2 + 1], half)


def test_filter_of_ones_is_the_identity_on_odd_and_even_sizes():
    for shape in ((7, 9, 5), (8, 6, 10)):
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(filter_fourier(x, torch.ones(*shape[:2], shape[2] // 2 + 1)), x)


def test_gaussian_lowpass_of_a_point_is_a_gaussian():
    x = torch.zeros(33, 33, 33)
    x[16, 16, 16] = 1
    blurred = gaussian_lowpass(x, 2.0)
    r2 = sum(
        (torch.arange(33.0) - 16).reshape([-1 if i == a else 1 for i in range(3)]) ** 2 for a in range(3)
    )
    expected = torch.exp(-r2 / 8) / (2 * math.pi * 4) ** 1.5
    torch.testing.assert_close(blurred, expected, atol=1e-7, rtol=1e-4)


def test_shells_count_the_smallest_axis_and_their_mean_is_exact_on_radial_data():
    shape = (12, 16, 20)
    shells = shell_index(shape)
    assert shells[0, 0, 0] == 0
    assert shells[6, 0, 0] == 6
    assert shells[0, 0, 10] == 6
    torch.testing.assert_close(radial_mean(shells.float(), shells, 7), torch.arange(7.0))
