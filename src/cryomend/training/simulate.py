"""Write many training pairs to a folder, several at a time, resumable."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import SimulationConfig
from cryomend.io import check_folder
from cryomend.noise.model import load_noise_model
from cryomend.noise.sample import sample_noise
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.structure import find_structures
from cryomend.training.pairs import NoiseSampler, pair_paths, simulate_pair, write_pair

__all__ = ["noise_sampler", "simulate_pairs", "simulate_to_folder"]


def simulate_pairs(
    config: SimulationConfig,
    directory: Path,
    *,
    count: int,
    seed: int,
    structures: Sequence[Macromolecule] = (),
    membrane_structures: Sequence[Macromolecule] = (),
    sample_noise: NoiseSampler | None = None,
    workers: int = 1,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Simulate pairs ``SEED`` to ``SEED + count - 1``; those that stand complete are left alone.

    ``on_done`` is called with the number of pairs that stand, once before the first is made.

    Returns
    -------
    list of str
        Names of all pairs asked for.
    """
    names = {f"pair_{s:06d}": s for s in range(seed, seed + count)}
    todo = {n: s for n, s in names.items() if not pair_paths(directory, n)[2].exists()}
    done = itertools.count(count - len(todo))
    on_done(next(done))
    shared = (config, directory, tuple(structures), tuple(membrane_structures), sample_noise)
    if workers <= 1:
        for name, one in todo.items():
            _simulate_one(name, one, *shared)
            on_done(next(done))
        return list(names)
    context = multiprocessing.get_context("spawn")  # forking after torch has started threads can hang
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for future in as_completed([pool.submit(_simulate_one, n, s, *shared) for n, s in todo.items()]):
            future.result()
            on_done(next(done))
    return list(names)


def _simulate_one(
    name: str,
    seed: int,
    config: SimulationConfig,
    directory: Path,
    structures: tuple[Macromolecule, ...],
    membrane_structures: tuple[Macromolecule, ...],
    sample_noise: NoiseSampler | None,
) -> None:
    pair = simulate_pair(
        config,
        seed=seed,
        structures=structures,
        membrane_structures=membrane_structures,
        sample_noise=sample_noise,
    )
    write_pair(directory, name, pair)


def simulate_to_folder(
    config: SimulationConfig,
    directory: Path,
    *,
    count: int,
    seed: int,
    structures: Sequence[str | Path] = (),
    membrane_structures: Sequence[str | Path] = (),
    noise: Path | None = None,
    workers: int = 1,
    on_done: Callable[[int], None] = lambda done: None,
) -> None:
    """`simulate_pairs` with the structures and the noise model given as files.

    Raises
    ------
    cryomend.io.InputError
        If the noise model is none, or the folder cannot be written.
    ValueError
        If a structure cannot be found or read.
    """
    check_folder(directory)
    if noise is not None:
        load_noise_model(noise)  # refused now, not after the first specimen
    simulate_pairs(
        config,
        directory,
        count=count,
        seed=seed,
        structures=find_structures(structures, only=config.structures),
        membrane_structures=find_structures(membrane_structures, only=config.structures, in_membrane=True),
        sample_noise=None if noise is None else noise_sampler(noise),
        workers=workers,
        on_done=on_done,
    )


@dataclass(frozen=True)
class noise_sampler:
    """Noise tilts of unit variance from a model file, loaded in the process that uses it."""

    path: Path

    def __call__(
        self, tilt_angles: NDArray[Any], shape: tuple[int, int], generator: torch.Generator
    ) -> Tensor:
        """Draw noise for each tilt; see `cryomend.noise.sample_noise`."""
        noise = sample_noise(
            load_noise_model(self.path, device=generator.device),
            tilt_angles=tilt_angles,
            shape=shape,
            generator=generator,
        )
        return noise / noise.std(dim=(1, 2), keepdim=True).clamp(min=1e-12)
