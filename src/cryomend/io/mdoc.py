"""SerialEM's .mdoc: what was recorded when, at which tilt and with how many electrons."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.dose import exposure_before
from cryomend.io.path import InputError, existing_file, reason
from cryomend.io.text import write_text

__all__ = ["read_mdoc_angles", "read_mdoc_exposures", "read_mdoc_table", "write_mdoc"]

_START = datetime(2000, 1, 1, 12)  # of simulated recordings; only the differences mean anything
_MINUTE = timedelta(minutes=1)


def write_mdoc(
    path: str | os.PathLike[str],
    *,
    stack: str | os.PathLike[str],
    shape: tuple[int, int],
    pixel_size: float,
    voltage_kv: float,
    tilt_axis_angle: float,
    tilt_angles: Sequence[float],
    exposures: Sequence[float],
    prior: Sequence[float],
    places: Sequence[int],
    defocus_um: float,
) -> None:
    """Write the .mdoc of a tilt series as SerialEM does, one section per image.

    Parameters
    ----------
    path : path-like
        Where to write; appears when complete.
    stack : path-like
        The stack of images; its name is mentioned.
    shape : tuple of int
        Of an image, (Y, X).
    pixel_size : float
        Å.
    voltage_kv : float
        kV.
    tilt_axis_angle : float
        Degrees.
    tilt_angles, exposures, prior : sequence of float
        Degrees; e⁻/Å² of each image and before it.
    places : sequence of int
        Place of each image in time, 0 first; DateTime says so, a minute apart.
    defocus_um : float
        Positive = underfocus; SerialEM's TargetDefocus has the other sign.
    """
    head = [
        f"PixelSpacing = {pixel_size:g}",
        f"Voltage = {voltage_kv:g}",
        f"ImageFile = {Path(stack).name}",
        f"ImageSize = {shape[1]} {shape[0]}",
        "DataMode = 2",
        "",
        "[T = cryomend: simulated tilt series]",
        "",
        f"[T =     Tilt axis angle = {tilt_axis_angle:.1f}, binning = 1  spot = 1  camera = 0]",
    ]
    sections = []
    for z, (angle, dose, before, place) in enumerate(zip(tilt_angles, exposures, prior, places, strict=True)):
        sections += [
            "",
            f"[ZValue = {z}]",
            f"TiltAngle = {angle:g}",
            f"ExposureDose = {dose:.6g}",
            f"PriorRecordDose = {before:.6g}",
            f"PixelSpacing = {pixel_size:g}",
            f"Defocus = {defocus_um:g}",
            f"RotationAngle = {tilt_axis_angle:g}",
            f"TargetDefocus = {-defocus_um:g}",
            f"DateTime = {(_START + int(place) * _MINUTE).strftime('%d-%b-%y  %H:%M:%S')}",
        ]
    write_text(path, "\n".join(head + sections) + "\n")


def read_mdoc_table(path: str | os.PathLike[str], *, needs: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read the sections of an mdoc, in the order of their ZValue; those without one are no images.

    Raises
    ------
    InputError
        If the file is missing, unreadable or no mdoc, or a section lacks a field of ``needs``.
    """
    import logging

    from mdocfile.data_models import Mdoc  # brings pandas, which only this needs

    name = existing_file(path)
    lines = _read_any_text(name).splitlines()
    logging.getLogger("mdocfile").setLevel(logging.ERROR)  # it warns of every field it does not know
    try:
        table = Mdoc.from_lines(lines).to_dataframe().dropna(subset=["ZValue"])
        lacks = table[list(needs)].isna()
    except Exception as error:  # the library raises many kinds for files that are not mdoc
        fields = ", ".join(("ZValue", *needs))
        raise InputError(f"{name} is not an mdoc file with sections that have {fields}") from error
    for field in needs:
        if lacks[field].any():  # without its section, all later ones would move up
            z = int(table["ZValue"][lacks[field]].iloc[0])
            raise InputError(f"{name}: section ZValue = {z} has no {field}, but others have; write it there")
    rows: list[dict[str, Any]] = table.to_dict("records")
    return sorted(rows, key=lambda row: int(row["ZValue"]))


def _read_any_text(name: Path) -> str:
    """UTF-8, or what SerialEM's Windows writes where titles hold a degree sign or a path an umlaut."""
    try:
        content = name.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {name}: {reason(error)}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def read_mdoc_angles(path: str | os.PathLike[str]) -> list[tuple[str, float]]:
    """Read (where, tilt angle in degrees) of every section, in the order of the stack.

    Raises
    ------
    InputError
        If the file is missing, no mdoc, or a section has no TiltAngle.
    """
    rows = read_mdoc_table(path, needs=("TiltAngle",))
    return [(f"ZValue {int(row['ZValue'])}", float(row["TiltAngle"])) for row in rows]


def read_mdoc_exposures(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read what the specimen had received before each image, and with it.

    They are PriorRecordDose and ExposureDose. Without the former (or when it is the same for all) the
    exposures are summed in the order of DateTime.

    Parameters
    ----------
    path : path-like
        The .mdoc.

    Returns
    -------
    prior, exposure : arrays, shape (tilt,)
        e⁻/Å², in the order of the stack.

    Raises
    ------
    InputError
        If the file is missing, no mdoc, a section has no ExposureDose or one is not finite, or neither
        PriorRecordDose nor DateTime says the order.
    """
    rows = read_mdoc_table(path, needs=("ExposureDose",))
    if not rows:
        raise InputError(f"{path} has no section with an ExposureDose; give a list of exposures instead")
    exposure = np.array([float(row["ExposureDose"]) for row in rows])
    if not np.isfinite(exposure).all():
        raise InputError(f"{path} holds an ExposureDose that is not finite; repair it first")
    prior = np.array([_number(row.get("PriorRecordDose")) for row in rows])
    if np.isfinite(prior).all() and (len(prior) == 1 or np.ptp(prior) > 0):
        return prior, exposure
    when = [_time(row.get("DateTime")) for row in rows]
    if any(time is None for time in when):
        raise InputError(f"{path} has neither PriorRecordDose nor DateTime; give a list of exposures instead")
    order = np.argsort(np.array([time.timestamp() for time in when if time is not None]), kind="stable")
    return exposure_before(exposure, order), exposure


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
