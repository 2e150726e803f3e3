"""Iterative reconstruction, SIRT and SART, with the matched pair of projection and back-projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.projection import backproject, project_density

__all__ = ["reconstruct_sart", "reconstruct_sirt"]


def reconstruct_sirt(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    depth: int,
    iterations: int,
    relaxation: float = 1.0,
    tolerance: float | None = None,
    non_negative: bool = False,
    centre_z: float | None = None,
    start: Tensor | None = None,
    on_sweep: Callable[[int, float], None] = lambda sweep, residual: None,
) -> Tensor:
    """Simultaneous iterative reconstruction, ``x += ω C Aᵀ R (b - A x)``.

    R and C are the inverse row and column sums of A, so every step is a weighted mean of what is
    left; for ω in (0, 2) the residual falls in the norm of R, ``sqrt(Σ R (b - A x)²)``, to that of the
    weighted least-squares solution (Gregor & Benson 2008, doi:10.1109/TMI.2008.923696).

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Aligned images of zero mean. What lies beyond the volume is taken as zero, and tilted
        rays run through specimen beyond its sides: with the images' mean left in, its edges would
        have to make up for that.
    tilt_angles : array, shape (tilt,)
        Degrees.
    depth : int
        Z extent of the volume in voxels.
    iterations : int
        At most so many.
    relaxation : float
        ω.
    tolerance : float, optional
        Stop when the norm of the residual has fallen by less than this share in one iteration. Rows
        of Y that are reconstructed apart may stop apart.
    non_negative : bool
        Clip below zero after every step.
    centre_z : float, optional
        Plane of the rotation centre; ``depth // 2`` if None.
    start : Tensor, shape (depth, Y, X), optional
        Where to begin; zero if None.
    on_sweep : callable
        Told the number of the iteration, from 0, and the norm of the residual before it; the last
        call tells where the rule stopped.

    Returns
    -------
    Tensor of float32, shape (depth, Y, X)

    Raises
    ------
    ValueError
        If counts or shapes differ, an angle lies outside ±90, the relaxation outside (0, 2), or there is
        nothing to iterate.
    """
    return _iterate(
        tilt_series, np.asarray(tilt_angles), [np.arange(len(tilt_angles))], depth, iterations, relaxation,
        tolerance, non_negative, centre_z, start, on_sweep,
    )  # fmt: skip


def reconstruct_sart(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    depth: int,
    iterations: int,
    relaxation: float = 0.3,
    subsets: int | None = None,
    tolerance: float | None = None,
    non_negative: bool = False,
    centre_z: float | None = None,
    start: Tensor | None = None,
    on_sweep: Callable[[int, float], None] = lambda sweep, residual: None,
) -> Tensor:
    """Simultaneous algebraic reconstruction: the step of SIRT on one subset of the tilts after another.

    Andersen & Kak 1984, doi:10.1016/0161-7346(84)90008-7. Tilts are dealt out so that those of
    one subset, and subsets that follow each other, lie far apart in angle.

    Parameters
    ----------
    tilt_series, tilt_angles, depth, tolerance, non_negative, centre_z, start
        As in `reconstruct_sirt`.
    iterations : int
        Sweeps over all subsets.
    relaxation : float
        ω; small values average out noise.
    subsets : int, optional
        How many; one tilt each if None.
    on_sweep : callable
        Told the number of the sweep, from 0, and the norm of the residuals met in it.

    Returns
    -------
    Tensor of float32, shape (depth, Y, X)

    Raises
    ------
    ValueError
        As `reconstruct_sirt`, and if there are more subsets than tilts.
    """
    count = len(tilt_angles) if subsets is None else subsets
    if not 1 <= count <= len(tilt_angles):
        raise ValueError(f"{count} subsets of {len(tilt_angles)} tilts; give 1 to {len(tilt_angles)}")
    by_angle = np.argsort(np.asarray(tilt_angles), kind="stable")
    groups = [by_angle[start::count] for start in _spread_order(count)]
    return _iterate(
        tilt_series, np.asarray(tilt_angles), groups, depth, iterations, relaxation,
        tolerance, non_negative, centre_z, start, on_sweep,
    )  # fmt: skip


def _spread_order(count: int) -> list[int]:
    """Order 0 .. count - 1 so that each lies far from the ones before: by the golden ratio."""
    golden = (math.sqrt(5) - 1) / 2
    return [int(i) for i in np.argsort(np.argsort((np.arange(count) * golden) % 1))]


def _iterate(
    tilt_series: Tensor,
    angles: NDArray[Any],
    groups: list[NDArray[np.int64]],
    depth: int,
    iterations: int,
    relaxation: float,
    tolerance: float | None,
    non_negative: bool,
    centre_z: float | None,
    start: Tensor | None,
    on_sweep: Callable[[int, float], None],
) -> Tensor:
    _check(tilt_series, angles, iterations, relaxation)
    shape = (depth, *tilt_series.shape[1:])
    if start is not None and start.shape != shape:
        raise ValueError(f"the start has shape {tuple(start.shape)}, the volume {shape}")
    volume = torch.zeros(shape, device=tilt_series.device) if start is None else start.float().clone()
    weights = [_weights(angles[g], depth, shape[2], centre_z, tilt_series.device) for g in groups]
    before = math.inf
    for sweep in range(iterations):
        left = 0.0
        for group, (rows, columns) in zip(groups, weights, strict=True):
            residual = tilt_series[group] - project_density(volume, angles[group], centre_z=centre_z)
            weighted = residual * rows
            left += float(residual.mul_(weighted).sum(dtype=torch.float64))
            step = backproject(weighted, angles[group], depth=depth, centre_z=centre_z)
            volume.addcmul_(step, columns, value=relaxation)
            if non_negative:
                volume.clamp_(min=0)
        on_sweep(sweep, math.sqrt(left))
        if tolerance is not None and math.sqrt(left) > (1 - tolerance) * before:
            break
        before = math.sqrt(left)
    return volume


def _check(tilt_series: Tensor, angles: NDArray[Any], iterations: int, relaxation: float) -> None:
    if not 0 < relaxation < 2:
        raise ValueError(f"the relaxation lies in (0, 2), got {relaxation:g}")
    if iterations < 1:
        raise ValueError(f"at least 1 iteration is needed, got {iterations}")
    if len(tilt_series) != len(angles):
        raise ValueError(f"{len(tilt_series)} images but {len(angles)} tilt angles")


def _weights(
    angles: NDArray[Any], depth: int, width: int, centre_z: float | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Inverse row sums (tilt, 1, X') and column sums (Z, 1, X); 0 for rays and voxels that meet nothing."""
    ones = torch.ones(depth, 1, width, device=device)
    lengths = project_density(ones, angles, centre_z=centre_z)
    hits = backproject(torch.ones_like(lengths), angles, depth=depth, centre_z=centre_z)
    # a ray that only grazes a corner is left out: dividing by its length would blow up its noise
    rows = torch.where(lengths > 0.5, 1 / lengths.clamp(min=0.5), 0.0)
    return rows, torch.where(hits > 1e-3, 1 / hits.clamp(min=1e-3), 0.0)
