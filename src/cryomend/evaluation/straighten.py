"""Averaging along what runs roughly along Y, such as a microtubule, when it runs at an angle.

The x-z section averaged along the tilt axis shows what the missing wedge did to a filament.
A filament is seldom parallel to Y, so its slope is found first, on the raw volume.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift
from scipy.optimize import minimize

__all__ = ["find_slopes", "mean_along_slopes"]

LONGEST_SIDE = 160  # voxels that the search looks at; larger volumes are binned
BAND = 0.12  # cycles per binned voxel: broad enough for a filament, too low for most noise
STEEPEST_X, STEEPEST_Z = 1.0, 0.2  # 45 degrees in the plane, 11 degrees out of it


def _bin_volume(volume: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Average cubes of voxels; what does not fill a cube is cut. An axis too short is left alone."""
    factors = [min(factor, n) for n in volume.shape]
    counts = [n // f for n, f in zip(volume.shape, factors, strict=True)]
    trimmed = volume[tuple(slice(n * f) for n, f in zip(counts, factors, strict=True))]
    blocks = trimmed.reshape([v for pair in zip(counts, factors, strict=True) for v in pair])
    return np.asarray(blocks.mean(axis=(1, 3, 5)), dtype=np.float32)


def find_slopes(volume: NDArray[Any]) -> tuple[float, float]:
    """Find the direction near Y along which the average of a volume keeps most structure.

    Parameters
    ----------
    volume : array, shape (Z, Y, X)

    Returns
    -------
    slope_z, slope_x : float
        Voxels in z and in x per voxel in y; inside ±0.2 and ±1.

    Notes
    -----
    The energy of the average at low frequencies is highest where sections overlap. With the 2D
    transforms ``F_y`` of the x-z sections it is ``sum_k |sum_y F_y(k) exp(2 pi i k . s (y - c))|^2``
    for the slopes s, over frequencies below 0.12 per voxel with kx > 0 (kx = 0 holds the faces of
    the slab, which would pull the slope in z to theirs). Sections are padded, so nothing wraps round.
    """
    small = _bin_volume(volume, math.ceil(max(volume.shape) / LONGEST_SIDE))
    nz, ny, nx = small.shape
    transforms = np.fft.rfft2((small - small.mean()).transpose(1, 0, 2), s=(2 * nz, 2 * nx))
    kz, kx = np.meshgrid(np.fft.fftfreq(2 * nz), np.fft.rfftfreq(2 * nx), indexing="ij")
    kept = (np.hypot(kz, kx) < BAND) & (kx > 0)
    sections = transforms[:, kept].astype(np.complex64)
    kz, kx = kz[kept], kx[kept]
    y = np.arange(ny)[:, None] - ny // 2

    def loss(slopes: NDArray[np.float64]) -> float:
        phase = (2 * np.pi * y * (slopes[0] * kz + slopes[1] * kx)).astype(np.float32)
        return -float((np.abs((sections * np.exp(1j * phase)).sum(axis=0)) ** 2).sum())

    grid = [
        np.array([z, x])
        for z in np.linspace(-STEEPEST_Z, STEEPEST_Z, 9)
        for x in np.linspace(-STEEPEST_X, STEEPEST_X, 81)
    ]
    start = min(grid, key=loss)
    simplex = start + np.array([[0, 0], [0.025, 0], [0, 0.0125]])
    bounds = [(-STEEPEST_Z, STEEPEST_Z), (-STEEPEST_X, STEEPEST_X)]
    options = {"initial_simplex": np.clip(simplex, *np.transpose(bounds)), "xatol": 1e-3, "fatol": 0}
    best = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options={**options, "maxiter": 60}).x
    return float(best[0]), float(best[1])


def mean_along_slopes(volume: NDArray[Any], slope_z: float, slope_x: float) -> NDArray[np.float32]:
    """Average the x-z sections, each shifted so that a line of these slopes stands still.

    Parameters
    ----------
    volume : array, shape (Z, Y, X)
    slope_z, slope_x : float
        Voxels in z and in x per voxel in y.

    Returns
    -------
    array, shape (Z, X)
        The section at the centre of y stands still; what a shift brings in from outside counts
        for nothing. With slopes of 0 the plain mean along y.
    """
    total, count = np.zeros((2, volume.shape[0], volume.shape[2]))
    inside = np.ones(total.shape)
    for y in range(volume.shape[1]):
        offset = y - volume.shape[1] // 2
        back = (-slope_z * offset, -slope_x * offset)
        total += shift(volume[:, y].astype(np.float64), back, order=1, mode="constant")
        count += shift(inside, back, order=1, mode="constant")
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)
