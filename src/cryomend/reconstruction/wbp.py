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

__all__ = ["ramp_filter", "reconstruct_wbp"]

_SIRT_STEP = 1 / 1024  # cycles per pixel; sets what one iteration means


def ramp_filter(
    width: int,
    *,
    cutoff: float = 0.5,
    falloff: float = 0.0,
    sirt_iterations: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Radial weight of weighted back-projection, exact at low frequency.

    The Fourier transform of the sampled ramp kernel of Kak & Slaney (Principles of Computerized
    Tomographic Imaging, eq. 61), which keeps the mean right where ``|k|`` on the grid would not.

    Parameters
    ----------
    width : int
        Length of the (padded) rows.
    cutoff : float
        Frequency in cycles per pixel where the roll-off begins.
    falloff : float
        Standard deviation of the Gaussian roll-off beyond ``cutoff``; 0 cuts sharply.
    sirt_iterations : int
        If positive, the weight that imitates so many SIRT iterations,
        ``1 - (1 - w)^n`` times the ramp with ``w = a / k``: each Fourier component of a Landweber
        iteration approaches its end in proportion to the eigenvalue of projection and
        back-projection, which falls as 1/k. ``a`` is 1/1024 cycles per pixel.
    device : torch.device or str, optional
        Where the result is made.

    Returns
    -------
    Tensor of float32, shape (width // 2 + 1,)
        ``|k|`` in cycles per pixel, up to the roll-off.
    """
    n = torch.fft.fftfreq(width, d=1 / width, device=device)
    kernel = torch.where(
        n.long() % 2 != 0, -1 / (math.pi * n.clamp(min=1e-9).where(n > 0, n.abs().clamp(min=1e-9))) ** 2, 0.0
    )
    kernel[0] = 0.25
    ramp = torch.fft.rfft(kernel).real
    k = torch.fft.rfftfreq(width, device=device)
    if sirt_iterations > 0:
        share = 1 - (1 - (_SIRT_STEP / k.clamp(min=1e-9)).clamp(max=1)) ** sirt_iterations
        ramp = ramp * share
    beyond = (k - cutoff).clamp(min=0)
    roll = torch.exp(-((beyond / falloff) ** 2) / 2) if falloff > 0 else (beyond <= 1e-9).float()
    return ramp * roll


def reconstruct_wbp(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    thickness: int,
    cutoff: float = 0.5,
    falloff: float = 0.0,
    sirt_iterations: int = 0,
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
    cutoff, falloff, sirt_iterations
        As in `ramp_filter`.

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
    width = tilt_series.shape[2]
    padded = 2 ** math.ceil(math.log2(2 * width))
    weight = ramp_filter(
        padded, cutoff=cutoff, falloff=falloff, sirt_iterations=sirt_iterations, device=tilt_series.device
    )
    share = torch.as_tensor(angular_weights(np.asarray(tilt_angles)), device=tilt_series.device).float()
    centred = tilt_series - tilt_series.mean(dim=(1, 2), keepdim=True)
    rows = torch.fft.irfft(torch.fft.rfft(centred, n=padded, dim=2) * weight, n=padded, dim=2)[:, :, :width]
    return interpolate_rays(rows * share[:, None, None], tilt_angles, depth=thickness)
