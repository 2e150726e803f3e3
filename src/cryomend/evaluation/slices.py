"""Volumes small enough to travel inside a page: binned, 8 bits a voxel, every section a picture of its own.

All sections of z are stored, so that a browser can cut the volume in the other two directions as well.
Volumes may lie in a file: they are looked at section by section.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from cryomend.io import release_pages

__all__ = ["Bins", "PackedVolumes", "bin_sections", "grey_range", "pack_volumes", "read_planes", "to_bytes"]

QUALITIES = (90, 80, 70, 60, 50, 40)  # of WebP; white noise at 40 is off by 8 of 255 levels
SAMPLES, SAMPLE_SIDE = 5, 256  # sections, and pixels of their middle, that sizes are foretold from
_RELEASED_EVERY = 8  # sections: some ten megabytes of a mapped file
Bins = tuple[int, int, int]


@dataclass(frozen=True)
class PackedVolumes:
    """Volumes as pictures, one a section from z = 0 upwards; row 0 of a picture is y = 0.

    Attributes
    ----------
    bins : tuple of int
        File voxels (Z, Y, X) that a voxel here is the mean of; what does not fill one is left out.
    shape : tuple of int
        Voxels (Z, Y, X) here.
    quality : int
        Of the encoder, 0 to 100.
    media_type : str
        Of the grey pictures, as ``image/webp``.
    grey : dict of str to list of str
        Under the name of each volume its pictures, in base64.
    doubtful : list of str or None
        PNGs in base64, white where the standard deviation is too large; None if it is not known.
    doubtful_share : float
        Share of all file voxels in which it is too large.
    """

    bins: Bins
    shape: tuple[int, int, int]
    quality: int
    media_type: str
    grey: dict[str, list[str]]
    doubtful: list[str] | None = None
    doubtful_share: float = 0.0


def read_planes(volume: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Yield the x-y sections as float32; the memory of a mapped file is let go of on the way."""
    for z, plane in enumerate(volume):
        yield np.asarray(plane, dtype=np.float32)
        if z % _RELEASED_EVERY == 0:
            release_pages(volume)
    release_pages(volume)


def bin_sections(volume: NDArray[Any], bins: Bins) -> Iterator[NDArray[np.float32]]:
    """Average blocks of voxels, one layer of blocks after the other.

    Parameters
    ----------
    volume : array, shape (Z, Y, X)
        Of any number format.
    bins : (int, int, int)
        Block (Z, Y, X), no larger than the volume.

    Yields
    ------
    array of float32, shape (Y // bin, X // bin)
        What does not fill a block is left out.
    """
    bz, by, bx = bins
    ny, nx = volume.shape[1] // by, volume.shape[2] // bx
    total: NDArray[np.float32] | None = None
    for z, plane in enumerate(read_planes(volume[: volume.shape[0] // bz * bz])):
        blocks = plane[: ny * by, : nx * bx].reshape(ny, by, nx, bx)
        # sums along columns first: whole rows at a time, several times as fast as both axes at once
        binned = blocks.sum(axis=1).sum(axis=2) if by * bx > 1 else blocks.reshape(ny, nx)
        total = binned.copy() if total is None else total + binned
        if (z + 1) % bz == 0:
            yield total * np.float32(1 / (bz * by * bx))
            total = None


def grey_range(values: NDArray[Any], *, percent: float = 0.5) -> tuple[float, float]:
    """Grey levels to show as black and white: percentiles, so that outliers do not rule.

    At most about two million values are looked at, evenly spread.
    """
    stride = max(1, round((values.size / 2e6) ** (1 / values.ndim)))
    sample = values[tuple(slice(None, None, stride) for _ in range(values.ndim))]
    low, high = (float(level) for level in np.percentile(sample, [percent, 100 - percent]))
    release_pages(values)
    margin = 0.05 * (high - low) or 0.5  # so that a flat background is not drawn as pure white
    return low - margin, high + margin


def to_bytes(values: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Grey levels from 0 at the lower limit to 255 at the upper."""
    low, high = limits
    scaled = (np.asarray(values, dtype=np.float32) - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def pack_volumes(
    volumes: Mapping[str, NDArray[Any]],
    *,
    budget: int,
    sigma: NDArray[Any] | None = None,
    largest_sigma: float = 1.0,
) -> PackedVolumes:
    """Bin and encode volumes so that all of it together keeps to a number of characters.

    The smallest bins are taken at which the coarsest quality fits, then the finest quality that does.
    Bins are equal along all axes, or one smaller along z.

    Parameters
    ----------
    volumes : mapping of str to array, shape (Z, Y, X)
        All of one shape. Black and white are those of `grey_range` after binning, which takes noise away.
    budget : int
        Characters, in base64.
    sigma : array, shape (Z, Y, X), optional
        Standard deviation of one of them over its contrast.
    largest_sigma : float
        Above it a voxel is doubtful.

    Returns
    -------
    PackedVolumes

    Raises
    ------
    ValueError
        If not even one voxel of each fits.
    """
    shape = next(iter(volumes.values())).shape
    for bins in _possible_bins((shape[0], shape[1], shape[2])):
        samples = {name: _sample(volume, bins) for name, volume in volumes.items()}
        least = _foretell(samples, bins, shape, QUALITIES[-1])
        if least > budget:  # whole volumes are looked at only where there is hope
            continue
        doubtful = None if sigma is None else _pack_mask(sigma, bins, largest_sigma)
        left = budget - sum(map(len, doubtful or ()))
        if least > left:
            continue
        binned = {name: _bin_to_bytes(volume, bins) for name, volume in volumes.items()}
        for quality in QUALITIES:
            if _foretell(samples, bins, shape, quality) > left:
                continue
            grey = {name: [_encode(s, quality) for s in sections] for name, sections in binned.items()}
            if sum(len(picture) for pictures in grey.values() for picture in pictures) <= left:
                cells = (shape[0] // bins[0], shape[1] // bins[1], shape[2] // bins[2])
                share = _share_over(sigma, largest_sigma)
                return PackedVolumes(bins, cells, quality, _media_type(), grey, doubtful, share)
    raise ValueError(f"{budget} characters are too few for any picture of {len(volumes)} volumes")


def _possible_bins(shape: tuple[int, int, int]) -> Iterator[Bins]:
    """Blocks from one voxel to the whole volume."""
    last: Bins | None = None
    for side in range(1, max(shape) + 1):
        for bins in ((max(1, side - 1), side, side), (side, side, side)):
            fitting = (min(bins[0], shape[0]), min(bins[1], shape[1]), min(bins[2], shape[2]))
            if fitting != last:
                yield fitting
            last = fitting


def _bin_to_bytes(volume: NDArray[Any], bins: Bins) -> NDArray[np.uint8]:
    """Bin a volume, and draw it from black to white."""
    binned = np.empty([n // b for n, b in zip(volume.shape, bins, strict=True)], dtype=np.float32)
    for z, section in enumerate(bin_sections(volume, bins)):
        binned[z] = section
    limits = grey_range(binned)
    return np.stack([to_bytes(section, limits) for section in binned])


def _sample(volume: NDArray[Any], bins: Bins) -> NDArray[np.uint8]:
    """Middles of some sections, evenly spread."""
    count = volume.shape[0] // bins[0]
    places = sorted({round((count - 1) * n / (SAMPLES - 1)) for n in range(SAMPLES)})
    sides = [min(n, SAMPLE_SIDE * b) for n, b in zip(volume.shape[1:], bins[1:], strict=True)]
    start = [(n - side) // 2 for n, side in zip(volume.shape[1:], sides, strict=True)]
    rows, columns = (slice(a, a + side) for a, side in zip(start, sides, strict=True))
    blocks = [volume[z * bins[0] : (z + 1) * bins[0], rows, columns] for z in places]
    middles = np.stack([next(bin_sections(block, bins)) for block in blocks])
    return to_bytes(middles, grey_range(middles))


def _foretell(
    samples: Mapping[str, NDArray[np.uint8]], bins: Bins, shape: Sequence[int], quality: int
) -> float:
    """Characters that all sections will take, judged by their samples."""
    cells = math.prod(n // b for n, b in zip(shape, bins, strict=True))
    each = (
        sum(len(_encode(section, quality)) for section in sections) / sections.size
        for sections in samples.values()
    )
    return cells * sum(each)


def _pack_mask(sigma: NDArray[Any], bins: Bins, largest: float) -> list[str]:
    """PNGs of where the mean standard deviation is too large."""
    sections = bin_sections(sigma, bins)
    return [_base64(Image.fromarray(section > largest), "PNG", optimize=True) for section in sections]


def _share_over(sigma: NDArray[Any] | None, largest: float) -> float:
    """Share of the file's voxels in which the standard deviation is too large."""
    if sigma is None:
        return 0.0
    return sum(int((plane > largest).sum()) for plane in read_planes(sigma)) / sigma.size


def _media_type() -> str:
    """WebP, in which noise takes half of what it takes in JPEG, unless Pillow was built without."""
    return "image/webp" if features.check("webp") else "image/jpeg"


def _encode(section: NDArray[np.uint8], quality: int) -> str:
    """Draw a section as a picture in base64."""
    return _base64(Image.fromarray(section), _media_type().partition("/")[2], quality=quality)


def _base64(picture: Image.Image, form: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
