"""A recorded tilt series on disk: stack, tilt angles and everything that was drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryomend.acquisition.acquire import acquire_tilt_series, draw_exposure, draw_tilt_angles
from cryomend.config import AcquisitionConfig
from cryomend.geometry import tilt_angles_from_range
from cryomend.io import (
    InputError,
    check_folder,
    read_tilt_angles,
    read_volume,
    write_json,
    write_tilt_angles,
    write_volume,
)

__all__ = ["acquire_file", "choose_angles"]


def choose_angles(
    path: Path | None, tilt_range: tuple[float, float, float] | None
) -> NDArray[np.float64] | None:
    """Angles from a list or from (min, max, step) in degrees; None if neither is given.

    Raises
    ------
    cryomend.io.InputError
        If both are given or the list cannot be read.
    ValueError
        If the range is empty or leaves ±90 degrees.
    """
    if path is not None and tilt_range is not None:
        raise InputError("--tilt-angles and --tilt-range exclude each other; give one")
    if path is not None:
        return read_tilt_angles(path)
    return None if tilt_range is None else tilt_angles_from_range(*tilt_range)


def acquire_file(
    density_path: Path,
    directory: Path,
    *,
    config: AcquisitionConfig,
    tilt_angles: NDArray[Any] | None,
    seed: int,
    voxel_size: float | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Record a tilt series of a density in V and write stack, ``.tlt`` and ``acquisition.json``.

    Parameters
    ----------
    density_path : Path
        MRC of the potential in V, protein positive.
    directory : Path
        Where to write ``tilt_series.mrc``, ``tilt_series.tlt`` and ``acquisition.json``.
    config : AcquisitionConfig
        Ranges to draw the recording from.
    tilt_angles : array or None
        Degrees; drawn from the configuration if None.
    seed : int
        Equal seeds give equal stacks.
    voxel_size : float, optional
        Å; replaces the header's.
    device : torch.device or str
        Where it runs.

    Returns
    -------
    Path
        The stack.

    Raises
    ------
    cryomend.io.InputError
        If the density cannot be read or the folder cannot be written.
    """
    check_folder(directory)
    volume = read_volume(density_path, voxel_size=voxel_size)
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    angles = (
        draw_tilt_angles(config, rng) if tilt_angles is None else np.asarray(tilt_angles, dtype=np.float64)
    )
    exposure = draw_exposure(config, rng, thickness=volume.data.shape[0] * volume.voxel_size)
    series = acquire_tilt_series(
        torch.from_numpy(volume.data).to(device),
        angles,
        pixel_size=volume.voxel_size,
        exposure=exposure,
        generator=generator,
    )
    directory.mkdir(parents=True, exist_ok=True)
    stack = directory / "tilt_series.mrc"
    write_volume(stack, series.cpu().numpy(), voxel_size=volume.voxel_size, stack=True)
    write_tilt_angles(directory / "tilt_series.tlt", angles)
    write_json(
        directory / "acquisition.json",
        {
            "density": density_path.name,
            "seed": seed,
            "exposure": exposure.record(),
            "config": config.model_dump(mode="json"),
        },
    )
    return stack
