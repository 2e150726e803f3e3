"""What tiles do to a tomogram: no lattice, no seams, no dependence on position, if the network adds none.

What the released model adds is measured by benchmarks/restoration_borders.py and told in docs/restoration.md.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from cryomend.io import read_volume
from cryomend.network.mirror import MirroredNetwork
from cryomend.restoration.model import bundled_models, load_model, sample_tomogram
from cryomend.restoration.predict import restore_tomogram


@pytest.fixture(scope="module")
def borders():
    path = Path(__file__).parents[2] / "benchmarks" / "restoration_borders.py"
    spec = importlib.util.spec_from_file_location("restoration_borders", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def network():
    if "fast" not in bundled_models():
        pytest.skip("this tree holds no model yet")
    return load_model("fast")[0]


class Local(torch.nn.Module):
    """A filter that sees two voxels each way: tiles cannot show."""

    multiple = 16

    def forward(self, x):
        return torch.nn.functional.avg_pool3d(x, 5, stride=1, padding=2)


class Edged(Local):
    """Twice as strong within 12 voxels of a face: tiles show where they touch."""

    def forward(self, x):
        gain = torch.ones_like(x)
        gain[..., :12] = gain[..., -12:] = 2
        return gain * super().forward(x)


class Lattice(Local):
    """Leaves a pattern of two voxels."""

    def forward(self, x):
        x = super().forward(x)
        x[..., ::2] += 0.1
        return x


def test_a_lattice_is_seen_where_one_is_and_only_there(borders):
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    assert all(0.9 < ratio < 1.1 for ratio in borders.nyquist_excess(noise).values())
    flat = borders.nyquist_excess(restore_tomogram(noise, Lattice()))
    assert flat["x"] > 10 * flat["y"]


def test_seams_are_seen_where_they_are_and_only_there(borders):
    volume = torch.randn(16, 256, 256, generator=torch.Generator().manual_seed(0))
    assert borders.seam_ratio(volume, Local(), side=64, overlap=16) == pytest.approx(1, abs=0.02)
    assert borders.seam_ratio(volume, Edged(), side=64, overlap=16) > 1.1


@pytest.mark.parametrize("shift", [1, 2, 3, 8, 13, 16])
def test_a_shifted_tomogram_gives_the_shifted_result_of_a_local_network(borders, shift):
    volume = torch.randn(32, 48, 160, generator=torch.Generator().manual_seed(0))
    network = Local()
    network.tile_side = 48
    assert borders.shift_difference(volume, network, shift) < 0.02


def test_the_mean_over_mirrors_leaves_no_lattice(borders):
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    networks = (Local(), Lattice(), MirroredNetwork(Lattice(), 8))
    without, once, mirrored = (borders.nyquist_excess(restore_tomogram(noise, n))["x"] for n in networks)
    assert once > 10 * without
    assert mirrored == pytest.approx(without, rel=1e-3)


@pytest.mark.slow
def test_a_flat_region_restored_by_best_has_no_lattice(borders):
    if "best" not in bundled_models():
        pytest.skip("this tree holds no model yet")
    noise = torch.randn(64, 96, 96, generator=torch.Generator().manual_seed(1))
    restored = restore_tomogram(noise, load_model("best")[0])
    assert all(0.9 < ratio < 1.1 for ratio in borders.nyquist_excess(restored).values())


@pytest.mark.slow
def test_a_flat_region_restored_by_the_released_model_has_no_lattice(borders, network):
    noise = torch.randn(64, 96, 96, generator=torch.Generator().manual_seed(1))
    assert all(
        0.9 < ratio < 1.1 for ratio in borders.nyquist_excess(restore_tomogram(noise, network)).values()
    )


@pytest.mark.slow
@pytest.mark.parametrize("shift", [3, 8, 13])
def test_a_shifted_tomogram_gives_the_shifted_result_of_the_released_model(borders, network, shift):
    volume = torch.from_numpy(read_volume(sample_tomogram()).data)[4:68, :96]
    assert borders.shift_difference(volume, network, shift) < 0.02
