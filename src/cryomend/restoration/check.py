"""Checks of a restoration on the user's own data, without a truth, on tensors.

They join what the rooms can: reconstruct some of the tilts, restore, compare with the data left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.evaluation.halves import compare_halves
from cryomend.evaluation.projections import BAND, compare_projections, least_supported, local_support
from cryomend.evaluation.verdict import (
    Check,
    judge_halves,
    judge_held_out,
    judge_noise,
    judge_reprojection,
    judge_support,
)
from cryomend.reconstruction.wbp import reconstruct_wbp
from cryomend.restoration.null import noise_left, randomise_phases

__all__ = ["TiltData", "check_halves", "check_held_out", "check_noise", "check_reprojection"]

Restore = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TiltData:
    """A tilt series as a tomogram is compared with it.

    ``images`` (tilt, Y, X), protein dark, as finely sampled as the tomogram; ``tilt_angles`` in degrees;
    ``apart`` is True for the tilts that are kept apart; ``centre_z`` the plane of the rotation centre,
    ``Z // 2`` if None; ``band`` the longest and the shortest period that count, Å.
    """

    images: Tensor
    tilt_angles: NDArray[Any]
    apart: NDArray[np.bool_]
    voxel_size: float
    centre_z: float | None = None
    band: tuple[float, float] = BAND

    def compare(self, volume: Tensor, which: NDArray[np.bool_] | None = None) -> Tensor:
        """Correlation of a volume, protein dark, with all tilts or with some."""
        chosen = np.ones(len(self.tilt_angles), dtype=bool) if which is None else which
        return compare_projections(
            volume, self.images[torch.from_numpy(chosen)], self.tilt_angles[chosen], **self._how
        )

    def reconstruct(self, thickness: int) -> Tensor:
        """Weighted back-projection of the tilts that are not kept apart."""
        kept = ~self.apart
        images = self.images[torch.from_numpy(kept)]
        return reconstruct_wbp(images, self.tilt_angles[kept], thickness=thickness, centre_z=self.centre_z)

    @property
    def _how(self) -> dict[str, Any]:
        return {"voxel_size": self.voxel_size, "band": self.band, "centre_z": self.centre_z}


def check_reprojection(
    volume: Tensor, data: TiltData, *, unseen: Tensor | None = None
) -> tuple[Check, Check]:
    """Compare the re-projections of a volume with the tilts, as a whole and place by place.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Restored tomogram, protein dark.
    data : TiltData
        The tilts; those kept apart give the measure, a raw tomogram without them must not agree better.
    unseen : Tensor, shape (Z, Y, X), optional
        That tomogram, if it is there already.

    Returns
    -------
    reprojection, support : Check

    Raises
    ------
    ValueError
        As `cryomend.evaluation.projections.compare_projections`.
    """
    baseline = data.reconstruct(volume.shape[0]) if unseen is None else unseen
    seen = data.compare(volume)
    mirrored = compare_projections(volume, data.images, -data.tilt_angles, **data._how)
    check = judge_reprojection(
        seen=float(seen.mean()),
        seen_of_held_out=float(seen[torch.from_numpy(data.apart)].mean()),
        unseen=float(data.compare(baseline, data.apart).mean()),
        mirrored=float(mirrored.mean()),
    )
    check = _with_tilts(check, data.tilt_angles, seen)
    support = local_support(volume, data.images, data.tilt_angles, **data._how)
    return check, judge_support(*least_supported(support))


def check_held_out(data: TiltData, restore: Restore, *, thickness: int, raw: Tensor | None = None) -> Check:
    """Reconstruct without the tilts that are kept apart, restore, and foretell them.

    Parameters
    ----------
    data : TiltData
        The tilts.
    restore : callable
        Maps a tomogram (Z, Y, X), protein dark, to its restoration.
    thickness : int
        Voxels of the tomogram along Z.
    raw : Tensor, shape (Z, Y, X), optional
        The tomogram without these tilts, if it is there already.

    Returns
    -------
    Check
    """
    raw = data.reconstruct(thickness) if raw is None else raw
    of_raw, of_restored = (data.compare(volume, data.apart) for volume in (raw, restore(raw)))
    check = judge_held_out(float(of_restored.mean()), float(of_raw.mean()), tilts=int(data.apart.sum()))
    return _with_tilts(check, data.tilt_angles[data.apart], of_restored)


def check_halves(
    even: Tensor,
    odd: Tensor,
    even_restored: Tensor,
    odd_restored: Tensor,
    *,
    voxel_size: float,
    tilt_range: tuple[float, float] | None,
) -> Check:
    """Compare each restored half with the other, raw half.

    Parameters
    ----------
    even, odd, even_restored, odd_restored : Tensor, shape (Z, Y, X)
        The halves, of one contrast.
    voxel_size : float
        Å.
    tilt_range : (float, float) or None
        Extreme tilt angles in degrees.

    Returns
    -------
    Check
        Of the half that comes off worse.
    """
    checks = [
        judge_halves(compare_halves(restored, raw, other, voxel_size=voxel_size, tilt_range=tilt_range))
        for restored, raw, other in ((even_restored, even, odd), (odd_restored, odd, even))
    ]
    return min(checks, key=lambda check: check.number)


def check_noise(
    tomogram: Tensor,
    restored: Tensor,
    restore: Restore,
    *,
    generator: torch.Generator,
    halves: tuple[Tensor, Tensor] | None = None,
) -> list[Check]:
    """Restore what has no structure: a phase-randomised copy and, with halves, their difference.

    Parameters
    ----------
    tomogram : Tensor, shape (Z, Y, X)
        The data.
    restored : Tensor, shape (Z, Y, X)
        What ``restore`` makes of them.
    restore : callable
        Maps a tomogram to its restoration.
    generator : torch.Generator
        Draws the phases; of the device of ``tomogram``.
    halves : pair of Tensor, shape (Z, Y, X), optional
        Their difference holds the noise alone, with its true spectrum.

    Returns
    -------
    list of Check
        One, or with halves two.

    Raises
    ------
    ValueError
        If the restoration is flat or the halves are equal.
    """
    randomised = randomise_phases(tomogram, generator=generator)
    checks = [judge_noise(noise_left(randomised, tomogram, restored, restore))]
    if halves is not None:
        left = noise_left(halves[0] - halves[1], tomogram, restored, restore)
        checks.append(judge_noise(left, of_halves=True))
    return checks


def _with_tilts(check: Check, tilt_angles: NDArray[Any], correlation: Tensor) -> Check:
    """Add the correlation of every tilt."""
    tilts = [
        {"tilt_angle": float(angle), "correlation": float(f"{float(r):.4f}")}
        for angle, r in zip(tilt_angles, correlation, strict=True)
    ]
    return Check(check.name, check.verdict, check.number, check.meaning, {**check.detail, "per_tilt": tilts})
