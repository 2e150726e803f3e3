"""Tomograms of a voxel size that the network does not know: resampled to one that it does, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.fourier import resample_fourier
from cryomend.io import InputError, release_pages, scratch_array
from cryomend.restoration.spectrum import blocks, read_part, read_rows, write_rows

__all__ = ["resample_mapped", "resample_volume", "shape_for_network", "sizes_in_words"]

_TOLERANCE = 0.001  # of a voxel size: headers round
_FARTHEST = 2.0  # times the nearest trained voxel size: beyond, what is left shows no structure of the other


def shape_for_network(
    shape: tuple[int, int, int], voxel_size: float, trained: Sequence[float] | None
) -> tuple[tuple[int, int, int], float] | None:
    """Find the sampling nearest to that of a tomogram that the network was trained on.

    Parameters
    ----------
    shape : tuple of int
        (Z, Y, X) of the tomogram.
    voxel_size : float
        Å.
    trained : (float, float), optional
        Smallest and largest voxel size of the training, Å; None if nobody knows.

    Returns
    -------
    tuple or None
        Shape and voxel size (Å) to resample to; None where the tomogram is to stay as it is.

    Raises
    ------
    InputError
        If the voxels are more than twice too large or too small.
    """
    if trained is None or trained[0] * (1 - _TOLERANCE) <= voxel_size <= trained[1] * (1 + _TOLERANCE):
        return None
    nearest = min(max(voxel_size, trained[0]), trained[1])
    factor = voxel_size / nearest
    if not 1 / _FARTHEST <= factor <= _FARTHEST:
        what = "bin it" if factor < 1 else "reconstruct it with smaller voxels"
        raise InputError(
            f"voxels of {voxel_size:g} Å are too far from the {sizes_in_words(trained)} that the model was "
            f"trained on; {what}, or pass --voxel-size if the header is wrong"
        )
    z, y, x = (round(n * factor) for n in shape)
    return (z, y, x), nearest


def sizes_in_words(trained: Sequence[float]) -> str:
    """Write a range of voxel sizes."""
    return f"{trained[0]:g} to {trained[1]:g} Å" if trained[0] < trained[1] else f"{trained[0]:g} Å"


def resample_volume(volume: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Give a volume more or fewer voxels by padding or cropping its Fourier transform.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Taken as periodic: steps between opposite faces are smeared into the voxels at the faces.
    shape : tuple of int
        (Z, Y, X) of the result.

    Returns
    -------
    Tensor of float32, shape ``shape``
        As `cryomend.fourier.resample_fourier` has it; of the same shape the volume itself.
    """
    resampled = np.empty(shape, dtype=np.float32)
    resample_mapped(resampled, volume.numpy())
    return torch.from_numpy(resampled)


def resample_mapped(resampled: NDArray[Any], volume: NDArray[Any], *, directory: Path | None = None) -> None:
    """Do as `resample_volume` on volumes that need not fit into memory.

    First Y and X of some sections at a time, then Z of some rows at a time, so that no transform of the whole
    volume is in memory.

    Parameters
    ----------
    resampled : array of float32, shape (Z', Y', X')
        Filled with the result; memory-mapped or not.
    volume : array, shape (Z, Y, X)
        Of any number format, memory-mapped or not.
    directory : path, optional
        Where what lies between the two steps, (Z, Y', X') in float32, is put on disk; in memory if None.

    Raises
    ------
    InputError
        If there is no room for it on the disk.
    """
    z, y, x = resampled.shape
    if z == len(volume):
        _resample_sections(resampled, volume)
        return
    with scratch_array(directory, (len(volume), y, x), np.float32) as planes:
        _resample_sections(planes, volume)
        for rows in blocks(y, 8 * max(z, len(planes)) * x):  # planes (Z, X), of which only Z changes
            upright = read_rows(planes, rows).movedim(1, 0)
            write_rows(resampled, rows, resample_fourier(upright, (z, x)).movedim(0, 1))


def _resample_sections(resampled: NDArray[Any], volume: NDArray[Any]) -> None:
    """Change Y and X only; copy where they stay."""
    y, x = resampled.shape[1:]
    for slab in blocks(len(volume), 8 * max(y * x, volume.shape[1] * volume.shape[2])):
        part = read_part(volume, slab)
        resampled[slab] = (part if part.shape[1:] == (y, x) else resample_fourier(part, (y, x))).numpy()
        release_pages(volume)
        release_pages(resampled)
