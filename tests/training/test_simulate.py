"""Learned noise on its way into the pairs: its pixel size, and what the user is told."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryomend.config import SimulationConfig, SpecimenConfig, load_recipe
from cryomend.fourier import gaussian_lowpass
from cryomend.io import InputError
from cryomend.training import learned_noise
from cryomend.training.learned_noise import LearnedNoise, compare_pixels
from cryomend.training.simulate import simulate_pairs

MODEL = Path("m.safetensors")
RECIPE = """
simulation:
  specimens:
    a: {shape: [32, 40, 40], occupancy: [0, 0], species: [0, 0], slab_margin: [20, 40]}
  acquisition: {tilt_step: [20, 20]}
  processing: null
"""


@pytest.fixture
def fitted(monkeypatch):
    """Let every noise model be one of waves with a period of some 8 of its pixels, fitted at 4 Å."""
    model = SimpleNamespace(pixel_size=4.0, fields=[])

    def sample_noise(model, *, tilt_angles, shape, generator):
        model.fields.append(shape)
        white = torch.randn(len(tilt_angles), *shape, generator=generator)
        return gaussian_lowpass(white, 2.0, ndim=2) - gaussian_lowpass(white, 4.0, ndim=2) + 100

    monkeypatch.setattr(learned_noise, "load_noise_model", lambda path, device="cpu": model)
    monkeypatch.setattr(learned_noise, "sample_noise", sample_noise)
    learned_noise._model_at.cache_clear()
    yield model
    learned_noise._model_at.cache_clear()


def mean_frequency(images, pixel_size):
    """First moment of the power spectrum, 1/Å."""
    power = torch.fft.fft(images - images.mean(dim=2, keepdim=True)).abs().square().mean(dim=(0, 1))
    k = torch.fft.fftfreq(images.shape[2]).abs()
    return float((k * power).sum() / power.sum()) / pixel_size


def draw(pixel_size, **how):
    generator = torch.Generator().manual_seed(0)
    return LearnedNoise(MODEL, **how)(np.zeros(6), (128, 160), pixel_size, generator)


@pytest.mark.parametrize("pixel_size", [6.0, 3.0])
def test_rescaled_noise_has_the_texture_of_the_model_in_angstroms(fitted, pixel_size):
    own = mean_frequency(draw(4.0), 4.0)
    assert mean_frequency(draw(pixel_size, rescale=True), pixel_size) == pytest.approx(own, rel=0.05)
    as_it_is = mean_frequency(draw(pixel_size), pixel_size)
    assert as_it_is == pytest.approx(own * 4 / pixel_size, rel=0.05)


def test_noise_has_unit_variance_and_the_shape_asked_for(fitted):
    for pixel_size, how in ((4.0, {}), (10.0, {"rescale": True})):
        noise = draw(pixel_size, **how)
        assert noise.shape == (6, 128, 160)
        torch.testing.assert_close(noise.std(dim=(1, 2)), torch.ones(6))
    draw(4.0, rescale=True)
    assert fitted.fields[0] == fitted.fields[-1] == (128, 160)  # nothing to rescale
    assert fitted.fields[1] > (320, 400)


def config(*sizes, **changes):
    kinds = {f"{s}": SpecimenConfig(voxel_size=s) for s in sizes}
    return SimulationConfig(specimens=kinds, **changes)


@pytest.mark.parametrize(
    ("pixel_size", "settings", "rescale", "says"),
    [
        (10.1, config(10.0), False, None),
        (10.3, config(10.0), False, "was fitted at 10.3 Å but the simulation has 10 Å"),
        (10.0, config(), False, None),
        (4.0, config(8.0, 10.0), False, "has 8 to 10 Å: its noise is used pixel by pixel"),
        (10.0, config(10.0, voxel_size=(6.0, 12.0)), False, "has 6 to 12 Å"),
        (0.0, config(10.0), False, "does not know its pixel size; its noise is used pixel by pixel at 10 Å"),
        (4.0, config(10.0), True, None),
        (12.0, config(10.0, 20.0), True, "goes down to 10 Å: its noise has nothing finer than 24 Å"),
    ],
)
def test_a_model_of_another_pixel_size_is_said(pixel_size, settings, rescale, says):
    notes = compare_pixels(MODEL, SimpleNamespace(pixel_size=pixel_size), settings, rescale=rescale)
    assert len(notes) == (says is not None)
    assert says is None or says in notes[0]


def test_a_model_without_a_pixel_size_is_never_rescaled():
    with pytest.raises(InputError, match=r"m\.safetensors does not know its pixel size"):
        compare_pixels(MODEL, SimpleNamespace(pixel_size=0.0), config(10.0), rescale=True)


def run_simulate(run_cli, tmp_path, *options, recipe=RECIPE):
    (tmp_path / "recipe.yaml").write_text(recipe)
    output = tmp_path / "out"
    result = run_cli("simulate", "--config", tmp_path / "recipe.yaml", "-o", output, "--count", 2, *options)
    records = [json.loads(p.read_text())["noise"] for p in sorted(output.glob("*.json"))]
    return result, records


def test_the_command_says_it_once_and_rescales_only_when_asked(run_cli, tmp_path, fitted):
    result, records = run_simulate(run_cli, tmp_path, "--noise", MODEL)
    assert result.code == 0
    assert result.err.count("m.safetensors was fitted at 4 Å but the simulation has 10 Å") == 1
    assert "--rescale-noise resamples it" in result.err
    assert [(r["model"], r["rescaled"], r["learned_share"]) for r in records] == [
        ("m.safetensors", False, 0.5)
    ] * 2
    assert set(fitted.fields) == {(40, 40)}


def test_the_command_rescales_when_asked_by_option_or_configuration(run_cli, tmp_path, fitted):
    for folder, options, more in (("a", ["--rescale-noise"], ""), ("b", [], "  rescale_noise: true\n")):
        (tmp_path / folder).mkdir()
        result, records = run_simulate(
            run_cli, tmp_path / folder, "--noise", MODEL, *options, recipe=RECIPE + more
        )
        assert result.code == 0 and "fitted at" not in result.err
        assert [r["rescaled"] for r in records] == [True, True]
    assert min(fitted.fields) > (100, 100)


def test_rescaling_without_a_model_is_refused(run_cli, tmp_path):
    result, records = run_simulate(run_cli, tmp_path, "--rescale-noise")
    assert result.code == 2 and not records
    assert result.err.strip() == "cryomend: --rescale-noise needs a noise model; give one with --noise"


def test_ctrl_c_does_not_wait_for_the_pairs_that_are_not_begun(tmp_path):
    def press(done):
        if done > 0:
            raise KeyboardInterrupt

    (tmp_path / "r.yaml").write_text(RECIPE)
    config = load_recipe(tmp_path / "r.yaml").simulation
    with pytest.raises(KeyboardInterrupt):
        simulate_pairs(config, tmp_path / "pairs", count=24, seed=0, workers=2, on_done=press)
    assert 1 <= len(list((tmp_path / "pairs").glob("*.json"))) < 12
    assert not list((tmp_path / "pairs").glob("*.partial"))
