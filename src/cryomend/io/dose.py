"""Electrons that each image of a tilt series had received, for dose weighting."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.io.path import InputError, existing_file
from cryomend.io.text import read_lines, read_numbers

__all__ = ["read_doses", "read_mdoc_table"]

Doses = tuple[NDArray[np.float64], NDArray[np.float64]]


def read_doses(path: str | os.PathLike[str]) -> Doses:
    """Read what was delivered before each image, and with it.

    - A list of one column: the exposure accumulated before each image, in e⁻/Å²; each image's own is
      taken as the smallest step between two of them.
    - A list of two columns: the exposure before, and that of the image (IMOD's ``-dtype 2``).
    - SerialEM's .mdoc: PriorRecordDose and ExposureDose; without the former the exposures are summed
      in the order of DateTime.
    - A RELION 5 tilt-series .star: ``_rlnMicrographPreExposure``.

    Parameters
    ----------
    path : path-like
        The file; .mdoc and .star are told by their extension.

    Returns
    -------
    prior, exposure : arrays, shape (tilt,)
        e⁻/Å², in the order of the stack.

    Raises
    ------
    InputError
        If the file is missing, none of these, or holds negative numbers or no dose.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".mdoc":
        prior, exposure = _mdoc_doses(path)
    elif suffix == ".star":
        prior = _star_doses(path)
        exposure = _smallest_step(prior)
    else:
        name, lines = read_lines(path)
        rows = read_numbers(
            name, lines, columns=[1, 2], expected="the exposure before each image [and its own]"
        )
        prior = rows[:, 0]
        exposure = rows[:, 1] if rows.shape[1] == 2 else _smallest_step(prior)
    if prior.min() < 0 or exposure.min() < 0:
        raise InputError(f"{path} holds negative exposures; they are counted in e⁻/Å² from 0")
    if exposure.max() <= 0:
        raise InputError(f"{path} holds no exposure: all are 0; give a list of e⁻/Å² before each image")
    return prior, exposure


def _smallest_step(prior: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.diff(np.unique(prior))
    return np.full(len(prior), steps.min() if len(steps) else 0.0)


def _star_doses(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    import starfile  # brings pandas, which only this needs

    name = existing_file(path)
    try:
        blocks = starfile.read(name, always_dict=True)
    except Exception as error:  # the library raises many kinds for files that are not star
        raise InputError(f"{name} is not a star file of a tilt series") from error
    for table in blocks.values():
        if "rlnMicrographPreExposure" in getattr(table, "columns", ()):
            return np.asarray(table["rlnMicrographPreExposure"], dtype=np.float64)
    raise InputError(f"{name} has no column _rlnMicrographPreExposure; give a tilt series of RELION 5")


def read_mdoc_table(path: str | os.PathLike[str], *, needs: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read the sections of an mdoc, in the order of their ZValue.

    Raises
    ------
    InputError
        If the file is missing, no mdoc, or a section lacks a field of ``needs``.
    """
    import logging

    import mdocfile  # brings pandas, which only this needs

    name = existing_file(path)
    logging.getLogger("mdocfile").setLevel(logging.ERROR)  # it warns of every field it does not know
    try:
        table = mdocfile.read(name).dropna(subset=["ZValue", *needs])
    except Exception as error:  # the library raises many kinds for files that are not mdoc
        fields = ", ".join(("ZValue", *needs))
        raise InputError(f"{name} is not an mdoc file with sections that have {fields}") from error
    rows: list[dict[str, Any]] = table.to_dict("records")
    return sorted(rows, key=lambda row: int(row["ZValue"]))


def _mdoc_doses(path: str | os.PathLike[str]) -> Doses:
    rows = read_mdoc_table(path, needs=("ExposureDose",))
    if not rows:
        raise InputError(f"{path} has no section with an ExposureDose; give a list of exposures instead")
    exposure = np.array([float(row["ExposureDose"]) for row in rows])
    prior = np.array([_number(row.get("PriorRecordDose")) for row in rows])
    if np.isfinite(prior).all():
        return prior, exposure
    when = [_time(row.get("DateTime")) for row in rows]
    if any(time is None for time in when):
        raise InputError(f"{path} has neither PriorRecordDose nor DateTime; give a list of exposures instead")
    order = np.argsort(np.array([time.timestamp() for time in when if time is not None]), kind="stable")
    prior = np.empty(len(rows))
    prior[order] = np.concatenate([[0.0], np.cumsum(exposure[order])[:-1]])
    return prior, exposure


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _time(value: Any) -> datetime | None:
    """SerialEM's date, with two or four digits of the year."""
    for form in ("%d-%b-%y  %H:%M:%S", "%d-%b-%Y  %H:%M:%S", "%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S"):
        try:
            return datetime.strptime(str(value).strip(), form)
        except ValueError:
            continue
    return value if isinstance(value, datetime) else None
