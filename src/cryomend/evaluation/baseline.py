"""The filter to beat: the best Gaussian blur of the unrestored tomogram.

Its width is chosen with the truth in hand, so it is the most that any isotropic Gaussian
filter could reach on that tomogram.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from cryomend.evaluation.fsc import half_weights
from cryomend.evaluation.metrics import wide_dtype
from cryomend.fourier import gaussian_lowpass, radial_frequency

__all__ = ["best_gaussian"]

SIGMAS = tuple(0.5 + 0.25 * i for i in range(23))  # 0.5 to 6 voxels


def best_gaussian(volume: Tensor, truth: Tensor, sigmas: Sequence[float] = SIGMAS) -> tuple[Tensor, float]:
    """Blur a volume by the Gaussian whose result correlates best with the truth.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Unrestored tomogram, protein of the same sign as in ``truth``.
    truth : Tensor, shape (Z, Y, X)
    sigmas : sequence of float
        Standard deviations to try, in voxels, increasing; the best is refined between its
        neighbours by Brent's method (golden section with parabolic steps).

    Returns
    -------
    filtered : Tensor, shape (Z, Y, X)
    sigma : float
        Voxels.

    Raises
    ------
    ValueError
        If the shapes differ or no sigma is given.
    """
    if volume.shape != truth.shape:
        raise ValueError(f"shapes differ: {tuple(volume.shape)} and {tuple(truth.shape)}")
    if not sigmas:
        raise ValueError("no sigma to try; give at least one")
    loss = _negative_correlation(volume, truth)
    losses = [loss(s) for s in sigmas]
    best = losses.index(min(losses))
    sigma = sigmas[best]
    low, high = sigmas[max(best - 1, 0)], sigmas[min(best + 1, len(sigmas) - 1)]
    if low < high:
        refined = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 0.01})
        sigma = float(refined.x) if refined.fun < losses[best] else sigma
    return gaussian_lowpass(volume, sigma), sigma


def _negative_correlation(volume: Tensor, truth: Tensor) -> Callable[[float], float]:
    """Minus the correlation with the truth (times its norm), as a function of the blur.

    By Parseval's theorem it is a weighted sum over the two transforms, which are made once.
    """
    columns = half_weights(volume.shape[-1], volume.device)
    ft_v, ft_t = (torch.fft.rfftn(x.float() - x.float().mean()) for x in (volume, truth))
    cross = (ft_v.real * ft_t.real + ft_v.imag * ft_t.imag) * columns
    power = (ft_v.real**2 + ft_v.imag**2) * columns
    k_squared = radial_frequency(volume.shape, half=True, device=volume.device) ** 2
    wide = wide_dtype(volume.device)

    def loss(sigma: float) -> float:
        gain = torch.exp(-2 * (math.pi * sigma) ** 2 * k_squared)
        norm = (gain**2 * power).sum(dtype=wide).sqrt()
        return -float((gain * cross).sum(dtype=wide) / norm)

    return loss
