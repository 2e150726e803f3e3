"""Smooth random fields: textures of proteins, rough edges, undulations and level sets of membranes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RandomField", "Undulation", "random_field", "random_undulation"]


@dataclass(frozen=True)
class RandomField:
    """A smooth, isotropic random field of mean 0 and variance 1: a sum of plane waves.

    ``wave_vectors`` (n, 3) in rad/Å along ZYX, ``phases`` (n,) in rad.
    """

    wave_vectors: NDArray[np.float64]
    phases: NDArray[np.float64]

    def at(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Values (...) at points (..., 3) in Å."""
        # single precision is ten times faster and good to 1e-5 of a wave
        waves = points.astype(np.float32) @ self.wave_vectors.T.astype(np.float32)
        waves += self.phases.astype(np.float32)
        return np.cos(waves, out=waves).sum(-1, dtype=np.float64) * math.sqrt(2 / len(self.phases))

    def on_grid(self, axes: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Values (Z, Y, X) on the grid spanned by three coordinates in Å.

        A plane wave is a product of one factor per axis, so that each plane is one matrix product.
        """
        z, y, x = (np.exp(1j * np.outer(axis, k)) for axis, k in zip(axes, self.wave_vectors.T, strict=True))
        z = z * np.exp(1j * self.phases) * math.sqrt(2 / len(self.phases))
        along_x = np.concatenate([x.real, -x.imag], axis=1).T.astype(np.float32)
        values = np.empty((len(z), len(y), len(x)), dtype=np.float32)
        for plane, factor in zip(values, z, strict=True):
            rows = y * factor
            np.matmul(np.concatenate([rows.real, rows.imag], axis=1).astype(np.float32), along_x, out=plane)
        return values


def random_field(rng: np.random.Generator, *, wavelength: float, n_waves: int = 48) -> RandomField:
    """Draw a `RandomField` whose waves have any direction and lengths within a fifth of ``wavelength`` Å.

    By default there are enough waves for Gaussian statistics; textures look random with fewer.

    Raises
    ------
    ValueError
        If the wavelength is not positive.
    """
    if not 0 < wavelength < math.inf:
        raise ValueError(f"wavelength must be positive, got {wavelength:g} Å")
    directions = rng.standard_normal((n_waves, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    wave_numbers = 2 * np.pi / wavelength * rng.uniform(0.8, 1.2, (n_waves, 1))
    return RandomField(wave_numbers * directions, rng.uniform(0, 2 * np.pi, n_waves))


@dataclass(frozen=True)
class Undulation:
    """Height over a base surface: a random field of given ``wavelength`` and standard deviation, Å."""

    field: RandomField
    wavelength: float
    amplitude: float

    def height(self, feet: NDArray[Any], limit: float = math.inf) -> NDArray[Any]:
        """Heights (n,) in Å over feet (n, 3); they level off below ``limit``, so that no shape closes up."""
        height = self.amplitude * self.field.at(feet)
        return height if math.isinf(limit) else limit * np.tanh(height / limit)


def random_undulation(rng: np.random.Generator, *, wavelength: float, amplitude: float) -> Undulation:
    """Draw a smooth random undulation.

    Raises
    ------
    ValueError
        If the wavelength is not positive or the amplitude negative.
    """
    if not 0 <= amplitude < math.inf:
        raise ValueError(f"amplitude must not be negative, got {amplitude:g} Å")
    return Undulation(random_field(rng, wavelength=wavelength), wavelength, amplitude)
