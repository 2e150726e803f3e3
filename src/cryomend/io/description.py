"""Saying in words what was understood of a file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.io import header as words
from cryomend.io.alignment import read_alignment
from cryomend.io.angles import find_tilt_angles, read_tilt_angles
from cryomend.io.ctf import read_defocus
from cryomend.io.mrc import open_mrc
from cryomend.io.path import InputError, existing_file

__all__ = ["describe_file"]


def describe_file(path: str | os.PathLike[str]) -> dict[str, str]:
    """Tell what was understood of a file, without refusing what only a later step would refuse.

    Parameters
    ----------
    path : path-like
        An MRC volume or stack, a .tlt, .rawtlt or .mdoc list of tilt angles, an .xf or .aln alignment, a file
        of defocus values (.defocus, .xml, _CTF.txt) or a .star file.

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
    ending = name.suffix.lower()
    if ending in _OTHERS:
        raise InputError(
            f"{name}: info tells of MRC files, lists of angles, alignments, defocus and star files"
        )
    return {"file": str(name)} | _DESCRIBERS.get(ending, _describe_mrc)(name)


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


def _describe_alignment(name: Path) -> dict[str, str]:
    """Count the images of an alignment, and tell how far they are turned and moved."""
    found = read_alignment(name)
    turned = np.degrees(np.arctan2(found.matrices[:, 1, 0], found.matrices[:, 0, 0]))
    described = {
        "kind": "alignment",
        "images": str(len(found.matrices)),
        "rotation": f"{turned.min():.4g} to {turned.max():.4g} degrees",
        "largest shift": f"{np.abs(found.shifts_xy).max():.4g} pixels",
    }
    if found.tilt_angles is not None:
        described["range"] = f"{found.tilt_angles.min():g} to {found.tilt_angles.max():g} degrees"
    if found.raw_shape is not None:
        described["raw stack"] = " x ".join(map(str, found.raw_shape)) + " (image, Y, X)"
    return described


def _describe_defocus(name: Path) -> dict[str, str]:
    """Count the images of a defocus file, and tell its ranges."""
    found = read_defocus(name)
    return {
        "kind": "defocus",
        "images": str(len(found.defocus_um)),
        "defocus": f"{found.defocus_um.min():.4g} to {found.defocus_um.max():.4g} µm",
        "astigmatism": f"up to {found.astigmatism_um.max():.3g} µm",
    }


def _describe_star(name: Path) -> dict[str, str]:
    """List the tables of a star file."""
    import starfile  # brings pandas, which only this needs

    try:
        tables = starfile.read(name, always_dict=True)
    except Exception as error:  # the library raises many kinds for files that are not star
        raise InputError(f"{name} is not a star file; is it the right one?") from error
    if not tables:
        raise InputError(f"{name} holds no table; is it a star file?")
    described = {"kind": "star"}
    for title, table in tables.items():
        rows = len(table) if hasattr(table, "columns") else 1
        columns = ", ".join(map(str, getattr(table, "columns", table)))
        described[f"data_{title}"] = f"{rows} row{'s' if rows != 1 else ''} of {columns}"
    return described


_DESCRIBERS: dict[str, Callable[[Path], dict[str, str]]] = {
    **dict.fromkeys((".tlt", ".rawtlt", ".mdoc"), _describe_angles),
    **dict.fromkeys((".xf", ".aln"), _describe_alignment),
    **dict.fromkeys((".defocus", ".xml", ".txt"), _describe_defocus),
    ".star": _describe_star,
}
_OTHERS = (
    ".toml",
    ".yaml",
    ".yml",
    ".json",
    ".h5",
    ".hdf5",
    ".html",
    ".png",
    ".csv",
    ".tif",
    ".tiff",
    ".eer",
)
