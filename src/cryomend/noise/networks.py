"""The networks of the learned noise model: a DCGAN generator and a gradient-penalty critic.

Both follow the patch side: 128 pixels make five blocks, 256 make six. Used by ``fit``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CONDITIONS", "NoiseCritic", "NoiseGenerator", "gradient_penalty", "tilt_conditions"]

CONDITIONS = 2
"""Numbers that tell a network the tilt angle."""


def tilt_conditions(tilt_angles: Tensor) -> Tensor:
    """What a network is told of tilt angles in degrees (n,): path length through a slab less one, and sine.

    Returns
    -------
    Tensor, shape (n, 2)
        0 where the angle is unknown (nan).
    """
    radians = torch.deg2rad(tilt_angles.nan_to_num(0.0).clamp(-80, 80))
    return torch.stack([1 / radians.cos() - 1, radians.sin()], dim=1).float()


def _block_count(patch: int) -> int:
    """Count the blocks between a 4 x 4 map and half the patch."""
    if patch not in (32, 64, 128, 256):
        raise ValueError(f"patch must be 32, 64, 128 or 256 for the learned model, got {patch}")
    return patch.bit_length() - 3


class NoiseGenerator(nn.Module):
    """Make noise of any size from a field of latent vectors.

    Blocks of transposed convolution, batch norm and ReLU grow the latent field, a last transposed
    convolution of stride 2 and a scaled tanh make the noise: the layers of a DCGAN, whose patch of side P
    comes from 4 x 4 cells after the first block. They are run here on a torus, so that no border
    differs from the middle and a larger latent field makes a larger image. A hundred numbers per cell cannot
    be the noise of a thousand pixels, hence every block adds white noise of its own, with a
    learned amplitude, before its ReLU.

    Parameters
    ----------
    patch : int
        Patch side: 32, 64, 128 or 256 pixels (3 to 6 blocks); a latent vector makes a quarter of it.
    width : int
        Channels before the output layer; doubled towards the latent vector.
    latent : int
        Length of a latent vector.
    conditions : int
        Numbers given with every sample (see `tilt_conditions`); 0 for none.
    reach : float
        Largest output, in standard deviations of the noise: a bare tanh would cut every tail at one.

    Raises
    ------
    ValueError
        If the patch side is none of those.
    """

    def __init__(
        self, patch: int, *, width: int = 64, latent: int = 100, conditions: int = 0, reach: float = 6.0
    ) -> None:
        super().__init__()
        blocks = _block_count(patch)
        self.latent, self.reach, self.cell = latent, reach, patch // 4
        widths = [width * 2**i for i in reversed(range(blocks))]
        first = _Block(latent, widths[0], stride=1, conditions=conditions)
        rest = [_Block(a, b, stride=2, conditions=conditions) for a, b in itertools.pairwise(widths)]
        self.blocks = nn.ModuleList([first, *rest])
        self.out = nn.ConvTranspose2d(width, 1, 4, stride=2)

    def forward(self, latent: Tensor, generator: torch.Generator, conditions: Tensor | None = None) -> Tensor:
        """Turn latent fields (n, latent, h, w) into periodic noise (n, h·P/4, w·P/4) within ``± reach``."""
        x = latent
        for block in self.blocks:
            x = block(x, generator, conditions)
        out = _grow(x, self.out)[:, 0]
        # Slope 1 at the origin, so that unit-variance output needs no large weights.
        return self.reach * torch.tanh(out / self.reach)

    def draw_latent(self, count: int, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Random latent fields (count, latent, h, w), on the device of the weights."""
        shape = (count, self.latent, *cells)
        latent = torch.randn(shape, generator=generator, device=generator.device)
        return latent.to(self.out.weight.device)


class _Block(nn.Module):
    """Transposed convolution (kernel 4), batch norm (shifted by the conditions), noise, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, conditions: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=stride, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.amplitude = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Linear(conditions, 2 * outputs) if conditions else None

    def forward(self, x: Tensor, generator: torch.Generator, conditions: Tensor | None) -> Tensor:
        x = self.norm(_grow(x, self.convolution))
        if self.shift is not None and conditions is not None:
            gain, offset = self.shift(conditions)[:, :, None, None].chunk(2, dim=1)
            x = x * (1 + gain) + offset
        noise = torch.randn(x.shape, generator=generator, device=generator.device)
        return torch.relu(x + self.amplitude[:, None, None] * noise.to(x))


def _grow(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """Transposed convolution of kernel 4 on a torus: stride 2 doubles the sides, stride 1 keeps them."""
    if layer.stride[0] == 2:
        x = functional.pad(x, (1, 1, 1, 1), mode="circular")
    else:
        x = functional.pad(x, (2, 1, 2, 1), mode="circular")
    return functional.conv_transpose2d(x, layer.weight, layer.bias, stride=layer.stride, padding=3)


class NoiseCritic(nn.Module):
    """Score patches, higher for real ones.

    Blocks of stride-2 convolution, affine instance norm and leaky ReLU (0.2) shrink the patch to 4 x 4;
    a convolution makes the score. Batch statistics would tie the samples together and make a
    per-sample gradient penalty meaningless, hence instance norm. The first block has none:
    normalised there, the critic could not see the amplitude of a patch at all.

    Parameters
    ----------
    patch : int
        Patch side: 32, 64, 128 or 256 pixels.
    width : int
        Channels of the first block, doubled block by block.
    conditions : int
        Numbers given with every patch, seen as constant channels; 0 for none.

    Raises
    ------
    ValueError
        If the patch side is none of those.
    """

    def __init__(self, patch: int, *, width: int = 64, conditions: int = 0) -> None:
        super().__init__()
        blocks = _block_count(patch)
        layers: list[nn.Module] = [
            nn.Conv2d(1 + conditions, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for i in range(blocks - 1):
            layers.append(nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 4, stride=2, padding=1))
            layers += [nn.InstanceNorm2d(width * 2 ** (i + 1), affine=True), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(width * 2 ** (blocks - 1), 1, 4))
        self.layers = nn.Sequential(*layers)
        self.conditions = conditions

    def forward(self, patches: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Score patches (n, P, P), with their conditions (n, c) if the critic takes any; returns (n,)."""
        x = patches[:, None]
        if self.conditions and conditions is not None:
            constant = conditions[:, :, None, None].expand(-1, -1, *patches.shape[1:])
            x = torch.cat([x, constant.to(x)], dim=1)
        score: Tensor = self.layers(x)
        return score.flatten()


def initialise_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights as DCGAN does: N(0, 0.02) for convolutions, N(1, 0.02) for norms, biases zero.

    A generator then starts as nearly white noise of about unit variance (`_start_white`).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(network, NoiseGenerator):
        _start_white(network)


@torch.no_grad()
def _start_white(network: NoiseGenerator) -> None:
    """Let every channel of the last block feed one of the four pixels it covers, with signs in turn.

    Its own noise, rectified, then makes independent pixels; the pattern from the coarser blocks starts weak.
    """
    weight = network.out.weight
    width = len(weight)
    for channel in range(width):
        pixel, sign = channel % 4, 1 - 2 * (channel // 4 % 2)
        # A rectified normal number has variance 0.34; four pixels share the channels.
        weight[channel, 0, 1 + pixel // 2, 1 + pixel % 2] += sign * (4 / (0.34 * width)) ** 0.5
    network.blocks[-1].norm.weight.fill_(0.3)  # type: ignore[union-attr,operator]


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    weight: float = 10.0,
    generator: torch.Generator,
) -> Tensor:
    """Penalise critics whose slope between real and generated patches is not one.

    Parameters
    ----------
    critic : callable
        Maps (n, P, P) to (n,).
    real, fake : Tensor, shape (n, P, P)
    weight : float
        λ of the equation.
    generator : torch.Generator
        Where on the line between each pair the slope is taken.

    Returns
    -------
    Tensor, scalar

    Notes
    -----
    ``λ mean_i (|∇ D(x_i)| - 1)²``, ``x_i = ε_i real_i + (1 - ε_i) fake_i``: one ε and one norm per sample.

    References
    ----------
    Gulrajani et al. (2017), Improved training of Wasserstein GANs, doi:10.48550/arXiv.1704.00028.
    """
    share = torch.rand(len(real), 1, 1, generator=generator, device=generator.device).to(real.device)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return weight * (norms - 1).square().mean()
