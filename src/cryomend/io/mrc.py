"""Volumes and stacks in MRC files: read with every check a user needs, written with the header kept."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.io import header as words
from cryomend.io.path import InputError, atomic_path, check_writable, existing_file, reason

__all__ = [
    "Volume",
    "open_mrc",
    "open_stack",
    "open_volume",
    "read_image",
    "read_stack",
    "read_volume",
    "result_header",
    "write_volume",
]

_MINIMUM_SIZE = 16  # voxels along an axis: one step of the network's coarsest level


@dataclass
class Volume:
    """A tomogram, map or tilt series with what is needed to write it back.

    Attributes
    ----------
    data : array, shape (Z, Y, X) or (tilt, Y, X)
        float32 voxels in the file's grey levels.
    voxel_size : float
        Å; 0.0 for a stack whose header has none.
    path : Path or None
        The file it came from.
    header : structured array or None
        The 1024-byte MRC header, in the byte order of the file.
    extended_header : bytes
        What stood between header and data.
    """

    data: NDArray[np.float32]
    voxel_size: float
    path: Path | None = None
    header: NDArray[Any] | None = None
    extended_header: bytes = b""

    @property
    def origin_zyx(self) -> tuple[float, float, float]:
        """Origin of the header in Å, as (Z, Y, X)."""
        if self.header is None:
            return (0.0, 0.0, 0.0)
        origin = self.header["origin"]
        return float(origin["z"]), float(origin["y"]), float(origin["x"])

    @property
    def labels(self) -> list[str]:
        """The text labels of the header that are not empty."""
        return [] if self.header is None else words.labels(self.header)


def read_volume(
    path: str | os.PathLike[str],
    *,
    voxel_size: float | None = None,
    minimum_size: int = _MINIMUM_SIZE,
    may_be_constant: bool = False,
) -> Volume:
    """Read a tomogram or map from an MRC file and refuse what cannot be worked with.

    Modes 0, 1, 2, 6 and 12 of either byte order are read. Mode 0 is signed unless IMOD's stamp or
    the header's own maximum says unsigned. Axes stored in another order are brought to (Z, Y, X).

    Parameters
    ----------
    path : path-like
        The file; the extension does not matter.
    voxel_size : float, optional
        Å; replaces what the header says.
    minimum_size : int
        Fewest voxels along every axis.
    may_be_constant : bool
        Take a volume whose voxels are all equal, such as the truth of empty ice.

    Returns
    -------
    Volume
        ``data`` of shape (Z, Y, X), float32, all finite and not constant unless that is allowed.

    Raises
    ------
    InputError
        If the file is missing, unreadable, not an MRC, truncated, of another mode, a stack of volumes,
        too small, constant or not finite, or if its voxel size is missing or differs by more than 1 %
        between the axes.
    """
    volume = open_volume(path, voxel_size=voxel_size, minimum_size=minimum_size)
    volume.data = _checked_data(
        volume.data,
        volume.path or Path(path),
        minimum_shape=(minimum_size,) * 3,
        may_be_constant=may_be_constant,
    )
    return volume


def open_volume(
    path: str | os.PathLike[str], *, voxel_size: float | None = None, minimum_size: int = _MINIMUM_SIZE
) -> Volume:
    """Like `read_volume`, but the voxels stay on disk, in the file's own number format.

    `cryomend.io.read_sections` looks at them one section after the other.

    Raises
    ------
    InputError
        As `read_volume`, except for voxels that are not finite or all equal: nobody has looked yet.
    """
    name, header, extended, stored = open_mrc(path)
    if 401 <= header["ispg"] <= 630 and 0 < header["mz"] < header["nz"]:
        raise InputError(f"{name} holds {int(header['nz'] // header['mz'])} volumes; give them one by one")
    size = _given_size(voxel_size, "--voxel-size") or _cubic_size(header, name)
    _refuse_small(stored, name, minimum_shape=(minimum_size,) * 3)
    return Volume(stored, size, name, header, extended)


def read_stack(path: str | os.PathLike[str], *, pixel_size: float | None = None) -> Volume:
    """Read a tilt series (or any image stack) from an MRC file.

    Like :func:`read_volume`, but any number of images is accepted and so is a missing pixel size.

    Parameters
    ----------
    path : path-like
        The file.
    pixel_size : float, optional
        Å; replaces what the header says.

    Returns
    -------
    Volume
        ``data`` of shape (tilt, Y, X); ``voxel_size`` is the pixel size in Å, 0.0 if unknown.

    Raises
    ------
    InputError
        As :func:`read_volume`, except for the number of images and a pixel size of 0.
    """
    volume = open_stack(path, pixel_size=pixel_size)
    volume.data = _checked_data(
        volume.data, volume.path or Path(path), minimum_shape=(1, _MINIMUM_SIZE, _MINIMUM_SIZE)
    )
    return volume


def open_stack(path: str | os.PathLike[str], *, pixel_size: float | None = None) -> Volume:
    """Like `read_stack`, but the images stay on disk, in the file's own number format.

    Raises
    ------
    InputError
        As `read_stack`, except for voxels that are not finite or all equal: nobody has looked yet.
    """
    name, header, extended, stored = open_mrc(path)
    sizes = words.header_voxel_sizes(header, "xy")
    size = _given_size(pixel_size, "--pixel-size")
    if size is None:
        size = 0.0 if min(sizes) <= 0 else _common_size(sizes, name, "--pixel-size")
    _refuse_small(stored, name, minimum_shape=(1, _MINIMUM_SIZE, _MINIMUM_SIZE))
    return Volume(stored, size, name, header, extended)


def read_image(stack: Volume, index: int) -> NDArray[np.float32]:
    """Read one image of an opened stack as float32.

    Raises
    ------
    InputError
        If a pixel is not finite.
    """
    image = np.array(stack.data[index], dtype=np.float32, order="C")
    if not np.isfinite(image).all():
        raise InputError(
            f"{stack.path}: image {index + 1} has {int((~np.isfinite(image)).sum())} pixels that are NaN or "
            "infinite; repair it or leave it out first"
        )
    return image


def open_mrc(path: str | os.PathLike[str]) -> tuple[Path, words.Header, bytes, NDArray[Any]]:
    """Open without reading the voxels: name, header, extended header, memory-mapped voxels as (Z, Y, X).

    Raises
    ------
    InputError
        If the file is missing, unreadable, not an MRC, truncated or of a mode that is not supported.
    """
    name = existing_file(path)
    try:
        with open(name, "rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            header = words.parse_header(file.read(words.HEADER_BYTES), file_bytes=file_bytes, name=name)
            extended = file.read(int(header["nsymbt"]))
        offset = words.HEADER_BYTES + len(extended)
        stored = np.memmap(name, words.voxel_dtype(header), "r", offset, words.stored_shape(header))
    except OSError as error:
        raise InputError(f"cannot read {name}: {reason(error)}") from error
    return name, header, extended, stored.transpose(words.axis_order(header))


def _given_size(size: float | None, option: str) -> float | None:
    """Check a sampling that the user gave."""
    if size is not None and not (math.isfinite(size) and size > 0):
        raise InputError(f"{option} must be a positive number of Å, got {size:g}")
    return size


def _cubic_size(header: words.Header, name: Path) -> float:
    """Take the one voxel size of the header in Å, or say what to pass."""
    sizes = words.header_voxel_sizes(header)
    if min(sizes) <= 0:
        raise InputError(f"{name} has voxel size 0 in its header; pass --voxel-size with the size in Å")
    return _common_size(sizes, name, "--voxel-size")


def _common_size(sizes: list[float], name: Path, option: str) -> float:
    """Take the mean of sizes that agree within 1 %; a wedge computed on others would be at wrong angles."""
    if max(sizes) > 1.01 * min(sizes):
        listed = ", ".join(f"{axis} {size:.4g}" for axis, size in zip("XYZ", sizes, strict=False))
        raise InputError(
            f"{name} has different voxel sizes along its axes ({listed} Å); resample it to cubic voxels, "
            f"or pass {option} if the header is wrong"
        )
    return sizes[0] if max(sizes) == min(sizes) else float(np.mean(sizes))


def _checked_data(
    stored: NDArray[Any], name: Path, *, minimum_shape: tuple[int, int, int], may_be_constant: bool = False
) -> NDArray[np.float32]:
    """Return the voxels as native float32, if enough, finite and, unless allowed, not all equal."""
    _refuse_small(stored, name, minimum_shape=minimum_shape)
    data = np.array(stored, dtype=np.float32, order="C")
    _refuse_non_finite(data, str(name), advice="repair or crop it first")
    if not may_be_constant and data.min() == data.max():
        raise InputError(f"{name} is constant (every voxel is {data.flat[0]:g}); is it the right file?")
    return data


def _refuse_small(stored: NDArray[Any], name: Path, *, minimum_shape: tuple[int, int, int]) -> None:
    """Refuse a volume or stack with fewer voxels than are needed along an axis."""
    if any(n < least for n, least in zip(stored.shape, minimum_shape, strict=True)):
        axes = "each axis" if minimum_shape[0] > 1 else "Y and X"
        raise InputError(
            f"{name} has {' x '.join(map(str, stored.shape))} voxels; along {axes} at least "
            f"{minimum_shape[-1]} are needed; give a larger one"
        )


def _refuse_non_finite(data: NDArray[np.float32], name: str, *, advice: str) -> None:
    """Count voxels that are not finite, section by section so that no second volume is made."""
    count, first = 0, None
    for z, section in enumerate(data):
        bad = ~np.isfinite(section)
        if bad.any():
            count += int(bad.sum())
            first = first or (z, *(int(i) for i in np.argwhere(bad)[0]))
    if first is not None:
        raise InputError(
            f"{name} has {count} voxels that are NaN or infinite, the first at (Z, Y, X) = {first}; {advice}"
        )


def write_volume(
    path: str | os.PathLike[str],
    data: NDArray[Any],
    *,
    voxel_size: float,
    like: Volume | None = None,
    label: str | None = None,
    stack: bool = False,
) -> None:
    """Write a float32 MRC file; with ``like``, keep everything of that file's header that still holds.

    Kept from ``like``, byte for byte: byte order, origin, start indices, axis order, cell angles,
    space group, labels, unassigned words and the extended header; and the cell, if shape and voxel
    size are the same.

    Parameters
    ----------
    path : path-like
        Where to write; replaced only when the new file is complete.
    data : array, shape (Z, Y, X) or (tilt, Y, X)
        Voxels, all finite.
    voxel_size : float
        Å; 0 for unknown.
    like : Volume, optional
        What was read from the file this one descends from.
    label : str, optional
        Appended to the labels if there is room for it (ten in all).
    stack : bool
        Mark a new file as a stack of images; ignored with ``like``.

    Raises
    ------
    InputError
        If the place cannot be written or voxels are not finite.
    ValueError
        If ``data`` does not have three axes.
    """
    if np.ndim(data) != 3:
        raise ValueError(f"need three axes (Z, Y, X), got shape {np.shape(data)}")
    final = check_writable(path)
    voxels = np.asarray(data, dtype=np.float32)
    _refuse_non_finite(voxels, f"the result for {final}", advice="nothing is written")
    header, extended = result_header(voxels.shape, voxel_size=voxel_size, like=like, label=label, stack=stack)
    stored = voxels.transpose(np.argsort(words.axis_order(header)))
    words.set_statistics(header, voxels)
    with atomic_path(final) as partial, open(partial, "wb") as file:
        file.write(header.tobytes() + extended)
        for section in stored:  # never a second volume in memory
            file.write(section.astype(header.dtype["dmin"]).tobytes())


def result_header(
    shape: tuple[int, ...], *, voxel_size: float, like: Volume | None, label: str | None, stack: bool
) -> tuple[words.Header, bytes]:
    """Make header and extended header of a float32 volume (Z, Y, X), as `write_volume` describes them."""
    kept = None if like is None else like.header
    header = words.new_header(stack=stack) if kept is None else kept.copy()
    extended = b"" if like is None else like.extended_header
    order = np.argsort(words.axis_order(header))
    words.set_geometry(header, tuple(shape[axis] for axis in order), voxel_size)
    words.set_float32(header)
    words.append_label(header, label)
    header["nsymbt"] = len(extended)
    return header, extended
