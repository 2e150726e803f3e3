"""An endless stream of training pairs: made in the background, held in a bounded buffer, drawn at random.

Worker processes simulate pairs and write them, prepared for the network, into a folder; without workers
the stream makes them itself, on the device that it is given, between two draws.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from cryomend.io import InputError, check_folder
from cryomend.training.crops import PreparedPair
from cryomend.training.maker import PairMaker, pair_seed
from cryomend.training.producer import Inline, Workers, load_prepared

__all__ = ["PairStream"]

_AHEAD = 2  # pairs that each worker has been told to make, so that it never waits for the next order
_MAKING_SHARE = 0.1  # of the time, for a stream that makes its pairs itself and has no schedule


@dataclass
class _Held:
    """A pair in the buffer."""

    number: int
    pair: PreparedPair
    used: int = 0


class PairStream:
    """Pairs to draw crops from; new ones take the places of the oldest.

    Parameters
    ----------
    maker : PairMaker
        What pairs are made from.
    seed : int
        Of the run; the pairs have the seeds of `pair_seed`.
    folder : Path, optional
        Where workers put the pairs, 4 bytes per voxel. Without workers it is not used: pairs are in memory.
    buffer, first, reuse
        As in `cryomend.config.StreamConfig`.
    workers : int
        Processes that simulate; 0 makes the pairs here, between draws.
    device : torch.device or str
        Where the pairs are held and, without workers, simulated.
    branch : str
        ``training`` or ``validation``: their pairs have no seed in common.
    rank : int
        Number of the process, where several train together.

    Raises
    ------
    cryomend.io.InputError
        If there are workers and no folder, or the folder cannot be written.

    Notes
    -----
    With ``reuse`` the pair of number n enters before the draw of number ``(n + 1 - first) reuse``,
    whoever makes it: a run is then the same each time, and after `restore`. Without, pairs enter as
    they are made; workers pause when the oldest pair has not been drawn yet, and a stream without
    workers makes pairs in a tenth of the time.
    """

    def __init__(
        self,
        maker: PairMaker,
        *,
        seed: int,
        folder: Path | None = None,
        buffer: int = 64,
        first: int = 4,
        reuse: int | None = None,
        workers: int = 0,
        device: torch.device | str = "cpu",
        branch: str = "training",
        rank: int = 0,
    ) -> None:
        if workers > 0 and folder is None:
            raise InputError("workers need a folder for the pairs; give one, or no workers")
        if folder is not None and workers > 0:
            check_folder(folder).mkdir(parents=True, exist_ok=True)
        self.maker, self.seed, self.device = maker, seed, device
        self.folder = folder if workers > 0 else None
        self.buffer, self.first, self.reuse = buffer, min(first, buffer), reuse
        self.workers, self.branch, self.rank = workers, branch, rank
        self.drawn, self.produced = 0, 0
        self.waited_seconds, self.start_seconds = 0.0, 0.0
        self.last_seed: int | None = None
        self._digest = maker.digest()
        self._next = 0
        self._held: deque[_Held] = deque()
        self._pending: list[int] = []  # asked for and not in the buffer, in the order of their numbers
        self._ready: dict[int, PreparedPair] = {}
        self._producer: Inline | Workers | None = None
        self._began: float | None = None

    def __enter__(self) -> PairStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Pairs in the buffer now."""
        return len(self._held)

    @property
    def pairs(self) -> list[PreparedPair]:
        """The pairs in the buffer now, the oldest first."""
        return [held.pair for held in self._held]

    @property
    def mean_reuse(self) -> float:
        """Draws per pair so far."""
        return self.drawn / max(self.produced, 1)

    @property
    def stall_share(self) -> float:
        """Share of the time since the first draw in which the caller waited for pairs."""
        if self._began is None:
            return 0.0
        return self.waited_seconds / max(time.monotonic() - self._began, 1e-9)

    def describe(self) -> str:
        """One line on how the stream keeps up."""
        return (
            f"{self.produced} pairs made, {self.mean_reuse:.1f} crops cut from each, "
            f"training waited {100 * self.stall_share:.1f} % of the time"
        )

    def draw(self, rng: np.random.Generator) -> PreparedPair:
        """Draw one of the pairs in the buffer at random; ``last_seed`` tells its seed.

        Raises
        ------
        cryomend.io.InputError
            If a pair could not be made (its seed is named) or written, or a worker died.
        """
        start = time.monotonic()
        self._advance(start)
        now = time.monotonic()
        if self._began is None:
            self._began, self.start_seconds = now, now - start
        else:
            self.waited_seconds += now - start
        held = self._held[int(rng.integers(len(self._held)))]
        held.used += 1
        self.drawn += 1
        self.last_seed = self.seed_of(held.number)
        return held.pair

    def fill(self) -> list[PreparedPair]:
        """Wait until the buffer is full and return its pairs, in the order of their numbers.

        Raises
        ------
        cryomend.io.InputError
            As `draw`.
        """
        while len(self._held) < self.buffer:
            self._order()
            self._collect_until(self._pending[0])
            self._admit(self._pending[0])
        return self.pairs

    def seed_of(self, number: int) -> int:
        """Seed of a pair of this stream."""
        return pair_seed(self.seed, number, branch=self.branch, rank=self.rank)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, ready for JSON."""
        return {
            "digest": self._digest,
            "seed": self.seed,
            "next": self._next,
            "pending": list(self._pending),
            "held": [[held.number, held.used] for held in self._held],
            "drawn": self.drawn,
            "produced": self.produced,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where a stream of the same maker and seed stood; before the first draw.

        Pairs that are in the folder no more are made again if there is a schedule, and left out if there
        is none.

        Raises
        ------
        cryomend.io.InputError
            If the state is one of other pairs.
        """
        if (state["digest"], state["seed"]) != (self._digest, self.seed):
            raise InputError(
                "the checkpoint's stream has another configuration, structures or seed; give those of the "
                "run that is resumed, or leave out --resume"
            )
        self._next, self._pending = int(state["next"]), [int(n) for n in state["pending"]]
        self.drawn, self.produced = int(state["drawn"]), int(state["produced"])
        self.close()
        self._held.clear()
        self._ready.clear()
        self._producer = self._start(keep=[*self._pending, *(number for number, _ in state["held"])])
        if self.reuse is not None:
            self._request([number for number, _ in state["held"]])
        for number, used in state["held"]:
            if self.reuse is not None:
                self._collect_until(number)
            pair = self._ready.pop(number, None) or self._load(number)
            if pair is not None:
                self._held.append(_Held(int(number), pair, int(used)))
        self._request(self._pending)

    def close(self, *, discard: bool = False) -> None:
        """Stop the workers; ``discard`` removes the pairs from the folder, and the folder if it is empty."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None
        if discard and self.folder is not None and self.folder.is_dir():
            for path in self.folder.glob(f"{self.branch}_*.safetensors"):
                path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _advance(self, now: float) -> None:
        """Let the pairs in that are due before the next draw."""
        self._order()
        if self.reuse is not None:
            due = self.first + self.drawn // self.reuse
            while self.produced < due:
                self._collect_until(self._pending[0])
                self._admit(self._pending[0])
                self._order()
            return
        while len(self._held) < self.first:
            self._collect(wait=True)
            self._admit_ready()
            self._order()
        if self.workers == 0 and self._began is not None:
            # made here, a pair keeps the caller waiting: only a share of the time goes there
            if self.waited_seconds < _MAKING_SHARE * (now - self._began):
                self._collect(wait=True)
        else:
            self._collect(wait=False)
        self._admit_ready()

    def _order(self) -> None:
        """Ask for the next pairs, up to what may be on the way."""
        while len(self._pending) < max(1, _AHEAD * self.workers):
            self._pending.append(self._next)
            self._request([self._next])
            self._next += 1

    def _request(self, numbers: Sequence[int]) -> None:
        """Have pairs made, but those that stand in the folder."""
        if self._producer is None:
            self._producer = self._start()
        for number in numbers:
            pair = self._load(number)
            if pair is None:
                self._producer.submit(number, self.seed_of(number))
            else:
                self._ready[number] = pair

    def _start(self, keep: Sequence[int] = ()) -> Inline | Workers:
        """The producer; what another run left in the folder is removed, but what this one can use."""
        if self.folder is None:
            return Inline(self.maker.make, self.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f"{self.branch}_*.partial"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob(f"{self.branch}_*.safetensors"):
            digits = path.stem.removeprefix(f"{self.branch}_")
            number = int(digits) if digits.isdigit() else -1
            wanted = number in keep or self._next <= number < self._next + self.buffer
            if not wanted or self._load(number) is None:
                path.unlink(missing_ok=True)
        return Workers(
            self.maker.make, self.workers, folder=self.folder, branch=self.branch, digest=self._digest
        )

    def _collect(self, *, wait: bool) -> None:
        """Take what has been made; with ``wait`` at least one pair, unless all that was asked for is here."""
        if not all(number in self._ready for number in self._pending):
            self._take(wait)

    def _collect_until(self, number: int) -> None:
        """Wait for one pair."""
        while number not in self._ready:
            self._take(wait=True)

    def _take(self, wait: bool) -> None:
        if self._producer is None:
            raise RuntimeError("the stream is closed")
        for number, pair in self._producer.collect(wait=wait):
            made = self._load(number) if pair is None else _moved(pair, self.device)
            if made is None:
                raise InputError(f"{self._path(number)} is gone or damaged; leave the stream's folder alone")
            self._ready[number] = made

    def _admit_ready(self) -> None:
        """Let in what is ready, unless it would push out a pair that nobody has drawn yet."""
        for number in [n for n in self._pending if n in self._ready]:
            if len(self._held) == self.buffer and self._held[0].used == 0:
                return
            self._admit(number)

    def _admit(self, number: int) -> None:
        """Put a pair into the buffer, in the place of the oldest if it is full."""
        if len(self._held) == self.buffer:
            oldest = self._held.popleft()
            if self.folder is not None:
                self._path(oldest.number).unlink(missing_ok=True)
        self._held.append(_Held(number, self._ready.pop(number)))
        self._pending.remove(number)
        self.produced += 1

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.branch}_{number:06d}.safetensors"

    def _load(self, number: int) -> PreparedPair | None:
        """A pair from the folder; None if it is not there or is one of another run."""
        if self.folder is None:
            return None
        pair = load_prepared(self._path(number), seed=self.seed_of(number), digest=self._digest)
        return None if pair is None else _moved(pair, self.device)


def _moved(pair: PreparedPair, device: torch.device | str) -> PreparedPair:
    """The pair with its volumes on a device."""
    return replace(pair, tomogram=pair.tomogram.to(device), density=pair.density.to(device))
