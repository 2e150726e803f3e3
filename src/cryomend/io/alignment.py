"""Alignments of a tilt series: IMOD's .xf and AreTomo's .aln."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomend.io.path import InputError
from cryomend.io.text import read_lines, read_numbers

__all__ = ["Alignment", "read_alignment"]


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
    """

    matrices: NDArray[np.float64]
    shifts_xy: NDArray[np.float64]
    sections: NDArray[np.int64]
    tilt_angles: NDArray[np.float64] | None = None


def read_alignment(path: str | os.PathLike[str]) -> Alignment:
    """Read IMOD's .xf (six numbers a line) or AreTomo's .aln.

    An .aln leaves dark images out; ``SEC`` is the place of the others in the raw stack, counted from 0
    (from 1 where the last one would otherwise lie beyond ``RawSize``). It shifts by ``-(TX, TY)`` and
    turns by ``ROT``, so ``matrix = [[cos, sin], [-sin, cos]] / GMAG`` and ``shift = -matrix (TX, TY)``,
    as AreTomo's own .xf has it. Its local alignment is not applied.

    Parameters
    ----------
    path : path-like
        The file; an .aln is told by its content.

    Returns
    -------
    Alignment

    Raises
    ------
    InputError
        If the file is missing, no text, or neither of the two.
    """
    name, lines = read_lines(path)
    if any(line.startswith("# AreTomo") or line.startswith("# SEC") for line in lines):
        return _areto_alignment(name, lines)
    rows = read_numbers(name, lines, columns=[6], expected="six numbers a line (IMOD .xf) or an AreTomo .aln")
    return Alignment(rows[:, :4].reshape(-1, 2, 2), rows[:, 4:], np.arange(len(rows)))


def _areto_alignment(name: Path, lines: list[str]) -> Alignment:
    """The global table of an .aln: SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT."""
    table, raw = [], 0
    for line in lines:
        if line.startswith("# RawSize"):
            raw = int(line.split()[-1])
        if line.startswith("# Local"):
            break
        if not line.startswith("#"):
            table.append(line)
    rows = read_numbers(
        name, table, columns=[10], expected="ten numbers a line after '# SEC ROT GMAG TX TY ...'"
    )
    angle, scale = np.radians(rows[:, 1]), rows[:, 2]
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    matrices = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], 1)
    shifts = -np.einsum("nij,nj->ni", matrices, rows[:, 3:5])
    sections = rows[:, 0].astype(np.int64)
    if raw and sections.max() == raw:
        sections -= 1
    if sections.min() < 0 or len(set(sections.tolist())) != len(sections):
        raise InputError(f"{name}: the SEC column is no list of different images")
    return Alignment(matrices, shifts, sections, rows[:, 9])
