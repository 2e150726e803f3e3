"""A small 2D U-Net, for rivals that denoise images before they are reconstructed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ImageUNet"]


class ImageUNet(nn.Module):
    """2D U-Net with skip connections at matching resolution; the sampling of the images is left as it is.

    Parameters
    ----------
    channels : sequence of int
        Feature channels of each level, finest first; one max pooling between levels.

    Raises
    ------
    ValueError
        If there is no level or a width is not positive.
    """

    def __init__(self, channels: Sequence[int] = (32, 48, 64)) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ValueError(f"need at least one level of positive width, got channels {list(channels)}")
        widths = [1, *channels]
        self.encoder = nn.ModuleList(_convolutions(a, b) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(
            _convolutions(deep + skip, skip)
            for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.output = nn.Conv2d(channels[0], 1, 1)
        self.apply(_initialise)

    @property
    def multiple(self) -> int:
        """Every side of the input must be a multiple of this many pixels."""
        return int(2 ** (len(self.encoder) - 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1, Y, X) to images (B, 1, Y, X).

        Raises
        ------
        ValueError
            If a side is not a multiple of ``multiple``.
        """
        if any(n % self.multiple for n in images.shape[2:]):
            raise ValueError(f"sides must be multiples of {self.multiple}, got {tuple(images.shape[2:])}")
        x, skips = images, []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(self.decoder, skips[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return self.output(x)


def _convolutions(n_in: int, n_out: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with a LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1), nn.LeakyReLU(0.1),
        nn.Conv2d(n_out, n_out, 3, padding=1), nn.LeakyReLU(0.1),
    )  # fmt: skip


def _initialise(module: nn.Module) -> None:
    """Keep the variance of activations through layers without normalisation (He et al. 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
