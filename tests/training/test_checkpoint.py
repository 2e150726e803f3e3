import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cryomend.io import InputError
from cryomend.training.checkpoint import read_checkpoint, write_checkpoint

STATES = {"net": {"a/b.weight": torch.arange(3.0)}, "opt.0": {"step": torch.tensor(4.0)}}


def full_disk(self, data):
    with self.open("wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_written_is_read(tmp_path):
    write_checkpoint(tmp_path / "c", STATES, {"step": 3})
    states, facts = read_checkpoint(tmp_path / "c")
    assert facts == {"step": 3}
    assert states.keys() == STATES.keys()
    assert torch.equal(states["net"]["a/b.weight"], torch.arange(3.0))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c"
    write_checkpoint(path, STATES, {"step": 3})
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*c: no space left on device; make room .*as it was"):
        write_checkpoint(path, STATES, {"step": 4})
    assert read_checkpoint(path)[1] == {"step": 3}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="no checkpoint yet"):
        write_checkpoint(tmp_path / "other", STATES, {"step": 4})


def test_other_files_and_other_versions_are_refused(tmp_path):
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(InputError, match="text: not a training checkpoint; leave out --resume"):
        read_checkpoint(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "old", metadata={"format": "cryomend checkpoint 1"})
    with pytest.raises(InputError, match="'cryomend checkpoint 1', expected 'cryomend checkpoint 2'"):
        read_checkpoint(tmp_path / "old")
