"""Noise in, nothing out: the spectrum stays, the structure goes, and what a network invents is measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cryomend.restoration.null import energy_left, noise_left, randomise_phases
from cryomend.restoration.predict import restore_tomogram


class Threshold(nn.Module):
    """Keeps only what no noise reaches: a network that invents nothing."""

    def forward(self, x):
        return torch.where(x > 7, x, 0.0)


@pytest.fixture
def tomogram():
    made = torch.randn(40, 48, 33, generator=torch.Generator().manual_seed(0))
    made[20:22, 20:22, 10:12] -= 20  # protein, dark
    return 500 + made


def generator(device="cpu"):
    return torch.Generator(device).manual_seed(1)


def test_spectrum_and_mean_stay_and_structure_goes(device, tomogram):
    tomogram = tomogram.to(device)
    random = randomise_phases(tomogram, generator=generator(device))
    assert random.mean().item() == pytest.approx(500, abs=0.05)
    before, after = (torch.fft.rfftn(v - v.mean()).abs() for v in (tomogram, random))
    torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-2 * before.max().item())
    assert abs(torch.corrcoef(torch.stack([tomogram.flatten(), random.flatten()]))[0, 1]) < 0.05
    assert (random - random.mean()).abs().max() < 10


def test_network_that_invents_nothing_leaves_nothing(tomogram):
    restored = restore_tomogram(tomogram, Threshold())
    # a voxel in a million of Gaussian noise is beyond any threshold
    assert energy_left(tomogram, restored, Threshold(), generator=generator()) < 1e-3


def test_identity_leaves_everything(tomogram):
    left = energy_left(tomogram, tomogram, nn.Identity(), generator=generator())
    assert left == pytest.approx(1, abs=0.01)


def test_flat_restoration_is_refused(tomogram):
    with pytest.raises(ValueError, match="flat"):
        energy_left(tomogram, torch.zeros_like(tomogram), nn.Identity(), generator=generator())


def test_noise_is_brought_to_the_scale_of_the_tomogram(tomogram):
    seen = []
    noise_left(0.01 * torch.randn(40, 48, 33), tomogram, tomogram, lambda v: seen.append(v) or v)
    assert seen[0].std().item() == pytest.approx(tomogram.std().item(), rel=1e-4)
    assert seen[0].mean().item() == pytest.approx(500, abs=0.01)


def test_flat_noise_is_refused(tomogram):
    with pytest.raises(ValueError, match="the noise is flat"):
        noise_left(torch.ones(40, 48, 33), tomogram, tomogram, lambda v: v)
