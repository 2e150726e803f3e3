"""Make noise tilts of any size from a noise model.

Last step of the noise stage; simulation takes its learned noise from here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.io import InputError, check_writable, read_tilt_angles, write_volume
from cryomend.noise.model import NoiseModel, load_noise_model

__all__ = ["sample_noise", "sample_noise_file"]


def sample_noise(
    model: NoiseModel,
    *,
    tilt_angles: NDArray[Any],
    shape: tuple[int, int],
    generator: torch.Generator,
    calibrated: bool = True,
) -> Tensor:
    """Draw noise tilts of any size, without seams or repetition.

    Independent patches overlap by half under windows whose squares sum to one; the tile grid has
    another random offset in each tilt; the deviation follows the tilt angle.

    Parameters
    ----------
    model : NoiseModel
    tilt_angles : array, shape (tilt,)
        Degrees.
    shape : tuple of int
        (Y, X) of a tilt in pixels.
    generator : torch.Generator
        Equal seeds give equal noise on one device.
    calibrated : bool
        False leaves out the calibration of a learned model.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)
        In the grey levels of the stacks that the model was fitted to, around 0; on the model's device.

    Raises
    ------
    ValueError
        If the shape is not positive or there are no angles.

    Notes
    -----
    Blending adds independent patches, so variances add: ``Σ w² = 1`` keeps the variance everywhere.
    The spectrum is that of the patches, smoothed over less than two of their Fourier pixels.
    The marginal law is pulled towards a Gaussian by the sum; `NoiseModel.finish` puts it back.
    """
    if min(shape) < 1 or len(tilt_angles) == 0:
        raise ValueError(
            f"need a positive shape and at least one angle, got {shape} and {len(tilt_angles)} angles"
        )
    std = model.interpolate_std(np.asarray(tilt_angles, dtype=np.float64))
    tilts = [
        scale
        * model.finish(blend_patches(model, shape, generator, calibrated=calibrated), calibrated=calibrated)
        for scale in std.tolist()
    ]
    return torch.stack(tilts).float()


def blend_patches(
    model: NoiseModel, shape: tuple[int, int], generator: torch.Generator, *, calibrated: bool = True
) -> Tensor:
    """One tilt of unit variance from independent patches, shape (Y, X).

    Half-overlapping tiles fall into four sets without overlap: four mosaics, shifted by half a tile.
    """
    side = model.patch
    half = side // 2
    offset = torch.randint(side, (2,), generator=generator, device=generator.device).tolist()
    rows, columns = (math.ceil((n + side + half) / side) for n in shape)
    # The sine window: sin² + cos² = 1 for two neighbours half a tile apart, on either axis.
    ramp = torch.sin(math.pi * (torch.arange(side, device=model.device) + 0.5) / side)
    window = ramp[:, None] * ramp[None, :]
    blended = torch.zeros(shape, device=model.device)
    for shift_y in (0, half):
        for shift_x in (0, half):
            tiles = model.sample_patches(rows * columns, generator, calibrated=calibrated) * window
            mosaic = (
                tiles.reshape(rows, columns, side, side).transpose(1, 2).reshape(rows * side, columns * side)
            )
            y, x = ((o + s) % side for o, s in zip(offset, (shift_y, shift_x), strict=True))
            blended += mosaic[y : y + shape[0], x : x + shape[1]]
    return blended


def sample_noise_file(
    model: Path,
    output: Path,
    *,
    tilt_angles: Path,
    shape: tuple[int, int],
    seed: int = 0,
    calibrated: bool = True,
) -> None:
    """Write noise tilts (MRC) drawn from a model file, one per angle of an angle file.

    Raises
    ------
    InputError
        If a file cannot be used or the size is not positive.
    """
    check_writable(output)
    if min(shape) < 1:
        raise InputError(f"--size must be two positive numbers of pixels, got {shape[0]} {shape[1]}")
    fitted = load_noise_model(model)
    angles = read_tilt_angles(tilt_angles)
    generator = torch.Generator().manual_seed(seed)
    noise = sample_noise(fitted, tilt_angles=angles, shape=shape, generator=generator, calibrated=calibrated)
    write_volume(
        output,
        noise.numpy(),
        voxel_size=fitted.pixel_size,
        label=f"{fitted.kind} noise, seed {seed}",
        stack=True,
    )
