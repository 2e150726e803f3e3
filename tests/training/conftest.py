"""Pairs of blobs in noise, on disk, for the tests of the training loop and its command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cryomend.training.pairs import Pair, write_pair


def blob_pair(seed: int, side: int = 32, tilt_range: tuple[float, float] = (-55.0, 60.0)) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    density = torch.zeros(side, side, side)
    density[12:20, 10:22, 12:20] = 3
    tomogram = -density + torch.randn(side, side, side, generator=generator)
    return Pair(tomogram, density, 10.0, {"tilt_range": list(tilt_range), "seed": seed})


@pytest.fixture(autouse=True)
def loggers_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what import-linter does to the loggers of a process that it was run in."""
    for name in ("files", "monitor"):
        monkeypatch.setattr(logging.getLogger(f"cryomend.training.{name}"), "disabled", False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in float32 depend on how many threads share them; the runs to be compared all have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Folder of four pairs of 32³ voxels."""
    for seed in range(4):
        write_pair(tmp_path / "pairs", f"blob_{seed}", blob_pair(seed))
    return tmp_path / "pairs"
