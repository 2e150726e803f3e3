"""`cryomend evaluate --half`: one half-tomogram against the other, from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.evaluate import evaluate_halves
from cryomend.io import InputError, read_volume

__all__ = ["evaluate_half_files"]


def evaluate_half_files(
    volume_path: str | Path,
    half_path: str | Path | None,
    *,
    tilt_range: tuple[float, float] | None = None,
    voxel_size: float | None = None,
) -> dict[str, Any]:
    """Compare a half-tomogram, raw or restored, with the raw other half.

    Parameters
    ----------
    volume_path : path
        MRC file of one half.
    half_path : path or None
        That of the other half, not restored; nothing is done without.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees.
    voxel_size : float, optional
        Å; replaces what both headers say.

    Returns
    -------
    dict
        Under ``halves`` the file and what `evaluate_halves` found; empty without a half.

    Raises
    ------
    InputError
        If a file cannot be used, both are one file or hold the same voxels, or shapes or voxel sizes differ.
    """
    if half_path is None:
        return {}
    require_tilt_range(tilt_range)
    same = (
        f"{half_path} and {volume_path} are one file, so their FSC would be 1 everywhere; give the other half"
    )
    if Path(half_path).resolve() == Path(volume_path).resolve():
        raise InputError(same)
    half, other = (read_volume(path, voxel_size=voxel_size) for path in (volume_path, half_path))
    require_matching(half, other)
    data = (torch.from_numpy(volume.data) for volume in (half, other))
    try:
        scores = evaluate_halves(*data, voxel_size=half.voxel_size, tilt_range=tilt_range)
    except ValueError as error:
        raise InputError(f"{volume_path} and {half_path}: {error}") from None
    return {"halves": {"other_half": str(half_path), **scores}}
