"""Foreground and background areas in which a volume without a truth is scored.

Areas come from a TOML file: a name, then one table per area with half-open ranges of voxels::

    name = "my tomogram"
    [foreground.s1]
    z = [50, 60]
    y = [400, 440]
    x = [400, 430]
    [background.b1]
    ...

No two areas may overlap. The entries under ``areas/`` are published ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

from cryomend.evaluation.metrics import Region
from cryomend.io import InputError, read_toml, write_text

__all__ = [
    "Area",
    "Areas",
    "choose_areas",
    "named_areas",
    "read_areas",
    "require_apart",
    "require_inside",
    "write_areas",
]

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Area:
    """A box of voxels: its name and its half-open (start, stop) along z, y and x."""

    name: str
    ranges: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

    @property
    def region(self) -> Region:
        """The box as three slices."""
        z, y, x = (slice(*r) for r in self.ranges)
        return z, y, x

    def __str__(self) -> str:
        """Name and ranges, for messages."""
        return (
            f"{self.name} ({', '.join(f'{a} {r[0]}-{r[1]}' for a, r in zip(AXES, self.ranges, strict=True))})"
        )

    def overlaps(self, other: Area) -> bool:
        """Whether a voxel lies in both."""
        return all(max(a[0], b[0]) < min(a[1], b[1]) for a, b in zip(self.ranges, other.ranges, strict=True))


@dataclass(frozen=True)
class Areas:
    """Areas to score: as many foreground as background ones, paired in order."""

    name: str
    foreground: tuple[Area, ...]
    background: tuple[Area, ...]


def _read_range(name: str, axis: str, value: Any) -> tuple[int, int]:
    """Half-open range of one area along one axis, checked."""
    if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)):
        raise ValueError(f"area {name} needs {axis} = [start, stop] in whole voxels, got {value!r}")
    start, stop = value
    if start < 0 or stop <= start:
        raise ValueError(
            f"area {name} has an empty or reversed range {axis} = [{start}, {stop}]; need 0 <= start < stop"
        )
    return start, stop


def _read_area(name: str, table: Any) -> Area:
    """One area from its table."""
    if not isinstance(table, Mapping) or set(table) != set(AXES):
        raise ValueError(f"area {name} needs the ranges z, y and x and nothing else")
    z, y, x = (_read_range(name, axis, table[axis]) for axis in AXES)
    return Area(name, (z, y, x))


def _parse_areas(content: Mapping[str, Any], default_name: str) -> Areas:
    """Areas from the content of a TOML file."""
    unknown = sorted(set(content) - {"name", "foreground", "background"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; an areas file has name, foreground and background")
    groups = []
    for kind in ("foreground", "background"):
        tables = content.get(kind)
        if not isinstance(tables, Mapping) or not tables:
            raise ValueError(f"no {kind} area; write one as [{kind}.NAME] with z, y and x = [start, stop]")
        groups.append(tuple(_read_area(name, table) for name, table in tables.items()))
    foreground, background = groups
    if len(foreground) != len(background):
        raise ValueError(
            f"{len(foreground)} foreground and {len(background)} background areas; "
            "they are paired in order, so give as many of each"
        )
    areas = Areas(str(content.get("name", default_name)), foreground, background)
    require_apart(areas)
    return areas


def read_areas(path: str | Path) -> Areas:
    """Read foreground and background areas from a TOML file.

    Parameters
    ----------
    path : str or Path
        File in the format of the module docstring.

    Returns
    -------
    Areas

    Raises
    ------
    InputError
        If the file cannot be read, lacks foreground or background areas, has not as many of
        one as of the other, has a range that is missing, empty or reversed, or areas that overlap.
    """
    content = read_toml(path)
    try:
        return _parse_areas(content, Path(path).stem)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def named_areas(name: str) -> Areas:
    """Areas published for a data set, such as ``empiar-10045``.

    Parameters
    ----------
    name : str
        Upper or lower case.

    Returns
    -------
    Areas
        Voxels of the published reconstruction; a volume of another size needs areas of its own.

    Raises
    ------
    InputError
        If there is no such entry; the message lists those there are.
    """
    folder = resources.files("cryomend.evaluation") / "areas"
    entries = {Path(f.name).stem: f for f in folder.iterdir() if f.name.endswith(".toml")}
    if name.lower() not in entries:
        raise InputError(
            f"no areas of {name!r}; there are {', '.join(sorted(entries))}; "
            "or give your own with --areas FILE.toml"
        )
    with resources.as_file(entries[name.lower()]) as path:
        return read_areas(path)


def choose_areas(path: str | Path | None, name: str | None) -> Areas | None:
    """Areas of a file or of a published entry, or None if neither is given.

    Raises
    ------
    InputError
        If both are given, or as :func:`read_areas` and :func:`named_areas`.
    """
    if path is not None and name is not None:
        raise InputError(f"give --areas {path} or --areas-of {name}, not both")
    if name is not None:
        return named_areas(name)
    return None if path is None else read_areas(path)


def require_inside(areas: Areas, shape: Sequence[int]) -> None:
    """Check that every area lies inside a volume.

    Parameters
    ----------
    areas : Areas
    shape : sequence of int
        Volume shape (Z, Y, X).

    Raises
    ------
    ValueError
        If an area leaves the volume; the message has the range and the number of voxels.
    """
    for area in (*areas.foreground, *areas.background):
        for axis, (start, stop), n in zip(AXES, area.ranges, shape, strict=True):
            if stop > n:
                raise ValueError(
                    f"area {area.name} of {areas.name} asks for {axis} {start} to {stop}, but the volume "
                    f"has {n} voxels along {axis}; give areas of its own with --areas FILE.toml"
                )


def require_apart(areas: Areas) -> None:
    """Check that no two areas share a voxel: it would count twice, or as structure and as background.

    Parameters
    ----------
    areas : Areas

    Raises
    ------
    ValueError
        If two overlap; the message has both with their ranges.
    """
    for a, b in combinations((*areas.foreground, *areas.background), 2):
        if a.overlaps(b):
            raise ValueError(f"areas {a} and {b} of {areas.name} overlap; move or shrink one")


def write_areas(path: str | Path, areas: Areas, *, comment: str = "") -> None:
    """Write areas to a TOML file that `read_areas` reads.

    Parameters
    ----------
    path : path-like
        The file; it appears when complete.
    areas : Areas
    comment : str
        First line.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    lines = [f"# {comment}"] if comment else []
    lines.append(f"name = {json.dumps(areas.name, ensure_ascii=False)}")  # JSON's strings are TOML's
    for kind, group in (("foreground", areas.foreground), ("background", areas.background)):
        for area in group:
            plain = area.name.isascii() and area.name.isalnum()
            key = area.name if plain else json.dumps(area.name, ensure_ascii=False)
            lines += ["", f"[{kind}.{key}]"]
            lines += [f"{axis} = [{r[0]}, {r[1]}]" for axis, r in zip(AXES, area.ranges, strict=True)]
    write_text(path, "\n".join(lines) + "\n")
