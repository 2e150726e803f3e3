"""Models by name and by path."""

from __future__ import annotations

import pytest

from cryomend.io import InputError
from cryomend.restoration import model


@pytest.fixture
def bundled(tmp_path, monkeypatch, tiny_model):
    """A package with two models in it."""
    monkeypatch.setattr(model, "_models_directory", lambda: tmp_path)
    for name in ("default", "second"):
        (tmp_path / f"{name}.safetensors").write_bytes(tiny_model.read_bytes())


def test_bundled_model_is_loaded_by_name(bundled):
    network, metadata = model.load_model("second")
    assert metadata["name"] == "second"
    assert metadata["voxel_size_range"] == [8.0, 12.0]
    assert network.multiple == 16


def test_default_is_the_default(bundled):
    assert model.load_model()[1]["name"] == "default"


def test_path_is_loaded_and_named_by_its_stem(tiny_model):
    assert model.load_model(tiny_model)[1]["name"] == "tiny"


def test_unknown_name_lists_the_names(bundled):
    with pytest.raises(InputError, match="unknown model 'third'; bundled models: default, second; or give"):
        model.load_model("third")


def test_missing_path_is_called_a_file(bundled, tmp_path):
    with pytest.raises(
        InputError, match=r"model file .*a\.safetensors does not exist; .*\(default, second\)"
    ):
        model.load_model(tmp_path / "a.safetensors")


def test_description_puts_nested_values_on_one_line(tiny_model):
    described = model.describe_model(tiny_model)
    assert described["network"] == "channels 2, 2, 2, 2"
    assert described["voxel_size_range"] == "8.0, 12.0"


def test_default_model_of_the_package_loads_and_is_small():
    if "default" not in model.bundled_models():
        pytest.skip("this tree holds no default model yet")
    path = model.resolve_model("default")
    assert path.stat().st_size <= 16e6
    network, metadata = model.load_model("default")
    assert metadata["voxel_size_range"][0] <= 10.0 <= metadata["voxel_size_range"][1]
    assert network.multiple <= 16
