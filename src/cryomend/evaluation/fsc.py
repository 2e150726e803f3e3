"""Fourier shell correlation, whole or inside a part of Fourier space: the wedge, what was measured, a cone.

The score that tells what a restoration measured from what it inferred: against the truth,
inside the missing wedge and inside the measured region apart. Frequencies are in cycles per
voxel, shells are one Fourier voxel of the smallest axis wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cryomend.evaluation.metrics import wide_dtype

__all__ = [
    "AXES",
    "CONE_DEGREES",
    "ShellSums",
    "cone_mask",
    "fourier_correlation",
    "fourier_shell_correlation",
    "fsc_crossing",
    "mean_fsc",
    "shell_resolution",
    "spectral_snr",
    "sum_shells",
]

AXES = ("z", "y", "x")
CONE_DEGREES = 20.0  # half-angle of a cone about an axis, between it and the cone's surface
SLAB_VOXELS = 2**17  # Fourier voxels summed at a time: their float64 copies stay in the cache


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


def _slab_shells(shape: torch.Size, slab: slice, device: torch.device) -> Tensor:
    """Shell of every voxel of some planes of ``rfftn``, as `cryomend.fourier.shell_index`."""
    kz, ky = (torch.fft.fftfreq(n, device=device) ** 2 for n in shape[:2])
    kx = torch.fft.rfftfreq(shape[2], device=device) ** 2
    squared = kz[slab, None, None] + ky[:, None] + kx
    return squared.sqrt_().mul_(min(shape)).round_().long()


def _slab_parts(masks: Sequence[Tensor | None], slab: slice, half: int) -> Tensor | int:
    """Which masks each voxel lies in, one bit each: so one sum serves them all."""
    parts: Tensor | int = 0
    for bit, mask in enumerate(masks):
        if mask is not None:
            parts = parts + mask[slab, :, :half].to(torch.int64).mul_(1 << bit)
    return parts


def _add_products(sums: Tensor, index: Tensor, a: Tensor, b: Tensor, columns: Tensor) -> None:
    """Add Re(A conj B), |A|^2, |B|^2 and 1 of a slab of Fourier space to the sums (4, places)."""
    wide, index = sums.dtype, index.flatten()
    for total, (x, y) in zip(sums[:3], ((a, b), (a, a), (b, b)), strict=True):
        products = (x.real * y.real).addcmul_(x.imag, y.imag).mul_(columns)
        total += torch.bincount(index, products.flatten().to(wide), minlength=len(total))
    sums[3] += torch.bincount(index, columns.to(wide).expand(a.shape).flatten(), minlength=len(total))


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
    device, half = a.device, a.shape[-1] // 2 + 1
    n_shells, n_masks = min(a.shape) // 2 + 1, len(masks)
    # without its mean the transform keeps its relative precision at low frequencies
    ft_a, ft_b = (torch.fft.rfftn(x.float() - x.float().mean()) for x in (a, b))
    ft_a[0, 0, 0] = ft_b[0, 0, 0] = 0
    columns = half_weights(a.shape[-1], device)
    sums = torch.zeros(4, (n_shells + 1) << n_masks, dtype=wide_dtype(device), device=device)
    step = max(1, SLAB_VOXELS // ft_a[0].numel())
    for start in range(0, a.shape[0], step):
        slab = slice(start, start + step)
        index = _slab_shells(a.shape, slab, device).clamp_(max=n_shells)
        index += _slab_parts(masks, slab, half) * (n_shells + 1)
        _add_products(sums, index, ft_a[slab], ft_b[slab], columns)
        if start == 0:
            sums[3, index[0, 0, 0]] -= 1  # the zero frequency is no voxel either
    by_parts = sums.reshape(4, 1 << n_masks, n_shells + 1)
    codes = torch.arange(1 << n_masks, device=device)
    inside = [codes >= 0 if m is None else (codes >> i) % 2 == 1 for i, m in enumerate(masks)]
    return [ShellSums(*by_parts[:, kept].sum(1)) for kept in inside]


def cone_mask(
    shape: tuple[int, int, int],
    *,
    axis: str,
    half_angle: float = CONE_DEGREES,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mark the Fourier voxels inside a double cone about an axis.

    About Z the cone lies in the missing wedge of a single-axis series if the tilts end at least
    ``half_angle`` short of 90 degrees; about Y, the tilt axis, nearly all of it was measured.

    Parameters
    ----------
    shape : tuple of int
        Volume shape (Z, Y, X), in voxels.
    axis : {"z", "y", "x"}
        Axis of the cone.
    half_angle : float
        Degrees between the axis and the cone's surface, above 0 and below 90.
    device : torch.device or str, optional
        Where the mask is made; PyTorch's default device if None.

    Returns
    -------
    Tensor of bool, shape (Z, Y, X)
        True inside; un-shifted layout of ``torch.fft.fftn``. The zero frequency is inside.

    Raises
    ------
    ValueError
        If there is no such axis or the angle leaves its range.

    References
    ----------
    Conical FSC of tomograms: Diebolder et al. 2015, doi:10.1016/j.jsb.2015.03.010; half-angle of 20 degrees:
    Tan et al. 2017, doi:10.1038/nmeth.4347.
    """
    if axis not in AXES:
        raise ValueError(f"unknown axis {axis!r}; use z, y or x")
    if not 0 < half_angle < 90:
        raise ValueError(f"a cone's half-angle lies between 0 and 90 degrees, got {half_angle:g}")
    grids = [torch.fft.fftfreq(n, device=device) ** 2 for n in shape]
    along = AXES.index(axis)
    squared = math.tan(math.radians(half_angle)) ** 2
    grids = [
        -k * squared * (1 + 1e-6) if i == along else k for i, k in enumerate(grids)
    ]  # the surface counts
    mask = torch.empty(shape, dtype=torch.bool, device=device)
    plane = grids[1][:, None] + grids[2]
    for z, kz in enumerate(grids[0]):
        torch.le(plane, -kz, out=mask[z])
    return mask


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


def spectral_snr(curve: Tensor, *, against: Literal["truth", "half"]) -> Tensor:
    """Spectral signal-to-noise ratio of the data, shell by shell, from a Fourier shell correlation.

    It takes the noise for independent of the signal and, between halves, of the other half. The output of
    a network is neither: there it only says how far the shell correlates.

    Parameters
    ----------
    curve : Tensor, shape (shells,)
        Fourier shell correlation; NaN where a shell is empty.
    against : {"truth", "half"}
        With a noise-free truth: the result is that of the volume. Between two halves: it is that of
        both together, twice that of each.

    Returns
    -------
    Tensor, shape (shells,)
        Power of the signal over that of the noise, linear; 0 where the correlation is not positive,
        infinite where it is 1.

    Raises
    ------
    ValueError
        If ``against`` is neither.

    Notes
    -----
    ``F^2 / (1 - F^2)`` with the truth, since ``F = sqrt(S / (S + N))``; ``2 F / (1 - F)`` between halves,
    since ``F = S / (S + N)``.

    References
    ----------
    Unser et al. 1987, doi:10.1016/0304-3991(87)90225-7; Penczek 2010, doi:10.1016/S0076-6879(10)82001-4.
    """
    if against not in ("truth", "half"):
        raise ValueError(f"the other volume is 'truth' or 'half', got {against!r}")
    positive = curve.clamp(min=0)
    if against == "truth":
        return positive**2 / (1 - positive**2)
    return 2 * positive / (1 - positive)
