"""Tomograms of a voxel size that the network does not know: resampled to one that it does, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryomend.fourier import resample_fourier
from cryomend.io import InputError

__all__ = ["resample_volume", "shape_for_network", "sizes_in_words"]

_TOLERANCE = 0.001  # of a voxel size: headers round
_FARTHEST = 2.0  # times the nearest trained voxel size: beyond, what is left shows no structure of the other
_SLAB = 16  # sections that are transformed at a time


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

    One axis after the other and some sections at a time, so that no transform of the whole volume is in
    memory.

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
    if tuple(volume.shape) == tuple(shape):
        return volume.float()
    z, y, x = shape
    planes = torch.empty(volume.shape[0], y, x)
    for start in range(0, len(planes), _SLAB):
        planes[start : start + _SLAB] = resample_fourier(volume[start : start + _SLAB].float(), (y, x))
    if z == len(planes):
        return planes
    resampled = torch.empty(shape)
    for start in range(0, y, _SLAB):  # planes (Z, X), of which only Z changes
        upright = planes[:, start : start + _SLAB].movedim(1, 0)
        resampled[:, start : start + _SLAB] = resample_fourier(upright, (z, x)).movedim(0, 1)
    return resampled
