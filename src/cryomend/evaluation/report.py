"""One self-contained HTML page that shows a tomogram before and after restoration.

Nothing is loaded from anywhere: pictures, style and script are in the page. Volumes may lie in a file and
are looked at section by section, so that a page of a tomogram of any size takes little memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from cryomend import __version__
from cryomend.evaluation import pictures
from cryomend.evaluation.browser import browser_data, browser_section
from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.curves import Curve, curves_of_scores, draw_curves
from cryomend.evaluation.evaluate import summary_rows
from cryomend.evaluation.figures import (
    DOUBTFUL_SIGMA,
    average_section,
    central_sections,
    fourier_section,
    make_figure,
    make_pair,
    make_section,
    signed,
)
from cryomend.evaluation.fsc import fourier_shell_correlation, shell_resolution
from cryomend.evaluation.halves import require_different
from cryomend.evaluation.page import fill_page
from cryomend.evaluation.scores import checks_of
from cryomend.evaluation.slices import pack_volumes
from cryomend.evaluation.verdict import Check
from cryomend.io import (
    InputError,
    Volume,
    check_writable,
    open_volume,
    read_sections,
    read_volume,
    write_text,
)

__all__ = ["SLICES_BUDGET", "report_files", "write_restoration_report"]

SLICES_BUDGET = 11_000_000  # characters of a page, of which the rest needs about three million at most
SIGNS = {"good": "●", "doubtful": "◐", "bad": "○"}

NOTE = """<aside class="note"><h2>What was measured and what was not</h2>
<p>{range} What the restored volume shows inside the wedge was inferred by the network from the
structures it was trained on; it was not measured. Denoising infers as well. Take a feature that appears only
after restoration as a hypothesis: look for it in the raw volume, and average and measure on raw voxels.</p>
</aside>"""


def write_restoration_report(
    path: str | Path,
    *,
    before: NDArray[Any] | None,
    after: NDArray[Any],
    voxel_size: float,
    tilt_range: tuple[float, float] | None,
    provenance: Mapping[str, str],
    average_along_y: bool = False,
    checks: Sequence[Check] = (),
    confidence: NDArray[Any] | None = None,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    halves: Sequence[Curve] = (),
    name: str = "",
    slices_budget: int = SLICES_BUDGET,
) -> None:
    """Write an HTML page that shows a volume before and after restoration.

    Parameters
    ----------
    path : path
        The page; replaced only when complete.
    before, after : array, shape (Z, Y, X)
        Raw and restored volume, grey levels as stored (low = black), finite, of any number format; without
        ``before`` the restored volume is shown alone.
    voxel_size : float
        Å.
    tilt_range : (float, float) or None
        Extreme tilt angles in degrees, to draw the missing wedge; None if unknown.
    provenance : mapping of str to str
        What ran, on which device, for how long: the rows of a table, in order.
    average_along_y : bool
        Show the x-z section averaged along what runs near Y too, such as a microtubule; its slope
        is found on ``before``.
    checks : sequence of Check
        What was checked on the data, for a table near the top.
    confidence : array, shape (Z, Y, X), optional
        Standard deviation of the restoration over its contrast; where it exceeds 1 the sections are hatched.
    scores : mapping of str to dict, optional
        Under ``After``, and perhaps ``Before``, results of `evaluate_volume`: the Fourier shell correlations
        with the truth are drawn, the scores listed.
    halves : sequence of Curve
        Fourier shell correlations of half-sets.
    name : str
        Of the restored volume, for the title.
    slices_budget : int
        Characters of the page that the slices to browse may take: their binning and quality follow.

    Raises
    ------
    ValueError
        If the shapes differ, the voxel size is not positive or the tilt range is not
        increasing inside ±90 degrees.
    InputError
        If the page cannot be written.
    """
    _require_fitting(before, after, confidence, voxel_size, tilt_range)
    states = {"Before": before, "After": after} if before is not None else {"After": after}
    limits = {state: pictures.grey_range(volume) for state, volume in states.items()}
    packed = pack_volumes(
        {state.lower(): volume for state, volume in states.items()},
        budget=slices_budget,
        sigma=confidence,
        largest_sigma=DOUBTFUL_SIGMA,
    )
    sections = [_note(tilt_range)]
    if checks:
        sections.append(_checks(checks))
    sections.append(browser_section(packed, file_shape=after.shape, voxel_size=voxel_size))
    share = packed.doubtful_share
    sections.append(central_sections(states, limits, voxel_size, confidence=confidence, doubtful_share=share))
    if average_along_y:
        sections.append(average_section(states, voxel_size))
    sections.append(fourier_section(states, tilt_range, voxel_size))
    sections += _correlations(scores or {}, halves)
    sections.append(_table(provenance))
    nz, ny, nx = after.shape
    what = "the volume before and after restoration" if before is not None else "the restored volume"
    lead = f"{nx} × {ny} × {nz} voxels (x, y, z) of {voxel_size:.4g} Å: {what}."
    page = fill_page(
        "\n".join(sections),
        title=f"{name}: restoration report" if name else "Restoration report",
        lead=f"<strong>{escape(name)}</strong>, {lead}" if name else lead,
        data=browser_data(packed, file_shape=after.shape, voxel_size=voxel_size),
    )
    write_text(path, page)


def report_files(
    restored_path: str | Path,
    raw_path: str | Path | None,
    output: str | Path,
    *,
    tilt_range: tuple[float, float] | None = None,
    average_along_y: bool = False,
    voxel_size: float | None = None,
    confidence: str | Path | None = None,
    halves: Sequence[str | Path | None] = (),
    scores: Mapping[str, dict[str, Any]] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Read a volume before and after restoration and write the page that shows both.

    Parameters
    ----------
    restored_path, raw_path : path
        MRC files of equal shape and voxel size; without the raw one the restored volume is shown alone.
    output : path
        The page.
    tilt_range, average_along_y
        As in :func:`write_restoration_report`.
    voxel_size : float, optional
        Å; replaces what both headers say.
    confidence : path, optional
        Standard deviation of the restoration, as `cryomend restore --confidence` writes it.
    halves : sequence of path
        Raw tomograms of the even and the odd half, and perhaps the two restored, for their correlations.
    scores : mapping of str to dict, optional
        Under ``After`` and ``Before`` what `cryomend evaluate` found; the checks are those of ``After``.
    provenance : mapping of str to str, optional
        More rows for the table of what was done.

    Raises
    ------
    InputError
        If a file cannot be used, shapes or voxel sizes differ, the tilt range is not
        increasing inside ±90 degrees, or the page cannot be written.
    """
    require_tilt_range(tilt_range)
    check_writable(output)
    given = {"Restored volume": restored_path, "Raw volume": raw_path, "Confidence": confidence}
    files = {
        what: open_volume(path, voxel_size=voxel_size) for what, path in given.items() if path is not None
    }
    restored = files["Restored volume"]
    for volume in files.values():
        require_matching(restored, volume)
    for volume in files.values():
        for _ in read_sections(volume):  # refuses voxels that are not finite, or all equal
            pass
    found = scores or {}
    raw, sigma = files.get("Raw volume"), files.get("Confidence")
    write_restoration_report(
        output,
        before=None if raw is None else raw.data,
        after=restored.data,
        voxel_size=restored.voxel_size,
        tilt_range=tilt_range,
        provenance=_describe_files(files) | dict(provenance or {}),
        average_along_y=average_along_y,
        checks=checks_of(found.get("After", {})),
        confidence=None if sigma is None else sigma.data,
        scores=found,
        halves=_correlate_halves(restored, halves, voxel_size),
        name=Path(restored_path).name,
    )


def _require_fitting(
    before: NDArray[Any] | None,
    after: NDArray[Any],
    confidence: NDArray[Any] | None,
    voxel_size: float,
    tilt_range: tuple[float, float] | None,
) -> None:
    """Refuse what does not belong together, as `write_restoration_report` says."""
    if before is not None and before.shape != after.shape:
        raise ValueError(f"shapes differ: {before.shape} before and {after.shape} after")
    if confidence is not None and confidence.shape != after.shape:
        raise ValueError(f"shapes differ: {confidence.shape} of the confidence and {after.shape} after")
    if not voxel_size > 0:
        raise ValueError(f"the voxel size must be positive, got {voxel_size:g} Å")
    if tilt_range is not None and not -90 < tilt_range[0] < tilt_range[1] < 90:
        raise ValueError(f"need -90 < tilt_min < tilt_max < 90, got {tilt_range[0]:g}, {tilt_range[1]:g}")


def _describe_files(files: Mapping[str, Volume]) -> dict[str, str]:
    """Say what each file is, and who the header says made it."""
    rows = {}
    for what, volume in files.items():
        shape = " × ".join(map(str, reversed(volume.data.shape)))
        rows[what] = f"{volume.path}: {shape} voxels (x, y, z) of {volume.voxel_size:.4g} Å"
    labels = {what: volume.labels for what, volume in files.items() if volume.labels}
    made = [re.match(r"cryomend (\d\S*) (.+)", label) for label in labels.get("Restored volume", [])]
    rows |= {f"Restored with cryomend {m[1]}": m[2] for m in made if m is not None}
    for what, words in labels.items():
        rows[f"Labels of the {what.lower().replace('volume', 'file')}"] = " | ".join(words)
    return rows | {"Page written by": f"cryomend {__version__}"}


def _correlate_halves(
    restored: Volume, halves: Sequence[str | Path | None], voxel_size: float | None
) -> list[Curve]:
    """Correlate raw halves with each other, and restored halves with the other raw half.

    Two restored halves share what the network knows, so their correlation says nothing and is not drawn.
    """
    paths = [path for path in halves if path is not None]
    if not paths:
        return []
    read = [read_volume(path, voxel_size=voxel_size) for path in paths]
    for volume in read:
        require_matching(restored, volume)
    data = [torch.from_numpy(volume.data) for volume in read]
    for i, j in ((0, 1), (2, 1), (3, 0))[: len(data) - 1]:
        try:
            require_different(data[i], data[j])
        except ValueError as error:
            raise InputError(f"{paths[i]} and {paths[j]}: {error}") from None
    found = {"raw, raw": fourier_shell_correlation(data[0], data[1])}
    if len(data) == 4:
        crossed = [fourier_shell_correlation(data[i], data[j]) for i, j in ((2, 1), (3, 0))]
        found["restored, raw"] = (crossed[0] + crossed[1]) / 2
    side = min(restored.data.shape)
    period = shell_resolution(side // 2 + 1, smallest_axis=side, voxel_size=restored.voxel_size).numpy()
    return [Curve(name, period, curve.double().numpy()) for name, curve in found.items()]


def _note(tilt_range: tuple[float, float] | None) -> str:
    """Say what the network inferred, before anything is shown."""
    if tilt_range is None:
        return NOTE.format(range="The tilt range is not known here, so the missing wedge cannot be drawn.")
    low, high = tilt_range
    share = (180 - high + low) / 180
    tilted = f"The specimen was tilted from {signed(low)}° to {signed(high)}°"
    return NOTE.format(range=f"{tilted}: {share:.0%} of Fourier space, the missing wedge, was not measured.")


def _checks(checks: Sequence[Check]) -> str:
    """List the checks with a word and a number each; the shape before the word says the same."""
    rows = "".join(
        f'<tr><th scope="row">{escape(check.name)}</th>'
        f'<td class="verdict"><span aria-hidden="true">{SIGNS[check.verdict]}</span> {check.verdict}</td>'
        f'<td class="number">{_number(check.number)}</td><td>{escape(check.meaning)}</td></tr>'
        for check in checks
    )
    head = '<tr><th scope="col">check</th><th scope="col">verdict</th><th scope="col">number</th>'
    hint = (
        "No truth is needed for these. They can show that a restoration contradicts the data; none can show "
        "that what it put into the missing wedge is right."
    )
    table = f'<table class="checks">{head}<th scope="col">what the number is</th></tr>{rows}</table>'
    return make_section("Checks on the data", hint, f'<div class="scroll">{table}</div>')


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "–"


def _correlations(scores: Mapping[str, Mapping[str, Any]], halves: Sequence[Curve]) -> list[str]:
    """Curves and scores against a truth or over areas, and curves of the half-sets."""
    sections = []
    figures = []
    for state in ("Before", "After"):
        result = scores.get(state, {})
        if "truth" not in result and "areas" not in result:
            continue
        curves = curves_of_scores(result["truth"]) if "truth" in result else []
        drawn = draw_curves(curves, f"{state.lower()} restoration, with the truth") if curves else ""
        figures.append(make_figure(state, drawn + _score_table(summary_rows(dict(result))), ""))
    if figures:
        hint = "Contrast to noise (CNR) and number of looks (ENL) over the areas that were given."
        if any("truth" in result for result in scores.values()):
            hint = (
                "Fourier shell correlation with the truth, over all of Fourier space and in its two parts. "
                "The lines at 0.5 and 0.143 are the usual thresholds."
            )
        sections.append(make_section("Scores", hint, make_pair(figures)))
    against_half = scores.get("After", {}).get("halves")
    if against_half is not None:
        hint = "Fourier shell correlation of the shown volume, made of half of the data, with the other half."
        drawn = draw_curves(curves_of_scores(against_half), "with the raw other half")
        sections.append(make_section("Against the other half", hint, drawn))
    if halves:
        hint = (
            "Fourier shell correlation of the half-sets. A restored half is compared with the other half "
            "raw; two restored halves share what the network knows, and would agree whatever the data say."
        )
        drawn = draw_curves(halves, "of the half-sets")
        sections.append(make_section("Half-sets", hint, drawn))
    return sections


def _score_table(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out as a table, the first being its head."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell).replace('-', '−')}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows[1:]
    )
    return f'<div class="scroll"><table class="scores"><tr>{head}</tr>{body}</table></div>'


def _table(provenance: Mapping[str, str]) -> str:
    """List what ran, on what, for how long."""
    rows = "".join(
        f'<tr><th scope="row">{escape(k)}</th><td>{escape(str(v))}</td></tr>' for k, v in provenance.items()
    )
    return make_section(
        "How this was made", "What ran, on which device and for how long.", f"<table>{rows}</table>"
    )
