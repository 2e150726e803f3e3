"""What is to be restored: files, directories, patterns and lists, each with its wedge and its result."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
Say = Callable[[str], None]
_SUFFIXES = (".mrc", ".rec", ".map")
_RESULT_SUFFIXES = (*_SUFFIXES, ".mrcs", ".ccp4", ".st", ".ali")  # what else is known to be MRC
_LISTS = (".txt", ".lst", ".list")
_RESTORED = "_restored.mrc"
_TOMOGRAM, _SERIES = "rlnTomoReconstructedTomogram", "rlnTomoTiltSeriesStarFile"  # of RELION 5
_ANGLE = "rlnTomoNominalStageTiltAngle"
_HALVES = ("_EVN", "_ODD")
_CONFIDENCE = re.compile(r"^cryomend .* sigma / contrast$", re.MULTILINE)  # label of `write_confidence`


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


def list_sources(inputs: Sequence[PathLike], *, say: Say = lambda text: None) -> tuple[list[Source], bool]:
    """Expand directories, patterns and lists; keep the order given, drop repetitions.

    Of a file that is named several times the first tilt range that a list tells counts. Of a directory
    the halves of tomograms that it holds (``X_EVN``, ``X_ODD`` beside ``X``) and confidence volumes count
    only where they are named too.

    Parameters
    ----------
    inputs : sequence of path-like
        Tomograms; directories; patterns such as ``"*/rec*.mrc"``, where no file has that name; text files
        (.txt, .lst, .list) with ``PATH`` or ``PATH TILT_MIN TILT_MAX`` in every line; RELION's
        tomograms.star.
    say : callable
        Called with a line of text for every directory of which something is left out.

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
    listed: dict[str, Source] = {}
    left_out: dict[Path, dict[str, list[Path]]] = {}
    several = False
    for name in map(Path, inputs):
        if name.is_dir():
            paths, left_out[name] = _list_directory(name)
            found: list[Source] | None = [Source(path) for path in paths]
        else:
            found = _expand(name)
        several |= found is not None
        for source in [Source(name)] if found is None else found:
            known = listed.setdefault(os.path.realpath(source.path), source)
            if known.tilt_range is None:  # a directory that came first says nothing of it, a list may
                listed[os.path.realpath(source.path)] = replace(known, tilt_range=source.tilt_range)
    if not listed:
        raise InputError("no input file; give at least one tomogram")
    for directory, kinds in left_out.items():
        _say_what_is_left_out(directory, kinds, listed, say)
    return list(listed.values()), several or len(listed) > 1


def _expand(name: Path) -> list[Source] | None:
    """List what a list or pattern stands for; None for a file."""
    if name.suffix.lower() == ".star":
        return list(_read_star(name))
    if name.suffix.lower() in _LISTS:
        return list(_read_list(name))
    if glob.has_magic(str(name)) and not name.exists():
        paths = [Path(path) for path in sorted(glob.glob(str(name), recursive=True))]
        files = [path for path in paths if _is_input(path)]
        if not files:
            raise InputError(f"no file matches {name}; check the pattern")
        return [Source(path) for path in files]
    return None


def _list_directory(directory: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """List the tomograms of a directory by name, without earlier results and hidden files.

    Returned beside them is what is no tomogram of its own, by kind.
    """
    files = [path for path in sorted(directory.iterdir()) if path.suffix.lower() in _SUFFIXES]
    files = [path for path in files if _is_input(path) and not path.name.startswith(".")]
    if not files:
        raise InputError(f"{directory} holds no .mrc, .rec or .map file to restore")
    stems = {path.stem for path in files}
    halves = [path for path in files if path.stem.endswith(_HALVES) and path.stem[:-4] in stems]
    confidences = [path for path in files if path not in halves and _is_confidence(path)]
    kept = [path for path in files if path not in halves and path not in confidences]
    if not kept:
        raise InputError(f"{directory} holds no tomogram, only {confidences[0].name} of --confidence")
    return kept, {"half": halves, "confidence volume": confidences}


def _is_confidence(path: Path) -> bool:
    """Tell by its labels a volume that --confidence wrote; what cannot be read is refused later, not here."""
    try:
        labels = open_volume(path, voxel_size=1.0, minimum_size=1).labels
    except InputError:
        return False
    return _CONFIDENCE.search("\n".join(labels)) is not None


def _say_what_is_left_out(
    directory: Path, kinds: dict[str, list[Path]], listed: dict[str, Source], say: Say
) -> None:
    """Say in one line what of a directory nobody has named either."""
    parts = []
    for kind, paths in kinds.items():
        names = [path.name for path in paths if os.path.realpath(path) not in listed]
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            plural = {"half": "halves"}.get(kind, kind + "s") if len(names) > 1 else kind
            parts.append(f"{len(names)} {plural} ({shown})")
    if parts:
        say(f"{directory}: left out {' and '.join(parts)}; what is to be restored all the same must be named")


def _is_input(path: Path) -> bool:
    """Tell whether something found is to be restored; a link to nowhere is, so that its loss is told."""
    there = path.is_file() or (path.is_symlink() and not path.exists())
    return there and not path.name.endswith(_RESTORED)


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

    In a directory it is called ``STEM_restored.mrc``, and where several sources have one name also by as
    many of the folders above them as tell them apart: ``FOLDER_STEM_restored.mrc``.

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
        targets = [path / (name + _RESTORED) for name in _distinct_names(sources)]
    else:
        targets = [path]
    inputs = {os.path.realpath(source): source for source in sources}
    made: dict[str, Path] = {}
    for source, target in zip(sources, targets, strict=True):
        place = os.path.realpath(target)
        if place in inputs:
            raise InputError(
                f"the result {target} would overwrite the input {inputs[place]}; choose another -o"
            )
        if place in made:
            raise InputError(
                f"the result {target} of {source} would overwrite the result of {made[place]}; rename one of "
                "them, or restore them in two calls"
            )
        made[place] = source
    return targets


def _distinct_names(sources: list[Path]) -> list[str]:
    """Take stems and, where several are the same, as many folders before them as tell them apart."""
    names = [source.stem for source in sources]
    parts = [(*Path(os.path.abspath(source)).parent.parts[1:], source.stem) for source in sources]
    for stem, count in Counter(names).items():
        same = [n for n, source in enumerate(sources) if count > 1 and source.stem == stem]
        for depth in range(2, max((len(parts[n]) for n in same), default=0) + 1):
            longer = {n: "_".join(parts[n][-depth:]) for n in same}
            if len(set(longer.values())) == len(same):
                names = [longer.get(n, name) for n, name in enumerate(names)]
                break
    return names


def check_job(source: Source, target: Path, common: TiltRange | None, voxel_size: float | None) -> Job:
    """See by its header that a source can be restored, and find its tilt range.

    What the list says of this file goes before what the options say of all, and that before a list of
    tilt angles beside the file.

    Raises
    ------
    InputError
        If the file, its header or the tilt angles beside it cannot be used, or they show that it is a tilt
        series.
    """
    opened = open_volume(source.path, voxel_size=voxel_size)
    z, y, x = opened.data.shape
    tilt_range = source.tilt_range or common
    if tilt_range is None:  # nobody who gave one took a tilt series for a tomogram
        _refuse_tilt_series(source.path, z)
        beside = find_tilt_angles(source.path)
        tilt_range = None if beside is None else _range_of_list(beside)
    return Job(source.path, target, tilt_range, opened.voxel_size, (z, y, x))


def _refuse_tilt_series(path: Path, sections: int) -> None:
    """Refuse what has as many sections as a list or .mdoc of its name has angles.

    The stacks of the halves of a tilt series have no list of their own, that of the whole is theirs.
    """
    if path.suffix.lower() == ".rec" or path.stem.lower().endswith(("_rec", ".rec")):
        return  # named as what IMOD reconstructed: as many sections as tilts are a coincidence
    stems = [path.stem, *(path.stem.removesuffix(half) for half in _HALVES if path.stem.endswith(half))]
    for name in [path.with_name(stem + path.suffix) for stem in stems]:
        mdocs = name.with_name(name.name + ".mdoc"), name.with_suffix(".mdoc")
        for listed in (find_tilt_angles(name), *mdocs):
            if listed is not None and listed.is_file() and _count_angles(listed) == sections:
                raise InputError(
                    f"{path} looks like a tilt series: {listed} has an angle for each of its {sections} "
                    "sections; reconstruct it first, or say --tilt-range MIN MAX if it is a tomogram"
                )


def _count_angles(path: Path) -> int | None:
    """Count the angles of a list or .mdoc; None where it cannot be read as one."""
    try:
        return len(read_tilt_angles(path))
    except InputError:
        return None


def check_places(targets: list[Path], reports: list[Path], output: Path) -> None:
    """See that everything can be written, without making anything yet.

    Reports may lie in an output directory that is yet to be made.

    Raises
    ------
    InputError
        If a place cannot be written, more than the output directory itself is missing, or the one result
        has not the name of an MRC file.
    """
    if targets == [output] and output.suffix.lower() not in _RESULT_SUFFIXES:
        raise InputError(
            f"-o {output} is no directory, and not named as the MRC file that the result is; give "
            f"{output}{os.sep} for a directory, {output.with_suffix('.mrc')} for a file"
        )
    to_make = targets != [output] and not output.exists()
    directory = os.path.realpath(output) if to_make else None
    for place in reports:
        if os.path.realpath(place) == directory:
            raise InputError(f"cannot write {place}: it will be the directory of the results; choose another")
        if os.path.realpath(place.parent) != directory:
            check_writable(place)
    if to_make:
        if not output.absolute().parent.is_dir():  # more than one missing is more likely a slip of the pen
            raise InputError(f"cannot make the directory {output}: no such file or directory; make it first")
        check_folder(output)
        return
    for target in targets:
        check_writable(target)
