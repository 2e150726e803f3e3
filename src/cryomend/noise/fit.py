"""Fit a noise model to patches: the learned one, and its two closed-form rivals.

Second step of the noise stage: patches in, a `NoiseModel` out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cryomend.config import NoiseConfig, load_config
from cryomend.io import InputError, check_writable
from cryomend.noise.model import KINDS, NoiseModel, prepare_spectral, save_noise_model
from cryomend.noise.patches import NoisePatches, read_patches
from cryomend.noise.sample import blend_patches
from cryomend.noise.spectral import estimate_power_spectrum, marginal_quantiles
from cryomend.noise.wgan import (
    OnStep,
    WganState,
    load_checkpoint,
    new_state,
    resolve_width,
    save_checkpoint,
    train_wgan,
)

__all__ = ["calibrate", "fit_noise", "fit_noise_file", "tabulate_std"]

# Below one batch of the published size the critic learns the patches by heart.
_MIN_WGAN_PATCHES = 64
_CHECKPOINT_SECONDS = 120.0


def fit_noise(
    noise: NoisePatches,
    *,
    kind: str = "wgan",
    config: NoiseConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
) -> NoiseModel:
    """Fit a noise model to patches.

    Parameters
    ----------
    noise : NoisePatches
    kind : str
        ``wgan``, ``spectral`` or ``gaussian``.
    config : NoiseConfig, optional
        Of the WGAN only.
    seed : int
    device : torch.device or str
        Where the WGAN is trained.
    max_minutes : float, optional
        Wall-clock limit of the WGAN training.
    checkpoint : Path, optional
        Written every two minutes and at the end of the WGAN training.
    resume : bool
        Continue from ``checkpoint``.
    on_step : callable, optional
        See `train_wgan`.

    Returns
    -------
    NoiseModel, on the CPU

    Raises
    ------
    InputError
        If the kind is unknown, ``wgan`` gets fewer than 64 patches, or a checkpoint cannot be resumed.
    ValueError
        If ``wgan`` gets patches of another side than 32, 64, 128 or 256.
    """
    if kind not in KINDS:
        raise InputError(f"unknown noise model {kind!r}: use wgan, spectral or gaussian")
    patches = torch.from_numpy(noise.patches)
    tensors = {"power": estimate_power_spectrum(patches), "quantiles": marginal_quantiles(patches)}
    side = patches.shape[-1]
    model = NoiseModel(kind, side, noise.pixel_size, tabulate_std(noise), tensors)
    model.config = {"patches": len(patches), "sources": list(noise.sources)}
    if kind == "spectral":
        model.tensors = prepare_spectral(tensors)
    if kind != "wgan":
        return model
    if len(patches) < _MIN_WGAN_PATCHES:
        raise InputError(
            f"{len(patches)} patches are too few for a learned model (at least {_MIN_WGAN_PATCHES}); "
            "use --model spectral, or extract more with a smaller --patch or more stacks"
        )
    config = config or load_config(NoiseConfig, None)
    state = new_state(side, config, seed=seed, device=device)
    if resume:
        load_checkpoint(_require_checkpoint(checkpoint), state)
    on_step = _with_checkpoints(on_step, state, config, checkpoint)
    train_wgan(patches.to(device), state, config, max_minutes=max_minutes, on_step=on_step)
    if checkpoint is not None:
        save_checkpoint(checkpoint, state, config)
    model.config |= config.model_dump() | {
        "width": resolve_width(config, device),
        "steps_done": state.step,
        "seed": seed,
    }
    model.generator = state.average.cpu()
    return calibrate(model, seed=seed)


def _require_checkpoint(checkpoint: Path | None) -> Path:
    """Insist on a path, where resuming needs one."""
    if checkpoint is None:
        raise InputError("nothing to resume from: name the checkpoint")
    return checkpoint


def _with_checkpoints(
    on_step: OnStep | None, state: WganState, config: NoiseConfig, checkpoint: Path | None
) -> OnStep | None:
    """Add a checkpoint every two minutes to the caller's own callback."""
    if checkpoint is None:
        return on_step
    last = time.monotonic()

    def step(number: int, losses: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last > _CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, state, config)
            last = time.monotonic()
        if on_step is not None:
            on_step(number, losses)

    return step


def tabulate_std(noise: NoisePatches) -> NDArray[np.float64]:
    """Deviation per tilt angle, shape (k, 2); one row at nan if the angles are unknown.

    Tilts of equal angle (to a tenth of a degree) share a row, by their mean variance.
    """
    if np.isnan(noise.tilt_angle).any():
        return np.array([[np.nan, np.sqrt(np.mean(noise.tilt_std**2))]])
    angles, row = np.unique(np.round(noise.tilt_angle, 1), return_inverse=True)
    variance = np.bincount(row, weights=noise.tilt_std**2) / np.bincount(row)
    return np.stack([angles, np.sqrt(variance)], axis=1)


def calibrate(model: NoiseModel, *, seed: int, count: int = 512) -> NoiseModel:
    """Give a learned generator the first two moments and the marginal law of the real patches.

    The generator's mean patch (a pattern that all its patches share) is subtracted, its deviation made
    flat over the patch, its power spectrum filtered to the measured one; and what blending does to the
    marginal law is tabulated. What stays learned is everything beyond: the texture.
    """
    rng = torch.Generator().manual_seed(seed + 1)
    _settle_batch_norm(model, rng, count)
    model.tensors |= {"mean": torch.zeros(()), "std": torch.ones(()), "gain": torch.ones(())}
    raw = model.sample_patches(count, rng, calibrated=False)
    mean, std = raw.mean(dim=0), raw.std(dim=0).clamp(min=1e-3)
    power = estimate_power_spectrum((raw - mean) / std)
    # Where a generator makes next to nothing, a larger gain would only repeat one pattern.
    gain = (model.tensors["power"] / power.clamp(min=1e-12)).sqrt().clamp(0.1, 10)
    model.tensors |= {"mean": mean, "std": std, "gain": gain}
    blended = blend_patches(model, (8 * model.patch, 8 * model.patch), rng)
    model.tensors["blended_quantiles"] = marginal_quantiles(blended)
    return model


@torch.no_grad()
def _settle_batch_norm(model: NoiseModel, rng: torch.Generator, count: int) -> None:
    """Measure batch statistics of the averaged weights: those carried along belong to other weights."""
    assert model.generator is not None
    norms = [m for m in model.generator.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches to come
    model.generator.train()
    for latent in torch.split(torch.randn(count, model.generator.latent, generator=rng), 64):
        model.generator(latent)
    model.generator.eval()


# ---- files ----------------------------------------------------------------------------------------


def fit_noise_file(
    patches: Path,
    output: Path,
    *,
    config: NoiseConfig | None = None,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    on_progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> NoiseModel:
    """Fit a noise model to a file of patches and write it; the checkpoint is ``OUTPUT.checkpoint``.

    Parameters
    ----------
    patches, output : Path
        HDF5 from `write_patches`; safetensors.
    config : NoiseConfig, optional
    device : torch.device or str
        Where the WGAN is trained.
    max_minutes : float, optional
        Wall-clock limit of the training.
    on_progress : callable, optional
        Called with the share done and a text.
    **options
        ``kind``, ``seed`` and ``resume`` of `fit_noise`.

    Raises
    ------
    InputError
        If a file or an option cannot be used.
    """
    if max_minutes is not None and max_minutes <= 0:
        raise InputError(f"--max-minutes must be positive, got {max_minutes:g}")
    check_writable(output)
    noise = read_patches(patches)
    config = config or load_config(NoiseConfig, None)
    begin = time.monotonic()

    def on_step(step: int, losses: dict[str, float]) -> None:
        minutes = (time.monotonic() - begin) / 60
        share = max(step / config.steps, minutes / max_minutes if max_minutes else 0.0)
        if on_progress is not None:
            on_progress(share, f"step {step}, distance {losses['distance']:.2f}")

    options |= {"config": config, "max_minutes": max_minutes, "on_step": on_step}
    try:
        checkpoint = output.with_name(output.name + ".checkpoint")
        model = fit_noise(noise, device=device, checkpoint=checkpoint, **options)
    except InputError as error:
        raise InputError(f"{patches}: {error}") from error
    except ValueError as error:
        raise InputError(
            f"{patches}: {error}; extract patches of such a side or use --model spectral"
        ) from error
    save_noise_model(output, model)
    return model
