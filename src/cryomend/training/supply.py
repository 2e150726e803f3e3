"""What feeds a training run: folders of pairs, the endless stream or both, and what validation sees."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryomend.config import Recipe, SimulationConfig, SpecimenConfig
from cryomend.io import InputError, check_folder
from cryomend.training.crops import PreparedPair
from cryomend.training.distributed import Processes
from cryomend.training.files import check_side, read_folders
from cryomend.training.maker import Ingredients, PairMaker, hold_out
from cryomend.training.producer import load_prepared, write_prepared
from cryomend.training.sampling import PairSource
from cryomend.training.stream import PairStream

__all__ = ["MixedPairs", "Sources", "Supply", "count_workers", "find_supply", "keep_validation_pairs"]


@dataclass(frozen=True)
class Sources:
    """Where the pairs of a run come from, as the user names it.

    ``directories`` are folders of pairs. Without any, or with ``stream.folder_share`` below 1, pairs are
    made of the ``ingredients`` while training runs, by as many processes as ``workers`` says
    (`count_workers` if None). ``origin`` is written into the model under ``for``.
    """

    directories: Sequence[Path] = ()
    ingredients: Ingredients = field(default_factory=Ingredients)
    workers: int | None = None
    origin: dict[str, Any] | None = None


class MixedPairs:
    """A `PairSource`: a share of the draws from pairs that are there, the others from a stream.

    Parameters
    ----------
    pairs : sequence of PreparedPair
        Such as those of folders.
    stream : PairStream
        For the others.
    share : float
        Chance of ``pairs``.
    """

    def __init__(self, pairs: Sequence[PreparedPair], stream: PairStream, *, share: float) -> None:
        self.pairs, self.stream, self.share = pairs, stream, share
        self.last_seed: int | None = None

    def draw(self, rng: np.random.Generator) -> PreparedPair:
        """Draw a pair."""
        if rng.random() < self.share:
            self.last_seed = None
            return self.pairs[int(rng.integers(len(self.pairs)))]
        pair = self.stream.draw(rng)
        self.last_seed = self.stream.last_seed
        return pair

    def state(self) -> dict[str, Any]:
        """That of the stream."""
        return self.stream.state()

    def restore(self, state: dict[str, Any]) -> None:
        """That of the stream."""
        self.stream.restore(state)


@dataclass(frozen=True)
class Supply:
    """The pairs of folders, and what those of the stream are made from (training, validation), if any are."""

    recipe: Recipe
    sources: Sources
    training: list[PreparedPair]
    validation: list[PreparedPair]
    makers: tuple[PairMaker, PairMaker] | None

    def workers(self, device: torch.device | str) -> int:
        """Processes that make pairs."""
        return count_workers(device) if self.sources.workers is None else self.sources.workers

    def open_stream(self, folder: Path, *, seed: int, processes: Processes) -> PairStream | None:
        """The stream of one training process, if the run has one; its buffer is in ``folder``."""
        if self.makers is None:
            return None
        config, rank = self.recipe.stream, processes.rank
        return PairStream(
            self.makers[0],
            seed=seed,
            folder=folder / ("stream" if rank == 0 else f"stream_{rank}"),
            buffer=config.buffer,
            first=config.first,
            reuse=config.reuse,
            workers=self.workers(processes.device),
            device=processes.device,
            rank=rank,
        )

    def mix(self, stream: PairStream | None) -> Sequence[PreparedPair] | PairSource:
        """What crops are cut from."""
        if stream is None:
            return self.training
        if not self.training:
            return stream
        return MixedPairs(self.training, stream, share=self.recipe.stream.folder_share)

    def find_validation(self, folder: Path, *, seed: int, processes: Processes) -> list[PreparedPair]:
        """All validation pairs; the first process makes those of the stream that are not in ``folder``."""
        count = self.recipe.stream.validation_pairs
        if self.makers is None or count == 0:
            return self.validation
        made: list[PreparedPair] = []
        for first in (True, False):
            if processes.first == first:
                made = keep_validation_pairs(
                    self.makers[1],
                    folder / "validation",
                    seed=seed,
                    count=count,
                    workers=self.workers(processes.device),
                    device=processes.device,
                )
            processes.add([0.0])  # the others wait, and find them made
        return self.validation + made

    def voxel_sizes(self) -> list[float]:
        """Of all pairs, Å; of the stream the least and the largest."""
        sizes = [pair.voxel_size for pair in (*self.training, *self.validation)]
        return sizes if self.makers is None else sizes + _voxel_sizes(self.recipe.simulation)

    def describe(self) -> dict[str, Any]:
        """What a model file says about that which the stream's pairs were made from."""
        if self.makers is None:
            return {}
        return {
            "structures": [sorted(s.name for s in m.structures) for m in self.makers],
            "membrane_structures": [sorted(s.name for s in m.membrane_structures) for m in self.makers],
            "kinds": [sorted(m.config.specimens) for m in self.makers],
            "noise_models": [_name_file(Path(path)) for path in self.sources.ingredients.noise],
            **({} if self.sources.origin is None else {"for": self.sources.origin}),
        }

    def summarise(self, device: torch.device | str) -> list[str]:
        """One line on the stream, if there is one."""
        if self.makers is None:
            return []
        maker, workers = self.makers[0], self.workers(device)
        given = len(maker.structures) + len(maker.membrane_structures)
        noise = len(maker.sample_noise) if isinstance(maker.sample_noise, tuple) else 0
        who = f"{workers} worker{'s' if workers > 1 else ''}" if workers else f"this process on {device}"
        return [
            f"pairs without end by {who}: {max(len(maker.config.specimens), 1)} kinds of specimens, "
            f"{given} given structures, {noise} noise models"
        ]


def find_supply(
    recipe: Recipe, sources: Sources, *, on_notes: Callable[[list[str]], None] = lambda notes: None
) -> Supply:
    """Read what a run's pairs come from, and refuse what does not fit.

    Raises
    ------
    cryomend.io.InputError
        If pairs, structures or noise models are missing or damaged, the pairs are smaller than the crops,
        or something is given for a stream that the run does not have.
    """
    training, validation = read_folders(sources.directories, recipe.training)
    if sources.directories and recipe.stream.folder_share == 1:
        _refuse_ingredients(sources)
        return Supply(recipe, sources, training, validation, None)
    for name, kind in (recipe.simulation.specimens or {"default": SpecimenConfig()}).items():
        what = f"simulation.specimens.{name}.shape: {tuple(kind.shape)}"
        check_side(min(kind.shape), recipe.training, what)
    maker, notes = sources.ingredients.find(recipe.simulation)
    config = recipe.stream
    makers = hold_out(maker, kinds=config.validation_kinds, share=config.validation_structures)
    on_notes(notes)
    return Supply(recipe, sources, training, validation, makers)


def _refuse_ingredients(sources: Sources) -> None:
    """Folders alone need nothing to make pairs from; silence would mislead."""
    given = sources.ingredients
    named = {
        "--structures": given.structures,
        "--membrane-structures": given.membrane_structures,
        "--noise": given.noise,
        "--rescale-noise": given.rescale_noise,
        "--workers": sources.workers is not None,
    }
    if wrong := [option for option, value in named.items() if value]:
        raise InputError(
            f"{', '.join(wrong)}: for pairs that are made while training; leave out the folders of pairs, or "
            "mix both with stream.folder_share below 1"
        )


def keep_validation_pairs(
    maker: PairMaker,
    folder: Path,
    *,
    seed: int,
    count: int,
    workers: int,
    device: torch.device | str,
) -> list[PreparedPair]:
    """Load the validation pairs of a run, after making those that are not in its folder.

    Parameters
    ----------
    maker : PairMaker
        What they are made from.
    folder : Path
        Where they are kept, 4 bytes per voxel.
    seed, count : int
        Seed of the run and number of pairs.
    workers : int
        Processes that make them; 0 makes them here, on ``device``.
    device : torch.device or str
        For that.

    Returns
    -------
    list of PreparedPair
        On the CPU, in the order of their numbers.

    Raises
    ------
    cryomend.io.InputError
        If a pair could not be made (its seed is named) or written.
    """
    check_folder(folder).mkdir(parents=True, exist_ok=True)
    with PairStream(
        maker, seed=seed, folder=folder, buffer=count, workers=workers, branch="validation", device="cpu"
    ) as stream:
        if workers:
            return stream.fill()
        pairs = []
        for number in range(count):
            path, of = folder / f"validation_{number:06d}.safetensors", stream.seed_of(number)
            pair = load_prepared(path, seed=of, digest=maker.digest())
            if pair is None:
                write_prepared(path, maker.make(of, device), seed=of, digest=maker.digest())
                pair = load_prepared(path, seed=of, digest=maker.digest())
            if pair is None:
                raise InputError(f"{path} is gone or damaged; leave the run's folder alone")
            pairs.append(pair)
    return pairs


def count_workers(device: torch.device | str) -> int:
    """Workers if the user does not say: half of the cores; none on an accelerator, which simulates."""
    if torch.device(device).type != "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def _voxel_sizes(config: SimulationConfig) -> list[float]:
    """Least and largest voxel size that pairs are made at, Å."""
    if config.voxel_size is not None:
        return list(config.voxel_size)
    sizes = [kind.voxel_size for kind in config.specimens.values()] or [SpecimenConfig().voxel_size]
    return [min(sizes), max(sizes)]


def _name_file(path: Path) -> dict[str, str]:
    """Name and content of an input, for the record."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
