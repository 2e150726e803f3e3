"""Models by name and by path."""

from __future__ import annotations

import numpy as np
import pytest

from cryomend.io import InputError
from cryomend.network.unet import RestorationUNet
from cryomend.network.weights import save_model
from cryomend.noise.model import NoiseModel, save_noise_model
from cryomend.restoration import model


@pytest.fixture
def bundled(tmp_path, monkeypatch, tiny_model):
    """A package with two models in it."""
    monkeypatch.setattr(model, "_models_directory", lambda: tmp_path)
    for name in ("fast", "second"):
        (tmp_path / f"{name}.safetensors").write_bytes(tiny_model.read_bytes())


def test_bundled_model_is_loaded_by_name(bundled):
    network, metadata = model.load_model("second")
    assert metadata["name"] == "second"
    assert metadata["voxel_size_range"] == [8.0, 12.0]
    assert network.multiple == 16


def test_fast_is_the_default_and_has_an_older_name(bundled):
    assert model.load_model()[1]["name"] == model.load_model("default")[1]["name"] == "fast"


def test_path_is_loaded_and_named_by_its_stem(tiny_model):
    assert model.load_model(tiny_model)[1]["name"] == "tiny"


def test_best_is_fast_averaged_over_all_mirrors(bundled):
    fast, best = (model.load_model(name)[0] for name in ("fast", "best"))
    assert (best.mirrors, best.multiple) == (8, fast.multiple)
    assert best.network.arguments == fast.arguments
    assert model.load_model("best")[1]["name"] == "best"


def test_unknown_name_lists_the_names(bundled):
    with pytest.raises(InputError, match="unknown model 'third'; bundled models: best, fast, second; or"):
        model.load_model("third")


def test_missing_path_is_called_a_file(bundled, tmp_path):
    with pytest.raises(
        InputError, match=r"model file .*a\.safetensors does not exist; .*\(best, fast, second\)"
    ):
        model.load_model(tmp_path / "a.safetensors")


def test_description_puts_nested_values_on_one_line(tiny_model):
    described = model.describe_model(tiny_model)
    assert described["network"] == "channels 2, 2, 2, 2"
    assert described["voxel_size_range"] == "8.0, 12.0"


def test_description_has_no_repeats_no_empty_lines_and_a_start_in_a_few_words(tmp_path):
    start = {"name": "fast", "sha256": "ab", "steps": 7, "network": {"channels": [2, 2]}, "started_from": {}}
    metadata = {
        "network": {"channels": [2, 2]}, "kinds": ["given", "sparse", "given"],
        "membrane_structures": ["", ""], "noise_models": [], "score": 0.8123897180751547, "rate": 1e-5,
        "started_from": start,
    }  # fmt: skip
    path = tmp_path / "m.safetensors"
    save_model(path, RestorationUNet([2, 2]), metadata)
    described = model.describe_model(path)
    assert described["kinds"] == "given, sparse"
    assert described["started_from"] == "name fast, sha256 ab, steps 7"
    assert described["network"] == "channels 2, 2"  # numbers that are equal are not the same
    assert (described["score"], described["rate"]) == ("0.8124", "1e-05")
    assert not {"membrane_structures", "noise_models"} & described.keys()


def test_models_of_the_package_and_of_noise_are_described(run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "mean over 8 mirror images" in run_cli("info", "best").out
    assert "mirror" not in run_cli("info", "fast").out
    table = np.array([[-30.0, 1.0], [45.0, 2.0]])
    save_noise_model(
        tmp_path / "noise.safetensors",
        NoiseModel("gaussian", 16, 2.5, table, {}, {"patches": 24, "notes": []}),
    )
    told = run_cli("info", "noise.safetensors")
    assert told.code == 0, told.err
    lines = {line.split("  ")[0].strip(): line.split("  ")[-1].strip() for line in told.out.splitlines()}
    assert lines["kind"] == "noise model, gaussian"
    assert (lines["patch"], lines["pixel size"]) == ("16 pixels", "2.5 Å")
    assert (lines["tilts"], lines["patches"]) == ("-30 to 45 degrees", "24")
    assert run_cli("info", "medium").code == 2


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("lacking", ["fast", "best", None])
def test_the_default_depends_on_the_device_and_on_what_is_there(
    tmp_path, monkeypatch, tiny_model, device, lacking
):
    monkeypatch.setattr(model, "_models_directory", lambda: tmp_path)
    (tmp_path / "fast.safetensors").write_bytes(tiny_model.read_bytes())
    if lacking:
        monkeypatch.setitem(model._RELEASED, lacking, model._Release("none.safetensors"))
        if lacking == "fast":
            (tmp_path / "fast.safetensors").rename(tmp_path / "wide.safetensors")
            monkeypatch.setitem(model._RELEASED, "best", model._Release("wide.safetensors", mirrors=8))
        else:
            monkeypatch.setitem(model._RELEASED, "fast", model._Release("fast.safetensors"))
    wanted, other = ("fast", "best") if device == "cpu" else ("best", "fast")
    choice = model.choose_model(None, device)
    where = "a CPU" if device == "cpu" else device
    if wanted != lacking:
        assert choice == model.ModelChoice(wanted, f"the default on {where}")
    else:
        why = f"{wanted} would be the default on {where}; this version does not have it"
        assert choice == model.ModelChoice(other, why)
    assert model.load_model(choice.model)[1]["name"] == choice.model


def test_a_model_that_is_named_is_taken_as_it_is(tmp_path):
    assert model.choose_model("best", "cpu") == model.ModelChoice("best")
    assert model.choose_model(tmp_path / "m.safetensors", "cuda").why == ""


def test_a_released_model_that_is_missing_is_refused_and_the_others_are_named(bundled, tmp_path, monkeypatch):
    monkeypatch.setitem(model._RELEASED, "best", model._Release("best.safetensors"))
    with pytest.raises(InputError, match="does not come with the model 'best'; it has fast, second"):
        model.resolve_model("best")
    monkeypatch.setattr(model, "_models_directory", lambda: tmp_path / "none")
    with pytest.raises(InputError, match="this installation holds no model"):
        model.choose_model(None, "cpu")


def test_models_of_the_package_load_and_are_small():
    names = model.bundled_models()
    if not names:
        pytest.skip("this tree holds no model yet")
    for name, path in names.items():
        assert path.stat().st_size <= 16e6
        network, metadata = model.load_model(name)
        assert metadata["voxel_size_range"][0] <= 10.0 <= metadata["voxel_size_range"][1]
        assert network.multiple <= 16
