"""Fit a noise model to patches: the learned one, and its two closed-form rivals.

Second step of the noise stage: patches in, a `NoiseModel` out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cryomend.config import NoiseConfig, load_config
from cryomend.io import InputError, check_writable
from cryomend.noise.fidelity import NoiseSet, compare_noise, fidelity_score
from cryomend.noise.model import KINDS, NoiseModel, prepare_spectral, save_noise_model
from cryomend.noise.networks import NoiseGenerator, tilt_conditions
from cryomend.noise.patches import NoisePatches, read_patches
from cryomend.noise.sample import sample_noise_set
from cryomend.noise.spectral import (
    Whitening,
    estimate_power_spectrum,
    marginal_quantiles,
    measure_whitening,
)
from cryomend.noise.wgan import (
    OnStep,
    RealNoise,
    Validate,
    WganState,
    load_checkpoint,
    new_state,
    resolve_config,
    save_checkpoint,
    train_wgan,
)

__all__ = ["calibrate", "fit_noise", "fit_noise_file", "split_patches", "tabulate_std"]

# Below one batch of the published size the critic learns the patches by heart.
MIN_WGAN_PATCHES = 64
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
        With fewer than 64 patches ``wgan`` becomes ``spectral``; ``config["notes"]`` says so.

    Raises
    ------
    InputError
        If the kind is unknown or a checkpoint cannot be resumed.
    ValueError
        If ``wgan`` gets patches of another side than 32, 64, 128 or 256.
    """
    if kind not in KINDS:
        raise InputError(f"unknown noise model {kind!r}: use wgan, spectral or gaussian")
    if kind != "wgan":
        return _fit_closed_form(noise, kind)
    if len(noise.patches) < MIN_WGAN_PATCHES:
        model = _fit_closed_form(noise, "spectral")
        model.config["notes"] = [
            f"{len(noise.patches)} patches are too few for a learned model (at least {MIN_WGAN_PATCHES}, "
            "better 2,000): fitted the spectral model instead; more stacks or a smaller --patch give more"
        ]
        return model
    config = resolve_config(config or load_config(NoiseConfig, None), device)
    training, validation = split_patches(noise, config.validation_share)
    model = _fit_closed_form(training, "gaussian")
    model.kind, model.std_table = "wgan", tabulate_std(noise)
    state = new_state(model.patch, config, seed=seed, device=device)
    if resume:
        load_checkpoint(_require_checkpoint(checkpoint), state)
    truth = NoiseSet.of_patches(validation)
    train_wgan(
        _real_noise(model, training, device),
        state,
        config,
        max_minutes=max_minutes,
        validate=_validation(model, config, truth, seed),
        on_step=_with_checkpoints(on_step, state, config, checkpoint),
    )
    if checkpoint is not None:
        save_checkpoint(checkpoint, state, config)
    model.config |= config.model_dump() | {"seed": seed, "steps_done": state.step}
    model.generator = (state.best if state.scores else state.average).cpu()
    calibrate(model, seed=seed)
    _compare_with_rivals(model, training, truth, seed)
    return model


def _fit_closed_form(noise: NoisePatches, kind: str) -> NoiseModel:
    """What the spectrum, the marginal law and the deviations say: no training."""
    patches = torch.from_numpy(noise.patches)
    tensors = {"power": estimate_power_spectrum(patches), "quantiles": marginal_quantiles(patches)}
    model = NoiseModel(kind, patches.shape[-1], noise.pixel_size, tabulate_std(noise), tensors)
    model.config = {"patches": len(patches), "sources": list(noise.sources), "notes": []}
    if kind == "spectral":
        model.tensors = prepare_spectral(tensors)
    return model


def split_patches(noise: NoisePatches, share: float, *, most: int = 400) -> tuple[NoisePatches, NoisePatches]:
    """Set the last ``share`` of the patches of every tilt (at most so many) apart, for validation."""
    share = min(share, most / len(noise.patches))
    late = np.zeros(len(noise.patches), dtype=bool)
    key = np.stack([noise.source_index, noise.tilt_index])
    _, tilt = np.unique(key, axis=1, return_inverse=True)
    carried = 0.5
    for number in range(int(tilt.max()) + 1):
        members = np.flatnonzero(tilt.reshape(-1) == number)
        carried += share * len(members)  # a tilt of few patches gives one now and then
        late[members[len(members) - int(carried) :]] = True
        carried -= int(carried)
    return _subset(noise, ~late), _subset(noise, late)


def _subset(noise: NoisePatches, keep: NDArray[np.bool_]) -> NoisePatches:
    """Keep some of the patches."""
    arrays: dict[str, Any] = {k: v[keep] for k, v in vars(noise).items() if isinstance(v, np.ndarray)}
    return replace(noise, **arrays)


def _validation(model: NoiseModel, config: NoiseConfig, truth: NoiseSet, seed: int) -> Validate:
    """Score a generator as it would be used: calibrated, sampled, compared with patches it never saw."""

    def validate(generator: NoiseGenerator) -> float:
        candidate = replace(model, tensors=dict(model.tensors), generator=generator, _kept=None)
        candidate.to(generator.out.weight.device)
        calibrate(candidate, seed=seed, fields=4)  # a score needs no more
        made = sample_noise_set(candidate, like=truth, seed=seed + 2)
        return fidelity_score(compare_noise(truth, made, seed=seed, steps=config.classifier_steps))

    return validate


def _compare_with_rivals(model: NoiseModel, training: NoisePatches, truth: NoiseSet, seed: int) -> None:
    """Score the model and its rivals on the validation patches, and say so if a rival does better."""
    rows = {}
    for kind in KINDS:
        rival = model if kind == "wgan" else _fit_closed_form(training, kind)
        made = sample_noise_set(rival, like=truth, seed=seed + 3)
        row = compare_noise(truth, made, seed=seed + 1, steps=model.config["classifier_steps"])
        rows[kind] = {"score": fidelity_score(row), "classifier": row["classifier"]}
    model.config["validation"] = rows
    listed = ", ".join(f"{k} {r['score']:.2f} ({r['classifier']:.2f})" for k, r in rows.items())
    model.config["notes"] = [
        f"on {len(truth.patches)} patches kept apart, score (classifier), lower is better: {listed}"
    ]
    if (best := min(rows, key=lambda k: rows[k]["score"])) != "wgan":
        model.config["notes"].append(
            f"the {best} model is nearer to this noise: use --model {best}, or train longer"
        )


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


def _real_noise(model: NoiseModel, training: NoisePatches, device: torch.device | str) -> RealNoise:
    """What the critic is shown; the marginal law of the whitened patches is kept in the model."""
    patches = torch.from_numpy(training.patches)
    whitening = measure_whitening(patches, model.tensors["power"])
    model.tensors["white_quantiles"] = whitening.quantiles
    moved = Whitening(whitening.amplitude.to(device), whitening.quantiles.to(device))
    return RealNoise(patches.to(device), torch.from_numpy(training.tilt_angle), moved)


@torch.no_grad()
def calibrate(model: NoiseModel, *, seed: int, fields: int = 12, rounds: int = 3) -> NoiseModel:
    """Give a learned generator the spectrum and the marginal law of the real patches.

    The pattern that the generator repeats in every cell is taken out, then the spectrum and the marginal law
    are corrected in turns, for each disturbs the other. What stays learned is everything beyond: the texture.

    Parameters
    ----------
    model : NoiseModel
        Of kind ``wgan``, with ``power``, ``quantiles`` and ``white_quantiles``; changed in place.
    seed : int
    fields : int
        Images of 8 x 8 patches that are looked at: 12 know each shell of the spectrum to about 0.05 dB.
    rounds : int
        Turns of the correction.

    Returns
    -------
    NoiseModel
    """
    rng = torch.Generator(device=model.device).manual_seed(seed + 1)
    table = model.std_table[:, 0]
    angles = table[np.linspace(0, len(table) - 1, fields).round().astype(int)]
    _settle_batch_norm(model, angles, rng)
    side = model.patch
    whites = [model.sample_white((7 * side, 7 * side), rng, tilt_angle=float(a)) for a in angles]
    cell = side // 4
    cells = torch.stack(whites).reshape(fields, 32, cell, 32, cell)
    mean = cells.mean(dim=(0, 1, 3))
    model.tensors |= {"mean": mean, "std": (cells - mean[:, None]).std(dim=(0, 1, 3)).clamp(min=1e-3)}
    model.tensors |= {"gain": model.tensors["power"].sqrt(), "made_quantiles": model.tensors["quantiles"]}
    for _ in range(rounds):
        made = torch.stack([model.colour(white) for white in whites])
        tiles = made.reshape(-1, 8, side, 8, side).transpose(2, 3).reshape(-1, side, side)
        # Where a generator makes next to nothing, a larger gain would only repeat one pattern.
        ratio = (model.tensors["power"] / estimate_power_spectrum(tiles).clamp(min=1e-12)).sqrt()
        model.correct_gain(ratio.clamp(0.1, 10))
        made = torch.stack([model.colour(white, mapped=False) for white in whites])
        model.tensors["made_quantiles"] = marginal_quantiles(made)
    return model


@torch.no_grad()
def _settle_batch_norm(model: NoiseModel, angles: NDArray[np.float64], rng: torch.Generator) -> None:
    """Measure batch statistics of the averaged weights: those carried along belong to other weights."""
    network = model.generator
    assert network is not None
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches to come
    network.train()
    conditions = tilt_conditions(torch.from_numpy(np.resize(angles, 16))).to(model.device)
    for _ in range(8):
        network(network.draw_latent(16, (6, 6), rng), rng, conditions)
    network.eval()


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
        score = f", score {losses['score']:.2f} (best {losses['best']:.2f})" if "score" in losses else ""
        if on_progress is not None:
            on_progress(share, f"step {step}, distance {losses['distance']:.2f}{score}")

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
