"""Tilt geometry: angles, the missing wedge, rotations.

Axes, centre and the sign of the tilt are those of CONVENTIONS.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

__all__ = [
    "angular_weights",
    "missing_wedge_mask",
    "random_rotation",
    "random_rotations",
    "tilt_angles_from_range",
]


def tilt_angles_from_range(tilt_min: float, tilt_max: float, step: float) -> NDArray[np.float64]:
    """Tilt angles from ``tilt_min`` to ``tilt_max`` inclusive, every ``step`` degrees.

    Raises
    ------
    ValueError
        If the step is not positive or the range is empty or leaves [-90, 90].
    """
    if not 0 < step < math.inf:
        raise ValueError(f"tilt step must be positive, got {step:g}")
    if not -90 <= tilt_min < tilt_max <= 90:
        raise ValueError(f"need -90 <= tilt_min < tilt_max <= 90, got {tilt_min:g}, {tilt_max:g}")
    n = math.floor((tilt_max - tilt_min) / step + 1e-6) + 1
    return tilt_min + step * np.arange(n, dtype=np.float64)


def missing_wedge_mask(
    shape: tuple[int, int, int],
    *,
    tilt_min: float,
    tilt_max: float,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mark the Fourier voxels that a single-axis tilt series measured.

    The tilt axis is Y and the beam is Z, so a tilt by ``t`` degrees samples the
    plane ``kz = kx * tan(t)``; what lies between the extreme planes is measured.

    Parameters
    ----------
    shape : tuple of int
        Volume shape (Z, Y, X), in voxels.
    tilt_min, tilt_max : float
        Extreme tilt angles in degrees, ``-90 < tilt_min < tilt_max < 90``.
    device : torch.device or str, optional
        Where the mask is made; PyTorch's default device if None.

    Returns
    -------
    Tensor of bool, shape (Z, Y, X)
        True where measured; un-shifted layout of ``torch.fft.fftn``.

    Raises
    ------
    ValueError
        If the angles are not in increasing order inside (-90, 90).
    """
    if not -90 < tilt_min < tilt_max < 90:
        raise ValueError(f"need -90 < tilt_min < tilt_max < 90, got {tilt_min:g}, {tilt_max:g}")
    kz = torch.fft.fftfreq(shape[0], dtype=torch.float64, device=device)[:, None, None]
    kx = torch.fft.fftfreq(shape[2], dtype=torch.float64, device=device)[None, None, :]
    kz = torch.where(kx < 0, -kz, kz)  # Friedel mate, so that kx >= 0 everywhere
    low, high = (kx.abs() * math.tan(math.radians(t)) for t in (tilt_min, tilt_max))
    measured = (low - 1e-9 <= kz) & (kz <= high + 1e-9)
    return measured.expand(shape)


def angular_weights(tilt_angles: NDArray[Any]) -> NDArray[np.float64]:
    """Share of the angular integral that each tilt stands for, in radians.

    The trapezoid rule on the sorted angles: half the distance to each neighbour, the
    full one-sided distance at the two ends. Repeated angles share their interval.

    Parameters
    ----------
    tilt_angles : array, shape (tilt,)
        Degrees, any order.

    Returns
    -------
    array, shape (tilt,)
        Weights in radians, in the order given; for a regular step they all equal the step.
    """
    angles = np.radians(np.asarray(tilt_angles, dtype=np.float64))
    unique, inverse, counts = np.unique(angles, return_inverse=True, return_counts=True)
    if len(unique) == 1:
        return np.full(len(angles), math.pi / len(angles))
    widths = np.gradient(unique)
    return (widths / counts)[inverse]


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a rotation matrix (3, 3) uniformly over SO(3)."""
    rotation: NDArray[np.float64] = random_rotations(rng, 1)[0]
    return rotation


def random_rotations(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Draw ``n`` rotation matrices (n, 3, 3) uniformly over SO(3), by uniform unit quaternions."""
    return Rotation.from_quat(rng.standard_normal((n, 4))).as_matrix().reshape(n, 3, 3)
