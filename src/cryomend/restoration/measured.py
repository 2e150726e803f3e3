"""What the data say stays: joining a tomogram and its restoration in Fourier space.

A single-axis tilt series measures what lies between its extreme planes (``geometry.missing_wedge_mask``);
inside, the tomogram may be kept, outside only the network knows anything. Volumes may lie on disk, and so may
their spectra (``restoration.spectrum``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.evaluation.fsc import ShellSums, half_weights
from cryomend.fourier import radial_mean, shell_index
from cryomend.geometry import missing_wedge_mask
from cryomend.io import release_pages
from cryomend.restoration.spectrum import Spectrum, fill_inverse, read_part, transform_volume
from cryomend.restoration.standardise import robust_mean_std

__all__ = [
    "SpectralWeight",
    "blend_mapped",
    "blend_measured",
    "measured_weight",
    "weight_from_halves",
    "weight_from_tomogram",
]

TiltRange = tuple[float, float]
KEEP = ("measured", "fill", "denoise")
_BLOCK = 32  # voxels: about the size of a large complex at 10 Å, and 16 shells
_MOST_BLOCKS = 1000
_QUIET_SHARE = 0.25
_MOST_FLAT = 0.2  # share of voxels equal to their neighbour
_LEAK = 2  # shells over which the window of a block spreads a frequency
_CLIP = 5.0  # deviations: gold is no signal of the specimen


@dataclass(frozen=True)
class SpectralWeight:
    """Radial filter ``SNR / (SNR + 1)`` of a tomogram.

    Attributes
    ----------
    values : Tensor, shape (shells,)
        From 0 (only noise) to 1 (only signal); shell ``i`` is at ``i / side`` cycles per voxel.
    side : int
        Shells per cycle per voxel.
    """

    values: Tensor
    side: int

    def at(self, frequency: Tensor) -> Tensor:
        """Interpolate at frequencies in cycles per voxel; beyond the last shell its value holds."""
        position = (frequency * self.side).clamp(max=len(self.values) - 1)
        low = position.floor().long().clamp(max=max(len(self.values) - 2, 0))
        high = (low + 1).clamp(max=len(self.values) - 1)
        values = self.values.to(frequency)
        return torch.lerp(values[low], values[high], position - low)


def measured_weight(
    shape: tuple[int, int, int],
    *,
    tilt_range: TiltRange,
    softness: float = 5.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Weigh the Fourier voxels by how surely a tilt series measured them.

    Zero in the missing wedge, one inside the measured region, with a squared-sine ramp over the outermost
    ``softness`` degrees that were measured. The ramp lies inside, so the wedge holds nothing of the data.

    Parameters
    ----------
    shape : tuple of int
        Volume shape (Z, Y, X).
    tilt_range : (float, float)
        Extreme tilt angles in degrees, inside ±90.
    softness : float
        Width of the ramp in degrees, at most half the range; 0 is the hard mask.
    device : torch.device or str, optional
        Where the weight is made.

    Returns
    -------
    Tensor of float32, shape (Z, 1, X // 2 + 1)
        Layout of ``torch.fft.rfftn``; the same for every ky, as the tilt axis is Y. The zero frequency of
        x and z (the tilt axis itself) is one: every tilt measures it.

    Raises
    ------
    ValueError
        If the angles are not in increasing order inside ±90 or ``softness`` is negative.
    """
    low, high = tilt_range
    if not -90 <= low < high <= 90:
        raise ValueError(f"need -90 <= tilt_min < tilt_max <= 90, got {low:g}, {high:g}")
    if softness < 0:
        raise ValueError(f"softness must not be negative, got {softness:g}")
    kz = torch.fft.fftfreq(shape[0], dtype=torch.float64, device=device)[:, None]
    kx = torch.fft.rfftfreq(shape[2], dtype=torch.float64, device=device)[None]
    ramp = min(softness, (high - low) / 2)
    weight, mate = (_angular_ramp(torch.atan2(sign * kz, kx), tilt_range, ramp) for sign in (1, -1))
    # at kx = 0 both signs of kz are one and the same: an end of the range at 90 degrees measures both
    weight[:, 0] = torch.maximum(weight[:, 0], mate[:, 0])
    if shape[0] % 2 == 0:  # the Nyquist frequency has both signs: the mean keeps the volume real
        weight[shape[0] // 2] = (weight[shape[0] // 2] + mate[shape[0] // 2]) / 2
    if shape[2] % 2 == 0:
        weight[:, -1] = (weight[:, -1] + mate[:, -1]) / 2
    weight[0, 0] = 1
    return weight[:, None].float()


def _angular_ramp(angle: Tensor, tilt_range: TiltRange, ramp: float) -> Tensor:
    """Rise from 0 at the ends of the range (degrees) to 1 ``ramp`` degrees inside; one without a wedge."""
    degrees = torch.rad2deg(angle)
    depths = [torch.full_like(degrees, math.inf)]
    # an end at 90 degrees borders on no wedge
    depths += [degrees - tilt_range[0]] if tilt_range[0] > -90 else []
    depths += [tilt_range[1] - degrees] if tilt_range[1] < 90 else []
    depth = torch.stack(depths).amin(0) + 1e-9  # the plane of the extreme tilt itself was measured
    if ramp == 0:
        return (depth >= 0).double()
    return torch.sin((depth / ramp).clamp(0, 1) * (math.pi / 2)) ** 2


def weight_from_halves(
    even: Tensor | NDArray[Any],
    odd: Tensor | NDArray[Any],
    *,
    tilt_range: TiltRange,
    directory: Path | None = None,
) -> SpectralWeight:
    """Weigh the spectrum of a tomogram by the correlation of its two halves.

    Parameters
    ----------
    even, odd : Tensor or array, shape (Z, Y, X)
        Reconstructions of two independent halves of the tilt series, memory-mapped or not.
    tilt_range : (float, float)
        Extreme tilt angles in degrees; only what was measured is compared.
    directory : path, optional
        Where the two transforms lie on disk; in memory if None.

    Returns
    -------
    SpectralWeight
        Of the whole, which has both halves' signal and half the noise power of each.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    The whole has ``SNR = 2 FSC / (1 - FSC)``, so ``SNR / (SNR + 1) = 2 FSC / (1 + FSC)``. The curve is
    averaged over three shells and not let below zero.

    References
    ----------
    Rosenthal and Henderson 2003, doi:10.1016/j.jmb.2003.07.013.
    """
    if even.shape != odd.shape:
        raise ValueError(f"shapes differ: {tuple(even.shape)} and {tuple(odd.shape)}")
    with (
        transform_volume(_array(even), directory=directory) as first,
        transform_volume(_array(odd), directory=directory) as second,
    ):
        curve = _sum_measured_shells(first, second, tilt_range).curve()
    curve[0] = math.nan  # the mean, which the sums leave out
    correlation = _smooth(_fill_empty(curve)).clamp(0, 1)
    return SpectralWeight(2 * correlation / (1 + correlation), min(even.shape))


def _sum_measured_shells(a: Spectrum, b: Spectrum, tilt_range: TiltRange) -> ShellSums:
    """Do as `cryomend.evaluation.fsc.sum_shells` in the measured region, on spectra that may be on disk."""
    n_z, _, n_x = a.shape
    n_shells = min(a.shape) // 2 + 1
    low, high = _finite(tilt_range)
    # the same for every ky
    measured = missing_wedge_mask((n_z, 1, n_x), tilt_min=low, tilt_max=high)[..., : n_x // 2 + 1]
    weights = measured * half_weights(n_x, measured.device)
    sums = torch.zeros(4, n_shells + 1, dtype=torch.float64)
    for rows, _ in zip(a.rows(), b.rows(), strict=True):
        x, y = a.read(rows), b.read(rows)
        index = (a.frequency(rows) * min(a.shape)).round().long().clamp_(max=n_shells).flatten()
        for total, (u, v) in zip(sums, ((x, y), (x, x), (y, y)), strict=False):
            product = (u.real * v.real + u.imag * v.imag) * weights
            total += torch.bincount(index, product.flatten().double(), n_shells + 1)
        sums[3] += torch.bincount(index, weights.expand(x.shape).flatten().double(), n_shells + 1)
    return ShellSums(*sums)


def weight_from_tomogram(
    tomogram: Tensor | NDArray[Any],
    *,
    tilt_range: TiltRange,
    mean_std: tuple[float, float] | None = None,
) -> SpectralWeight:
    """Weigh the spectrum of a tomogram by the noise of its own quietest places.

    Power spectra of blocks of 32 voxels (half the shortest axis, if that is less) that overlap by half,
    inside the measured region, are averaged over shells. The quarter of the blocks with the least power in
    the other shells below half the Nyquist frequency stands for the noise of a shell, all blocks for signal
    and noise. Voxels beyond five deviations are clipped, and blocks that reach into a flat mask do not
    count.

    Where the specimen fills every block, its own power counts as noise and the weight comes out too small:
    the result is then smoother than need be, never noisier.

    Parameters
    ----------
    tomogram : Tensor or array, shape (Z, Y, X)
        At least 16 voxels a side, memory-mapped or not.
    tilt_range : (float, float)
        Extreme tilt angles in degrees.
    mean_std : (float, float), optional
        Of the tomogram; of one that is not in memory `cryomend.restoration.standardise.stream_mean_std` finds
        them. If None they are measured on the tomogram in memory.

    Returns
    -------
    SpectralWeight
        ``1 - noise / total``, averaged over three shells and not let below zero.

    Raises
    ------
    ValueError
        If the tomogram is constant.
    """
    volume = _array(tomogram)
    mean, std = robust_mean_std(torch.as_tensor(tomogram)) if mean_std is None else mean_std
    side = min(_BLOCK, min(tomogram.shape) // 2)
    low, high = _finite(tilt_range)
    measured = missing_wedge_mask((side,) * 3, tilt_min=low, tilt_max=high)[..., : side // 2 + 1]
    shells = torch.where(measured, shell_index((side,) * 3, half=True), side)
    window = torch.hann_window(side, periodic=True)
    window = window[:, None, None] * window[:, None] * window
    # a mask is flat; noise is not, even in 8 bits
    flat = [float((block.diff(dim=-1) == 0).float().mean()) > _MOST_FLAT for block in _cubes(volume, side)]
    powers = []
    for block, masked in zip(_cubes(volume, side), flat, strict=True):
        if masked and not all(flat):
            continue
        standard = ((block - mean) / std).clamp(-_CLIP, _CLIP) * window
        powers.append(radial_mean(torch.fft.rfftn(standard).abs() ** 2, shells, side // 2 + 1))
    modes = torch.bincount(shells.flatten(), minlength=side // 2 + 1)[: side // 2 + 1]
    return SpectralWeight(_weigh_blocks(torch.stack(powers), modes), side)


def _cubes(volume: NDArray[Any], side: int) -> Iterator[Tensor]:
    """Yield cubes that overlap by half, evenly left out where there are very many."""
    step = side // 2
    counts = [(n - side) // step + 1 for n in volume.shape]
    total = math.prod(counts)
    for n in range(0, total, -(-total // _MOST_BLOCKS)):
        numbers = n // (counts[1] * counts[2]), n // counts[2] % counts[1], n % counts[2]
        yield read_part(volume, tuple(slice(i * step, i * step + side) for i in numbers))
        release_pages(volume)


def _distant(shell: int, shells: range) -> list[int]:
    """Those of some shells into which a shell does not leak."""
    return [other for other in shells if abs(other - shell) > _LEAK]


def _weigh_blocks(powers: Tensor, modes: Tensor) -> Tensor:
    """Turn spectra (block, shell) and the modes of each shell into ``1 - noise / total`` (shell,)."""
    n_shells = powers.shape[1]
    # chi-square sums: every mode of a shell counts alike, whatever the colour of the noise
    loudness = powers / powers.median(0).values.clamp(min=torch.finfo(powers.dtype).tiny) * modes
    quiet = max(1, round(_QUIET_SHARE * len(powers)))
    weight = torch.full((n_shells,), math.nan)  # the window makes the mean of a block leak into shell 0
    for i in range(1, n_shells):
        # ranked by other shells, or noise that happens to be weak in this one would be chosen for it
        others = _distant(i, range(1, n_shells // 2 + 1)) or _distant(i, range(1, n_shells))
        others = others or [j for j in range(1, n_shells) if j != i]
        chosen = loudness[:, others].sum(1).argsort()[:quiet]
        weight[i] = 1 - powers[chosen, i].mean() / powers[:, i].mean().clamp(min=1e-30)
    return _smooth(_fill_empty(weight)).clamp(0, 1)


def blend_measured(
    tomogram: Tensor,
    restored: Tensor,
    *,
    tilt_range: TiltRange,
    keep: str = "measured",
    weight: SpectralWeight | None = None,
    softness: float = 5.0,
) -> tuple[Tensor, float]:
    """Join a tomogram and its restoration in Fourier space.

    Parameters
    ----------
    tomogram, restored : Tensor, shape (Z, Y, X)
        Data and network output, in the same grey levels.
    tilt_range : (float, float)
        Extreme tilt angles in degrees, inside ±90.
    keep : {"measured", "fill", "denoise"}
        ``measured``: data times ``weight`` where measured, network in the wedge. ``fill``: the same with
        the data as they are. ``denoise``: network where measured, the wedge of the data.
    weight : SpectralWeight, optional
        Of the data, for ``measured``; one everywhere if None.
    softness : float
        Width of the transition, see `measured_weight`.

    Returns
    -------
    blended : Tensor of float32, shape (Z, Y, X)
        Its mean is that of the tomogram; of ``restored`` for ``denoise``.
    scale : float
        What the network was multiplied by.

    Raises
    ------
    ValueError
        If the shapes differ, ``keep`` is another word, or the network does not agree with the data.

    Notes
    -----
    With data D, network N, transition W and weight c the result is ``W c D + (1 - W) a N``, or
    ``W a N + (1 - W) D``. The scale is the least-squares fit to the data inside the measured region,
    ``a = sum W c Re(conj(N) D) / sum W c |N|²`` without the zero frequency, so the wedge has the contrast of
    what surrounds it. The noise of the data, which the network does not have, plays no part in it.
    """
    blended = np.empty(tomogram.shape, dtype=np.float32)
    scale = blend_mapped(
        blended, _array(tomogram), _array(restored),
        tilt_range=tilt_range, keep=keep, weight=weight, softness=softness,
    )  # fmt: skip
    return torch.from_numpy(blended).to(tomogram.device), scale


def blend_mapped(
    blended: NDArray[Any],
    tomogram: NDArray[Any],
    restored: NDArray[Any],
    *,
    tilt_range: TiltRange,
    keep: str = "measured",
    weight: SpectralWeight | None = None,
    softness: float = 5.0,
    directory: Path | None = None,
) -> float:
    """Do as `blend_measured` on volumes that need not fit into memory.

    Parameters
    ----------
    blended : array of float32, shape (Z, Y, X)
        Filled with the result; may be ``restored`` itself. If an error is raised it is as it was.
    tomogram, restored : array, shape (Z, Y, X)
        Of any number format; like ``blended`` memory-mapped or not.
    tilt_range, keep, weight, softness
        As `blend_measured` takes them.
    directory : path, optional
        Where the two transforms lie on disk, each about the size of ``blended``; in memory if None.

    Returns
    -------
    float
        What the network was multiplied by.

    Raises
    ------
    ValueError
        As `blend_measured`.
    InputError
        If there is no room for the transforms on the disk.
    """
    if keep not in KEEP:
        raise ValueError(f"keep must be one of {', '.join(KEEP)}, got {keep!r}")
    if tomogram.shape != restored.shape:
        raise ValueError(f"shapes differ: {tuple(tomogram.shape)} and {tuple(restored.shape)}")
    transition = measured_weight(_shape(tomogram), tilt_range=tilt_range, softness=softness)
    with (
        transform_volume(tomogram, directory=directory) as data,
        transform_volume(restored, directory=directory) as network,
    ):
        scale = _weigh_both(data, network, transition, weight if keep == "measured" else None, keep)
        mean = network.mean if keep == "denoise" else data.mean
        fill_inverse(blended, [(data, 1.0), (network, scale)], mean=mean)
    return scale


def _weigh_both(
    data: Spectrum, network: Spectrum, transition: Tensor, radial: SpectralWeight | None, keep: str
) -> float:
    """Multiply both spectra by their weights, and fit the network to the data where they were measured."""
    cross, power = 0.0, 0.0
    columns = half_weights(data.shape[2], transition.device)
    for rows, _ in zip(data.rows(), network.rows(), strict=True):
        d, n = data.read(rows), network.read(rows)
        measured = transition if radial is None else transition * radial.at(data.frequency(rows))
        fitted = measured * columns
        cross += float(((d.real * n.real + d.imag * n.imag) * fitted).sum(dtype=torch.float64))
        power += float(((n.real**2 + n.imag**2) * fitted).sum(dtype=torch.float64))
        # the scale is known only at the end, so the two are added then
        data.write(rows, d * (1 - transition if keep == "denoise" else measured))
        network.write(rows, n * (transition if keep == "denoise" else 1 - transition))
    if power == 0:  # a network that is flat
        return 1.0
    if cross <= 0:
        raise ValueError(
            "the restoration does not agree with the data where they were measured, so they cannot be "
            "joined; check --protein and --model"
        )
    return cross / power


def _array(volume: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Give a volume as an array, without a copy where it is on the CPU."""
    return volume.detach().cpu().numpy() if isinstance(volume, Tensor) else volume


def _shape(volume: NDArray[Any]) -> tuple[int, int, int]:
    """Give the shape as three numbers."""
    z, y, x = volume.shape
    return z, y, x


def _finite(tilt_range: TiltRange) -> TiltRange:
    """Move a range that reaches 90 degrees just inside, where the tangent of the wedge is finite."""
    return max(tilt_range[0], -89.9), min(tilt_range[1], 89.9)


def _fill_empty(curve: Tensor) -> Tensor:
    """Give shells without a value that of the next finer one that has one."""
    filled = curve.clone()
    for i in range(len(filled) - 2, -1, -1):
        if filled[i].isnan():
            filled[i] = filled[i + 1]
    return filled.nan_to_num(0.0)


def _smooth(curve: Tensor) -> Tensor:
    """Average over three shells; the ends over two."""
    padded = torch.nn.functional.pad(curve[None, None], (1, 1), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 3, stride=1)[0, 0]
