"""Cut noise patches from the empty areas of tilt series, and keep them in a file.

First step of the noise stage: tilt series (or tomogram) in, standardised patches out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cryomend.io import InputError, Volume, atomic_path, read_stack, read_tilt_angles
from cryomend.noise.areas import EmptyAreas, Float, cut_windows, find_empty_areas

__all__ = [
    "NoisePatches",
    "cut_noise_patches",
    "extract_noise",
    "read_patches",
    "write_patches",
]

# Fewer patches than this say nothing about a tilt series, not even its power spectrum.
_MIN_PATCHES = 8
_UNKNOWN_TILT = (
    "no --tilt-angles, so sections count as x-y slices of unknown tilt; approximate: one deviation for "
    "all tilts, and (if it is a tomogram) noise already filtered by the reconstruction"
)


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
    parts, areas = [], []
    for index, image in enumerate(tilt_series):
        try:
            areas.append(find_empty_areas(image, patch=patch, stride=stride))
        except ValueError as error:
            raise ValueError(f"tilt {index}: {error}") from error
        if len(areas[-1].corners):
            parts.append(_standardise_tilt(image, areas[-1].corners, patch, index, float(angles[index])))
    return _join(parts, patch, pixel_size, source), areas


def _standardise_tilt(
    image: Float, corners: NDArray[np.int64], patch: int, index: int, angle: float
) -> dict[str, NDArray[Any]]:
    """Patches of one tilt at mean 0 each and deviation 1 together, with their labels."""
    windows = cut_windows(np.asarray(image, dtype=np.float64), corners, patch)
    windows = windows - windows.mean(axis=(1, 2), keepdims=True)
    n, std = len(corners), windows.std()
    return {
        "patches": (windows / std).astype(np.float32),
        "tilt_index": np.full(n, index, dtype=np.int64),
        "source_index": np.zeros(n, dtype=np.int64),
        "tilt_angle": np.full(n, angle),
        "tilt_std": np.full(n, std),
        "corner_yx": corners,
    }


def _join(parts: list[dict[str, NDArray[Any]]], patch: int, pixel_size: float, source: str) -> NoisePatches:
    """Concatenate the tilts of one stack."""
    empty = {name: np.zeros((0,), dtype=np.int64) for name in _ARRAYS}
    empty |= {
        "patches": np.zeros((0, patch, patch), dtype=np.float32),
        "corner_yx": np.zeros((0, 2), dtype=np.int64),
    }
    arrays = {name: np.concatenate([part[name] for part in parts] or [empty[name]]) for name in _ARRAYS}
    return NoisePatches(**arrays, pixel_size=pixel_size, sources=(source,))


def extract_noise(
    paths: Sequence[Path], *, tilt_angles: Sequence[Path] = (), patch: int = 128, stride: int | None = None
) -> tuple[NoisePatches, list[str]]:
    """Cut noise patches from stacks or tomograms on disk; say what was found in each tilt.

    Parameters
    ----------
    paths : sequence of Path
        MRC tilt series, or tomograms, whose x-y slices are then used.
    tilt_angles : sequence of Path
        Angle files: none, one for all stacks, or one per stack.
    patch, stride : int
        See `cut_noise_patches`.

    Returns
    -------
    patches : NoisePatches
    report : list of str
        One line per tilt, and what is approximate.

    Raises
    ------
    InputError
        If a file cannot be used, pixel sizes differ, or fewer than 8 patches are found.
    """
    if len(tilt_angles) not in (0, 1, len(paths)):
        raise InputError(
            f"{len(tilt_angles)} angle files for {len(paths)} stacks: give one, or one per stack"
        )
    angle_files = (
        [None] * len(paths) if not tilt_angles else [*tilt_angles] * (len(paths) // len(tilt_angles))
    )
    found, report = [], []
    for path, angle_file in zip(paths, angle_files, strict=True):
        patches, lines = _extract_stack(Path(path), angle_file, patch, stride)
        found.append(patches)
        report += lines
    if (n := sum(len(p.patches) for p in found)) < _MIN_PATCHES:
        raise InputError(
            f"{', '.join(str(p) for p in paths)}: only {n} areas of {patch} x {patch} without structure, "
            f"need {_MIN_PATCHES}; try a smaller --patch or add stacks"
        )
    return _merge(found), report


def _extract_stack(
    path: Path, angle_file: Path | None, patch: int, stride: int | None
) -> tuple[NoisePatches, list[str]]:
    """Read one stack, cut its patches and describe them."""
    stack: Volume = read_stack(path)
    angles = None if angle_file is None else read_tilt_angles(angle_file)
    try:
        patches, areas = cut_noise_patches(
            stack.data,
            patch=patch,
            tilt_angles=angles,
            pixel_size=stack.voxel_size,
            source=Path(path).name,
            stride=stride,
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    lines = [] if angles is not None else [f"{path}: {_UNKNOWN_TILT}"]
    for index, area in enumerate(areas):
        name = f"tilt {index}" if angles is None else f"tilt {index} ({angles[index]:+.1f} deg)"
        lost = ", ".join(f"{count} {reason}" for reason, count in area.rejected.items() if count)
        lines.append(
            f"{name}: {len(area.corners)} of {area.candidates} windows"
            + (f"; left out: {lost}" if lost else "")
        )
    return patches, lines


def _merge(found: Sequence[NoisePatches]) -> NoisePatches:
    """Join the patches of several stacks, which must share one pixel size (1 % tolerance)."""
    sizes = [p.pixel_size for p in found]
    if max(sizes) - min(sizes) > 0.01 * max(sizes):
        listed = ", ".join(f"{p.sources[0]} {p.pixel_size:g}" for p in found)
        raise InputError(f"stacks of different pixel size cannot share one noise model: {listed} (Å)")
    arrays = {name: np.concatenate([getattr(p, name) for p in found]) for name in _ARRAYS}
    arrays["source_index"] = np.repeat(np.arange(len(found)), [len(p.patches) for p in found])
    return NoisePatches(**arrays, pixel_size=sizes[0], sources=tuple(s for p in found for s in p.sources))


def write_patches(path: Path, noise: NoisePatches) -> None:
    """Write patches as HDF5: one data set per field, patches chunked one by one, the rest as attributes."""
    side = noise.patches.shape[-1]
    with atomic_path(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["format"] = "cryomend noise patches 1"
        file.attrs["pixel_size"] = noise.pixel_size
        file.attrs["sources"] = list(noise.sources)
        for name in _ARRAYS:
            options: dict[str, Any] = (
                {"chunks": (1, side, side), "compression": "gzip"} if name == "patches" else {}
            )
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
