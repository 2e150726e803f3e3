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
from cryomend.restoration.engine import Engine, device_error, is_device_lost, is_out_of_memory
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
    with pytest.raises(InputError, match=r"cpu was lost \(CUDA error: uncorr"):
        restored_by(Engine(LostOnce(at=3), ["cpu", "cpu"]), tomogram)
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("cryomend-device") for thread in threading.enumerate()
    )


class LostOnTheWay(nn.Identity):
    """The identity, for which a device does not answer the first time."""

    asked = 0

    def to(self, *args, **kwargs):
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError(LOST)
        return super().to(*args, **kwargs)


@pytest.fixture
def silent_memory(monkeypatch):
    """The first time that a device is asked for its memory it does not answer."""
    asked = []

    def answer(device):
        asked.append(device)
        if len(asked) == 1:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
        return 2**33

    monkeypatch.setattr("cryomend.restoration.engine.free_memory", answer)


def test_a_device_that_does_not_answer_before_the_work_is_replaced_and_that_is_said(tomogram):
    said = []
    engine = Engine(LostOnTheWay(), on_device_loss="cpu")
    engine.say = said.append  # as `restore_job` does, when the engine is there already
    np.testing.assert_allclose(restored_by(engine, tomogram), tomogram, rtol=1e-5)
    assert len(said) == 1 and said[0].startswith("warning: cpu was lost (CUDA error: uncorrectable")
    with pytest.raises(InputError, match=r"cpu was lost .*--on-device-loss cpu would have gone on"):
        restored_by(Engine(LostOnTheWay()), tomogram)


@pytest.mark.usefixtures("silent_memory")
def test_a_device_that_does_not_tell_its_memory_is_replaced():
    said = []
    engine = Engine(nn.Identity(), on_device_loss="cpu", say=said.append)
    assert engine.tile_voxels()[1] == 2**33
    assert [line.split(" (")[0] for line in said] == ["warning: cpu was lost"]


@pytest.mark.usefixtures("silent_memory")
def test_a_device_that_does_not_tell_its_memory_is_one_line(run_cli, tomogram_file, tiny_model, tmp_path):
    command = ("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, "--device", "cpu")
    result = run_cli(*command)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("cryomend: cpu was lost (CUDA error: all CUDA-capable")
    assert [path.name for path in tmp_path.iterdir()] == ["tomogram.mrc"]


def test_other_errors_on_the_way_to_a_device_come_through(tomogram):
    class Heavy(nn.Identity):
        def to(self, *args, **kwargs):
            raise RuntimeError("a cable fell off")

    with pytest.raises(RuntimeError, match="a cable fell off"):
        restored_by(Engine(Heavy(), on_device_loss="cpu"), tomogram)


@pytest.mark.parametrize(
    ("error", "device", "compiled", "line"),
    [
        (RuntimeError("no compiler.\n\nthe log"), "cpu", True, "cpu: no compiler; leave out --compile"),
        (RuntimeError("\nno kernel"), "cuda:1", False, "cuda:1: no kernel; pass --device cpu"),
        (RuntimeError(""), "cuda", True, "cuda: RuntimeError; leave out --compile or pass --device cpu"),
        (RuntimeError("shapes"), "cpu", False, "cpu: shapes; CRYOMEND_DEBUG=1 shows where, with one file"),
        (
            RuntimeError("inductor raised:\nno g++\nlog"),
            "cpu",
            True,
            "cpu: inductor raised: no g++; leave out --compile",
        ),
        (MemoryError(), "cpu", False, "out of memory on cpu; free some, or pass another --device"),
    ],
)
def test_what_pytorch_says_is_one_line_with_the_next_step(error, device, compiled, line):
    assert str(device_error(error, device, compiled=compiled)) == line
    assert device_error(ValueError("of the user"), device) is None


def test_what_the_compiler_says_is_one_line(run_cli, tomogram_file, tiny_model, tmp_path, monkeypatch):
    def compile_network(network, **options):
        raise RuntimeError("no C++ compiler found\nlong log\nlong log")

    monkeypatch.setattr(torch, "compile", compile_network)
    command = ("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, "--device", "cpu")
    result = run_cli(*command, "--compile")
    assert result.code == 2
    assert result.err.splitlines()[-1] == "cryomend: cpu: no C++ compiler found; leave out --compile"
    assert "long log" not in result.err


@pytest.mark.parametrize(("on_device_loss", "code"), [("stop", 2), ("cpu", 0)])
def test_a_device_that_does_not_tell_its_precision(
    run_cli, tomogram_file, tiny_model, tmp_path, monkeypatch, on_device_loss, code
):
    asked = []

    def answer(precision, device):
        asked.append(device)
        if len(asked) <= 3:  # when options are looked at, in the engine's making, and at its first use
            raise RuntimeError(LOST)

    for module in ("engine", "batch"):
        monkeypatch.setattr(f"cryomend.restoration.{module}.autocast_dtype", answer)
    command = ("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, "--device", "cpu")
    result = run_cli(*command, "--on-device-loss", on_device_loss)
    assert result.code == code, result.err
    assert ("warning: cpu was lost" in result.err) == (code == 0)
    assert "cpu: CUDA error: uncorrectable ECC error" in result.err or code == 0


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


@pytest.mark.parametrize(
    ("voxels", "side", "warned"),
    [
        (1e9, 48, False),
        (33.0**3, 48, True),
        (33.0**3, 40, False),
        (33.0**3, None, False),
        (71**3, 160, False),
    ],
)
def test_lack_of_memory_that_changes_the_result_is_said(tomogram, voxels, side, warned):
    network = RestorationUNet([2, 2, 2, 2])
    network.tile_side = side
    engine, said = Engine(network), []
    engine.tile_voxels = lambda: (voxels, 1e9)
    # a tomogram of 64 voxels at most is one tile whatever the memory is beyond that
    answer = np.empty_like(tomogram[..., :64])
    restore_mapped(answer, tomogram[..., :64], engine, mean_std=(50.0, 4.0), say=said.append)
    warnings = [line for line in said if line.startswith("warning")]
    assert len(said) == 1 + warned and len(warnings) == warned
    if warned:
        assert "memory for tiles of 32 voxels only, and the model was trained on 48" in warnings[0]


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
