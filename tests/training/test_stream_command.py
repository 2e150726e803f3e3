"""`cryomend train` on pairs that it makes itself: killed and resumed, with noise models, with bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.config import load_recipe
from cryomend.network.weights import load_model
from cryomend.noise import NoisePatches, fit_noise, save_noise_model
from cryomend.training.supply import MixedPairs

KIND = (
    "{shape: [24, 32, 32], slab_margin: [10, 20], species: [1, 1], mass_kda: [60, 100], occupancy: [0, 0.02]}"
)
RECIPE = f"""
simulation:
  specimens: {{a: {KIND}, b: {KIND}}}
  acquisition: {{tilt_step: [10, 15]}}
  processing: null
stream: {{buffer: 4, first: 2, reuse: 4, validation_pairs: 2, validation_kinds: [b]}}
training:
  {{channels: [4, 4], crop: 16, steps: 6, warm_up: 2, learning_rate: 1.0e-3, rotation_share: 0.0,
    validate_every: 4, checkpoint_minutes: 0}}
"""
PROGRAM = [sys.executable, "-c", "from cryomend.cli import main; main()"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with a recipe."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


def train(output: str, *options: object) -> list[str]:
    return ["train", "-o", output, "--config", "r.yaml", "--device", "cpu", *map(str, options)]


def weights(output: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load_model(output)[0].parameters()])


def column(output: str, name: str, table: str = "steps") -> list[str]:
    with Path(f"{output}.run/{table}.csv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def noise_model(path: Path, *, kind: str = "gaussian", pixel_size: float = 10.0) -> Path:
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(16, 16, 16)).astype(np.float32)
    number = np.arange(16)
    angles = np.linspace(-40.0, 40.0, 16)
    noise = NoisePatches(
        patches, number, 0 * number, angles, np.ones(16), np.zeros((16, 2), int), pixel_size, ("stack",)
    )
    save_noise_model(path, fit_noise(noise, kind=kind))
    return path


def test_training_needs_no_folder_and_says_what_it_made(folder, run_cli):
    result = run_cli(*train("m", "--workers", 0))
    assert result.code == 0, result.err
    assert "pairs without end by this process on cpu: 1 kinds of specimens, 0 given structures" in result.err
    assert "pairs made, " in result.err and "training waited" in result.err
    facts = load_model("m")[1]
    assert facts["validation_pairs"] == 2 and facts["pairs"] >= 4
    assert facts["kinds"] == [["a"], ["b"]]
    assert facts["voxel_size_range"] == [10.0, 10.0]
    assert load_recipe("m.run/recipe.yaml") == load_recipe("r.yaml")
    assert column("m", "step", "validation") == ["4", "6"]
    assert len(list(Path("m.run/validation").iterdir())) == 2
    assert not Path("m.run/stream").exists() and not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_a_run_on_the_stream_that_was_killed_ends_at_equal_bits(folder, run_cli, one_thread):
    Path("r.yaml").write_text(RECIPE.replace("steps: 6", "steps: 40"))
    assert run_cli(*train("straight", "--workers", 0)).code == 0
    process = subprocess.Popen(
        [*PROGRAM, *train("killed", "--workers", 1)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    steps = Path("killed.run/steps.csv")
    while time.monotonic() < deadline and not (steps.exists() and steps.read_text().count("\n") > 15):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not Path("killed").exists() and len(column("killed", "loss")) < 40
    kept = {p: p.stat().st_mtime_ns for p in Path("killed.run/validation").iterdir()}
    assert len(kept) >= 2
    # a resumed run has the seed of its checkpoint
    assert run_cli(*train("killed", "--workers", 1, "--resume", "--seed", 7)).code == 0
    assert torch.equal(weights("killed"), weights("straight"))
    assert column("killed", "loss") == column("straight", "loss")
    assert column("killed", "correlation", "validation") == column("straight", "correlation", "validation")
    assert all(p.stat().st_mtime_ns == made for p, made in kept.items() if p.exists())
    assert not list(folder.glob("*.checkpoint")) and not list(folder.rglob("*.partial"))


def test_resuming_with_other_ingredients_is_refused(folder, run_cli, monkeypatch):
    from cryomend.training.loop import Trainer

    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda trainer, *, checkpoint, **_: trainer.save(checkpoint) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_cli(*train("m", "--workers", 0))
    monkeypatch.setattr(Trainer, "run", run)
    model = noise_model(folder / "n.safetensors")
    result = run_cli(*train("m", "--workers", 0, "--resume", "--noise", model))
    assert result.code == 2
    assert "another configuration, structures or seed" in result.err.splitlines()[-1]
    assert run_cli(*train("m", "--workers", 0, "--resume")).code == 0


def test_each_pair_draws_one_of_the_noise_models_or_none(folder, run_cli):
    Path("r.yaml").write_text(
        RECIPE.replace("  processing: null", "  processing: null\n  noise_none_share: 0.3")
    )
    models = [noise_model(folder / f"{kind}.safetensors", kind=kind) for kind in ("gaussian", "spectral")]
    options = [part for model in models for part in ("--noise", model)]
    result = run_cli("simulate", "-o", "pairs", "--config", "r.yaml", "--count", 24, *options)
    assert result.code == 0, result.err
    records = [json.loads(p.read_text())["noise"] for p in sorted(Path("pairs").glob("*.json"))]
    drawn = [record.get("model") for record in records]
    assert {name: drawn.count(name) > 3 for name in set(drawn)} == {
        None: True, "gaussian.safetensors": True, "spectral.safetensors": True,
    }  # fmt: skip
    assert all((r["learned_share"] == 0) == ("model" not in r) for r in records)
    assert run_cli(*train("m", "--workers", 0, *options)).code == 0
    assert [m["file"] for m in load_model("m")[1]["noise_models"]] == [m.name for m in models]


def test_folders_and_the_stream_mix_when_the_recipe_says_so(blobs, folder, run_cli):
    result = run_cli(*train("m", "pairs", "--workers", 0))
    assert result.code == 2
    assert result.err.strip() == (
        "cryomend: --workers: for pairs that are made while training; leave out the folders of pairs, or mix "
        "both with stream.folder_share below 1"
    )
    Path("r.yaml").write_text(RECIPE.replace("buffer: 4", "folder_share: 0.5, buffer: 4"))
    assert run_cli(*train("m", "pairs", "--workers", 0)).code == 0
    facts = load_model("m")[1]
    assert facts["pairs"] > 4 and "stream" in facts


def test_a_mixture_draws_its_share_from_the_folders():
    class Stream:
        last_seed = 5

        def draw(self, rng):
            return "stream"

    mixed = MixedPairs(["folder"], Stream(), share=0.25)
    rng = np.random.default_rng(0)
    drawn = [(mixed.draw(rng), mixed.last_seed) for _ in range(400)]
    assert set(drawn) == {("folder", None), ("stream", 5)}
    assert drawn.count(("folder", None)) == pytest.approx(100, abs=30)


BAD = {
    ("--structures", "no.pdb"): ("no.pdb: no such file or folder",),
    ("--noise", "no.safetensors"): ("no.safetensors", "cryomend noise fit"),
    ("--rescale-noise",): ("--rescale-noise needs a noise model",),
    ("--from", "bset"): ("unknown model 'bset'", "bundled models"),
    ("--from", "default"): ("fast.safetensors: a network", "the configuration asks for"),
    ("--resume",): ("m.checkpoint: no checkpoint to resume from",),
}


@pytest.mark.parametrize("options", BAD, ids=" ".join)
def test_what_a_stream_cannot_be_made_of_is_refused_in_one_line(folder, run_cli, options):
    result = run_cli(*train("m", *options))
    assert result.code == 2
    lines = result.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cryomend: ")
    assert all(words in lines[0] for words in BAD[options])
    assert [p.name for p in folder.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("crop: 16", "crop: 32"), "simulation.specimens.a.shape: (24, 32, 32) is smaller than a crop of 32"),
        (("[b]}", "[c]}"), "stream.validation_kinds: no kind of specimen c"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(folder, run_cli, change, says):
    Path("r.yaml").write_text(RECIPE.replace(*change))
    result = run_cli(*train("m"))
    assert result.code == 2 and says in result.err and len(result.err.strip().splitlines()) == 1
    assert [p.name for p in folder.iterdir()] == ["r.yaml"]


def test_a_pair_that_cannot_be_made_ends_the_run_in_one_line(folder, run_cli, monkeypatch):
    from cryomend.training import maker

    def fail(*_args, **_how):
        raise ValueError("no room")

    monkeypatch.setattr(maker, "simulate_pair", fail)
    result = run_cli(*train("m", "--workers", 0))
    assert result.code == 2
    assert "no room" in result.err.splitlines()[-1] and not Path("m").exists()
