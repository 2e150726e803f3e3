"""The page of a restored tomogram and what was found of it, for `cryomend report` and `cryomend evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryomend.evaluation import Areas, evaluate_files, report_files
from cryomend.io import read_tilt_angles
from cryomend.restoration.check_inputs import CheckData, CheckSettings

__all__ = ["ReportData", "score_file", "write_page"]


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

    @property
    def scored(self) -> bool:
        """Whether there is something to score a volume against."""
        return self.truth is not None or self.areas is not None


def write_page(
    restored: Path,
    output: Path,
    data: CheckData,
    settings: CheckSettings,
    shown: ReportData,
    found: dict[str, Any],
) -> None:
    """Score the raw tomogram as the restored one was, and write the page that shows both.

    Parameters
    ----------
    restored : Path
        Restored tomogram.
    output : Path
        The page (HTML).
    data : CheckData
        What it was compared with; ``raw`` and ``confidence`` are drawn, the halves correlated.
    settings : CheckSettings
        How it was compared.
    shown : ReportData
        What else is shown.
    found : dict
        Scores and checks of the restored tomogram, as `cryomend evaluate --json` writes them.

    Raises
    ------
    InputError
        If a file cannot be used, files do not belong together, or the page cannot be written.
    """
    scores = {"After": found}
    if data.raw is not None and shown.scored:
        scores["Before"] = score_file(data.raw, settings, shown, found)
    report_files(
        restored,
        data.raw,
        output,
        tilt_range=_tilt_range(data, settings, found),
        average_along_y=shown.average_along_y,
        voxel_size=settings.voxel_size,
        confidence=data.confidence,
        halves=(data.even, data.odd, data.even_restored, data.odd_restored),
        scores=scores,
        provenance=_provenance(data, shown, found),
    )


def score_file(
    path: Path, settings: CheckSettings, shown: ReportData, found: dict[str, Any]
) -> dict[str, Any]:
    """Score one file against the truth and over the areas, in and outside the wedge as it was found."""
    return evaluate_files(
        path,
        truth_path=shown.truth,
        tilt_range=_known_range(settings, found),
        areas=shown.areas,
        negate=shown.negate,
        voxel_size=settings.voxel_size,
    )


def _provenance(data: CheckData, shown: ReportData, found: dict[str, Any]) -> dict[str, str]:
    """Name what was used, and note what is to be known of it."""
    rows = {
        "Tilt series": data.tilts,
        "Tilt angles": data.tilt_angles,
        "Truth": shown.truth,
        "Even half": data.even,
        "Odd half": data.odd,
        "Even half, restored": data.even_restored,
        "Odd half, restored": data.odd_restored,
        "Scores and checks": shown.checks,
        "Model of the checks": found.get("model"),
        "Command": shown.command or None,
    }
    notes = {f"Note {n}": str(note) for n, note in enumerate(found.get("notes", []), start=1)}
    return {name: str(value) for name, value in rows.items() if value is not None} | notes


def _tilt_range(
    data: CheckData, settings: CheckSettings, found: dict[str, Any]
) -> tuple[float, float] | None:
    """Extreme tilt angles as given, listed or written down with the scores, just inside ±90 degrees."""
    listed = data.tilt_angles if settings.tilt_range is None else None
    if listed is not None and data.tilts is None:  # what was found on tilts is of their alignment
        angles = read_tilt_angles(listed)
        found = {"tilt_range_degrees": [float(angles.min()), float(angles.max())]}
    return _known_range(settings, found)


def _known_range(settings: CheckSettings, found: dict[str, Any]) -> tuple[float, float] | None:
    """Extreme tilt angles as given, else as they were found, just inside ±90 degrees."""
    if settings.tilt_range is not None:
        return settings.tilt_range
    known = found.get("tilt_range_degrees")
    if not isinstance(known, list | tuple) or len(known) != 2 or not known[0] < known[1]:
        return None
    return max(float(known[0]), -89.9), min(float(known[1]), 89.9)
