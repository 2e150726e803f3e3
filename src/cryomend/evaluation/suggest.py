"""Propose foreground and background areas of a tomogram, and draw them.

A proposal to look at, not a choice to trust: what is full of structure and what is quiet is told by the
energy of the middle frequencies alone. Areas should be chosen on the tomogram as it was before restoration.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from cryomend.evaluation.areas import Area, Areas, write_areas
from cryomend.evaluation.checks import require_matching
from cryomend.evaluation.pictures import grey_range, plain_text
from cryomend.io import InputError, atomic_path, check_writable, read_volume, refuse_overwriting

__all__ = ["draw_areas", "suggest_areas", "suggest_areas_files"]

Float = NDArray[np.float32]
SIZES = ((4, 10, 8), (8, 50, 10), (8, 50, 10))  # least and greatest voxels of a box, and how many would fit
FINE, COARSE = 1.5, 8.0  # voxels, widths of the two Gaussians between which structure is looked for
GOLD_SHARE = 1e-3  # of the voxels around a box that may be gold
FLAT_SHARE = 0.02  # of the voxels of a box that may be without noise
KINDS = {"foreground": ("red", "-", "s"), "background": ("blue", "--", "b")}  # colour, line, first letter


def suggest_areas(
    volume: NDArray[Any],
    *,
    count: int = 3,
    size: tuple[int, int, int] | None = None,
    name: str = "suggested",
) -> tuple[Areas, float]:
    """Propose areas full of structure and quiet ones, all between the same planes.

    Structure is energy of middle frequencies, gold and the like cut off. Boxes keep off the faces, off
    gold and off what was filled in, and do not overlap.

    Parameters
    ----------
    volume : array, shape (Z, Y, X)
        Tomogram, of any sign and grey levels.
    count : int
        Foreground areas, and as many background ones.
    size : (int, int, int), optional
        Voxels of a box along z, y and x; up to 10 x 50 x 50, less in small volumes.
    name : str
        Of the areas.

    Returns
    -------
    areas : Areas
        ``s1``, ``s2`` ... by falling energy and ``b1``, ``b2`` ... by rising energy.
    ratio : float
        Mean energy of the foreground over that of the background. Small boxes of mere noise differ too, by
        a factor of up to ten: a picture tells more.

    Raises
    ------
    ValueError
        If a box does not fit, or not so many find a place.
    """
    shape = volume.shape
    box = size or tuple(
        min(max(n // share, low), high) for n, (low, high, share) in zip(shape, SIZES, strict=True)
    )
    if count < 1 or any(not 1 <= b <= n for b, n in zip(box, shape, strict=True)):
        raise ValueError(f"{count} and {count} boxes of {_times(box)} voxels do not fit into {_times(shape)}")
    factor = max(1, min(box) // 5)  # as fine as the boxes need: an eighth of the work for the largest
    small = tuple(-(-b // factor) for b in box)
    energy, allowed = _box_energies(_bin(volume, factor), small, factor)
    z = _best_plane(energy, allowed)
    plane, free = energy[z], allowed[z].copy()
    groups, means = [], []
    for (kind, (_, _, letter)), order in zip(KINDS.items(), (-1, 1), strict=True):
        corners = _pick(order * plane, free, count, small[1:])
        if len(corners) < count:
            raise ValueError(
                f"only {len(corners)} {kind} boxes of {_times(box)} voxels find a place in {_times(shape)}; "
                "make them smaller (--size) or ask for fewer (-n)"
            )
        means.append(np.mean([plane[corner] for corner in corners]))
        firsts = [(z * factor, y * factor, x * factor) for y, x in corners]
        groups.append(tuple(_area(f"{letter}{i}", first, box) for i, first in enumerate(firsts, start=1)))
    return Areas(name, groups[0], groups[1]), float(means[0] / means[1]) if means[1] > 0 else float("inf")


def _area(name: str, first: tuple[int, int, int], box: tuple[int, ...]) -> Area:
    """The box of some voxels that begins at a voxel."""
    z, y, x = ((f, f + b) for f, b in zip(first, box, strict=True))
    return Area(name, (z, y, x))


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _bin(volume: NDArray[Any], factor: int) -> Float:
    """Mean of cubes of voxels; what does not fill a cube is cut."""
    nz, ny, nx = (n // factor for n in volume.shape)
    planes = volume[: nz * factor, : ny * factor, : nx * factor]
    if factor == 1:
        return np.array(planes, dtype=np.float32)
    cubes = planes.reshape(nz, factor, ny, factor, nx, factor)
    return np.asarray(cubes.mean(axis=(1, 3, 5), dtype=np.float32))


def _box_energies(volume: Float, box: tuple[int, ...], factor: int) -> tuple[Float, NDArray[np.bool_]]:
    """Energy of middle frequencies in the box that begins at each voxel, and whether it may be taken."""
    thinned = volume[tuple(slice(None, None, max(1, n // 128)) for n in volume.shape)]
    low, middle, high = np.percentile(thinned, (1, 50, 99))
    volume, low, high = volume - np.float32(middle), low - middle, high - middle  # float32 keeps its digits
    spread = high - low
    clipped = np.clip(volume, low - spread, high + spread)  # seven deviations of noise; gold lies beyond
    gold = (clipped != volume).astype(np.float32)
    blurred = [ndimage.gaussian_filter(clipped, sigma / factor, mode="nearest") for sigma in (FINE, COARSE)]
    energy = ndimage.uniform_filter((blurred[0] - blurred[1]) ** 2, box)
    near_gold = ndimage.uniform_filter(gold, [b + b // 2 for b in box]) > GOLD_SHARE
    variance = ndimage.uniform_filter(clipped**2, 3) - ndimage.uniform_filter(clipped, 3) ** 2
    flat = (variance < 1e-3 * np.median(variance)).astype(np.float32)  # no noise: it was filled in
    filled = ndimage.uniform_filter(flat, box) > FLAT_SHARE
    # the filters speak of boxes around a voxel, whose first voxel is half a box away
    shift = [-(b // 2) for b in box]
    energy, taken = (np.roll(x, shift, (0, 1, 2)) for x in (energy, near_gold | filled))
    return energy, ~taken & _inside(volume.shape, box)


def _inside(shape: tuple[int, ...], box: tuple[int, ...]) -> NDArray[np.bool_]:
    """First voxels of the boxes that keep a sixteenth of the axis off both faces, or as much as there is."""
    inside = np.zeros(shape, dtype=bool)
    margins = [min(n // 16, (n - b) // 2) for n, b in zip(shape, box, strict=True)]
    inside[tuple(slice(m, n - b - m + 1) for m, n, b in zip(margins, shape, box, strict=True))] = True
    return inside


def _best_plane(energy: Float, allowed: NDArray[np.bool_]) -> int:
    """First plane of the boxes, where the energies of the allowed ones differ most."""
    found = [
        np.ptp(np.percentile(energy[z][allowed[z]], (5, 95))) if allowed[z].any() else -1.0
        for z in range(len(energy))
    ]
    return int(np.argmax(found))


def _pick(cost: Float, free: NDArray[np.bool_], count: int, box: tuple[int, ...]) -> list[tuple[int, int]]:
    """First pixels of the boxes of least cost that overlap nothing; what they take is no longer free."""
    corners: list[tuple[int, int]] = []
    while len(corners) < count and free.any():
        y, x = (int(i) for i in np.unravel_index(np.argmin(np.where(free, cost, np.inf)), cost.shape))
        corners.append((y, x))
        free[max(0, y - box[0] + 1) : y + box[0], max(0, x - box[1] + 1) : x + box[1]] = False
    return corners


def draw_areas(path: str | Path, volumes: Mapping[str, NDArray[Any]], areas: Areas) -> None:
    """Draw areas on the x-y slice through the first: foreground red, background blue and dashed.

    Parameters
    ----------
    path : path-like
        PNG; it appears when complete.
    volumes : mapping of str to array, shape (Z, Y, X)
        One picture each, with its title.
    areas : Areas
        Those that the slice does not cross are drawn thin, and their planes in the label.

    Raises
    ------
    InputError
        If the picture cannot be written.
    """
    z = sum(areas.foreground[0].ranges[0]) // 2
    _, ny, nx = next(iter(volumes.values())).shape
    figure = Figure(figsize=(6 * len(volumes), 6 * ny / nx + 0.8), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(volumes), squeeze=False)[0]
    for ax, (title, volume) in zip(panels, volumes.items(), strict=True):
        low, high = grey_range(np.asarray(volume[z]))
        ax.imshow(volume[z], cmap="gray", vmin=low, vmax=high, origin="lower")
        ax.set_title(plain_text(title), parse_math=False)  # a $ of a file's name is no formula
        ax.set(xlabel="x (voxels)", ylabel="y (voxels)")
        for kind, group in zip(KINDS, (areas.foreground, areas.background), strict=True):
            for area in group:
                _draw_box(ax, area, kind, z)
    said = f"{plain_text(areas.name)}\nz = {z}: foreground red, background blue and dashed"
    figure.suptitle(said, parse_math=False)
    with atomic_path(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as boxes
        figure.savefig(partial, format="png")


def _draw_box(ax: Any, area: Area, kind: str, z: int) -> None:
    """Outline one area on a slice and write its name on it."""
    from matplotlib.patches import Rectangle

    colour, line, _ = KINDS[kind]
    (first, last), (y, y_end), (x, x_end) = area.ranges
    crossed = first <= z < last
    thick = 1.6 if crossed else 0.8
    outline: dict[str, Any] = {"fill": False, "linestyle": line}
    place, width, height = (x - 0.5, y - 0.5), x_end - x, y_end - y
    ax.add_patch(Rectangle(place, width, height, edgecolor="white", linewidth=thick + 1.4, **outline))
    ax.add_patch(Rectangle(place, width, height, edgecolor=colour, linewidth=thick, **outline))
    label = plain_text(area.name)
    if not crossed:  # the last plane that is in it, as a reader takes it
        label += f", z {first}" if last - first == 1 else f", z {first}-{last - 1}"
    ax.text(x, y_end, label, color="white", fontsize=9, va="bottom", clip_on=True, parse_math=False,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1})  # fmt: skip


def suggest_areas_files(
    tomogram: str | Path,
    output: str | Path,
    *,
    restored: str | Path | None = None,
    count: int = 3,
    size: tuple[int, int, int] | None = None,
    picture: str | Path | None = None,
    voxel_size: float | None = None,
) -> list[str]:
    """Propose areas of a tomogram, write them, and draw them if asked.

    Parameters
    ----------
    tomogram : path
        MRC file; the areas are chosen on it alone.
    output : path
        Areas (TOML).
    restored : path, optional
        The tomogram restored, to be drawn beside it.
    count, size
        As in `suggest_areas`.
    picture : path, optional
        PNG.
    voxel_size : float, optional
        Å; replaces what the headers say.

    Returns
    -------
    list of str
        What was found and written, for the user.

    Raises
    ------
    InputError
        If a file cannot be used or written, the two tomograms do not match, ``restored`` is given without
        ``picture``, or the areas find no place.
    """
    if restored is not None and picture is None:
        raise InputError(f"--restored {restored} is only drawn, not chosen on; give --picture FILE.png too")
    refuse_overwriting((output, picture), (tomogram, restored))
    for path in (output, picture):
        if path is not None:
            check_writable(path)
    volume = read_volume(tomogram, voxel_size=voxel_size)
    drawn = {Path(tomogram).name: volume.data}
    if restored is not None:
        other = read_volume(restored, voxel_size=voxel_size)
        require_matching(volume, other)
        drawn[f"{Path(restored).name} (restored)"] = other.data
    name = plain_text(Path(tomogram).stem)
    try:
        areas, ratio = suggest_areas(volume.data, count=count, size=size, name=name)
    except ValueError as error:
        raise InputError(f"{tomogram}: {error}") from None
    if picture is not None:
        draw_areas(picture, drawn, areas)
    comment = f"Proposed for {plain_text(Path(tomogram).name)}; voxels, half-open ranges."
    write_areas(output, areas, comment=comment)
    notes = [
        f"foreground areas hold {ratio:.1f} times the energy of background areas at middle frequencies",
        f"wrote {output}: a proposal; look at it before you use it",
    ]
    if picture is not None:
        notes.append(f"wrote {picture}")
    return notes
