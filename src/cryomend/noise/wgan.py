"""Train the learned noise model: the WGAN-GP loop, its state and its checkpoint.

Called by ``fit``; makes the generator that `NoiseModel` samples from.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cryomend.config import NoiseConfig
from cryomend.io import InputError, atomic_path
from cryomend.noise.model import read_safetensors
from cryomend.noise.networks import NoiseCritic, NoiseGenerator, gradient_penalty, initialise_weights

__all__ = ["WganState", "load_checkpoint", "new_state", "resolve_width", "save_checkpoint", "train_wgan"]

_CHECKPOINT = "cryomend noise checkpoint 1"

OnStep = Callable[[int, dict[str, float]], None]


@dataclass
class WganState:
    """All that training must remember: networks, optimisers, the step and the random state."""

    generator: NoiseGenerator
    critic: NoiseCritic
    average: NoiseGenerator
    generator_optimiser: torch.optim.Adam
    critic_optimiser: torch.optim.Adam
    rng: torch.Generator
    step: int = 0


def new_state(patch: int, config: NoiseConfig, *, seed: int, device: torch.device | str = "cpu") -> WganState:
    """Make untrained networks and their optimisers.

    Raises
    ------
    ValueError
        If the patch side is not 32, 64, 128 or 256.
    """
    rng = torch.Generator().manual_seed(seed)
    width = resolve_width(config, device)
    generator = NoiseGenerator(patch, width=width, latent=config.latent)
    critic = NoiseCritic(patch, width=width)
    initialise_weights(generator, rng)
    initialise_weights(critic, rng)
    generator.to(device)
    critic.to(device)
    adam = [
        torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.5, 0.999))
        for network in (generator, critic)
    ]
    return WganState(generator, critic, copy.deepcopy(generator), adam[0], adam[1], rng)


def resolve_width(config: NoiseConfig, device: torch.device | str) -> int:
    """Channels asked for, or what the device can train in reasonable time."""
    return config.width or (16 if torch.device(device).type == "cpu" else 64)


def train_wgan(
    patches: Tensor,
    state: WganState,
    config: NoiseConfig,
    *,
    max_minutes: float | None = None,
    on_step: OnStep | None = None,
) -> WganState:
    """Train a WGAN-GP until ``config.steps`` generator steps are done or time is up.

    Parameters
    ----------
    patches : Tensor, shape (n, P, P)
        Standardised real noise, on the networks' device.
    state : WganState
        Fresh or resumed; changed in place.
    config : NoiseConfig
    max_minutes : float, optional
        Wall-clock limit of this call.
    on_step : callable, optional
        Called with the step and its losses after every generator step.

    Returns
    -------
    WganState

    References
    ----------
    Gulrajani et al. (2017), Improved training of Wasserstein GANs, doi:10.48550/arXiv.1704.00028.
    """
    end = float("inf") if max_minutes is None else time.monotonic() + 60 * max_minutes
    state.generator.train()
    while state.step < config.steps and time.monotonic() < end:
        for _ in range(config.critic_steps):
            distance = _step_critic(state, patches, config)
        loss = _step_generator(state, len(patches), config)
        state.step += 1
        _update_average(state, config.ema_decay)
        if on_step is not None:
            on_step(state.step, {"distance": distance, "generator": loss})
    return state


def _step_critic(state: WganState, patches: Tensor, config: NoiseConfig) -> float:
    """One optimiser step of the critic; returns its estimate of the Wasserstein distance."""
    batch = min(config.batch, len(patches))
    real = _draw_real(patches, batch, state.rng, flips=config.flips)
    with torch.no_grad():
        fake = state.generator(_draw_latent(state, batch))
    distance = state.critic(real).mean() - state.critic(fake).mean()
    penalty = gradient_penalty(state.critic, real, fake, weight=config.gradient_penalty, generator=state.rng)
    state.critic_optimiser.zero_grad(set_to_none=True)
    (penalty - distance).backward()
    state.critic_optimiser.step()
    return float(distance.detach())


def _step_generator(state: WganState, available: int, config: NoiseConfig) -> float:
    """One optimiser step of the generator; returns its loss."""
    fake = state.generator(_draw_latent(state, min(config.batch, available)))
    loss = -state.critic(fake).mean()
    state.generator_optimiser.zero_grad(set_to_none=True)
    loss.backward()
    state.generator_optimiser.step()
    return float(loss.detach())


def _draw_real(patches: Tensor, batch: int, rng: torch.Generator, *, flips: bool) -> Tensor:
    """Random real patches, mirrored at random; never turned: rows and columns of a detector differ."""
    index = torch.randint(len(patches), (batch,), generator=rng)
    real = patches[index.to(patches.device)]
    if not flips:
        return real
    mirror = torch.rand(2, batch, 1, 1, generator=rng).to(patches.device) < 0.5
    real = torch.where(mirror[0], real.flip(1), real)
    return torch.where(mirror[1], real.flip(2), real)


def _draw_latent(state: WganState, count: int) -> Tensor:
    """Latent vectors, drawn on the CPU so that every device sees the same ones."""
    latent = torch.randn(count, state.generator.latent, generator=state.rng)
    return latent.to(next(state.generator.parameters()).device)


@torch.no_grad()
def _update_average(state: WganState, decay: float) -> None:
    """Move the averaged generator towards the current one; faster at the start, when all is still random."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    for slow, fast in zip(state.average.parameters(), state.generator.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for held, current in zip(state.average.buffers(), state.generator.buffers(), strict=True):
        held.copy_(current)


# ---- checkpoint -----------------------------------------------------------------------------------


def _state_tensors(state: WganState) -> dict[str, Tensor]:
    """Every tensor of a state under one flat name each."""
    tensors = {"rng": state.rng.get_state()}
    for name in ("generator", "critic", "average"):
        network: nn.Module = getattr(state, name)
        tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    for name in ("generator_optimiser", "critic_optimiser"):
        for index, slots in getattr(state, name).state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in slots.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_checkpoint(path: Path, state: WganState, config: NoiseConfig) -> None:
    """Write weights, optimiser moments, step and random state as safetensors."""
    metadata = {"format": _CHECKPOINT, "step": str(state.step), "config": config.model_dump_json()}
    # Cloned, because safetensors refuses tensors that share memory.
    tensors = {name: tensor.clone() for name, tensor in _state_tensors(state).items()}
    with atomic_path(path) as partial:
        partial.write_bytes(save(tensors, metadata))


def load_checkpoint(path: Path, state: WganState) -> WganState:
    """Fill a fresh state from a checkpoint, so that training continues as if never stopped.

    Raises
    ------
    InputError
        If the file is missing, is no checkpoint, or belongs to networks of another size.
    """
    advice = "start without --resume"
    tensors, metadata = read_safetensors(path, _CHECKPOINT, "checkpoint of a noise fit", advice)
    try:
        for name in ("generator", "critic", "average"):
            weights = {k.removeprefix(name + "/"): v for k, v in tensors.items() if k.startswith(name + "/")}
            getattr(state, name).load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: made with another patch size or width; {advice}") from error
    for name in ("generator_optimiser", "critic_optimiser"):
        _fill_optimiser(getattr(state, name), name, tensors)
    state.rng.set_state(tensors["rng"])
    state.step = int(metadata["step"])
    return state


def _fill_optimiser(optimiser: torch.optim.Adam, name: str, tensors: dict[str, Tensor]) -> None:
    """Put stored moments back into an optimiser."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(name + "/"):
            _, index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
