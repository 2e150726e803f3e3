"""Cases of recorded data: files found below a folder by the patterns of a recipe, aligned and binned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryomend import __version__
from cryomend.benchmark.case import LAYOUT, Case, Particles, open_case, read_case, write_case
from cryomend.benchmark.digest import digest_of, digest_of_files
from cryomend.config import BenchmarkConfig, RecordedDataConfig
from cryomend.evaluation import Areas, choose_areas
from cryomend.evaluation.areas import require_inside
from cryomend.evaluation.picking import are_inside, read_particles
from cryomend.io import (
    InputError,
    Volume,
    find_tilt_angles,
    open_stack,
    read_defocus,
    read_labels,
    read_stack,
    write_volume,
)
from cryomend.io.mdoc import read_mdoc_table
from cryomend.reconstruction.prepare import Preparation, plan_preparation
from cryomend.specimen import load_structure
from cryomend.specimen.macromolecule import Macromolecule

__all__ = ["prepare_cases", "sum_frames"]

_HALVES = ("_EVN", "_ODD", "_even", "_odd")
_FRAMES = (".mrc", ".mrcs", ".tif", ".tiff")


@dataclass(frozen=True)
class _Files:
    """What was found of one tomogram."""

    tilts: Path
    even: Path | None
    odd: Path | None
    angles: Path | None
    alignment: Path | None
    ctf: Path | None
    frames: Path | None
    particles: Path | None


def prepare_cases(config: BenchmarkConfig, folder: Path, data: Path | None) -> list[Case]:
    """Prepare the tomograms of a recipe of recorded data; those that stand are left alone.

    Parameters
    ----------
    config : BenchmarkConfig
        The recipe; its ``folder`` holds the files unless ``data`` is given.
    folder : Path
        Where the folders of the cases go.
    data : Path or None
        Replaces the recipe's folder.

    Returns
    -------
    list of Case

    Raises
    ------
    cryomend.io.InputError
        If the folder or a file is missing (what was looked for is named, and where the data come from), a
        file cannot be used, or areas overlap or leave the tomogram.
    """
    where = data or (Path(config.folder) if config.folder else None)
    page = f"; the data are at {config.page}" if config.page else ""
    if where is None:
        raise InputError(f"{config.title}: say where the files are with --data DIR{page}")
    if not where.is_dir():
        raise InputError(f"{where}: no such folder; give it with --data DIR{page}")
    own = {folder.resolve(), folder.parent.resolve() / "rows"}  # what a benchmark has written is no data
    found = [(one, _find_files(one, where, own, page)) for one in config.tomograms]  # all, before any work
    return [_prepare(one, files, folder / one.name) for one, files in found]


def _find_files(config: RecordedDataConfig, where: Path, own: set[Path], page: str) -> _Files:
    """The files of a tomogram."""
    if bool(config.particles) != bool(config.template):
        raise InputError(f"{config.name}: particles and template belong together; write both or neither")
    tilts = _first([p for p in _matches(where, config.tilts, own) if not p.stem.endswith(_HALVES)])
    movies = None
    if tilts is None:
        tilts = movies = _first(_matches(where, config.frames, own))
    if tilts is None:
        looked = " or ".join([*config.tilts, *config.frames])
        raise InputError(f"{where}: no tilt series of {config.name}; looked for {looked}{page}")
    others = {}
    for name in ("even", "odd", "angles", "alignment", "ctf", "particles"):
        patterns = getattr(config, name)
        others[name] = _of_series(_matches(where, patterns, own), tilts, name)
        if patterns and others[name] is None and name in ("angles", "alignment", "particles"):
            raise InputError(f"{where}: no {name} of {config.name}; looked for {' or '.join(patterns)}{page}")
    if (others["even"] is None) != (others["odd"] is None):
        raise InputError(f"{where}: only one half of {config.name}; give both stacks or neither")
    angles = others.pop("angles") or (find_tilt_angles(tilts) if movies is None else movies)
    aligned = others["alignment"]
    if angles is None and (aligned is None or aligned.suffix != ".aln"):  # an .aln has angles of its own
        mdocs = _matches(where, config.frames, own)  # for a stack of the user's own
        angles = _of_series(mdocs, tilts, "frames")
    return _Files(tilts, angles=angles, frames=movies, **others)


def _matches(where: Path, patterns: Sequence[str], own: set[Path]) -> list[Path]:
    """Files that fit the first pattern that any fits, by name; none of the benchmark's own folder."""
    for pattern in patterns:
        if not pattern:
            raise InputError("a pattern of the recipe is empty; write what to look for, or leave it out")
        absolute = Path(pattern).is_absolute()
        found = [Path(pattern)] if absolute else sorted(where.glob(pattern))
        if files := [p for p in found if p.is_file() and not own & {*p.resolve().parents}]:
            return files
    return []


def _first(files: Sequence[Path]) -> Path | None:
    return files[0] if files else None


def _of_series(files: Sequence[Path], tilts: Path, name: str) -> Path | None:
    """The file of a tilt series among some: the only one, or the first whose name begins as the series'."""
    if len(files) < 2:
        return _first(files)
    stem = tilts.name.split(".")[0]
    own = [p for p in files if re.match(rf"{re.escape(stem)}(?![A-Za-z0-9])", p.name)]
    if not own:
        raise InputError(
            f"{len(files)} files may be the {name} of {tilts}, such as {files[0]}, none named like it; "
            "name the one to take in the recipe"
        )
    return own[0]


def _prepare(config: RecordedDataConfig, files: _Files, folder: Path) -> Case:
    """One case, unless it stands as it would be made."""
    inputs = [path for path in vars(files).values() if path is not None]
    inputs += [Path(x) for x in (config.areas, config.template) if x and Path(x).is_file()]
    if files.frames is not None:
        inputs += _find_movies(files.frames)
    digest = digest_of(__version__, LAYOUT, config.model_dump(mode="json"), digest_of_files(inputs))
    if (folder / "case.json").is_file() and (case := read_case(folder)).digest == digest:
        return case
    areas = _read_areas(config)
    molecule = None if config.template is None else load_structure(config.template)
    open_case(folder)
    paths = [path for path in (files.tilts, files.even, files.odd) if path is not None]
    if files.frames is not None:
        paths = list(sum_frames(files.frames, folder, config.reconstruction.pixel_size))
    stacks = [open_stack(path, pixel_size=config.reconstruction.pixel_size) for path in paths]
    for half in stacks[1:]:
        _require_like(half, stacks[0])
    plan = plan_preparation(
        stacks[0],
        config=config.reconstruction,
        angles_path=files.angles,
        alignment_path=files.alignment,
        ctf_path=None,  # its phases are left: flipping them is no part of what is compared
        dose_path=None,
    )
    if plan.pixel_size <= 0:
        raise InputError(f"{paths[0]} has no pixel size; set reconstruction.pixel_size in the recipe")
    if areas is not None:
        _require_fitting(areas, (config.thickness, *plan.shape), config.name)
    particles = _read_particles(config, files, molecule, (config.thickness, *plan.shape), plan.pixel_size)
    tilts, *halves = (_prepared(plan, stack, stacks[0]) for stack in stacks)
    return write_case(
        folder,
        tilts=tilts,
        halves=(halves[0], halves[1]) if halves else None,
        tilt_angles=plan.tilt_angles,
        thickness=config.thickness,
        facts={
            "voxel_size": plan.pixel_size,
            "defocus_um": _defocus(config, files, plan),
            "optics": plan.optics,
            "source": {
                "stack": str(paths[0].resolve()),
                "angles": None if files.angles is None else str(files.angles.resolve()),
                "bin": plan.bin,
            },
            "digest": digest,
            "files": {name: str(path) for name, path in vars(files).items() if path is not None},
        },
        areas=areas,
        particles=particles,
    )


def _require_like(half: Volume, whole: Volume) -> None:
    """Refuse a half that is of another series."""
    shapes = tuple(half.data.shape), tuple(whole.data.shape)
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{half.path} has {shapes[0]} pixels (tilt, Y, X), {whole.path} {shapes[1]}; "
            "give halves of this series"
        )
    if abs(half.voxel_size - whole.voxel_size) > 1e-3 * whole.voxel_size:
        raise InputError(
            f"{half.path} has pixels of {half.voxel_size:g} Å, {whole.path} of {whole.voxel_size:g} Å; "
            "set reconstruction.pixel_size in the recipe if they are of one series"
        )


def _read_particles(
    config: RecordedDataConfig,
    files: _Files,
    molecule: Macromolecule | None,
    shape: tuple[int, int, int],
    voxel_size: float,
) -> Particles | None:
    """What is to be looked for in a tomogram."""
    if files.particles is None or molecule is None:
        return None
    positions, _ = read_particles(files.particles, config.species, config.name)
    voxels = positions / voxel_size + np.array(shape) // 2
    if outside := int((~are_inside(voxels, shape)).sum()):
        raise InputError(
            f"{files.particles}: {outside} of {len(voxels)} particles lie outside {config.name} of {shape} "
            "voxels (Z, Y, X); give the table of this tomogram, or correct thickness in the recipe"
        )
    return Particles.of(molecule, voxels, voxel_size)


def _read_areas(config: RecordedDataConfig) -> Areas | None:
    """The areas that a tomogram is scored in."""
    if config.areas is None:
        return None
    is_file = config.areas.endswith(".toml")
    return choose_areas(config.areas if is_file else None, None if is_file else config.areas)


def _require_fitting(areas: Areas, shape: tuple[int, ...], name: str) -> None:
    """Refuse areas that leave the tomogram, before an hour's work."""
    try:
        require_inside(areas, shape)
    except ValueError as error:
        raise InputError(
            f"{name}: {error}; or correct thickness and reconstruction.bin in the recipe"
        ) from None


def _prepared(plan: Preparation, stack: Volume, like: Volume) -> Tensor:
    """Images of a stack as they are back-projected, of zero mean."""
    images = torch.stack(list(plan.prepare(stack, like, "cpu")))
    return images - images.mean(dim=(1, 2), keepdim=True)


def _defocus(config: RecordedDataConfig, files: _Files, plan: Preparation) -> float | None:
    """Defocus of the smallest tilt, if it is known."""
    if files.ctf is None:
        return config.reconstruction.defocus_um  # nominal
    values = read_defocus(files.ctf).defocus_um
    flattest = int(np.abs(plan.tilt_angles).argmin())
    if len(values) != len(plan.sections):  # a row for every image of the stack, used or not
        flattest = int(plan.sections[flattest])
    if flattest >= len(values):
        raise InputError(
            f"{files.ctf} has {len(values)} rows, fewer than there are tilts; is it the right one?"
        )
    return float(values[flattest])


def sum_frames(mdoc: Path, folder: Path, pixel_size: float | None) -> tuple[Path, Path, Path]:
    """Sum the movies that an .mdoc names, all frames and the even and odd ones apart.

    The frames are not aligned to each other: motion within an exposure stays in.

    Parameters
    ----------
    mdoc : Path
        Its SubFramePath names the movies, which are looked for beside it and in folders there.
    folder : Path
        Where the three stacks go.
    pixel_size : float, optional
        Å; the .mdoc's PixelSpacing if None.

    Returns
    -------
    tuple of Path
        Stacks of all, even and odd frames, one image per section of the .mdoc.

    Raises
    ------
    cryomend.io.InputError
        If the .mdoc or a movie is missing or cannot be used, or movies differ in size.
    """
    rows = read_mdoc_table(mdoc, needs=("TiltAngle", "SubFramePath"))
    size = pixel_size or float(rows[0].get("PixelSpacing") or 0.0)
    sums: dict[str, list[Any]] = {"even": [], "odd": []}
    for path in _find_movies(mdoc):
        movie = _read_movie(path)
        if len(movie) < 2:
            raise InputError(f"{path.name} of {mdoc} has a single frame, so no halves; give stacks instead")
        for start, half in enumerate(("even", "odd")):
            sums[half].append(movie[start::2].sum(axis=0, dtype=np.float32))
    shapes = {image.shape for image in sums["even"]}
    if len(shapes) > 1:
        raise InputError(f"{mdoc}: its movies have frames of different sizes; leave out the odd ones")
    even, odd = (np.stack(sums[half]) for half in ("even", "odd"))
    paths = tuple(folder / f"recorded{end}.mrc" for end in ("", "_EVN", "_ODD"))
    for path, images in zip(paths, (even + odd, even, odd), strict=True):
        write_volume(path, images, voxel_size=size, stack=True)
    return paths[0], paths[1], paths[2]


def _find_movies(mdoc: Path) -> list[Path]:
    """Movies of the sections of an .mdoc, whose paths are those of the microscope's computer."""
    rows = read_mdoc_table(mdoc, needs=("TiltAngle", "SubFramePath"))
    names = (str(row["SubFramePath"]).replace("\\", "/").rsplit("/", 1)[-1] for row in rows)
    return [_find_movie(mdoc, name) for name in names]


def _find_movie(mdoc: Path, name: str) -> Path:
    """A movie beside its .mdoc, or in a folder there or next to that."""
    for place in (mdoc.parent, mdoc.parent.parent):
        for path in (place / name, *sorted(place.glob(f"*/{name}"))):
            if path.is_file():
                return path
    raise InputError(f"{mdoc} names the movie {name}, which is not beside it nor in a folder there; fetch it")


def _read_movie(path: Path) -> Any:
    """Frames (frame, Y, X) of a movie."""
    if path.suffix.lower() not in _FRAMES:
        raise InputError(f"{path}: movies are read as MRC or TIFF; convert it first")
    if path.suffix.lower().startswith(".tif"):
        return read_labels(path)[0]
    return read_stack(path).data
