"""The detector: MTF and DQE, counting, gain defects and hot pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryomend.fourier import radial_frequency
from cryomend.io import InputError, read_star_columns

__all__ = ["Mtf", "count_electrons", "counting_filters", "detector_mtf", "draw_defects", "read_mtf"]

Mtf = tuple[tuple[float, ...], tuple[float, ...]]
"""Frequencies in cycles per pixel of the detector, and the MTF there."""


def read_mtf(path: str | Path) -> Mtf:
    """Read a detector's MTF from a RELION star file.

    Parameters
    ----------
    path : path-like
        Columns ``_rlnResolutionInversePixel`` and ``_rlnMtfValue``.

    Returns
    -------
    Mtf
        In the order of the frequencies.

    Raises
    ------
    cryomend.io.InputError
        If the file is missing, has no such columns, or values outside 0 to 1.2.
    """
    columns = read_star_columns(path, ("rlnResolutionInversePixel", "rlnMtfValue"))
    k, values = columns["rlnResolutionInversePixel"], columns["rlnMtfValue"]
    if k.min() < 0 or values.min() < 0 or values.max() > 1.2 or len(np.unique(k)) < 2:
        raise InputError(
            f"{path} holds no MTF: frequencies from 0 to 0.5 with values from 1 downwards are expected"
        )
    order = np.argsort(k)
    return tuple(k[order].tolist()), tuple(values[order].tolist())


def detector_mtf(
    shape: tuple[int, int],
    *,
    at_nyquist: float = 1.0,
    curve: Mtf | None = None,
    binning: float = 1.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Modulation transfer of a detector.

    Parameters
    ----------
    shape : tuple of int
        Image shape (Y, X).
    at_nyquist : float
        A Gaussian in frequency with this value at Nyquist, unless a curve is given.
    curve : Mtf, optional
        A measured one, linearly interpolated; beyond its end its last value.
    binning : float
        Pixel of the image over that of the detector: the curve is read at ``k / binning``.
    device : torch.device or str, optional
        Where the result is made.

    Returns
    -------
    Tensor of float32, shape of ``rfft2``
        1 at the origin.

    Raises
    ------
    ValueError
        If ``at_nyquist`` lies outside (0, 1].
    """
    if not 0 < at_nyquist <= 1:
        raise ValueError(f"the MTF at Nyquist lies in (0, 1], got {at_nyquist:g}")
    k = radial_frequency(shape, half=True, device=device)
    if curve is None:
        return torch.exp(math.log(at_nyquist) * (k / 0.5) ** 2)
    values = np.interp((k / binning).cpu().numpy(), *curve) / np.interp(0.0, *curve)
    return torch.from_numpy(values).float().to(k.device)


def counting_filters(
    mtf: Tensor, shape: tuple[int, int], *, noise_power: str = "mtf", dqe_nyquist: float | None = None
) -> tuple[Tensor, Tensor]:
    """Split a detector's MTF into what acts before and what acts after the electrons are counted.

    Counting makes white noise. A filter ``sqrt(DQE(k) / DQE(0))`` on the expected image before it and
    ``MTF / sqrt(DQE(k) / DQE(0))`` on the counts after it give the signal the MTF, the noise the power
    ``NPS(k) = MTF² DQE(0) / DQE(k)`` and so the ratio of the two the DQE.

    Parameters
    ----------
    mtf : Tensor, shape of ``rfft2``
        Modulation transfer.
    shape : tuple of int
        Image shape (Y, X).
    noise_power : str
        What is assumed when only the MTF is known: ``mtf``, the noise is blurred as the signal is and the
        DQE is flat (integrating detectors); or ``white``, ``DQE(k) = DQE(0) MTF²`` (counting detectors).
    dqe_nyquist : float, optional
        DQE at Nyquist over that at 0; the DQE then is a Gaussian in frequency, and ``noise_power`` idle.

    Returns
    -------
    before, after : Tensor of float32, shape of ``rfft2``

    Raises
    ------
    ValueError
        If ``noise_power`` is neither, or ``dqe_nyquist`` outside (0, 1].
    """
    if dqe_nyquist is not None:
        before = detector_mtf(shape, at_nyquist=dqe_nyquist, device=mtf.device).sqrt()
        return before, mtf / before
    if noise_power not in ("mtf", "white"):
        raise ValueError(f"noise_power is mtf or white, got {noise_power!r}")
    flat = torch.ones_like(mtf)
    return (flat, mtf) if noise_power == "mtf" else (mtf, flat)


def count_electrons(expected: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the number of electrons counted in each pixel (Poisson), for expected counts >= 0."""
    return torch.poisson(expected.clamp(min=0), generator=generator)


def draw_defects(
    shape: tuple[int, int], *, gain_error: float, hot_per_million: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw what the gain reference left over: a factor for every pixel, and which pixels are hot.

    Parameters
    ----------
    shape : tuple of int
        (Y, X).
    gain_error : float
        Standard deviation of the factor about 1.
    hot_per_million : float
        Expected number of hot pixels in a million.
    generator : torch.Generator
        Source of the randomness.

    Returns
    -------
    gain : Tensor of float32, shape (Y, X)
        At least 0.
    hot : Tensor of bool, shape (Y, X)
    """
    device = generator.device
    gain = (1 + gain_error * torch.randn(shape, generator=generator, device=device)).clamp(min=0)
    hot = torch.rand(shape, generator=generator, device=device) < hot_per_million * 1e-6
    return gain, hot
