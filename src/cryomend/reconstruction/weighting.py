"""Radial weights of weighted back-projection: the ramp and its roll-offs, and exact weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["exact_weights", "ramp_filter"]

_SIRT_STEP = 1 / 1024  # cycles per pixel; sets what one iteration means
_HAMMING_SIGMA = 0.438  # IMOD's Gaussian that looks like half a Hamming window of length 1


def ramp_filter(
    width: int,
    *,
    cutoff: float = 0.5,
    falloff: float = 0.0,
    hamming_from: float | None = None,
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
        Standard deviation of the Gaussian roll-off beyond ``cutoff``; 0 cuts sharply. The ramp itself
        goes on, as with IMOD's ``RADIAL cutoff falloff`` with FalloffIsTrueSigma and MultiplyByGaussian
        (without the first, IMOD's falloff is sqrt(2) of this; without the second, it holds the ramp
        at its height at the cut-off).
    hamming_from : float, optional
        From this frequency on the weight falls about like a Hamming window, to 0.07 of the ramp at
        Nyquist: IMOD's HammingLikeFilter, a Gaussian of ``sigma = 0.438 (0.5 - start)``.
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

    Raises
    ------
    ValueError
        If ``hamming_from`` is not below Nyquist.
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
    ramp = ramp * _gaussian_falloff(k, cutoff, falloff)
    if hamming_from is not None:
        if not 0 <= hamming_from < 0.5:
            raise ValueError(f"the Hamming-like fall-off starts in [0, 0.5), got {hamming_from:g}")
        ramp = ramp * _gaussian_falloff(k, hamming_from, _HAMMING_SIGMA * (0.5 - hamming_from))
    return ramp


def _gaussian_falloff(k: Tensor, start: float, sigma: float) -> Tensor:
    """One up to ``start``, a Gaussian beyond; zero beyond if ``sigma`` is 0."""
    beyond = (k - start).clamp(min=0)
    return torch.exp(-((beyond / sigma) ** 2) / 2) if sigma > 0 else (beyond <= 1e-9).float()


def exact_weights(
    tilt_angles: NDArray[Any],
    width: int,
    *,
    thickness: float,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weight of every tilt at every frequency, exact for any set of angles through a slab.

    In Fourier space the image of a slab of thickness D at tilt ``t`` fills a plane that is
    ``1 / L(t)`` thick, ``L = D / cos t`` being the path through the slab. Where planes overlap a frequency
    has been measured more than once and is divided by the sum of the overlaps:
    ``w_i(k) = 1 / sum_j L_j max(0, 1 - L_j k |sin(t_i - t_j)|)``.

    Parameters
    ----------
    tilt_angles : array, shape (tilt,)
        Degrees.
    width : int
        Length of the padded rows, at least twice that of the images.
    thickness : float
        Of the specimen, pixels.
    device : torch.device or str, optional
        Where the result is made.

    Returns
    -------
    Tensor of float32, shape (tilt, width // 2 + 1)
        A full, regular range of n tilts gives the ramp times its step, ``k pi / n``, between ``1 / D``
        and the Crowther limit ``n / (pi D)``, beyond which no two tilts measure the same. To
        be used without `angular_weights`: repeated and crowded angles share here.

    Raises
    ------
    ValueError
        If the thickness is not positive.

    References
    ----------
    Harauz & van Heel 1986, Exact filters for general geometry three dimensional reconstruction, Optik 73,
    146-156. The triangle is theirs, as in IMOD's ExactFilterSize, which takes a round object (``L = D``);
    the sinc of a sharply bounded object (Radermacher 2006, doi:10.1007/978-0-387-69008-7_9) has negative
    lobes, which make the sum meaningless where angles crowd.
    """
    if thickness <= 0:
        raise ValueError(f"thickness must be positive, got {thickness:g}")
    angles = torch.as_tensor(np.radians(np.asarray(tilt_angles, dtype=np.float64)), device=device)
    k = torch.fft.rfftfreq(width, dtype=torch.float64, device=device)
    weights = torch.empty(len(angles), len(k), device=device)
    # near 90 degrees the images end before the slab does; they fill half of the padded rows at most
    longest = width / 2 / angles.sin().abs().clamp(min=1e-9)
    length = torch.minimum(thickness / angles.cos().abs().clamp(min=1e-9), longest)
    for i, angle in enumerate(angles):
        apart = torch.sin(angle - angles).abs()
        overlap = (1 - length * apart * k[:, None]).clamp(min=0)
        weights[i] = (1 / (overlap @ length)).float()
    return weights
