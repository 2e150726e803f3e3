"""The MRC header: its byte order, sizes, axis order, signs and labels.

Layout: Cheng et al., MRC2014, J. Struct. Biol. 192, 146 (2015), doi:10.1016/j.jsb.2015.04.002, and
IMOD's additions, https://bio3d.colorado.edu/imod/doc/mrc_format.txt.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import dtype_from_mode, machine_stamp_from_byte_order
from numpy.typing import NDArray

from cryomend.io.path import InputError

Header = NDArray[Any]  # zero-dimensional, of mrcfile's HEADER_DTYPE in either byte order

_SECTIONS = 16  # in flight at a time: a few tens of MiB
_THREADS = min(4, os.cpu_count() or 1)
HEADER_BYTES: int = HEADER_DTYPE.itemsize
MODE_NAMES = {
    0: "8-bit integer",
    1: "16-bit signed integer",
    2: "32-bit real",
    3: "16-bit complex",
    4: "32-bit complex",
    6: "16-bit unsigned integer",
    12: "16-bit real",
    16: "RGB",
    101: "4-bit integer",
}
_READABLE_MODES = (0, 1, 2, 6, 12)
_IMOD_STAMP = 1146047817
_LABEL_BYTES = 80


def parse_header(raw: bytes, *, file_bytes: int, name: Path) -> Header:
    """Interpret the first 1024 bytes in the byte order that makes sense of them.

    Raises
    ------
    InputError
        If this is no MRC header, its mode is not of real grey levels, or the file is too short for it.
    """
    if raw[:2] == b"\x1f\x8b":
        raise InputError(f"{name} is gzip-compressed; unpack it first (gunzip)")
    if len(raw) < HEADER_BYTES:
        raise InputError(f"{name} is not an MRC file: {len(raw)} bytes, where the header alone has 1024")
    header = _plausible_header(raw)
    has_map_word = raw[208:211] == b"MAP"
    # files of older programs lack that word; their size must then agree to the byte
    if not has_map_word and (header is None or expected_bytes(header) != file_bytes):
        raise InputError(f"{name} is not an MRC file (no MAP word in its header); convert it to MRC first")
    if header is None:
        raise InputError(f"{name} has a damaged MRC header (no sense in its mode and sizes); write it again")
    _check_mode(int(header["mode"]), name)
    _check_size(header, file_bytes, name)
    return header


def _plausible_header(raw: bytes) -> Header | None:
    """Return the header in the first byte order whose mode and sizes make sense; stamps are often wrong."""
    stamped, other = (">", "<") if raw[212] == 0x11 else ("<", ">")
    for byte_order in (stamped, other):
        header = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(byte_order)).reshape(()).copy()
        if int(header["mode"]) in MODE_NAMES and min(stored_shape(header)) > 0 and header["nsymbt"] >= 0:
            return header
    return None


def _check_mode(mode: int, name: Path) -> None:
    """Refuse the modes that are not real grey levels."""
    if mode not in _READABLE_MODES:
        advice = "give the real-space volume" if mode in (3, 4) else "convert it to mode 2 (32-bit real)"
        raise InputError(f"{name} has {MODE_NAMES[mode]} data (MRC mode {mode}), not supported; {advice}")


def _check_size(header: Header, file_bytes: int, name: Path) -> None:
    """Refuse a file that is shorter than its header says, or longer by a section or more."""
    expected = expected_bytes(header)
    z, y, x = stored_shape(header)
    says = f"its header says {z} x {y} x {x} voxels of mode {int(header['mode'])}, {expected} bytes in all"
    if expected > file_bytes:
        raise InputError(
            f"{name} is truncated: {says}, but the file has {file_bytes}; copy or write it again"
        )
    # some programs fill up the last block of a file: a few bytes more mean nothing
    if file_bytes - expected >= y * x * voxel_dtype(header).itemsize:
        raise InputError(
            f"{name} is longer than its header tells: {says}, but the file has {file_bytes}, so the header "
            "is of another volume; write it again"
        )


def stored_shape(header: Header) -> tuple[int, int, int]:
    """Return (sections, rows, columns) as stored."""
    return int(header["nz"]), int(header["ny"]), int(header["nx"])


def expected_bytes(header: Header) -> int:
    """Return the file size that the header implies, for the modes that can be read; else of the header."""
    n_voxels = math.prod(stored_shape(header)) if int(header["mode"]) in _READABLE_MODES else 0
    return HEADER_BYTES + int(header["nsymbt"]) + n_voxels * (voxel_dtype(header).itemsize if n_voxels else 0)


def voxel_dtype(header: Header) -> np.dtype[Any]:
    """Return the type of one stored voxel, with its byte order."""
    mode = int(header["mode"])
    if mode == 0 and not bytes_are_signed(header):
        return np.dtype(np.uint8)
    dtype: np.dtype[Any] = np.dtype(dtype_from_mode(mode))
    return dtype.newbyteorder(header.dtype["mode"].byteorder)


def bytes_are_signed(header: Header) -> bool:
    """Tell whether mode 0 is signed: by IMOD's flag if its stamp is there, else as MRC2014 if it can be."""
    words = np.frombuffer(header["extra2"].tobytes(), header.dtype["mode"])
    stamp, flags = int(words[10]), int(words[11])
    if stamp == _IMOD_STAMP:
        return bool(flags & 1)
    return not (header["dmin"] >= 0 and header["dmax"] > 127)


def axis_order(header: Header) -> tuple[int, int, int]:
    """Return the permutation from stored (section, row, column) to (Z, Y, X); mapc = 1: columns are X."""
    stored = [int(header[word]) for word in ("maps", "mapr", "mapc")]
    if sorted(stored) != [1, 2, 3]:  # many writers leave zeros: the usual order
        return (0, 1, 2)
    return stored.index(3), stored.index(2), stored.index(1)


def header_voxel_sizes(header: Header, axes: str = "xyz") -> list[float]:
    """Return the cell length over the sampling along each axis, in Å; 0 where the header does not say."""
    sizes = []
    for axis in axes:
        n, length = int(header["m" + axis]), float(header["cella"][axis])
        # seven digits: all that float32 holds, so that 10.52 is 10.52
        sizes.append(float(f"{length / n:.7g}") if n > 0 and math.isfinite(length) and length > 0 else 0.0)
    return sizes


def labels(header: Header) -> list[str]:
    """Return the text labels that are not empty."""
    texts = (bytes(label).decode("ascii", "replace").strip("\x00 ") for label in header["label"])
    return [text for text in texts if text]


def new_header(*, stack: bool) -> Header:
    """Make a header with the words that the format fixes; a stack of images has space group 0."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["ispg"] = 0 if stack else 1
    for angle in ("alpha", "beta", "gamma"):
        header["cellb"][angle] = 90.0
    return header


def set_geometry(header: Header, shape: tuple[int, ...], voxel_size: float) -> None:
    """Set sizes (``shape`` as stored) and cell; a cell that already says so stays as it is, byte for byte."""
    same_shape = stored_shape(header) == shape
    same_size = all(math.isclose(size, voxel_size, rel_tol=0.01) for size in header_voxel_sizes(header))
    header["nz"], header["ny"], header["nx"] = shape
    mean_size = float(np.mean(header_voxel_sizes(header)))
    if same_shape and same_size and math.isclose(mean_size, voxel_size, rel_tol=1e-6):
        return
    for axis, place in zip("zyx", axis_order(header), strict=True):
        header["m" + axis] = shape[place]
        header["cella"][axis] = shape[place] * voxel_size


def set_float32(header: Header) -> None:
    """Set the words that identify a float32 MRC file in the header's own byte order."""
    header["mode"] = 2
    header["map"] = b"MAP "
    header["machst"] = machine_stamp_from_byte_order(header.dtype["mode"].byteorder)
    header["nversion"] = header["nversion"] or 20141


def set_statistics(
    header: Header, data: NDArray[np.float32], *, after: Callable[[], None] | None = None
) -> None:
    """Set minimum, maximum, mean and standard deviation, in float64 and section by section.

    ``after`` is called now and then, to let go of the memory of mapped sections that were seen.
    """
    pivot = float(data[0].mean(dtype=np.float64))  # near the mean: squares about it lose no digits

    def sums(section: NDArray[np.float32]) -> tuple[float, float, float, float]:
        about = (section - pivot).astype(np.float64).ravel()
        return float(section.min()), float(section.max()), float(about.sum()), float(about @ about)

    with ThreadPoolExecutor(_THREADS) as pool:
        rows: list[tuple[float, float, float, float]] = []
        for start in range(0, len(data), _SECTIONS):
            rows += pool.map(sums, data[start : start + _SECTIONS])
            if after is not None:
                after()
    low, high, first, second = zip(*rows, strict=True)
    mean = sum(first) / data.size
    header["dmin"], header["dmax"] = min(low), max(high)
    header["dmean"] = pivot + mean
    header["rms"] = math.sqrt(max(sum(second) / data.size - mean**2, 0.0))


def append_label(header: Header, label: str | None) -> None:
    """Put one more text label after those in use, if one of the ten is free."""
    used = [i for i, text in enumerate(header["label"]) if bytes(text).strip(b"\x00 ")]
    place = used[-1] + 1 if used else 0
    if label is not None and place < len(header["label"]):
        header["label"][place] = label.encode("ascii", "replace")[:_LABEL_BYTES]
        place += 1
    header["nlabl"] = place
