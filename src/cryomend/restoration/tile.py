"""Overlapped tiles: a function of small volumes applied to a volume of any shape, without seams."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

__all__ = ["blend_tiles", "count_tiles", "restore_tiles"]

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
    origin: Sequence[int] = (0, 0, 0),
    progress: Progress | None = None,
) -> Tensor:
    """Apply a function to overlapping tiles and blend the results.

    Tiles stand on a grid that goes through ``origin``: wherever a volume begins, the tiles inside it lie on
    its content in the same way if the origin is a place of the content. The first and the last of an axis,
    and all of one that is at most two tiles long, hold on to the faces; they begin a multiple of ``multiple``
    voxels from that grid, so that the lattices of pooling networks coincide. What they have beyond the volume
    is its mirror image, for a network takes a step to a flat border for something that is there.

    Neighbours share ``overlap`` voxels or more: the outer quarter of each side, where a network lacks
    context, is dropped, and a squared-sine ramp over the middle half leads to the other. The weights of all
    tiles sum to one, so tiling the identity is the identity.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        What the function is applied to.
    function : callable
        Maps (1, 1, z, y, x) to the same shape.
    tile : int
        Tile side in voxels, a positive multiple of ``multiple``. An axis that is no longer has one tile, as
        small as holds it, which may exceed ``tile`` by ``multiple`` where the origin asks for that.
    overlap : int
        Voxels shared by neighbours at least, from 0 to ``tile // 2``.
    multiple : int
        Every tile side is a multiple of this many voxels.
    origin : sequence of int
        A voxel (Z, Y, X), inside the volume or not, at which a tile may begin.
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
    blended = torch.zeros_like(volume)

    def add(window: Window, part: Tensor) -> None:
        blended[window] += part.to(blended)

    blend_tiles(
        tuple(volume.shape), lambda window: volume[window], partial(map, function), add,
        tile=tile, overlap=overlap, multiple=multiple, origin=origin, progress=progress,
    )  # fmt: skip
    return blended


def blend_tiles(
    shape: tuple[int, ...],
    read: Callable[[Window], Tensor],
    run: Callable[[Iterable[Tensor]], Iterable[Tensor]],
    add: Callable[[Window, Tensor], None],
    *,
    tile: int,
    overlap: int,
    multiple: int,
    origin: Sequence[int] = (0, 0, 0),
    progress: Progress | None = None,
) -> None:
    """Do the work of `restore_tiles` on a volume that need not be in memory.

    Parameters
    ----------
    shape : tuple of int
        (Z, Y, X).
    read : callable
        Gives the voxels of a window (three slices inside the volume).
    run : callable
        Maps tiles (1, 1, z, y, x) to as many answers of the same shape, in the same order; it may take
        some ahead, to work on several at a time.
    tile, overlap, multiple, origin, progress
        As `restore_tiles` takes them.
    add : callable
        Adds weighted voxels to the result, inside a window. Windows come in rows along X, slabs along Z, and
        always in the same order, so that sums round alike however many devices work.
    """
    if multiple < 1 or tile < 1 or tile % multiple:
        raise ValueError(f"tile must be a positive multiple of {multiple}, got {tile}")
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap must be from 0 to half the tile ({tile // 2}), got {overlap}")
    axes = [_spans(n, tile, overlap, multiple, o) for n, o in zip(shape, origin, strict=True)]
    total = math.prod(len(spans) for spans in axes)
    tiles = (_cut(shape, spans, read) for spans in itertools.product(*axes))
    places = itertools.product(*axes)
    for done, (spans, answer) in enumerate(zip(places, run(tiles), strict=True), start=1):
        _add_weighted(shape, spans, answer, add)
        if progress is not None:
            progress(done, total)


def count_tiles(
    shape: tuple[int, ...], *, tile: int, overlap: int, multiple: int, origin: Sequence[int] = (0, 0, 0)
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Number of tiles along (Z, Y, X), and their sides."""
    placed = [_place(n, tile, overlap, multiple, o) for n, o in zip(shape, origin, strict=True)]
    return tuple(len(starts) for _, starts in placed), tuple(side for side, _ in placed)


def _place(n: int, tile: int, overlap: int, multiple: int, origin: int) -> tuple[int, list[int]]:
    """Place tiles on an axis: their side, and where they start in the volume."""
    first = origin % multiple - (multiple if origin % multiple else 0)  # the last place up to voxel 0
    box = math.ceil((n - first) / multiple) * multiple
    if box <= tile + (multiple if n <= tile else 0):
        return box, [first]
    last = first + box - tile
    unit = multiple if tile - overlap >= multiple else 1
    step = max((tile - overlap) // unit * unit, 1)
    if n <= 2 * tile:  # all of it is near a face, and tiles hold on to these: as few as will do
        count = 1 + math.ceil((last - first) / step)
        return tile, [first + i * ((last - first) // unit) // (count - 1) * unit for i in range(count)]
    inner = range(first + ((origin - first) % step or step), last, step)
    return tile, [first, *inner, last]


def _spans(n: int, tile: int, overlap: int, multiple: int, origin: int) -> list[_Span]:
    """Place tiles on an axis of ``n`` voxels and make their weights sum to one on it."""
    side, starts = _place(n, tile, overlap, multiple, origin)
    shared = [before + side - after for before, after in itertools.pairwise(starts)]
    windows = [_window(side, left, right) for left, right in zip([0, *shared], [*shared, 0], strict=True)]
    total = torch.zeros(n, dtype=torch.float64)
    for start, window in zip(starts, windows, strict=True):
        inside = slice(max(start, 0), min(start + side, n))
        total[inside] += window[inside.start - start : inside.stop - start]
    return [_Span(start, _normalised(w, total, start)) for start, w in zip(starts, windows, strict=True)]


def _window(side: int, left: int, right: int) -> Tensor:
    """Weigh a tile that shares so many voxels with its neighbours; 0 is one that has none, or shares none.

    Zero over the outer quarter of what is shared, a squared-sine ramp over half of it, then one.
    """
    position = torch.arange(side, dtype=torch.float64) + 0.5
    weights = torch.ones_like(position)
    for shared, from_edge in ((left, position), (right, side - position)):
        if shared > 0:
            ramp = (from_edge - shared / 4) / max(shared / 2, 0.5)
            weights *= torch.sin(ramp.clamp(0, 1) * (math.pi / 2)) ** 2
    return weights


def _normalised(window: Tensor, total: Tensor, start: int) -> Tensor:
    """Divide by the sum over all tiles; outside the volume the weight does not matter and is zero."""
    position = torch.arange(len(window)) + start
    inside = (position >= 0) & (position < len(total))
    weights = torch.zeros_like(window)
    weights[inside] = window[inside] / total[position[inside]]
    return weights


def _cut(shape: tuple[int, ...], spans: tuple[_Span, ...], read: Callable[[Window], Tensor]) -> Tensor:
    """Read one tile (1, 1, z, y, x), mirrored beyond the volume, of which no padded copy is made."""
    places = [_mirrored(n, span.start, len(span.weights)) for n, span in zip(shape, spans, strict=True)]
    window = tuple(slice(int(place.min()), int(place.max()) + 1) for place in places)
    part = read(window)
    for axis, (place, read_from) in enumerate(zip(places, window, strict=True)):
        if part.shape[axis] != len(place):
            part = part.index_select(axis, (place - read_from.start).to(part.device))
    return part[None, None]


def _mirrored(n: int, start: int, length: int) -> Tensor:
    """Voxels of an axis from ``start`` on, each face being a mirror that shows its own voxel too."""
    position = (torch.arange(length) + start) % (2 * n)
    return torch.minimum(position, 2 * n - 1 - position)


def _inside(shape: tuple[int, ...], spans: tuple[_Span, ...]) -> Window:
    """What of a tile is inside the volume."""
    return tuple(
        slice(max(span.start, 0), min(span.start + len(span.weights), n))
        for span, n in zip(spans, shape, strict=True)
    )


def _add_weighted(
    shape: tuple[int, ...], spans: tuple[_Span, ...], answer: Tensor, add: Callable[[Window, Tensor], None]
) -> None:
    """Add the answer to one tile."""
    inside = _inside(shape, spans)
    kept = tuple(
        slice(s.start - span.start, s.stop - span.start) for s, span in zip(inside, spans, strict=True)
    )
    weights = [span.weights[k].to(answer) for span, k in zip(spans, kept, strict=True)]
    part = answer[0, 0][kept] * weights[0][:, None, None]
    add(inside, part.mul_(weights[1][:, None]).mul_(weights[2]))
