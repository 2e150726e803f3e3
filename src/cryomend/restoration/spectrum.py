"""Fourier transforms of volumes that need not fit into memory.

A volume goes section by section through the transform along Y and X into a scratch array, which may lie on
disk. The transform along Z is taken of some rows at a time, when they are looked at. So no more than a block
of either is in memory, and the numbers are those of ``torch.fft.rfftn``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.io import release_pages, scratch_array

__all__ = [
    "Spectrum",
    "blocks",
    "fill_inverse",
    "read_part",
    "read_rows",
    "scratch_bytes",
    "transform_volume",
    "write_rows",
]

BLOCK_BYTES = 2**24  # of a spectrum at a time; a few such blocks are in memory at once


@dataclass(frozen=True)
class Spectrum:
    """Fourier transform of a real volume without its mean, of which blocks of rows can be read and replaced.

    Attributes
    ----------
    planes : array of complex64, shape (Z, Y, X // 2 + 1)
        Transform along Y and X of every section, memory-mapped or not.
    shape : (int, int, int)
        (Z, Y, X) of the volume.
    mean : float
        What was subtracted: then the transform keeps its relative precision at low frequencies.
    """

    planes: NDArray[np.complex64]
    shape: tuple[int, int, int]
    mean: float

    def rows(self) -> Iterator[slice]:
        """Walk through Fourier space along ky, block by block."""
        return blocks(self.shape[1], self.planes[:, 0].nbytes)

    def read(self, rows: slice) -> Tensor:
        """Give some rows of ``rfftn``: complex64, shape (Z, rows, X // 2 + 1)."""
        return torch.fft.fft(read_rows(self.planes, rows), dim=0)

    def write(self, rows: slice, values: Tensor) -> None:
        """Replace some rows of ``rfftn``."""
        write_rows(self.planes, rows, torch.fft.ifft(values, dim=0))

    def frequency(self, rows: slice) -> Tensor:
        """``|k|`` on some rows in cycles per voxel, float32, with the rounding of `radial_frequency`."""
        kz, ky = (torch.fft.fftfreq(n) for n in self.shape[:2])
        kx = torch.fft.rfftfreq(self.shape[2])
        return (kz[:, None, None] ** 2 + ky[rows, None] ** 2 + kx**2).sqrt()


@contextmanager
def transform_volume(volume: NDArray[Any], *, directory: Path | None = None) -> Iterator[Spectrum]:
    """Yield the Fourier transform of a volume for as long as the block lasts.

    Parameters
    ----------
    volume : array, shape (Z, Y, X)
        Any real number format and byte order, memory-mapped or not; read once, section after section.
    directory : path, optional
        Where the transform (`scratch_bytes`) lies on disk; in memory if None.

    Yields
    ------
    Spectrum

    Raises
    ------
    InputError
        If there is no room for it on the disk.
    """
    n_z, n_y, n_x = volume.shape
    with scratch_array(directory, (n_z, n_y, n_x // 2 + 1), np.complex64) as planes:
        means = torch.empty(n_z, dtype=torch.float64)
        for slab in blocks(n_z, planes[0].nbytes):
            part = read_part(volume, slab)
            means[slab] = part.mean((1, 2), dtype=torch.float64)
            planes[slab] = torch.fft.rfft2(part - means[slab, None, None].float()).numpy()
            release_pages(volume)
            release_pages(planes)
        mean = float(means.mean())
        first = read_rows(planes, slice(0, 1))
        first[:, 0, 0] = (means - mean) * (n_y * n_x)  # what the sections' means are off by
        write_rows(planes, slice(0, 1), first)
        yield Spectrum(planes, (n_z, n_y, n_x), mean)


def fill_inverse(volume: NDArray[Any], terms: Sequence[tuple[Spectrum, float]], *, mean: float) -> None:
    """Fill a volume with a weighted sum of spectra, transformed back.

    Parameters
    ----------
    volume : array of float32, shape (Z, Y, X)
        Memory-mapped or not, of either byte order; written once, section after section.
    terms : sequence of (Spectrum, float)
        Spectra of volumes of this shape, and their factors.
    mean : float
        Added; the spectra have none.
    """
    planes = terms[0][0].planes
    for slab in blocks(len(planes), planes[0].nbytes):
        total = sum(torch.from_numpy(spectrum.planes[slab]) * factor for spectrum, factor in terms)
        volume[slab] = torch.fft.irfft2(total, s=volume.shape[1:]).add_(mean).numpy()
        release_pages(volume)
        for spectrum, _ in terms:
            release_pages(spectrum.planes)


def scratch_bytes(shape: tuple[int, int, int]) -> int:
    """Bytes of the transform of a volume: about those of the volume in float32."""
    return 8 * shape[0] * shape[1] * (shape[2] // 2 + 1)


def read_part(volume: NDArray[Any], window: slice | tuple[slice, ...]) -> Tensor:
    """Read a part of a volume of any number format as native float32, whatever lies on disk."""
    return torch.from_numpy(np.array(volume[window], dtype=np.float32, order="C"))


def read_rows(volume: NDArray[Any], rows: slice) -> Tensor:
    """Read some rows of every section of a mapped volume."""
    part = np.empty_like(volume[:, rows], order="C")
    for slab in blocks(len(volume), volume[0].nbytes):  # the system may map more pages than are touched
        part[slab] = volume[slab, rows]
        release_pages(volume)
    return torch.from_numpy(part)


def write_rows(volume: NDArray[Any], rows: slice, values: Tensor) -> None:
    """Write some rows of every section of a mapped volume."""
    part = values.numpy()
    for slab in blocks(len(part), part[0].nbytes * volume.shape[1] // part.shape[1]):
        volume[slab, rows] = part[slab]
        release_pages(volume)


def blocks(n: int, bytes_of_one: int) -> Iterator[slice]:
    """Cut an axis into parts of at most `BLOCK_BYTES`, or of one."""
    step = max(1, BLOCK_BYTES // bytes_of_one)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
