"""Weighted back-projection: a radial weight on every tilt, then back-projection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.geometry import angular_weights
from cryomend.projection import interpolate_rays
from cryomend.reconstruction.weighting import exact_weights, ramp_filter

__all__ = ["radial_weights", "reconstruct_wbp", "weight_rows"]


def reconstruct_wbp(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    thickness: int,
    cutoff: float = 0.5,
    falloff: float = 0.0,
    hamming_from: float | None = None,
    sirt_iterations: int = 0,
    weighting: str = "ramp",
    centre_z: float | None = None,
) -> Tensor:
    """Reconstruct a tomogram by weighted back-projection.

    Each tilt loses its mean and is weighted by its share of the angular range (`angular_weights`).

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Aligned images, tilt axis along Y through the centre.
    tilt_angles : array, shape (tilt,)
        Degrees.
    thickness : int
        Voxels of the tomogram along Z.
    cutoff, falloff, hamming_from, sirt_iterations
        As in `ramp_filter`.
    weighting : str
        ``ramp``, with each tilt's share of the angular range, or ``exact`` for these angles and thickness.
    centre_z : float, optional
        Plane of the rotation centre; ``thickness // 2`` if None.

    Returns
    -------
    Tensor of float32, shape (thickness, Y, X)
        In the unit of the images per voxel: a full-range series of line integrals in voxels gives
        back the volume, without its mean.

    Raises
    ------
    ValueError
        If the counts of angles and images differ, an angle lies outside ±90, or the thickness is
        not positive.
    """
    if thickness < 1:
        raise ValueError(f"thickness must be at least 1 voxel, got {thickness}")
    if tilt_series.shape[0] != len(tilt_angles):
        raise ValueError(f"{tilt_series.shape[0]} images but {len(tilt_angles)} tilt angles")
    weights = radial_weights(
        tilt_angles,
        tilt_series.shape[2],
        cutoff=cutoff,
        falloff=falloff,
        hamming_from=hamming_from,
        sirt_iterations=sirt_iterations,
        thickness=thickness if weighting == "exact" else None,
        device=tilt_series.device,
    )
    centred = tilt_series - tilt_series.mean(dim=(1, 2), keepdim=True)
    return interpolate_rays(weight_rows(centred, weights), tilt_angles, depth=thickness, centre_z=centre_z)


def radial_weights(
    tilt_angles: NDArray[Any],
    width: int,
    *,
    cutoff: float = 0.5,
    falloff: float = 0.0,
    hamming_from: float | None = None,
    sirt_iterations: int = 0,
    thickness: float | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weight of every tilt at every frequency of rows padded to twice their length or more.

    Parameters
    ----------
    tilt_angles : array, shape (tilt,)
        Degrees.
    width : int
        Pixels of a row.
    cutoff, falloff, hamming_from, sirt_iterations
        As in `ramp_filter`.
    thickness : float, optional
        Exact weights for a slab of so many pixels instead of ramp and angular weights.
    device : torch.device or str, optional
        Where the result is made.

    Returns
    -------
    Tensor of float32, shape (tilt, k)
    """
    padded = 2 ** math.ceil(math.log2(2 * width))
    ramp = ramp_filter(
        padded, cutoff=cutoff, falloff=falloff, hamming_from=hamming_from, sirt_iterations=sirt_iterations,
        device=device,
    )  # fmt: skip
    if thickness is None:
        share = torch.as_tensor(angular_weights(np.asarray(tilt_angles)), device=device).float()
        return ramp * share[:, None]
    plain = ramp_filter(padded, device=device)
    return exact_weights(tilt_angles, padded, thickness=thickness, device=device) * (ramp / plain)


def weight_rows(images: Tensor, weights: Tensor) -> Tensor:
    """Filter every row of every image (tilt, Y, X) by the weight (tilt, k) of its tilt."""
    width, padded = images.shape[2], 2 * (weights.shape[1] - 1)
    spectrum = torch.fft.rfft(images, n=padded, dim=2) * weights[:, None]
    return torch.fft.irfft(spectrum, n=padded, dim=2)[:, :, :width]
