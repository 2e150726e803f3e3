"""Fourier shell correlations as a drawing: told apart by dashes and markers, labelled where they end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryomend.evaluation.fsc import fsc_crossing

__all__ = ["Curve", "curves_of_scores", "draw_curves"]

WIDTH, HEIGHT = 480.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 326.0, 12.0, 262.0  # of the axes; the labels stand to their right
LABEL_GAP = 17.0  # between the base lines of two labels
DASHES = ("none", "9 4", "2 3", "9 3 2 3")
THRESHOLDS = (0.5, 0.143)
PARTS = {
    "overall": "overall",
    "inside_measured_region": "measured region",
    "inside_wedge": "missing wedge",
}
TICKS = (1000, 500, 300, 200, 150, 100, 80, 60, 50, 40, 30, 25, 20, 15, 12, 10, 8, 6, 5, 4, 3, 2.5, 2, 1.5, 1)


@dataclass(frozen=True)
class Curve:
    """A Fourier shell correlation by its name.

    Attributes
    ----------
    name : str
        A few words, for the label.
    resolution : array, shape (shells,)
        Å; infinite for shell 0.
    values : array, shape (shells,)
        NaN where a shell is empty.
    """

    name: str
    resolution: NDArray[np.float64]
    values: NDArray[np.float64]

    def crossing(self, threshold: float) -> float:
        """Å at which it first falls below a threshold; its finest if never, NaN if it begins below."""
        shell = fsc_crossing(torch.from_numpy(self.values), threshold)
        return float(self.resolution[1] / shell) if shell > 0 else math.nan


def curves_of_scores(scores: Mapping[str, Any]) -> list[Curve]:
    """Take the curves out of the ``truth`` of `cryomend.evaluation.evaluate_volume`.

    What a file of scores has as null, since it was infinite or no number, counts as such again.
    """
    resolution = np.array(scores["fsc_resolution_angstrom"], dtype=np.float64)
    resolution[np.isnan(resolution)] = np.inf
    return [
        Curve(name, resolution, np.array(scores[part]["fsc"], dtype=np.float64))
        for part, name in PARTS.items()
        if part in scores
    ]


def draw_curves(curves: Sequence[Curve], what: str) -> str:
    """Draw curves over the spatial frequency, whose axis is labelled in Å.

    Parameters
    ----------
    curves : sequence of Curve
        At most four.
    what : str
        What they are of, for those who cannot see them.

    Returns
    -------
    str
        An SVG element. Frequencies grow linearly to the right, to the finest shell of all curves.
    """
    finest = min(float(curve.resolution[-1]) for curve in curves)
    lowest = min(0.0, *(float(np.nanmin(curve.values, initial=0.0)) for curve in curves))
    floor = math.floor(lowest * 10) / 10
    said = "; ".join(f"{c.name}: " + ", ".join(_crossing_in_words(c, t) for t in THRESHOLDS) for c in curves)
    parts = [_axes(finest, floor)]
    ends = []
    for n, curve in enumerate(curves):
        points = [
            (_across(1 / r, finest), _up(float(v), floor))
            for r, v in zip(curve.resolution, curve.values, strict=True)
            if math.isfinite(v) and r > 0
        ]
        if points:
            parts.append(_line(points, n))
            ends.append((points[-1], n, curve.name))
    parts.append(_labels(ends))
    alt = escape(f"Fourier shell correlation, {what}. {said}")
    return (
        f'<svg class="curves" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{alt}">'
        f"{''.join(parts)}</svg>"
    )


def _crossing_in_words(curve: Curve, threshold: float) -> str:
    at = curve.crossing(threshold)
    return f"{threshold:g} at {at:.1f} Å" if math.isfinite(at) else f"below {threshold:g} everywhere"


def _across(frequency: float, finest: float) -> float:
    return LEFT + (RIGHT - LEFT) * frequency * finest


def _up(value: float, floor: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * (value - floor) / (1 - floor)


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{words}</text>'


def _axes(finest: float, floor: float) -> str:
    """Frame, ticks and the two thresholds."""
    parts = [
        f'<path d="M{LEFT:g} {TOP:g}V{BOTTOM:g}H{RIGHT:g}" fill="none" stroke="currentColor" '
        'stroke-width="1.2"/>'
    ]
    last = -math.inf
    for period in TICKS:
        x = _across(1 / period, finest)
        if x - last >= 34 and x <= RIGHT + 0.5:
            parts.append(f'<path d="M{x:.1f} {BOTTOM:g}v5" stroke="currentColor"/>')
            parts.append(_text(x, BOTTOM + 19, f"{period:g}", "middle"))
            last = x
    for value in sorted({floor, 0.0, 1.0}):
        parts.append(_text(LEFT - 6, _up(value, floor) + 4.5, f"{value:g}".replace("-", "−"), "end"))
    for value in (*THRESHOLDS, *([0.0] if floor < 0 else [])):
        y = _up(value, floor)
        parts.append(f'<path class="faint" d="M{LEFT:g} {y:.1f}H{RIGHT:g}" stroke-width=".8"/>')
    for value in THRESHOLDS:
        parts.append(_text(LEFT - 6, _up(value, floor) + 4.5, f"{value:g}", "end", "quiet"))
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 42, "resolution in Å", "middle"))
    return "".join(parts)


def _line(points: Sequence[tuple[float, float]], n: int) -> str:
    """Draw one curve with its dashes and a marker about every eighth of the way."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = (
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-width="1.8" '
        f'stroke-dasharray="{DASHES[n % len(DASHES)]}"/>'
    )
    every = max(1, len(points) // 8)
    return line + "".join(_marker(x, y, n) for x, y in points[(n * every) // 3 :: every])


def _marker(x: float, y: float, n: int) -> str:
    """Disc, hollow square, triangle, cross."""
    if n % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="currentColor"/>'
    shape = ("", "m-3.5 -3.5h7v7h-7z", "m0 -4.5l4.2 7.6h-8.4z", "m-4 -4l8 8m0 -8l-8 8")[n % 4]
    fill = "var(--paper)" if n % 4 == 1 else "currentColor" if n % 4 == 2 else "none"
    return (
        f'<path d="M{x:.1f} {y:.1f}{shape}" fill="{fill}" stroke="currentColor" '
        f'stroke-width="{1.6 if n % 4 != 2 else 0}"/>'
    )


def _labels(ends: Sequence[tuple[tuple[float, float], int, str]]) -> str:
    """Write the names at the right, as near to the ends of the curves as they keep clear of one another."""
    parts, y = [], -math.inf
    ordered = sorted(ends, key=lambda end: end[0][1])
    room = BOTTOM - LABEL_GAP * (len(ordered) - 1)  # so that the last stands above the axis
    for place, ((x, end), n, name) in enumerate(ordered):
        y = max(y + LABEL_GAP, min(end, room + LABEL_GAP * place), TOP + 4)
        lead = f'<path class="faint" d="M{x + 3:.1f} {end:.1f}L{RIGHT + 16:g} {y:.1f}" stroke-width=".8"/>'
        parts += [lead, _marker(RIGHT + 22, y, n), _text(RIGHT + 31, y + 4.5, escape(name))]
    return "".join(parts)
