"""Training crops: where they are cut, how they are turned, and what is done to their spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cryomend.fourier import filter_fourier, radial_frequency
from cryomend.geometry import missing_wedge_mask, random_rotation
from cryomend.restoration.standardise import robust_mean_std

__all__ = [
    "DENSITY_LIMITS",
    "PreparedPair",
    "cut_crop",
    "prepare_pair",
    "random_radial_gain",
    "rotate_crop",
    "rotated_wedge_mask",
]

DENSITY_LIMITS = (-1.0, 6.0)
"""Targets in V are clipped to these: gold (20 V) must not outweigh all else in the squared error."""

_BINS = 48  # of the radial power spectrum, 0 to the corner frequency


@dataclass(frozen=True)
class PreparedPair:
    """A pair as the network sees it.

    ``tomogram`` (Z, Y, X) standardised, protein bright; ``density`` (Z, Y, X) in V, clipped; both
    half precision to save memory. ``power`` is the tomogram's share of variance per radial bin.
    """

    tomogram: Tensor
    density: Tensor
    power: NDArray[np.float64]


def prepare_pair(tomogram: Tensor, density: Tensor) -> PreparedPair:
    """Standardise as restoration does, flip to protein bright, clip the target."""
    mean, std = robust_mean_std(tomogram)
    bright = ((mean - tomogram) / std).clamp(-30, 30)
    shells = (radial_frequency(bright.shape, half=True) / (math.sqrt(3) / 2) * (_BINS - 1)).round().long()
    spectrum = torch.fft.rfftn(bright).abs() ** 2
    power = torch.zeros(_BINS, dtype=torch.float64).index_add_(
        0, shells.flatten(), spectrum.flatten().double()
    )
    return PreparedPair(bright.half(), density.clamp(*DENSITY_LIMITS).half(), (power / power.sum()).numpy())


def random_radial_gain(rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
    """Draw a smooth radial gain, as processing before restoration puts on a spectrum.

    The sum of three random cosines over the frequency axis (standard deviation ``spread`` nepers)
    and, one time in four each, a Gaussian low-pass and a high-pass.

    Returns
    -------
    array, shape (48,)
        Gain at evenly spaced frequencies from 0 to sqrt(3)/2 cycles per voxel.
    """
    k = np.linspace(0, math.sqrt(3) / 2, _BINS)
    waves = [rng.normal() * np.cos(2 * np.pi * (n * k / k[-1] * 0.75 + rng.random())) for n in (1, 2, 3)]
    gain: NDArray[np.float64] = np.exp(spread * np.sum(waves, axis=0) * math.sqrt(2 / 3))
    if rng.random() < 0.25:
        gain = gain * np.exp(-((k / rng.uniform(0.12, 0.45)) ** 2) / 2)
    if rng.random() < 0.25:
        gain = gain * (1 - rng.uniform(0.5, 1) * np.exp(-((k / rng.uniform(0.01, 0.04)) ** 2) / 2))
    return gain


def cut_crop(
    pair: PreparedPair,
    *,
    side: int,
    rng: np.random.Generator,
    rotation_share: float,
    spectrum_jitter: float,
) -> tuple[Tensor, Tensor, bool]:
    """Cut one training crop at random.

    With chance ``rotation_share`` the crop is turned by its own uniformly random rotation (cut larger, so
    that no empty corner is seen); otherwise it keeps the true pose of the wedge and is only
    flipped along each axis. Four times in five the spectrum gets a `random_radial_gain`, rescaled so
    that the whole tomogram would keep its unit variance.

    Parameters
    ----------
    pair : PreparedPair
        Source.
    side : int
        Voxels.
    rng : numpy.random.Generator
        Source of randomness.
    rotation_share, spectrum_jitter : float
        See `cryomend.config.TrainingConfig`.

    Returns
    -------
    tomogram, density : Tensor of float32, shape (side, side, side)
    rotated : bool
        Whether the crop was rotated.

    Raises
    ------
    ValueError
        If the pair is smaller than the crop, or than the larger crop that a rotation needs.
    """
    rotated = bool(rng.random() < rotation_share)
    cut = rotated_side(side) if rotated else side
    if min(pair.density.shape) < cut:
        why = f"{cut} voxels (side {side}, rotated)" if rotated else f"{side} voxels"
        raise ValueError(f"a crop of {why} does not fit in a pair of shape {tuple(pair.density.shape)}")
    corner = [int(rng.integers(0, n - cut + 1)) for n in pair.density.shape]
    window = tuple(slice(c, c + cut) for c in corner)
    x, y = pair.tomogram[window].float(), pair.density[window].float()
    if spectrum_jitter > 0 and rng.random() < 0.8:
        gain = random_radial_gain(rng, spectrum_jitter)
        gain /= math.sqrt(float((pair.power * gain**2).sum()))
        x = filter_fourier(x, _on_grid(gain, x.shape))
    if rotated:
        x, y = rotate_crop(torch.stack([x, y]), random_rotation(rng), side=side)
    axes = [axis for axis in range(3) if rng.random() < 0.5]
    return x.flip(axes), y.flip(axes), rotated


def rotated_side(side: int) -> int:
    """Side of the cube that holds a cube of ``side`` voxels in any rotation."""
    return math.ceil(side * math.sqrt(3)) + 1


def rotate_crop(crops: Tensor, rotation_zyx: NDArray[Any], *, side: int) -> Tensor:
    """Turn cubes about their centre and cut the inner cube (trilinear interpolation).

    Parameters
    ----------
    crops : Tensor, shape (C, N, N, N)
        Cubes that share the rotation.
    rotation_zyx : array, shape (3, 3)
        Output voxel ``p`` (ZYX from the centre) shows the input at ``rotation @ p``.
    side : int
        Side of the output.

    Returns
    -------
    Tensor, shape (C, side, side, side)
    """
    n = crops.shape[-1]
    axis = torch.arange(side, dtype=torch.float32, device=crops.device) - (side - 1) / 2
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    source = grid @ torch.as_tensor(rotation_zyx, dtype=torch.float32, device=crops.device).T
    # grid_sample wants XYZ and, without align_corners, edges at ±1
    return F.grid_sample(crops[None], source.flip(-1)[None] * (2 / n), mode="bilinear", align_corners=False)[
        0
    ]


def rotated_wedge_mask(
    shape: Sequence[int], rotation_zyx: NDArray[Any] | None, *, tilt_min: float, tilt_max: float
) -> Tensor:
    """`missing_wedge_mask` of an imaging frame turned by a rotation; None leaves it in place."""
    if rotation_zyx is None:
        return missing_wedge_mask((shape[0], shape[1], shape[2]), tilt_min=tilt_min, tilt_max=tilt_max)
    axes = [torch.fft.fftfreq(n) for n in shape]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    k = k @ torch.as_tensor(rotation_zyx, dtype=torch.float32).T  # g(p) = f(R p) has the transform F(R k)
    kz, kx = k[..., 0], k[..., 2]
    kz = torch.where(kx < 0, -kz, kz)
    low, high = (kx.abs() * math.tan(math.radians(t)) for t in (tilt_min, tilt_max))
    mask = (low <= kz) & (kz <= high)
    friedel = mask.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))  # Nyquist planes of even sizes have no mate
    return mask & friedel


def _on_grid(gain: NDArray[np.float64], shape: Sequence[int]) -> Tensor:
    """The radial gain on the ``rfftn`` grid of a crop, linearly interpolated."""
    position = radial_frequency(shape, half=True) / (math.sqrt(3) / 2) * (_BINS - 1)
    low = position.long().clamp(max=_BINS - 2)
    table = torch.as_tensor(gain, dtype=torch.float32)
    return table[low] + (position - low) * (table[low + 1] - table[low])
