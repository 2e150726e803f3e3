"""What a validation looks at: the central part of a pair, its scores and a picture of its sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cryomend.evaluation.fsc import mean_fsc, shell_resolution, sum_shells
from cryomend.evaluation.pictures import central_sections, grey_range
from cryomend.geometry import missing_wedge_mask
from cryomend.training.crops import PreparedPair

__all__ = ["SCORES", "central_part", "draw_sections", "score_restored"]

SCORES = ("correlation", "wedge_correlation", "wedge_fsc", "measured_fsc")
_GAP = 4  # pixels of white between the sections of a picture


def central_part(shape: Sequence[int], *, multiple: int, most: int = 128) -> tuple[slice, ...]:
    """The central window of a volume, sides a multiple long and at most ``most``."""
    sizes = [min(n, most) // multiple * multiple for n in shape]
    return tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, sizes, strict=True))


def score_restored(restored: Tensor, density: Tensor, pair: PreparedPair) -> dict[str, float]:
    """Compare with the truth, everywhere and inside and outside the pair's missing wedge.

    Parameters
    ----------
    restored, density : Tensor of float32, shape (Z, Y, X)
        A part of the pair in its true pose.
    pair : PreparedPair
        For its tilt range and voxel size.

    Returns
    -------
    dict of float
        By the names of ``SCORES``: correlations, and the FSC averaged over shells of 400 to 40 Å; NaN where
        there is nothing to compare.
    """
    low, high = pair.tilt_range
    shape = (density.shape[0], density.shape[1], density.shape[2])
    measured = missing_wedge_mask(shape, tilt_min=low, tilt_max=high, device=density.device)
    sums = dict(
        zip(("all", "wedge", "rest"), sum_shells(restored, density, [None, ~measured, measured]), strict=True)
    )
    resolution = shell_resolution(
        len(sums["all"].curve()), smallest_axis=min(shape), voxel_size=pair.voxel_size
    )
    return {
        "correlation": sums["all"].correlation(),
        "wedge_correlation": sums["wedge"].correlation(),
        "wedge_fsc": mean_fsc(sums["wedge"].curve(), resolution),
        "measured_fsc": mean_fsc(sums["rest"].curve(), resolution),
    }


def draw_sections(tomogram: Tensor, restored: Tensor, density: Tensor) -> NDArray[np.uint8]:
    """Central x-y (above) and x-z sections of input, output and truth (left to right) in one grey picture.

    Parameters
    ----------
    tomogram, restored, density : Tensor, shape (Z, Y, X)
        Output and truth share their grey levels.

    Returns
    -------
    array of uint8, shape (Y + Z + gap, 3 X + 2 gaps)
    """
    volumes = [volume.detach().float().cpu().numpy() for volume in (tomogram, restored, density)]
    ranges = [grey_range(volumes[0]), grey_range(volumes[2]), grey_range(volumes[2])]
    sections = [central_sections(volume) for volume in volumes]
    rows = [
        _join([_grey(s[plane], r) for s, r in zip(sections, ranges, strict=True)], axis=1)
        for plane in ("xy", "xz")
    ]
    return _join(rows, axis=0)


def _grey(section: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """0 to 255 from the lower to the upper limit."""
    scaled = (section - limits[0]) / (limits[1] - limits[0])
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)


def _join(pictures: Sequence[NDArray[np.uint8]], *, axis: int) -> NDArray[np.uint8]:
    """Put pictures side by side along an axis, with a white gap between."""
    width = pictures[0].shape[1 - axis]
    gap = np.full((_GAP, width) if axis == 0 else (width, _GAP), 255, np.uint8)
    spaced = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(spaced, axis=axis)
