"""A wider network that computes what a narrower one does, so that training need not begin anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cryomend.network.unet import RestorationUNet

__all__ = ["can_widen", "widen_network"]


def can_widen(network: RestorationUNet, wanted: RestorationUNet) -> bool:
    """Whether two networks differ in nothing but that no level of the second is narrower."""
    ours, theirs = (dict(n.arguments) for n in (network, wanted))
    old, new = ours.pop("channels"), theirs.pop("channels")
    return ours == theirs and len(old) == len(new) and all(a <= b for a, b in zip(old, new, strict=True))


def widen_network(
    network: RestorationUNet, channels: Sequence[int], *, generator: torch.Generator
) -> RestorationUNet:
    """Repeat features until every level has its new width; the output stays what it was.

    Parameters
    ----------
    network : RestorationUNet
        The narrower network; it is left alone.
    channels : sequence of int
        Features of each level of the wider one.
    generator : torch.Generator
        Chooses which features are repeated and how what follows is shared among the copies.

    Returns
    -------
    RestorationUNet
        On the CPU.

    Raises
    ------
    ValueError
        If a level would be narrower, or there are more or fewer levels.

    Notes
    -----
    Feature i of a wider layer is a copy of feature m(i) of the narrower. Every weight that reads j is shared
    among the copies of j in random parts that add up to it: the function is the same, and since the parts
    differ from output to output, the gradients of two copies are not parallel and they grow apart.

    References
    ----------
    Chen, Goodfellow, Shlens (2016), Net2Net. arXiv:1511.05641
    """
    wide = RestorationUNet(**(network.arguments | {"channels": list(channels)}))
    if not can_widen(network, wide):
        raise ValueError(f"cannot widen a network of {network.arguments['channels']} to {list(channels)}")
    first = cast(nn.Conv3d, cast(nn.Sequential, network.encoder[0])[0]).in_channels
    source = torch.arange(first)
    skips = []
    for old, new in zip(network.encoder, wide.encoder, strict=True):
        source = _widen_block(old, new, source, generator)
        skips.append(source)
    for old, new, skip in zip(network.decoder, wide.decoder, skips[-2::-1], strict=True):
        both = torch.cat([source, int(source.max()) + 1 + skip])
        source = _widen_block(old, new, both, generator)
    _share(network.output, wide.output, source, torch.arange(network.output.out_channels), generator)
    if hasattr(network, "head"):
        wide.head.load_state_dict(network.head.state_dict())
    return wide


def _widen_block(old: nn.Module, new: nn.Module, source: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a block's convolutions, given what its inputs are copies of; what its outputs are copies of."""
    for narrow, wide in zip(old.modules(), new.modules(), strict=True):
        if isinstance(narrow, nn.Conv3d) and isinstance(wide, nn.Conv3d):
            extra = wide.out_channels - narrow.out_channels
            repeated = torch.randint(narrow.out_channels, (extra,), generator=generator)
            copies = torch.cat([torch.arange(narrow.out_channels), repeated])
            _share(narrow, wide, source, copies, generator)
            source = copies
    return source


@torch.no_grad()
def _share(
    narrow: nn.Conv3d, wide: nn.Conv3d, source: Tensor, copies: Tensor, generator: torch.Generator
) -> None:
    """Copy the rows of a convolution and share its columns among the copies of each input."""
    weight = narrow.weight.cpu()[copies][:, source]
    part = 0.5 + torch.rand(weight.shape, generator=generator)
    total = torch.zeros_like(part[:, : narrow.in_channels]).index_add(1, source, part)
    wide.weight.copy_(weight * part / total[:, source])
    if narrow.bias is not None and wide.bias is not None:
        wide.bias.copy_(narrow.bias.cpu()[copies])
