"""The training loop: crops in, the network of the best validation score out."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import TrainingConfig
from cryomend.io import InputError
from cryomend.network.losses import CropBatch, multi_task_loss
from cryomend.network.precision import autocast_dtype
from cryomend.network.unet import RestorationUNet
from cryomend.restoration.tile import restore_tiles
from cryomend.training.ahead import DrawAhead
from cryomend.training.checkpoint import read_checkpoint, write_checkpoint
from cryomend.training.crops import PreparedPair
from cryomend.training.distributed import Processes
from cryomend.training.interrupts import Interrupts, Stopped
from cryomend.training.monitor import Monitor
from cryomend.training.sampling import PairSource, draw_batch
from cryomend.training.validate import SCORES, central_part, draw_sections, score_restored

__all__ = ["Trainer", "learning_rate", "network_arguments", "read_run"]

_RECENT = 50  # steps over which speed and stall are averaged


def network_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Keyword arguments of `RestorationUNet` that a configuration asks for."""
    names = ("stem", "encoder_convs", "residual")
    return {"channels": list(config.channels)} | {name: getattr(config, name) for name in names}


def learning_rate(progress: float, step: int, config: TrainingConfig) -> float:
    """Linear warm-up over the first steps, then a half cosine to zero at ``progress`` 1."""
    warm = min(1.0, (step + 1) / max(config.warm_up, 1))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def read_run(path: Path, config: TrainingConfig) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read the checkpoint of a run, its states and facts.

    Raises
    ------
    cryomend.io.InputError
        If the file is no checkpoint, or one of another network than the configuration asks for.
    """
    states, facts = read_checkpoint(path)
    theirs = network_arguments(TrainingConfig(**facts["config"]))
    ours = network_arguments(config)
    if theirs != ours:
        raise InputError(
            f"{path}: checkpoint of a network {theirs}, the configuration asks for {ours}; "
            "use the same or leave out --resume"
        )
    return states, facts


@dataclass
class Trainer:
    """Everything a training run has to remember between steps.

    Crop number i of a run is drawn by a generator of its own, seeded by the run's seed and i. So one
    process with a batch of four, two with a batch of two and a run that was resumed all see the same crops.

    Parameters
    ----------
    config : TrainingConfig
        Network, loss, optimiser; ``config.batch`` is that of each process.
    pairs : sequence of PreparedPair, or PairSource
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
    processes : Processes
        Those that train together; each has its own trainer.
    """

    config: TrainingConfig
    pairs: Sequence[PreparedPair] | PairSource
    validation: Sequence[PreparedPair] = ()
    seed: int = 0
    device: torch.device | str = "cpu"
    max_minutes: float | None = None
    initial: dict[str, Tensor] | None = None
    processes: Processes = field(default_factory=Processes)
    step: int = field(init=False, default=0)
    drawn: int = field(init=False, default=0)
    seconds: float = field(init=False, default=0.0)
    best_score: float = field(init=False, default=-math.inf)
    saved: str = field(init=False, default="there is no checkpoint yet")

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        network = RestorationUNet(**network_arguments(self.config))
        if self.initial is not None:
            network.load_state_dict(self.initial)
        self.network = network.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        shared = self.processes.share_gradients(self.network)
        # Validation calls the plain network, for compiled code is made again for every new shape.
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(shared) if self.config.compile_network else shared
        )
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.best = {k: v.clone() for k, v in self.average.items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.config.learning_rate, weight_decay=1e-4
        )
        try:
            self.dtype = autocast_dtype(self.config.precision, self.device)
        except ValueError as error:
            raise ValueError(f"training.precision: {error}") from error
        # On a CPU one bfloat16 gradient in many is not finite where levels are small (2³ voxels), though the
        # same one is a moment later: it is found again, in the end in float32.
        unsteady = self.dtype is not None and torch.device(self.device).type == "cpu"
        self._dtypes = (self.dtype, self.dtype, None) if unsteady else (self.dtype,)
        # float16 alone has too few exponents for gradients
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype == torch.float16)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # seconds of a step, of its wait
        self.waited = 0.0
        self._drawer: DrawAhead[CropBatch] | None = None
        self._ahead: Future[CropBatch] | None = None
        self._stream_state: Any = None
        self._last_seed: int | None = None
        self._interrupts = Interrupts()

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by the clock, whichever is further."""
        by_clock = self.seconds / (60 * self.max_minutes) if self.max_minutes else 0.0
        return max(self.step / self.config.steps, by_clock)

    @property
    def samples_per_second(self) -> float:
        """Crops per second of all processes over the last steps."""
        seconds = sum(step for step, _ in self._recent)
        return len(self._recent) * self.config.batch * self.processes.count / seconds if seconds else 0.0

    @property
    def stall(self) -> float:
        """Share of the last steps in which the optimiser waited for its crops."""
        seconds = sum(step for step, _ in self._recent)
        return sum(wait for _, wait in self._recent) / seconds if seconds else 0.0

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        every_minutes: float | None = None,
        monitor: Monitor | None = None,
        on_step: Callable[[Trainer, float], None] = lambda *_: None,
    ) -> None:
        """Train to the end, validating every so many steps and saving a checkpoint every few minutes.

        Parameters
        ----------
        checkpoint : Path, optional
            Where checkpoints go.
        every_minutes : float, optional
            Between checkpoints; ``config.checkpoint_minutes`` if None.
        monitor : Monitor, optional
            What gets the tables and pictures.
        on_step : callable
            Called with the trainer and the loss after each step, in the first process.

        Raises
        ------
        FloatingPointError
            If the loss is not finite; the last checkpoint is left as it was.
        cryomend.io.InputError
            If the disk is full or gone.
        KeyboardInterrupt
            At Ctrl-C, after the step that is being taken and with a checkpoint of it; says how to go on. A
            second one ends the run where it is, and so does the first where several processes train together.
        """
        pause = 60 * (self.config.checkpoint_minutes if every_minutes is None else every_minutes)
        if self.initial is not None and self.step == 0:
            self.validate(monitor)  # what it begins with is the best until something is better
        begun = self.step
        with self.drawing_ahead(), self._interrupts.heeded(wanted=self.processes.count == 1):
            try:
                self._run(checkpoint, pause, monitor, on_step)
            except Stopped:
                if checkpoint is not None and self.step > begun:
                    self.save(checkpoint)
                raise KeyboardInterrupt(self._say_stopped(resumes=checkpoint is not None)) from None

    def _run(
        self,
        checkpoint: Path | None,
        pause: float,
        monitor: Monitor | None,
        on_step: Callable[[Trainer, float], None],
    ) -> None:
        """`run`, while crops are drawn ahead; ``pause`` in seconds."""
        last_saved = self.seconds
        while self.progress < 1:
            start = time.monotonic()
            loss = self.take_step()
            elapsed = time.monotonic() - start
            self._recent.append((elapsed, self.waited))
            self.seconds = self.processes.of_first(self.seconds + elapsed)
            if self.processes.first:
                on_step(self, loss)
                self._record_step(monitor, loss)
            if self.step % self.config.validate_every == 0 and self.progress < 1:
                start = time.monotonic()
                self.validate(monitor)
                self.seconds = self.processes.of_first(self.seconds + time.monotonic() - start)
            if checkpoint is not None and self.seconds - last_saved > pause and self.progress < 1:
                self.save(checkpoint)
                last_saved = self.seconds
        self.validate(monitor)
        with self._interrupts.at_once():  # one that came after the last draw
            if checkpoint is not None:
                self.save(checkpoint)

    def take_step(self) -> float:
        """One optimiser step; returns its loss, the mean over all processes.

        Raises
        ------
        FloatingPointError
            If the loss or its gradient is not finite; the weights are then as before.
        """
        start, first = time.monotonic(), self.drawn
        batch = self._draw_batch()
        self.waited = time.monotonic() - start
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.progress, self.step, self.config)
        for dtype in self._dtypes:
            loss, norm = self._find_gradient(batch, dtype)
            # The scaler passes over a step whose float16 gradient overflows, and tries a smaller scale.
            if finite := self.scaler.is_enabled() or math.isfinite(norm):
                break
        mean = self.processes.add([loss / self.processes.count])[0]
        if not (math.isfinite(mean) and finite):
            raise FloatingPointError(self._describe_failure(mean, first))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        self._update_average()
        return mean

    def _find_gradient(self, batch: CropBatch, dtype: torch.dtype | None) -> tuple[float, float]:
        """Loss of a batch and norm of its gradient, which is then clipped."""
        self.optimiser.zero_grad(set_to_none=True)
        with self._autocast(dtype):
            weight = self.config.lambda_recon / self.config.recon_share
            loss = multi_task_loss(self.forward, batch, weight=weight, wedge_weight=self.config.wedge_weight)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        return float(loss.detach()), float(norm)

    def validate(self, monitor: Monitor | None = None) -> float:
        """Score the averaged weights by mean correlation with the truth; keep them if they are the best.

        Without validation pairs the latest weights are the best and the score is NaN.
        """
        if not self.validation:
            self.best = {k: v.clone() for k, v in self.average.items()}
            return math.nan
        scores, picture = self._score()
        if monitor is not None and self.processes.first:
            monitor.record_validation(self.step, scores, picture)
        score = scores["correlation"]
        if score > self.best_score:
            self.best_score = score
            self.best = {k: v.clone() for k, v in self.average.items()}
        return score

    def mix_with_start(self) -> None:
        """Average the best weights with those that training began with, and score the mean.

        Along the straight line between the two the loss has no hill, and the mean keeps most of what was
        learned where it holds and loses less where it does not.

        References
        ----------
        Wortsman et al. (2022), Robust fine-tuning of zero-shot models. doi:10.1109/CVPR52688.2022.00780
        """
        share = self.config.keep_start
        if self.initial is None or share == 0:
            return
        start = {key: value.to(self.device) for key, value in self.initial.items()}
        self.best = {key: torch.lerp(value, start[key], share) for key, value in self.best.items()}
        self.average = {key: value.clone() for key, value in self.best.items()}
        if self.validation:
            self.best_score = self._score()[0]["correlation"]

    def best_network(self) -> RestorationUNet:
        """The network with the weights of the best validation score."""
        network = RestorationUNet(**network_arguments(self.config))
        network.load_state_dict(self.best)
        return network.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint (safetensors) from which `load` continues to the same weights.

        Every process must call it; the first one writes.

        Raises
        ------
        cryomend.io.InputError
            If it cannot be written; an older one is left as it was.
        """
        states = {"net": self.network.state_dict(), "avg": self.average, "best": self.best}
        for i, state in self.optimiser.state_dict()["state"].items():
            states[f"opt.{i}"] = state
        facts = {
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "step": self.step,
            "drawn": self.drawn,
            "seconds": self.seconds,
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
            "scaler": self.scaler.state_dict(),
            "streams": self.processes.gather(self._stream_state or self._state_of_stream()),
        }
        if self.processes.first:
            write_checkpoint(path, states, facts)
        self.saved = f"the last good checkpoint is {path} of step {self.step}"

    def load(self, path: Path) -> None:
        """Continue from a checkpoint, with its seed.

        Raises
        ------
        cryomend.io.InputError
            If the file is no checkpoint, or one of another network.
        """
        states, facts = read_run(path, self.config)
        self.network.load_state_dict(states["net"])
        self.average = {k: v.to(self.device) for k, v in states["avg"].items()}
        self.best = {k: v.to(self.device) for k, v in states["best"].items()}
        optimiser = self.optimiser.state_dict()
        moments = {k.removeprefix("opt."): v for k, v in states.items() if k.startswith("opt.")}
        self.optimiser.load_state_dict(optimiser | {"state": {int(i): v for i, v in moments.items()}})
        self.scaler.load_state_dict(facts["scaler"])
        streams = facts["streams"][self.processes.rank :]  # none for a process that was not there before
        if streams and streams[0] is not None and hasattr(self.pairs, "restore"):
            self.pairs.restore(streams[0])
            self._stream_state = streams[0]
        self.seed, self.step, self.drawn = facts["seed"], facts["step"], facts["drawn"]
        self.seconds = facts["seconds"]
        self.best_score = -math.inf if facts["best_score"] is None else facts["best_score"]
        self.saved = f"the last good checkpoint is {path} of step {self.step}"

    @contextmanager
    def drawing_ahead(self) -> Iterator[None]:
        """Draw the crops of the next step in a thread while the network learns from those of this one.

        On an accelerator nothing changes: drawing there would only delay the step.
        """
        if torch.device(self.device).type != "cpu":
            yield
            return
        drawer = self._drawer = DrawAhead(self._draw)
        try:
            yield
            if self._ahead is not None:
                self._ahead.exception()  # crops of a step that will not be taken: what failed is no loss
        finally:
            drawer.close()
            self._drawer = self._ahead = None

    def _draw_batch(self) -> CropBatch:
        """Crops of this process for one step; the next ones are begun."""
        first = self.drawn
        with self._interrupts.at_once():
            batch = self._draw(first) if self._ahead is None else self._ahead.result()
        self.drawn = first + self.config.batch * self.processes.count
        # What a checkpoint says of the stream must not count the crops that are drawn ahead.
        self._stream_state = self._state_of_stream()
        self._last_seed = getattr(self.pairs, "last_seed", None)
        self._ahead = None if self._drawer is None else self._drawer.begin(self.drawn)
        return batch

    def _state_of_stream(self) -> Any:
        return self.pairs.state() if hasattr(self.pairs, "state") else None

    def _draw(self, first: int) -> CropBatch:
        """Crops of this process for the step whose first crop has this number."""
        return draw_batch(
            self.pairs,
            self.config,
            seed=self.seed,
            step_first=first,
            own_first=first + self.processes.rank * self.config.batch,
            device=self.device,
        )

    def _autocast(self, dtype: torch.dtype | None) -> torch.autocast:
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=dtype, enabled=dtype is not None)

    def _say_stopped(self, *, resumes: bool) -> str:
        if self.step == 0:
            return "stopped before the first step"
        return f"stopped at step {self.step}" + ("; go on with --resume" if resumes else "")

    def _describe_failure(self, loss: float, first: int) -> str:
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        pair = "" if self._last_seed is None else f", last of the pair of seed {self._last_seed}"
        return (
            f"{what} at step {self.step} (seed {self.seed}, crops {first} to {self.drawn - 1}{pair}); "
            f"{self.saved}; lower training.learning_rate and go on with --resume"
        )

    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # short memory at the start
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)

    def _record_step(self, monitor: Monitor | None, loss: float) -> None:
        if monitor is not None:
            facts = {
                "loss": loss,
                "learning_rate": self.optimiser.param_groups[0]["lr"],
                "samples_per_second": self.samples_per_second,
                "stall": self.stall,
            }
            monitor.record_step(self.step, facts)

    @torch.no_grad()
    def _answer(self, crop: Tensor) -> Tensor:
        """Answer of the averaged network (1, 1, Z, Y, X), where the scores are made: they want float64."""
        with self._autocast(self.dtype):
            answer = torch.func.functional_call(self.network, self.average, (crop.to(self.device),))
        return answer.float().cpu()

    @torch.no_grad()
    def _score(self) -> tuple[dict[str, float], NDArray[np.uint8] | None]:
        """Mean scores of the averaged network over validation crops, and the sections of the first."""
        picture = None
        sums = np.zeros((2, len(SCORES)))
        for pair in self.validation[self.processes.rank :: self.processes.count]:
            window = central_part(pair.density.shape, multiple=self.network.multiple)
            x, truth = (v[window].float().cpu() for v in (pair.tomogram, pair.density))
            # in the tiles of a restoration: far from any face a network does what it never learned
            restored = restore_tiles(
                x, self._answer, tile=self.config.crop, overlap=self.config.crop // 4,
                multiple=self.network.multiple,
            )  # fmt: skip
            if picture is None:
                picture = draw_sections(x, restored, truth)
            scores = np.array([score_restored(restored, truth, pair)[name] for name in SCORES])
            sums += [np.nan_to_num(scores), ~np.isnan(scores)]
        total = np.reshape(self.processes.add(sums.flatten().tolist()), sums.shape)
        return dict(zip(SCORES, (total[0] / np.maximum(total[1], 1)).tolist(), strict=True)), picture
