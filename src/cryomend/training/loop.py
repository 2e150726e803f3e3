"""The training loop: crops in, the network of the best validation score out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cryomend.config import TrainingConfig
from cryomend.geometry import random_rotation
from cryomend.io import InputError, atomic_path
from cryomend.network.losses import multi_task_loss
from cryomend.network.unet import RestorationUNet
from cryomend.training.crops import PreparedPair, cut_crop
from cryomend.training.rotate import rotated_wedge_mask

__all__ = ["Trainer", "learning_rate", "network_arguments"]

_EXTRA_WEDGE = (-60.0, 60.0)  # tilt range of the wedge that the second task removes (60° are missing)


def network_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Keyword arguments of `RestorationUNet` that a configuration asks for."""
    return {"channels": list(config.channels), "stem": config.stem}


def learning_rate(progress: float, step: int, config: TrainingConfig) -> float:
    """Linear warm-up over the first steps, then a half cosine to zero at ``progress`` 1."""
    warm = min(1.0, (step + 1) / max(config.warm_up, 1))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


@dataclass
class Trainer:
    """Everything a training run has to remember between steps.

    Parameters
    ----------
    config : TrainingConfig
        Network, loss, optimiser.
    pairs : sequence of PreparedPair
        Training data.
    validation : sequence of PreparedPair
        Scored every so often, never trained on.
    seed : int
        Seed of weights and crops.
    device : torch.device or str
        Where the network runs.
    max_minutes : float, optional
        Wall clock after which training ends; the learning rate then falls with the time spent.
    initial : dict of Tensor, optional
        Weights to begin with instead of random ones.
    """

    config: TrainingConfig
    pairs: Sequence[PreparedPair]
    validation: Sequence[PreparedPair] = ()
    seed: int = 0
    device: torch.device | str = "cpu"
    max_minutes: float | None = None
    initial: dict[str, Tensor] | None = None
    step: int = field(init=False, default=0)
    seconds: float = field(init=False, default=0.0)
    best_score: float = field(init=False, default=-math.inf)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.rng = np.random.default_rng(self.seed)
        network = RestorationUNet(**network_arguments(self.config))
        if self.initial is not None:
            network.load_state_dict(self.initial)
        self.network = network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.best = {k: v.clone() for k, v in self.average.items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.config.learning_rate, weight_decay=1e-4
        )

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by the clock, whichever is further."""
        by_clock = self.seconds / (60 * self.max_minutes) if self.max_minutes else 0.0
        return max(self.step / self.config.steps, by_clock)

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        every_minutes: float = 4.0,
        on_step: Callable[[Trainer, float], None] = lambda *_: None,
    ) -> None:
        """Train to the end, validating and saving a checkpoint every few minutes.

        Raises
        ------
        FloatingPointError
            If the loss is not finite; the last checkpoint is left as it was.
        """
        last_saved = self.seconds
        while self.progress < 1:
            start = time.monotonic()
            loss = self.take_step()
            self.seconds += time.monotonic() - start
            on_step(self, loss)
            if self.seconds - last_saved > 60 * every_minutes:
                self.validate()
                if checkpoint is not None:
                    self.save(checkpoint)
                last_saved = self.seconds
        self.validate()
        if checkpoint is not None:
            self.save(checkpoint)

    def take_step(self) -> float:
        """One optimiser step; returns its loss."""
        x, y, measured = self._draw_batch()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.progress, self.step, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        weight = self.config.lambda_recon / self.config.recon_share
        loss = multi_task_loss(self.network, x, y, measured=measured, weight=weight)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.step}; lower the learning rate, or resume from "
                "the last checkpoint"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return float(loss.detach())

    def validate(self) -> float:
        """Score the averaged weights by mean correlation with the truth; keep them if they are the best."""
        score = self._score() if self.validation else float(self.step)
        if score > self.best_score:
            self.best_score = score
            self.best = {k: v.clone() for k, v in self.average.items()}
        return score

    def best_network(self) -> RestorationUNet:
        """The network with the weights of the best validation score."""
        network = RestorationUNet(**network_arguments(self.config))
        network.load_state_dict(self.best)
        return network.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint (safetensors) from which `load` continues to the same weights."""
        tensors: dict[str, Tensor] = {"torch_rng": torch.get_rng_state()}
        for name, state in (("net", self.network.state_dict()), ("avg", self.average), ("best", self.best)):
            tensors |= {f"{name}.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"opt.{i}.{k}": v.detach().cpu().contiguous() for k, v in state.items()}
        facts = {
            "config": self.config.model_dump(mode="json"),
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "seconds": self.seconds,
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
        }
        with atomic_path(path) as partial:
            save_file(
                tensors, partial, metadata={"format": "cryomend checkpoint 1", "facts": json.dumps(facts)}
            )

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises
        ------
        cryomend.io.InputError
            If the file is no checkpoint, or one of another network.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}
            facts = json.loads(header["facts"])
        except Exception as error:
            raise InputError(
                f"{path}: not a training checkpoint; leave out --resume to start afresh"
            ) from error
        theirs = TrainingConfig(**facts["config"])
        if network_arguments(theirs) != network_arguments(self.config):
            raise InputError(
                f"{path}: checkpoint of a network {network_arguments(theirs)}, the configuration asks for "
                f"{network_arguments(self.config)}; use the same or leave out --resume"
            )

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}

        self.network.load_state_dict(part("net"))
        self.average = {k: v.to(self.device) for k, v in part("avg").items()}
        self.best = {k: v.to(self.device) for k, v in part("best").items()}
        state = self.optimiser.state_dict()
        state["state"] = {}
        for key, value in part("opt").items():
            index, name = key.split(".")
            state["state"].setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(state)
        self.rng.bit_generator.state = facts["rng"]
        torch.set_rng_state(tensors["torch_rng"])
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.best_score = -math.inf if facts["best_score"] is None else facts["best_score"]

    def _draw_batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Crops (B, 1, side³) and, in the steps that train it, the masks of the second task."""
        crops = [
            cut_crop(
                self.pairs[int(self.rng.integers(len(self.pairs)))],
                side=self.config.crop,
                rng=self.rng,
                rotation_share=self.config.rotation_share,
                spectrum_jitter=self.config.spectrum_jitter,
            )
            for _ in range(self.config.batch)
        ]
        x = torch.stack([c.tomogram for c in crops])[:, None]
        y = torch.stack([c.density for c in crops])[:, None]
        measured = None
        if self.config.lambda_recon > 0 and self.rng.random() < self.config.recon_share:
            # A rotated crop has its own wedge elsewhere; one in the true pose needs a turned extra wedge.
            masks = [
                rotated_wedge_mask(
                    y.shape[2:],
                    None if c.turned else random_rotation(self.rng),
                    tilt_min=_EXTRA_WEDGE[0],
                    tilt_max=_EXTRA_WEDGE[1],
                )
                for c in crops
            ]
            measured = torch.stack(masks)[:, None].to(self.device)
        layout = torch.channels_last_3d
        return x.to(self.device).contiguous(memory_format=layout), y.to(self.device), measured

    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # short memory at the start
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)

    @torch.no_grad()
    def _score(self) -> float:
        """Mean correlation of the averaged network with the truth over central validation crops."""
        current = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        scores = []
        for pair in self.validation:
            window = tuple(_central(n, self.network.multiple, 128) for n in pair.density.shape)
            x = pair.tomogram[window].float()[None, None].to(self.device)
            truth = pair.density[window].float().flatten()
            guess = self.network(x).cpu().flatten()
            scores.append(float(torch.corrcoef(torch.stack([guess, truth]))[0, 1].nan_to_num()))
        self.network.load_state_dict(current)
        return float(np.mean(scores))


def _central(n: int, multiple: int, most: int) -> slice:
    """The central part of an axis, a multiple long, at most ``most``."""
    size = min(n, most) // multiple * multiple
    start = (n - size) // 2
    return slice(start, start + size)
