"""The multi-task 3D U-Net, its whole definition in one file.

One network does both tasks, denoising and filling the wedge: standardised tomogram in
(protein bright), specimen density out (protein positive), both (B, 1, Z, Y, X).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RestorationUNet"]

Stem = Literal["halve", "double", "none"]


class RestorationUNet(nn.Module):
    """3D U-Net with skip connections at matching resolution.

    Parameters
    ----------
    channels : sequence of int
        Feature channels of each level, finest first; one max pooling between levels.
    stem : {"halve", "double", "none"}
        What happens to the sampling before the first level: ``halve`` moves each block of 2x2x2
        voxels into 8 channels (the wide levels then run at half resolution, eight times
        cheaper) and finishes with a full-resolution head; ``double`` is the nearest-neighbour
        upsampling block of the published network, undone by average pooling; ``none`` leaves it.
    head_channels : int
        Width of the full-resolution head of ``stem="halve"``. It joins the network's output
        with the input at full resolution and is what keeps the two-voxel lattice of
        half-resolution networks out of the result.
    convs_per_level : int
        3x3x3 convolutions per level, in the encoder and in the decoder.
    encoder_convs : int, optional
        Of the encoder alone, where it differs: the published network has one there and two in the decoder.
    residual : bool
        Add the input to the output, so that the layers have only the difference to make.

    Attributes
    ----------
    arguments : dict
        All keyword arguments in full, as a model file keeps them.

    Raises
    ------
    ValueError
        If there is no level, a width is not positive or the stem is unknown.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 48, 64, 96),
        *,
        stem: Stem = "halve",
        head_channels: int = 8,
        convs_per_level: int = 2,
        encoder_convs: int | None = None,
        residual: bool = False,
    ) -> None:
        super().__init__()
        encoder_convs = convs_per_level if encoder_convs is None else encoder_convs
        if not channels or min(*channels, convs_per_level, encoder_convs, head_channels) < 1:
            raise ValueError(f"need at least one level of positive width, got channels {list(channels)}")
        if stem not in ("halve", "double", "none"):
            raise ValueError(f"stem must be halve, double or none, got {stem!r}")
        self.arguments: dict[str, Any] = {
            "channels": list(channels),
            "stem": stem,
            "head_channels": head_channels,
            "convs_per_level": convs_per_level,
            "encoder_convs": encoder_convs,
            "residual": residual,
        }
        self.stem, self.residual = stem, residual
        first = 8 if stem == "halve" else 1
        widths = [first, *channels]
        self.encoder = nn.ModuleList(
            _convolutions(a, b, encoder_convs) for a, b in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            _convolutions(deep + skip, skip, convs_per_level)
            for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        if stem == "halve":
            self.output = nn.Conv3d(channels[0], 8 * head_channels, 1)
            self.head = nn.Sequential(
                nn.Conv3d(head_channels + 1, head_channels, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv3d(head_channels, 1, 3, padding=1),
            )
        else:
            self.output = nn.Conv3d(channels[0], 1, 1)
        self.apply(_initialise)

    @property
    def multiple(self) -> int:
        """Every side of the input must be a multiple of this many voxels."""
        halvings = len(self.encoder) - 1 + {"halve": 1, "none": 0, "double": -1}[self.stem]
        return int(2 ** max(halvings, 0))

    def forward(self, tomogram: Tensor) -> Tensor:
        """Map a standardised tomogram (B, 1, Z, Y, X) to the density (B, 1, Z, Y, X).

        Raises
        ------
        ValueError
            If a side is not a multiple of ``multiple``.
        """
        if any(n % self.multiple for n in tomogram.shape[2:]):
            raise ValueError(f"sides must be multiples of {self.multiple}, got {tuple(tomogram.shape[2:])}")
        x = tomogram
        if self.stem == "halve":
            x = _space_to_depth(x)
        elif self.stem == "double":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool3d(x, 2) if level else x)
            skips.append(x)
        for block, skip in zip(self.decoder, skips[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        x = self.output(x)
        if self.stem == "halve":
            x = self.head(torch.cat([_depth_to_space(x), tomogram], dim=1))
        elif self.stem == "double":
            x = F.avg_pool3d(x, 2)
        return x + tomogram if self.residual else x


def _convolutions(n_in: int, n_out: int, count: int) -> nn.Sequential:
    """``count`` 3x3x3 convolutions, each with a LeakyReLU."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [nn.Conv3d(n_in if i == 0 else n_out, n_out, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    """Keep the variance of activations through layers without normalisation (He et al. 2015)."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=0.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _space_to_depth(x: Tensor) -> Tensor:
    """(B, C, 2Z, 2Y, 2X) -> (B, 8C, Z, Y, X)."""
    b, c, z, y, w = x.shape
    x = x.reshape(b, c, z // 2, 2, y // 2, 2, w // 2, 2)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, z // 2, y // 2, w // 2)


def _depth_to_space(x: Tensor) -> Tensor:
    """(B, 8C, Z, Y, X) -> (B, C, 2Z, 2Y, 2X), the inverse of `_space_to_depth`."""
    b, c, z, y, w = x.shape
    x = x.reshape(b, c // 8, 2, 2, 2, z, y, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // 8, 2 * z, 2 * y, 2 * w)
