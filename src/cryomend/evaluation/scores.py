"""What `cryomend evaluate --json` wrote, read back for the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cryomend.evaluation.checks import VOXEL_SIZE_TOLERANCE
from cryomend.evaluation.curves import curves_of_scores, draw_curves
from cryomend.evaluation.evaluate import summary_rows
from cryomend.evaluation.verdict import Check
from cryomend.io import InputError, Volume, read_lines

__all__ = ["checks_of", "read_scores"]

_VERDICTS = ("good", "doubtful", "bad")
_TEXTS = ("verdict", "name", "meaning")


def read_scores(path: str | Path, volume: Volume) -> dict[str, Any]:
    """Read the scores and checks of a volume from JSON.

    Parameters
    ----------
    path : path
        What `cryomend evaluate` wrote.
    volume : Volume
        The volume that is shown, opened.

    Returns
    -------
    dict
        As `cryomend.restoration.check_files.evaluate_and_check` gives it, null being NaN again.

    Raises
    ------
    InputError
        If the file is missing, no JSON, holds neither scores nor checks that can be shown, or is of a volume
        of another name, shape or voxel size.
    """
    name, lines = read_lines(path)
    try:
        found = _with_nan(json.loads("\n".join(lines)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {error}") from error
    foreign = InputError(f"{name} is not what `cryomend evaluate --json` writes now; evaluate again")
    if not isinstance(found, dict) or not {"volume", "shape_zyx", "voxel_size_angstrom"} <= set(found):
        raise foreign
    try:
        size, shape = float(found["voxel_size_angstrom"]), tuple(int(n) for n in found["shape_zyx"])
        checks_of(found)
        summary_rows(found)
        for key in ("truth", "halves"):
            if key in found:
                draw_curves(curves_of_scores(found[key]), "")
        _require_words(found)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise foreign from error
    _require_same(name, str(found["volume"]), shape, size, volume)
    return found


def checks_of(scores: dict[str, Any]) -> list[Check]:
    """Make the checks out of their records again.

    Raises
    ------
    ValueError
        If a verdict is none of good, doubtful and bad, or a number or text is missing.
    """
    checks = []
    for record in scores.get("checks") or []:
        check = Check(**record)
        if check.verdict not in _VERDICTS or not isinstance(check.number, (int, float)):
            raise ValueError(f"no verdict and number in {record}")
        if not all(isinstance(getattr(check, key), str) for key in _TEXTS):
            raise ValueError(f"no name and meaning in {record}")
        checks.append(check)
    return checks


def _require_words(found: dict[str, Any]) -> None:
    """Refuse notes, a model and a tilt range that cannot be shown; null, now NaN, says that none is known."""
    notes = found.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise TypeError(f"notes are {notes}")
    if not isinstance(found.get("model", ""), str):
        raise TypeError(f"the model is {found['model']}")
    known = found.get("tilt_range_degrees", math.nan)
    if isinstance(known, float) and math.isnan(known):
        return
    low, high = known
    if not all(isinstance(angle, (int, float)) for angle in (low, high)):
        raise TypeError(f"the tilt range is {known}")


def _with_nan(found: Any) -> Any:
    """Turn null into NaN, as which it was found."""
    if isinstance(found, dict):
        return {key: _with_nan(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_with_nan(value) for value in found]
    return math.nan if found is None else found


def _require_same(name: Path, of: str, shape: tuple[int, ...], voxel_size: float, volume: Volume) -> None:
    """Refuse the scores of another volume; folders may have been moved."""
    shown = volume.path or Path()
    theirs = f"{name} is of {of}, {_sizes(shape, voxel_size)}"
    ours = f"{shown} has {_sizes(volume.data.shape, volume.voxel_size)}"
    same_size = math.isclose(voxel_size, volume.voxel_size, rel_tol=VOXEL_SIZE_TOLERANCE)
    if shape != volume.data.shape or not same_size:
        raise InputError(f"{theirs}, but {ours}; evaluate this volume first")
    if Path(of).name != shown.name:
        raise InputError(f"{name} is of {Path(of).name}, not of {shown.name}; evaluate this volume first")


def _sizes(shape: tuple[int, ...], voxel_size: float) -> str:
    return f"{' x '.join(map(str, shape))} voxels of {voxel_size:g} Å"
