"""Tilt angles from .tlt and .rawtlt lists and SerialEM's .mdoc, and finding the list of a tomogram."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.io.mdoc import read_mdoc_angles, read_mdoc_table
from cryomend.io.path import InputError, atomic_path, existing_file, reason
from cryomend.io.text import read_star_columns

__all__ = ["find_tilt_angles", "read_row_angles", "read_tilt_angles", "write_tilt_angles"]


def read_tilt_angles(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Read tilt angles from a .tlt/.rawtlt list (one per line) or a SerialEM .mdoc.

    A second column (the exposure, as some programs write it) is ignored; mdoc sections are
    taken in the order of their ZValue, that of the images in the stack.

    Parameters
    ----------
    path : path-like
        The file; ``.mdoc`` is told by its extension.

    Returns
    -------
    array, shape (tilt,)
        Degrees, in the order of the stack.

    Raises
    ------
    InputError
        If the file is missing, holds no angles, or an angle is not a number inside ±90 degrees.
    """
    name = existing_file(path)
    placed = read_mdoc_angles(name) if name.suffix.lower() == ".mdoc" else _listed_angles(name)
    if not placed:
        raise InputError(f"{name} holds no tilt angles; expected one angle in degrees per line")
    for place, angle in placed:
        if not -90 <= angle <= 90:
            raise InputError(f"{name}: {place}: tilt angle {angle:g} is outside ±90 degrees")
    return np.array([angle for _, angle in placed])


def read_row_angles(path: str | os.PathLike[str], beside: Sequence[str]) -> NDArray[np.float64] | None:
    """Read the tilts that stand beside the exposures or defoci of an .mdoc or .star, to see its order.

    Parameters
    ----------
    path : path-like
        The file; .mdoc and .star are told by their extension.
    beside : sequence of str
        Of a .star: columns of the table that is meant, without the underscore.

    Returns
    -------
    array, shape (rows,), or None
        Degrees: TiltAngle of an .mdoc by ZValue, _rlnTomoNominalStageTiltAngle or else _rlnTomoYTilt of a
        .star row by row; None where the file does not say all of them.

    Raises
    ------
    InputError
        If an .mdoc or .star is missing or none.
    """
    suffix = Path(path).suffix.lower()
    values: Sequence[Any] | NDArray[np.float64] | None = None
    if suffix == ".mdoc":
        values = [row.get("TiltAngle") for row in read_mdoc_table(path, needs=())]
    elif suffix == ".star":
        labels = ("rlnTomoNominalStageTiltAngle", "rlnTomoYTilt")
        table = read_star_columns(path, beside, optional=labels)
        values = next((table[label] for label in labels if label in table), None)
    angles = np.array([] if values is None else values, dtype=np.float64)  # None becomes nan
    return angles if len(angles) and np.isfinite(angles).all() else None


def _listed_angles(name: Path) -> list[tuple[str, float]]:
    """Read (where, angle) from every line of a text list."""
    try:
        lines = name.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {name}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not a text file of tilt angles") from error
    placed = [(f"line {n}", line.split("#")[0].split()) for n, line in enumerate(lines, start=1)]
    return [(place, _leading_number(words, f"{name}: {place}")) for place, words in placed if words]


def _leading_number(words: list[str], place: str) -> float:
    """Take the first of one or two numbers; more columns are another kind of file (an .xf has six)."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2:
        raise InputError(f"{place} is not a tilt angle; expected one angle in degrees per line")
    return numbers[0]


def write_tilt_angles(path: str | os.PathLike[str], angles: NDArray[Any]) -> None:
    """Write angles in degrees, one per line with four decimals, as IMOD reads them."""
    text = "".join(f"{angle:9.4f}\n" for angle in np.asarray(angles, dtype=np.float64))
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="ascii")


def find_tilt_angles(path: str | os.PathLike[str]) -> Path | None:
    """Find the .tlt or .rawtlt that belongs to a tomogram or stack by its name.

    The stem of ``WT_001.rec.mrc`` is ``WT_001.rec``; if nothing bears it, ``WT_001`` is tried, and
    ``WT_001_rec.mrc`` also finds ``WT_001.tlt``.

    Returns
    -------
    Path or None
        The first that exists, .tlt before .rawtlt.
    """
    name = Path(path)
    stems = [name.stem]
    while Path(stems[-1]).suffix:
        stems.append(Path(stems[-1]).stem)
    stems += [stem.removesuffix("_rec") for stem in stems if stem.endswith("_rec")]
    candidates = [name.with_name(stem + suffix) for stem in stems for suffix in (".tlt", ".rawtlt")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
