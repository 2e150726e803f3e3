"""Which crops a step trains on: each has a number, and its number fixes all that is drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import TrainingConfig
from cryomend.geometry import random_rotation
from cryomend.network.losses import CropBatch
from cryomend.training.crops import Crop, PreparedPair, cut_crop
from cryomend.training.rotate import rotated_wedge_mask

__all__ = ["PairSource", "draw_batch"]

_USUAL_POWER = 0.5  # V², mean square of a crowded specimen at 10 Å
_TASK, _CROP = 1, 2  # last word of the seeds, so that no two generators are the same


class PairSource(Protocol):
    """A stream of pairs; where it has ``state()`` and ``restore(state)``, checkpoints keep its state.

    ``last_seed``, if it has one, is the seed of the pair that it gave last.
    """

    def draw(self, rng: np.random.Generator) -> PreparedPair:
        """Give the next pair."""


def draw_batch(
    pairs: Sequence[PreparedPair] | PairSource,
    config: TrainingConfig,
    *,
    seed: int,
    step_first: int,
    own_first: int,
    device: torch.device | str,
) -> CropBatch:
    """Draw the crops of one step for one process.

    Parameters
    ----------
    pairs : sequence of PreparedPair, or PairSource
        Where they are cut.
    config : TrainingConfig
        Size and number of the crops and what is done to them.
    seed : int
        Of the run.
    step_first : int
        Number of the step's first crop over all processes: they must agree on the task.
    own_first : int
        Number of this process's first crop.
    device : torch.device or str
        Where the batch is made.

    Returns
    -------
    CropBatch
    """
    chance = np.random.default_rng([seed, step_first, _TASK]).random()
    two_tasks = config.lambda_recon > 0 and chance < config.recon_share
    crops, kept = [], []
    for number in range(own_first, own_first + config.batch):
        rng = np.random.default_rng([seed, number, _CROP])
        crop = _draw_crop(pairs, config, rng, device)
        crops.append(crop)
        if two_tasks:
            # A turned crop has its own wedge elsewhere; one in the true pose needs a turned extra wedge.
            kept.append(_wedge(crop, None if crop.turned else random_rotation(rng)))
    x, y = (torch.stack([getattr(c, name) for c in crops])[:, None] for name in ("tomogram", "density"))
    own = [_wedge(crop, crop.pose) for crop in crops] if config.wedge_weight > 0 else None
    return CropBatch(
        x.contiguous(memory_format=torch.channels_last_3d),
        y,
        kept=torch.stack(kept)[:, None] if two_tasks else None,
        measured=None if own is None else torch.stack(own)[:, None],
        importance=_importance(crops, config.balance),
    )


def _draw_crop(
    pairs: Sequence[PreparedPair] | PairSource,
    config: TrainingConfig,
    rng: np.random.Generator,
    device: torch.device | str,
) -> Crop:
    """One crop of one pair."""
    pair = pairs[int(rng.integers(len(pairs)))] if isinstance(pairs, Sequence) else pairs.draw(rng)
    return cut_crop(
        pair,
        side=config.crop,
        rng=rng,
        rotation_share=config.rotation_share,
        spectrum_jitter=config.spectrum_jitter,
        device=device,
    )


def _importance(crops: Sequence[Crop], balance: float) -> Tensor | None:
    """Weights that let specimens with little density count as much as crowded ones."""
    if balance == 0:
        return None
    power = torch.tensor([crop.density_power for crop in crops]).clamp(min=1e-6)
    return (_USUAL_POWER / power).pow(balance).clamp(0.25, 4).to(crops[0].density.device)


def _wedge(crop: Crop, pose: NDArray[np.float64] | None) -> Tensor:
    """What a wedge of the width of the crop's own leaves, in some pose."""
    low, high = crop.tilt_range
    return rotated_wedge_mask(
        crop.density.shape, pose, tilt_min=low, tilt_max=high, device=crop.density.device
    )
