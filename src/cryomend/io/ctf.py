"""Defocus of every tilt, from the CTF files of CTFFIND, AreTomo, Gctf, RELION, IMOD and Warp."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cryomend.io.path import InputError
from cryomend.io.text import read_lines, read_numbers, read_star_columns

__all__ = ["TiltDefocus", "read_defocus"]

_log = logging.getLogger(__name__)
_INVERTED = (
    "%s: its tilt angles are inverted (%s), which is not applied; set defocus_hand: -1 if the left side is "
    "more underfocused at positive tilt"
)


@dataclass(frozen=True)
class TiltDefocus:
    """Defocus of each image of a series; arrays of shape (tilt,), in the order of the stack.

    ``defocus_um`` is the mean of the two main defoci, positive = underfocus, ``astigmatism_um`` half their
    difference, ``astigmatism_angle`` the direction of the larger one in degrees from X towards Y (of the
    images that the file was made from), ``phase_shift`` in degrees; the optics are None where the file
    does not say. ``last_view`` is the last image that an IMOD file names, counted from 1.
    """

    defocus_um: NDArray[np.float64]
    astigmatism_um: NDArray[np.float64]
    astigmatism_angle: NDArray[np.float64]
    phase_shift: NDArray[np.float64]
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    last_view: int | None = None


def read_defocus(path: str | os.PathLike[str], *, views: int | None = None) -> TiltDefocus:
    """Read the defocus of every tilt.

    - CTFFIND 4 and 5 and AreTomo (``*_CTF.txt``): Å, phase shift in radians; by micrograph number.
    - .star of Gctf and of RELION 5 tilt series: Å and degrees; row by row.
    - IMOD's .defocus, versions 1 to 3: nm; a value stands for the middle of its range of views, those
      between are interpolated and those outside take the nearest, as in ctfphaseflip.
    - Warp's tilt-series .xml: µm, phase shift in half turns; the tilts in use.

    Parameters
    ----------
    path : path-like
        The file; .star and .xml are told by their extension, the others by their content.
    views : int, optional
        Images of the stack. IMOD's file need not name the last ones; without this, views end with the
        last one named. Other files have a row for each image.

    Returns
    -------
    TiltDefocus

    Raises
    ------
    InputError
        If the file is missing or none of these.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".star":
        return _star_defocus(path)
    name, lines = read_lines(path)
    if suffix == ".xml":
        return _warp_defocus(name, lines)
    if any(line.startswith("#") and "defocus" in line for line in lines):
        return _ctffind_defocus(name, lines)
    return _imod_defocus(name, lines, views or 0)


def _main_defoci(
    first: NDArray[np.float64], second: NDArray[np.float64], angle: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, half difference, and the direction of the larger, of two defoci and that of the first."""
    turned = np.where(first < second, angle + 90, angle)
    return (first + second) / 2, np.abs(first - second) / 2, (turned + 90) % 180 - 90


def _ctffind_defocus(name: Path, lines: list[str]) -> TiltDefocus:
    """Number, defocus 1 and 2 in Å, azimuth, phase shift in radians, correlation, resolution [and tilt]."""
    parts = [line.split("#")[0].split() for line in lines]
    # the resolution may be "inf"; a line of another length must not pass as five numbers
    kept = [" ".join(words[:5]) if len(words) in (0, 7, 8, 9, 10) else "?" for words in parts]
    rows = read_numbers(name, kept, columns=[5], expected="the columns of CTFFIND or AreTomo, at least seven")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    comments = " ".join(line for line in lines if line.startswith("#"))
    return TiltDefocus(
        *_main_defoci(rows[:, 1] / 1e4, rows[:, 2] / 1e4, rows[:, 3]),
        np.degrees(rows[:, 4]),
        _said(comments, r"acceleration voltage: *([\d.]+)"),
        _said(comments, r"spherical aberration: *([\d.]+)"),
        _said(comments, r"amplitude contrast: *([\d.]+)"),
    )


def _said(text: str, pattern: str) -> float | None:
    found = re.search(pattern, text)
    return float(found.group(1)) if found else None


def _star_defocus(path: str | os.PathLike[str]) -> TiltDefocus:
    """Columns _rlnDefocusU, V and Angle of a star file's first table that has them."""
    lens = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    table = read_star_columns(
        path, ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"), optional=("rlnPhaseShift", *lens)
    )
    first = table["rlnDefocusU"] / 1e4
    voltage, aberration, contrast = (float(table[label][0]) if label in table else None for label in lens)
    return TiltDefocus(
        *_main_defoci(first, table["rlnDefocusV"] / 1e4, table["rlnDefocusAngle"]),
        table.get("rlnPhaseShift", np.zeros(len(first))),
        voltage,
        aberration,
        contrast,
    )


def _imod_defocus(name: Path, lines: list[str], views: int) -> TiltDefocus:
    """Lines of first view, last view, two angles, defocus in nm [second, angle] [phase shift] [cut-on]."""
    expected = "CTFFIND, AreTomo or IMOD .defocus lines (views, angles, defocus in nm)"
    version, flags, lines = _imod_version(lines)
    if flags & 16:
        _log.warning(_INVERTED, name, "flag 16")
    astigmatic, shifted = bool(flags & 1), bool(flags & 4)
    width = 5 + 2 * astigmatic + shifted + bool(flags & 32)
    cut = [" ".join(line.split()[:width]) if version > 2 else line for line in lines]
    rows = read_numbers(name, cut, columns=[width], expected=expected)
    if version < 2 and rows[:, 0].min() == 0:
        _log.warning("%s: its views are counted from 0, as by an old ctfplotter; one is added", name)
        rows[:, :2] += 1
    start, end = rows[:, 0], rows[:, 1]
    if start.min() < 1 or (end < start).any() or (rows[:, :2] % 1).any():
        raise InputError(f"{name}: views must be ranges counted from 1; expected {expected}")
    columns = dict.fromkeys(("second", "angle", "phase"), np.zeros(len(rows)))
    if astigmatic:
        columns["second"] = rows[:, 5] / 1e3
        columns["angle"] = np.degrees(rows[:, 6]) if flags & 2 else rows[:, 6]
    if shifted:
        phase = np.abs(rows[:, 5 + 2 * astigmatic])
        columns["phase"] = np.degrees(phase) if flags & 8 else phase
    last = int(end.max())
    found = _between_views((start + end - 2) // 2, max(last, views), first=rows[:, 4] / 1e3, **columns)
    return replace(found, last_view=last)


def _imod_version(lines: list[str]) -> tuple[int, int, list[str]]:
    """Version and flags of a .defocus file, and its lines without them.

    Version 2 stands behind the first line; version 3 has a line of its own that begins with the flags:
    1 astigmatism, 2 its angle in radians, 4 phase shift, 8 in radians, 16 angles inverted, 32 cut-on.
    """
    at = next((n for n, line in enumerate(lines) if line.split()), None)
    words = [] if at is None else lines[at].split()
    if at is None or len(words) != 6 or not words[5].isdigit():
        return 1, 0, lines
    flagged = int(words[5]) > 2 and words[0].isdigit()
    head = "" if flagged else " ".join(words[:5])
    return int(words[5]), int(words[0]) if flagged else 0, [*lines[:at], head, *lines[at + 1 :]]


def _between_views(
    views: NDArray[np.float64],
    count: int,
    *,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    angle: NDArray[np.float64],
    phase: NDArray[np.float64],
) -> TiltDefocus:
    """Interpolate to all views as ctfphaseflip does; a second defocus or phase shift of 0 is none."""
    mean, half, angle = _main_defoci(first, np.where(second == 0, first, second), angle)
    larger = mean + half
    ratio = np.divide(mean - half, larger, out=np.ones(len(larger)), where=larger != 0)
    every = np.arange(count)

    def spread(
        values: NDArray[np.float64], known: NDArray[np.bool_], period: float = 0
    ) -> NDArray[np.float64]:
        if not known.any():
            return np.full(count, values[0])
        at, last = np.unique(views[known][::-1], return_index=True)  # of one view twice, the last holds
        found = values[known][::-1][last]
        return np.interp(every, at, np.unwrap(found, period=period) if period else found)

    larger = spread(larger, np.ones(len(views), bool))
    smaller = larger * spread(ratio, second != 0)
    both = _main_defoci(larger, smaller, spread(angle, second != 0, 180))
    return TiltDefocus(*both, spread(phase, phase != 0))


def _warp_defocus(name: Path, lines: list[str]) -> TiltDefocus:
    """Grids of mean defocus, difference, angle and phase shift with one node per tilt."""
    try:
        root = ElementTree.fromstring("\n".join(lines))
    except ElementTree.ParseError as error:
        raise InputError(f"{name} is not XML: {error}; is it Warp's file of a tilt series?") from error
    used = np.array([word == "True" for word in (root.findtext("UseTilt") or "").split()], dtype=bool)
    if root.tag != "TiltSeries" or not used.any():
        raise InputError(f"{name} is not Warp's file of a tilt series, or uses no tilt; is it the right one?")
    defocus, difference, angle, phase = (
        _warp_grid(name, root, "GridCTF" + grid, len(used))[used]
        for grid in ("", "DefocusDelta", "DefocusAngle", "Phase")
    )
    if root.get("AreAnglesInverted") == "True":
        _log.warning(_INVERTED, name, "AreAnglesInverted")
    said = {str(p.get("Name")): str(p.get("Value")) for p in root.iterfind("CTF/Param")}
    voltage, aberration, contrast = (
        _said(said.get(key, ""), r"^([\d.]+)$") for key in ("Voltage", "Cs", "Amplitude")
    )
    both = _main_defoci(defocus + difference / 2, defocus - difference / 2, angle)
    return TiltDefocus(*both, 180 * phase, voltage, aberration, contrast)


def _warp_grid(name: Path, root: ElementTree.Element, grid: str, tilts: int) -> NDArray[np.float64]:
    """The values of a grid by their Z, one per tilt; a grid of one node holds for all."""
    try:
        nodes = sorted(root.iterfind(f"{grid}/Node"), key=lambda node: int(node.get("Z", "0")))
        values = np.array([float(node.get("Value", "")) for node in nodes])
    except ValueError:
        values = np.array([np.nan])
    if len(values) not in (1, tilts) or not np.isfinite(values).all():
        raise InputError(f"{name}: {grid} must hold one number per tilt, {tilts}; run Warp's CTF step first")
    return np.broadcast_to(values, (tilts,))
