"""Lists of numbers, JSON and TOML: results that other programs read, and small files that users write."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.io.path import InputError, atomic_path, existing_file, reason

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "read_lines",
    "read_numbers",
    "read_star_columns",
    "read_star_texts",
    "read_toml",
    "write_json",
    "write_text",
]


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON, indented by 2, keys in the order given; NaN and infinity become null, arrays lists."""
    write_text(path, json.dumps(_plain(obj), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8; it appears under its name when complete.

    The names of files may hold bytes that are no UTF-8; these are escaped as Python and JSON do it.
    """
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_lines(path: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """Read the lines of a text file.

    Raises
    ------
    InputError
        If the file is missing, unreadable or no text.
    """
    name = existing_file(path)
    try:
        return name, name.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {name}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not a text file; is it the right one?") from error


def read_numbers(
    name: Path, lines: Sequence[str], *, columns: Sequence[int], expected: str
) -> NDArray[np.float64]:
    """Take rows of finite numbers from lines of text; empty lines and those after ``#`` are skipped.

    Parameters
    ----------
    name : Path
        The file, for the message.
    lines : sequence of str
        Its lines.
    columns : sequence of int
        Numbers a line that are accepted; all lines have as many as the first.
    expected : str
        What should be there, for the message.

    Returns
    -------
    array of float64, shape (rows, columns)

    Raises
    ------
    InputError
        If a line holds anything else, or nothing is there.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        allowed = [len(rows[0])] if rows else columns
        if len(values) not in allowed or not all(math.isfinite(value) for value in values):
            raise InputError(f"{name}: line {number} does not fit; expected {expected}")
        rows.append(values)
    if not rows:
        raise InputError(f"{name} holds no numbers; expected {expected}")
    return np.array(rows)


def read_star_columns(
    path: str | os.PathLike[str], names: Sequence[str], *, optional: Sequence[str] = ()
) -> dict[str, NDArray[np.float64]]:
    """Read columns of numbers from the first table of a star file that has them.

    Parameters
    ----------
    path : path-like
        The file.
    names : sequence of str
        Columns that it must have, without the underscore.
    optional : sequence of str
        Columns that are read if they are there.

    Returns
    -------
    dict of str to array, shape (rows,)

    Raises
    ------
    InputError
        If the file is missing, no star file, has no such table, or a value is not a finite number.
    """
    name, table = _star_table(path, names)
    columns = {}
    for label in (*names, *(n for n in optional if n in table)):
        try:
            columns[label] = np.asarray(table[label], dtype=np.float64)
        except ValueError:
            columns[label] = np.array([np.nan])
        if not np.isfinite(columns[label]).all():
            raise InputError(f"{name}: column _{label} holds values that are not numbers; repair it first")
    return columns


def read_star_texts(
    path: str | os.PathLike[str], names: Sequence[str], *, optional: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Like `read_star_columns`, for columns of words such as file names.

    Raises
    ------
    InputError
        If the file is missing, no star file or has no such table.
    """
    _, table = _star_table(path, names)
    there = [*names, *(n for n in optional if n in table)]
    return {label: [str(value) for value in table[label]] for label in there}


def _star_table(path: str | os.PathLike[str], names: Sequence[str]) -> tuple[Path, Any]:
    """Find the first table that has all the columns."""
    import starfile  # brings pandas, which only this needs

    name, _ = read_lines(path)
    try:
        tables = starfile.read(name, always_dict=True).values()
    except Exception as error:  # the library raises many kinds for files that are not star
        raise InputError(f"{name} is not a star file; is it the right one?") from error
    table = next((t for t in tables if set(names) <= set(getattr(t, "columns", ())) and len(t)), None)
    if table is None:
        raise InputError(
            f"{name} has no table with {', '.join('_' + n for n in names)}; is it the right one?"
        )
    return name, table


def _plain(obj: Any) -> Any:
    """Reduce to what JSON has: dict, list, str, int, float, bool, None."""
    if isinstance(obj, dict):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if hasattr(obj, "tolist"):  # NumPy scalars, arrays and tensors
        return _plain(obj.tolist())
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    return str(obj) if isinstance(obj, os.PathLike) else obj


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If the file is missing, unreadable or not TOML.
    """
    name = existing_file(path)
    try:
        return tomllib.loads(name.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {name}: {reason(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{name} is not valid TOML: {' '.join(str(error).split())}") from error
