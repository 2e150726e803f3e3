"""Areas of a simulated tomogram: boxes where its density is, and beside them where it is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryomend.evaluation import Area, Areas

__all__ = ["find_areas"]

_MARGIN = 4  # voxels kept free at the faces, where reconstructions lack rays
Ranges = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def find_areas(density: Tensor, *, count: int = 3, name: str = "simulated") -> Areas:
    """Choose foreground and background boxes of a known density.

    The foreground boxes have the highest mean density of all boxes that do not overlap; each background box
    lies in the same planes as its foreground box and holds the least of it (by mean square).

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        Truth, protein positive.
    count : int
        Of either kind, as far as they find room.
    name : str
        Of the areas.

    Returns
    -------
    Areas

    Raises
    ------
    ValueError
        If not even one box of either kind finds room.
    """
    side = max(4, round(min(density.shape[1:]) / 7))
    box = (max(3, side // 2), side, side)
    mean, power = (_box_means(x, box) for x in (density, density.square()))
    taken: list[Ranges] = []
    foreground: list[Area] = []
    background: list[Area] = []
    for number in range(1, count + 1):
        inside = _best_place(mean, box, taken)
        if inside is None:
            break
        planes = torch.full_like(power, -torch.inf)
        planes[inside[0][0]] = -power[inside[0][0]]
        outside = _best_place(planes, box, [*taken, inside])
        if outside is None:
            break
        taken += [inside, outside]
        foreground.append(Area(f"s{number}", inside))
        background.append(Area(f"b{number}", outside))
    if not foreground:
        raise ValueError(f"no room for areas in a volume of shape {tuple(density.shape)}; make it larger")
    return Areas(name, tuple(foreground), tuple(background))


def _box_means(volume: Tensor, box: Sequence[int]) -> Tensor:
    """Mean over the box that starts at every voxel where it has room, the margins of Y and X left free."""
    means = torch.nn.functional.avg_pool3d(volume[None, None].float(), tuple(box), stride=1)[0, 0]
    means[:, :_MARGIN], means[:, -_MARGIN:] = -torch.inf, -torch.inf
    means[:, :, :_MARGIN], means[:, :, -_MARGIN:] = -torch.inf, -torch.inf
    return means


def _best_place(values: Tensor, box: Sequence[int], taken: Sequence[Ranges]) -> Ranges | None:
    """The box of the highest value that overlaps none of the others."""
    free = torch.where(values.isinf(), -torch.inf, values)
    for ranges in taken:
        near = tuple(slice(max(r[0] - n + 1, 0), r[1]) for r, n in zip(ranges, box, strict=True))
        free[near] = -torch.inf
    if not free.max() > -torch.inf:
        return None
    start = torch.unravel_index(free.argmax(), free.shape)
    z, y, x = ((int(s), int(s) + n) for s, n in zip(start, box, strict=True))
    return z, y, x
