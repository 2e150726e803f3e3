"""Learned noise on its way into the pairs: model files, their pixel sizes, and tilts of noise from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import SimulationConfig, SpecimenConfig
from cryomend.io import InputError
from cryomend.mixing import sample_rescaled
from cryomend.noise.model import NoiseModel, load_noise_model
from cryomend.noise.sample import PIXEL_TOLERANCE, sample_noise

__all__ = ["LearnedNoise", "compare_pixels", "find_noise"]


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
        if low >= (1 - PIXEL_TOLERANCE) * model.pixel_size:
            return []
        return [
            f"{path} was fitted at {model.pixel_size:g} Å and the simulation goes down to {low:g} Å: "
            f"its noise has nothing finer than {2 * model.pixel_size:g} Å"
        ]
    if max(abs(size / model.pixel_size - 1) for size in (low, high)) <= PIXEL_TOLERANCE:
        return []
    return [
        f"{path} was fitted at {model.pixel_size:g} Å but the simulation has {voxels}: its noise is used "
        "pixel by pixel, with the wrong grain; --rescale-noise resamples it"
    ]


@dataclass(frozen=True)
class LearnedNoise:
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
        model = _model_at(self.path.resolve(), str(generator.device))

        def draw(field: tuple[int, int]) -> Tensor:
            return sample_noise(model, tilt_angles=tilt_angles, shape=field, generator=generator)

        if self.rescale and abs(pixel_size / model.pixel_size - 1) > 1e-3:  # what a header rounds
            noise = sample_rescaled(draw, shape, factor=pixel_size / model.pixel_size)
        else:
            noise = draw(shape)
        return noise / noise.std(dim=(1, 2), keepdim=True).clamp(min=1e-12)

    def record(self) -> dict[str, Any]:
        """What a pair's record says about its learned noise."""
        return {"model": self.path.name, "rescaled": self.rescale}


@lru_cache(maxsize=8)
def _model_at(path: Path, device: str) -> NoiseModel:
    """A model read once per process, not once per pair; it keeps what it refined for the last field."""
    return load_noise_model(path, device=device)


def find_noise(
    paths: Sequence[Path], config: SimulationConfig, *, rescale: bool = False
) -> tuple[tuple[LearnedNoise, ...], list[str]]:
    """Check noise models and say what the user should know of them, one line each.

    Parameters
    ----------
    paths : sequence of Path
        Model files.
    config : SimulationConfig
        Of the pairs that the noise is for.
    rescale : bool
        Resample the noise to the simulation's pixels, as ``config.rescale_noise`` does.

    Returns
    -------
    models : tuple of LearnedNoise
    notes : list of str

    Raises
    ------
    cryomend.io.InputError
        If a file is no noise model or cannot be rescaled, or there is none to rescale.
    """
    if rescale and not paths:
        raise InputError("--rescale-noise needs a noise model; give one with --noise")
    models = tuple(LearnedNoise(Path(path), rescale=rescale or config.rescale_noise) for path in paths)
    notes = []
    for model in models:
        notes += compare_pixels(model.path, load_noise_model(model.path), config, rescale=model.rescale)
    return models, notes
