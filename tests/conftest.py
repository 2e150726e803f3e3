"""Fixtures that several rooms use."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mrcfile
import numpy as np
import pytest
import torch

from cryomend.io import write_volume
from cryomend.network.unet import RestorationUNet
from cryomend.network.weights import save_model


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and CUDA when present."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


class CliResult(NamedTuple):
    code: int
    out: str
    err: str


RunCli = Callable[..., CliResult]


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Run the command line as the installed program does, in this process."""
    from cryomend.cli import main

    def run(*arguments: object) -> CliResult:
        monkeypatch.setattr("sys.argv", ["cryomend", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        code = leaving.value.code
        return CliResult(0 if code is None else int(code), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, just large enough to run."""
    torch.manual_seed(0)
    channels = [2, 2, 2, 2]
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    metadata = {"network": {"channels": channels}, "voxel_size_range": [8.0, 12.0]}
    save_model(path, RestorationUNet(channels), metadata)
    return path


@pytest.fixture
def tomogram_file(tmp_path: Path) -> Path:
    """A small noisy tomogram of 10 Å voxels."""
    data = np.random.default_rng(1).normal(100.0, 7.0, (16, 20, 24))
    path = tmp_path / "tomogram.mrc"
    write_volume(path, data, voxel_size=10.0)
    return path


Damaged = Callable[[str], Path]


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    """Make bad.mrc with one thing wrong with it."""
    return lambda kind: _damage(tmp_path / "bad.mrc", kind)


def _damage(path: Path, kind: str) -> Path:
    voxels = np.random.default_rng(0).integers(0, 100, (16, 17, 19)).astype(np.float32)
    if kind == "directory":
        path.mkdir()
    elif kind == "not mrc":
        path.write_text("HEADER    CHAPERONE" * 100)
    elif kind == "short":
        path.write_bytes(b"MRC")
    elif kind == "gzip":
        path.write_bytes(gzip.compress(voxels.tobytes()))
    elif kind == "complex":
        _write_with_mrcfile(path, voxels.astype(np.complex64))
    elif kind == "small":
        _write_with_mrcfile(path, voxels[:15])
    elif kind == "constant":
        _write_with_mrcfile(path, np.full_like(voxels, 3.5))
    elif kind == "no voxel size":
        _write_with_mrcfile(path, voxels, 0.0)
    elif kind == "anisotropic":
        _write_with_mrcfile(path, voxels, (10.0, 10.0, 12.0))
    elif kind == "truncated":
        _write_with_mrcfile(path, voxels)
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "nan":
        _write_with_mrcfile(path, voxels)
        voxels[3, 4, 5], voxels[3, 5, 0], voxels[9, 0, 0] = np.nan, np.inf, -np.inf
        path.write_bytes(path.read_bytes()[:1024] + voxels.tobytes())
    elif kind in ("rgb", "damaged header", "volume stack"):
        _write_with_mrcfile(path, np.concatenate([voxels, voxels]))
        offset, value = {"rgb": (12, 16), "damaged header": (12, 77), "volume stack": (88, 401)}[kind]
        raw = bytearray(path.read_bytes())
        raw[offset : offset + 4] = struct.pack("<i", value)
        raw[36:40] = struct.pack("<i", len(voxels))
        path.write_bytes(raw)
    elif kind != "missing":
        raise ValueError(kind)
    return path


def _write_with_mrcfile(path: Path, data: np.ndarray, voxel_size: float | tuple[float, ...] = 10.0) -> None:
    with mrcfile.new(path, data=data) as file:
        file.voxel_size = voxel_size
