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

from cryomend.config import SimulationConfig, SpecimenConfig
from cryomend.io import InputError, check_folder
from cryomend.mixing import sample_rescaled
from cryomend.noise.model import NoiseModel, load_noise_model
from cryomend.noise.sample import sample_noise
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.structure import find_structures
from cryomend.training.pairs import NoiseSampler, pair_paths, simulate_pair, write_pair

__all__ = ["compare_pixels", "noise_sampler", "simulate_pairs", "simulate_to_folder"]


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
    if isinstance(sample_noise, noise_sampler):
        pair.record["noise"] |= {"model": sample_noise.path.name, "rescaled": sample_noise.rescale}
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
    rescale_noise: bool = False,
    workers: int = 1,
    device: torch.device | str | None = None,
    on_done: Callable[[int], None] = lambda done: None,
    on_notes: Callable[[list[str]], None] = lambda notes: None,
) -> None:
    """`simulate_pairs` with the structures and the noise model given as files.

    ``rescale_noise`` resamples the noise to the simulation's pixels, as ``config.rescale_noise`` does;
    ``on_notes`` is told what the user should know, one line each, before the first specimen.

    Raises
    ------
    cryomend.io.InputError
        If the noise model is none or cannot be rescaled, or the folder cannot be written.
    ValueError
        If a structure cannot be found or read.
    """
    check_folder(directory)
    if rescale_noise and noise is None:
        raise InputError("--rescale-noise needs a noise model; give one with --noise")
    sampler = None
    if noise is not None:
        sampler = noise_sampler(noise, rescale=rescale_noise or config.rescale_noise)
        # what cannot be used is refused now, not after the first specimen
        on_notes(compare_pixels(noise, load_noise_model(noise), config, rescale=sampler.rescale))
    simulate_pairs(
        config,
        directory,
        count=count,
        seed=seed,
        structures=find_structures(structures, only=config.structures),
        membrane_structures=find_structures(membrane_structures, only=config.structures, in_membrane=True),
        sample_noise=sampler,
        workers=workers,
        device=device,
        on_done=on_done,
    )


_TOLERANCE = 0.02  # of the pixel size: headers round it, and textures do not tell


def compare_pixels(path: Path, model: NoiseModel, config: SimulationConfig, *, rescale: bool) -> list[str]:
    """Say where the pixel size of a noise model is not that of the simulation, one line each.

    Parameters
    ----------
    path : Path
        The model's file, for the message.
    model : NoiseModel
        Its pixel size is 0 where unknown.
    config : SimulationConfig
        Voxel sizes of the pairs.
    rescale : bool
        Whether the noise will be resampled.

    Returns
    -------
    list of str
        Empty where they agree to 2 %.

    Raises
    ------
    cryomend.io.InputError
        If the noise is to be rescaled from a pixel size that nobody knows.
    """
    kinds = config.specimens.values() or [SpecimenConfig()]
    sizes = config.voxel_size or [kind.voxel_size for kind in kinds]
    low, high = min(sizes), max(sizes)
    voxels = f"{low:g} Å" if low == high else f"{low:g} to {high:g} Å"
    if model.pixel_size <= 0:
        if rescale:
            raise InputError(
                f"{path} does not know its pixel size, so its noise cannot be rescaled; fit it to stacks "
                "whose headers say it, or leave out --rescale-noise"
            )
        return [f"{path} does not know its pixel size; its noise is used pixel by pixel at {voxels}"]
    if rescale:
        if low >= (1 - _TOLERANCE) * model.pixel_size:
            return []
        return [
            f"{path} was fitted at {model.pixel_size:g} Å and the simulation goes down to {low:g} Å: "
            f"its noise has nothing finer than {2 * model.pixel_size:g} Å"
        ]
    if max(abs(size / model.pixel_size - 1) for size in (low, high)) <= _TOLERANCE:
        return []
    return [
        f"{path} was fitted at {model.pixel_size:g} Å but the simulation has {voxels}: its noise is used "
        "pixel by pixel, with the wrong grain; --rescale-noise resamples it"
    ]


@dataclass(frozen=True)
class noise_sampler:
    """Noise tilts of unit variance from a model file, loaded in the process that uses it.

    ``rescale`` resamples them from the model's pixel size to the one asked for.
    """

    path: Path
    rescale: bool = False

    def __call__(
        self,
        tilt_angles: NDArray[Any],
        shape: tuple[int, int],
        pixel_size: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Draw noise for each tilt; see `cryomend.noise.sample_noise`."""
        model = load_noise_model(self.path, device=generator.device)

        def draw(field: tuple[int, int]) -> Tensor:
            return sample_noise(model, tilt_angles=tilt_angles, shape=field, generator=generator)

        if self.rescale and abs(pixel_size / model.pixel_size - 1) > 1e-3:  # what a header rounds
            noise = sample_rescaled(draw, shape, factor=pixel_size / model.pixel_size)
        else:
            noise = draw(shape)
        return noise / noise.std(dim=(1, 2), keepdim=True).clamp(min=1e-12)
