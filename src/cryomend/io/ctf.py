"""Defocus of every tilt, from the CTF files of CTFFIND, AreTomo, Gctf, RELION and IMOD."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomend.io.path import InputError
from cryomend.io.text import read_lines, read_numbers

__all__ = ["TiltDefocus", "read_defocus"]


@dataclass(frozen=True)
class TiltDefocus:
    """Defocus of each image of a series; arrays of shape (tilt,), in the order of the stack.

    ``defocus_um`` is the mean of the two main defoci, ``astigmatism_um`` half their difference,
    ``astigmatism_angle`` the direction of the larger one in degrees from X towards Y,
    ``phase_shift`` in degrees; the optics are None where the file does not say.
    """

    defocus_um: NDArray[np.float64]
    astigmatism_um: NDArray[np.float64]
    astigmatism_angle: NDArray[np.float64]
    phase_shift: NDArray[np.float64]
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None


def read_defocus(path: str | os.PathLike[str]) -> TiltDefocus:
    """Read the defocus of every tilt.

    Known are the text files of CTFFIND 4 and AreTomo (``*_CTF.txt``), the star files of Gctf and of
    RELION 5 tilt series, and IMOD's .defocus, versions 1 to 3, where views without a value are
    interpolated between those that have one, as ctfphaseflip does.

    Parameters
    ----------
    path : path-like
        The file; ``.star`` is told by its extension, the others by their content.

    Returns
    -------
    TiltDefocus

    Raises
    ------
    InputError
        If the file is missing or none of these.
    """
    if Path(path).suffix.lower() == ".star":
        return _star_defocus(path)
    name, lines = read_lines(path)
    if any(line.startswith("#") and "defocus" in line for line in lines):
        return _ctffind_defocus(name, lines)
    return _imod_defocus(name, lines)


def _ctffind_defocus(name: Path, lines: list[str]) -> TiltDefocus:
    """Number, defocus 1 and 2 in Å, azimuth, phase shift in radians, correlation, resolution."""
    rows = read_numbers(name, lines, columns=[7, 8], expected="the seven columns of CTFFIND or AreTomo")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    comments = " ".join(line for line in lines if line.startswith("#"))
    return TiltDefocus(
        *_main_defoci(rows[:, 1], rows[:, 2], rows[:, 3]),
        np.degrees(rows[:, 4]),
        _said(comments, r"acceleration voltage: *([\d.]+)"),
        _said(comments, r"spherical aberration: *([\d.]+)"),
        _said(comments, r"amplitude contrast: *([\d.]+)"),
    )


def _said(text: str, pattern: str) -> float | None:
    found = re.search(pattern, text)
    return float(found.group(1)) if found else None


def _main_defoci(
    first: NDArray[np.float64], second: NDArray[np.float64], angle: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean and half difference in µm of two defoci in Å, and the angle of the first."""
    return (first + second) / 2e4, (first - second) / 2e4, angle


def _star_defocus(path: str | os.PathLike[str]) -> TiltDefocus:
    """Columns _rlnDefocusU, V and Angle of a star file's first table that has them."""
    import starfile  # brings pandas, which only this needs

    name, _ = read_lines(path)
    try:
        blocks = starfile.read(name, always_dict=True)
    except Exception as error:  # the library raises many kinds for files that are not star
        raise InputError(f"{name} is not a star file with a table of defoci") from error
    needed = {"rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"}
    table = next((t for t in blocks.values() if needed <= set(getattr(t, "columns", ()))), None)
    if table is None or not len(table):
        raise InputError(f"{name} has no table with _rlnDefocusU, _rlnDefocusV and _rlnDefocusAngle")

    def column(label: str) -> NDArray[np.float64]:
        values = np.asarray(table[label], dtype=np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"{name}: column _{label} holds values that are not finite")
        return values

    phase = column("rlnPhaseShift") if "rlnPhaseShift" in table else np.zeros(len(table))
    optics = [
        float(column(label)[0]) if label in table else None
        for label in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    ]
    defoci = _main_defoci(column("rlnDefocusU"), column("rlnDefocusV"), column("rlnDefocusAngle"))
    return TiltDefocus(*defoci, phase, *optics)


def _imod_defocus(name: Path, lines: list[str]) -> TiltDefocus:
    """Lines of first view, last view, two angles, defocus in nm [second defocus, astigmatism angle]."""
    expected = "CTFFIND, AreTomo or IMOD .defocus lines (views, angles, defocus in nm)"
    words = [line.split() for line in lines if line.split()]
    flags = 0
    if words and len(words[0]) == 6 and words[0][-1] == "3" and words[0][0].isdigit():
        flags = int(words[0][0])
        words = words[1:]
    elif words and len(words[0]) == 6 and words[0][-1] == "2":
        words[0] = words[0][:-1]  # version 2 stands behind the first line
    rows = read_numbers(name, [" ".join(line) for line in words], columns=[5, 6, 7, 8, 9], expected=expected)
    astigmatic, shifted = bool(flags & 1), bool(flags & 4)
    width = 5 + 2 * astigmatic + shifted
    if rows.shape[1] < width or (not flags and rows.shape[1] != 5):
        raise InputError(f"{name}: lines have {rows.shape[1]} numbers; expected {expected}")
    views = (rows[:, 0] + rows[:, 1]) / 2
    if np.any(rows[:, :2] < 1) or np.any(rows[:, :2] % 1):
        raise InputError(f"{name}: views are counted from 1; expected {expected}")
    order = np.argsort(views)
    every = np.arange(1, int(rows[:, 1].max()) + 1)

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(every, views[order], values[order])

    first, second = rows[:, 4], rows[:, 5] if astigmatic else rows[:, 4]
    angle = rows[:, 6] if astigmatic else np.zeros(len(rows))
    nearest = order[np.abs(every[:, None] - views[order][None]).argmin(1)]  # angles do not interpolate
    phase = rows[:, width - 1] if shifted else np.zeros(len(rows))
    return TiltDefocus(
        spread(first + second) / 2e3, spread(first - second) / 2e3, angle[nearest],
        spread(np.degrees(phase) if flags & 2 else phase),
    )  # fmt: skip
