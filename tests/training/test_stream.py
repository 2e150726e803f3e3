"""The endless stream: what it draws, what it holds, how it waits, resumes, stops and complains."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.config import AcquisitionConfig, SimulationConfig, SpecimenConfig
from cryomend.io import InputError
from cryomend.specimen import procedural_macromolecule
from cryomend.training.crops import PreparedPair
from cryomend.training.maker import PairMaker, hold_out, pair_seed, split_structures
from cryomend.training.pairs import simulate_pair
from cryomend.training.producer import load_prepared, write_prepared
from cryomend.training.stream import PairStream


@dataclass(frozen=True)
class Numbers:
    """Makes pairs that hold their seed, in no time or in ``seconds``."""

    seconds: float = 0.0
    fails_at: int = -1  # seed
    dies_at: int = -1

    def make(self, seed: int, device: object = None) -> PreparedPair:
        time.sleep(self.seconds)
        if seed == self.fails_at:
            raise ValueError("two\nlines")
        if seed == self.dies_at:
            os._exit(3)
        volume = torch.full((2, 2, 2), float(seed % 1000), dtype=torch.half)
        return PreparedPair(
            volume, volume + 1, np.array([0.5, 0.5]), tilt_range=(-40.0, 55.0), voxel_size=7.0
        )

    def digest(self) -> str:
        return "numbers"


@pytest.fixture(autouse=True)
def _workers_find_this_file(monkeypatch):
    """Spawned processes import what they make pairs with by the name that pytest gave this module."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[__name__.count(".")])


def stream_of(maker=None, **how):
    return PairStream(maker or Numbers(), **{"seed": 3, "buffer": 4, "first": 2, **how})


def draws(stream, count, seed=0):
    rng = np.random.default_rng(seed)
    seeds = []
    for _ in range(count):
        stream.draw(rng)
        seeds.append(stream.last_seed)
    return seeds


def test_seeds_of_training_validation_and_processes_are_never_the_same():
    several = [
        pair_seed(7, n, branch=b, rank=r)
        for n in range(200)
        for b in ("training", "validation")
        for r in (0, 1)
    ]
    assert len(set(several)) == len(several)
    assert set(several).isdisjoint(pair_seed(8, n) for n in range(200))
    assert max(several) < 2**53
    assert pair_seed(7, 5) == pair_seed(7, 5)


def test_on_schedule_every_pair_serves_as_often_as_was_asked_and_the_oldest_goes():
    stream = stream_of(reuse=5)
    seeds = draws(stream, 500)
    assert stream.produced == 2 + 499 // 5
    assert stream.mean_reuse == pytest.approx(5, rel=0.05)
    assert len(stream) == len(stream.pairs) == 4
    newest = [stream.seed_of(n) for n in range(stream.produced - 4, stream.produced)]
    assert set(seeds[-5:]) <= set(newest)
    assert [float(p.tomogram[0, 0, 0]) for p in stream.pairs] == [s % 1000 for s in newest]
    assert set(seeds[:5]) <= {stream.seed_of(0), stream.seed_of(1)}


def test_a_resumed_stream_draws_what_an_uninterrupted_one_draws():
    whole = draws(stream_of(reuse=3), 60)
    first = stream_of(reuse=3)
    rng = np.random.default_rng(0)
    begun = [first.draw(rng) and first.last_seed for _ in range(31)]
    state = json.loads(json.dumps(first.state()))
    second = stream_of(reuse=3)
    second.restore(state)
    rest = [second.draw(rng) and second.last_seed for _ in range(29)]
    assert begun + rest == whole
    assert second.drawn == 60 and second.produced == 2 + 59 // 3


def test_a_state_of_other_pairs_is_refused():
    state = stream_of(reuse=3).state()
    with pytest.raises(InputError, match="another configuration, structures or seed"):
        stream_of(reuse=3, seed=4).restore(state)


def test_without_a_schedule_the_caller_gives_a_tenth_of_its_time_and_learns_how_much():
    stream = stream_of(Numbers(seconds=0.02))
    rng = np.random.default_rng(0)
    for _ in range(60):
        stream.draw(rng)
        time.sleep(0.005)
    assert stream.start_seconds == pytest.approx(0.04, abs=0.03)
    assert 0.02 < stream.stall_share < 0.25
    assert 2 < stream.produced < 12
    assert "crops cut from each, training waited" in stream.describe()


def test_filling_waits_for_all_pairs_in_the_order_of_their_numbers():
    stream = stream_of(branch="validation")
    assert [float(p.tomogram[0, 0, 0]) for p in stream.fill()] == [stream.seed_of(n) % 1000 for n in range(4)]
    assert stream.seed_of(0) == pair_seed(3, 0, branch="validation")


def test_prepared_pairs_come_back_from_disk_whole_or_not_at_all(tmp_path):
    pair, path = Numbers().make(5), tmp_path / "p.safetensors"
    assert load_prepared(path, seed=5, digest="a") is None
    write_prepared(path, pair, seed=5, digest="a")
    again = load_prepared(path, seed=5, digest="a")
    assert torch.equal(again.tomogram, pair.tomogram) and torch.equal(again.density, pair.density)
    assert again.power.tolist() == [0.5, 0.5]
    assert (again.tilt_range, again.voxel_size) == ((-40.0, 55.0), 7.0)
    assert load_prepared(path, seed=6, digest="a") is load_prepared(path, seed=5, digest="b") is None
    path.write_bytes(path.read_bytes()[:50])
    assert load_prepared(path, seed=5, digest="a") is None
    with pytest.raises(InputError, match="cannot write"):
        write_prepared(tmp_path / "none" / "p.safetensors", pair, seed=5, digest="a")


def _die_while_writing(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system ends us after 100 bytes
    write_prepared(folder / "training_000000.safetensors", Numbers().make(5), seed=5, digest="a")


def test_what_a_killed_worker_had_half_written_has_the_name_that_is_removed_afterwards(tmp_path):
    worker = multiprocessing.get_context("spawn").Process(target=_die_while_writing, args=(tmp_path,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGXFSZ
    assert [path.name for path in tmp_path.iterdir()] == ["training_000000.safetensors.partial"]


def test_workers_fill_the_folder_within_its_bound_and_are_gone_afterwards(tmp_path):
    (tmp_path / "training_000000.partial").touch()
    (tmp_path / "training_000900.safetensors").touch()
    (tmp_path / "other.txt").touch()
    with stream_of(workers=2, folder=tmp_path, reuse=2) as stream:
        seeds = draws(stream, 41)
        children = multiprocessing.active_children()
        files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
        state = stream.state()
    assert len(children) == 2 and not any(child.is_alive() for child in children)
    assert seeds == draws(stream_of(reuse=2), 41)  # whoever makes the pairs
    assert 4 <= len(files) <= 4 + 2 * 2 and "training_000900.safetensors" not in files
    assert not list(tmp_path.glob("*.partial"))
    with stream_of(workers=1, folder=tmp_path, reuse=2) as resumed:
        (tmp_path / f"training_{state['held'][1][0]:06d}.safetensors").unlink()
        resumed.restore(state)
        assert [float(p.tomogram[0, 0, 0]) for p in resumed.pairs] == [
            resumed.seed_of(n) % 1000 for n, _ in state["held"]
        ]
        resumed.close(discard=True)
    assert [p.name for p in tmp_path.iterdir()] == ["other.txt"]


def test_without_a_schedule_workers_pause_when_nobody_draws(tmp_path):
    with stream_of(Numbers(seconds=0.01), workers=1, folder=tmp_path) as stream:
        draws(stream, 1)
        rng = np.random.default_rng(1)
        until = time.monotonic() + 20
        while stream.produced < 12 and time.monotonic() < until:
            stream.draw(rng)
            time.sleep(0.01)
        assert stream.produced >= 12
        assert stream.stall_share < 0.2
        time.sleep(0.5)
        assert len(list(tmp_path.glob("*.safetensors"))) <= 4 + 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pair_that_cannot_be_made_is_named_by_its_seed_in_one_line(tmp_path, workers):
    bad = pair_seed(3, 1)
    with (
        stream_of(Numbers(fails_at=bad), workers=workers, folder=tmp_path) as stream,
        pytest.raises(InputError) as error,
    ):
        draws(stream, 50)
    assert str(error.value) == (
        f"making the pair of seed {bad} failed: two lines; `cryomend simulate --seed {bad}` repeats it"
    )


def test_a_worker_that_dies_is_said(tmp_path):
    bad = pair_seed(3, 1)
    with (
        stream_of(Numbers(dies_at=bad), workers=1, folder=tmp_path) as stream,
        pytest.raises(InputError, match=rf"a worker died \(exit code 3\) making the pair of seed {bad}"),
    ):
        draws(stream, 50)


def test_workers_without_a_folder_are_refused():
    with pytest.raises(InputError, match="workers need a folder"):
        stream_of(workers=1)


PROGRAM = """
import sys
sys.path.insert(0, {here!r})
import multiprocessing, time
from pathlib import Path
import numpy as np
from test_stream import Numbers, stream_of
if __name__ == "__main__":
    with stream_of(Numbers(seconds=0.3), workers=1, folder=Path({folder!r})) as stream:
        rng = np.random.default_rng(0)
        stream.draw(rng)
        print(*[c.pid for c in multiprocessing.active_children()], flush=True)
        while True:
            stream.draw(rng)
            time.sleep(0.01)
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def listen_to_interrupts():
    """What a shell starts in the background ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_neither_an_interrupt_nor_a_kill_leaves_processes_or_half_files(tmp_path, how):
    script, folder = tmp_path / "run.py", tmp_path / "pairs"
    script.write_text(PROGRAM.format(here=str(Path(__file__).parent), folder=str(folder)))
    run = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=listen_to_interrupts,
    )  # fmt: skip
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert workers and all(is_alive(pid) for pid in workers)
    if how == signal.SIGKILL:
        run.kill()
    err = b""
    for _ in range(6):
        if how == signal.SIGINT:
            # As a terminal does; again if need be, for Python drops one that falls into a finaliser.
            os.killpg(run.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            err = run.communicate(timeout=10)[1]
            break
    assert run.returncode not in (None, 0)
    until = time.monotonic() + 10
    while any(is_alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in workers)
    assert not list(folder.glob("*.partial"))
    assert b"Process SpawnProcess" not in err  # no worker complains beside us


def test_structures_are_split_by_name_and_parts_of_one_stay_together():
    names = ["1abc", "4v4r", "4v4r_30S", "4v4r_50S", "6pxm", "5tj6", "3gl1", "1qvr", "EMD-1234"]
    one = procedural_macromolecule(np.random.default_rng(0), mass_kda=60, name="x")
    species = [replace(one, name=name) for name in names]
    training, validation = split_structures(species, share=0.3)
    held = {s.name for s in validation}
    assert (
        held and held.isdisjoint(s.name for s in training) and len(training) + len(validation) == len(names)
    )
    assert len(held & {"4v4r", "4v4r_30S", "4v4r_50S"}) in (0, 3)
    assert {s.name for s in split_structures(species[::-1], share=0.3)[1]} == held
    assert [len(part) for part in split_structures(species, share=0)] == [9, 0]
    for share in (1e-9, 1 - 1e-9):
        assert all(split_structures(species[:2], share=share))
    assert split_structures(species[:1], share=0.5) == ([species[0]], [])


def test_validation_has_kinds_and_structures_that_training_has_not():
    one = procedural_macromolecule(np.random.default_rng(0), mass_kda=60, name="x")
    species = tuple(replace(one, name=name) for name in ("1abc", "4v4r", "6pxm", "5tj6"))
    kinds = {name: SpecimenConfig() for name in ("a", "b", "c")}
    maker = PairMaker(SimulationConfig(specimens=kinds), species, species[:2])
    training, validation = hold_out(maker, kinds=["b"], share=0.4)
    assert set(training.config.specimens) == {"a", "c"} and set(validation.config.specimens) == {"b"}
    for group in ("structures", "membrane_structures"):
        ours, theirs = ({s.name for s in getattr(m, group)} for m in (training, validation))
        assert ours and theirs and not ours & theirs
    both = hold_out(maker, kinds=[], share=0)
    assert [set(m.config.specimens) for m in both] == [set(kinds)] * 2
    assert all(m.structures == species for m in both)
    with pytest.raises(InputError, match="no kind of specimen d; the configuration has a, b, c"):
        hold_out(maker, kinds=["d"], share=0)
    with pytest.raises(InputError, match="leave some for training"):
        hold_out(maker, kinds=list(kinds), share=0)


def test_a_stream_of_simulated_pairs_on_the_device_is_that_of_the_command():
    kind = SpecimenConfig(shape=(16, 24, 24), slab_margin=(10, 20), species=(1, 1), mass_kda=(60, 100))
    config = SimulationConfig(specimens={"a": kind}, acquisition=AcquisitionConfig(tilt_step=(10, 10)))
    stream = PairStream(PairMaker(config), seed=0, buffer=2, first=1, reuse=1, device="cpu")
    pair = stream.draw(np.random.default_rng(0))
    made = simulate_pair(config, seed=stream.last_seed)
    both = torch.stack([-made.tomogram.flatten(), pair.tomogram.float().flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.999
    assert pair.voxel_size == made.voxel_size
    assert list(pair.tilt_range) == made.record["tilt_range"]
    assert stream.state()["digest"] != PairMaker(config.model_copy(update={"processing": None})).digest()
