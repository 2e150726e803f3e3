"""JSON and TOML: results that other programs read, and small files that users write."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

from cryomend.io.path import InputError, atomic_path, existing_file, reason

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_toml", "write_json", "write_text"]


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON, indented by 2, keys in the order given; NaN and infinity become null, arrays lists."""
    write_text(path, json.dumps(_plain(obj), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8; it appears under its name when complete."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


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
