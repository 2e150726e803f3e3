"""Branched and connected mid-surfaces: level sets of smooth random fields."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.specimen.level_set import drop_islands, measure_anew
from cryomend.specimen.random_field import random_field
from cryomend.specimen.surface_grid import Frame, Surface

__all__ = ["branched_surface"]

_SMALLEST_PART = 0.2  # radius of the smallest ball that a level set keeps, in wavelengths
_FIELDS_TRIED = 20


def branched_surface(
    rng: np.random.Generator,
    *,
    wavelength: float,
    frame: Frame,
    level: float = 0.0,
    centre_px: NDArray[Any] | None = None,
    radius: float = math.inf,
) -> Surface:
    """Distance to a level set of a smooth random field: branched and connected, as ER and cubic phases.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    wavelength : float
        Of the field, Å; branches are about half as far apart.
    frame : Frame
        Volume, voxel size and reach.
    level : float
        In standard deviations of the field: inside and outside are equal labyrinths at 0; the
        inside is a network of tubules below (27 % of the volume at -0.6), the outside above.
    centre_px : array, shape (3,), optional
        Voxel coordinates ZYX of a ball to stay in; the volume's centre if None.
    radius : float
        Of that ball, Å; the whole volume if infinite.

    Returns
    -------
    Surface
        Closed.

    Raises
    ------
    ValueError
        If ``wavelength`` or ``radius`` is not positive, or no field drawn has that level there.
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius:g} Å")
    middle = np.array(frame.shape) // 2 if centre_px is None else np.asarray(centre_px)
    centre = middle * frame.voxel_size
    extent = min(radius + wavelength / 4, 1e6)  # the level set closes there at the latest
    grid = frame.grid(centre - extent, centre + extent, radius=wavelength / 5, margin=frame.reach)
    smallest = 4 / 3 * math.pi * (min(_SMALLEST_PART * wavelength, radius / 3) / grid.spacing) ** 3
    for _ in range(_FIELDS_TRIED):  # in a ball smaller than the wavelength many fields have no inside
        values = random_field(rng, wavelength=wavelength).on_grid(grid.axes)
        values -= np.float32(level)
        if math.isfinite(radius):
            values += grid.evaluate(lambda p: _rim(np.linalg.norm(p - centre, axis=1) - radius, wavelength))
        drop_islands(values, smallest)
        if values.min() < 0 < values.max():
            return measure_anew(grid, values, frame, closed=True)
    raise ValueError(f"no random field had the level {level:g} there; choose it nearer 0 or a larger radius")


def _rim(beyond: NDArray[Any], wavelength: float) -> NDArray[Any]:
    """What is added to a random field to close its level set smoothly near where ``beyond`` is zero."""
    width = wavelength / 4
    return 2 * np.logaddexp(0, (beyond + width) / width)
