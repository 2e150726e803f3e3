"""Write many training pairs to a folder, several at a time, resumable."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from cryomend.config import SimulationConfig
from cryomend.io import check_folder
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.training.maker import Ingredients
from cryomend.training.pairs import NoiseSampler, pair_paths, simulate_pair, write_pair

__all__ = ["simulate_pairs", "simulate_to_folder"]


def simulate_pairs(
    config: SimulationConfig,
    directory: Path,
    *,
    count: int,
    seed: int,
    structures: Sequence[Macromolecule] = (),
    membrane_structures: Sequence[Macromolecule] = (),
    sample_noise: NoiseSampler | Sequence[NoiseSampler] | None = None,
    workers: int = 1,
    device: torch.device | str | None = None,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Simulate pairs ``SEED`` to ``SEED + count - 1`` on a device; those that stand complete are left alone.

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
    shared = (config, directory, tuple(structures), tuple(membrane_structures), sample_noise, device)
    if workers <= 1:
        for name, one in todo.items():
            _simulate_one(name, one, *shared)
            on_done(next(done))
        return list(names)
    context = multiprocessing.get_context("spawn")  # forking after torch has started threads can hang
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        made = [pool.submit(_simulate_one, n, s, *shared) for n, s in todo.items()]
        try:
            for future in as_completed(made):
                future.result()
                on_done(next(done))
        except BaseException:  # Ctrl-C too; else the pool would make all the others first
            pool.shutdown(cancel_futures=True)
            raise
    return list(names)


def _simulate_one(
    name: str,
    seed: int,
    config: SimulationConfig,
    directory: Path,
    structures: tuple[Macromolecule, ...],
    membrane_structures: tuple[Macromolecule, ...],
    sample_noise: NoiseSampler | Sequence[NoiseSampler] | None,
    device: torch.device | str | None,
) -> None:
    pair = simulate_pair(
        config,
        seed=seed,
        structures=structures,
        membrane_structures=membrane_structures,
        sample_noise=sample_noise,
        device=device,
    )
    write_pair(directory, name, pair)


def simulate_to_folder(
    config: SimulationConfig,
    directory: Path,
    *,
    count: int,
    seed: int,
    ingredients: Ingredients,
    workers: int = 1,
    device: torch.device | str | None = None,
    on_done: Callable[[int], None] = lambda done: None,
    on_notes: Callable[[list[str]], None] = lambda notes: None,
) -> None:
    """`simulate_pairs` with the structures and the noise models given as files.

    ``on_notes`` is told what the user should know, one line each, before the first specimen.

    Raises
    ------
    cryomend.io.InputError
        If a noise model is none or cannot be rescaled, or the folder cannot be written.
    ValueError
        If a structure cannot be found or read.
    """
    check_folder(directory)
    maker, notes = ingredients.find(config)
    on_notes(notes)  # what cannot be used is refused by now, not after the first specimen
    simulate_pairs(
        config,
        directory,
        count=count,
        seed=seed,
        structures=maker.structures,
        membrane_structures=maker.membrane_structures,
        sample_noise=maker.sample_noise,
        workers=workers,
        device=device,
        on_done=on_done,
    )
