"""Rotations that cover SO(3) evenly, for searches over the pose of a particle."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

__all__ = ["rotation_grid"]

_PHI = math.sqrt(2)
_PSI = 1.533751168755204288118041  # the root of psi^4 = psi + 4 that the paper recommends with sqrt(2)


def rotation_grid(angular_step: float) -> NDArray[np.float64]:
    """Spread rotations evenly over SO(3), about so far apart.

    Parameters
    ----------
    angular_step : float
        Degrees, at least 2 and at most 60: the cube of this angle is the share of SO(3) that each has.
        No rotation is farther than one step from the grid; half a step in the mean.

    Returns
    -------
    array of float64, shape (n, 3, 3)
        Rotation matrices, ``n`` about ``8 pi^2 / step^3`` (step in radians): 550 at 30 degrees, 14,900 at 10.

    Raises
    ------
    ValueError
        If the step leaves its range.

    Notes
    -----
    With the angle of rotation as distance SO(3) has the volume ``8 pi^2``.

    References
    ----------
    Super-Fibonacci spirals: Alexa 2022, doi:10.1109/CVPR52688.2022.00811.
    """
    if not 2 <= angular_step <= 60:
        raise ValueError(f"the angular step must lie between 2 and 60 degrees, got {angular_step:g}")
    n = math.ceil(8 * math.pi**2 / math.radians(angular_step) ** 3)
    s = np.arange(n) + 0.5
    inner, outer = np.sqrt(s / n), np.sqrt(1 - s / n)
    alpha, beta = 2 * np.pi * s / _PHI, 2 * np.pi * s / _PSI
    quaternions = [inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)]
    return Rotation.from_quat(np.stack(quaternions, axis=1)).as_matrix()
