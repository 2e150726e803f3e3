"""A place of the content of a tomogram from which tiles are counted, wherever the file begins.

A network that halves its sampling answers a little differently to the same content at another place of its
lattice. Tiles that are counted from the content give a particle the same answer however the tomogram was cut
out or shifted: the choice of the sampling by the data of Chaman and Dokmanić 2021,
doi:10.1109/CVPR46437.2021.00377.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.io import release_pages

__all__ = ["find_anchor"]

_MARGIN = 16  # voxels at the faces that do not count: the ends of the tilts leave extreme values there
_REACH = 2  # voxels around a candidate that decide between equals
_MOST_EQUALS = 4096  # candidates looked at in a section; of a saturated one the first are as good

_Found = tuple[float, float, tuple[int, int, int]]  # deviation, that of the surroundings, place


def find_anchor(volume: NDArray[Any], *, mean: float) -> tuple[int, int, int]:
    """Find the voxel of a volume that is farthest from its mean.

    The faces do not count (16 voxels, or an eighth of a short axis), nor what is flat along X. Of several
    equal voxels, as in data of 8 bits, the one is taken whose surroundings in its section are farthest on the
    same side.

    Parameters
    ----------
    volume : array, shape (Z, Y, X)
        Any real number format, memory-mapped or not; seen once, section by section. Values that are not
        finite must not be among them.
    mean : float
        As `cryomend.restoration.standardise.stream_mean_std` finds it.

    Returns
    -------
    (int, int, int)
        Its index (Z, Y, X); of a flat volume the first.
    """
    margins = [min(_MARGIN, n // 8) for n in volume.shape]
    _, y, x = (slice(margin, n - margin) for margin, n in zip(margins, volume.shape, strict=True))
    best: _Found = (0.0, 0.0, (0, 0, 0))
    for z in range(margins[0], len(volume) - margins[0]):
        section = np.asarray(volume[z, y, x], dtype=np.float32)
        best = _more_extreme(best, section, mean, (z, margins[1], margins[2]))
        release_pages(volume)
    return best[2]


def _more_extreme(
    best: _Found, section: NDArray[np.float32], mean: float, corner: tuple[int, int, int]
) -> _Found:
    """Give the most extreme of what was found before and of a section whose first voxel is ``corner``."""
    live = np.zeros(section.shape, dtype=bool)  # what is flat was filled in, and has no places to tell
    live[:, 1:] = section[:, 1:] != section[:, :-1]
    if not live.any():
        return best
    for sign, extreme in ((1, section[live].max()), (-1, section[live].min())):
        deviation = sign * (float(extreme) - mean)
        if deviation < best[0] or deviation <= 0:
            continue
        for y, x in np.argwhere(live & (section == extreme))[:_MOST_EQUALS]:
            around = section[max(y - _REACH, 0) : y + _REACH + 1, max(x - _REACH, 0) : x + _REACH + 1]
            place = corner[0], corner[1] + int(y), corner[2] + int(x)
            best = max(best, (deviation, sign * (float(around.mean(dtype=np.float64)) - mean), place))
    return best
