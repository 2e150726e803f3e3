"""The whole pipeline through its commands, in the order of the stages, on 48³ voxels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import starfile
import torch
import yaml

from cryomend.io import read_stack, read_tilt_angles, read_volume, write_volume
from cryomend.restoration.model import bundled_models, load_model
from cryomend.training.loop import Trainer

SIDE, VOXEL = 48, 10.0
SPECIMEN = (
    "{slab_margin: [30, 60], species: [3, 3], mass_kda: [100, 1500], occupancy: [0.05, 0.15], file_share: 1}"
)
CONFIGS = {
    "specimen.yaml": SPECIMEN,
    "microscope.yaml": "{fluence: [120, 120]}",
    "wgan.yaml": "{width: 2, latent: 8, steps: 2, critic_steps: 1, batch: 8}",
    "recipe.yaml": f"""
        simulation:
          specimens: {{small: {SPECIMEN[:-1]}, shape: [{SIDE}, {SIDE}, {SIDE}]}}}}
          acquisition: {{tilt_step: [4, 4]}}
        training:
          {{channels: [4, 4], crop: 16, steps: 80, learning_rate: 1.0e-2, warm_up: 5, rotation_share: 0.25,
            validation_share: 0.25}}""",
    "areas.toml": "foreground.a = {z = [20, 28], y = [10, 20], x = [10, 20]}\n"
    "background.a = {z = [0, 8], y = [10, 20], x = [10, 20]}\n",
    "short.yaml": "training: {channels: [2], crop: 16, steps: 6, rotation_share: 0.5, validation_share: 0}",
}

Run = Callable[..., str]


@pytest.fixture
def run(run_cli, tmp_path, monkeypatch) -> Run:
    """Run a command in the folder of the configurations; it must succeed and leave nothing half-written."""
    monkeypatch.chdir(tmp_path)
    for name, text in CONFIGS.items():
        Path(name).write_text(text)

    def run(command: str, code: int = 0) -> str:
        result = run_cli(*command.split())
        assert result.code == code, result.err
        assert not list(tmp_path.rglob("*.partial"))
        return result.out + result.err

    return run


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def read_json(path: str):
    return json.loads(Path(path).read_text())


def assert_is_clean_mrc(path: str, shape: tuple[int, ...], voxel_size: float = VOXEL) -> None:
    """Judged by mrcfile, which is not ours."""
    with mrcfile.open(path) as file:
        assert file.data.shape == shape
        assert file.data.dtype == np.float32
        assert float(file.voxel_size.x) == pytest.approx(voxel_size, rel=1e-5)
        assert np.isfinite(file.data).all()
        assert file.header.dmean == pytest.approx(file.data.mean(), rel=1e-3, abs=1e-4)
    assert mrcfile.validate(path)


def test_every_stage_in_order_ends_at_a_restored_specimen(run):
    make_specimen(run)
    record_tilt_series(run)
    learn_noise(run)
    reconstruct(run)
    simulate_pairs(run)
    train(run)
    restore(run)
    evaluate(run)


def make_specimen(run: Run) -> None:
    said = run(f"specimen -o s --config specimen.yaml --shape {SIDE} {SIDE} {SIDE} --occupancy 0.12 --seed 1")
    density, instances = read_volume("s/density.mrc").data, read_volume("s/instances.mrc").data
    classes, particles = read_json("s/classes.json"), starfile.read("s/particles.star")
    assert_is_clean_mrc("s/density.mrc", (SIDE,) * 3)
    assert set(classes) == {str(int(i)) for i in np.unique(instances) if i}
    assert f"{len(particles)} molecules" in said and len(particles) == len(classes)
    assert np.abs(particles["rlnCenteredCoordinateZAngst"]).max() < SIDE * VOXEL / 2
    assert density[instances > 0].mean() > 5 * abs(density[instances == 0].mean())  # V above ice
    assert np.abs(density[:2]).max() < 0.05  # the margin is free ice
    assert yaml.safe_load(Path("s/config.yaml").read_text())["occupancy"] == [0.12, 0.12]
    assert Path("s/preview.png").read_bytes().startswith(b"\x89PNG")
    write_volume("piece.mrc", density[16:32, 16:32, 16:32], voxel_size=5)
    run(f"specimen -o t --config specimen.yaml --shape {SIDE} 48 48 --structures piece.mrc")
    assert set(read_json("t/classes.json").values()) == {"piece"}


def record_tilt_series(run: Run) -> None:
    run("acquire s/density.mrc -o a --config microscope.yaml --tilt-range -60 60 1 --seed 2")
    angles, series = read_tilt_angles("a/tilt_series.tlt"), read_stack("a/tilt_series.mrc")
    np.testing.assert_allclose(angles, np.arange(-60, 61))
    assert_is_clean_mrc("a/tilt_series.mrc", (121, SIDE, SIDE))
    with mrcfile.open("a/tilt_series.mrc") as file:
        assert file.is_image_stack()
    exposure = read_json("a/acquisition.json")["exposure"]
    assert exposure["fluence"] == 120 and exposure["optics"]["voltage_kv"] == 300
    electrons = exposure["fluence"] / 121 * VOXEL**2
    assert 0.5 * electrons < series.data.mean() < electrons  # some are lost in the ice
    run("acquire s/density.mrc -o b --tilt-angles a/tilt_series.tlt --snr 0.5 --fluence 60 --voxel-size 8")
    assert_is_clean_mrc("b/tilt_series.mrc", (121, SIDE, SIDE), 8.0)
    along_beam = read_volume("s/density.mrc").data.sum(axis=0)
    assert correlation(series.data[55:66].mean(axis=0), along_beam) < -0.4  # protein dark


def learn_noise(run: Run) -> None:
    run("noise extract a/tilt_series.mrc --tilt-angles a/tilt_series.tlt --patch 32 -o p.h5")
    with h5py.File("p.h5") as file:
        assert file["patches"].shape[0] >= 64 and file["patches"].shape[1:] == (32, 32)
        assert file.attrs["pixel_size"] == pytest.approx(VOXEL)
    Path("few.tlt").write_text("-60\n-30\n0\n30\n60\n")
    for kind, options in (("spectral", ""), ("wgan", "--config wgan.yaml --max-minutes 1 --seed 3")):
        run(f"noise fit p.h5 --model {kind} {options} --device cpu -o {kind}.safetensors")
        run(f"noise sample {kind}.safetensors --tilt-angles few.tlt --size 64 80 --seed 4 -o {kind}.mrc")
        assert_is_clean_mrc(f"{kind}.mrc", (5, 64, 80))
    run("noise check p.h5 spectral.mrc wgan.mrc --json n.json")
    scores = read_json("n.json")["sampled"]
    assert 0.8 < scores["spectral.mrc"]["std_ratio"] < 1.25
    assert scores["wgan.mrc"]["spectrum_db_max"] < 6


def reconstruct(run: Run) -> None:
    run(f"reconstruct a/tilt_series.mrc --tilt-angles a/tilt_series.tlt --thickness {SIDE} -o wbp.mrc")
    assert_is_clean_mrc("wbp.mrc", (SIDE,) * 3)
    assert correlation(read_volume("wbp.mrc").data, read_volume("s/density.mrc").data) < -0.3  # protein dark
    options = "--tilt-angles a/tilt_series.tlt --pixel-size 7 --method wbp --device cpu"
    run(f"reconstruct a/tilt_series.mrc {options} --thickness 32 -o thin.mrc")
    assert_is_clean_mrc("thin.mrc", (32, SIDE, SIDE), 7.0)


def simulate_pairs(run: Run) -> None:
    run("simulate -o pairs --config recipe.yaml --count 4 --noise spectral.safetensors --seed 10")
    names = [f"pairs/pair_{seed:06d}" for seed in range(10, 14)]
    for name in names:
        assert_is_clean_mrc(f"{name}_input.mrc", (SIDE,) * 3)
        assert_is_clean_mrc(f"{name}_target.mrc", (SIDE,) * 3)
        assert read_json(f"{name}.json")["kind"] == "small"
        tomogram, target = (read_volume(f"{name}_{end}.mrc").data for end in ("input", "target"))
        assert correlation(tomogram, target) < -0.1
    run("simulate -o quiet --config recipe.yaml --seed 10")
    assert np.any(
        read_volume("quiet/pair_000010_input.mrc").data != read_volume(f"{names[0]}_input.mrc").data
    )


def train(run: Run) -> None:
    run("train pairs -o model.safetensors --config recipe.yaml --seed 5 --max-minutes 5 --device cpu")
    metadata = load_model("model.safetensors")[1]
    assert (metadata["pairs"], metadata["validation_pairs"], metadata["steps"]) == (3, 1, 80)
    assert metadata["voxel_size_range"] == pytest.approx([VOXEL, VOXEL])
    assert metadata["validation_correlation"] > 0.6
    assert not Path("model.safetensors.checkpoint").exists()


def restore(run: Run) -> None:
    options = "--tilt-angles a/tilt_series.tlt --protein dark --voxel-size 10 --device cpu"
    reports = "--report r.html --batch-report r.json"
    said = run(f"restore wbp.mrc -o r.mrc --model model.safetensors {options} {reports}")
    assert_is_clean_mrc("r.mrc", (SIDE,) * 3)
    assert "tilt range -60 to 60" in said
    assert read_json("r.json")[0]["status"] == "restored"
    assert "data:image/png" in Path("r.html").read_text()
    before, after = read_volume("wbp.mrc").data, read_volume("r.mrc").data
    assert abs(np.median(after) - np.median(before)) < before.std()  # still the grey levels of the input
    write_volume("bright.mrc", -before, voxel_size=VOXEL)
    run("restore bright.mrc -o b.mrc --model model.safetensors --protein bright")
    np.testing.assert_allclose(read_volume("b.mrc").data, -after, atol=1e-3 * after.std())


def evaluate(run: Run) -> None:
    for name in ("wbp", "r"):
        run(f"evaluate {name}.mrc --truth s/density.mrc --tilt-range -60 60 --json {name}-scores.json")
    wbp, restored = (read_json(f"{name}-scores.json")["truth"] for name in ("wbp", "r"))
    density = read_volume("s/density.mrc").data
    assert restored["correlation"] == pytest.approx(
        -correlation(read_volume("r.mrc").data, density), abs=1e-3
    )
    for part in ("overall", "inside_wedge", "inside_measured_region"):
        assert restored[part]["correlation"] > wbp[part]["correlation"] + 0.2, part
        assert 0 < restored[part]["share_of_fourier_space"] <= 1
    run("evaluate r.mrc --areas areas.toml --protein dark --voxel-size 10 --json areas.json")
    assert read_json("areas.json")["areas"]["mean"]["enl"] > 0
    run("report r.mrc --raw wbp.mrc -o page.html --tilt-range -60 60 --average-along-y")
    assert "data:image/png" in Path("page.html").read_text()


def test_a_training_that_was_interrupted_ends_at_the_weights_of_one_that_was_not(run, monkeypatch):
    run("simulate -o pairs --config recipe.yaml")
    run("train pairs -o straight.safetensors --config short.yaml")
    step = Trainer.take_step

    def interrupt(trainer: Trainer) -> float:
        if trainer.step == 3:
            raise KeyboardInterrupt
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", interrupt)
        patch.setitem(Trainer.run.__kwdefaults__, "every_minutes", 0)
        run("train pairs -o resumed.safetensors --config short.yaml", code=130)
    assert Path("resumed.safetensors.checkpoint").exists() and not Path("resumed.safetensors").exists()
    run("train pairs -o resumed.safetensors --config short.yaml --resume")
    (a, facts), (b, _) = load_model("resumed.safetensors"), load_model("straight.safetensors")
    assert facts["steps"] == 6
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    run("train pairs -o more.safetensors --config short.yaml --start-from resumed.safetensors")
    assert load_model("more.safetensors")[1]["started_from"]["steps"] == 6


def test_every_command_works_with_only_what_it_requires(run):
    run("specimen -o s")
    run("acquire s/density.mrc -o a")
    assert "without structure" in run("noise extract a/tilt_series.mrc -o p.h5", code=2)  # all is specimen
    Path("areas.txt").write_text("* 0 128 0 128")
    run("noise extract a/tilt_series.mrc --areas areas.txt -o p.h5")
    assert "too few for a learned model" in run("noise fit p.h5 -o w.safetensors")
    run("noise fit p.h5 --model gaussian -o g.safetensors")
    run("noise sample g.safetensors --tilt-angles a/tilt_series.tlt --size 128 128 -o n.mrc")
    run("noise check p.h5 n.mrc --json n.json")
    run("reconstruct a/tilt_series.mrc --tilt-angles a/tilt_series.tlt --thickness 96 -o wbp.mrc")
    run("simulate -o pairs")
    assert read_volume("pairs/pair_000000_input.mrc").data.shape == read_volume("wbp.mrc").data.shape
    assert "crop of 64 voxels, 112 when rotated" in run("train pairs -o m.safetensors", code=2)
    assert "--truth TRUTH" in run("evaluate wbp.mrc --json e.json", code=2)
    write_volume("small.mrc", read_volume("wbp.mrc").data[24:72, :64, :64], voxel_size=VOXEL)
    run("areas suggest small.mrc -o suggested.toml")
    run("report small.mrc -o page.html")
    assert "voxel size" in run("info small.mrc")
    assert Path(run("sample").strip()).is_file()
    if not bundled_models():
        pytest.skip("no model in this checkout")
    run("restore small.mrc -o r.mrc")
    assert_is_clean_mrc("r.mrc", (48, 64, 64))
