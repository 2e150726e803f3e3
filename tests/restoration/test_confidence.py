"""Disagreement under the symmetries: none for a network that has them, else the right amount."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from cryomend.network.unet import RestorationUNet
from cryomend.restoration import confidence
from cryomend.restoration.confidence import (
    N_PASSES,
    confidence_factor,
    estimate_uncertainty,
    network_digest,
)


class Pointwise(nn.Module):
    """The same whichever way the tile lies."""

    def forward(self, x):
        return 0.7 * x + 0.1 * x**2 - 0.3


class Noisy(nn.Module):
    """Zero, and noise of a known deviation in one half of space."""

    def __init__(self, deviation):
        super().__init__()
        self.deviation, self.generator = deviation, torch.Generator().manual_seed(0)

    def forward(self, x):
        made = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return self.deviation * made.to(x.device)


class AlongX(nn.Module):
    """A ramp along X, whatever it is shown: the mirror in X contradicts it."""

    def forward(self, x):
        return torch.linspace(-1, 1, x.shape[-1], device=x.device).expand_as(x).clone()


@pytest.fixture
def tomogram():
    return 1000 + 25 * torch.randn(32, 48, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("protein", ["dark", "bright"])
def test_network_with_all_symmetries_is_certain(device, tomogram, protein):
    found = estimate_uncertainty(tomogram, Pointwise(), protein=protein, device=device)
    assert found.shape == tomogram.shape and found.dtype == torch.float32
    assert 0 <= found.min() and found.max() < 25 * 1e-4


@pytest.mark.parametrize("protein", ["dark", "bright"])
def test_noisy_network_gives_its_deviation(device, tomogram, protein):
    found = estimate_uncertainty(tomogram, Noisy(0.3), factor=2.0, protein=protein, device=device)
    assert found.mean().item() == pytest.approx(2 * 0.3 * 25, rel=0.03)
    assert found.std() < 0.12 * found.mean()  # smoothed over 5 voxels a side


def test_uncertainty_is_where_the_contradiction_is(tomogram):
    found = estimate_uncertainty(tomogram, AlongX())
    middle, side = found[:, :, 18:22].mean(), found[:, :, 4:8].mean()
    assert side > 3 * middle


def test_uncertainty_follows_the_scale_and_not_the_offset_of_the_grey_levels(tomogram):
    torch.manual_seed(1)
    network = RestorationUNet([2, 2, 2, 2])
    plain = estimate_uncertainty(tomogram, network)
    scaled = estimate_uncertainty(tomogram * 3 - 500, network)
    assert plain.max() > 0
    torch.testing.assert_close(scaled, plain * 3, rtol=1e-2, atol=1e-2 * plain.max().item())


def test_mirrors_hold_the_half_turns_and_progress_counts_tiles(tomogram):
    assert {(True, False, True), (False, True, True)} < set(confidence._FLIPS)
    assert len(confidence._SHIFTS) == N_PASSES == 8
    seen = []
    estimate_uncertainty(tomogram, Pointwise(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]


def test_input_is_left_alone(tomogram):
    before = tomogram.clone()
    estimate_uncertainty(tomogram, Pointwise())
    assert torch.equal(tomogram, before)


def test_factor_is_that_of_the_file_then_of_the_table_by_the_weights(monkeypatch, tmp_path):
    torch.manual_seed(0)
    network, other = RestorationUNet([2, 2, 2, 2]), RestorationUNet([2, 2, 2, 2])
    assert network_digest(network) != network_digest(other)
    assert confidence_factor(network, {"name": "a"}) is None
    (tmp_path / "models").mkdir()
    (tmp_path / "models/confidence.json").write_text(json.dumps({network_digest(network): 2.5}))
    monkeypatch.setattr(confidence.resources, "files", lambda package: tmp_path)
    assert confidence_factor(network, {"name": "a"}) == 2.5
    assert confidence_factor(network, {"confidence_factor": 3}) == 3
    assert confidence_factor(other, {"name": "a"}) is None


def test_constant_tomogram_is_refused():
    with pytest.raises(ValueError, match="constant"):
        estimate_uncertainty(torch.ones(16, 16, 16), Pointwise())
