"""Simulated training pairs: specimen, acquisition, noise and reconstruction in a chain.

A pair is what a user would restore (tomogram, protein dark, processed as users do) and the specimen it
came from (potential in V, protein positive), voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.acquisition.acquire import acquire_halves, acquire_signal_and_noise, specimen_area
from cryomend.acquisition.exposure import Exposure, draw_exposure, draw_tilt_angles
from cryomend.config import SimulationConfig, SpecimenConfig
from cryomend.io import read_volume, write_json, write_volume
from cryomend.mixing import blend_noise, measure_power, sample_rescaled
from cryomend.specimen.build import Specimen, build_specimen
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.training.processing import bin_density, draw_processing, tomogram_of

__all__ = ["NoiseSampler", "Pair", "pair_paths", "read_pair", "simulate_pair", "write_pair"]

# beside the seed itself, which the specimen and the recording are drawn from
_PROCESSING_BRANCH, _NOISE_BRANCH = 1, 2

NoiseSampler = Callable[[NDArray[Any], tuple[int, int], float, torch.Generator], Tensor]
"""(tilt_angles, (Y, X), pixel size in Å, generator) -> noise tilts of any scale and offset."""


@dataclass(frozen=True)
class Pair:
    """``tomogram`` (Z, Y, X) protein dark, ``density`` (Z, Y, X) in V, and all that was drawn.

    ``halves``, if asked for, are the tomograms of the even and odd frames.
    """

    tomogram: Tensor
    density: Tensor
    voxel_size: float
    record: dict[str, Any]
    halves: tuple[Tensor, Tensor] | None = None


def simulate_pair(
    config: SimulationConfig,
    *,
    seed: int,
    structures: Sequence[Macromolecule] = (),
    membrane_structures: Sequence[Macromolecule] = (),
    sample_noise: NoiseSampler | Sequence[NoiseSampler] | None = None,
    halves: bool = False,
    device: torch.device | str | None = None,
) -> Pair:
    """Draw one specimen, record it and reconstruct it.

    Parameters
    ----------
    config : SimulationConfig
        Kinds of specimens (one is drawn) and the microscope.
    seed : int
        Equal seeds give equal pairs.
    structures, membrane_structures : sequence of Macromolecule
        Species beside the procedural ones.
    sample_noise : callable or sequence of them, optional
        Learned noise; it makes ``config.noise_share`` of the noise power of every tilt. The pair draws one
        of several, or none with the chance ``config.noise_none_share``.
    halves : bool
        Count the electrons of the even and odd frames apart and reconstruct them too. The specimen is the
        same as without, the noise is not.
    device : torch.device or str, optional
        Where it runs.

    Returns
    -------
    Pair
        Its record has all that was drawn and, under ``noise``, the powers of signal, counting and learned
        noise in each tilt as mixed (electrons per pixel, squared), over the specimen and inside ``snr_band``.

    Raises
    ------
    ValueError
        If a specimen's configuration leaves no slab, or noise that is not counted is asked for in halves.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device=device or "cpu").manual_seed(seed)
    # from a branch of its own, so that the rest does not depend on how it is processed
    processing = draw_processing(config.processing, np.random.default_rng([seed, _PROCESSING_BRANCH]))
    given = {"structures": structures, "membrane_structures": membrane_structures}
    kind, specimen = _draw_specimen(config, rng, finer=processing.factor, device=device, **given)
    tilt_angles = draw_tilt_angles(config.acquisition, rng)
    exposure = _draw_exposure(config, rng, specimen, len(tilt_angles))
    solvent = float(rng.uniform(*config.solvent_variation))
    density = _with_unresolved(specimen, solvent, generator)
    learned = _choose_noise(sample_noise, config, np.random.default_rng([seed, _NOISE_BRANCH]))
    finer = _refine(learned, processing.factor)
    record_series = _record_halves if halves else _record_series
    series, noise = record_series(
        density, tilt_angles, specimen.voxel_size, exposure, config, finer, generator
    )
    tomogram, *parts = (
        tomogram_of(
            images,
            tilt_angles,
            thickness=density.shape[0],
            pixel_size=specimen.voxel_size,
            exposure=exposure,
            processing=processing,
        )
        for images in series
    )
    voxel_size = specimen.voxel_size * processing.factor
    record = {
        "kind": kind,
        "seed": seed,
        "voxel_size": voxel_size,
        "tilt_range": [float(tilt_angles.min()), float(tilt_angles.max())],
        "tilt_angles": tilt_angles.tolist(),
        "exposure": exposure.record(),
        "noise": noise | _describe_noise(learned),
        "processing": processing.record(),
        "solvent_variation": solvent,
        "species": sorted({p.species.name for p in specimen.placements}),
        "placed": len(specimen.placements),
    }
    target = bin_density(specimen.density, processing.binning)
    return Pair(tomogram, target, voxel_size, record, (parts[0], parts[1]) if parts else None)


def write_pair(directory: Path, name: str, pair: Pair) -> None:
    """Write ``NAME_input.mrc``, ``NAME_target.mrc`` and, when both are complete, ``NAME.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    tomogram, target, record = pair_paths(directory, name)
    write_volume(tomogram, pair.tomogram.cpu().numpy(), voxel_size=pair.voxel_size)
    write_volume(target, pair.density.cpu().numpy(), voxel_size=pair.voxel_size)
    write_json(record, pair.record)


def pair_paths(directory: Path, name: str) -> tuple[Path, Path, Path]:
    """Where the tomogram, the density and the record of a pair live."""
    return directory / f"{name}_input.mrc", directory / f"{name}_target.mrc", directory / f"{name}.json"


def read_pair(directory: Path, name: str) -> tuple[Tensor, Tensor, float]:
    """Read a pair's tomogram, density and voxel size in Å.

    Raises
    ------
    cryomend.io.InputError
        If a file is missing or damaged.
    ValueError
        If the two differ in shape.
    """
    tomogram, target, _ = pair_paths(directory, name)
    volume = read_volume(tomogram)
    x, y = volume.data, read_volume(target, may_be_constant=True).data
    if x.shape != y.shape:
        raise ValueError(
            f"{tomogram}: shape {x.shape} differs from {y.shape} of {target.name}; simulate the pair again"
        )
    return torch.from_numpy(x), torch.from_numpy(y), volume.voxel_size


def _with_unresolved(specimen: Specimen, std: float, generator: torch.Generator) -> Tensor:
    """The density with white variations in the slab, like small molecules that nobody resolves."""
    if std <= 0:
        return specimen.density
    variation = std * torch.randn(specimen.density.shape, generator=generator, device=specimen.density.device)
    variation[: specimen.slab[0]] = 0
    variation[specimen.slab[1] :] = 0
    return specimen.density + variation


def _draw_specimen(
    config: SimulationConfig, rng: np.random.Generator, *, finer: int, **how: Any
) -> tuple[str, Specimen]:
    """One of the configured kinds of specimens, at a voxel size from their range if there is one.

    With ``finer`` 2 it has half the voxel size and twice the voxels along each axis.
    """
    kinds = config.specimens or {"default": SpecimenConfig()}
    kind = str(rng.choice(sorted(kinds)))
    chosen = kinds[kind]
    voxel_size, margins = chosen.voxel_size, chosen.slab_margin
    if config.voxel_size is not None:
        # evenly in its logarithm: between 5 and 6 Å there is as much to learn as between 15 and 18
        low, high = np.log(config.voxel_size)
        voxel_size = float(np.exp(rng.uniform(low, high)))
        # in fine voxels a few planes are thinner than the free ice that a kind asks for: half is left to it
        most = 0.25 * chosen.shape[0] * voxel_size
        margins = (min(margins[0], most), min(margins[1], most))
    changes: dict[str, Any] = {
        "voxel_size": voxel_size / finer,
        "shape": tuple(n * finer for n in chosen.shape),
        "slab_margin": margins,
    }
    return kind, build_specimen(chosen.model_copy(update=changes), rng=rng, **how)


def _draw_exposure(
    config: SimulationConfig, rng: np.random.Generator, specimen: Specimen, tilts: int
) -> Exposure:
    """How this specimen is recorded."""
    thickness = (specimen.slab[1] - specimen.slab[0]) * specimen.voxel_size
    return draw_exposure(
        config.acquisition, rng, thickness=thickness, tilts=tilts, pixel_size=specimen.voxel_size
    )


def _choose_noise(
    given: NoiseSampler | Sequence[NoiseSampler] | None, config: SimulationConfig, rng: np.random.Generator
) -> NoiseSampler | None:
    """The learned noise of one pair, if it has any."""
    choices = [given] if callable(given) else list(given or ())
    if not choices or rng.random() < config.noise_none_share:
        return None
    return choices[int(rng.integers(len(choices)))]


def _describe_noise(learned: NoiseSampler | None) -> dict[str, Any]:
    """What learned noise says about itself, if it does."""
    record = getattr(learned, "record", None)
    return {} if record is None else record()


def _refine(sample_noise: NoiseSampler | None, factor: int) -> NoiseSampler | None:
    """Noise for finer pixels with the grain that it has at the voxel size to which they are binned."""
    if sample_noise is None or factor == 1:
        return sample_noise

    def sample(
        tilt_angles: NDArray[Any], shape: tuple[int, int], pixel_size: float, generator: torch.Generator
    ) -> Tensor:
        def draw(field: tuple[int, int]) -> Tensor:
            return sample_noise(tilt_angles, field, pixel_size * factor, generator)

        return sample_rescaled(draw, shape, factor=1 / factor)

    return sample


def _record_series(
    density: Tensor,
    tilt_angles: NDArray[Any],
    pixel_size: float,
    exposure: Exposure,
    config: SimulationConfig,
    sample_noise: NoiseSampler | None,
    generator: torch.Generator,
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Record a tilt series with counting and learned noise; also their powers in each tilt."""
    signal, counting = acquire_signal_and_noise(
        density, tilt_angles, pixel_size=pixel_size, exposure=exposure, generator=generator
    )
    where: dict[str, Any] = {
        "band": exposure.band(pixel_size),
        "area": specimen_area(density, tilt_angles, exposure),
    }
    share = 0.0 if sample_noise is None else config.noise_share
    learned = torch.zeros_like(counting)
    if sample_noise is not None and share > 0:
        shape = (counting.shape[1], counting.shape[2])
        learned = sample_noise(tilt_angles, shape, pixel_size, generator).to(counting)
        keep_total = config.noise_total == "kept"
        counting, learned = blend_noise(counting, learned, share=share, keep_total=keep_total, **where)
    record: dict[str, Any] = {"learned_share": share, "total": config.noise_total}
    for name, images in (("signal", signal), ("counting", counting), ("learned", learned)):
        powers = measure_power(images, **where).tolist()
        record[f"{name}_power"] = [float(f"{power:.6g}") for power in powers]
    return (signal + counting + learned,), record


def _record_halves(
    density: Tensor,
    tilt_angles: NDArray[Any],
    pixel_size: float,
    exposure: Exposure,
    config: SimulationConfig,
    sample_noise: NoiseSampler | None,
    generator: torch.Generator,
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Record a tilt series, its even and its odd frames with nothing but counting noise."""
    if exposure.snr is not None or (sample_noise is not None and config.noise_share > 0):
        raise ValueError("halves count electrons; they have neither a given snr nor learned noise")
    series = acquire_halves(
        density, tilt_angles, pixel_size=pixel_size, exposure=exposure, generator=generator
    )
    return (series.images, series.even, series.odd), {"learned_share": 0.0}
