"""`cryomend report` on files: what is given is scored and checked as by `cryomend evaluate`, then shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.scores import read_scores
from cryomend.io import InputError, check_writable, open_volume
from cryomend.restoration.check_files import evaluate_and_check
from cryomend.restoration.check_inputs import CheckData, CheckSettings, require_pair
from cryomend.restoration.page import ReportData, score_file, write_page

__all__ = ["ReportData", "write_report"]

Progress = Callable[[float, str], None]


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
        If a file cannot be used or is given twice or for nothing, files do not belong together, or the page
        cannot be written.
    """
    shown = shown or ReportData()
    require_tilt_range(settings.tilt_range)
    _require_used(data, settings, shown)
    _require_different(restored, output, data, shown)
    check_writable(output)
    _require_fitting(restored, data, shown, settings.voxel_size)
    found = _score(restored, data, settings, shown, on_progress)
    write_page(restored, output, data, settings, shown, found)


def _score(
    restored: Path, data: CheckData, settings: CheckSettings, shown: ReportData, on_progress: Progress
) -> dict[str, Any]:
    """Read or make scores and checks of the restored tomogram."""
    wanted = settings.wanted is not None or data.tilts is not None
    halves = data.even is not None or data.odd is not None
    if shown.checks is not None:
        found = read_scores(shown.checks, open_volume(restored, voxel_size=settings.voxel_size))
        scored = score_file(restored, settings, shown, found) if shown.scored else {}
        return found | {key: value for key, value in scored.items() if value is not None}
    if wanted or halves:
        return evaluate_and_check(
            restored,
            replace(data, confidence=None),
            settings,
            on_progress=on_progress,
            truth_path=shown.truth,
            areas=shown.areas,
            negate=shown.negate,
        )
    return score_file(restored, settings, shown, {}) if shown.scored else {}


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


def _require_used(data: CheckData, settings: CheckSettings, shown: ReportData) -> None:
    """Refuse what would be named on the page, or left out of it, without having been looked at."""
    sides = {"--alignment": data.alignment, "--reconstruction": data.reconstruction}
    remade = {"--check": settings.wanted, "--tilts": data.tilts, **sides, "--model": settings.model}
    if shown.checks is not None:
        useless = [option for option, value in remade.items() if value is not None]
        if useless:
            raise InputError(
                f"--checks {shown.checks} has the checks already; leave out {', '.join(useless)}"
            )
    for option, path in sides.items():
        if path is not None and data.tilts is None:
            raise InputError(f"{option} {path} belongs to a tilt series; give --tilts STACK too")


def _require_different(restored: Path, output: Path, data: CheckData, shown: ReportData) -> None:
    """Refuse one file in two places, and a page over a file that is read."""
    others = {"--raw": data.raw, "--truth": shown.truth, "--confidence": data.confidence}
    for option, path in others.items():
        if path is not None and path.resolve() == restored.resolve():
            raise InputError(f"{option} {path} is the restored tomogram itself; give another file")
    given = (restored, *vars(data).values(), shown.truth, shown.checks)
    if any(path is not None and path.resolve() == output.resolve() for path in given):
        raise InputError(f"{output} would overwrite what is read; give -o another name")
