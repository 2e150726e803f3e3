"""The networks of the learned noise model: a DCGAN generator and a gradient-penalty critic.

Both follow the patch side: 128 pixels make five blocks, 256 make six. Used by ``fit``.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["NoiseCritic", "NoiseGenerator", "gradient_penalty"]


def _block_count(patch: int) -> int:
    """Count the blocks between a 4 x 4 map and half the patch."""
    if patch not in (32, 64, 128, 256):
        raise ValueError(f"patch must be 32, 64, 128 or 256 for the learned model, got {patch}")
    return patch.bit_length() - 3


class NoiseGenerator(nn.Module):
    """Make noise patches from latent vectors.

    Blocks of transposed convolution, batch norm and ReLU grow a 4 x 4 map to half the patch, a last
    transposed convolution of stride 2 and a scaled tanh make the patch.

    Parameters
    ----------
    patch : int
        Patch side: 32, 64, 128 or 256 pixels (3 to 6 blocks).
    width : int
        Channels before the output layer; doubled towards the latent vector.
    latent : int
        Length of the latent vector.
    reach : float
        Largest output, in standard deviations of the noise: a bare tanh would cut every tail at one.

    Raises
    ------
    ValueError
        If the patch side is none of those.
    """

    def __init__(self, patch: int, *, width: int = 64, latent: int = 100, reach: float = 6.0) -> None:
        super().__init__()
        blocks = _block_count(patch)
        self.latent, self.reach = latent, reach
        widths = [width * 2**i for i in reversed(range(blocks))]
        layers: list[nn.Module] = [*_up_block(latent, widths[0], stride=1)]
        for wide, narrow in itertools.pairwise(widths):
            layers += _up_block(wide, narrow, stride=2)
        layers.append(nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """Turn latent vectors (n, latent) into patches (n, P, P) within ``± reach``."""
        out: Tensor = self.layers(latent[:, :, None, None])
        # Slope 1 at the origin, so that unit-variance output needs no large weights.
        return self.reach * torch.tanh(out[:, 0] / self.reach)


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

    Raises
    ------
    ValueError
        If the patch side is none of those.
    """

    def __init__(self, patch: int, *, width: int = 64) -> None:
        super().__init__()
        blocks = _block_count(patch)
        layers: list[nn.Module] = [nn.Conv2d(1, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(blocks - 1):
            layers.append(nn.Conv2d(width * 2**i, width * 2 ** (i + 1), 4, stride=2, padding=1))
            layers += [nn.InstanceNorm2d(width * 2 ** (i + 1), affine=True), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(width * 2 ** (blocks - 1), 1, 4))
        self.layers = nn.Sequential(*layers)

    def forward(self, patches: Tensor) -> Tensor:
        """Score patches (n, P, P); returns (n,)."""
        score: Tensor = self.layers(patches[:, None])
        return score.flatten()


def _up_block(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    """Transposed convolution (kernel 4), batch norm, ReLU; stride 1 makes 4 x 4 of 1 x 1."""
    padding = 1 if stride == 2 else 0
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=stride, padding=padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def initialise_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights as DCGAN does: N(0, 0.02) for convolutions, N(1, 0.02) for norms, biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02, generator=generator)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def gradient_penalty(
    critic: nn.Module, real: Tensor, fake: Tensor, *, weight: float = 10.0, generator: torch.Generator
) -> Tensor:
    """Penalise critics whose slope between real and generated patches is not one.

    Parameters
    ----------
    critic : Module
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
