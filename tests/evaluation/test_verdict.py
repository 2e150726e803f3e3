"""From numbers to words."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from cryomend.evaluation.halves import HalfBand
from cryomend.evaluation.verdict import (
    LIMITS,
    check_rows,
    judge_halves,
    judge_held_out,
    judge_noise,
    judge_reprojection,
    judge_support,
    rate,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "checks.md"


@pytest.mark.parametrize("name", LIMITS)
def test_limits_themselves_are_on_the_kind_side(name):
    good, bad = LIMITS[name]
    step = 0.01 if good > bad else -0.01
    words = [rate(name, number) for number in (good, good - step, bad, bad - step, math.nan)]
    assert words == ["good", "doubtful", "doubtful", "bad", "bad"]


def test_the_docs_have_the_limits_of_the_code():
    if not DOCS.is_file():
        pytest.skip("the docs stand in the repository")
    rows = re.findall(r"^\| `([a-z -]+)` \| [≥≤] (\S+) \| [<>] (\S+) \|", DOCS.read_text("utf-8"), re.M)
    assert {name: (float(a), float(b)) for name, a, b in rows} == LIMITS


def reprojection(**changes):
    values = {"seen": 0.6, "seen_of_held_out": 0.6, "unseen": 0.5, "mirrored": 0.1, **changes}
    return judge_reprojection(**values)


def test_a_volume_that_agrees_better_than_an_unseen_tomogram_is_good():
    check = reprojection()
    assert (check.verdict, check.number) == ("good", pytest.approx(1.2))


def test_inverted_contrast_and_the_other_hand_are_named():
    inverted = reprojection(seen=-0.6, seen_of_held_out=-0.6, mirrored=-0.1)
    assert inverted.verdict == "bad" and "contrast is inverted" in inverted.meaning
    mirrored = reprojection(seen=0.1, seen_of_held_out=0.1, mirrored=0.55)
    assert mirrored.verdict == "bad" and "other sign" in mirrored.meaning


def test_tilts_that_do_not_foretell_one_another_are_bad_whatever_the_ratio():
    check = reprojection(seen=0.02, seen_of_held_out=0.02, unseen=0.01)
    assert check.verdict == "bad" and "only noise" in check.meaning
    check = judge_held_out(0.02, 0.01, tilts=5)
    assert check.verdict == "bad" and "only noise" in check.meaning


def test_held_out_is_the_ratio_of_restored_to_raw():
    assert judge_held_out(0.6, 0.5, tilts=8).verdict == "good"
    assert judge_held_out(0.46, 0.5, tilts=8).verdict == "doubtful"
    check = judge_held_out(0.3, 0.5, tilts=8)
    assert (check.verdict, check.number) == ("bad", pytest.approx(0.6))
    assert "8 unseen tilts" in check.meaning


def test_the_worst_band_decides_on_the_halves():
    good, bad = HalfBand(400, 160, 0.9, 0.9, 500), HalfBand(160, 80, 0.4, 0.8, 4000)
    check = judge_halves([good, bad])
    assert (check.verdict, check.number) == ("bad", pytest.approx(-0.4))
    assert "160 to 80 Å" in check.meaning
    assert judge_halves([good]).verdict == "good"


def test_halves_of_noise_are_bad_although_nothing_was_lowered():
    check = judge_halves([HalfBand(400, 160, 0.2, 0.15, 200), HalfBand(160, 80, 0.0, 0.01, 4000)])
    assert check.verdict == "bad" and "by chance" in check.meaning


def test_support_names_the_place():
    check = judge_support(0.4, (10, 20, 30))
    assert check.verdict == "bad" and "(10, 20, 30)" in check.meaning


def test_noise_is_the_better_the_less_is_left():
    assert [judge_noise(left).verdict for left in (0.1, 0.6, 0.9)] == ["good", "doubtful", "bad"]
    assert judge_noise(0.3, of_halves=True).verdict == "doubtful"


def test_rows_have_a_word_and_a_number_for_each_check():
    rows = check_rows([judge_noise(0.1), judge_support(0.4, (1, 2, 3))])
    assert rows[0][:3] == ("check", "verdict", "number")
    assert [row[:3] for row in rows[1:]] == [("noise", "good", "0.10"), ("support", "bad", "0.40")]
