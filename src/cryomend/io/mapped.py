"""Volumes larger than memory: voxels that stay in MRC files, read and written piece by piece."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cryomend.io import header as words
from cryomend.io.mrc import Volume, result_header
from cryomend.io.path import InputError, atomic_path, reason

__all__ = ["mapped_volume", "read_sections", "release_pages", "require_room", "scratch_array"]

_SECTIONS = 16  # between two releases of memory: a few tens of MiB


def read_sections(volume: Volume) -> Iterator[NDArray[np.float32]]:
    """Yield the sections of an opened volume as float32, and refuse it when all have been seen.

    Parameters
    ----------
    volume : Volume
        Of `cryomend.io.open_volume`.

    Yields
    ------
    array of float32, shape (Y, X)

    Raises
    ------
    InputError
        After the last section, if voxels are not finite or all are equal.
    """
    bad, first = 0, None
    low, high = math.inf, -math.inf
    for z in range(len(volume.data)):
        section = np.array(volume.data[z], dtype=np.float32, order="C")
        broken = ~np.isfinite(section)
        if broken.any():
            bad += int(broken.sum())
            first = first or (z, *(int(i) for i in np.argwhere(broken)[0]))
        low, high = min(low, float(section.min())), max(high, float(section.max()))
        yield section
        if z % _SECTIONS == 0:
            release_pages(volume.data)
    if first is not None:
        raise InputError(
            f"{volume.path} has {bad} voxels that are NaN or infinite, the first at (Z, Y, X) = {first}; "
            "repair or crop it first"
        )
    if low == high:
        raise InputError(f"{volume.path} is constant (every voxel is {low:g}); is it the right file?")


@contextmanager
def mapped_volume(
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    *,
    voxel_size: float,
    like: Volume | None = None,
    label: str | None = None,
    stack: bool = False,
) -> Iterator[NDArray[np.float32]]:
    """Yield a float32 volume that lies in a new MRC file, to be filled slab by slab.

    The disk space is reserved first. The file stands under its name when the block has ended without
    an error; otherwise nothing is left. Two processes cannot fill the same file.

    Parameters
    ----------
    path : path-like
        Where to write.
    shape : tuple of int
        (Z, Y, X).
    voxel_size : float
        Å; 0 for unknown.
    like : Volume, optional
        What was read from the file this one descends from; its header is kept as by `write_volume`.
    label : str, optional
        Text label of the header.
    stack : bool
        Mark a new file as a stack of images; ignored with ``like``.

    Yields
    ------
    array of float32, shape (Z, Y, X)
        Zeros at first; in the byte order and the storage order of ``like``.

    Raises
    ------
    InputError
        If the place cannot be written, the disk is too full, another process writes the same file, or the
        voxels end up not finite.
    """
    header, extended = result_header(shape, voxel_size=voxel_size, like=like, label=label, stack=stack)
    with atomic_path(path, alone=True) as partial:
        offset = words.HEADER_BYTES + len(extended)
        with open(partial, "wb") as file:
            file.write(header.tobytes() + extended)
            _reserve(file, offset + 4 * math.prod(shape))
        voxels = np.memmap(partial, header.dtype["dmin"], "r+", offset, words.stored_shape(header))
        yield voxels.transpose(words.axis_order(header))
        words.set_statistics(header, voxels, after=lambda: release_pages(voxels))
        if not math.isfinite(float(header["dmean"])):
            raise InputError(f"the result for {Path(path)} is not finite; nothing is written")
        with open(partial, "r+b") as file:
            file.write(header.tobytes())


@contextmanager
def scratch_array(
    directory: str | os.PathLike[str] | None, shape: tuple[int, ...], dtype: DTypeLike
) -> Iterator[NDArray[Any]]:
    """Yield an array of zeros that lies on disk for as long as the block lasts.

    Its file has no name where the system allows that (Linux), so that nothing stays even of a process that
    is killed; elsewhere a temporary one.

    Parameters
    ----------
    directory : path-like or None
        On the disk to use; in memory if None.
    shape : tuple of int
        Of the array.
    dtype : dtype
        Number format.

    Yields
    ------
    array

    Raises
    ------
    InputError
        If the directory cannot be written or its disk is too full.
    """
    if directory is None:
        yield np.zeros(shape, dtype)
        return
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=directory))
            _reserve(file, wanted)
            array = np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            raise InputError(
                f"cannot work in {directory} with a temporary file of {wanted} bytes "
                f"({wanted / 2**30:.1f} GiB): {reason(error)}; make room or choose another output"
            ) from error
        yield array


def require_room(directory: str | os.PathLike[str], wanted: int) -> None:
    """See that a disk has room for temporary files, before the work whose result they will hold.

    Parameters
    ----------
    directory : path-like
        On the disk.
    wanted : int
        Bytes.

    Raises
    ------
    InputError
        If it has less; both numbers are said.
    """
    free = shutil.disk_usage(directory).free
    if free < wanted:
        raise InputError(
            f"{directory} has {free / 2**30:.1f} GiB free and {wanted / 2**30:.1f} GiB are needed for "
            "temporary files; make room or choose another output"
        )


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the disk space of a file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a crash later
    else:
        file.truncate(size)


def release_pages(voxels: NDArray[Any]) -> None:
    """Let go of the memory of a mapped volume; what was written stays in the file."""
    mapping = getattr(voxels, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)
