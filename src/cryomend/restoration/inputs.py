"""What is to be restored: files, directories, patterns and lists, each with its wedge and its result."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryomend.io import (
    InputError,
    check_folder,
    check_writable,
    find_tilt_angles,
    open_volume,
    read_lines,
    read_star_columns,
    read_star_texts,
    read_tilt_angles,
)

__all__ = ["Job", "Source", "check_job", "check_places", "common_tilt_range", "list_sources", "name_targets"]

PathLike = str | os.PathLike[str]
TiltRange = tuple[float, float]
_SUFFIXES = (".mrc", ".rec", ".map")
_LISTS = (".txt", ".lst", ".list")
_RESTORED = "_restored.mrc"
_TOMOGRAM, _SERIES = "rlnTomoReconstructedTomogram", "rlnTomoTiltSeriesStarFile"  # of RELION 5
_ANGLE = "rlnTomoNominalStageTiltAngle"


@dataclass(frozen=True)
class Source:
    """A file to restore, and its tilt range if the list that names it tells one."""

    path: Path
    tilt_range: TiltRange | None = None


@dataclass(frozen=True)
class Job:
    """One file to restore, its header already checked."""

    source: Path
    target: Path
    tilt_range: TiltRange | None
    voxel_size: float
    shape: tuple[int, int, int]


def common_tilt_range(tilt_range: TiltRange | None, tilt_angles_path: PathLike | None) -> TiltRange | None:
    """Give the range that the options state for all files, if any.

    Raises
    ------
    InputError
        If both are given or the range is none.
    """
    if tilt_range is not None and tilt_angles_path is not None:
        raise InputError("give --tilt-range or --tilt-angles, not both")
    if tilt_angles_path is not None:
        return _range_of_list(Path(tilt_angles_path))
    if tilt_range is not None:
        low, high = tilt_range
        if not -90 <= low < high <= 90:
            raise InputError(f"--tilt-range needs -90 <= MIN < MAX <= 90 degrees, got {low:g} {high:g}")
    return tilt_range


def _range_of_list(path: Path) -> TiltRange:
    """Give the extremes of a list of tilt angles."""
    angles = read_tilt_angles(path)
    if angles.min() == angles.max():
        raise InputError(f"{path} holds one tilt angle only; a tilt series has several")
    return float(angles.min()), float(angles.max())


# ---- listing --------------------------------------------------------------------------------------


def list_sources(inputs: Sequence[PathLike]) -> tuple[list[Source], bool]:
    """Expand directories, patterns and lists; keep the order given, drop repetitions.

    Parameters
    ----------
    inputs : sequence of path-like
        Tomograms; directories; patterns such as ``"*/rec*.mrc"``, where no file has that name; text files
        (.txt, .lst, .list) with ``PATH`` or ``PATH TILT_MIN TILT_MAX`` in every line; RELION's
        tomograms.star.

    Returns
    -------
    sources : list of Source
    several : bool
        Whether the results belong in a directory: of several files, or of an input that is none itself.

    Raises
    ------
    InputError
        If nothing is found or a list cannot be read.
    """
    listed: dict[Path, Source] = {}
    several = False
    for name in map(Path, inputs):
        found = _expand(name)
        several |= found is not None
        for source in [Source(name)] if found is None else found:
            listed.setdefault(source.path.resolve(), source)
    if not listed:
        raise InputError("no input file; give at least one tomogram")
    return list(listed.values()), several or len(listed) > 1


def _expand(name: Path) -> list[Source] | None:
    """List what a directory, list or pattern stands for; None for a file."""
    if name.is_dir():
        return [Source(path) for path in _list_directory(name)]
    if name.suffix.lower() == ".star":
        return list(_read_star(name))
    if name.suffix.lower() in _LISTS:
        return list(_read_list(name))
    if glob.has_magic(str(name)) and not name.exists():
        paths = [Path(path) for path in sorted(glob.glob(str(name), recursive=True))]
        files = [path for path in paths if path.is_file() and not path.name.endswith(_RESTORED)]
        if not files:
            raise InputError(f"no file matches {name}; check the pattern")
        return [Source(path) for path in files]
    return None


def _list_directory(directory: Path) -> list[Path]:
    """List the tomograms of a directory by name, without earlier results."""
    files = [path for path in sorted(directory.iterdir()) if path.suffix.lower() in _SUFFIXES]
    files = [path for path in files if path.is_file() and not path.name.endswith(_RESTORED)]
    if not files:
        raise InputError(f"{directory} holds no .mrc, .rec or .map file to restore")
    return files


def _read_list(name: Path) -> Iterator[Source]:
    """Read a text list; a row's last two words are its tilt range if both are numbers."""
    name, lines = read_lines(name)
    rows = [(n, line.split("#")[0].strip()) for n, line in enumerate(lines, start=1)]
    if not any(row for _, row in rows):
        raise InputError(f"{name} names no tomogram; expected PATH or PATH TILT_MIN TILT_MAX in every line")
    for number, row in rows:
        words = row.rsplit(maxsplit=2)
        try:
            tilt_range = (float(words[1]), float(words[2])) if len(words) == 3 else None
        except ValueError:  # a path with blanks in it
            tilt_range = None
        if tilt_range is not None and not -90 <= tilt_range[0] < tilt_range[1] <= 90:
            raise InputError(f"{name}: line {number} needs -90 <= TILT_MIN < TILT_MAX <= 90 degrees")
        if row:
            yield Source(_find_listed(name, row if tilt_range is None else words[0]), tilt_range)


def _read_star(name: Path) -> Iterator[Source]:
    """Read RELION's list of tomograms, and the tilt range of each from the star file of its tilt series."""
    columns = read_star_texts(name, [_TOMOGRAM], optional=[_SERIES])
    series = columns.get(_SERIES, [""] * len(columns[_TOMOGRAM]))
    for tomogram, tilts in zip(columns[_TOMOGRAM], series, strict=True):
        path = _find_listed(name, tilts) if tilts else None
        tilt_range = None
        if path is not None and path.is_file():  # a copy of the list alone may have lost it
            angles = read_star_columns(path, [_ANGLE])[_ANGLE]
            tilt_range = (float(angles.min()), float(angles.max()))
            if not -90 <= tilt_range[0] < tilt_range[1] <= 90:
                raise InputError(
                    f"{path}: the angles _{_ANGLE} are not those of a tilt series inside ±90 degrees"
                )
        yield Source(_find_listed(name, tomogram), tilt_range)


def _find_listed(listed_in: Path, text: str) -> Path:
    """Take a path from the working directory, as RELION, or else from the folder of the list."""
    path, beside = Path(text), listed_in.parent / text
    return beside if beside.exists() and not path.exists() else path


# ---- checking -------------------------------------------------------------------------------------


def name_targets(sources: list[Path], output: PathLike, *, into_directory: bool) -> list[Path]:
    """Name the result of every source and refuse that one overwrites another or a source.

    Raises
    ------
    InputError
        If that would happen, or several results are to go into one file.
    """
    text = os.fspath(output)
    path = Path(text)
    if into_directory and (path.is_file() or path.suffix.lower() in _SUFFIXES):
        raise InputError(f"the results of several files or of a directory need a directory, got -o {text}")
    if into_directory or path.is_dir() or text.endswith(("/", os.sep)):
        targets = [path / (source.stem + _RESTORED) for source in sources]
    else:
        targets = [path]
    taken = {source.resolve(): f"the input {source}" for source in sources}
    for source, target in zip(sources, targets, strict=True):
        other = taken.setdefault(target.resolve(), f"the result of {source}")
        if other != f"the result of {source}":
            raise InputError(f"the result {target} would overwrite {other}; choose another -o")
    return targets


def check_job(source: Source, target: Path, common: TiltRange | None, voxel_size: float | None) -> Job:
    """See by its header that a source can be restored, and find its tilt range.

    What the list says of this file goes before what the options say of all, and that before a list of
    tilt angles beside the file.

    Raises
    ------
    InputError
        If the file, its header or the tilt angles beside it cannot be used.
    """
    opened = open_volume(source.path, voxel_size=voxel_size)
    tilt_range = source.tilt_range or common
    beside = find_tilt_angles(source.path) if tilt_range is None else None
    if beside is not None:
        tilt_range = _range_of_list(beside)
    z, y, x = opened.data.shape
    return Job(source.path, target, tilt_range, opened.voxel_size, (z, y, x))


def check_places(targets: list[Path], reports: list[Path], output: Path) -> None:
    """See that everything can be written, without making anything yet.

    Raises
    ------
    InputError
        If a place cannot be written, or more than the output directory itself is missing.
    """
    for place in reports:
        check_writable(place)
    if targets != [output] and not output.exists():
        if not output.absolute().parent.is_dir():  # more than one missing is more likely a slip of the pen
            raise InputError(f"cannot make the directory {output}: no such file or directory; make it first")
        check_folder(output)
        return
    for target in targets:
        check_writable(target)
