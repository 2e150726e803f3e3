"""Model files: what is saved is loaded, and nothing else is taken for a model."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cryomend.io import InputError
from cryomend.network.unet import RestorationUNet
from cryomend.network.weights import FORMAT, load_model, read_metadata, save_model

CONFIG = {"channels": [2, 3], "stem": "halve", "head_channels": 2, "convs_per_level": 1}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return RestorationUNet(**CONFIG)


def test_loaded_network_computes_what_the_saved_one_does(tmp_path, network):
    metadata = {"network": CONFIG, "voxel_size_range": [8.0, 12.0], "trained_on": {"device": "cpu"}}
    save_model(tmp_path / "a.safetensors", network, metadata)
    loaded, found = load_model(tmp_path / "a.safetensors")
    assert found == metadata == read_metadata(tmp_path / "a.safetensors")
    x = torch.randn(1, 1, 8, 8, 12)
    assert torch.equal(loaded(x), network(x))
    assert not loaded.training


def test_saving_needs_the_arguments_that_build_this_network(tmp_path, network):
    with pytest.raises(ValueError, match='no "network"'):
        save_model(tmp_path / "a.safetensors", network, {})
    with pytest.raises(ValueError, match="another architecture"):
        save_model(tmp_path / "a.safetensors", network, {"network": CONFIG | {"channels": [2, 4]}})
    assert not list(tmp_path.iterdir())


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.safetensors does not exist"):
        load_model(tmp_path / "a.safetensors")


def test_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"model": Trap()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt is not a safetensors file"):
        load_model(tmp_path / "a.pt")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "not a cryomend restoration model: it names no format"),
        ({"format": "pt"}, "not a cryomend restoration model: its format is 'pt'"),
        ({"format": "cryomend restoration model two"}, "its format is 'cryomend restoration model two'"),
        ({"format": FORMAT}, "its config is not a JSON object"),
        ({"format": FORMAT, "config": "[1]"}, "its config is not a JSON object"),
        ({"format": FORMAT, "config": "{}"}, 'no "network"'),
        (
            {"format": FORMAT, "config": json.dumps({"network": CONFIG | {"channels": [3, 3]}})},
            "architecture",
        ),
        ({"format": FORMAT, "config": json.dumps({"network": {"depth": 5}})}, "another architecture"),
        ({"format": FORMAT, "config": json.dumps({"network": {"channels": []}})}, "another architecture"),
    ],
)
def test_other_safetensors_are_refused_in_one_line(tmp_path, network, header, reason):
    save_file(network.state_dict(), tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(InputError, match=rf"a\.safetensors is [^\n]*{reason}[^\n]*$"):
        load_model(tmp_path / "a.safetensors")


def test_a_model_of_a_newer_version_says_what_to_update(tmp_path, network):
    path = tmp_path / "a.safetensors"
    save_file(network.state_dict(), path, metadata={"format": "cryomend restoration model 2"})
    with pytest.raises(
        InputError, match=r"a newer cryomend \(model format 2, this one reads 1\); update it$"
    ):
        load_model(path)


def test_truncated_model_is_refused(tmp_path, network):
    save_model(tmp_path / "a.safetensors", network, {"network": CONFIG})
    raw = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(raw[:-4])
    with pytest.raises(InputError, match="not a safetensors file"):
        load_model(tmp_path / "a.safetensors")


def test_a_full_disk_is_said_and_leaves_the_old_model(tmp_path, network, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_model(path, network, {"network": CONFIG})
    before = path.read_bytes()

    def refuse(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot write .*a\.safetensors: no space left on device"):
        save_model(path, network, {"network": CONFIG})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_model_that_cannot_be_written_is_refused(tmp_path, network):
    with pytest.raises(InputError, match="nowhere is not a directory"):
        save_model(tmp_path / "nowhere" / "a.safetensors", network, {"network": CONFIG})
