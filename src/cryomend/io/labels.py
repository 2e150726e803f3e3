"""Label volumes (segmentations) in TIFF stacks and MRC files."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image  # tifffile cannot read LZW by itself, Pillow can

from cryomend.io import header as words
from cryomend.io.mrc import open_mrc
from cryomend.io.path import InputError, existing_file

__all__ = ["read_labels"]

_LARGEST = 65535
_MODES = {"1": np.uint8, "L": np.uint8, "P": np.uint8, "I;16": np.uint16, "I;16B": np.uint16}
_MODES |= {"I": np.uint16, "F": np.uint16}
_ANGSTROM = {"nm": 10.0, "um": 1e4, "µm": 1e4, "\\u00B5m": 1e4, "micron": 1e4, "angstrom": 1.0, "Å": 1.0}


def read_labels(path: str | os.PathLike[str]) -> tuple[NDArray[Any], float]:
    """Read a label volume from a TIFF stack (any compression) or an MRC file, plane by plane.

    Parameters
    ----------
    path : path-like
        A ``.tif`` or ``.tiff``, whose palette indices or grey levels are the labels; else an MRC file.

    Returns
    -------
    labels : array of uint8 or uint16, shape (Z, Y, X)
        0 where nothing is labelled.
    voxel_size : float
        Å, from the MRC header or ImageJ's notes; 0.0 if unknown or not cubic.

    Raises
    ------
    InputError
        If the file is missing or unreadable, is one image or images of different sizes, is in colour,
        holds something else than whole numbers from 0 to 65535, or no label at all.
    """
    name = existing_file(path)
    is_tiff = name.suffix.lower() in (".tif", ".tiff")
    labels, voxel_size = _read_tiff(name) if is_tiff else _read_mrc(name)
    if not labels.any():
        raise InputError(f"{name} holds no labels, every voxel is 0; is it the right file?")
    return labels, voxel_size


def _read_mrc(name: Path) -> tuple[NDArray[Any], float]:
    """Read the voxels of an MRC file as labels."""
    name, header, _, stored = open_mrc(name)
    sizes = words.header_voxel_sizes(header)
    cubic = 0 < min(sizes) and max(sizes) <= 1.01 * min(sizes)
    labels = np.empty(stored.shape, dtype=np.uint8 if stored.dtype.itemsize == 1 else np.uint16)
    return _collect(labels, stored, name), float(np.mean(sizes)) if cubic else 0.0


def _read_tiff(name: Path) -> tuple[NDArray[Any], float]:
    """Read the images of a TIFF stack as planes of labels."""
    broken = (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, struct.error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd tags and of large images
        try:
            with Image.open(name, formats=["TIFF"]) as image:
                if image.mode not in _MODES:
                    raise InputError(f"{name} is in colour (mode {image.mode}); save it as grey levels")
                shape = (_n_images(image), image.height, image.width)
                labels = np.empty(shape, dtype=_MODES[image.mode])
                return _collect(labels, _planes(image, name), name), _imagej_voxel_size(image)
        except InputError:
            raise
        except (*broken, Image.DecompressionBombError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{name} is not a readable TIFF stack ({why}); save it again") from error


def _n_images(image: Any) -> int:
    """Number of images in the stack."""
    return int(image.n_frames)


def _planes(image: Any, name: Path) -> Iterator[NDArray[Any]]:
    """Decode one image after another; all of one size and mode."""
    size, mode = image.size, image.mode
    for z in range(_n_images(image)):
        image.seek(z)
        if image.size != size or image.mode != mode:
            raise InputError(f"{name}: image {z + 1} has another size or type than the first; save a stack")
        yield np.asarray(image)


def _collect(labels: NDArray[Any], planes: Iterable[NDArray[Any]], name: Path) -> NDArray[Any]:
    """Fill ``labels`` with planes, refusing what is no label."""
    if len(labels) < 2:
        raise InputError(f"{name} is a single image; a label volume is a stack (Z, Y, X) of them")
    for target, plane in zip(labels, planes, strict=True):
        if plane.dtype not in (np.uint8, np.uint16, np.bool_):
            whole = np.isfinite(plane).all() and (plane == np.rint(plane)).all()
            if not whole or plane.min() < 0 or plane.max() > np.iinfo(labels.dtype).max:
                raise InputError(
                    f"{name} holds values that are no labels; they are whole numbers from 0 to {_LARGEST}"
                )
        target[:] = plane
    return labels


def _imagej_voxel_size(image: Any) -> float:
    """Voxel size in Å from the notes that ImageJ leaves in a TIFF; 0.0 if there are none or not cubic."""
    note = str(image.tag_v2.get(270, ""))
    notes = dict(line.split("=", 1) for line in note.splitlines() if "=" in line)
    try:
        unit, depth = _ANGSTROM[notes["unit"]], float(notes["spacing"])
        size = unit / float(image.tag_v2[282])
    except (KeyError, ValueError, ZeroDivisionError):
        return 0.0
    return size if size > 0 and abs(unit * depth - size) <= 0.01 * size else 0.0
