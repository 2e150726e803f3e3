"""Tilt schemes: in which order the tilts are recorded, and how many electrons each receives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["recording_order", "share_fluence"]


def recording_order(
    tilt_angles: NDArray[Any],
    *,
    scheme: str = "dose-symmetric",
    start: float = 0.0,
    group: int = 1,
    direction: int = 1,
) -> NDArray[np.int64]:
    """Place of every tilt in time.

    Parameters
    ----------
    tilt_angles : array, shape (tilt,)
        Degrees, any order.
    scheme : str
        ``dose-symmetric`` (outwards from the start, sides alternating after every ``group`` tilts; Hagen
        et al. 2017, doi:10.1016/j.jsb.2016.06.007), ``bidirectional`` (from the start upwards, then
        from it downwards) or ``continuous`` (from the lowest to the highest).
    start : float
        Degrees; where the first two schemes begin.
    group : int
        Tilts of one side in a row in the dose-symmetric scheme.
    direction : int
        -1 mirrors the scheme: downwards first.

    Returns
    -------
    array of int64, shape (tilt,)
        0 for the first.

    Raises
    ------
    ValueError
        If the scheme is unknown.
    """
    away = direction * (np.asarray(tilt_angles, dtype=np.float64) - start)
    rank = np.empty(len(away), dtype=np.int64)  # how many of the same side lie nearer to the start
    upwards = away >= 0
    for side in (upwards, ~upwards):
        rank[side] = np.argsort(np.argsort(np.abs(away[side]), kind="stable"), kind="stable")
    if scheme == "dose-symmetric":
        first = int(np.argmin(np.where(upwards, away, np.inf))) if upwards.any() else -1
        if first >= 0:  # the start itself stands before the first group
            rank[upwards] -= 1
        turn = np.where(rank < 0, -1, rank // group)
        sequence = np.lexsort((rank, ~upwards, turn))
    elif scheme == "bidirectional":
        sequence = np.lexsort((rank, ~upwards))
    elif scheme == "continuous":
        sequence = np.argsort(away, kind="stable")
    else:
        raise ValueError(
            f"unknown tilt scheme {scheme!r}; choose dose-symmetric, bidirectional or continuous"
        )
    place = np.empty(len(away), dtype=np.int64)
    place[sequence] = np.arange(len(away))
    return place


def share_fluence(tilt_angles: NDArray[Any], *, fluence: float, exponent: float = 0.0) -> NDArray[np.float64]:
    """Share a fluence among the tilts, proportional to ``1 / cos^n``.

    Parameters
    ----------
    tilt_angles : array, shape (tilt,)
        Degrees.
    fluence : float
        e⁻/Å² over the whole series.
    exponent : float
        n; 0 gives all tilts the same, 1 makes up for the longer path. The cosine is taken as 0.1 at least.

    Returns
    -------
    array, shape (tilt,)
        e⁻/Å² of each tilt; they sum to ``fluence``.
    """
    cosine = np.maximum(np.cos(np.radians(np.asarray(tilt_angles, dtype=np.float64))), 0.1)
    shares = cosine**-exponent
    shared: NDArray[np.float64] = fluence * shares / shares.sum()
    return shared
