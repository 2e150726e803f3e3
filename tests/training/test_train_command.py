"""`cryomend train` as a user runs it: killed and resumed, in two processes, and with bad input."""

from __future__ import annotations

import csv
import errno
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.io import write_volume
from cryomend.network.weights import load_model
from cryomend.training.loop import Trainer

SMALL = "{channels: [4, 4], crop: 16, steps: 8, warm_up: 2, learning_rate: 1.0e-3, validation_share: 0.25"
RECIPE = (
    f"training: {SMALL}, rotation_share: 0.0, recon_share: 0.5, checkpoint_minutes: 0, validate_every: 3, "
    "precision: float32}"
)
PROGRAM = [sys.executable, "-c", "from cryomend.cli import main; main()"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    "--no-python",
]


@pytest.fixture
def folder(blobs, tmp_path, monkeypatch):
    """The working folder, with pairs and recipes."""
    monkeypatch.chdir(tmp_path)
    recipes = {"small": RECIPE, "double": RECIPE.replace("crop: 16", "crop: 16, batch: 4")}
    for name, text in recipes.items():
        Path(f"{name}.yaml").write_text(text)
    return tmp_path


def start(*command: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def train(output: str, *options: str, config: str = "small") -> list[str]:
    return ["train", "pairs", "-o", output, "--config", f"{config}.yaml", "--device", "cpu", *options]


def losses(output: str) -> list[float]:
    with Path(f"{output}.run/steps.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [int(row["step"]) for row in table] == list(range(1, len(table) + 1))
    return [float(row["loss"]) for row in table]


def weights(output: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load_model(output)[0].parameters()])


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_ends_at_equal_bits(folder, run_cli, one_thread):
    (folder / "small.yaml").write_text(RECIPE.replace("steps: 8", "steps: 60"))
    assert run_cli(*train("straight")).code == 0
    process = start(*PROGRAM, *train("killed"))
    deadline = time.monotonic() + 120
    while not Path("killed.checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not Path("killed").exists()
    assert len(losses("killed")) < 60
    assert run_cli(*train("killed", "--resume")).code == 0
    assert torch.equal(weights("killed"), weights("straight"))
    assert losses("killed") == losses("straight")
    assert not list(folder.glob("*.checkpoint")) and not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(folder, run_cli):
    process = start(*TORCHRUN, *PROGRAM, *train("two"))
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert said.count("wrote two") == 1
    assert run_cli(*train("one", config="double")).code == 0
    # Equal crops; what differs is the order of sums in float32.
    assert losses("two") == pytest.approx(losses("one"), rel=1e-4)
    torch.testing.assert_close(weights("two"), weights("one"), rtol=0, atol=1e-4)
    assert load_model("two")[1]["processes"] == 2
    assert len(list(Path("two.run").glob("events.*"))) <= 1  # only the first process writes
    both = [load_model(name)[1]["validation_correlation"] for name in ("two", "one")]
    assert both[0] == pytest.approx(both[1], abs=1e-4)


def test_a_run_leaves_tables_and_pictures_beside_its_model(folder, run_cli):
    result = run_cli(*train("m"))
    assert result.code == 0 and "wrote m: validation correlation" in result.err
    assert len(losses("m")) == 8
    assert [p.name for p in sorted(Path("m.run").glob("*.png"))] == [f"step_{i:06d}.png" for i in (3, 6, 8)]


def test_the_bar_and_the_time_left_fit_beside_what_it_says(folder, run_cli):
    said = run_cli(*train("m")).err
    bar = next(line for line in said.splitlines() if line.startswith("step 8, loss "))
    assert ", best score 0." in bar and bar.count("━") >= 20 and bar.rstrip().endswith("0:00:00")


def test_the_score_is_written_with_three_digits(folder, run_cli):
    said = run_cli(*train("m")).err.splitlines()[-1]
    assert re.fullmatch(r"wrote m: validation correlation 0\.\d{3}", said)


def refuse(run_cli, folder: Path, *command: str, says: tuple[str, ...]) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    result = run_cli(*command)
    assert result.code == 2
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("cryomend: ")
    for words in says:
        assert words in last
    after = {
        p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and ".run" not in p.parent.name
    }
    assert after == before


BAD_RECIPES = {
    "crop: 18": ("training.crop: 18", "multiples of 4", "set crop to 16"),
    "crop: 40": ("blob_0_input.mrc", "crop of 40 voxels", "set training.crop to 32"),
    "crop: 20, rotation_share: 1.0": ("crop of 20 voxels, 36 when rotated", "set training.crop to 16"),
    "precision: float16": ("training.precision", "needs a CUDA device"),
    "lambda_recon: -1": ("training.lambda_recon",),
    "validate_every: 0": ("training.validate_every",),
}


@pytest.mark.parametrize("recipe", BAD_RECIPES)
def test_a_recipe_that_cannot_run_is_refused_with_what_to_use(folder, run_cli, recipe):
    options = {"channels": "[4, 4]", "rotation_share": "0.0", "crop": "16"}
    options |= dict(part.split(": ") for part in recipe.split(", "))
    Path("bad.yaml").write_text("training: {" + ", ".join(f"{k}: {v}" for k, v in options.items()) + "}")
    refuse(run_cli, folder, *train("m", config="bad"), says=BAD_RECIPES[recipe])


@pytest.mark.parametrize("minutes", ["0", "inf"])
def test_no_time_is_refused(folder, run_cli, minutes):
    says = ("--max-minutes must be a positive number",)
    refuse(run_cli, folder, *train("m", "--max-minutes", minutes), says=says)


def test_pairs_without_a_partner_are_listed(folder, run_cli):
    for i in (1, 3):
        Path(f"pairs/blob_{i}_target.mrc").unlink()
    Path("pairs/blob_2_input.mrc").unlink()
    refuse(run_cli, folder, *train("m"), says=("pairs: no partner for blob_1, blob_2, blob_3;",))


def test_an_empty_folder_is_refused(folder, run_cli):
    Path("none").mkdir()
    refuse(run_cli, folder, "train", "none", "-o", "m", says=("none: holds no pairs", "cryomend simulate"))


def test_pairs_of_two_shapes_are_named(folder, run_cli):
    write_volume("pairs/blob_1_target.mrc", np.eye(32, dtype=np.float32)[None].repeat(24, 0), voxel_size=10.0)
    refuse(run_cli, folder, *train("m"), says=("blob_1_input.mrc", "(24, 32, 32) of blob_1_target.mrc"))


@pytest.mark.parametrize("record", ["{", "{}", '{"tilt_range": [60, -60]}', '{"tilt_range": 60}'])
def test_a_record_without_a_tilt_range_is_refused(folder, run_cli, record):
    Path("pairs/blob_2.json").write_text(record)
    refuse(run_cli, folder, *train("m"), says=("blob_2.json", "tilt_range"))


def test_pairs_of_another_making_need_no_record(folder, run_cli, caplog):
    Path("pairs/blob_2.json").unlink()
    assert run_cli(*train("m")).code == 0
    assert "blob_2.json: not there" in caplog.text


def test_a_checkpoint_of_another_network_is_refused_and_both_are_said(folder, run_cli):
    from cryomend.config import TrainingConfig

    Trainer(TrainingConfig(channels=(2, 3), residual=True), []).save(Path("m.checkpoint"))
    says = ("m.checkpoint", "[2, 3]", "'residual': True", "[4, 4]", "'residual': False", "leave out --resume")
    refuse(run_cli, folder, *train("m", "--resume"), says=says)


def test_an_unfinished_run_is_not_overwritten(folder, run_cli):
    Path("m.checkpoint").write_bytes(b"hours of work")
    refuse(run_cli, folder, *train("m"), says=("m.checkpoint: of a run that is not finished; pass --resume",))


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_from_it(folder, run_cli, monkeypatch):
    assert run_cli(*train("straight")).code == 0
    real = Path.write_bytes

    def fill_up(path, data):
        if path.name.startswith("full.checkpoint"):
            fill_up.count += 1
            if fill_up.count > 3:
                real(path, data[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    fill_up.count = 0
    monkeypatch.setattr(Path, "write_bytes", fill_up)
    result = run_cli(*train("full"))
    assert result.code == 2
    assert (
        "cannot write full.checkpoint: no space left on device; make room and go on with --resume"
        in result.err
    )
    assert Path("full.checkpoint").exists() and not list(folder.rglob("*.partial"))
    monkeypatch.setattr(Path, "write_bytes", real)
    assert run_cli(*train("full", "--resume")).code == 0
    assert torch.equal(weights("full"), weights("straight"))


def test_a_loss_that_is_not_finite_ends_in_one_line_and_leaves_the_checkpoint(folder, run_cli, monkeypatch):
    step = Trainer.take_step

    def break_down(trainer):
        if trainer.step == 3:
            next(trainer.network.parameters()).data.fill_(math.nan)
        return step(trainer)

    monkeypatch.setattr(Trainer, "take_step", break_down)
    result = run_cli(*train("m"))
    last = result.err.strip().splitlines()[-1]
    assert result.code == 2
    assert last.startswith("cryomend: m: the loss is nan at step 3 (seed 0, crops 6 to 7); ")
    assert "the last good checkpoint is m.checkpoint of step 3; lower training.learning_rate" in last
    monkeypatch.setattr(Trainer, "take_step", step)
    assert run_cli(*train("m", "--resume")).code == 0
    assert torch.isfinite(weights("m")).all()


def test_a_residual_model_restores_as_it_was_trained(folder, run_cli):
    Path("residual.yaml").write_text(RECIPE.replace("crop: 16", "crop: 16, residual: true"))
    assert run_cli(*train("m.safetensors", config="residual")).code == 0
    network, metadata = load_model("m.safetensors")
    assert metadata["network"]["residual"] and network.residual
    command = ("restore", "pairs/blob_0_input.mrc", "-o", "r.mrc", "--model", "m.safetensors")
    assert run_cli(*command, "--device", "cpu").code == 0


@pytest.fixture
def interrupts_arrive():
    """What a shell starts in the background ignores them, tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


INTERRUPTED = {  # method of the trainer, step at which Ctrl-C is pressed in it, step of the checkpoint
    "a step": ("_find_gradient", 4, 5),
    "a draw": ("_draw", 4, 4),
    "a validation": ("validate", 3, 3),
    "the end": ("validate", 8, 8),
}


@pytest.mark.parametrize("at", INTERRUPTED)
def test_ctrl_c_leaves_a_checkpoint_of_the_last_step_from_which_the_run_ends_at_equal_bits(
    folder, run_cli, one_thread, interrupts_arrive, monkeypatch, at
):
    (folder / "small.yaml").write_text(RECIPE.replace("checkpoint_minutes: 0", "checkpoint_minutes: 60"))
    assert run_cli(*train("straight")).code == 0
    method, pressed_at, saved_at = INTERRUPTED[at]
    real = getattr(Trainer, method)

    def press(trainer, *arguments):
        if drawing := arguments == (8,):  # in a thread, for step 4; the main one comes to wait, and hears
            time.sleep(0.3)
        if drawing or (at != "a draw" and trainer.step == pressed_at):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3 * drawing)
        return real(trainer, *arguments)

    monkeypatch.setattr(Trainer, method, press)
    result = run_cli(*train("m"))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert result.code == 130
    assert result.err.splitlines()[-1] == f"cryomend: stopped at step {saved_at}; go on with --resume"
    assert Path("m.checkpoint").exists() and not Path("m").exists() and not list(folder.rglob("*.partial"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run_cli(*train("m", "--resume")).code == 0
    assert torch.equal(weights("m"), weights("straight")) and losses("m") == losses("straight")


def test_a_second_ctrl_c_ends_a_step_that_hangs(folder, run_cli, interrupts_arrive, monkeypatch):
    def hang(trainer, *_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(Trainer, "_find_gradient", hang)
    began = time.monotonic()
    result = run_cli(*train("m"))
    assert result.code == 130 and result.err.splitlines()[-1] == "cryomend: stopped"
    assert time.monotonic() - began < 30 and not Path("m.checkpoint").exists()


def test_ctrl_c_before_the_first_step_leaves_nothing_to_resume(
    folder, run_cli, interrupts_arrive, monkeypatch
):
    monkeypatch.setattr(Trainer, "_draw", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    result = run_cli(*train("m"))
    assert result.code == 130 and result.err.splitlines()[-1] == "cryomend: stopped before the first step"
    assert not Path("m.checkpoint").exists()
