"""Closed forms: the foot of the perpendicular from a point to an ellipsoid, a tube or an arc."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["along_arc", "arc", "ellipsoid_feet", "tube_feet"]


def ellipsoid_feet(
    points: NDArray[Any], axes: NDArray[Any], within: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Signed distances and feet on an ellipsoid for points along its axes; beyond ``within``, bounds."""
    distance = (np.sqrt(((points / axes) ** 2).sum(1)) - 1) * axes.min()  # never more than the true one
    near = np.flatnonzero(np.abs(distance) <= within)
    size = np.maximum(np.abs(points[near]), 1e-6 * axes.min())  # on a plane of symmetry the sum has poles
    scaled, squares = size * axes, axes**2
    t = (scaled - squares).max(1)
    for _ in range(12):
        below = 1 / (squares + t[:, None])
        terms = (scaled * below) ** 2
        t += (terms.sum(1) - 1) / (2 * (terms * below).sum(1))
    feet = points.copy()
    feet[near] = np.copysign(squares * size / (squares + t[:, None]), points[near])
    away = np.linalg.norm(points[near] - feet[near], axis=1)
    distance[near] = np.copysign(away, distance[near])
    return distance, feet


def tube_feet(points: NDArray[Any], axis: NDArray[Any], radius: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Signed distances and feet on a tube, from the nearest point of its axis for each point."""
    away = points - axis
    length = np.maximum(np.linalg.norm(away, axis=1), 1e-6)
    return length - radius, axis + away * (radius / length)[:, None]


def arc(along: NDArray[Any], bend_radius: float) -> NDArray[np.float64]:
    """Points (n, 3) at path lengths ``along`` of an arc that leaves the origin along Z and bends to Y."""
    if math.isinf(bend_radius):
        return np.stack([along, np.zeros_like(along), np.zeros_like(along)], axis=1)
    angle = along / bend_radius
    z, y = bend_radius * np.sin(angle), 2 * bend_radius * np.sin(angle / 2) ** 2
    return np.stack([z, y, np.zeros_like(z)], axis=1)


def along_arc(points: NDArray[Any], half: float, bend_radius: float) -> NDArray[Any]:
    """Path length of the point of the arc from ``-half`` to ``half`` that is nearest to each point."""
    if math.isinf(bend_radius):
        return np.clip(points[:, 0], -half, half)
    angle = np.arctan2(points[:, 0], bend_radius - points[:, 1])
    return np.clip(bend_radius * angle, -half, half)
