"""Train the learned noise model: the WGAN-GP loop, its state and its checkpoint.

Called by ``fit``; makes the generator that `NoiseModel` samples from.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cryomend.config import NoiseConfig
from cryomend.io import InputError, atomic_path
from cryomend.noise.model import new_generator, read_safetensors
from cryomend.noise.networks import (
    CONDITIONS,
    NoiseCritic,
    NoiseGenerator,
    gradient_penalty,
    initialise_weights,
    tilt_conditions,
)
from cryomend.noise.spectral import Whitening, refine_transfer

__all__ = [
    "RealNoise",
    "WganState",
    "load_checkpoint",
    "new_state",
    "resolve_config",
    "save_checkpoint",
    "train_wgan",
]

_CHECKPOINT = "cryomend noise checkpoint 2"

OnStep = Callable[[int, dict[str, float]], None]
Validate = Callable[[NoiseGenerator], float]


@dataclass
class WganState:
    """All that training must remember: networks, optimisers, scores, the step and the random state."""

    generator: NoiseGenerator
    critic: NoiseCritic
    average: NoiseGenerator
    best: NoiseGenerator
    generator_optimiser: torch.optim.Adam
    critic_optimiser: torch.optim.Adam
    rng: torch.Generator
    step: int = 0
    scores: list[float] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.generator.out.weight.device

    @property
    def stale(self) -> int:
        """Scores since the best one."""
        return len(self.scores) - 1 - self.scores.index(min(self.scores)) if self.scores else 0


class RealNoise:
    """What the critic learns from: whitened real patches and the conditions of each.

    Parameters
    ----------
    patches : Tensor, shape (n, P, P)
        Standardised real noise, on the device of the training.
    tilt_angles : Tensor, shape (n,)
        Degrees, nan if unknown.
    whitening : Whitening
        Of these patches.
    """

    def __init__(self, patches: Tensor, tilt_angles: Tensor, whitening: Whitening) -> None:
        self.whitening = whitening
        self.patches = whitening.whiten(patches)
        self.conditions = tilt_conditions(tilt_angles).to(patches.device)
        side = patches.shape[-1]
        # One cell more than a patch: any place of the generator's lattice can be the patch's first pixel.
        self.cells = 5
        self._transfer = refine_transfer(whitening.amplitude, (side // 4 * 5, side // 4 * 5))

    def draw(self, count: int, rng: torch.Generator, *, flips: bool) -> tuple[Tensor, Tensor]:
        """Random whitened patches and conditions; mirrored, never turned: rows and columns differ."""
        index = torch.randint(len(self.patches), (count,), generator=rng, device=rng.device)
        index = index.to(self.patches.device)
        real, conditions = self.patches[index], self.conditions[index]
        if not flips:
            return real, conditions
        mirror = torch.rand(2, count, 1, 1, generator=rng, device=rng.device).to(real.device) < 0.5
        real = torch.where(mirror[0], real.flip(1), real)
        return torch.where(mirror[1], real.flip(2), real), conditions

    def imitate(self, network: NoiseGenerator, conditions: Tensor, rng: torch.Generator) -> Tensor:
        """Generated patches as the critic sees them: coloured on the torus, cut and whitened again."""
        latent = network.draw_latent(len(conditions), (self.cells, self.cells), rng)
        made = self.whitening.colour(network(latent, rng, conditions).float(), transfer=self._transfer)
        y, x = torch.randint(network.cell, (2,), generator=rng, device=rng.device).tolist()
        side = self.patches.shape[-1]
        cut = made[:, y : y + side, x : x + side]
        return self.whitening.whiten(cut - cut.mean(dim=(1, 2), keepdim=True))


def resolve_config(config: NoiseConfig, device: torch.device | str) -> NoiseConfig:
    """Fill in what the configuration leaves to the device."""
    if torch.device(device).type == "cpu":
        numbers = {"width": 16, "critic_steps": 2, "batch": 16, "learning_rate": 1e-3}
    else:
        numbers = {"width": 64, "critic_steps": 5, "batch": 64, "learning_rate": 1e-4}
    return config.model_copy(update={k: v for k, v in numbers.items() if getattr(config, k) is None})


def new_state(patch: int, config: NoiseConfig, *, seed: int, device: torch.device | str = "cpu") -> WganState:
    """Make untrained networks and their optimisers.

    Raises
    ------
    ValueError
        If the patch side is not 32, 64, 128 or 256.
    """
    config = resolve_config(config, device)
    rng = torch.Generator().manual_seed(seed)
    generator = new_generator(patch, config.model_dump())
    conditions = CONDITIONS if config.conditioning == "angle" else 0
    critic = NoiseCritic(patch, width=config.width or 1, conditions=conditions)
    initialise_weights(generator, rng)
    initialise_weights(critic, rng)
    generator.to(device)
    critic.to(device)
    adam = [
        torch.optim.Adam(network.parameters(), lr=config.learning_rate or 1e-4, betas=(0.5, 0.999))
        for network in (generator, critic)
    ]
    average, best = copy.deepcopy(generator), copy.deepcopy(generator)
    # The noise of every step is drawn where it is needed; only the first weights come from the CPU.
    own = torch.Generator(device=device).manual_seed(seed + 1)
    return WganState(generator, critic, average, best, adam[0], adam[1], own)


def train_wgan(
    real: RealNoise,
    state: WganState,
    config: NoiseConfig,
    *,
    max_minutes: float | None = None,
    validate: Validate | None = None,
    on_step: OnStep | None = None,
) -> WganState:
    """Train a WGAN-GP until the score stops falling, ``config.steps`` are done or time is up.

    Parameters
    ----------
    real : RealNoise
        On the networks' device.
    state : WganState
        Fresh or resumed; changed in place.
    config : NoiseConfig
    max_minutes : float, optional
        Wall-clock limit of this call.
    validate : callable, optional
        Scores the averaged generator first and every ``config.validate_every`` steps, lower is better; the
        best is kept in ``state.best``; after ``config.patience`` scores without a better one it ends.
    on_step : callable, optional
        Called with the step and its losses (and ``score``) after every generator step.

    Returns
    -------
    WganState

    References
    ----------
    Gulrajani et al. (2017), Improved training of Wasserstein GANs, doi:10.48550/arXiv.1704.00028.
    """
    config = resolve_config(config, state.device)
    end = float("inf") if max_minutes is None else time.monotonic() + 60 * max_minutes
    state.generator.train()
    if validate is not None and not state.scores:
        _judge(state, validate)  # untrained it is already near to Gaussian noise
    while state.step < config.steps and state.stale < config.patience and time.monotonic() < end:
        for _ in range(config.critic_steps or 1):
            losses = {"distance": _step_critic(state, real, config)}
        losses["generator"] = _step_generator(state, real, config)
        state.step += 1
        _update_average(state, config.ema_decay)
        if validate is not None and state.step % config.validate_every == 0:
            _judge(state, validate)
        if state.scores:
            losses |= {"score": state.scores[-1], "best": min(state.scores)}
        if on_step is not None:
            on_step(state.step, losses)
    return state


def _judge(state: WganState, validate: Validate) -> None:
    """Score the averaged generator and keep it if none was better."""
    candidate = copy.deepcopy(state.average)
    state.scores.append(validate(candidate))
    if state.stale == 0:
        state.best = candidate


def _autocast(device: torch.device) -> torch.autocast:
    """Half precision where the device has it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _step_critic(state: WganState, real: RealNoise, config: NoiseConfig) -> float:
    """One optimiser step of the critic; returns its estimate of the Wasserstein distance."""
    patches, conditions = real.draw(_batch(real, config), state.rng, flips=config.flips)
    with torch.no_grad(), _autocast(state.device):
        fake = real.imitate(state.generator, conditions, state.rng)
    with _autocast(state.device):
        distance = state.critic(patches, conditions).mean() - state.critic(fake, conditions).mean()
    # The slope is a second derivative; it stays in single precision.
    critic = partial(state.critic, conditions=conditions)
    penalty = gradient_penalty(critic, patches, fake, weight=config.gradient_penalty, generator=state.rng)
    state.critic_optimiser.zero_grad(set_to_none=True)
    (penalty - distance).backward()
    state.critic_optimiser.step()
    return float(distance.detach())


def _step_generator(state: WganState, real: RealNoise, config: NoiseConfig) -> float:
    """One optimiser step of the generator; returns its loss."""
    index = torch.randint(
        len(real.patches), (_batch(real, config),), generator=state.rng, device=state.rng.device
    )
    conditions = real.conditions[index.to(real.conditions.device)]
    with _autocast(state.device):
        loss = -state.critic(real.imitate(state.generator, conditions, state.rng), conditions).mean()
    state.generator_optimiser.zero_grad(set_to_none=True)
    loss.backward()
    state.generator_optimiser.step()
    return float(loss.detach())


def _batch(real: RealNoise, config: NoiseConfig) -> int:
    """Patches per step: as asked for, or all there are."""
    return min(config.batch or 1, len(real.patches))


@torch.no_grad()
def _update_average(state: WganState, decay: float) -> None:
    """Move the averaged generator towards the current one; faster at the start, when all is still random."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    for slow, fast in zip(state.average.parameters(), state.generator.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for held, current in zip(state.average.buffers(), state.generator.buffers(), strict=True):
        held.copy_(current)


# ---- checkpoint -----------------------------------------------------------------------------------

_NETWORKS = ("generator", "critic", "average", "best")


def _state_tensors(state: WganState) -> dict[str, Tensor]:
    """Every tensor of a state under one flat name each."""
    tensors = {"rng": state.rng.get_state(), "scores": torch.tensor(state.scores, dtype=torch.float64)}
    for name in _NETWORKS:
        network: nn.Module = getattr(state, name)
        tensors |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    for name in ("generator_optimiser", "critic_optimiser"):
        for index, slots in getattr(state, name).state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in slots.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_checkpoint(path: Path, state: WganState, config: NoiseConfig) -> None:
    """Write weights, optimiser moments, step and random state as safetensors."""
    metadata = {
        "format": _CHECKPOINT,
        "step": str(state.step),
        "device": state.rng.device.type,
        "config": config.model_dump_json(),
    }
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
        for name in _NETWORKS:
            weights = {k.removeprefix(name + "/"): v for k, v in tensors.items() if k.startswith(name + "/")}
            getattr(state, name).load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: made with another patch size or width; {advice}") from error
    for name in ("generator_optimiser", "critic_optimiser"):
        _fill_optimiser(getattr(state, name), name, tensors)
    state.scores = tensors["scores"].tolist()
    state.step = int(metadata["step"])
    if metadata["device"] == state.rng.device.type:
        state.rng.set_state(tensors["rng"])
    else:  # a random state is at home on one kind of device; elsewhere a new sequence begins
        state.rng.manual_seed(state.rng.initial_seed() + state.step)
    return state


def _fill_optimiser(optimiser: torch.optim.Adam, name: str, tensors: dict[str, Tensor]) -> None:
    """Put stored moments back into an optimiser."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(name + "/"):
            _, index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
