"""Restoring a volume: grey levels and sign come back, the network sees standardised bright protein."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cryomend.io import InputError
from cryomend.network.unet import RestorationUNet
from cryomend.restoration.engine import Engine
from cryomend.restoration.predict import choose_device, choose_devices, restore_mapped, restore_tomogram
from cryomend.restoration.standardise import robust_mean_std


class Recorder(nn.Module):
    """The identity, or ``gain`` times it, that keeps what it saw."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain, self.seen = gain, []

    def forward(self, x):
        self.seen.append(x.cpu().clone())
        return self.gain * x


@pytest.fixture
def tomogram():
    return 1000 + 25 * torch.randn(20, 24, 37, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("protein", ["dark", "bright"])
def test_identity_network_gives_the_tomogram_back(device, tomogram, protein):
    restored = restore_tomogram(tomogram, Recorder(), protein=protein, device=device)
    assert restored.device == tomogram.device and restored.dtype == torch.float32
    torch.testing.assert_close(restored, tomogram, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("protein", ["dark", "bright"])
def test_zero_network_gives_exactly_the_flat_mean(tomogram, protein):
    restored = restore_tomogram(tomogram, Recorder(0.0), protein=protein)
    assert restored.min() == restored.max()
    assert restored[0, 0, 0].item() == pytest.approx(tomogram.double().mean().item(), rel=1e-6)


def test_weak_output_stays_weak(tomogram):
    restored = restore_tomogram(tomogram, Recorder(0.01))
    assert restored.std().item() == pytest.approx(0.01 * tomogram.std().item(), rel=1e-3)


@pytest.mark.parametrize(("protein", "sign"), [("dark", -1), ("bright", 1)])
def test_network_sees_standardised_bright_protein(tomogram, protein, sign):
    tomogram[8:12, 8:12, 8:12] += sign * 100  # protein
    network = Recorder()
    restore_tomogram(tomogram[:16, :16, :32], network, protein=protein)
    (seen,) = network.seen
    assert seen.max() > 4.9 > -seen.min()
    # the few voxels beyond five deviations count in these plain moments, not in the robust ones
    # those that are mirrored beyond the faces count twice
    assert seen.mean().item() == pytest.approx(0.0, abs=0.03)
    assert seen.std().item() == pytest.approx(1.0, abs=0.03)


def test_negated_dark_tomogram_gives_the_negated_bright_result(tomogram):
    torch.manual_seed(1)
    network = RestorationUNet([2, 2, 2, 2])
    dark = restore_tomogram(tomogram, network, protein="dark")
    bright = restore_tomogram(-tomogram, network, protein="bright")
    torch.testing.assert_close(bright, -dark, rtol=1e-6, atol=1e-3)
    assert dark.std() > 0


@pytest.mark.parametrize(("scale", "offset"), [(0.01, 0.0), (3.0, -500.0)])
def test_result_follows_scale_and_offset_of_the_grey_levels(tomogram, scale, offset):
    torch.manual_seed(1)
    network = RestorationUNet([2, 2, 2, 2])
    plain = restore_tomogram(tomogram, network, precision="float32")
    scaled = restore_tomogram(tomogram * scale + offset, network, precision="float32")
    # grey levels near 1000 with a deviation of 25 round to some 1e-6 of the deviation
    torch.testing.assert_close(scaled, plain * scale + offset, rtol=0, atol=1e-3 * 25 * scale)


def test_network_is_asked_for_its_multiple(tomogram):
    network = Recorder()
    network.multiple = 4
    restore_tomogram(tomogram, network, tile=40, overlap=8)
    (seen,) = network.seen
    assert all(
        n <= side < n + 8 and side % 4 == 0 for n, side in zip((20, 24, 37), seen.shape[2:], strict=True)
    )


def test_odd_shapes_pass_a_real_network(tomogram):
    restored = restore_tomogram(tomogram[:16, :17, :37], RestorationUNet([2, 2, 2, 2]), tile=32, overlap=16)
    assert restored.shape == (16, 17, 37) and restored.isfinite().all()


def test_input_is_left_alone(tomogram):
    before = tomogram.clone()
    restore_tomogram(tomogram, Recorder(2.0))
    assert torch.equal(tomogram, before)


def test_unknown_contrast_is_refused(tomogram):
    with pytest.raises(ValueError, match="protein must be dark or bright, got 'grey'"):
        restore_tomogram(tomogram, Recorder(), protein="grey")


def test_constant_tomogram_is_refused():
    with pytest.raises(ValueError, match="constant"):
        restore_tomogram(torch.ones(16, 16, 16), Recorder())


def test_auto_takes_the_best_device_there_is(monkeypatch):
    for cuda, mps, best in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device("auto") == torch.device(best)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_absent_device_is_refused_not_replaced(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"no {name} device that PyTorch can use; pass --device cpu"):
        choose_device(name)


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cpu:0"])
def test_unknown_device_is_refused(name):
    with pytest.raises(InputError, match=f"unknown device '{name}'; choose auto, cpu, cuda or mps"):
        choose_device(name)


def test_several_devices_are_listed_and_each_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices("cuda:0, cuda:1") == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(InputError, match="no cuda:2 device"):
        choose_devices("cuda:0,cuda:2")


def test_a_mapped_tomogram_is_restored_as_one_in_memory_to_the_last_bit():
    network = RestorationUNet([2, 2, 2, 2])
    tomogram = np.random.default_rng(8).normal(50, 4, (40, 33, 36)).astype(np.float32)
    whole = restore_tomogram(torch.from_numpy(tomogram), network, tile=32, overlap=16)
    restored = np.full(tomogram.shape, 7, ">f4")
    mean_std = robust_mean_std(torch.from_numpy(tomogram))
    restore_mapped(restored, tomogram.astype(">f4"), Engine(network), mean_std=mean_std, tile=32, overlap=16)
    np.testing.assert_array_equal(restored, whole.numpy())


def test_another_error_of_the_network_is_not_taken_for_lack_of_memory():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("a cable fell off")

    said = []
    tomogram = np.zeros((40, 16, 16), np.float32)
    with pytest.raises(RuntimeError, match="a cable fell off"):
        restore_mapped(
            np.empty_like(tomogram), tomogram, Engine(Broken()), mean_std=(0.0, 1.0), say=said.append
        )
    assert len(said) == 1 and said[0].startswith("1 x 1 x 1 tiles of 48 x 16 x 16 voxels (")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"tile": 20}, "multiple of 16"),
        ({"tile": 0}, "multiple of 16"),
        ({"tile": 32, "overlap": -8}, "from 0 to half the tile"),
    ],
)
def test_tiles_that_do_not_fit_the_network_are_refused(tomogram, how, said):
    with pytest.raises(ValueError, match=said):
        restore_tomogram(tomogram, Recorder(), **how)
