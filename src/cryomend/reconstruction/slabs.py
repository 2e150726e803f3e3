"""Work in slabs of rows along Y, so that a volume may be larger than the memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from cryomend.io import InputError
from cryomend.ray_kernels import BLOCK

__all__ = ["SlabPlan", "plan_slabs", "resident_bytes"]

_GIB = 2**30


@dataclass(frozen=True)
class SlabPlan:
    """``rows`` of Y at a time; ``images_on_disk`` when the prepared images do not fit beside them."""

    height: int
    rows: int
    images_on_disk: bool

    def slabs(self) -> Iterator[tuple[int, int]]:
        """First row and the one after the last of each slab."""
        for start in range(0, self.height, self.rows):
            yield start, min(start + self.rows, self.height)


def plan_slabs(
    shape: tuple[int, int, int], *, tilts: int, iterative: bool, memory_limit: float | None
) -> SlabPlan:
    """Choose how many rows to work on at a time.

    Counted are the process as it stands, the prepared images (in memory, or one at a time when they
    lie on disk), the buffers of the kernels and, per row, its plane of the volume: once for
    wbp, four times for an iterative method (volume, update, weights, buffer).

    Parameters
    ----------
    shape : tuple of int
        Volume (Z, Y, X).
    tilts : int
        Images.
    iterative : bool
        SIRT or SART.
    memory_limit : float or None
        GiB for the whole process; None for slabs of one block of rows, whatever that takes.

    Raises
    ------
    InputError
        If not even one row fits; it says the least that works.
    """
    depth, height, width = shape
    if memory_limit is None:
        return SlabPlan(height, BLOCK, images_on_disk=False)
    base = resident_bytes() + _buffer_bytes(depth, width, tilts, iterative)
    row = 4 * width * (depth * (4 if iterative else 1) + 2 * tilts)
    images = 4 * tilts * height * width
    one_image = 24 * height * width  # an image in preparation, with its Fourier transform
    limit = memory_limit * _GIB
    for held in (images + one_image, one_image):
        rows = int((limit - base - held) // row)
        if rows >= min(BLOCK, height) or (rows >= 1 and held == one_image):
            rows = rows // BLOCK * BLOCK if rows >= BLOCK else rows
            return SlabPlan(height, min(rows, height), images_on_disk=held == one_image)
    least = (base + one_image + row) / _GIB
    raise InputError(
        f"--memory-limit {memory_limit:g} GiB is too small for one row of this tomogram; the least that "
        f"works is {least + 0.05:.1f}"
    )


def _buffer_bytes(depth: int, width: int, tilts: int, iterative: bool) -> int:
    """What the kernels hold besides images and volume: `projection` keeps blocks of rows."""
    fours = -(-tilts // 4) * 4
    blocked = 4 * BLOCK * (width + 2) * fours
    if iterative:
        blocked += 4 * BLOCK * width * (depth + tilts)
    return blocked + torch.get_num_threads() * 2**20


def resident_bytes() -> int:
    """Most memory that the process has held so far."""
    try:
        import resource
    except ImportError:  # Windows
        return _GIB // 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
