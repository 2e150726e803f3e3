"""What was evaluated, read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cryomend.evaluation import evaluate_files
from cryomend.evaluation.scores import checks_of, read_scores
from cryomend.evaluation.verdict import Check
from cryomend.io import InputError, Volume, open_volume, write_json, write_volume

CHECK = Check("noise", "good", 0.25, "energy left", {"of": "a copy"})


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    data = np.random.default_rng(0).standard_normal((16, 18, 20)).astype(np.float32)
    write_volume(tmp_path / "restored.mrc", data, voxel_size=10.0)
    write_volume(tmp_path / "truth.mrc", data + 1, voxel_size=10.0)
    return open_volume(tmp_path / "restored.mrc")


@pytest.fixture
def found(volume: Volume, tmp_path: Path) -> dict:
    return evaluate_files(volume.path or "", truth_path=tmp_path / "truth.mrc") | {"checks": [CHECK.record()]}


def test_what_evaluate_wrote_is_read_back_null_being_no_number(volume, found, tmp_path):
    found["truth"]["psnr_db"] = math.nan
    write_json(tmp_path / "scores.json", found)
    read = read_scores(tmp_path / "scores.json", volume)
    assert checks_of(read) == [CHECK]
    assert read["truth"]["correlation"] == pytest.approx(1)
    assert math.isnan(read["truth"]["psnr_db"])


def test_a_check_without_a_number_is_kept(volume, found, tmp_path):
    write_json(tmp_path / "scores.json", found | {"checks": [CHECK.record() | {"number": math.nan}]})
    (check,) = checks_of(read_scores(tmp_path / "scores.json", volume))
    assert math.isnan(check.number)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape_zyx": [16, 18, 21]}, r"is of .*16 x 18 x 21 voxels of 10 Å, but .*16 x 18 x 20"),
        ({"voxel_size_angstrom": 8.0}, r"16 x 18 x 20 voxels of 8 Å, but .*16 x 18 x 20 voxels of 10 Å"),
        ({"volume": "elsewhere/other.mrc"}, r"scores.json is of other.mrc, not of restored.mrc"),
        ({"shape_zyx": "wide"}, "not what `cryomend evaluate --json` writes"),
        ({"checks": [{"name": "noise"}]}, "not what `cryomend evaluate --json` writes"),
        ({"checks": [CHECK.record() | {"verdict": "fine"}]}, "not what `cryomend evaluate --json` writes"),
        ({"checks": [CHECK.record() | {"number": "0.2"}]}, "not what `cryomend evaluate --json` writes"),
        ({"checks": [CHECK.record() | {"meaning": 3}]}, "not what `cryomend evaluate --json` writes"),
        ({"halves": {"overall": 3}}, "not what `cryomend evaluate --json` writes"),
        ({"truth": {"psnr_db": 3}}, "not what `cryomend evaluate --json` writes"),
        ({"notes": 3}, "scores.json is not what `cryomend evaluate --json` writes"),
        ({"notes": ["seen", 3]}, "scores.json is not what `cryomend evaluate --json` writes"),
        ({"model": ["fast"]}, "scores.json is not what `cryomend evaluate --json` writes"),
        ({"tilt_range_degrees": ["a", "b"]}, "scores.json is not what `cryomend evaluate --json` writes"),
        ({"tilt_range_degrees": [-60]}, "scores.json is not what `cryomend evaluate --json` writes"),
        ({"tilt_range_degrees": 60.5}, "scores.json is not what `cryomend evaluate --json` writes"),
        ({"shape_zyx": [16, 18, math.inf]}, "scores.json is not what `cryomend evaluate --json` writes"),
    ],
)
def test_scores_of_another_volume_or_another_file_are_refused(volume, found, tmp_path, change, says):
    (tmp_path / "scores.json").write_text(json.dumps(found | change))
    with pytest.raises(InputError, match=says):
        read_scores(tmp_path / "scores.json", volume)


@pytest.mark.parametrize("key", ["truth", "halves"])
@pytest.mark.parametrize("damage", ["no shells", "a value is missing", "no end to a value"])
def test_curves_that_cannot_be_drawn_are_refused(volume, found, tmp_path, key, damage):
    curves = found["truth"]
    if damage == "no shells":
        curves["fsc_resolution_angstrom"] = []
    elif damage == "a value is missing":
        curves["overall"]["fsc"].pop()
    else:
        curves["overall"]["fsc"][2] = -math.inf
    (tmp_path / "scores.json").write_text(json.dumps({**found, key: curves}))
    with pytest.raises(InputError, match="json is not what `cryomend evaluate --json` writes"):
        read_scores(tmp_path / "scores.json", volume)


@pytest.mark.parametrize("known", [None, [-60, 57.5]])
def test_a_tilt_range_is_known_or_not(volume, found, tmp_path, known):
    write_json(tmp_path / "scores.json", found | {"tilt_range_degrees": known, "notes": ["seen"]})
    read = read_scores(tmp_path / "scores.json", volume)
    assert read["tilt_range_degrees"] == (known or pytest.approx(math.nan, nan_ok=True))


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not valid JSON"), ("[1, 2]", "not what"), (json.dumps({"volume": "restored.mrc"}), "not what")],
)
def test_what_holds_no_scores_is_refused(volume, tmp_path, text, says):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(InputError, match=says):
        read_scores(tmp_path / "scores.json", volume)


def test_a_missing_file_is_refused(volume, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_scores(tmp_path / "gone.json", volume)
