"""Training crops: where they are cut, and what is done to their spectrum."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.fourier import filter_fourier, radial_frequency
from cryomend.geometry import random_rotation
from cryomend.restoration.standardise import robust_mean_std
from cryomend.training.rotate import rotate_crop, rotated_side

__all__ = [
    "DENSITY_LIMITS",
    "Crop",
    "PreparedPair",
    "cut_crop",
    "prepare_pair",
    "random_radial_gain",
]

DENSITY_LIMITS = (-1.0, 6.0)
"""Targets in V are clipped to these: gold (20 V) must not outweigh all else in the squared error."""

_BINS = 48  # of the radial power spectrum, 0 to the corner frequency


@dataclass(frozen=True)
class PreparedPair:
    """A pair as the network sees it.

    ``tomogram`` (Z, Y, X) standardised, protein bright; ``density`` (Z, Y, X) in V, clipped; both
    half precision to save memory. ``power`` is the tomogram's share of variance per radial bin,
    ``tilt_range`` the extreme tilts in degrees (the wedge that is missing), ``voxel_size`` in Å.
    """

    tomogram: Tensor
    density: Tensor
    power: NDArray[np.float64]
    tilt_range: tuple[float, float] = (-60.0, 60.0)
    voxel_size: float = 10.0

    @functools.cached_property
    def density_power(self) -> float:
        """Mean square of the density, V²."""
        return float(self.density.float().square().mean())


def prepare_pair(
    tomogram: Tensor,
    density: Tensor,
    *,
    tilt_range: tuple[float, float] = (-60.0, 60.0),
    voxel_size: float = 10.0,
) -> PreparedPair:
    """Standardise as restoration does, flip to protein bright, clip the target.

    Parameters
    ----------
    tomogram, density : Tensor, shape (Z, Y, X)
        As simulated: protein dark; potential above ice in V.
    tilt_range : tuple of float
        Extreme tilts of the series, degrees.
    voxel_size : float
        Å.

    Returns
    -------
    PreparedPair
        On the device of the tomogram.

    Raises
    ------
    ValueError
        If the tomogram is constant.
    """
    mean, std = robust_mean_std(tomogram)
    bright = ((mean - tomogram.float()) / std).clamp(-30, 30)
    power = _radial_power(bright).cpu().numpy()
    target = density.clamp(*DENSITY_LIMITS).half()
    return PreparedPair(bright.half(), target, power / power.sum(), tilt_range, voxel_size)


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


@dataclass(frozen=True)
class Crop:
    """A training crop: ``tomogram`` and ``density`` (side, side, side) of float32.

    ``pose`` (3, 3) is orthogonal: the crop shows at ``p`` what the pair has at ``pose @ p``, so its missing
    wedge is ``~rotated_wedge_mask(shape, pose, ...)``. ``turned`` tells a rotation from mere mirroring;
    ``density_power`` is that of the pair.
    """

    tomogram: Tensor
    density: Tensor
    pose: NDArray[np.float64]
    turned: bool
    tilt_range: tuple[float, float]
    density_power: float


def cut_crop(
    pair: PreparedPair,
    *,
    side: int,
    rng: np.random.Generator,
    rotation_share: float,
    spectrum_jitter: float,
    device: torch.device | str | None = None,
) -> Crop:
    """Cut one training crop at random.

    With chance ``rotation_share`` the crop is turned by its own uniformly random rotation (cut larger, so
    that no empty corner is seen); otherwise it keeps the true pose of the wedge. Either is then mirrored at
    random along each axis. Four times in five the spectrum gets a `random_radial_gain`, rescaled so
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
    device : torch.device or str, optional
        Where the crop is filtered and turned; that of the pair if None.

    Returns
    -------
    Crop

    Raises
    ------
    ValueError
        If the pair is smaller than the crop, or than the larger crop that a rotation needs.
    """
    turned = bool(rng.random() < rotation_share)
    x, y = _cut_cubes(pair, side, turned, rng, pair.tomogram.device if device is None else device)
    if spectrum_jitter > 0 and rng.random() < 0.8:
        gain = random_radial_gain(rng, spectrum_jitter)
        gain /= math.sqrt(float((pair.power * gain**2).sum()))
        x = filter_fourier(x, _on_grid(gain, x.shape, x.device))
    pose = np.eye(3)
    if turned:
        pose = random_rotation(rng)
        x, y = rotate_crop(torch.stack([x, y]), pose, side=side)
        y = y.clamp(*DENSITY_LIMITS)  # the spline overshoots at the edge of a clipped bead
    axes = [axis for axis in range(3) if rng.random() < 0.5]
    mirror = np.diag([-1.0 if axis in axes else 1.0 for axis in range(3)])
    return Crop(x.flip(axes), y.flip(axes), pose @ mirror, turned, pair.tilt_range, pair.density_power)


def _cut_cubes(
    pair: PreparedPair, side: int, turned: bool, rng: np.random.Generator, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Both volumes in a cube at a random place, large enough to be turned if it is to be."""
    cut = rotated_side(side) if turned else side
    if min(pair.density.shape) < cut:
        why = f"{cut} voxels (side {side}, rotated)" if turned else f"{side} voxels"
        raise ValueError(f"a crop of {why} does not fit in a pair of shape {tuple(pair.density.shape)}")
    corner = [int(rng.integers(0, n - cut + 1)) for n in pair.density.shape]
    window = tuple(slice(c, c + cut) for c in corner)
    return pair.tomogram[window].to(device).float(), pair.density[window].to(device).float()


def _radial_power(volume: Tensor) -> Tensor:
    """Sum of the power spectrum over radial bins, shape (48,)."""
    shells = _radial_bins(tuple(volume.shape)).to(volume.device)
    spectrum = torch.view_as_real(torch.fft.rfftn(volume)).square().sum(-1)
    return torch.bincount(shells, spectrum.flatten(), minlength=_BINS).double()


@functools.lru_cache(maxsize=2)  # pairs of one run mostly share a shape
def _radial_bins(shape: tuple[int, ...]) -> Tensor:
    """Radial bin of every voxel of ``rfftn``, flat."""
    radius = radial_frequency(shape, half=True) / (math.sqrt(3) / 2)
    return (radius * (_BINS - 1)).round().int().flatten()


def _on_grid(gain: NDArray[np.float64], shape: Sequence[int], device: torch.device) -> Tensor:
    """The radial gain on the ``rfftn`` grid of a crop, linearly interpolated."""
    position = radial_frequency(shape, half=True, device=device) / (math.sqrt(3) / 2) * (_BINS - 1)
    low = position.long().clamp(max=_BINS - 2)
    table = torch.as_tensor(gain, dtype=torch.float32, device=device)
    return table[low] + (position - low) * (table[low + 1] - table[low])
