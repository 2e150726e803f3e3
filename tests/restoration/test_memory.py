"""How much memory a tile may take."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from cryomend.network.unet import RestorationUNet
from cryomend.restoration import memory

MACHINE = 8000


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """A machine of 8000 bytes whose control groups lie in a folder; call it with the lines of the process."""
    monkeypatch.setattr(memory, "_machine_memory", lambda: MACHINE)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")

    def belong(*lines):
        (tmp_path / "membership").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / "cgroup"

    return belong


def write_group(folder, **words):
    """Write the files of a control group, a word for the dot of their names left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for word, value in words.items():
        (folder / f"memory.{word}").write_text(f"{value}\n")


def test_free_memory_is_that_of_the_machine_and_its_container(groups):
    assert memory.free_memory("cpu") == MACHINE  # no control groups on this system
    top = groups("0::/")
    assert memory.free_memory("cpu") == MACHINE
    write_group(top, max="max", current=500)
    assert memory.free_memory("cpu") == MACHINE
    write_group(top, max=7000)
    assert memory.free_memory("cpu") == 6500
    write_group(top, max=400)
    assert memory.free_memory("cpu") == 0


def test_pages_of_files_are_free_for_they_are_given_back(groups):
    top = groups("0::/")
    write_group(top, max=4000, current=3990)
    assert memory.free_memory("cpu") == 10
    write_group(top, stat="anon 90\ninactive_file 3000\nactive_file 800\nunevictable 7")
    assert memory.free_memory("cpu") == 3810
    write_group(top, stat="inactive_file 9000")  # counted at another moment
    assert memory.free_memory("cpu") == 4000
    write_group(top, stat="inactive_file many")
    assert memory.free_memory("cpu") == 10


def test_the_tightest_of_the_groups_around_the_process_counts(groups):
    top = groups("0::/job/step")
    write_group(top / "job/step", max="max", current=100)
    write_group(top / "job", max=3000, current=900, stat="inactive_file 400")
    write_group(top / "other", max=5, current=0)
    assert memory.free_memory("cpu") == 2500
    write_group(top / "job/step", max=700)
    assert memory.free_memory("cpu") == 600
    groups("0::/")  # as a container tells that sees its own group as the root
    assert memory.free_memory("cpu") == MACHINE


def test_control_groups_of_the_first_version_are_read_too(groups):
    top = groups("4:memory:/job", "2:cpu,cpuacct:/", "0::/")
    write_group(top / "memory", limit_in_bytes=2**63 - 4096, usage_in_bytes=10**9)
    assert memory.free_memory("cpu") == MACHINE
    stat = "inactive_file 1\ntotal_inactive_file 600\ntotal_active_file 300"
    write_group(top / "memory/job", limit_in_bytes=2000, usage_in_bytes=1900, stat=stat)
    write_group(top / "cpu,cpuacct", limit_in_bytes=1, usage_in_bytes=1)
    assert memory.free_memory("cpu") == 1000
    # a container that sees the path of the machine, and its own group as the root
    groups("4:memory:/docker/0123", "0::/")
    write_group(top / "memory", limit_in_bytes=1500, usage_in_bytes=200)
    assert memory.free_memory("cpu") == 1300


def test_membership_that_cannot_be_understood_limits_nothing(groups):
    write_group(groups("", "0", "7:name"), max=5, current=0)
    assert memory.free_memory("cpu") == MACHINE


def test_the_machine_tells_its_memory():
    assert 2**26 < memory._machine_memory() < 2**50


def test_wider_networks_finer_sampling_and_longer_numbers_take_more():
    small, wide = RestorationUNet([8, 16]), RestorationUNet([16, 32])
    fine = RestorationUNet([8, 16], stem="double")
    need = memory.bytes_per_voxel
    assert need(small, torch.bfloat16) < need(small, None) < need(wide, None) < need(fine, None)
    assert need(small, None) == 2 * need(small, torch.bfloat16)
    assert need(nn.Sequential(wide), None) == need(wide, None)  # one that holds it


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the peak")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_covers_what_a_tile_takes(dtype):
    script = f"""
import torch
from pathlib import Path
from cryomend.restoration.engine import Engine
from cryomend.restoration.memory import bytes_per_voxel, hold_pages
from cryomend.network.unet import RestorationUNet
torch.set_num_threads(1)
peak = lambda: 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
network = RestorationUNet()
engine = Engine(network, precision="{dtype}")
with hold_pages():
    list(engine.run([torch.zeros(1, 1, 16, 16, 16)]))
    before = peak()
    list(engine.run([torch.zeros(1, 1, 96, 96, 96)]))
took = (peak() - before) / 96**3
print(took / bytes_per_voxel(network, None if "{dtype}" == "float32" else torch.bfloat16))
"""
    share = float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
    assert 0.3 < share < 1.1


class Malloc:
    """A C library that writes down what it is asked for."""

    def __init__(self):
        self.calls = []

    def mallopt(self, parameter, value):
        self.calls.append((parameter, value))
        return 1

    def malloc_trim(self, pad):
        self.calls.append(("trim", pad))
        return 1


@pytest.fixture
def malloc(monkeypatch):
    library = Malloc()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    return library


def test_memory_is_held_for_the_block_and_given_back_even_after_an_error(malloc, monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "linux")
    with pytest.raises(RuntimeError, match="half way"), memory.hold_pages():
        # of malloc.h: M_MMAP_MAX (-4), so that no array is a mapping of its own, and M_TRIM_THRESHOLD (-1)
        assert malloc.calls == [(-4, 0), (-1, 2**31 - 1)]
        raise RuntimeError("half way")
    assert malloc.calls[2:] == [(-4, 65536), (-3, 2**25), (-1, 2**26), ("trim", 0)]


def test_systems_other_than_linux_are_not_asked(malloc, monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with memory.hold_pages():
        pass
    assert malloc.calls == []


@pytest.mark.parametrize("library", [object(), None], ids=["without mallopt", "not to be had"])
def test_libraries_without_mallopt_go_on(monkeypatch, library):
    def load(name):
        if library is None:
            raise OSError("no library")
        return library

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    entered = False
    with memory.hold_pages():
        entered = True
    assert entered


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for the pages")
def test_pages_of_a_freed_array_serve_the_next_one():
    script = """
import resource, torch
from cryomend.restoration.memory import hold_pages
fresh = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    before = fresh()
    for _ in range(10):
        torch.ones(2**24)
    return fresh() - before
apart = fill()
with hold_pages():
    fill()
    print(fill() / apart)
"""
    share = float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
    assert share < 0.1
