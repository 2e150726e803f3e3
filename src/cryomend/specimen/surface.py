"""Mid-surfaces of membranes as distance fields: ellipsoids, tori, tubules, sheets and stacks.

A closed form gives distance and foot of the perpendicular; an undulation lifts the foot along the
normal, and the lifted surface is measured anew (`cryomend.specimen.level_set`). Shapes have a frame of
their own, ZYX from their centre, that ``rotation`` and ``centre_px`` carry into the volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.specimen.branched_surface import branched_surface
from cryomend.specimen.label_surface import labelled_surface
from cryomend.specimen.level_set import measure_anew
from cryomend.specimen.perpendicular import along_arc, arc, ellipsoid_feet, tube_feet
from cryomend.specimen.random_field import Undulation, random_undulation
from cryomend.specimen.surface_grid import NODE_SPACING, Frame, Surface
from cryomend.specimen.surface_points import surface_area, surface_points, surface_spread

__all__ = [
    "Frame",
    "Surface",
    "Undulation",
    "branched_surface",
    "double",
    "ellipsoid_surface",
    "labelled_surface",
    "random_undulation",
    "sheet_surface",
    "stack_surface",
    "surface_area",
    "surface_points",
    "surface_spread",
    "torus_surface",
    "tubule_surface",
]

# Points (n, 3) in Å from the shape's centre -> signed distances (n,) and feet (n, 3) on the surface.
_Feet = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class _Shape:
    """A closed form in its own frame and what is needed to draw it; lengths in Å."""

    feet: _Feet
    low: NDArray[np.float64]  # bounding box in the axes of the volume, from the centre
    high: NDArray[np.float64]
    radius: float  # smallest radius of curvature
    limit: float  # largest undulation
    closed: bool
    levels: tuple[float, ...] = (0.0,)  # of the parallel sheets


def ellipsoid_surface(
    semi_axes: NDArray[Any],
    *,
    centre_px: NDArray[Any],
    rotation: NDArray[Any],
    frame: Frame,
    undulation: Undulation | None = None,
) -> Surface:
    """Distance to an ellipsoid, exact also far from a sphere.

    Parameters
    ----------
    semi_axes : array, shape (3,)
        Along the shape's Z, Y and X, Å; all equal for a sphere.
    centre_px : array, shape (3,)
        Voxel coordinates ZYX; may lie outside the volume.
    rotation : array, shape (3, 3)
        Left-multiplies ZYX columns of the shape's frame.
    frame : Frame
        Volume, voxel size and reach.
    undulation : Undulation, optional
        Lifts the surface along its normal.

    Returns
    -------
    Surface
        Closed.

    Raises
    ------
    ValueError
        If an axis is not positive, or the surface does not come within reach of the volume.

    Notes
    -----
    The foot of ``p`` is ``a² p / (a² + t)`` where ``t`` solves ``sum (a p / (a² + t))² = 1``; Newton's
    method converges from below because the sum falls and is convex in ``t``.
    """
    axes = np.asarray(semi_axes, dtype=np.float64)
    if axes.shape != (3,) or not (axes > 0).all():
        raise ValueError(f"semi_axes must be three positive lengths in Å, got {semi_axes}")
    extent = np.sqrt(((np.asarray(rotation) * axes) ** 2).sum(1))
    radius = float(axes.min() ** 2 / axes.max())
    highest = 0.0 if undulation is None else 5 * undulation.amplitude
    within = frame.reach + highest + 4 * max(NODE_SPACING, frame.voxel_size)
    shape = _Shape(lambda p: ellipsoid_feet(p, axes, within), -extent, extent, radius, axes.min() / 2, True)
    return _draw(shape, centre_px, rotation, frame, undulation)


def torus_surface(
    ring_radius: float,
    tube_radius: float,
    *,
    centre_px: NDArray[Any],
    rotation: NDArray[Any],
    frame: Frame,
    undulation: Undulation | None = None,
) -> Surface:
    """Distance to a torus around the shape's Z axis; parameters in Å, else as `ellipsoid_surface`.

    Raises
    ------
    ValueError
        If not ``0 < tube_radius < ring_radius``, or as `ellipsoid_surface`.
    """
    if not 0 < tube_radius < ring_radius:
        raise ValueError(
            f"need 0 < tube_radius < ring_radius for a torus, got {tube_radius:g} and {ring_radius:g} Å"
        )

    def feet(p: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        distance = np.maximum(np.hypot(p[:, 1], p[:, 2]), 1e-6)
        ring = p * (np.array([0.0, ring_radius, ring_radius]) / distance[:, None])
        return tube_feet(p, ring, tube_radius)

    extent = ring_radius * np.hypot(*np.asarray(rotation)[:, 1:].T) + tube_radius
    radius = min(tube_radius, ring_radius - tube_radius)
    shape = _Shape(feet, -extent, extent, radius, radius / 2, True)
    return _draw(shape, centre_px, rotation, frame, undulation)


def tubule_surface(
    radius: float,
    *,
    centre_px: NDArray[Any],
    rotation: NDArray[Any],
    frame: Frame,
    length: float | None = None,
    bend_radius: float = math.inf,
    undulation: Undulation | None = None,
) -> Surface:
    """Distance to a tube along the shape's Z axis, straight or bent into an arc, with round caps.

    Parameters
    ----------
    radius : float
        Of the tube, Å.
    centre_px, rotation, frame, undulation
        As `ellipsoid_surface`; the centre is the middle of the axis.
    length : float, optional
        Of the axis between the centres of the caps, Å; through the whole volume if None.
    bend_radius : float
        Of the arc, towards the shape's Y, Å; no arc is longer than 0.8 of its circle.

    Returns
    -------
    Surface
        Closed.

    Raises
    ------
    ValueError
        If ``radius`` or ``length`` is not positive, ``bend_radius`` not above ``radius``, or as
        `ellipsoid_surface`.
    """
    if not 0 < radius < bend_radius:
        raise ValueError(f"need 0 < radius < bend_radius, got {radius:g} and {bend_radius:g} Å")
    if length is None:
        length = 2 * float(np.linalg.norm(frame.shape)) * frame.voxel_size
    if not length > 0:
        raise ValueError(f"length must be positive, got {length:g} Å")
    half = min(length / 2, 0.8 * math.pi * bend_radius)
    axis = arc(np.linspace(-half, half, 65), bend_radius) @ np.asarray(rotation).T
    tightest = min(radius, bend_radius - radius)
    shape = _Shape(
        lambda p: tube_feet(p, arc(along_arc(p, half, bend_radius), bend_radius), radius),
        axis.min(0) - 1.02 * radius,  # the points on the axis miss its extremes by less
        axis.max(0) + 1.02 * radius,
        tightest,
        tightest / 2,
        True,
    )
    return _draw(shape, centre_px, rotation, frame, undulation)


def sheet_surface(
    *,
    centre_px: NDArray[Any],
    rotation: NDArray[Any],
    frame: Frame,
    undulation: Undulation | None = None,
) -> Surface:
    """Distance to a sheet through ``centre_px``, across the whole volume, normal to the shape's Z axis.

    With an undulation, a height field over that plane; parameters and errors as `ellipsoid_surface`.

    Returns
    -------
    Surface
        Not closed; positive on the side of the normal.
    """
    return stack_surface(1, 1.0, centre_px=centre_px, rotation=rotation, frame=frame, undulation=undulation)


def stack_surface(
    n_sheets: int,
    gap: float,
    *,
    centre_px: NDArray[Any],
    rotation: NDArray[Any],
    frame: Frame,
    undulation: Undulation | None = None,
) -> Surface:
    """Distance to the nearest of parallel sheets, as in thylakoids and the Golgi apparatus.

    Parameters
    ----------
    n_sheets : int
        Number of mid-surfaces.
    gap : float
        Between neighbours along the shape's Z axis, Å.
    centre_px, rotation, frame, undulation
        As `sheet_surface`; the centre is the middle of the stack, the sheets share the undulation.

    Returns
    -------
    Surface
        Not closed; the sign changes at every sheet and is positive beyond the last. Halfway between
        two sheets the distance is rounded off by a few Å.

    Raises
    ------
    ValueError
        If there is no sheet, the gap is not positive, or as `ellipsoid_surface`.
    """
    if n_sheets < 1 or not gap > 0:
        raise ValueError(f"a stack needs a sheet or more and a positive gap, got {n_sheets} and {gap:g} Å")
    turn = np.asarray(rotation, dtype=np.float64)
    centre = np.asarray(centre_px, dtype=np.float64)
    if undulation is not None:  # so that the surface still goes through the centre
        centre = centre - undulation.height(np.zeros((1, 3))) * turn[:, 0] / frame.voxel_size
    levels = tuple(gap * (i - (n_sheets - 1) / 2) for i in range(n_sheets))
    everywhere = np.full(3, 2.0 * max(frame.shape) * frame.voxel_size)
    shape = _Shape(
        lambda p: (p[:, 0], p * np.array([0.0, 1, 1])),
        -everywhere,
        everywhere,
        gap / 2 if n_sheets > 1 else math.inf,  # three nodes from each sheet to the fold between two
        math.inf,
        False,
        levels,
    )
    return _draw(shape, centre, turn, frame, undulation)


def double(surface: Surface, gap: float) -> Surface:
    """Put a second membrane ``gap`` Å from the first: inside one that is closed, else either side of it.

    Parameters
    ----------
    surface : Surface
        Drawn with a reach that is larger by ``gap`` than what is needed of the two.
    gap : float
        Between the mid-surfaces, Å.

    Returns
    -------
    Surface
        Distance to the nearer of the two, closed: negative between them.

    Raises
    ------
    ValueError
        If the gap is not positive or not below the reach of ``surface``.
    """
    if not 0 < gap < surface.reach:
        raise ValueError(f"the gap must be positive and below the reach {surface.reach:g} Å, got {gap:g} Å")
    shift = gap / 2 if surface.closed else 0.0
    distance = surface.distance + np.float32(shift)
    np.abs(distance, out=distance)
    distance -= np.float32(gap / 2)
    return replace(surface, distance=distance, closed=True, reach=surface.reach - gap)


def _draw(
    shape: _Shape,
    centre_px: NDArray[Any],
    rotation: NDArray[Any],
    frame: Frame,
    undulation: Undulation | None,
) -> Surface:
    """Draw a closed form, lifted by the undulation and measured anew if there is one."""
    turn = np.asarray(rotation, dtype=np.float64)
    centre = np.asarray(centre_px, dtype=np.float64) * frame.voxel_size
    if undulation is None or undulation.amplitude == 0:
        grid = frame.grid(centre + shape.low, centre + shape.high, radius=shape.radius)
        values = grid.evaluate(lambda p: _fold(shape.feet((p - centre) @ turn)[0], shape.levels))
        return grid.surface(values, closed=shape.closed, reach=frame.reach)
    bending = undulation.amplitude * (2 * math.pi / undulation.wavelength) ** 2
    highest = min(5 * undulation.amplitude, shape.limit)
    grid = frame.grid(
        centre + shape.low - highest,
        centre + shape.high + highest,
        radius=min(shape.radius, 1 / bending),
        margin=frame.reach,
    )
    farthest = highest + 2 * max(shape.levels) + frame.reach + 4 * grid.spacing

    def lifted(points: NDArray[Any]) -> NDArray[Any]:
        distance, feet = shape.feet((points - centre) @ turn)
        near = np.abs(distance) < farthest  # the waves take time, and far away they do not matter
        distance[near] -= undulation.height(feet[near], shape.limit)
        return _fold(distance, shape.levels)

    return measure_anew(grid, grid.evaluate(lifted), frame, closed=shape.closed)


def _fold(height: NDArray[Any], levels: tuple[float, ...]) -> NDArray[Any]:
    """Height over the nearest of ascending levels, its sign changing at each and positive beyond the last."""
    if len(levels) == 1:
        return height - levels[0]
    heights = np.array(levels)
    nearest = np.searchsorted((heights[1:] + heights[:-1]) / 2, height)
    return (height - heights[nearest]) * (1 - 2 * ((len(levels) - 1 - nearest) % 2))
