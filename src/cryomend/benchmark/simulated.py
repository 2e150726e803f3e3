"""Cases with a truth: specimens that no training saw, recorded with their even and odd frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryomend import __version__
from cryomend.acquisition.acquire import acquire_halves, acquire_tilt_series
from cryomend.acquisition.exposure import draw_exposure, draw_tilt_angles
from cryomend.benchmark.areas import find_areas
from cryomend.benchmark.case import (
    LAYOUT,
    Case,
    Particles,
    open_case,
    read_case,
    standardise_tilts,
    write_case,
)
from cryomend.benchmark.digest import digest_of, digest_of_structure
from cryomend.config import SimulatedDataConfig, SpecimenConfig
from cryomend.evaluation.picking import are_inside
from cryomend.io import InputError, write_tilt_angles, write_volume
from cryomend.specimen.build import Placement, Specimen, build_specimen
from cryomend.specimen.files import write_particles
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.structure import find_structures

__all__ = ["choose_particles", "record_blanks", "simulate_cases"]

_KIND_STEP = 1000  # seeds from one kind of specimen to the next
_BLANK_BRANCH = 3
_COPIES = 8  # least number of a species that is worth looking for


def simulate_cases(
    config: SimulatedDataConfig,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[float, str], None] = lambda share, text: None,
) -> list[Case]:
    """Simulate the tomograms of a recipe into folders of their own; those that stand are left alone.

    Parameters
    ----------
    config : SimulatedDataConfig
        What to simulate.
    folder : Path
        Where the folders go.
    device : torch.device or str
        Where specimens are built and recorded.
    on_progress : callable
        Told the share done and a text.

    Returns
    -------
    list of Case
        Kind by kind.

    Raises
    ------
    cryomend.io.InputError
        If a kind is unknown or a structure cannot be read.
    """
    kinds = config.simulation.specimens
    if unknown := [kind for kind in config.kinds if kind not in kinds]:
        raise InputError(f"simulated.kinds: no kind {unknown[0]!r}; there are {', '.join(sorted(kinds))}")
    if len(set(config.kinds)) < len(config.kinds):
        raise InputError("simulated.kinds: a kind is named twice; name each once and set repeats")
    names = config.kinds or tuple(sorted(kinds))
    if not names:
        raise InputError("simulated.simulation.specimens: no kind of specimen; write at least one")
    given = (
        find_structures(config.structures),
        find_structures(config.membrane_structures, in_membrane=True),
    )
    wanted = [(i, kind, repeat) for i, kind in enumerate(names) for repeat in range(config.repeats)]
    cases = []
    for n, (i, kind, repeat) in enumerate(wanted):
        on_progress(n / len(wanted), f"simulating {kind} {repeat + 1}")
        place = folder / (kind if config.repeats == 1 else f"{kind}-{repeat + 1}")
        seed = config.seed + _KIND_STEP * i + repeat
        cases.append(_simulate(config, kinds[kind], place, seed, given, device))
    return cases


def _simulate(
    config: SimulatedDataConfig,
    specimen_config: SpecimenConfig,
    folder: Path,
    seed: int,
    given: tuple[list[Macromolecule], list[Macromolecule]],
    device: torch.device | str,
) -> Case:
    """One case, unless it stands as it would be made."""
    if config.shape is not None:
        specimen_config = specimen_config.model_copy(update={"shape": config.shape})
    acquisition = config.simulation.acquisition
    made_by = (__version__, LAYOUT, torch.device(device).type, seed)
    made_from = (specimen_config.model_dump(mode="json"), acquisition.model_dump(mode="json"), config.halves)
    structures = [[digest_of_structure(s) for s in group] for group in given]
    digest = digest_of(*made_by, *made_from, structures)
    if (folder / "case.json").is_file() and (case := read_case(folder)).digest == digest:
        return case
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    specimen = build_specimen(
        specimen_config, rng=rng, structures=given[0], membrane_structures=given[1], device=device
    )
    angles = draw_tilt_angles(acquisition, rng)
    thickness = (specimen.slab[1] - specimen.slab[0]) * specimen.voxel_size
    size = specimen.voxel_size
    exposure = draw_exposure(acquisition, rng, thickness=thickness, tilts=len(angles), pixel_size=size)
    if exposure.snr is not None:
        raise InputError("simulated.simulation.acquisition.snr: halves count electrons; set fluence instead")
    series = acquire_halves(specimen.density, angles, pixel_size=size, exposure=exposure, generator=generator)
    open_case(folder)
    write_volume(folder / "recorded.mrc", series.images.cpu().numpy(), voxel_size=size, stack=True)
    write_particles(folder / "particles.star", specimen.placements)
    halves = tuple(standardise_tilts(half, series.images) for half in (series.even, series.odd))
    facts: dict[str, Any] = {
        "voxel_size": size,
        "defocus_um": exposure.defocus_um,
        "optics": exposure.optics,
        "source": {"stack": "recorded.mrc", "angles": "angles.tlt", "bin": 1.0},
        "digest": digest,
        "seed": seed,
        "exposure": exposure.record(),
        "species": sorted({p.species.name for p in specimen.placements}),
        "placed": len(specimen.placements),
    }
    return write_case(
        folder,
        tilts=standardise_tilts(series.images),
        halves=(halves[0], halves[1]) if config.halves == "frames" else None,
        tilt_angles=angles,
        thickness=specimen.density.shape[0],
        facts=facts,
        truth=specimen.density,
        areas=find_areas(specimen.density, name=folder.name),
        particles=choose_particles(specimen),
    )


def choose_particles(specimen: Specimen) -> Particles | None:
    """The heaviest species of which enough copies stand free: neither in a membrane nor as units of more."""
    units = Counter(placement.instance for placement in specimen.placements)
    copies: dict[str, list[Placement]] = {}
    for placement in specimen.placements:
        if units[placement.instance] == 1 and not placement.in_membrane:
            copies.setdefault(placement.species.name, []).append(placement)
    shape = specimen.density.shape
    found = []
    for placements in copies.values():
        positions = np.array([p.position_zyx for p in placements]) / specimen.voxel_size
        voxels = positions + np.array(shape) // 2
        if (inside := are_inside(voxels, shape)).sum() >= _COPIES:
            found.append((placements[0].species, voxels[inside]))
    if not found:
        return None
    molecule, voxels = max(found, key=lambda one: float(one[0].weights.sum()))
    return Particles.of(molecule, voxels, specimen.voxel_size)


def record_blanks(config: SimulatedDataConfig, folder: Path) -> list[tuple[Path, Path]]:
    """Record tilt series of empty ice by the microscope of a recipe, from which noise can be learned.

    Returns
    -------
    list of tuple of Path
        Stack and angles of each; those that stand are left alone.
    """
    kinds = config.simulation.specimens
    first = kinds[(config.kinds or tuple(sorted(kinds)))[0]]
    shape = config.shape or first.shape
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(config.blanks):
        stack, listed = folder / f"blank_{number}.mrc", folder / f"blank_{number}.tlt"
        made.append((stack, listed))
        if stack.is_file():
            continue
        rng = np.random.default_rng([config.seed, _BLANK_BRANCH, number])
        angles = draw_tilt_angles(config.simulation.acquisition, rng)
        exposure = draw_exposure(
            config.simulation.acquisition, rng, thickness=0.8 * shape[0] * first.voxel_size,
            tilts=len(angles), pixel_size=first.voxel_size,
        )  # fmt: skip
        # of no tomogram that is scored: those have the seeds that follow the recipe's
        own = np.random.default_rng([config.seed, _BLANK_BRANCH, number, 1]).integers(2**62)
        generator = torch.Generator().manual_seed(int(own))
        images = acquire_tilt_series(
            torch.zeros(shape), angles, pixel_size=first.voxel_size, exposure=exposure, generator=generator
        )
        write_tilt_angles(listed, angles)
        write_volume(stack, images.numpy(), voxel_size=first.voxel_size, stack=True)
    return made
