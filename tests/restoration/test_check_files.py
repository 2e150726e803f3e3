"""The checks of `cryomend evaluate`: what is read, written, said and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.fourier import gaussian_lowpass, resample_fourier
from cryomend.io import write_tilt_angles, write_volume
from cryomend.projection import project_density
from cryomend.reconstruction import reconstruct_wbp
from cryomend.restoration.check_files import CheckData, CheckSettings, check_files

SHAPE, VOXEL = (32, 48, 48), 10.0
ANGLES = np.arange(-60.0, 61.0, 5.0)


def noise(shape, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A truth as the restoration, its tilts, the raw tomogram and the halves."""
    place = tmp_path_factory.mktemp("checks")
    spots = torch.where(noise(SHAPE, 0) > 3.2, -1.0, 0.0)
    spots[:6] = spots[-6:] = 0
    truth = gaussian_lowpass(spots, 1.5)
    clean = project_density(truth, ANGLES)
    even, odd = (clean + clean.std() * noise(clean.shape, n) for n in (1, 2))
    images = {"ts": even + odd, "even": even, "odd": odd}
    for name, series in images.items():
        tomogram = reconstruct_wbp(series, ANGLES, thickness=SHAPE[0])
        write_volume(place / f"{'raw' if name == 'ts' else name}.mrc", tomogram.numpy(), voxel_size=VOXEL)
    write_volume(place / "ts.mrc", images["ts"].numpy(), voxel_size=VOXEL, stack=True)
    write_volume(place / "restored.mrc", truth.numpy(), voxel_size=VOXEL)
    write_volume(place / "again.mrc", 2 * truth.numpy(), voxel_size=VOXEL)
    write_volume(place / "bright.mrc", -truth.numpy(), voxel_size=VOXEL)
    write_volume(place / "other.mrc", noise((32, 48, 50), 3).numpy(), voxel_size=VOXEL)
    write_volume(place / "coarse.mrc", truth.numpy(), voxel_size=12.0)
    write_volume(place / "copy.mrc", reconstruct_wbp(even, ANGLES, thickness=32).numpy(), voxel_size=VOXEL)
    fine = resample_fourier(images["ts"], (96, 96))
    write_volume(place / "fine.mrc", fine.numpy(), voxel_size=VOXEL / 2, stack=True)
    write_tilt_angles(place / "ts.tlt", ANGLES)
    write_tilt_angles(place / "short.tlt", ANGLES[1:])
    write_volume(place / "few.mrc", images["ts"][::5].numpy(), voxel_size=VOXEL, stack=True)
    write_tilt_angles(place / "few.tlt", ANGLES[::5])
    (place / "tilted.yaml").write_text("x_tilt: 3\n")
    (place / "off.yaml").write_text("z_shift: 3\n")
    return place


Evaluate = Callable[..., tuple[int, str, dict]]


@pytest.fixture
def evaluate(run_cli, tmp_path, folder, monkeypatch) -> Evaluate:
    """Run the command in the folder: exit code, what it said, and what it wrote."""
    monkeypatch.chdir(folder)

    def run(command: str):
        out = tmp_path / "scores.json"
        result = run_cli("evaluate", *command.split(), "--json", out)
        said = result.err if result.code else result.out + result.err
        return result.code, said, json.loads(out.read_text()) if out.exists() else {}

    return run


TILTS = "--tilts ts.mrc --tilt-angles ts.tlt"


def verdicts(scores: dict) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in scores["checks"]}


def test_the_truth_passes_the_reprojection(evaluate):
    code, said, scores = evaluate(f"restored.mrc {TILTS} --check reprojection")
    assert code == 0, said
    assert verdicts(scores) == {"reprojection": "good", "support": "good"}
    assert "reprojection" in said and "good" in said
    assert len(scores["checks"][0]["detail"]["per_tilt"]) == len(ANGLES)
    assert scores["shape_zyx"] == list(SHAPE)


def test_the_measure_of_the_reprojection_does_not_depend_on_the_held_out_tilts(evaluate):
    numbers = [
        evaluate(f"restored.mrc {TILTS} --check reprojection {how}")[2]["checks"][0]["number"]
        for how in ("", "--hold-out outermost:3")
    ]
    assert numbers[0] == pytest.approx(numbers[1])


def test_a_finer_stack_is_binned_to_the_tomogram(evaluate):
    _, _, plain = evaluate(f"restored.mrc {TILTS} --check reprojection")
    code, said, fine = evaluate("restored.mrc --tilts fine.mrc --tilt-angles ts.tlt --check reprojection")
    assert code == 0, said
    a, b = (scores["checks"][0]["detail"]["correlation"] for scores in (plain, fine))
    assert a == pytest.approx(b, abs=0.02)


def test_a_bright_volume_is_bad_unless_it_is_said_to_be_bright(evaluate):
    command = f"bright.mrc {TILTS} --check reprojection"
    assert "contrast is inverted" in " ".join(evaluate(command)[2]["checks"][0]["meaning"].split())
    assert verdicts(evaluate(f"{command} --protein bright")[2])["reprojection"] == "good"


def test_the_rotation_centre_of_the_reconstruction_is_taken_over(evaluate):
    _, _, moved = evaluate(f"restored.mrc {TILTS} --reconstruction off.yaml --check reprojection")
    assert verdicts(moved)["reprojection"] == "bad"


def test_all_checks_that_the_files_allow_are_made_and_drawn(evaluate, tiny_model, tmp_path, folder):
    sigma, page = tmp_path / "sigma.mrc", tmp_path / "page.html"
    write_volume(sigma, 3 * np.random.default_rng(0).random(SHAPE), voxel_size=VOXEL)
    code, said, scores = evaluate(
        f"restored.mrc --truth bright.mrc --raw raw.mrc {TILTS} --even even.mrc --odd odd.mrc "
        f"--model {tiny_model} --device cpu --report {page} --confidence {sigma}"
    )
    assert code == 0, said
    names = ["reprojection", "support", "held-out", "halves", "noise", "noise of halves"]
    assert list(verdicts(scores)) == names
    assert scores["truth"]["correlation"] > 0.99
    assert "inside_wedge" in scores["truth"]  # of the tilts' own range
    assert "not what tiny makes of raw.mrc" in scores["notes"][0]
    text = page.read_text("utf-8")
    assert all(f">{name}<" in text for name in names)
    assert "hatched where the standard deviation exceeds" in text
    assert not list(tmp_path.glob("*.partial"))


def test_restored_halves_need_no_model(evaluate):
    halves = "--even even.mrc --odd odd.mrc --even-restored restored.mrc --odd-restored again.mrc"
    code, said, scores = evaluate(f"restored.mrc {halves} --tilt-range -60 60 --model missing.safetensors")
    assert code == 0, said
    assert verdicts(scores) == {"halves": "good"}


def test_without_data_nothing_is_checked(evaluate):
    code, said, scores = evaluate("restored.mrc --truth bright.mrc")
    assert code == 0
    assert "checks" not in scores and "check" not in said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("restored.mrc", "nothing to evaluate against; give --truth"),
        ("restored.mrc --check noise", "--check noise needs --raw"),
        ("restored.mrc --raw raw.mrc --check held-out", "--check held-out needs --tilts STACK"),
        ("restored.mrc --raw raw.mrc --check beauty", "unknown check 'beauty'; there are reprojection"),
        ("restored.mrc --raw raw.mrc --check ,", "names no check"),
        ("restored.mrc --raw other.mrc", "(32, 48, 48) (Z, Y, X) but other.mrc has (32, 48, 50)"),
        ("restored.mrc --raw coarse.mrc", "voxel size 10 Å but coarse.mrc has 12 Å"),
        ("restored.mrc --raw gone.mrc", "gone.mrc"),
        ("other.mrc " + TILTS, "ts.mrc has 48 x 48 pixels (Y, X) of 10 Å, other.mrc 48 x 50 of 10 Å"),
        ("coarse.mrc " + TILTS, "ts.mrc has 48 x 48 pixels (Y, X) of 10 Å, coarse.mrc 48 x 48 of 12 Å"),
        ("restored.mrc --tilts raw.mrc", "no tilt angles for raw.mrc; pass --tilt-angles"),
        ("restored.mrc --tilts ts.mrc --tilt-angles short.tlt", "short.tlt has 24 angles but ts.mrc has 25"),
        ("restored.mrc --tilts few.mrc --tilt-angles few.tlt", "few.mrc: of 5 tilt angles 4 would be left"),
        (f"restored.mrc {TILTS} --hold-out outermost:11", "of 25 tilt angles 3 would be left"),
        (f"restored.mrc {TILTS} --hold-out most", "--hold-out must be every:K or outermost:N"),
        (f"restored.mrc {TILTS} --reconstruction tilted.yaml", "x_tilt is not known"),
        (
            f"restored.mrc {TILTS} --band 15 10 --check reprojection",
            "check reprojection: no period of 15 to 10 Å",
        ),
        (f"restored.mrc {TILTS} --model gone.safetensors", "gone.safetensors does not exist"),
        ("restored.mrc --even even.mrc", "halves come in pairs: give --odd too"),
        ("restored.mrc --even even.mrc --odd even.mrc", "are both even.mrc"),
        (
            "restored.mrc --even even.mrc --odd copy.mrc",
            "even.mrc and copy.mrc: the halves hold the same voxels",
        ),
        ("restored.mrc --even even.mrc --odd other.mrc", "other.mrc has (32, 48, 50)"),
        (
            "restored.mrc --even even.mrc --odd odd.mrc --even-restored odd.mrc --odd-restored even.mrc",
            "are the halves mixed up? Restore",
        ),
        (
            "restored.mrc --even-restored even.mrc --odd-restored odd.mrc --raw raw.mrc",
            "are compared with --even and --odd",
        ),
        (f"restored.mrc {TILTS} --report page.html", "--report shows the tomogram before and after"),
        ("restored.mrc --raw raw.mrc --confidence raw.mrc", "--confidence is drawn in the report"),
        ("restored.mrc --raw raw.mrc --tilt-range 60 -60", "--tilt-range needs"),
    ],
)
def test_what_cannot_be_checked_ends_in_one_line_and_code_two(evaluate, folder, command, words):
    code, said, scores = evaluate(command)
    assert code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not scores and not (folder / "page.html").exists()


def test_checks_can_be_made_from_python(folder):
    data = CheckData(tilts=folder / "ts.mrc", tilt_angles=folder / "ts.tlt")
    checks = check_files(folder / "restored.mrc", data, CheckSettings(wanted="reprojection"))
    assert [check.name for check in checks] == ["reprojection", "support"]


def test_the_model_is_asked_at_its_own_voxel_size_as_restore_does(
    run_cli, evaluate, folder, tiny_model, tmp_path
):
    """The tiny model knows 8 to 12 Å."""
    coarse = tmp_path / "coarse.mrc"
    restored = tmp_path / "coarse_restored.mrc"
    write_volume(coarse, 3 * noise((32, 36, 40), 4).numpy(), voxel_size=18.0)
    model = ("--model", tiny_model, "--device", "cpu")
    result = run_cli("restore", coarse, "-o", restored, *model)
    assert result.code == 0 and "resampled" in result.err
    command = f"{restored} --raw {coarse} --check noise --model {tiny_model} --device cpu"
    code, said, scores = evaluate(command)
    assert code == 0, said
    assert scores["notes"] == []  # so it is what the model makes of it
    near = evaluate(f"{command} --voxel-size 10")[2]
    assert "not what tiny makes of" in near["notes"][0]


@pytest.mark.parametrize("how", ["evaluate", "report"])
def test_voxels_too_far_from_those_of_the_model_are_refused(run_cli, folder, tiny_model, tmp_path, how):
    out = tmp_path / ("page.html" if how == "report" else "scores.json")
    result = run_cli(
        how, folder / "restored.mrc", "-o" if how == "report" else "--json", out, "--raw", folder / "raw.mrc",
        "--check", "noise", "--voxel-size", 30, "--model", tiny_model, "--device", "cpu",
    )  # fmt: skip
    assert result.code == 2 and len(result.err.strip().splitlines()) == 1
    assert "restored.mrc: voxels of 30 Å are too far from the 8 to 12 Å" in result.err
    assert not out.exists()


def test_the_voxel_size_does_not_matter_to_checks_that_need_no_model(evaluate, tiny_model):
    halves = "--even even.mrc --odd odd.mrc --even-restored restored.mrc --odd-restored again.mrc"
    code, said, _ = evaluate(f"restored.mrc {halves} --voxel-size 30 --model {tiny_model}")
    assert code == 0, said


def test_what_pytorch_says_of_a_device_is_one_line(evaluate, tiny_model, monkeypatch):
    def restore(*args, **kwargs):
        raise RuntimeError("no kernel image is available\nlong log")

    monkeypatch.setattr("cryomend.restoration.check_files.restore_tomogram", restore)
    code, said, _ = evaluate(f"restored.mrc --raw raw.mrc --model {tiny_model} --device cpu")
    assert code == 2
    assert said.splitlines()[-1].startswith("cryomend: cpu: no kernel image is available; ")
    assert "long log" not in said


def test_the_report_of_restore_hatches_its_confidence(run_cli, folder, tiny_model, tmp_path):
    page = tmp_path / "page.html"
    result = run_cli(
        "restore", folder / "raw.mrc", "-o", tmp_path / "r.mrc", "--model", tiny_model, "--device", "cpu",
        "--confidence", tmp_path / "sigma.mrc", "--report", page, "--tilt-range", -60, 60,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "Hatched:" in page.read_text("utf-8")
