"""How much memory a tile may take."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from cryomend.network.unet import RestorationUNet
from cryomend.restoration import memory


def test_free_memory_is_that_of_the_machine_and_its_container(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_machine_memory", lambda: 8000)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_memory("cpu") == 8000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert memory.free_memory("cpu") == 8000
    (tmp_path / "memory.max").write_text("7000\n")
    assert memory.free_memory("cpu") == 6500
    (tmp_path / "memory.max").write_text("400\n")
    assert memory.free_memory("cpu") == 0


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


def test_memory_is_held_and_given_back_without_harm():
    with memory.hold_pages():
        kept = torch.ones(2**23)
    assert float(kept.sum()) == 2**23


def test_systems_without_mallopt_go_on(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with memory.hold_pages():
        pass
