"""Look through stacks and tomograms on disk, one image in memory at a time, and say what was found.

Between ``areas``, which judges one image, and ``patches``, which cuts what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomend.io import (
    InputError,
    Volume,
    find_tilt_angles,
    open_stack,
    read_tilt_angles,
    release_pages,
)
from cryomend.noise.areas import EmptyAreas, cut_windows, find_empty_areas, place_windows
from cryomend.noise.given_areas import GivenArea, read_areas, require_areas_fit

__all__ = ["OpenedStack", "SearchedImage", "open_search", "search_stack"]

Progress = Callable[[float, str], None]

# Slices of a tomogram that share less than this of their noise count as independent.
_INDEPENDENT = 0.2
_PROBES = 4


@dataclass(frozen=True)
class SearchedImage:
    """One tilt or slice: its number in the stack, its angle in degrees (nan if unknown), what was found."""

    index: int
    angle: float
    areas: EmptyAreas

    @property
    def name(self) -> str:
        """How reports call it."""
        known = np.isfinite(self.angle)
        return f"tilt {self.index} ({self.angle:+.1f} deg)" if known else f"slice {self.index}"

    def describe(self, used: int) -> str:
        """What was found in it, how many of the windows are used, and why there are not more."""
        if not self.areas.candidates:
            return f"{self.name}: no area given"
        found = len(self.areas.corners)
        line = f"{self.name}: {found} of {self.areas.candidates} windows"
        if used < found:
            line += f", {used} of them used"
        lost = ", ".join(f"{count} {reason}" for reason, count in self.areas.rejected.items() if count)
        if lost:
            line += f"; left out: {lost}"
        if self.areas.suspect:
            line += f"; warning: {self.areas.suspect} in the areas given hold gold, hot or filled pixels"
        if 0 < found < 0.1 * self.areas.candidates:
            line += "; few, so look at the picture"
        return line


@dataclass(frozen=True)
class OpenedStack:
    """A stack that stays on disk; its angles in degrees, None of a tomogram; the user's areas, if any."""

    path: Path
    volume: Volume
    angles: NDArray[np.float64] | None
    given: list[GivenArea] | None

    def read(self, index: int) -> NDArray[np.float32]:
        """One image as native float32; the pages it was read from are given back."""
        image = np.array(self.volume.data[index], dtype=np.float32, order="C")
        release_pages(self.volume.data)
        return image


def open_search(
    path: Path,
    *,
    patch: int,
    angle_file: Path | None = None,
    area_file: Path | None = None,
    pixel_size: float | None = None,
) -> OpenedStack:
    """Open a stack and what belongs to it, and check all that needs no look at the images.

    Parameters
    ----------
    path : Path
        MRC stack or tomogram.
    patch : int
        Window side in pixels, even.
    angle_file : Path, optional
        Tilt angles; if None those of the list beside the file, if it has one for each section. Without them
        the file counts as a tomogram.
    area_file : Path, optional
        Areas to use instead of searching, see `given_areas`.
    pixel_size : float, optional
        Å; replaces the header's.

    Returns
    -------
    OpenedStack

    Raises
    ------
    InputError
        If a file cannot be used, the images are smaller than a patch, angles and tilts differ in number,
        or an area does not fit the stack.
    """
    volume = open_stack(path, pixel_size=pixel_size)
    n, height, width = volume.data.shape
    if min(height, width) < patch:
        raise InputError(
            f"{path}: patch of {patch} is larger than the image of {height} x {width}; try a smaller --patch"
        )
    angles = _angles_beside(path, n) if angle_file is None else read_tilt_angles(angle_file)
    if angles is not None and len(angles) != n:
        raise InputError(f"{path}: {len(angles)} tilt angles for {n} tilts; is {angle_file} the right file?")
    given = None if area_file is None else read_areas(area_file)
    require_areas_fit(given or [], (n, height, width), patch=patch, stack=path)
    return OpenedStack(path, volume, angles, given)


def _angles_beside(path: Path, sections: int) -> NDArray[np.float64] | None:
    """Angles of the list beside a file; None if it has not one for each section, as beside a tomogram."""
    beside = find_tilt_angles(path)
    angles = None if beside is None else read_tilt_angles(beside)
    return angles if angles is not None and len(angles) == sections else None


def search_stack(
    stack: OpenedStack, *, patch: int, on_progress: Progress | None = None
) -> tuple[list[SearchedImage], list[str]]:
    """Find the empty windows of all tilts of a stack, or of slices of a tomogram.

    Neighbouring slices of a tomogram share their noise, so that only slices so far apart are used that
    their noise correlates by less than 0.2, as measured in their own empty windows. Slices that the
    user's areas name are used in any case.

    Parameters
    ----------
    stack : OpenedStack
        From `open_search`.
    patch : int
        Window side in pixels, even.
    on_progress : callable, optional
        Told the share done and a text.

    Returns
    -------
    images : list of SearchedImage
    heading : list of str
        What the stack is, and what is approximate.

    Raises
    ------
    InputError
        If an image is constant or not finite.
    """
    n, height, width = stack.volume.data.shape
    known = stack.volume.voxel_size
    size = f"pixel {known:g} Å" if known else "pixel size unknown (0 in the header; give --pixel-size)"
    heading = [f"{stack.path}: {n} images of {height} x {width}, {size}"]
    used = list(range(n))
    if stack.angles is None:
        used, note = _choose_slices(stack, patch)
        heading.append(note)
    images = []
    for count, index in enumerate(used):
        if on_progress is not None:
            on_progress(count / len(used), f"searching {stack.path.name}, image {index}")
        angle = float("nan") if stack.angles is None else float(stack.angles[index])
        images.append(SearchedImage(index, angle, _search_image(stack, index, patch, stack.given)))
    return images, heading


def _search_image(
    stack: OpenedStack, index: int, patch: int, given: Sequence[GivenArea] | None
) -> EmptyAreas:
    """Windows of one image, found or given; errors name the file and the image."""
    try:
        if given is None:
            return find_empty_areas(stack.read(index), patch=patch)
        boxes = [area.box for area in given if area.tilt in (None, index)]
        if not boxes:
            return EmptyAreas(np.zeros((0, 2), dtype=np.int64), 0, {})
        return place_windows(stack.read(index), boxes, patch=patch)
    except ValueError as error:
        raise InputError(f"{stack.path}: slice or tilt {index}: {error}") from error


def _choose_slices(stack: OpenedStack, patch: int) -> tuple[list[int], str]:
    """Slices of a tomogram whose noise is nearly independent, and what is approximate about them."""
    n = len(stack.volume.data)
    shares = _slice_correlations(stack, patch)
    step = len(shares) if shares else 1
    named = {area.tilt for area in stack.given or [] if area.tilt is not None}
    used = sorted(named | set(range((n - 1) % step // 2, n, step)))
    note = (
        "no --tilt-angles, so the images count as slices of a tomogram; approximate: their noise is filtered "
        "by the reconstruction and has one deviation for all tilts"
    )
    if shares:
        listed = ", ".join(f"{share:.2f}" for share in shares)
        which = "all used" if len(used) == n else f"used {used[0]}, {used[1]}, ... {used[-1]}"
        apart = "distance 1" if step == 1 else f"distances 1 to {step}"
        note += f"; noise of slices correlates by {listed} at {apart}, so {len(used)} of {n} count: {which}"
    return used, note


def _slice_correlations(stack: OpenedStack, patch: int) -> list[float]:
    """Correlation of the noise at 1, 2, ... slices of distance, until it is small or a quarter is reached."""
    n = len(stack.volume.data)
    longest = n // 4
    if not longest:
        return []
    probes = []
    for index in np.unique(np.linspace(0, n - 1 - longest, _PROBES).round().astype(int)):
        corners = _search_image(stack, int(index), patch, None).corners
        if len(corners):
            probes.append((int(index), corners[:: 1 + len(corners) // 64]))
    shares: list[float] = []
    while probes and len(shares) < longest and (not shares or abs(shares[-1]) >= _INDEPENDENT):
        lag = len(shares) + 1
        moments = np.sum(
            [_products(stack.read(i), stack.read(i + lag), corners, patch) for i, corners in probes],
            axis=0,
        )
        shares.append(float(moments[0] / np.sqrt(moments[1] * moments[2] + 1e-30)))
    return shares


def _products(
    first: NDArray[np.float32], second: NDArray[np.float32], corners: NDArray[np.int64], patch: int
) -> NDArray[np.float64]:
    """Sums of a b, a² and b² over windows without their means, relative to the energy of the first."""
    a, b = (cut_windows(image, corners, patch).astype(np.float64) for image in (first, second))
    a -= a.mean(axis=(1, 2), keepdims=True)
    b -= b.mean(axis=(1, 2), keepdims=True)
    return np.nan_to_num(np.array([(a * b).sum(), (a**2).sum(), (b**2).sum()]) / ((a**2).sum() or 1.0))
