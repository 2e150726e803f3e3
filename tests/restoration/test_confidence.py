"""Disagreement under the symmetries and of the halves: none where it must be none, else the right amount."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from cryomend.io import InputError
from cryomend.network.mirror import MIRRORS, MirroredNetwork
from cryomend.network.unet import RestorationUNet
from cryomend.restoration import confidence, standardise
from cryomend.restoration.confidence import (
    N_PASSES,
    calibrate_disagreement,
    confidence_curve,
    measure_contrast,
    measure_disagreement,
    measure_disagreement_mapped,
    network_digest,
    standardise_voxels,
)
from cryomend.restoration.engine import Engine


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


class Counting(Pointwise):
    """Counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


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


def test_mirrors_hold_the_half_turns_about_the_tilt_axis_and_the_beam():
    assert {(-3, -1), (-2, -1)} < set(MIRRORS)
    assert len(set(confidence._SHIFTS)) == N_PASSES == 8


@pytest.mark.parametrize("mirrors", [1, 8])
def test_passes_are_those_of_the_network_without_mirrors_and_progress_counts_them(tomogram, mirrors):
    counting, seen = Counting(), []
    network = MirroredNetwork(counting, mirrors)
    halves = halves_of(tomogram, 5.0)
    measure_disagreement(
        tomogram, network, halves=halves, progress=lambda done, total: seen.append((done, total))
    )
    assert counting.calls == N_PASSES + 2
    assert seen == [(8, 10), (9, 10), (10, 10)]
    measure_disagreement(tomogram, network)
    assert counting.calls == 2 * N_PASSES + 2


# ---- halves ---------------------------------------------------------------------------------------


def halves_of(tomogram, noise, seed=1):
    """Two halves with independent noise, whose mean has that of either over the root of two."""
    generator = torch.Generator().manual_seed(seed)
    made = (noise * torch.randn(tomogram.shape, generator=generator) for _ in range(2))
    return tuple(tomogram + each for each in made)


def test_of_a_network_without_opinion_halves_give_the_noise_of_their_mean(tomogram):
    even, odd = halves_of(tomogram, 20.0)
    found = measure_disagreement(tomogram, nn.Identity(), halves=(even, odd))
    units = [(half.numpy() - half.mean().item()) / half.std().item() for half in (even, odd)]
    square = ndimage.uniform_filter(((units[0] - units[1]) / 2) ** 2, size=5, output=np.float64)
    expected = tomogram.std().item() * np.sqrt(square)
    inside = (slice(2, -2),) * 3  # at the faces the mean is over what there is
    np.testing.assert_allclose(found.numpy()[inside], expected[inside], rtol=2e-2)  # bfloat16, perhaps


def test_halves_with_more_noise_give_more_disagreement(tomogram):
    torch.manual_seed(1)
    network = RestorationUNet([2, 2, 2, 2])
    levels = [
        measure_disagreement(tomogram, network, halves=halves_of(tomogram, noise)).mean()
        for noise in (5.0, 10.0, 20.0)
    ]
    assert levels[0] < levels[1] < levels[2]


def test_equal_halves_add_nothing_and_unequal_ones_never_take_away(tomogram):
    torch.manual_seed(1)
    network = RestorationUNet([2, 2, 2, 2])
    without = measure_disagreement(tomogram, network)
    torch.testing.assert_close(measure_disagreement(tomogram, network, halves=(tomogram, tomogram)), without)
    assert (measure_disagreement(tomogram, network, halves=halves_of(tomogram, 5.0)) >= without).all()


@pytest.mark.parametrize("protein", ["dark", "bright"])
def test_grey_levels_of_the_halves_do_not_matter(tomogram, protein):
    even, odd = halves_of(tomogram, 10.0)
    network = Pointwise()
    plain = measure_disagreement(tomogram, network, halves=(even, odd), protein=protein)
    changed = measure_disagreement(tomogram, network, halves=(even / 2 - 70, 3 * odd), protein=protein)
    torch.testing.assert_close(changed, plain, rtol=2e-2, atol=1e-2 * plain.max().item())


def test_files_give_what_memory_gives(tomogram, tmp_path):
    torch.manual_seed(1)
    network = RestorationUNet([2, 2, 2, 2])
    halves = halves_of(tomogram, 10.0)
    mapped = []
    for n, (volume, kind) in enumerate(zip((tomogram, *halves), (">f4", "<f4", "<f8"), strict=True)):
        mapped.append(np.memmap(tmp_path / f"{n}", kind, "w+", shape=tuple(volume.shape)))
        mapped[-1][...] = volume.numpy()
    found = np.memmap(tmp_path / "found", ">f4", "w+", shape=tuple(tomogram.shape))
    given = [standardise_voxels(volume) for volume in mapped]
    measure_disagreement_mapped(
        found, given[0], network, lambda model: Engine(model), halves=(given[1], given[2]), scratch=tmp_path
    )
    np.testing.assert_array_equal(found, measure_disagreement(tomogram, network, halves=halves).numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "found"]


def test_rows_from_all_over_a_volume_tell_its_mean_and_deviation(tomogram, monkeypatch):
    whole = standardise_voxels(tomogram.numpy())
    assert (whole.mean, whole.std) == pytest.approx((tomogram.mean().item(), tomogram.std().item()), rel=1e-3)
    monkeypatch.setattr(standardise, "_SAMPLE", 8000)  # of 61440 voxels
    some = standardise_voxels(tomogram.numpy())
    assert some.mean != whole.mean
    assert (some.mean, some.std) == pytest.approx((whole.mean, whole.std), rel=0.05)


def test_contrast_is_the_deviation_whatever_the_offset_and_the_byte_order(tomogram):
    for volume in (tomogram + 1e4, torch.ones(4, 5, 6)):
        found = measure_contrast(volume.numpy().astype(">f4"))
        assert found == pytest.approx(volume.double().numpy().std(), rel=1e-9)


# ---- calibration ----------------------------------------------------------------------------------


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


def test_halves_have_a_curve_of_their_own(monkeypatch, tmp_path):
    torch.manual_seed(0)
    network = RestorationUNet([2, 2, 2, 2])
    (tmp_path / "models").mkdir()
    digest = network_digest(network)
    table = {digest: [[0.1], [0.3]], f"{digest}+halves": [[0.2], [0.4]]}
    (tmp_path / "models/confidence.json").write_text(json.dumps(table))
    monkeypatch.setattr(confidence.resources, "files", lambda package: tmp_path)
    assert confidence_curve(network, {"name": "a"}) == ([0.1], [0.3])
    assert confidence_curve(network, {"name": "a"}, halves=True) == ([0.2], [0.4])
    # a file that tells of one curve only is not mixed with the table
    own = {"name": "a", "confidence_curve": [[1], [3]]}
    assert confidence_curve(network, own, halves=True) is None
    own["confidence_curve_halves"] = [[2], [5]]
    assert confidence_curve(network, own, halves=True) == ([2], [5])


def test_mirrored_network_has_another_digest_than_the_one_inside():
    network = RestorationUNet([2, 2, 2, 2])
    assert network_digest(MirroredNetwork(network, 8)) != network_digest(network)


@pytest.mark.parametrize("curve", ["wrong", [[1, 2]], [[1, 2], [3]], [[2, 1], [3, 4]], [[1, 2], [0, 4]], 3.5])
def test_curve_that_is_none_is_refused(curve):
    with pytest.raises(InputError, match="confidence_curve of model mine is not two rising lists"):
        confidence_curve(Pointwise(), {"name": "mine", "confidence_curve": curve})
    with pytest.raises(InputError, match="confidence_curve_halves of model mine"):
        confidence_curve(Pointwise(), {"name": "mine", "confidence_curve_halves": curve}, halves=True)


def test_calibration_goes_through_its_points_stays_below_them_and_grows_beyond():
    disagreement = np.tile(np.array([0.0, 0.01, 0.1, 1.0, 10.0], dtype=np.float32), (2, 3, 1))
    calibrate_disagreement(disagreement, ([0.01, 1.0], [0.05, 5.0]))
    np.testing.assert_allclose(disagreement[1, 2], [0.05, 0.05, 0.5, 5.0, 50.0], rtol=1e-5)


def test_constant_tomogram_is_refused():
    with pytest.raises(ValueError, match="constant"):
        measure_disagreement(torch.ones(16, 16, 16), Pointwise())
