"""Membranes: a bilayer profile laid over the distance to a closed surface."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bilayer_profile", "ellipsoid_distance", "ellipsoid_surface"]

HEAD_WIDTH = 5.5  # Å, standard deviation of a head-group peak
TAIL_SHARE = 0.3  # potential of the tails over that of the head groups


def bilayer_profile(
    distance: NDArray[Any], *, head_distance: float = 37.0, amplitude: float = 2.6
) -> NDArray[np.float32]:
    """Potential of a lipid bilayer across its thickness.

    Two Gaussian head-group peaks ``head_distance`` Å apart over a plateau of lower tails, after
    electron-density profiles of fluid bilayers (Nagle & Tristram-Nagle 2000,
    doi:10.1016/S0304-4157(00)00016-2).

    Parameters
    ----------
    distance : array
        Signed distance to the mid-surface in Å.
    head_distance : float
        Between the two head-group peaks, Å.
    amplitude : float
        Potential of the peaks above ice, V.

    Returns
    -------
    array of float32, shape of ``distance``
        V.

    Raises
    ------
    ValueError
        If ``head_distance`` is not positive.
    """
    if head_distance <= 0:
        raise ValueError(f"head_distance must be positive, got {head_distance:g} Å")
    d = np.abs(distance)
    peak = np.exp(-(((d - head_distance / 2) / HEAD_WIDTH) ** 2) / 2)
    plateau = TAIL_SHARE / (1 + np.exp(np.clip((d - head_distance / 2) / 1.5, -50, 50)))
    return (amplitude * np.maximum(peak, plateau)).astype(np.float32)


def ellipsoid_distance(points_zyx: NDArray[Any], semi_axes: NDArray[Any]) -> NDArray[Any]:
    """Signed distance to an ellipsoid's surface, negative inside; exact for a sphere.

    First order in the distance over the radius of curvature otherwise: ``k0 (k0 - 1) / k1`` with
    ``k0 = |p / a|`` and ``k1 = |p / a²|``.

    Parameters
    ----------
    points_zyx : array, shape (..., 3)
        Å from the centre, along the principal axes.
    semi_axes : array, shape (3,)
        Å.
    """
    k0 = np.sqrt(((points_zyx / semi_axes) ** 2).sum(-1))
    k1 = np.sqrt(((points_zyx / semi_axes**2) ** 2).sum(-1))
    distance: NDArray[Any] = k0 * (k0 - 1) / np.maximum(k1, 1e-9)
    return distance


def ellipsoid_surface(
    rng: np.random.Generator, semi_axes: NDArray[Any], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``n`` points evenly spread over an ellipsoid's surface with outward normals.

    A Fibonacci spiral in a random orientation, stretched onto the ellipsoid; even up to the stretch.

    Returns
    -------
    points_zyx, normals_zyx : array, shape (n, 3)
        Å from the centre; unit vectors.
    """
    i = np.arange(n) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / n), np.pi * (1 + 5**0.5) * i
    sphere = np.stack(
        [np.cos(polar), np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth)], axis=1
    )
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    sphere = sphere @ q
    normals = sphere / semi_axes
    return sphere * semi_axes, normals / np.linalg.norm(normals, axis=1, keepdims=True)
