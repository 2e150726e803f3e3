"""Fourier shell correlations as a drawing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cryomend.evaluation.curves import BOTTOM, DASHES, LEFT, RIGHT, TOP, Curve, curves_of_scores, draw_curves

SHELLS = 17
PERIOD = np.array([np.inf, *(320 / np.arange(1.0, SHELLS))])


def curve(name: str, values: np.ndarray) -> Curve:
    return Curve(name, PERIOD, np.asarray(values, dtype=np.float64))


def lines(text: str) -> list[np.ndarray]:
    found = re.findall(r'<polyline points="([^"]*)"', text)
    return [np.array([[float(v) for v in point.split(",")] for point in line.split()]) for line in found]


def test_a_straight_fall_is_drawn_as_one_from_corner_to_corner() -> None:
    (points,) = lines(draw_curves([curve("all", np.linspace(1, 0, SHELLS))], "of a test"))
    np.testing.assert_allclose(points[0], [LEFT, TOP], atol=0.1)
    np.testing.assert_allclose(points[-1], [RIGHT, BOTTOM], atol=0.1)
    slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
    np.testing.assert_allclose(slopes, slopes.mean(), atol=0.02)  # as linear in frequency as the curve


def test_empty_shells_are_passed_over_and_negative_values_have_room() -> None:
    values = np.linspace(1, -0.25, SHELLS)
    values[0] = np.nan
    (points,) = lines(draw_curves([curve("all", values)], "of a test"))
    assert len(points) == SHELLS - 1
    assert points[:, 1].max() <= BOTTOM


def test_curves_differ_in_dashes_and_markers_and_are_named_beside_their_ends() -> None:
    values = np.linspace(1, 0, SHELLS)
    text = draw_curves([curve(name, values) for name in ("one", "two", "three")], "of a test")
    dashes = re.findall(r'<polyline[^>]*stroke-dasharray="([^"]*)"', text)
    assert dashes == list(DASHES[:3])
    labels = re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="start">(\w+)</text>', text)
    assert {name for _, name in labels} == {"one", "two", "three"}
    places = sorted(float(y) for y, _ in labels)
    assert min(np.diff(places)) >= 15  # of letters 13 high
    assert places[-1] <= BOTTOM + 6
    marks = (text.count("<circle"), text.count("h7v7"), text.count("l4.2 7.6"))
    assert min(marks) >= 5


def test_ticks_stand_where_their_resolution_is() -> None:
    text = draw_curves([curve("all", np.ones(SHELLS))], "of a test")
    ticks = dict(re.findall(r'<text x="[\d.]+" y="281.0" text-anchor="middle">([\d.]+)</text>()', text))
    assert {"100", "20"} <= set(ticks)
    at = {label: float(x) for x, label in re.findall(r'<text x="([\d.]+)" y="281.0"[^>]*>([\d.]+)<', text)}
    for label, x in at.items():
        assert x == pytest.approx(LEFT + (RIGHT - LEFT) * 20 / float(label), abs=0.1)
    assert min(np.diff(sorted(at.values()))) >= 30


def test_who_cannot_see_the_drawing_is_told_the_crossings() -> None:
    falling, low = curve("a<b", np.linspace(1, 0, SHELLS)), curve("low", np.full(SHELLS, 0.1))
    assert falling.crossing(0.5) == pytest.approx(40.0)
    text = draw_curves([falling, low], "of a test")
    said = re.search(r'aria-label="([^"]*)"', text)
    assert said
    assert "a&lt;b: 0.5 at 40.0 Å, 0.143 at 23.3 Å" in said[1]
    assert "low: below 0.5 everywhere" in said[1]


def test_curves_come_from_scores_with_null_for_infinite_or_no_number() -> None:
    part = {"fsc": [None, 0.9, 0.2]}
    scores = {"fsc_resolution_angstrom": [None, 40.0, 20.0], "overall": part, "inside_wedge": part}
    found = curves_of_scores(scores)
    assert [c.name for c in found] == ["overall", "missing wedge"]
    np.testing.assert_allclose(found[0].resolution, [np.inf, 40, 20])
    np.testing.assert_allclose(found[0].values, [np.nan, 0.9, 0.2])
