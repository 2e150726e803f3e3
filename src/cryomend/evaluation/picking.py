"""`cryomend evaluate --template`: how well particles are found, before restoration and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.rotation_grid import rotation_grid
from cryomend.evaluation.template_matching import find_peaks, match_template, score_picks
from cryomend.io import InputError, Volume, open_volume, read_star_columns, read_star_texts, read_volume

__all__ = [
    "ANGULAR_STEP",
    "PickSettings",
    "Template",
    "are_inside",
    "picking_rows",
    "read_particles",
    "score_picking",
    "score_picking_files",
]

ANGULAR_STEP = 30.0  # degrees
APART = 0.5  # of the diameter: nearest that two picks may be
TOLERANCE = 0.25  # of the diameter: farthest that a pick may be from its particle
PICKS_PER_PARTICLE = 5  # at most; an F1 above 1/3 never needs more
COORDINATES = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX")
NAME, TOMOGRAM = "rlnTomoParticleName", "rlnTomoName"


@dataclass(frozen=True)
class Template:
    """What is looked for: density (n, n, n) around voxel ``n // 2``, protein positive; sizes in Å."""

    name: str
    density: Tensor
    voxel_size: float
    diameter: float


@dataclass(frozen=True)
class PickSettings:
    """How it is looked for: species of the particle table, diameter in Å, step in degrees, grey levels."""

    species: str | None = None
    diameter: float | None = None
    angular_step: float | None = None
    tilt_range: tuple[float, float] | None = None
    protein: str = "dark"
    voxel_size: float | None = None


def read_particles(
    path: str | Path, species: str | None = None, tomogram: str | None = None
) -> tuple[NDArray[np.float64], str | None]:
    """Read particle positions from a star file, as `cryomend specimen` and RELION-5 write them.

    Parameters
    ----------
    path : path
        With ``rlnCenteredCoordinateXAngst`` and its like, Å from the centre of the tomogram.
    species : str, optional
        What stands before the first slash of ``rlnTomoParticleName``; may be left out if all are one.
    tomogram : str, optional
        ``rlnTomoName`` of the rows to take, where a table has several.

    Returns
    -------
    positions_zyx : array, shape (n, 3)
        Å from voxel ``n // 2``.
    species : str or None
        The species that they are of; None if the file names none.

    Raises
    ------
    InputError
        If the file is no such table, holds no particle of the species, several species and none is chosen, or
        several tomograms and not this one.
    """
    columns = read_star_columns(path, COORDINATES)
    positions = np.stack([columns[name] for name in COORDINATES], axis=1)
    words = read_star_texts(path, COORDINATES[:1], optional=[NAME, TOMOGRAM])
    names, tomograms = words.get(NAME), words.get(TOMOGRAM)
    if tomograms is not None and len(set(tomograms)) > 1:
        if tomogram not in tomograms:
            listed = ", ".join(sorted(set(tomograms)))
            raise InputError(
                f"{path} holds particles of several tomograms ({listed}), none called {tomogram}; "
                "give those of one"
            )
        rows = [i for i, name in enumerate(tomograms) if name == tomogram]
        positions, names = positions[rows], None if names is None else [names[i] for i in rows]
    if names is None:
        if species is not None:
            raise InputError(f"{path} has no column _{NAME}, which names species; leave out --species")
        return positions, None
    kinds = [name.split("/")[0] for name in names]
    there = ", ".join(sorted(set(kinds)))
    if species is None and len(set(kinds)) > 1:
        raise InputError(
            f"{path} holds particles of several species ({there}); name the template's: --species"
        )
    chosen = species or kinds[0]
    kept = positions[[kind == chosen for kind in kinds]]
    if len(kept) == 0:
        raise InputError(f"{path} holds no particle of species {chosen}; there are {there}")
    return kept, chosen


def score_picking_files(
    volumes: dict[str, Path | None],
    template: Template | None,
    particles_path: Path | None,
    settings: PickSettings,
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[float, str], None] = lambda share, text: None,
) -> dict[str, Any]:
    """Look for a template in tomograms and compare what is found with where the particles are.

    Parameters
    ----------
    volumes : dict of str to path or None
        Name and MRC file; those without a file are left out.
    template : Template or None
    particles_path : path or None
        Table as for `read_particles`. Nothing is done without either of them.
    settings : PickSettings
        With a tilt range only what was measured is compared; volumes but ``raw`` are searched a second
        time with all of Fourier space, which restoration has filled.
    device : torch.device or str
        Where it is done.
    on_progress : callable
        Told the share that is done and what is being done.

    Returns
    -------
    dict
        Under ``template_matching`` what was looked for and how, and a record of each search; empty without.

    Raises
    ------
    InputError
        If only one of template and particles is given, a file cannot be used, tomograms do not match,
        particles lie outside, or the template is smaller than three voxels or larger than the tomogram.
    """
    if template is None and particles_path is None:
        return {}
    if template is None or particles_path is None:
        raise InputError("--template and --particles belong together: what to look for, and where it is")
    require_tilt_range(settings.tilt_range)
    first_path = next(path for path in volumes.values() if path is not None)
    positions, species = read_particles(particles_path, settings.species, first_path.stem)
    diameter = template.diameter if settings.diameter is None else settings.diameter
    step = ANGULAR_STEP if settings.angular_step is None else settings.angular_step
    try:
        rotations = rotation_grid(step)
    except ValueError as error:
        raise InputError(f"--angular-step: {error}") from None
    search = _Search(replace(template, diameter=diameter), particles_path, positions, rotations, device)
    searches: dict[str, Any] = {}
    tasks = _plan({name: path for name, path in volumes.items() if path is not None}, settings.tilt_range)
    first = open_volume(tasks[0][1], voxel_size=settings.voxel_size)
    for n, (label, path, tilt_range) in enumerate(tasks):
        volume = read_volume(path, voxel_size=settings.voxel_size)
        require_matching(first, volume)
        if settings.protein == "dark":
            np.negative(volume.data, out=volume.data)

        def show(share: float, n: int = n, label: str = label) -> None:
            on_progress((n + share) / len(tasks), f"looking for {template.name}: {label}")

        searches[label] = search.score(volume, tilt_range, show)
    about = {
        "template": template.name,
        "species": species,
        "particles_file": str(particles_path),
        "particles": len(positions),
        "diameter_angstrom": diameter,
        "angular_step_degrees": step,
        "rotations": len(rotations),
        "nearest_picks_angstrom": APART * diameter,
        "tolerance_angstrom": TOLERANCE * diameter,
        "tilt_range_degrees": settings.tilt_range,
    }
    return {"template_matching": {**about, "searches": searches}}


def score_picking(
    tomogram: Tensor,
    template: Template,
    particles: NDArray[np.float64],
    rotations: NDArray[np.float64],
    *,
    voxel_size: float,
    tilt_range: tuple[float, float] | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Look for a template in a tomogram and compare what is found with where the particles are.

    Parameters
    ----------
    tomogram : Tensor, shape (Z, Y, X)
        Protein bright.
    template : Template
        What is looked for.
    particles : array, shape (n, 3)
        Where its copies are, voxels ZYX.
    rotations : array, shape (r, 3, 3)
        Poses to try.
    voxel_size : float
        Of the tomogram, Å.
    tilt_range, on_progress
        As in `match_template`.

    Returns
    -------
    dict
        The two `PickScore` of `score_picks`, ``best_threshold`` and ``as_many_as_particles``, as dicts.

    Raises
    ------
    ValueError
        As `match_template` and `score_picks`.
    """
    diameter = template.diameter / voxel_size
    score, _ = match_template(
        tomogram,
        template.density.to(tomogram.device),
        rotations,
        diameter=diameter,
        step=voxel_size / template.voxel_size,
        tilt_range=tilt_range,
        on_progress=on_progress,
    )
    picks = find_peaks(score, distance=APART * diameter, most=PICKS_PER_PARTICLE * len(particles))
    best, as_many = score_picks(*picks, particles, tolerance=TOLERANCE * diameter)
    return {"best_threshold": asdict(best), "as_many_as_particles": asdict(as_many)}


@dataclass(frozen=True)
class _Search:
    """What is the same for all tomograms."""

    template: Template
    table: Path
    positions: NDArray[np.float64]
    rotations: NDArray[np.float64]
    device: torch.device | str

    def score(
        self, volume: Volume, tilt_range: tuple[float, float] | None, on_progress: Callable[[float], None]
    ) -> dict[str, Any]:
        """Look for the template in one tomogram, protein bright, and compare what is found."""
        particles = _inside(self.positions / volume.voxel_size, volume, self.table)
        try:
            return score_picking(
                torch.from_numpy(volume.data).to(self.device),
                self.template,
                particles,
                self.rotations,
                voxel_size=volume.voxel_size,
                tilt_range=tilt_range,
                on_progress=on_progress,
            )
        except ValueError as error:
            raise InputError(f"{volume.path}: {error}") from None


def _plan(
    volumes: dict[str, Path], tilt_range: tuple[float, float] | None
) -> list[tuple[str, Path, tuple[float, float] | None]]:
    """What is searched: where it was measured, and all of Fourier space of what is not raw."""
    tasks: list[tuple[str, Path, tuple[float, float] | None]] = []
    for name, path in volumes.items():
        if tilt_range is None:
            tasks.append((name, path, None))
        else:
            tasks.append((f"{name}, measured", path, tilt_range))
            tasks += [(f"{name}, all", path, None)] if name != "raw" else []
    return tasks


def are_inside(voxels: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Whether positions (n, 3) in voxels ZYX lie within a volume of this shape, its faces included."""
    return np.all((voxels >= -0.5) & (voxels <= np.array(shape) - 0.5), axis=1)


def _inside(positions: NDArray[np.float64], volume: Volume, table: Path) -> NDArray[np.float64]:
    """Positions in voxels, all inside the volume."""
    voxels = positions + np.array(volume.data.shape) // 2
    outside = ~are_inside(voxels, volume.data.shape)
    if outside.any():
        raise InputError(
            f"{table}: {outside.sum()} of {len(voxels)} particles lie outside {volume.path} of "
            f"{volume.data.shape} voxels (Z, Y, X); give the table of this tomogram, or --voxel-size"
        )
    return voxels


def picking_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lay out a result of `score_picking_files` as the rows of a table, the first being its head.

    Parameters
    ----------
    result : dict

    Returns
    -------
    list of tuple of str
        A column for each search.
    """
    found = result["template_matching"]
    head = f"{found['template']}, {found['particles']} particles"
    rows = [(head, *found["searches"])]
    for key, how in (("best_threshold", "best threshold"), ("as_many_as_particles", "as many picks")):
        for name in ("precision", "recall", "F1"):
            scores = (search[key][name.lower()] for search in found["searches"].values())
            rows.append((f"{name}, {how}", *(f"{score:.3f}" for score in scores)))
    return rows
