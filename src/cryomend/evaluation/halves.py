"""Restored half A against raw half B: the only comparison of halves that a network's own prior cannot win."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryomend.evaluation.fsc import ShellSums, sum_shells
from cryomend.evaluation.metrics import correlation
from cryomend.geometry import missing_wedge_mask

__all__ = ["HALF_BANDS", "HalfBand", "compare_halves", "require_different"]

_COPY = 0.9999  # correlation of a half with its copy in 8 bits; no two noises come near
HALF_BANDS = ((400.0, 160.0), (160.0, 80.0), (80.0, 40.0))  # Å


@dataclass(frozen=True)
class HalfBand:
    """Correlations in one band, of restored A and of raw A with raw B.

    ``longest`` and ``shortest`` period in Å; ``voxels`` of Fourier space, of which noise correlates
    ``1 / sqrt(voxels)`` by chance.
    """

    longest: float
    shortest: float
    restored: float
    raw: float
    voxels: float

    @property
    def fidelity(self) -> float:
        """Estimated correlation of restored A with the data free of noise; NaN if the halves share none."""
        return self.restored / math.sqrt(self.raw) if self.raw > 0 else math.nan


def compare_halves(
    restored: Tensor,
    raw: Tensor,
    other: Tensor,
    *,
    voxel_size: float,
    tilt_range: tuple[float, float] | None = None,
    bands: tuple[tuple[float, float], ...] = HALF_BANDS,
) -> list[HalfBand]:
    """Compare a restored half, and the same half raw, with the other half raw.

    Two restored halves share the network's prior, so their correlation is inflated: a network that
    writes one picture into both would reach 1. The noise of the raw other half knows nothing of the network.

    Parameters
    ----------
    restored, raw : Tensor, shape (Z, Y, X)
        Half A, restored and not.
    other : Tensor, shape (Z, Y, X)
        Half B, not restored.
    voxel_size : float
        Å.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees: only what was measured is compared.
    bands : tuple of (float, float)
        Longest and shortest period in Å of each; those without a shell are left out.

    Returns
    -------
    list of HalfBand

    Raises
    ------
    ValueError
        If shapes differ, the raw halves are the same voxels or no band holds a shell.

    Notes
    -----
    In each band ``sum_s n_s FSC(s) / sum_s n_s``. With signal S and noise N of each half, raw A and B
    correlate ``q = S / (S + N)``, and what correlates ``r`` with the signal correlates ``r sqrt(q)`` with B:
    so ``r`` is `HalfBand.fidelity`, whatever the noise, and restoration has gained where ``r > sqrt(q)``.

    References
    ----------
    Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013, for ``sqrt``.
    """
    require_different(raw, other)
    mask = None
    if tilt_range is not None:
        shape = (raw.shape[0], raw.shape[1], raw.shape[2])
        mask = missing_wedge_mask(shape, tilt_min=tilt_range[0], tilt_max=tilt_range[1], device=raw.device)
    ours, theirs = (sum_shells(volume, other, [mask])[0] for volume in (restored, raw))
    shells = torch.arange(len(ours.voxels) - 1, dtype=torch.float64)
    period = (min(raw.shape) * voxel_size / shells).to(ours.voxels.device)
    found = []
    for longest, shortest in bands:
        inside = (period <= longest * (1 + 1e-6)) & (period >= shortest * (1 - 1e-6)) & (ours.voxels[:-1] > 0)
        if inside.any():
            means = _mean_curve(ours, inside), _mean_curve(theirs, inside)
            found.append(HalfBand(longest, shortest, *means, voxels=float(ours.voxels[:-1][inside].sum())))
    if not found:
        raise ValueError(f"no band holds a shell of {min(raw.shape)} voxels of {voxel_size:g} Å")
    return found


def _mean_curve(sums: ShellSums, inside: Tensor) -> float:
    """Mean of a Fourier shell correlation over some shells, each by its voxels."""
    weight = sums.voxels[:-1][inside]
    return float((sums.curve()[inside] * weight).sum() / weight.sum())


def require_different(half: Tensor, other: Tensor) -> None:
    """Refuse halves that are copies of each other: their noise would count as signal.

    Raises
    ------
    ValueError
        If one holds the voxels of the other, maybe rescaled, rounded or of the other sign.
    """
    if half.shape == other.shape and abs(correlation(half, other)) > _COPY:
        raise ValueError(
            "the halves hold the same voxels, so their FSC would be 1 everywhere; give two independent halves"
        )
