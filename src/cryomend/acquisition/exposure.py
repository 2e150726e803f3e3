"""What the beam does: fluence per tilt, radiation damage, loss in thick ice, counting, the detector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.fourier import radial_frequency

__all__ = [
    "count_electrons",
    "detector_mtf",
    "dose_symmetric_order",
    "thickness_transmission",
]


def dose_symmetric_order(tilt_angles: NDArray[Any]) -> NDArray[np.int64]:
    """Order in which a dose-symmetric scheme records the tilts: the smallest tilt first.

    Returns
    -------
    array, shape (tilt,)
        Place of each tilt in time, 0 first (Hagen et al. 2017, doi:10.1016/j.jsb.2016.06.007).
    """
    angles = np.asarray(tilt_angles, dtype=np.float64)
    sequence = np.lexsort((angles < 0, np.abs(angles)))
    place = np.empty(len(angles), dtype=np.int64)
    place[sequence] = np.arange(len(angles))
    return place


def thickness_transmission(
    tilt_angles: NDArray[Any], *, thickness: float, mean_free_path: float
) -> NDArray[np.float64]:
    """Share of the electrons that still reach the image through a tilted slab, ``exp(-t / (Λ cos θ))``.

    ``thickness`` and ``mean_free_path`` in Å; the path is capped at ten times the thickness.
    """
    path = thickness / np.maximum(np.cos(np.radians(np.asarray(tilt_angles, dtype=np.float64))), 0.1)
    transmission: NDArray[np.float64] = np.exp(-path / mean_free_path)
    return transmission


def detector_mtf(
    shape: tuple[int, int], *, at_nyquist: float, device: torch.device | str | None = None
) -> Tensor:
    """Modulation transfer of a detector, a Gaussian in frequency with a given value at Nyquist.

    Returns
    -------
    Tensor of float32, shape of ``rfft2``

    Raises
    ------
    ValueError
        If ``at_nyquist`` lies outside (0, 1].
    """
    if not 0 < at_nyquist <= 1:
        raise ValueError(f"the MTF at Nyquist lies in (0, 1], got {at_nyquist:g}")
    k = radial_frequency(shape, half=True, device=device)
    return torch.exp(math.log(at_nyquist) * (k / 0.5) ** 2)


def count_electrons(expected: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the number of electrons counted in each pixel (Poisson), for expected counts >= 0."""
    return torch.poisson(expected.clamp(min=0), generator=generator)
