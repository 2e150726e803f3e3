"""Radiation damage: how much of each spatial frequency is left after an exposure.

Acquisition fades the specimen by it, reconstruction weights the images with it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.fourier import radial_frequency

__all__ = ["critical_exposure", "exposure_before", "radiation_damage"]


def critical_exposure(k: Tensor, *, voltage_kv: float = 300.0) -> Tensor:
    """Exposure after which the signal's power at a frequency has fallen by a factor e.

    ``Nc = 0.245 k^-1.665 + 2.81`` at 300 kV, 0.8 of it at 200 kV, linear in between and beyond
    (Grant & Grigorieff 2015, doi:10.7554/eLife.06980).

    Parameters
    ----------
    k : Tensor
        Spatial frequency in 1/Å.
    voltage_kv : float
        Acceleration voltage.

    Returns
    -------
    Tensor, shape of ``k``
        e⁻/Å²; very large at the origin.
    """
    scale = 1 - 0.2 * (300 - voltage_kv) / 100
    return scale * (0.245 * k.clamp(min=1e-6) ** -1.665 + 2.81)


def radiation_damage(
    shape: tuple[int, int],
    *,
    pixel_size: float,
    accumulated_fluence: float,
    voltage_kv: float = 300.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Amplitude left of each spatial frequency after a fluence, ``exp(-N / (2 Nc(k)))``.

    Parameters
    ----------
    shape : tuple of int
        Image shape (Y, X).
    pixel_size : float
        Å.
    accumulated_fluence : float
        e⁻/Å² received so far.
    voltage_kv : float
        Acceleration voltage.
    device : torch.device or str, optional
        Where the result is made.

    Returns
    -------
    Tensor of float32, shape of ``rfft2``
        1 at the origin.

    References
    ----------
    Grant & Grigorieff 2015, doi:10.7554/eLife.06980, eq. 3 to 5.
    """
    k = radial_frequency(shape, half=True, device=device) / pixel_size
    return torch.exp(-accumulated_fluence / (2 * critical_exposure(k, voltage_kv=voltage_kv)))


def exposure_before(exposures: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum what was delivered before each image.

    Parameters
    ----------
    exposures : array, shape (tilt,)
        Of each image, e⁻/Å².
    order : array of int, shape (tilt,)
        The images as they were recorded, the first one first.

    Returns
    -------
    array, shape (tilt,)
        e⁻/Å², in the order of ``exposures``.
    """
    before = np.empty(len(exposures))
    before[order] = np.concatenate([[0.0], np.cumsum(exposures[order])[:-1]])
    return before
