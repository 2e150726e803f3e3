"""Other samplings for the network, and back."""

from __future__ import annotations

import pytest
import torch

from cryomend.fourier import gaussian_lowpass
from cryomend.io import InputError
from cryomend.restoration.resample import resample_volume, shape_for_network


@pytest.mark.parametrize("shape", [(20, 33, 50), (41, 30, 27), (40, 33, 50)])
def test_more_voxels_and_back_is_the_volume(shape):
    volume = gaussian_lowpass(torch.randn(20, 33, 26, generator=torch.Generator().manual_seed(0)), 2.0)
    there = resample_volume(volume, shape)
    assert there.shape == shape
    torch.testing.assert_close(resample_volume(there, (20, 33, 26)), volume, rtol=0, atol=1e-5)


def test_a_wave_keeps_its_amplitude_mean_and_place():
    def wave(shape):
        z, y, x = (
            (torch.arange(n, dtype=torch.float64) - n // 2) / n * 2 * torch.pi * cycles
            for n, cycles in zip(shape, (2, 3, 4), strict=True)
        )
        return (3 + torch.cos(z[:, None, None] + y[:, None] + x)).float()

    for shape in ((24, 30, 36), (17, 21, 40), (64, 64, 64)):
        torch.testing.assert_close(resample_volume(wave((32, 40, 48)), shape), wave(shape), rtol=0, atol=1e-5)


def test_the_same_shape_is_the_volume_itself():
    volume = torch.randn(5, 6, 7)
    assert torch.equal(resample_volume(volume, (5, 6, 7)), volume)


@pytest.mark.parametrize(
    ("size", "trained", "wanted"),
    [
        (10.0, (8.0, 14.0), None),
        (7.995, (8.0, 14.0), None),  # headers round
        (3.0, None, None),
        (4.0, (8.0, 14.0), ((20, 50, 26), 8.0)),
        (28.0, (8.0, 14.0), ((80, 200, 102), 14.0)),
        (15.0, (10.0, 10.0), ((60, 150, 76), 10.0)),
    ],
)
def test_the_nearest_trained_voxel_size_is_taken(size, trained, wanted):
    assert shape_for_network((40, 100, 51), size, trained) == wanted


@pytest.mark.parametrize(("size", "says"), [(3.9, "bin it"), (28.1, "smaller voxels")])
def test_beyond_a_factor_of_two_it_is_refused(size, says):
    with pytest.raises(InputError, match=rf"voxels of {size} Å are too far from the 8 to 14 Å .*{says}"):
        shape_for_network((40, 100, 51), size, (8.0, 14.0))
