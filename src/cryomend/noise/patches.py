"""Cut noise patches from the empty areas of tilt series, and keep them in a file.

First step of the noise stage: tilt series (or tomogram) in, standardised patches out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cryomend.io import InputError, atomic_path
from cryomend.noise.areas import EmptyAreas, Float, cut_windows, find_empty_areas, refuse_patch
from cryomend.noise.pictures import draw_windows
from cryomend.noise.search import OpenedStack, Progress, SearchedImage, open_search, search_stack

__all__ = [
    "NoisePatches",
    "cut_noise_patches",
    "extract_noise",
    "read_patches",
    "write_patches",
]

# Fewer patches than this say nothing about a tilt series, not even its power spectrum.
_MIN_PATCHES = 8
# The number of a stack and an image of it.
_Found = tuple[int, SearchedImage]
# A learned model takes no fewer than the first number and is better from the second on.
_LEARNED_PATCHES = (64, 2000)


@dataclass(frozen=True)
class NoisePatches:
    """Noise patches, standardised per tilt, and the moments taken away.

    Attributes
    ----------
    patches : array, shape (n, P, P), float32
        Mean 0 each, for what varies more slowly than a patch is ice and light, not noise; deviation 1
        over all patches of one tilt.
    tilt_index, source_index : array, shape (n,)
        Number of the tilt in its stack and of the stack in ``sources``.
    tilt_angle : array, shape (n,)
        Degrees; nan if unknown.
    tilt_std : array, shape (n,)
        Standard deviation of the tilt's empty areas, in the grey levels of the stack.
    corner_yx : array, shape (n, 2)
        First pixel of the patch in its tilt.
    pixel_size : float
        Å; 0 if unknown.
    sources : tuple of str
        Names of the stacks.
    """

    patches: NDArray[np.float32]
    tilt_index: NDArray[np.int64]
    source_index: NDArray[np.int64]
    tilt_angle: NDArray[np.float64]
    tilt_std: NDArray[np.float64]
    corner_yx: NDArray[np.int64]
    pixel_size: float
    sources: tuple[str, ...]


_ARRAYS = tuple(f.name for f in fields(NoisePatches) if f.name not in ("pixel_size", "sources"))


@dataclass(frozen=True)
class _Section:
    """One image to cut: how to read it, where, and its labels."""

    read: Callable[[], Float]
    corners: NDArray[np.int64]
    tilt: int
    angle: float
    source: int
    name: str


def cut_noise_patches(
    tilt_series: Float,
    *,
    patch: int,
    tilt_angles: Float | None = None,
    pixel_size: float = 0.0,
    source: str = "",
    stride: int | None = None,
) -> tuple[NoisePatches, list[EmptyAreas]]:
    """Cut standardised noise patches from the empty areas of every tilt.

    Parameters
    ----------
    tilt_series : array, shape (tilt, Y, X)
        Images, any grey levels.
    patch : int
        Patch side in pixels, even.
    tilt_angles : array, shape (tilt,), optional
        Degrees; stored as nan if None.
    pixel_size : float
        Å, 0 if unknown.
    source : str
        Name kept with the patches.
    stride : int, optional
        Distance of the windows searched; half a patch if None (patches then overlap).

    Returns
    -------
    patches : NoisePatches
    areas : list of EmptyAreas, one per tilt

    Raises
    ------
    ValueError
        If angles and tilts differ in number, or an image cannot be searched (see `find_empty_areas`).
    """
    angles = (
        np.full(len(tilt_series), np.nan) if tilt_angles is None else np.asarray(tilt_angles, dtype=float)
    )
    if len(angles) != len(tilt_series):
        raise ValueError(f"{len(angles)} tilt angles for {len(tilt_series)} tilts")
    sections, areas = [], []
    for index, image in enumerate(tilt_series):
        try:
            areas.append(find_empty_areas(image, patch=patch, stride=stride))
        except ValueError as error:
            raise ValueError(f"tilt {index}: {error}") from error
        read = partial(np.asarray, image)
        sections.append(
            _Section(read, areas[-1].corners, index, float(angles[index]), 0, f"{source}: tilt {index}")
        )
    return _cut(sections, patch, pixel_size, (source,)), areas


def _cut(
    sections: Sequence[_Section], patch: int, pixel_size: float, sources: tuple[str, ...]
) -> NoisePatches:
    """Patches of all sections at mean 0 each and, together in each section, deviation 1."""
    counts = [len(section.corners) for section in sections]
    patches = np.empty((sum(counts), patch, patch), dtype=np.float32)  # filled in place: it may be gigabytes
    std = np.zeros(len(sections))
    first = 0
    for number, section in enumerate(sections):
        if not counts[number]:
            continue
        windows = cut_windows(section.read(), section.corners, patch).astype(np.float64)
        windows -= windows.mean(axis=(1, 2), keepdims=True)
        std[number] = windows.std()
        if not std[number] > 0:
            raise InputError(f"{section.name}: the windows are constant; choose other areas")
        patches[first : first + counts[number]] = windows / std[number]
        first += counts[number]
    return NoisePatches(
        patches=patches,
        tilt_index=np.repeat(np.array([s.tilt for s in sections], dtype=np.int64), counts),
        source_index=np.repeat(np.array([s.source for s in sections], dtype=np.int64), counts),
        tilt_angle=np.repeat(np.array([s.angle for s in sections], dtype=np.float64), counts),
        tilt_std=np.repeat(std, counts),
        corner_yx=np.concatenate([np.zeros((0, 2), dtype=np.int64), *(s.corners for s in sections)]),
        pixel_size=pixel_size,
        sources=sources,
    )


def extract_noise(
    paths: Sequence[Path],
    *,
    tilt_angles: Sequence[Path] = (),
    patch: int = 128,
    areas: Sequence[Path] = (),
    pixel_size: float | None = None,
    max_patches: int = 20_000,
    output: Path | None = None,
    picture: Path | None = None,
    on_progress: Progress | None = None,
) -> tuple[NoisePatches, list[str]]:
    """Cut noise patches from stacks or tomograms on disk; say what was found in each tilt.

    One image is in memory at a time; the patches are, all of them.

    Parameters
    ----------
    paths : sequence of Path
        MRC tilt series, or tomograms, whose x-y slices are then used; a series has a list of its angles.
    tilt_angles, areas : sequence of Path
        Files of angles, and of areas to use instead of the search (see `given_areas`): none, one for all
        stacks, or one per stack.
    patch : int
        Patch side in pixels, even.
    pixel_size : float, optional
        Å; replaces the headers'.
    max_patches : int
        Most patches in all; the tilts then share them as evenly as they can, evenly spaced in each.
    output : Path, optional
        Where to write the patches.
    picture : Path, optional
        Where to draw the windows (PNG). Output and picture come into being together or not at all.
    on_progress : callable, optional
        Told the share done and a text.

    Returns
    -------
    patches : NoisePatches
        By stack, tilt and place, row by row.
    report : list of str
        What was found in each stack and tilt, what is approximate, and what the patches suffice for.

    Raises
    ------
    InputError
        If a file cannot be used, pixel sizes differ, or fewer than 8 patches are found.
    """
    try:
        refuse_patch(patch)
    except ValueError as error:
        raise InputError(f"--{error}; choose another") from None
    if picture is not None and picture == output:
        raise InputError(f"{picture} cannot be both the patches and the picture; give --picture another name")
    stacks = [
        open_search(
            Path(path), patch=patch, angle_file=angle_file, area_file=area_file, pixel_size=pixel_size
        )
        for path, angle_file, area_file in zip(
            paths,
            _one_each(tilt_angles, len(paths), "angle"),
            _one_each(areas, len(paths), "area"),
            strict=True,
        )
    ]
    size = _common_pixel_size(stacks)
    images, headings = _search_all(stacks, patch, on_progress)
    _require_enough(stacks, images, patch)
    kept = _share_out(images, max_patches)
    sections = [
        _Section(
            partial(stacks[s].read, image.index), corners, image.index, image.angle, s,
            f"{stacks[s].path}: {image.name}",
        )
        for (s, image), corners in zip(images, kept, strict=True)
    ]  # fmt: skip
    noise = _cut(sections, patch, size, tuple(stack.path.name for stack in stacks))
    with nullcontext() if picture is None else atomic_path(picture) as drawn:
        if drawn is not None:
            draw_windows(drawn, [(stacks[s], image) for s, image in images], patch=patch)
        if output is not None:
            write_patches(output, noise)
    return noise, _describe(images, kept, headings) + _summarise(images, kept, patch)


def _search_all(
    stacks: Sequence[OpenedStack], patch: int, on_progress: Progress | None
) -> tuple[list[_Found], list[list[str]]]:
    """Search stack after stack: every image with the number of its stack, and the heading of each stack."""
    images, headings = [], []
    for number, stack in enumerate(stacks):

        def show(share: float, text: str, done: int = number) -> None:
            if on_progress is not None:
                on_progress((done + share) / len(stacks), text)

        found, heading = search_stack(stack, patch=patch, on_progress=show)
        images += [(number, image) for image in found]
        headings.append(heading)
    return images, headings


def _one_each(files: Sequence[Path], stacks: int, what: str) -> list[Path | None]:
    """Give every stack its file: none, the same, or each its own."""
    if len(files) not in (0, 1, stacks):
        raise InputError(f"{len(files)} {what} files for {stacks} stacks: give one, or one per stack")
    return [None] * stacks if not files else [*files] * (stacks // len(files))


def _common_pixel_size(stacks: Sequence[OpenedStack]) -> float:
    """Pixel size in Å that all stacks share (1 % tolerance)."""
    sizes = [stack.volume.voxel_size for stack in stacks]
    if max(sizes) - min(sizes) > 0.01 * max(sizes):
        listed = ", ".join(f"{stack.path.name} {size:g}" for stack, size in zip(stacks, sizes, strict=True))
        raise InputError(
            f"stacks of different pixel size cannot share one noise model: {listed} (Å); "
            "extract them apart, or give --pixel-size if a header is wrong"
        )
    return sizes[0]


def _require_enough(stacks: Sequence[OpenedStack], images: Sequence[_Found], patch: int) -> None:
    """Refuse too few windows, with the next step."""
    n = sum(len(image.areas.corners) for _, image in images)
    if n >= _MIN_PATCHES:
        return
    names = ", ".join(str(stack.path) for stack in stacks)
    given = any(stack.given is not None for stack in stacks)
    where = "in the areas given" if given else "without structure"
    step = "give larger areas or a smaller --patch" if given else "try a smaller --patch or add stacks"
    raise InputError(f"{names}: only {n} areas of {patch} x {patch} {where}, need {_MIN_PATCHES}; {step}")


def _share_out(images: Sequence[_Found], most: int) -> list[NDArray[np.int64]]:
    """Corners to use of every image, at most so many in all, from every image alike as far as it has them."""
    corners = [image.areas.corners for _, image in images]
    remaining = most
    for place, number in enumerate(sorted(range(len(corners)), key=lambda i: len(corners[i]))):
        # The poorest first: what it lacks is shared by those that follow.
        count = min(len(corners[number]), remaining // (len(corners) - place))
        remaining -= count
        evenly = (np.arange(count) + 0.5) * len(corners[number]) / max(count, 1)
        corners[number] = corners[number][evenly.astype(int)]
    return corners


def _describe(
    images: Sequence[_Found], kept: Sequence[NDArray[np.int64]], headings: Sequence[list[str]]
) -> list[str]:
    """Lines for the terminal: every stack, and what was found in every image of it."""
    lines: list[str] = []
    for number, heading in enumerate(headings):
        lines += heading
        lines += [
            image.describe(len(corners))
            for (stack, image), corners in zip(images, kept, strict=True)
            if stack == number
        ]
    return lines


def _summarise(images: Sequence[_Found], kept: Sequence[NDArray[np.int64]], patch: int) -> list[str]:
    """What there is in all, why not more, and what it suffices for."""
    found = sum(len(image.areas.corners) for _, image in images)
    used = sum(len(corners) for corners in kept)
    without = [image.name for (_, image), corners in zip(images, kept, strict=True) if not len(corners)]
    share = f"{len(images) - len(without)} of {len(images)} images"
    line = f"in all {used} patches of {patch} x {patch} from {share}"
    if used < found:
        line += f", evenly chosen from {found}: stopped by --max-patches"
    else:
        line += "; every window of the grid was judged, and neighbours overlap by half"
    if without:
        line += f"; none in {', '.join(without[:8])}" + (", ..." if len(without) > 8 else "")
    least, good = _LEARNED_PATCHES
    if used < least:
        enough = f"enough for --model spectral or gaussian; a learned model needs {least}, better {good}"
    elif used < good:
        enough = f"enough for --model spectral or gaussian; a learned model will train, but {good} are better"
    else:
        enough = "enough for every model"
    return [line, enough]


def write_patches(path: Path, noise: NoisePatches) -> None:
    """Write patches as HDF5: one data set per field, patches chunked one by one, the rest as attributes."""
    side = noise.patches.shape[-1]
    with atomic_path(path) as unfinished, h5py.File(unfinished, "w") as file:
        file.attrs["format"] = "cryomend noise patches 1"
        file.attrs["pixel_size"] = noise.pixel_size
        file.attrs["sources"] = list(noise.sources)
        for name in _ARRAYS:
            options: dict[str, Any] = {"chunks": (1, side, side)} if name == "patches" else {}
            file.create_dataset(name, data=getattr(noise, name), **options)


def read_patches(path: Path) -> NoisePatches:
    """Read patches written by `write_patches`.

    Raises
    ------
    InputError
        If the file is missing, is no HDF5 or lacks a data set.
    """
    try:
        with h5py.File(path, "r") as file:
            arrays = {name: file[name][()] for name in _ARRAYS}
            sources = tuple(str(s) for s in file.attrs["sources"])
            pixel_size = float(file.attrs["pixel_size"])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it with `cryomend noise extract`") from None
    except (OSError, KeyError) as error:
        raise InputError(
            f"{path}: not a file of noise patches; make it with `cryomend noise extract`"
        ) from error
    if arrays["patches"].ndim != 3 or not np.isfinite(arrays["patches"]).all():
        raise InputError(f"{path}: patches must be finite and of shape (n, P, P); extract them again")
    return NoisePatches(**arrays, pixel_size=pixel_size, sources=sources)
