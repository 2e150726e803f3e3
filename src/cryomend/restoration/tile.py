"""Overlapped tiles: a function of small volumes applied to a volume of any shape, without seams."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["blend_tiles", "restore_tiles"]

Progress = Callable[[int, int], None]
Window = tuple[slice, ...]


@dataclass(frozen=True)
class _Span:
    """One tile along one axis: where it starts (may be negative) and its blending weights."""

    start: int
    weights: Tensor  # (tile,); over all tiles they sum to one at every voxel of the volume


def restore_tiles(
    volume: Tensor,
    function: Callable[[Tensor], Tensor],
    *,
    tile: int,
    overlap: int,
    multiple: int = 16,
    progress: Progress | None = None,
) -> Tensor:
    """Apply a function to overlapping tiles and blend the results.

    Tiles stand at equal distances, centred on the volume; what they reach beyond it is zero. Neighbours
    share ``overlap`` voxels: the outer quarter of each, where a network lacks context, is dropped, and
    a squared-sine ramp over the middle half leads from one to the other. The weights of all tiles sum to
    one, so tiling the identity is the identity. Where fewer voxels suffice, tiles shrink to the
    smallest multiple that covers the volume with the same number of tiles.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Zero stands for "nothing here" (the mean of a standardised volume).
    function : callable
        Maps (1, 1, z, y, x) to the same shape.
    tile : int
        Largest tile side in voxels, a positive multiple of ``multiple``.
    overlap : int
        Voxels shared by neighbours, from 0 to ``tile // 2``.
    multiple : int
        Every tile side is a multiple of this many voxels.
    progress : callable, optional
        Called as ``progress(done, total)`` after each tile.

    Returns
    -------
    Tensor, shape (Z, Y, X)
        On the device and in the dtype of ``volume``.

    Raises
    ------
    ValueError
        If ``volume`` does not have three axes, ``tile`` is not a positive multiple of ``multiple`` or
        ``overlap`` is outside 0 to ``tile // 2``.
    """
    if volume.ndim != 3:
        raise ValueError(f"need a volume (Z, Y, X), got shape {tuple(volume.shape)}")
    if multiple < 1 or tile < 1 or tile % multiple:
        raise ValueError(f"tile must be a positive multiple of {multiple}, got {tile}")
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap must be from 0 to half the tile ({tile // 2}), got {overlap}")
    blended = torch.zeros_like(volume)

    def add(window: Window, part: Tensor) -> None:
        blended[window] += part.to(blended)

    blend_tiles(
        tuple(volume.shape), lambda window: volume[window], function, add,
        tile=tile, overlap=overlap, multiple=multiple, progress=progress,
    )  # fmt: skip
    return blended


def blend_tiles(
    shape: tuple[int, ...],
    read: Callable[[Window], Tensor],
    function: Callable[[Tensor], Tensor],
    add: Callable[[Window, Tensor], None],
    *,
    tile: int,
    overlap: int,
    multiple: int,
    progress: Progress | None = None,
) -> None:
    """Do the work of `restore_tiles` on a volume that need not be in memory.

    Parameters
    ----------
    shape : tuple of int
        (Z, Y, X).
    read : callable
        Gives the voxels of a window (three slices inside the volume).
    function, tile, overlap, multiple, progress
        As `restore_tiles` takes them.
    add : callable
        Adds weighted voxels to the result, inside a window. Windows come in rows along X, slabs along Z.
    """
    axes = [_spans(n, tile, overlap, multiple) for n in shape]
    total = math.prod(len(spans) for spans in axes)
    for done, spans in enumerate(itertools.product(*axes), start=1):
        _blend_tile(shape, spans, read, function, add)
        if progress is not None:
            progress(done, total)


def _spans(n: int, tile: int, overlap: int, multiple: int) -> list[_Span]:
    """Place tiles on an axis of ``n`` voxels and make their weights sum to one on it."""
    count = max(1, math.ceil((n - overlap) / (tile - overlap)))
    least = math.ceil((n + (count - 1) * overlap) / count)
    side = math.ceil(least / multiple) * multiple
    step = side - overlap
    first = (n - side - (count - 1) * step) // 2  # <= 0: the surplus is shared by both ends
    starts = [first + i * step for i in range(count)]
    windows = [_window(side, overlap, first=i == 0, last=i == count - 1) for i in range(count)]
    total = torch.zeros(n, dtype=torch.float64)
    for start, window in zip(starts, windows, strict=True):
        inside = slice(max(start, 0), min(start + side, n))
        total[inside] += window[inside.start - start : inside.stop - start]
    return [_Span(start, _normalised(w, total, start)) for start, w in zip(starts, windows, strict=True)]


def _window(side: int, overlap: int, *, first: bool, last: bool) -> Tensor:
    """Weigh a tile: zero, a sin² ramp, then one towards each neighbour; one at the ends of the volume."""
    position = torch.arange(side, dtype=torch.float64) + 0.5
    from_edge = torch.full_like(position, math.inf)
    if not first:
        from_edge = position
    if not last:
        from_edge = torch.minimum(from_edge, side - position)
    margin = overlap / 4
    ramp = (from_edge - margin) / max(overlap - 2 * margin, 0.5)
    return torch.sin(ramp.clamp(0, 1) * (math.pi / 2)) ** 2


def _normalised(window: Tensor, total: Tensor, start: int) -> Tensor:
    """Divide by the sum over all tiles; outside the volume the weight does not matter and is zero."""
    position = torch.arange(len(window)) + start
    inside = (position >= 0) & (position < len(total))
    weights = torch.zeros_like(window)
    weights[inside] = window[inside] / total[position[inside]]
    return weights


def _blend_tile(
    shape: tuple[int, ...],
    spans: tuple[_Span, ...],
    read: Callable[[Window], Tensor],
    function: Callable[[Tensor], Tensor],
    add: Callable[[Window, Tensor], None],
) -> None:
    """Add one weighted tile; no padded copy of the volume is made."""
    sides = [len(span.weights) for span in spans]
    before = [max(-span.start, 0) for span in spans]
    inside = tuple(
        slice(max(span.start, 0), min(span.start + side, n))
        for span, side, n in zip(spans, sides, shape, strict=True)
    )
    part = read(inside)
    padding = [
        width
        for b, n, side in zip(reversed(before), reversed(part.shape), reversed(sides), strict=True)
        for width in (b, side - b - n)
    ]
    restored = function(F.pad(part, padding)[None, None])[0, 0]
    kept = tuple(slice(b, b + n) for b, n in zip(before, part.shape, strict=True))
    weights = [span.weights[k].to(part) for span, k in zip(spans, kept, strict=True)]
    weight = weights[0][:, None, None] * weights[1][:, None] * weights[2]
    add(inside, restored[kept].to(part) * weight)
