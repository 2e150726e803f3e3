"""`cryomend report` with checks, scores and half-sets: what it runs, shows and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.evaluation import evaluate_halves
from cryomend.fourier import gaussian_lowpass
from cryomend.io import open_volume, write_tilt_angles, write_volume
from cryomend.projection import project_density
from cryomend.reconstruction import reconstruct_wbp
from cryomend.restoration import report as report_module
from cryomend.restoration.check_files import evaluate_and_check
from cryomend.restoration.check_inputs import CheckData, CheckSettings
from cryomend.restoration.report import write_report

SHAPE, VOXEL = (16, 32, 32), 10.0
ANGLES = np.arange(-60.0, 61.0, 6.0)


def noise(shape, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A truth as the restoration, its tilts, the raw tomogram and the halves."""
    place = tmp_path_factory.mktemp("report")
    spots = torch.where(noise(SHAPE, 0) > 3.0, -1.0, 0.0)
    spots[:3] = spots[-3:] = 0
    truth = gaussian_lowpass(spots, 1.5)
    clean = project_density(truth, ANGLES)
    even, odd = (clean + clean.std() * noise(clean.shape, n) for n in (1, 2))
    for name, series in {"raw": even + odd, "even": even, "odd": odd}.items():
        tomogram = reconstruct_wbp(series, ANGLES, thickness=SHAPE[0])
        write_volume(place / f"{name}.mrc", tomogram.numpy(), voxel_size=VOXEL)
    write_volume(place / "ts.mrc", (even + odd).numpy(), voxel_size=VOXEL, stack=True)
    write_volume(place / "restored.mrc", truth.numpy(), voxel_size=VOXEL, label="cryomend 9.9 fast restored")
    write_volume(place / "again.mrc", 2 * truth.numpy(), voxel_size=VOXEL)
    write_volume(place / "bright.mrc", -truth.numpy(), voxel_size=VOXEL)
    write_volume(place / "sigma.mrc", 3 * np.random.default_rng(0).random(SHAPE), voxel_size=VOXEL)
    write_volume(place / "other.mrc", noise((16, 32, 34), 3).numpy(), voxel_size=VOXEL)
    write_volume(place / "coarse.mrc", truth.numpy(), voxel_size=12.0)
    broken = (place / "raw.mrc").read_bytes()
    (place / "nan.mrc").write_bytes(broken[:-4] + np.float32(np.nan).tobytes())
    write_tilt_angles(place / "ts.tlt", ANGLES)
    rows = "".join(f"{n} 0 1 0 0 1 1 1 0 {angle}\n" for n, angle in enumerate(ANGLES + 2))
    (place / "ts.aln").write_text("# SEC ROT\n" + rows)
    (place / "broken.json").write_text("{")
    return place


Report = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def report(run_cli, tmp_path, folder, monkeypatch) -> Report:
    """Run the command in the folder: exit code, what it said, and the page without its slices."""
    monkeypatch.chdir(folder)

    def run(command: str):
        page = tmp_path / "page.html"
        page.unlink(missing_ok=True)
        result = run_cli("report", *command.split(), "-o", page)
        text = page.read_text("utf-8") if page.exists() else ""
        assert not list(tmp_path.glob("*.partial"))
        return result.code, result.err, re.sub(r'<script.*?</script>|"data:[^"]*"', "", text, flags=re.S)

    return run


def test_the_restored_volume_alone_is_enough(report):
    code, said, text = report("restored.mrc")
    assert code == 0, said
    assert "the restored volume." in text
    assert '<th scope="row">Restored with cryomend 9.9</th><td>fast restored</td>' in text
    assert "restored.mrc: 32 × 32 × 16 voxels (x, y, z) of 10 Å" in text
    assert "Checks on the data" not in text and 'id="wipe"' not in text


def test_a_raw_volume_alone_asks_for_no_check(report, monkeypatch):
    monkeypatch.setattr(report_module, "evaluate_and_check", None)  # would fail if it were called
    code, said, text = report("restored.mrc --raw raw.mrc --tilt-angles ts.tlt")
    assert code == 0, said
    assert "Checks on the data" not in text and 'id="wipe"' in text
    assert "−60° to +60°" in text  # the list of angles draws the wedge


def test_tilts_halves_and_truth_are_checked_scored_and_shown(report):
    code, said, text = report(
        "restored.mrc --raw raw.mrc --tilts ts.mrc --tilt-angles ts.tlt --truth bright.mrc --even even.mrc "
        "--odd odd.mrc --even-restored restored.mrc --odd-restored again.mrc --check reprojection,halves "
        "--tilt-range -60 60 --confidence sigma.mrc"
    )
    assert code == 0, said
    for name in ("reprojection", "support", "halves"):
        assert f'<th scope="row">{name}</th>' in text
    assert text.count('<svg class="curves"') == 3  # before, after, half-sets
    assert "restored, raw" in text and "raw, raw" in text
    doubtful = (3 * np.random.default_rng(0).random(SHAPE) > 1).mean()
    assert f"stripes where doubtful: {doubtful:.1%} of all voxels" in text
    for row in ("Tilt series</th><td>ts.mrc", "Truth</th><td>bright.mrc", "Even half</th><td>even.mrc"):
        assert row in text
    assert "<td>cryomend report restored.mrc --raw raw.mrc --tilts" in text


def test_checks_that_were_written_down_are_shown_without_being_made_again(
    report, run_cli, tmp_path, folder, monkeypatch
):
    scores = tmp_path / "scores.json"
    tilts = f"--tilts {folder / 'ts.mrc'} --tilt-angles {folder / 'ts.tlt'} --check reprojection".split()
    truth = ["--truth", folder / "bright.mrc", "--tilt-range", -60, 60]
    assert run_cli("evaluate", folder / "restored.mrc", "--json", scores, *tilts, *truth).code == 0
    monkeypatch.setattr(report_module, "evaluate_and_check", None)
    code, said, text = report(f"restored.mrc --checks {scores}")
    assert code == 0, said
    assert '<th scope="row">reprojection</th>' in text
    assert text.count('<svg class="curves"') == 1
    assert "−60° to +60°" in text  # the range that was scored with
    code, said, _ = report(f"again.mrc --checks {scores}")
    assert code == 2 and "is of restored.mrc, not of again.mrc" in said


def test_the_wedge_is_that_of_the_alignment_that_the_checks_took_the_angles_from(report, run_cli, tmp_path):
    tilts = "--tilts ts.mrc --alignment ts.aln --check reprojection"
    code, said, text = report(f"restored.mrc {tilts}")
    assert code == 0, said
    assert "−58° to +62°" in text
    scores = tmp_path / "scores.json"
    assert run_cli("evaluate", "restored.mrc", "--json", scores, *tilts.split()).code == 0
    assert json.loads(scores.read_text())["tilt_range_degrees"] == [-58, 62]
    _, _, text = report(f"restored.mrc --checks {scores} --truth bright.mrc")
    assert "−58° to +62°" in text  # also where a truth is scored without it
    _, _, text = report(f"restored.mrc --checks {scores} --tilt-angles ts.tlt")
    assert "−60° to +60°" in text


ROW = '<th scope="row">Model of the checks</th>'
HALVES = "--even even.mrc --odd odd.mrc --tilt-range -60 60"


def test_the_model_of_the_checks_is_named_where_one_ran(report, run_cli, tmp_path, tiny_model):
    code, said, text = report(f"restored.mrc {HALVES} --model {tiny_model} --device cpu")
    assert code == 0, said
    assert f"{ROW}<td>tiny</td>" in text
    scores = tmp_path / "scores.json"
    command = f"restored.mrc {HALVES} --model {tiny_model} --device cpu --json {scores}"
    assert run_cli("evaluate", *command.split()).code == 0
    assert json.loads(scores.read_text())["model"] == "tiny"
    assert f"{ROW}<td>tiny</td>" in report(f"restored.mrc --checks {scores}")[2]


def test_no_model_of_the_checks_is_named_where_none_ran(report):
    restored = "--even-restored restored.mrc --odd-restored again.mrc"
    code, said, text = report(f"restored.mrc {HALVES} {restored}")
    assert code == 0, said
    assert '<th scope="row">halves</th>' in text and ROW not in text


def test_evaluate_writes_the_page_of_report(report, run_cli, tmp_path):
    """But for the command, and with the checks that `evaluate` makes of the raw tomogram left out."""
    command = (
        f"restored.mrc --raw raw.mrc --truth bright.mrc {HALVES} --even-restored restored.mrc --odd-restored "
        "again.mrc --check halves --confidence sigma.mrc"
    )
    code, said, text = report(command)
    assert code == 0, said
    page, scores = tmp_path / "evaluated.html", tmp_path / "scores.json"
    result = run_cli("evaluate", *command.split(), "--json", scores, "--report", page)
    assert result.code == 0, result.err
    evaluated = re.sub(r'<script.*?</script>|"data:[^"]*"', "", page.read_text("utf-8"), flags=re.S)
    row = re.compile(r'<tr><th scope="row">Command</th>.*?</tr>')
    assert row.sub("", evaluated) == row.sub("", text)
    assert evaluated.count('<svg class="curves"') == 3  # before, after, half-sets


def test_before_and_after_are_scored_in_the_same_wedge(report):
    """Where the tilts alone tell it, too."""
    code, said, text = report(
        "restored.mrc --raw raw.mrc --truth bright.mrc --tilts ts.mrc --tilt-angles ts.tlt "
        "--check reprojection"
    )
    assert code == 0, said
    curves = re.findall(r'<svg class="curves".*?</svg>', text, flags=re.S)
    assert len(curves) == 2
    assert all("missing wedge" in curve for curve in curves)


def test_what_was_found_before_the_checks_is_on_the_page_of_evaluate(folder, tmp_path):
    halves = (torch.tensor(open_volume(folder / f"{name}.mrc").data) for name in ("even", "odd"))
    half = evaluate_halves(*halves, voxel_size=VOXEL)
    data = CheckData(raw=folder / "raw.mrc", tilts=folder / "ts.mrc", tilt_angles=folder / "ts.tlt")
    page = tmp_path / "page.html"
    evaluate_and_check(
        folder / "restored.mrc", data, CheckSettings(wanted="reprojection"), report=page,
        further={"halves": half}, command="cryomend evaluate it",
    )  # fmt: skip
    text = page.read_text("utf-8")
    assert "Against the other half" in text and "<td>cryomend evaluate it</td>" in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("gone.mrc", "gone.mrc does not exist"),
        ("restored.mrc --raw other.mrc", "(16, 32, 32) (Z, Y, X) but other.mrc has (16, 32, 34)"),
        ("restored.mrc --raw coarse.mrc", "voxel size 10 Å but coarse.mrc has 12 Å"),
        ("restored.mrc --confidence other.mrc", "other.mrc has (16, 32, 34)"),
        ("restored.mrc --truth coarse.mrc", "coarse.mrc has 12 Å"),
        ("restored.mrc --truth restored.mrc", "--truth restored.mrc is the restored tomogram itself"),
        ("restored.mrc --raw ./restored.mrc", "--raw restored.mrc is the restored tomogram itself"),
        ("restored.mrc --raw nan.mrc", "nan.mrc has 1 voxels that are NaN or infinite"),
        ("restored.mrc --even even.mrc", "halves come in pairs: give --odd too"),
        ("restored.mrc --even even.mrc --odd even.mrc", "are both even.mrc"),
        (
            "restored.mrc --even-restored even.mrc --odd-restored odd.mrc",
            "are compared with --even and --odd",
        ),
        ("restored.mrc --tilts raw.mrc", "no tilt angles for raw.mrc; pass --tilt-angles"),
        ("restored.mrc --tilt-angles gone.tlt", "gone.tlt does not exist"),
        ("restored.mrc --checks broken.json", "broken.json is not valid JSON"),
        ("restored.mrc --checks ts.mrc", "ts.mrc is not a text file"),
        ("restored.mrc --checks broken.json --check noise", "has the checks already; leave out --check"),
        ("restored.mrc --checks broken.json --tilts gone.st", "has the checks already; leave out --tilts"),
        (
            "restored.mrc --checks broken.json --alignment gone.xf --reconstruction gone.yaml --model best",
            "has the checks already; leave out --alignment, --reconstruction, --model",
        ),
        ("restored.mrc --alignment gone.xf", "--alignment gone.xf belongs to a tilt series; give --tilts"),
        ("restored.mrc --reconstruction gone.yaml", "--reconstruction gone.yaml belongs to a tilt series"),
        ("restored.mrc --check noise", "--check noise needs --raw"),
        ("restored.mrc --areas gone.toml", "gone.toml"),
        ("restored.mrc --tilt-range 60 -60", "--tilt-range needs"),
    ],
)
def test_what_cannot_be_shown_ends_in_one_line_and_code_two(report, command, words):
    code, said, text = report(command)
    assert code == 2
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not text


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_computed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "evaluate_and_check", None)
    data = CheckData(tilts=folder / "ts.mrc", tilt_angles=folder / "ts.tlt")
    with pytest.raises(ValueError, match="absent is not a directory"):
        write_report(folder / "restored.mrc", tmp_path / "absent" / "p.html", data, CheckSettings())


def test_a_page_never_replaces_what_it_shows(folder):
    data = CheckData(raw=folder / "raw.mrc")
    with pytest.raises(ValueError, match="would overwrite what is read"):
        write_report(folder / "restored.mrc", folder / "raw.mrc", data, CheckSettings())
