"""What a pair of files and a tilt range must satisfy before they are compared or shown."""

from __future__ import annotations

import math

from cryomend.io import InputError, Volume

__all__ = ["require_matching", "require_tilt_range"]

VOXEL_SIZE_TOLERANCE = 1e-3  # relative; headers hold rounded cell lengths


def require_tilt_range(tilt_range: tuple[float, float] | None) -> None:
    """Refuse a tilt range that does not increase inside ±90 degrees.

    Raises
    ------
    InputError
        As said; the message has both angles.
    """
    if tilt_range is not None and not -90 < tilt_range[0] < tilt_range[1] < 90:
        raise InputError(
            f"--tilt-range needs -90 < MIN < MAX < 90 degrees, got {tilt_range[0]:g} {tilt_range[1]:g}"
        )


def require_matching(volume: Volume, truth: Volume) -> None:
    """Refuse two volumes of different shape or voxel size.

    Raises
    ------
    InputError
        If they differ; the message has both files and both values.
    """
    a, b = volume.data.shape, truth.data.shape
    if a != b:
        raise InputError(
            f"{volume.path} has shape {a} (Z, Y, X) but {truth.path} has {b}; "
            "crop or bin one to match the other"
        )
    if not math.isclose(volume.voxel_size, truth.voxel_size, rel_tol=VOXEL_SIZE_TOLERANCE):
        raise InputError(
            f"{volume.path} has voxel size {volume.voxel_size:g} Å but {truth.path} has "
            f"{truth.voxel_size:g} Å; resample one, or pass --voxel-size if a header is wrong"
        )
