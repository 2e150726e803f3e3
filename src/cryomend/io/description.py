"""Saying in words what was understood of a file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.io import header as words
from cryomend.io.angles import find_tilt_angles, read_tilt_angles
from cryomend.io.mrc import open_mrc
from cryomend.io.path import existing_file

__all__ = ["describe_file"]


def describe_file(path: str | os.PathLike[str]) -> dict[str, str]:
    """Tell what was understood of a file, without refusing what only a later step would refuse.

    Parameters
    ----------
    path : path-like
        An MRC volume or stack, or a .tlt, .rawtlt or .mdoc list of tilt angles.

    Returns
    -------
    dict of str
        Names and values in the order to print them.

    Raises
    ------
    InputError
        If the file cannot be understood at all.
    """
    name = existing_file(path)
    is_list = name.suffix.lower() in (".tlt", ".rawtlt", ".mdoc")
    return {"file": str(name)} | (_describe_angles(name) if is_list else _describe_mrc(name))


def _describe_angles(name: Path) -> dict[str, str]:
    """Describe count, range and step of a list of tilt angles."""
    angles = read_tilt_angles(name)
    step = float(np.median(np.diff(np.sort(angles)))) if len(angles) > 1 else 0.0
    return {
        "kind": "tilt angles",
        "tilts": str(len(angles)),
        "range": f"{angles.min():g} to {angles.max():g} degrees",
        "median step": f"{step:.3g} degrees",
    }


def _describe_mrc(name: Path) -> dict[str, str]:
    """Describe header and statistics of an MRC file, and the tilt angles beside it."""
    name, header, extended, stored = open_mrc(name)
    beside = find_tilt_angles(name)
    angles = None if beside is None else read_tilt_angles(beside)
    is_stack = name.suffix.lower() in (".st", ".ali", ".mrcs")
    is_stack = is_stack or (angles is not None and len(angles) == len(stored))
    origin = header["origin"]
    described = {
        "kind": "MRC, tilt series or image stack" if is_stack else "MRC, volume",
        "shape": f"{' x '.join(map(str, stored.shape))} ({'image' if is_stack else 'Z'}, Y, X)",
        "mode": _describe_mode(header),
        "voxel size": _describe_sizes(words.header_voxel_sizes(header)),
        "origin": f"{origin['z']:g}, {origin['y']:g}, {origin['x']:g} Å (Z, Y, X)",
        "extended header": f"{len(extended)} bytes" if extended else "none",
        "labels": " | ".join(words.labels(header)) or "none",
        "grey levels": _describe_levels(stored),
        "tilt angles": "none found beside it",
    }
    if angles is not None:
        described["tilt angles"] = f"{angles.min():g} to {angles.max():g} degrees, {len(angles)} in {beside}"
    return described


def _describe_mode(header: words.Header) -> str:
    """Name the MRC mode, the sign of bytes and the byte order."""
    mode = int(header["mode"])
    sign = (", signed" if words.bytes_are_signed(header) else ", unsigned") if mode == 0 else ""
    byte_order = "big" if header.dtype["mode"].str.startswith(">") else "little"
    return f"{mode}, {words.MODE_NAMES[mode]}{sign}, {byte_order}-endian"


def _describe_sizes(sizes: list[float]) -> str:
    """Give one number if cubic, three if not, and what to do if the header has none."""
    if min(sizes) <= 0:
        return "not in the header; pass --voxel-size"
    if max(sizes) <= 1.01 * min(sizes):
        return f"{sizes[0]:.4g} Å"
    x, y, z = sizes
    return f"{z:.4g}, {y:.4g}, {x:.4g} Å (Z, Y, X), not cubic"


def _describe_levels(stored: NDArray[Any]) -> str:
    """Give minimum, maximum, mean and standard deviation of the finite voxels, section by section."""
    moments = np.zeros(3)
    low, high = math.inf, -math.inf
    for section in stored:
        values = section[np.isfinite(section)].astype(np.float64)
        if values.size:
            moments += (values.size, values.sum(), np.square(values).sum())
            low, high = min(low, values.min()), max(high, values.max())
    if moments[0] == 0:
        return "no finite voxel"
    mean, square = moments[1:] / moments[0]
    deviation = math.sqrt(max(square - mean**2, 0.0))
    levels = f"minimum {low:g}, maximum {high:g}, mean {mean:g}, standard deviation {deviation:g}"
    bad = stored.size - int(moments[0])
    return levels + (f"; {bad} voxels are NaN or infinite" if bad else "")
