"""Areas without structure that the user gives in a text file, instead of the search.

One area per line, ``#`` starts a comment::

    # tilt  y_first y_last  x_first x_last
    0       100     612     40      800
    *       0       256     0       256

Tilts (slices of a tomogram) count from 0 and ``*`` means all of them; pixels are counted from 0 and
ranges are half-open, so the second area is 256 x 256 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryomend.io import InputError
from cryomend.io.text import read_lines

__all__ = ["GivenArea", "read_areas", "require_areas_fit"]

_EXPECTED = "expected `tilt y_first y_last x_first x_last` in whole numbers, tilt from 0 or * for all"


@dataclass(frozen=True)
class GivenArea:
    """One area: its tilt (None for all), its box (y_first, y_last, x_first, x_last) in pixels, its line."""

    tilt: int | None
    box: tuple[int, int, int, int]
    place: str


def read_areas(path: Path) -> list[GivenArea]:
    """Read the areas of a file in the format of the module docstring.

    Raises
    ------
    InputError
        If the file cannot be read, holds no area, or a line is no area or has an empty range.
    """
    name, lines = read_lines(path)
    areas = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if words:
            areas.append(_parse_area(words, f"{name}: line {number}"))
    if not areas:
        raise InputError(f"{name} holds no areas; {_EXPECTED}")
    return areas


def _parse_area(words: Sequence[str], place: str) -> GivenArea:
    """One area from the words of its line."""
    try:
        tilt = None if words[0] == "*" else int(words[0])
        y0, y1, x0, x1 = (int(word) for word in words[1:])
    except ValueError:
        raise InputError(f"{place} does not fit; {_EXPECTED}") from None
    for axis, first, last in (("y", y0, y1), ("x", x0, x1)):
        if not 0 <= first < last:
            raise InputError(f"{place} has an empty or negative range {axis} {first} to {last}; {_EXPECTED}")
    return GivenArea(tilt, (y0, y1, x0, x1), place)


def require_areas_fit(
    areas: Sequence[GivenArea], shape: tuple[int, int, int], *, patch: int, stack: Path
) -> None:
    """Check that every area lies in a stack and holds a patch.

    Parameters
    ----------
    areas : sequence of GivenArea
    shape : tuple of int
        (tilt, Y, X) of the stack.
    patch : int
        Patch side in pixels.
    stack : Path
        Its file, for the message.

    Raises
    ------
    InputError
        If a tilt or a pixel lies outside the stack, or an area is smaller than a patch.
    """
    for area in areas:
        y0, y1, x0, x1 = area.box
        if area.tilt is not None and not 0 <= area.tilt < shape[0]:
            raise InputError(f"{area.place} asks for tilt {area.tilt}, but {stack} has 0 to {shape[0] - 1}")
        for axis, last, n in (("y", y1, shape[1]), ("x", x1, shape[2])):
            if last > n:
                raise InputError(
                    f"{area.place} reaches to {axis} {last}, but {stack} has {n} pixels along {axis}"
                )
        if min(y1 - y0, x1 - x0) < patch:
            raise InputError(
                f"{area.place} is {y1 - y0} x {x1 - x0} pixels, smaller than a patch of {patch}; "
                "give a larger area or a smaller --patch"
            )
