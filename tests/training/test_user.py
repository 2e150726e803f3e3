"""`cryomend train --for`: what is understood of a user's tilt series, the way to a model, and bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryomend.config import AcquisitionConfig, load_recipe
from cryomend.io import write_mdoc, write_tilt_angles, write_volume
from cryomend.network.weights import load_model
from cryomend.noise import load_noise_model
from cryomend.training import user
from cryomend.training.maker import Ingredients
from cryomend.training.series import SeriesFacts, UserSeries, find_dqe, make_recipe, read_series

TILTS = np.arange(-40.0, 41.0, 10.0)
RECIPE = """
simulation:
  specimens:
    own: {shape: [32, 32, 32], slab_margin: [10, 20], species: [1, 1], file_share: 1.0, occupancy: [0, 0.02]}
  processing: null
stream: {first: 1, buffer: 2, reuse: 4, validation_pairs: 1}
training: {precision: float32, crop: 16, steps: 3, warm_up: 1, checkpoint_minutes: 0, validate_every: 2}
user: {patches: [32, 16], noise_model: spectral}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model):
    """A tilt series of smooth noise in pixels of 5 Å, its angles, a structure and recipe."""
    monkeypatch.chdir(tmp_path)
    white = np.random.default_rng(0).normal(size=(len(TILTS), 128, 128))
    write_volume("ts.mrc", gaussian_filter(white, (0, 1.2, 1.2)) + 50, voxel_size=5.0, stack=True)
    write_tilt_angles("ts.tlt", TILTS)
    grid = np.indices((20, 20, 20)) - 10
    write_volume("blob.mrc", np.exp(-(grid**2).sum(0) / 18.0), voxel_size=5.0)
    Path("r.yaml").write_text(RECIPE)
    (tmp_path / "tiny.safetensors").write_bytes(tiny_model.read_bytes())
    return tmp_path


def train(*options: object) -> list[str]:
    given = {
        "--for": "ts.mrc",
        "--structures": "blob.mrc",
        "--from": "tiny.safetensors",
        "--config": "r.yaml",
    }
    command = ["train", "-o", "m", "--device", "cpu", "--workers", "0"]
    for name, value in given.items():
        if name not in options:
            command += [name, value]
    words = [str(option) for option in options]
    return command + [w for i, w in enumerate(words) if "None" not in words[i : i + 2]]


def test_one_command_learns_noise_and_trains_a_model_that_restores(folder, run_cli):
    result = run_cli(*train("--bin", 2))
    assert result.code == 0, result.err
    assert "ts.mrc: 9 tilts from -40 to 40°, simulated at 10 Å" in result.err
    assert "noise of the series: m.run/noise.safetensors (spectral)" in result.err
    recipe = load_recipe("m.run/recipe.yaml")
    assert recipe.simulation.voxel_size == (10.0, 10.0)
    microscope = recipe.simulation.acquisition
    assert (microscope.tilt_min, microscope.tilt_max, microscope.tilt_step) == (
        (-40.0, -40.0), (40.0, 40.0), (10.0, 10.0),
    )  # fmt: skip
    assert recipe.simulation.noise_share == 1 and list(recipe.simulation.specimens) == ["own"]
    noise = load_noise_model(Path("m.run/noise.safetensors"))
    assert (noise.kind, noise.patch, noise.pixel_size) == ("spectral", 16, 10.0)
    facts = load_model("m")[1]
    assert facts["network"]["channels"] == [2, 2, 2, 2] and facts["steps"] == 3
    assert facts["voxel_size_range"] == [10.0, 10.0]
    assert facts["for"] == json.loads(Path("m.run/for.json").read_text())
    assert facts["for"]["series"][0]["file"] == "ts.mrc" and facts["for"]["bin"] == 2
    assert facts["structures"] == [["blob"], ["blob"]]
    assert not list(folder.rglob("binned_*")) and not list(folder.rglob("*.partial"))
    write_volume("t.mrc", np.random.default_rng(1).normal(size=(32, 32, 32)), voxel_size=10.0)
    assert run_cli("restore", "t.mrc", "-o", "o.mrc", "--model", "m", "--device", "cpu").code == 0


def test_a_resumed_run_keeps_its_noise_and_an_unfinished_one_is_not_overwritten(folder, run_cli, monkeypatch):
    from cryomend.training.loop import Trainer

    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda trainer, *, checkpoint, **_: trainer.save(checkpoint) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_cli(*train())
    monkeypatch.setattr(Trainer, "run", run)
    before = Path("m.run/noise.safetensors").stat().st_mtime_ns
    refused = run_cli(*train())
    assert refused.code == 2 and "m.checkpoint: of a run that is not finished" in refused.err
    assert run_cli(*train("--resume")).code == 0
    assert Path("m.run/noise.safetensors").stat().st_mtime_ns == before


def test_a_noise_model_that_is_given_is_used_and_scratch_means_scratch(folder, run_cli):
    assert run_cli(*train()).code == 0
    Path("m.run/noise.safetensors").rename("n.safetensors")
    Path("m").unlink()
    Path("s.yaml").write_text(RECIPE.replace("crop: 16", "crop: 16, channels: [4, 4]"))
    result = run_cli(
        *train("--from", None, "--config", "s.yaml", "--from-scratch", "--noise", "n.safetensors")
    )
    assert result.code == 0, result.err
    facts = load_model("m")[1]
    assert facts["network"]["channels"] == [4, 4] and facts["started_from"] is None
    assert facts["noise_models"][0]["file"] == "n.safetensors"
    assert not Path("m.run/noise.safetensors").exists()


def facts_of(low, high, step, pixel_size=5.0, **optics):
    angles = np.arange(low, high + 0.1, step)
    return SeriesFacts(Path("a.mrc"), Path("a.tlt"), angles, pixel_size, optics)


def test_the_recipe_covers_all_series_and_the_user_has_the_last_word(tmp_path):
    found = [facts_of(-60, 50, 2, fluence=100.0, defocus_um=4.0), facts_of(-54, 60, 3, fluence=120.0)]
    given = Ingredients(structures=["x.pdb"])
    recipe = make_recipe(None, found, 2.0, given, None)
    microscope = recipe.simulation.acquisition
    assert microscope.tilt_min == (-60, -54) and microscope.tilt_max == (50, 60)
    assert microscope.tilt_step == (2, 3)
    assert microscope.fluence == pytest.approx((90, 132)) and microscope.defocus_um == pytest.approx(
        (2.8, 5.2)
    )
    assert recipe.simulation.voxel_size == (10, 10)
    assert set(recipe.simulation.specimens) == {"given", "given-sparse"}
    (tmp_path / "r.yaml").write_text(
        "simulation: {acquisition: {defocus_um: [1, 2]}, specimens: {own: {}}}\ntraining: {crop: 32}"
    )
    own = make_recipe(tmp_path / "r.yaml", found, 2.0, given, None)
    assert own.simulation.acquisition.defocus_um == (1, 2)
    assert own.simulation.acquisition.tilt_min == (-60, -54)
    assert list(own.simulation.specimens) == ["own"] and own.training.crop == 32
    assert own.training.learning_rate == recipe.training.learning_rate
    both = Ingredients(structures=["x.pdb"], membrane_structures=["y.pdb"])
    assert len(make_recipe(None, found, 1.0, both, None).simulation.specimens) == 4
    membranes = Ingredients(membrane_structures=["y.pdb"])
    kinds = make_recipe(None, found, 1.0, membranes, None).simulation.specimens
    assert kinds and all(kind.membranes for kind in kinds.values())
    assert make_recipe(None, found, 1.0, given, None, dqe=(0.2, 0.4)).simulation.acquisition.dqe == (0.2, 0.4)
    (tmp_path / "r.yaml").write_text("simulation: {acquisition: {dqe: [0.5, 0.6]}}")
    own = make_recipe(tmp_path / "r.yaml", found, 1.0, given, None, dqe=(0.2, 0.4))
    assert own.simulation.acquisition.dqe == (0.5, 0.6)


def write_counts(dqe, *, offset=0.0, same=False):
    """Counts of 1 e⁻/Å² per tilt in pixels of 4 Å behind 1000 Å of ice, and their deviations by angle."""
    rng = np.random.default_rng(0)
    expected = 16 * dqe * np.exp(-1000 / np.cos(np.radians(TILTS)) / 3000)
    counts = rng.poisson(np.broadcast_to(expected[:, None, None], (len(TILTS), 64, 64))).astype(float)
    if same:
        counts = (counts - counts.mean((1, 2), keepdims=True)) / counts.std((1, 2), keepdims=True) + 8
    write_volume("counts.mrc", counts + offset, voxel_size=4.0, stack=True)
    write_tilt_angles("counts.tlt", TILTS)
    return np.stack([TILTS, counts.std((1, 2))], axis=1)


def test_the_noise_of_the_pairs_is_as_strong_as_that_of_the_series(folder):
    config = AcquisitionConfig(fluence=(9, 9), mean_free_path=(3000, 3000), mtf_nyquist=(1, 1))

    def found(table):
        return find_dqe(read_series(UserSeries([Path("counts.mrc")]), 1.0), table, 1.0, config)

    low, high = found(write_counts(0.4))
    assert np.sqrt(low * high) == pytest.approx(0.4, rel=0.03) and high / low == pytest.approx(1.5**2)
    low, high = found(write_counts(0.9))
    assert low == pytest.approx(0.6, rel=0.03) and high == 1
    assert found(write_counts(0.4, offset=-10)) is None  # no zero
    assert found(write_counts(0.4, offset=1000)) is None  # more electrons than there were
    assert found(write_counts(0.4, same=True)) is None  # brought to one mean, so the zero is gone too


def test_structures_are_read_once(folder, run_cli, monkeypatch):
    from cryomend.training import maker

    read = []
    find = maker.find_structures
    monkeypatch.setattr(
        maker, "find_structures", lambda names, **how: read.extend(names) or find(names, **how)
    )
    result = run_cli(*train())
    assert result.code == 0, result.err
    assert [str(name) for name in read] == ["blob.mrc"]
    assert "grey levels of the series have no zero" in result.err


def test_an_mdoc_says_electrons_and_defocus(folder):
    write_mdoc(
        "ts.mrc.mdoc", stack="ts.mrc", shape=(128, 128), pixel_size=5.0, voltage_kv=300.0,
        tilt_axis_angle=0.0, tilt_angles=TILTS.tolist(), exposures=[3.0] * 9, places=list(range(9)),
        prior=[3.0 * n for n in range(9)], defocus_um=3.5,
    )  # fmt: skip
    Path("ts.tlt").unlink()
    (facts,) = read_series(UserSeries([Path("ts.mrc")]), 1.0)
    assert facts.optics == pytest.approx({"fluence": 27.0, "defocus_um": 3.5})
    np.testing.assert_allclose(facts.angles, TILTS)


def test_the_nearest_of_the_noise_models_is_taken(monkeypatch):
    asked = []

    class Fitted:
        def __init__(self, kind):
            self.kind = kind
            self.config = {"validation": {"wgan": {"score": 2.0}, "spectral": {"score": 1.0}}}

    def fit(noise, *, kind, **how):
        asked.append((kind, how.get("max_minutes")))
        return Fitted(kind)

    monkeypatch.setattr(user, "fit_noise", fit)

    def chosen(device, limit, side=64):
        asked.clear()
        noise = SimpleNamespace(patches=np.zeros((1, side, side)))
        config = load_recipe(None).user
        user._fit(noise, config, seed=0, device=device, limit=limit, on_progress=lambda *_: None)
        return asked

    assert chosen("cuda", 3.0) == [("wgan", 3.0), ("spectral", None)]
    assert chosen("cpu", 20.0) == [("wgan", 20.0), ("spectral", None)]
    assert chosen("cpu", None)[0] == ("wgan", 30.0)
    assert chosen("cpu", 3.0) == chosen("cuda", 3.0, side=48) == [("spectral", 3.0)]


BAD = {
    "no structures": (["--structures", None], "--for needs the structures of the specimen"),
    "two starts": (["--from-scratch"], "leave out one of --from-scratch and --from"),
    "wrong angles": (["--tilt-angles", "two.tlt"], "ts.mrc: 2 tilt angles for 9 tilts; is two.tlt the right"),
    "one angle": (["--tilt-angles", "flat.tlt"], "flat.tlt: all tilt angles are the same"),
    "too many lists": (["--tilt-angles", "ts.tlt", "two.tlt"], "2 files of --tilt-angles for 1 tilt series"),
    "no angles": (["--for", "lone.mrc"], "lone.mrc: no .tlt, .rawtlt or .mdoc beside it"),
    "no pixels": (["--for", "bare.mrc", "--tilt-angles", "ts.tlt"], "bare.mrc has no pixel size"),
    "two pixels": (["--for", "ts.mrc", "lone.mrc", "--tilt-angles", "ts.tlt"], "lone.mrc 7"),
    "no file": (["--for", "no.mrc"], "no.mrc does not exist"),
    "unbinned": (["--bin", "0.5"], "--bin must be a factor from 1 to 64"),
    "much binned": (["--bin", "16"], "ts.mrc"),
    "no structure file": (["--structures", "no.pdb"], "no.pdb: no such file"),
    "another network": (["--config", "wide.yaml"], "the configuration asks for"),
    "large crop": (["--config", "crop.yaml"], "simulation.specimens.own.shape"),
    "no time": (["--max-minutes", "0"], "--max-minutes must be a positive number"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_in_one_line_before_the_noise_is_learned(folder, run_cli, name):
    rng = np.random.default_rng(0)
    for stack, size in (("lone", 7.0), ("bare", 0.0)):
        write_volume(f"{stack}.mrc", rng.normal(size=(9, 64, 64)), voxel_size=size, stack=True)
    write_tilt_angles("two.tlt", np.array([-30.0, 30.0]))
    write_tilt_angles("flat.tlt", np.zeros(9))
    Path("wide.yaml").write_text(RECIPE.replace("crop: 16", "crop: 16, channels: [4, 4]"))
    Path("crop.yaml").write_text(RECIPE.replace("crop: 16", "crop: 48"))
    options, says = BAD[name]
    result = run_cli(*train(*options))
    assert result.code == 2
    lines = result.err.strip().splitlines()
    assert lines[-1].startswith("cryomend: ") and says in lines[-1]
    assert name == "much binned" or len(lines) == 1
    assert not Path("m").exists() and not list(folder.rglob("binned_*"))
    assert not Path("m.run/noise.safetensors").exists()


def test_a_series_without_empty_areas_is_refused_with_the_way_out(folder, run_cli):
    images = np.random.default_rng(0).normal(size=(7, 24, 24))
    write_volume("small.mrc", images, voxel_size=10.0, stack=True)
    write_tilt_angles("small.tlt", TILTS[1:-1])
    result = run_cli(*train("--for", "small.mrc"))
    assert result.code == 2
    assert "or fit the noise yourself and give it with --noise" in result.err.splitlines()[-1]
    assert "--patch" not in result.err  # which train does not have


@pytest.mark.parametrize("option", [["--tilt-angles", "ts.tlt"], ["--bin", "2"], ["--from-scratch"]])
def test_options_of_series_need_series(folder, run_cli, option):
    result = run_cli("train", "-o", "m", *option)
    assert result.code == 2
    assert result.err.strip() == (
        f"cryomend: {option[0]}: belongs to --for TILT_SERIES; give that too, or leave it out"
    )


def test_folders_of_pairs_and_series_exclude_each_other(folder, run_cli):
    result = run_cli("train", "blob", *train()[1:])
    assert result.code == 2 and "blob: --for makes its own pairs" in result.err


def test_steps_of_the_run_are_on_record(folder, run_cli):
    assert run_cli(*train("--max-minutes", 5)).code == 0
    with Path("m.run/steps.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]
