"""Mean and standard deviation that a few extreme voxels (gold, contamination) do not move."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.io import release_pages

__all__ = ["robust_mean_std", "sample_rows", "stream_mean_std"]

_SAMPLE = 2**22  # voxels: the median of four million is exact enough to start from
_ITERATIONS = 20


def robust_mean_std(volume: Tensor, *, limit: float = 5.0) -> tuple[float, float]:
    """Compute mean and standard deviation over the voxels within ``limit`` deviations of the mean.

    The rule: start from the median and 1.4826 times the median absolute deviation (the standard deviation
    of Gaussian data); take mean and standard deviation of the voxels within ``limit`` deviations of
    the centre; repeat with these until nothing changes. Of Gaussian data five deviations leave out
    one voxel in two million, so the result is the plain one; a gold bead of a hundred deviations does not
    count. If more than half of the voxels are equal (a masked volume), it starts from the plain values.

    Parameters
    ----------
    volume : Tensor
        Any shape.
    limit : float
        Deviations beyond which a voxel does not count.

    Returns
    -------
    mean, std : float
        ``std`` is positive.

    Raises
    ------
    ValueError
        If all voxels are equal.
    """
    mean, std = _start(volume)
    for _ in range(_ITERATIONS):
        previous = mean, std
        mean, std = _moments(volume, mean - limit * std, mean + limit * std)
        if std == 0:  # all but a few voxels are equal: then these few are the signal
            mean, std = _moments(volume, -math.inf, math.inf)
            break
        if (mean, std) == previous:
            break
    if std == 0:
        raise ValueError("the volume is constant and cannot be standardised")
    return mean, std


def stream_mean_std(
    sections: Iterable[NDArray[np.float32]], sample: NDArray[np.float32], *, limit: float = 5.0
) -> tuple[float, float]:
    """Do as `robust_mean_std` on a volume that is seen only once, one section after the other.

    The rule is carried through on the sample; the pass over all sections then takes mean and standard
    deviation of the voxels within the limits that it found.

    Parameters
    ----------
    sections : iterable of array, shape (Y, X)
        All of the volume; taken to the end.
    sample : array
        Voxels from all over it, of any shape; those that are not finite do not count.
    limit : float
        As `robust_mean_std` has it.

    Returns
    -------
    mean, std : float
        ``std`` is positive.

    Raises
    ------
    ValueError
        If all voxels are equal.
    """
    finite = sample[np.isfinite(sample)]
    telling = finite.size > 0 and bool(finite.min() < finite.max())
    # of a sample that tells nothing every voxel counts
    start = robust_mean_std(torch.from_numpy(finite)[None], limit=limit) if telling else (0.0, math.inf)
    low, high = start[0] - limit * start[1], start[0] + limit * start[1]
    mean, std = _section_moments(map(torch.from_numpy, sections), low, high)
    if std > 0:
        return mean, std
    if not telling:
        raise ValueError("the volume is constant and cannot be standardised")
    return start  # all voxels between the limits are equal: those that the sample met are the signal


def sample_rows(voxels: NDArray[Any]) -> NDArray[np.float32]:
    """Take rows from all over a volume, for `stream_mean_std` or in the place of the whole.

    Parameters
    ----------
    voxels : array, shape (Z, Y, X)
        Any real number format, memory-mapped or not; of up to four million voxels all are taken.

    Returns
    -------
    array of float32, shape (rows, X)
    """
    every = -(-voxels.size // _SAMPLE)
    rows = []
    for z, section in enumerate(voxels):
        rows.append(np.array(section[(z * 37) % every :: every], dtype=np.float32))  # not the same rows
        release_pages(voxels)
    return np.concatenate(rows)


def _start(volume: Tensor) -> tuple[float, float]:
    """Give median and scaled median absolute deviation of a regular sample of voxels."""
    flat = volume.detach().reshape(-1)
    sample = flat[:: max(1, -(-flat.numel() // _SAMPLE))].double().cpu().numpy()
    centre = float(np.median(sample))
    deviation = 1.4826 * float(np.median(np.abs(sample - centre)))
    return (centre, deviation) if deviation > 0 else _moments(volume, -math.inf, math.inf)


def _moments(volume: Tensor, low: float, high: float) -> tuple[float, float]:
    """Give mean and standard deviation of the voxels inside [low, high]."""
    return _section_moments(volume.detach().cpu(), low, high)


def _section_moments(sections: Iterable[Tensor], low: float, high: float) -> tuple[float, float]:
    """Give mean and standard deviation of the voxels inside [low, high], in float64, section by section."""
    count, total, squares = 0, 0.0, 0.0
    reference = 0.0
    for section in sections:
        values = section.double()
        values = values[(values >= low) & (values <= high)]
        if count == 0 and values.numel():
            reference = float(values.mean())  # subtracted, so that a large offset costs no digits
        count += values.numel()
        total += float((values - reference).sum())
        squares += float(((values - reference) ** 2).sum())
    if count == 0:
        return 0.0, 0.0
    mean = total / count
    return reference + mean, math.sqrt(max(squares / count - mean**2, 0.0))
