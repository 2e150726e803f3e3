"""`cryomend report` on files: what is given is scored and checked as by `cryomend evaluate`, then shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryomend.evaluation import Areas, evaluate_files, report_files
from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.scores import read_scores
from cryomend.io import InputError, check_writable, open_volume, read_tilt_angles
from cryomend.restoration.check_files import evaluate_and_check
from cryomend.restoration.check_inputs import CheckData, CheckSettings, require_pair

__all__ = ["ReportData", "write_report"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class ReportData:
    """What is shown beside the tomogram and the checks; files or None.

    ``negate`` says that protein is dark in the tomogram and bright in the truth, or the other way round;
    ``checks`` is what `cryomend evaluate --json` wrote, so that nothing is computed again.
    """

    truth: Path | None = None
    areas: Areas | None = None
    negate: bool = False
    checks: Path | None = None
    average_along_y: bool = False
    command: str = ""


def write_report(
    restored: Path,
    output: Path,
    data: CheckData,
    settings: CheckSettings,
    shown: ReportData | None = None,
    *,
    on_progress: Progress = lambda share, text: None,
) -> None:
    """Score and check a restored tomogram with what is given, and write the page that shows it.

    Checks are made if there are tilts, halves, or names of checks; a raw tomogram alone asks for none.

    Parameters
    ----------
    restored : Path
        Restored tomogram.
    output : Path
        The page (HTML).
    data : CheckData
        What it is compared with; ``confidence`` is drawn.
    settings : CheckSettings
        Which checks, and how.
    shown : ReportData, optional
        What else is shown.
    on_progress : callable
        Told the share of the checks that is done and what is being done.

    Raises
    ------
    InputError
        If a file cannot be used or given twice, files do not belong together, or the page cannot be written.
    """
    shown = shown or ReportData()
    require_tilt_range(settings.tilt_range)
    _require_different(restored, output, data, shown)
    check_writable(output)
    _require_fitting(restored, data, shown, settings.voxel_size)
    after, model = _score(restored, data, settings, shown, on_progress)
    scores = {"After": after}
    if data.raw is not None and (shown.truth is not None or shown.areas is not None):
        scores["Before"] = _score_file(data.raw, settings, shown)
    rows = {
        "Tilt series": data.tilts,
        "Tilt angles": data.tilt_angles,
        "Truth": shown.truth,
        "Even half": data.even,
        "Odd half": data.odd,
        "Even half, restored": data.even_restored,
        "Odd half, restored": data.odd_restored,
        "Scores and checks": shown.checks,
        "Model of the checks": model,
        "Command": shown.command or None,
    }
    provenance = {name: str(value) for name, value in rows.items() if value is not None}
    provenance |= {f"Note {n}": str(note) for n, note in enumerate(after.get("notes", []), start=1)}
    report_files(
        restored,
        data.raw,
        output,
        tilt_range=_tilt_range(data, settings, after),
        average_along_y=shown.average_along_y,
        voxel_size=settings.voxel_size,
        confidence=data.confidence,
        halves=(data.even, data.odd, data.even_restored, data.odd_restored),
        scores=scores,
        provenance=provenance,
    )


def _score(
    restored: Path, data: CheckData, settings: CheckSettings, shown: ReportData, on_progress: Progress
) -> tuple[dict[str, Any], str | None]:
    """Read or make scores and checks of the restored tomogram; names the model that was asked for them."""
    wanted = settings.wanted is not None or data.tilts is not None
    halves = data.even is not None or data.odd is not None
    if shown.checks is not None:
        if settings.wanted is not None:
            raise InputError(f"--checks {shown.checks} has the checks already; leave out --check")
        found = read_scores(shown.checks, open_volume(restored, voxel_size=settings.voxel_size))
        return found | (_score_file(restored, settings, shown) if _scored(shown) else {}), None
    if wanted or halves:
        found = evaluate_and_check(
            restored,
            replace(data, confidence=None),
            settings,
            on_progress=on_progress,
            truth_path=shown.truth,
            areas=shown.areas,
            negate=shown.negate,
        )
        return found, settings.model or "that of restore"
    return (_score_file(restored, settings, shown) if _scored(shown) else {}), None


def _scored(shown: ReportData) -> bool:
    return shown.truth is not None or shown.areas is not None


def _score_file(path: Path, settings: CheckSettings, shown: ReportData) -> dict[str, Any]:
    """Score one file against the truth and over the areas."""
    return evaluate_files(
        path,
        truth_path=shown.truth,
        tilt_range=settings.tilt_range,
        areas=shown.areas,
        negate=shown.negate,
        voxel_size=settings.voxel_size,
    )


def _tilt_range(
    data: CheckData, settings: CheckSettings, scores: dict[str, Any]
) -> tuple[float, float] | None:
    """Extreme tilt angles as given, listed or written down with the scores, just inside ±90 degrees."""
    if settings.tilt_range is not None:
        return settings.tilt_range
    known = scores.get("tilt_range_degrees")
    if data.tilt_angles is not None:
        angles = read_tilt_angles(data.tilt_angles)
        known = [float(angles.min()), float(angles.max())]
    if not isinstance(known, list | tuple) or len(known) != 2 or not known[0] < known[1]:
        return None
    return max(float(known[0]), -89.9), min(float(known[1]), 89.9)


def _require_fitting(restored: Path, data: CheckData, shown: ReportData, voxel_size: float | None) -> None:
    """Refuse volumes of other sizes and halves without their partner, before anything long is done."""
    opened = open_volume(restored, voxel_size=voxel_size)
    raw_halves = {"--even": data.even, "--odd": data.odd}
    restored_halves = {"--even-restored": data.even_restored, "--odd-restored": data.odd_restored}
    for files in (raw_halves, restored_halves):
        require_pair(files)
    if data.even_restored is not None and data.even is None:
        raise InputError("--even-restored and --odd-restored are compared with --even and --odd; give them")
    volumes = (data.raw, data.confidence, shown.truth, *raw_halves.values(), *restored_halves.values())
    for path in volumes:
        if path is not None:
            require_matching(opened, open_volume(path, voxel_size=voxel_size))


def _require_different(restored: Path, output: Path, data: CheckData, shown: ReportData) -> None:
    """Refuse one file in two places, and a page over a file that is read."""
    others = {"--raw": data.raw, "--truth": shown.truth, "--confidence": data.confidence}
    for option, path in others.items():
        if path is not None and path.resolve() == restored.resolve():
            raise InputError(f"{option} {path} is the restored tomogram itself; give another file")
    given = (restored, *vars(data).values(), shown.truth, shown.checks)
    if any(path is not None and path.resolve() == output.resolve() for path in given):
        raise InputError(f"{output} would overwrite what is read; give -o another name")
