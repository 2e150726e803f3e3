"""Disagreement under the symmetries: none for a network that has them, else the right amount."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from cryomend.io import InputError
from cryomend.network.unet import RestorationUNet
from cryomend.restoration import confidence
from cryomend.restoration.confidence import (
    N_PASSES,
    calibrate_disagreement,
    confidence_curve,
    measure_disagreement,
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
    found = measure_disagreement(tomogram, Pointwise(), protein=protein, device=device)
    assert found.shape == tomogram.shape and found.dtype == torch.float32
    assert 0 <= found.min() and found.max() < 25 * 1e-4


@pytest.mark.parametrize("protein", ["dark", "bright"])
def test_noisy_network_gives_its_deviation(device, tomogram, protein):
    found = measure_disagreement(tomogram, Noisy(0.3), protein=protein, device=device)
    assert found.mean().item() == pytest.approx(0.3 * 25, rel=0.03)
    assert found.std() < 0.12 * found.mean()  # smoothed over 5 voxels a side


def test_uncertainty_is_where_the_contradiction_is(tomogram):
    found = measure_disagreement(tomogram, AlongX())
    middle, side = found[:, :, 18:22].mean(), found[:, :, 4:8].mean()
    assert side > 3 * middle


def test_uncertainty_follows_the_scale_and_not_the_offset_of_the_grey_levels(tomogram):
    torch.manual_seed(1)
    network = RestorationUNet([2, 2, 2, 2])
    plain = measure_disagreement(tomogram, network)
    scaled = measure_disagreement(tomogram * 3 - 500, network)
    assert plain.max() > 0
    torch.testing.assert_close(scaled, plain * 3, rtol=1e-2, atol=1e-2 * plain.max().item())


def test_mirrors_hold_the_half_turns_and_progress_counts_tiles(tomogram):
    assert {(True, False, True), (False, True, True)} < set(confidence._FLIPS)
    assert len(confidence._SHIFTS) == N_PASSES == 8
    seen = []
    measure_disagreement(tomogram, Pointwise(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]


def test_input_is_left_alone(tomogram):
    before = tomogram.clone()
    measure_disagreement(tomogram, Pointwise())
    assert torch.equal(tomogram, before)


def test_curve_is_that_of_the_file_then_of_the_table_by_the_weights(monkeypatch, tmp_path):
    torch.manual_seed(0)
    network, other = RestorationUNet([2, 2, 2, 2]), RestorationUNet([2, 2, 2, 2])
    assert network_digest(network) != network_digest(other)
    assert confidence_curve(network, {"name": "a"}) is None
    (tmp_path / "models").mkdir()
    table = {network_digest(network): [[0.1, 0.2], [0.3, 0.4]]}
    (tmp_path / "models/confidence.json").write_text(json.dumps(table))
    monkeypatch.setattr(confidence.resources, "files", lambda package: tmp_path)
    assert confidence_curve(network, {"name": "a"}) == ([0.1, 0.2], [0.3, 0.4])
    assert confidence_curve(network, {"confidence_curve": [[1], [3]]}) == ([1], [3])
    assert confidence_curve(other, {"name": "a"}) is None


@pytest.mark.parametrize("curve", ["wrong", [[1, 2]], [[1, 2], [3]], [[2, 1], [3, 4]], [[1, 2], [0, 4]], 3.5])
def test_curve_that_is_none_is_refused(curve):
    with pytest.raises(InputError, match="confidence_curve of model mine is not two rising lists"):
        confidence_curve(Pointwise(), {"name": "mine", "confidence_curve": curve})


def test_calibration_goes_through_its_points_stays_below_them_and_grows_beyond():
    disagreement = torch.tensor([0.0, 0.01, 0.1, 1.0, 10.0]).expand(2, 3, 5).clone()
    found = calibrate_disagreement(disagreement, ([0.01, 1.0], [0.05, 5.0]))
    torch.testing.assert_close(found[1, 2], torch.tensor([0.05, 0.05, 0.5, 5.0, 50.0]))


def test_constant_tomogram_is_refused():
    with pytest.raises(ValueError, match="constant"):
        measure_disagreement(torch.ones(16, 16, 16), Pointwise())
