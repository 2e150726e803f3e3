"""A network on several devices: answers in order, the same as on one; a device that is lost."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from cryomend.io import InputError
from cryomend.network.unet import RestorationUNet
from cryomend.restoration.engine import Engine, is_device_lost, is_out_of_memory
from cryomend.restoration.predict import restore_mapped
from cryomend.restoration.standardise import robust_mean_std

LOST = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported later"


@pytest.fixture
def tomogram():
    return np.random.default_rng(8).normal(50, 4, (40, 33, 70)).astype(np.float32)


def restored_by(engine, tomogram, **options):
    answer = np.empty_like(tomogram)
    mean_std = robust_mean_std(torch.from_numpy(tomogram))
    restore_mapped(answer, tomogram, engine, mean_std=mean_std, tile=32, overlap=16, **options)
    return answer


class LostOnce(nn.Module):
    """The identity of a device that stops answering once, at a given tile."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def forward(self, x):
        self.seen += 1
        if self.seen == self.at:
            raise RuntimeError(LOST)
        return x


def test_several_devices_give_the_answer_of_one_to_the_last_bit(tomogram):
    network = RestorationUNet([2, 2, 2, 2])
    alone = restored_by(Engine(network), tomogram)
    np.testing.assert_array_equal(restored_by(Engine(network, ["cpu"] * 3), tomogram), alone)


def test_answers_come_in_order_although_devices_differ_in_speed():
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.02 if x.mean() % 3 == 0 else 0.001)
            seen.add(threading.get_ident())
            return 2 * x

    seen: set[int] = set()
    tiles = [torch.full((1, 1, 4, 4, 4), float(i)) for i in range(20)]
    answers = list(Engine(Slow(), ["cpu", "cpu"]).run(iter(tiles)))
    assert [float(answer.mean()) for answer in answers] == [2.0 * i for i in range(20)]
    assert len(seen) == 2 and all(answer.shape == tiles[0].shape for answer in answers)


def test_accelerators_get_batches_of_tiles_and_answers_come_one_by_one(monkeypatch):
    engine = Engine(nn.Identity(), ["cpu", "cpu"])
    tiles = [torch.full((1, 1, 4, 4, 4), float(i)) for i in range(7)]
    assert [len(batch) for batch in engine._batches(iter(tiles))] == [1] * 7
    monkeypatch.setattr("cryomend.restoration.engine._BATCH", 3 * 64)
    monkeypatch.setattr(Engine, "tile_voxels", lambda self: (1e9, 1e9))
    engine._places = [type("Gpu", (), {"device": torch.device("cuda")})()]
    assert [len(batch) for batch in engine._batches(iter(tiles))] == [3, 3, 1]


def test_a_lost_device_is_replaced_by_the_cpu_when_asked_and_that_is_said(tomogram):
    said = []
    engine = Engine(LostOnce(at=3), ["cpu", "cpu"], on_device_loss="cpu", say=said.append)
    np.testing.assert_allclose(restored_by(engine, tomogram), tomogram, rtol=1e-5)
    assert len(said) == 1
    assert said[0].startswith("warning: cpu was lost (CUDA error: uncorrectable ECC error encountered CUDA")
    assert said[0].endswith("going on on the CPU, which is slower")


def test_a_lost_device_stops_the_work_when_asked(tomogram):
    with pytest.raises(InputError, match=r"cpu was lost in the middle of the work \(CUDA error: uncorr"):
        restored_by(Engine(LostOnce(at=3), ["cpu", "cpu"]), tomogram)
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("cryomend-device") for thread in threading.enumerate()
    )


@pytest.mark.parametrize(
    ("error", "lost", "memory"),
    [
        (RuntimeError(LOST), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True, False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False, True),
        (RuntimeError("CUDA error: out of memory"), False, True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_a_lost_device_lack_of_memory_and_other_errors_are_told_apart(error, lost, memory):
    assert is_device_lost(error) is lost
    assert is_out_of_memory(error) is memory


def test_an_error_of_the_network_comes_through_from_its_thread(tomogram):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("a cable fell off")

    with pytest.raises(RuntimeError, match="a cable fell off"):
        restored_by(Engine(Broken(), ["cpu", "cpu"]), tomogram)


def test_bfloat16_changes_the_result_by_less_than_a_hundredth(tomogram):
    torch.manual_seed(0)
    network = RestorationUNet([8, 12])
    exact, rounded = (
        restored_by(Engine(network, precision=precision), tomogram) for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(exact, rounded) and rounded.dtype == np.float32
    assert np.linalg.norm(rounded - exact) < 0.01 * np.linalg.norm(exact - exact.mean())


def test_tiles_are_those_of_the_training_where_memory_suffices(tomogram):
    from cryomend.restoration.predict import _choose_tile

    network = RestorationUNet([2, 2, 2, 2])
    network.tile_side = 48
    engine = Engine(network)
    for voxels, wanted in ((1e9, 48), (48.0**3, 48), (47.9**3, 32), (100, 16)):
        engine.tile_voxels = lambda voxels=voxels: (voxels, 1e9)
        assert _choose_tile(engine)[0] == wanted
    del network.tile_side
    assert Engine(network).tile_side is None


def test_a_compiled_network_gives_the_same_answer(tomogram, monkeypatch):
    compile_network = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda network, **options: compile_network(network, backend="eager", **options)
    )
    torch.manual_seed(0)
    network = RestorationUNet([2, 2, 2, 2])
    plain = restored_by(Engine(network, precision="float32"), tomogram)
    compiled = restored_by(Engine(network, precision="float32", compile_network=True), tomogram)
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)


def test_an_answer_that_is_not_finite_in_bfloat16_is_found_again_in_float32(tomogram):
    class Unsteady(nn.Identity):
        def forward(self, x):
            return x * float("nan") if torch.is_autocast_enabled("cpu") else x

    answer = restored_by(Engine(Unsteady(), precision="bfloat16"), tomogram)
    np.testing.assert_allclose(answer, tomogram, rtol=1e-5)
