"""Alignments of a tilt series: IMOD's .xf, AreTomo's .aln, tilt-series star files of RELION 5."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomend.io.path import InputError
from cryomend.io.text import read_lines, read_numbers, read_star_columns

__all__ = ["Alignment", "read_alignment"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alignment:
    """Where the pixels of raw images go: ``(X', Y') = matrix (X, Y) + shift``, from the image centres.

    Attributes
    ----------
    matrices : array, shape (tilt, 2, 2)
        Act on (x, y) columns; centres are the middle of the image, pixel ``(n - 1) / 2``.
    shifts_xy : array, shape (tilt, 2)
        Pixels of the raw stack.
    sections : array of int, shape (tilt,)
        Places of the images in the raw stack, from 0.
    tilt_angles : array, shape (tilt,), or None
        Degrees, where the file has them.
    raw_shape : tuple of int, or None
        (images, height, width) of the raw stack, dark images included, where the file says.
    tilt_offset : float
        Degrees that are contained in ``tilt_angles`` beyond the stage's (AreTomo's AlphaOffset).
    """

    matrices: NDArray[np.float64]
    shifts_xy: NDArray[np.float64]
    sections: NDArray[np.int64]
    tilt_angles: NDArray[np.float64] | None = None
    raw_shape: tuple[int, int, int] | None = None
    tilt_offset: float = 0.0


def read_alignment(path: str | os.PathLike[str], *, pixel_size: float | None = None) -> Alignment:
    """Read IMOD's .xf (six numbers a line), AreTomo's .aln or a tilt-series .star of RELION 5.

    - .xf: ``A11 A12 A21 A22 DX DY``, one line per image of the raw stack.
    - .aln: AreTomo looks up the aligned point ``p`` at ``R(ROT) p + (TX, TY)``, from centres in the middle
      of the image as IMOD's, so ``matrix = [[cos, sin], [-sin, cos]] / GMAG`` and
      ``shift = -matrix (TX, TY)``, which is its own .xf; GMAG has always been 1. Dark images are left
      out. ``SEC`` counts from 0 in older files and from 1 in newer ones. It is taken from 1 where it
      reaches the number of images in RawSize, or where dark frames are listed and, as AreTomo itself tells,
      no section is 0 and the first dark frame has two different numbers. Its local alignment is not
      applied, and a warning says so.
    - .star: the projection is ``p = Rz(ZRot) Ry(YTilt) Rx(XTilt) r + shift``, so the matrix is
      ``Rz(-ZRot)`` and the shift ``-matrix (XShiftAngst, YShiftAngst) / pixel_size``. RELION turns about
      pixel ``n // 2`` but takes the shifts of IMOD and AreTomo as they are, and so does this.

    Parameters
    ----------
    path : path-like
        The file; a .star is told by its extension, an .aln by its content.
    pixel_size : float, optional
        Of the raw stack in Å; only .star files need it.

    Returns
    -------
    Alignment

    Raises
    ------
    InputError
        If the file is missing, no text or none of these, a matrix cannot be inverted, or the pixel size is
        needed and not known.
    """
    if Path(path).suffix.lower() == ".star":
        return _relion_alignment(path, pixel_size)
    name, lines = read_lines(path)
    if any(line.startswith("# AreTomo") or line.startswith("# SEC") for line in lines):
        return _areto_alignment(name, lines)
    rows = read_numbers(name, lines, columns=[6], expected="six numbers a line (IMOD .xf) or an AreTomo .aln")
    matrices = rows[:, :4].reshape(-1, 2, 2)
    flat = np.flatnonzero(np.abs(np.linalg.det(matrices)) < 1e-6)
    if len(flat):
        raise InputError(f"{name}: the matrix of image {flat[0] + 1} cannot be inverted; align it again")
    return Alignment(matrices, rows[:, 4:], np.arange(len(rows)))


def _turned(angle: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices that turn by ``-angle`` (degrees, from X towards Y) and divide by ``scale``."""
    cosine, sine = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale
    return np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)


def _areto_alignment(name: Path, lines: list[str]) -> Alignment:
    """The global table of an .aln: SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT."""
    local = next((n for n, line in enumerate(lines) if line.startswith("# Local")), len(lines))
    if any(line.strip() for line in lines[local + 1 :]):
        _log.warning("%s: its local alignment is not applied, only the global one", name)
    expected = "ten numbers a line after '# SEC ROT GMAG TX TY ...'"
    rows = read_numbers(name, lines[:local], columns=[10], expected=expected)
    if not (rows[:, 2] > 0).all():
        raise InputError(f"{name}: GMAG must be positive; is it the .aln that AreTomo wrote?")
    width, height, count = _noted(name, lines, "RawSize", 3) or (0, 0, 0)
    alpha, beta = (_noted(name, lines, key, 1) or (0.0,) for key in ("AlphaOffset", "BetaOffset"))
    if beta[0]:
        _log.warning("%s: its BetaOffset of %g degrees, a tilt about X, is not applied", name, beta[0])
    matrices = _turned(rows[:, 1], rows[:, 2])
    return Alignment(
        matrices,
        -np.einsum("nij,nj->ni", matrices, rows[:, 3:5]),
        _areto_sections(name, lines, rows[:, 0], int(count)),
        rows[:, 9],
        (int(count), int(height), int(width)) if count else None,
        alpha[0],
    )


def _noted(name: Path, lines: Sequence[str], key: str, count: int) -> tuple[float, ...] | None:
    """The first ``count`` numbers of the header line ``# KEY = ...``, or None if there is none."""
    found = next((m for line in lines if (m := re.match(rf"#\s*{key}\s*=(.*)", line))), None)
    if found is None:
        return None
    numbers = read_numbers(
        name,
        [" ".join(found[1].split()[:count])],
        columns=[count],
        expected=f"'# {key} =' with {count} number{'s' * (count > 1)}",
    )
    return tuple(float(number) for number in numbers[0])


def _areto_sections(
    name: Path, lines: Sequence[str], listed: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """The SEC column counted from 0; ``count`` is the length of the raw stack, 0 if not known."""
    dark = [line.split("=")[1].split()[:2] for line in lines if re.match(r"#\s*DarkFrame\s*=", line)]
    zero = 0 in listed or any(pair[1:] == ["0"] for pair in dark) or (dark and len(set(dark[0])) == 1)
    one = listed.max() == count or (not zero and (dark or not count))
    sections = listed.astype(np.int64) - bool(one)
    if (listed % 1).any() or sections.min() < 0 or len(np.unique(sections)) != len(sections):
        raise InputError(f"{name}: the SEC column is no list of different images; is it whole?")
    if count and sections.max() >= count:
        raise InputError(f"{name}: SEC goes beyond the {count} images of its RawSize; is it the right file?")
    return sections


def _relion_alignment(path: str | os.PathLike[str], pixel_size: float | None) -> Alignment:
    """Columns _rlnTomoZRot, YTilt, XShiftAngst, YShiftAngst [XTilt] of a tilt series."""
    labels = ("rlnTomoZRot", "rlnTomoYTilt", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
    table = read_star_columns(path, labels, optional=("rlnTomoXTilt",))
    if pixel_size is None or not pixel_size > 0:
        raise InputError(f"{path} gives shifts in Å; say the pixel size of the stack")
    about_x = table.get("rlnTomoXTilt", np.zeros(1))
    if np.abs(about_x).max() > 0.005:
        _log.warning("%s: its tilt about X of %.2f degrees is not applied", path, about_x.mean())
    matrices = _turned(table[labels[0]], np.ones(len(table[labels[0]])))
    shifts = np.stack([table[labels[2]], table[labels[3]]], 1) / pixel_size
    return Alignment(
        matrices, -np.einsum("nij,nj->ni", matrices, shifts), np.arange(len(shifts)), table[labels[1]]
    )
