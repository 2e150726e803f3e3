"""Look for a particle in a tomogram: correlation with its template in every pose, peaks, how many are right.

A score of what restoration is for: does it make particles easier to find? Volumes are (Z, Y, X) tensors with
protein bright, positions in voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.spatial import cKDTree
from torch import Tensor

from cryomend.fourier import filter_fourier
from cryomend.geometry import missing_wedge_mask

__all__ = [
    "PickScore",
    "find_peaks",
    "match_template",
    "pose_template",
    "score_picks",
    "sphere",
]

_FLAT = 1e-6  # of the volume's variance: less around a voxel is no signal but rounding


@dataclass(frozen=True)
class PickScore:
    """How many of some picks are particles.

    ``threshold`` is the least score of a pick; ``precision`` the share of picks that are particles,
    ``recall`` the share of particles that were picked, ``f1`` their harmonic mean.
    """

    threshold: float
    picks: int
    precision: float
    recall: float
    f1: float


def sphere(diameter: float, device: torch.device | str | None = None) -> Tensor:
    """Mark the voxels of the least odd cube whose centres lie in a sphere of ``diameter`` voxels."""
    reach = math.floor(diameter / 2)
    grid = torch.arange(-reach, reach + 1, device=device).float() ** 2
    return grid[:, None, None] + grid[:, None] + grid <= (diameter / 2) ** 2


def pose_template(
    template: Tensor,
    rotation: Tensor,
    mask: Tensor,
    *,
    step: float,
    tilt_range: tuple[float, float] | None = None,
) -> Tensor:
    """Rotate a template, take away what the wedge hides, and normalise it under a mask.

    Parameters
    ----------
    template : Tensor, shape (n, n, n)
        Density around voxel ``n // 2``, sampled at least as finely as the result; trilinear between.
    rotation : Tensor, shape (3, 3)
        Acts on ZYX columns.
    mask : Tensor of bool, shape (m, m, m)
        Voxels that count, m odd.
    step : float
        Voxels of the template per voxel of the result.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees; nothing is hidden if None.

    Returns
    -------
    Tensor of float32, shape of ``mask``
        Zero outside the mask, with zero mean and unit variance inside.

    Raises
    ------
    ValueError
        If the template is constant there.
    """
    side = len(mask)
    # the wedge spreads the template beyond itself: room for that, so that little comes back from the far side
    wide = side if tilt_range is None else next_fast_len(side + side // 2, real=True)
    offsets = torch.arange(wide, device=template.device).float() - wide // 2
    z, y, x = torch.meshgrid(offsets, offsets, offsets, indexing="ij")
    source = torch.stack([z, y, x], dim=-1) @ rotation.to(offsets) * step  # rows: the inverse rotation
    n = len(template)
    grid = (source.flip(-1) + n // 2 + 0.5) * (2 / n) - 1  # XYZ from -1 to 1 over the whole voxels
    posed = torch.nn.functional.grid_sample(template[None, None].float(), grid[None], align_corners=False)[
        0, 0
    ]
    if tilt_range is not None:
        measured = missing_wedge_mask(
            (wide, wide, wide), tilt_min=tilt_range[0], tilt_max=tilt_range[1], device=template.device
        )
        posed = filter_fourier(posed, measured[:, :, : wide // 2 + 1])
    first = wide // 2 - side // 2
    cut = (slice(first, first + side),) * 3
    inside = posed[cut][mask]
    deviation = inside.std(correction=0)
    if not deviation > 0:
        raise ValueError("the template is constant inside its mask; give a larger --template-diameter")
    result = torch.zeros(mask.shape, device=template.device)
    result[mask] = (inside - inside.mean()) / deviation
    return result


def match_template(
    tomogram: Tensor,
    template: Tensor,
    rotations: NDArray[np.float64],
    *,
    diameter: float,
    step: float = 1.0,
    tilt_range: tuple[float, float] | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> tuple[Tensor, Tensor]:
    """Correlate a tomogram with a template around every voxel, in the pose that fits best.

    With a tilt range both are first cut to what was measured, so that nothing in the wedge counts.

    Parameters
    ----------
    tomogram : Tensor, shape (Z, Y, X)
        Protein bright, as in the template. It goes on beyond its faces with its mean.
    template : Tensor, shape (n, n, n)
        Density around voxel ``n // 2``.
    rotations : array, shape (r, 3, 3)
        Poses to try, as `rotation_grid` gives them; they act on ZYX columns.
    diameter : float
        Of the sphere around a voxel that is compared, in voxels of the tomogram.
    step : float
        Voxels of the template per voxel of the tomogram.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees.
    on_progress : callable
        Told the share of the poses that is done.

    Returns
    -------
    score : Tensor of float32, shape (Z, Y, X)
        Greatest correlation over the poses, in [-1, 1].
    pose : Tensor of int64, shape (Z, Y, X)
        Its number among ``rotations``.

    Raises
    ------
    ValueError
        If the sphere is thinner than 3 voxels or wider than the tomogram, or the tomogram is constant.

    Notes
    -----
    ``sum_r M(r) T(r) S(x + r) / (P sigma(x))`` with the mask M of P voxels, the template T of zero mean and
    unit variance under it, and the deviation ``sigma`` of S under the mask moved to x; by FFT.

    References
    ----------
    Roseman 2003, doi:10.1016/S0304-3991(02)00333-9; missing wedge: Frangakis et al. 2002,
    doi:10.1073/pnas.172520299.
    """
    device, shape = tomogram.device, tomogram.shape
    if not 2 <= diameter < max(shape) + 1:  # a cube of 3 voxels or more, within the tomogram
        raise ValueError(
            f"a template of {diameter:.3g} voxels diameter in a tomogram of {min(shape)} to {max(shape)}; "
            "need at least 2 voxels, and no more than the tomogram has"
        )
    mask = sphere(diameter, device)
    padded = tuple(next_fast_len(n + len(mask) // 2, real=True) for n in shape)
    volume = tomogram.float() - tomogram.float().mean()
    if tilt_range is not None:
        measured = missing_wedge_mask(
            (shape[0], shape[1], shape[2]), tilt_min=tilt_range[0], tilt_max=tilt_range[1], device=device
        )
        volume = filter_fourier(volume, measured[:, :, : shape[2] // 2 + 1])
    deviation = volume.std(correction=0)
    if not deviation > 0:
        raise ValueError("a constant tomogram holds nothing to look for")
    volume = volume / deviation
    spectrum = torch.fft.rfftn(volume, s=padded)
    scale = _inverse_deviation(volume, spectrum, mask, padded)
    score = torch.full(padded, -math.inf, device=device)
    pose = torch.zeros(padded, dtype=torch.int32, device=device)
    matrices = torch.as_tensor(rotations, dtype=torch.float32, device=device)
    for i, rotation in enumerate(matrices):
        posed = pose_template(template, rotation, mask, step=step, tilt_range=tilt_range)
        found = _correlate(spectrum, posed, padded).mul_(scale)
        better = found > score
        pose.masked_fill_(better, i)
        torch.maximum(score, found, out=score)
        on_progress((i + 1) / len(matrices))
    middle = [len(mask) // 2] * 3  # the sums speak of templates that begin at a voxel
    whole = tuple(slice(n) for n in shape)
    score, pose = (x.roll(middle, (0, 1, 2))[whole] for x in (score, pose))
    return score.clamp(-1, 1), pose.long()


def _correlate(spectrum: Tensor, small: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum of a volume times a small array that begins at each voxel, one axis of the small one at a time."""
    transform = torch.fft.rfft(small, shape[2], dim=2)
    transform = torch.fft.fft(transform, shape[1], dim=1)
    transform = torch.fft.fft(transform, shape[0], dim=0)
    return torch.fft.irfftn(spectrum * transform.conj(), s=shape)


def _inverse_deviation(volume: Tensor, spectrum: Tensor, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One over voxels times deviation under the mask that begins at each voxel; 0 where that is flat."""
    weights = mask.float()
    count = weights.sum()
    mean = _correlate(spectrum, weights, shape) / count
    square = _correlate(torch.fft.rfftn(volume**2, s=shape), weights, shape) / count
    variance = square - mean**2
    return torch.where(variance > _FLAT, 1 / (count * variance.clamp(min=_FLAT).sqrt()), 0.0)


def find_peaks(score: Tensor, *, distance: float, most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Highest places of a volume, none nearer than a distance to a higher one.

    Parameters
    ----------
    score : Tensor, shape (Z, Y, X)
    distance : float
        Voxels.
    most : int
        Peaks to return at most.

    Returns
    -------
    positions : array of int, shape (n, 3)
        Voxels ZYX, by falling score.
    scores : array, shape (n,)
        Positive.
    """
    highest = torch.nn.functional.max_pool3d(score[None, None], 3, stride=1, padding=1)[0, 0]
    index = ((score == highest) & (score > 0)).nonzero().cpu().numpy()
    values = score.cpu().numpy()[tuple(index.T)].astype(np.float64)
    order = np.argsort(-values, kind="stable")
    index, values = index[order], values[order]
    kept: list[int] = []
    free = np.ones(len(index), dtype=bool)
    tree = cKDTree(index) if len(index) else None
    for i in range(len(index)):
        if len(kept) == most:
            break
        if free[i] and tree is not None:
            kept.append(i)
            free[tree.query_ball_point(index[i], distance)] = False
    return index[kept].reshape(-1, 3), values[kept]


def score_picks(
    positions: NDArray[np.number],
    scores: NDArray[np.float64],
    particles: NDArray[np.number],
    *,
    tolerance: float,
) -> tuple[PickScore, PickScore]:
    """Compare picks with where particles are.

    By falling score each pick takes the nearest particle within the tolerance that no pick has taken.

    Parameters
    ----------
    positions : array, shape (n, 3)
        Picks by falling score.
    scores : array, shape (n,)
    particles : array, shape (m, 3)
        True positions, in the same unit.
    tolerance : float
        Greatest distance of a pick from its particle.

    Returns
    -------
    best : PickScore
        At the threshold of the greatest F1, chosen with the particles in hand.
    as_many : PickScore
        With as many picks as there are particles, or all if there are fewer.

    Raises
    ------
    ValueError
        If there is no particle.
    """
    if len(particles) == 0:
        raise ValueError("there is no particle to find")
    if len(positions) == 0:
        nothing = PickScore(math.inf, 0, 0.0, 0.0, 0.0)
        return nothing, nothing
    right = np.cumsum(_hits(np.asarray(positions, float), np.asarray(particles, float), tolerance))
    picks = np.arange(1, len(right) + 1)
    f1 = 2 * right / (picks + len(particles))

    def at(i: int) -> PickScore:
        n = i + 1
        return PickScore(float(scores[i]), n, right[i] / n, right[i] / len(particles), float(f1[i]))

    return at(int(np.argmax(f1))), at(min(len(particles), len(right)) - 1)


def _hits(positions: NDArray[np.float64], particles: NDArray[np.float64], tolerance: float) -> list[bool]:
    """Whether each pick finds a particle that no earlier one has found."""
    tree, free = cKDTree(particles), np.ones(len(particles), dtype=bool)
    hits = []
    for position in positions:
        near = [p for p in tree.query_ball_point(position, tolerance) if free[p]]
        if near:
            free[min(near, key=lambda p: float(np.linalg.norm(particles[p] - position)))] = False
        hits.append(bool(near))
    return hits
