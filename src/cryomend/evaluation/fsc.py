"""Fourier shell correlation, whole or inside a part of Fourier space.

The score that tells what a restoration measured from what it inferred: against the truth,
inside the missing wedge and inside the measured region apart. Frequencies are in cycles per
voxel, shells are one Fourier voxel of the smallest axis wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryomend.evaluation.metrics import wide_dtype
from cryomend.fourier import shell_index

__all__ = [
    "ShellSums",
    "fourier_correlation",
    "fourier_shell_correlation",
    "fsc_crossing",
    "mean_fsc",
    "shell_resolution",
    "sum_shells",
]

SLAB_VOXELS = 2**20  # Fourier voxels summed at a time: bounds the memory of the float64 copies


@dataclass(frozen=True)
class ShellSums:
    """Sums over Fourier shells of two volumes, from which every correlation follows.

    Attributes
    ----------
    cross, power_a, power_b, voxels : Tensor, shape (shells + 1,)
        Re(A conj B), |A|^2, |B|^2 and the number of Fourier voxels. The last entry holds
        the corners beyond the last whole shell.
    """

    cross: Tensor
    power_a: Tensor
    power_b: Tensor
    voxels: Tensor

    def curve(self) -> Tensor:
        """Fourier shell correlation, shape (shells,); NaN where a shell is empty, 0 without energy."""
        energy = (self.power_a * self.power_b).sqrt()
        ratio = torch.where(energy > 0, self.cross / energy.clamp(min=torch.finfo(energy.dtype).tiny), 0.0)
        return torch.where(self.voxels > 0, ratio, torch.nan)[:-1].clamp(-1, 1).float()

    def correlation(self) -> float:
        """Correlation over all shells and corners together; NaN if one volume has no energy there."""
        cross, energy = self.cross.sum().item(), self.power_a.sum().item() * self.power_b.sum().item()
        return max(-1.0, min(1.0, cross / math.sqrt(energy))) if energy > 0 else math.nan


def half_weights(n: int, device: torch.device) -> Tensor:
    """How many voxels of ``fftn`` each column of ``rfftn`` stands for: 2, but 1 at zero and at Nyquist."""
    weights = torch.full((n // 2 + 1,), 2.0, device=device)
    weights[0] = 1
    if n % 2 == 0:
        weights[-1] = 1
    return weights


def _products(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Weighted Re(A conj B), |A|^2, |B|^2 and 1 of a slab of Fourier space, shape (4, ...)."""
    pairs = ((a, b), (a, a), (b, b))
    terms = [x.real * y.real + x.imag * y.imag for x, y in pairs]
    return torch.stack([*terms, torch.ones_like(terms[0])]) * weights


def sum_shells(a: Tensor, b: Tensor, masks: Sequence[Tensor | None] = (None,)) -> list[ShellSums]:
    """Sum the products of two Fourier transforms over shells, inside each of several masks.

    One pair of transforms serves all masks. The zero frequency is left out.

    Parameters
    ----------
    a, b : Tensor, shape (Z, Y, X)
        Real volumes.
    masks : sequence of (Tensor of bool, shape (Z, Y, X)) or None
        Parts of Fourier space in the un-shifted layout of ``torch.fft.fftn``; None is all of
        it. The half with kx >= 0 is read and stands for its Friedel mates.

    Returns
    -------
    list of ShellSums
        One per mask.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    for other in (b, *(m for m in masks if m is not None)):
        if other.shape != a.shape:
            raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(other.shape)}")
    device, wide = a.device, wide_dtype(a.device)
    n_shells, half = min(a.shape) // 2 + 1, a.shape[-1] // 2 + 1
    # without its mean the transform keeps its relative precision at low frequencies
    ft_a, ft_b = (torch.fft.rfftn(x.float() - x.float().mean()) for x in (a, b))
    shells = shell_index(a.shape, half=True, device=device)
    columns = half_weights(a.shape[-1], device)
    sums = torch.zeros(len(masks), 4, n_shells + 1, dtype=wide, device=device)
    step = max(1, SLAB_VOXELS // shells[0].numel())
    for start in range(0, a.shape[0], step):
        slab = slice(start, start + step)
        products = _products(ft_a[slab], ft_b[slab], columns)
        if start == 0:
            products[:, 0, 0, 0] = 0
        index = shells[slab].flatten().clamp(max=n_shells)
        for total, mask in zip(sums, masks, strict=True):
            kept = products if mask is None else products * mask[slab, :, :half]
            total.index_add_(1, index, kept.flatten(1).to(wide))
    return [ShellSums(*s) for s in sums]


def fourier_shell_correlation(a: Tensor, b: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Correlate two volumes shell by shell in Fourier space.

    Shells are hard, one Fourier voxel of the smallest axis wide, from 0 to that axis'
    Nyquist frequency. The zero frequency is left out.

    Parameters
    ----------
    a, b : Tensor, shape (Z, Y, X)
        Real volumes, any shape, even or odd.
    mask : Tensor of bool, shape (Z, Y, X), optional
        Part of Fourier space to look at, in the un-shifted layout of ``torch.fft.fftn``,
        for instance ``missing_wedge_mask`` (True = measured) or its complement.

    Returns
    -------
    Tensor of float32, shape (min(Z, Y, X) // 2 + 1,)
        In [-1, 1]; NaN for a shell that holds no voxel (shell 0 of a cube is one), 0 where
        a volume has no energy.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    ``FSC(s) = sum Re(A conj B) / sqrt(sum |A|^2 sum |B|^2)`` over the voxels of shell s.

    References
    ----------
    Harauz and van Heel 1986, Optik 73, 146; van Heel and Schatz 2005, doi:10.1016/j.jsb.2005.05.009.
    """
    return sum_shells(a, b, [mask])[0].curve()


def fourier_correlation(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Pearson correlation of two volumes after keeping only a part of Fourier space.

    By Parseval's theorem the sums over the kept Fourier voxels are those over the
    filtered volumes, which need not be made. The zero frequency is left out, as Pearson's
    coefficient subtracts the mean.

    Parameters
    ----------
    a, b : Tensor, shape (Z, Y, X)
        Real volumes.
    mask : Tensor of bool, shape (Z, Y, X), optional
        Fourier voxels to keep, un-shifted layout of ``torch.fft.fftn``; all if None.

    Returns
    -------
    float
        In [-1, 1]; NaN if one volume has no energy there.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    return sum_shells(a, b, [mask])[0].correlation()


def shell_resolution(n_shells: int, *, smallest_axis: int, voxel_size: float) -> Tensor:
    """Resolution at the centre of each shell, in Å; infinite for shell 0.

    Parameters
    ----------
    n_shells : int
        Length of the curve.
    smallest_axis : int
        Voxels along the shortest axis of the volume.
    voxel_size : float
        Å.

    Returns
    -------
    Tensor of float64, shape (n_shells,)
    """
    return smallest_axis * voxel_size / torch.arange(n_shells, dtype=torch.float64)


def fsc_crossing(curve: Tensor, threshold: float) -> float:
    """Shell number, with a fraction, at which a curve first falls below a threshold.

    Parameters
    ----------
    curve : Tensor, shape (shells,)
        Fourier shell correlation; empty shells (NaN) are passed over.
    threshold : float
        For example 0.5 or 0.143.

    Returns
    -------
    float
        Linear between shells. The last shell if the curve never falls below (the sampling is
        the limit), NaN if it is below from the start. Å are ``smallest axis * voxel_size / number``.
    """
    shells = torch.arange(len(curve), device=curve.device)[~curve.isnan()].tolist()
    values = curve[~curve.isnan()].tolist()
    if not values or values[0] < threshold:
        return math.nan
    for i in range(1, len(values)):
        if values[i] < threshold:
            fraction = (values[i - 1] - threshold) / (values[i - 1] - values[i])
            return float(shells[i - 1] + fraction * (shells[i] - shells[i - 1]))
    return float(shells[-1])


def mean_fsc(curve: Tensor, resolution: Tensor, *, coarsest: float = 400.0, finest: float = 40.0) -> float:
    """Mean of a curve over the shells between two resolutions, both included.

    Parameters
    ----------
    curve : Tensor, shape (shells,)
        Fourier shell correlation; empty shells (NaN) are passed over.
    resolution : Tensor, shape (shells,)
        Å, of :func:`shell_resolution`.
    coarsest, finest : float
        Å.

    Returns
    -------
    float
        NaN if no shell lies between.
    """
    inside = (resolution <= coarsest) & (resolution >= finest)
    return curve[inside.to(curve.device)].nanmean().item()
