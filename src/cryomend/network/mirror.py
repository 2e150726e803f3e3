"""A network whose answer is the mean over mirror images of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MIRRORS", "MirroredNetwork"]

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-3, -2, -1), (-3,), (-2, -1), (-2,), (-3, -1), (-1,), (-3, -2))
"""Axes to mirror, the whole group; the first two, four or eight of them are groups as well."""


class MirroredNetwork(nn.Module):
    """Average the answers to mirror images, each mirrored back.

    Specimens have no preferred hand along an axis at the resolution of a tomogram and the missing wedge of a
    range that is nearly symmetric is its own mirror image, so each of them is an input of the kind that the
    network knows; the mean has less of what it gets wrong by chance.

    Parameters
    ----------
    network : Module
        Maps (B, 1, Z, Y, X) to the same shape; attributes such as ``multiple`` are taken over.
    mirrors : int
        How many of `MIRRORS`: 1, 2, 4 or 8. So many times longer it takes.

    Raises
    ------
    ValueError
        If ``mirrors`` is another number.
    """

    def __init__(self, network: nn.Module, mirrors: int) -> None:
        super().__init__()
        if mirrors not in (1, 2, 4, 8):
            raise ValueError(f"mirrors must be 1, 2, 4 or 8, got {mirrors}")
        self.network, self.mirrors = network, mirrors
        self.multiple = int(getattr(network, "multiple", 16))

    def forward(self, tomogram: Tensor) -> Tensor:
        """Map a standardised tomogram (B, 1, Z, Y, X) to the density (B, 1, Z, Y, X)."""
        total = torch.zeros_like(tomogram, dtype=torch.float32)
        for axes in MIRRORS[: self.mirrors]:
            total += self.network(tomogram.flip(axes)).flip(axes)
        return total / self.mirrors
