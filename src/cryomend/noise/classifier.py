"""A two-sample test: whether a small network can tell sampled noise from real noise.

Used by ``fidelity``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["classify"]


def classify(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, seed: int = 0, steps: int = 400
) -> float:
    """Train a small network to tell two sets of patches apart; return its accuracy on others of each.

    Training and test must not overlap: neighbouring patches share pixels.

    Parameters
    ----------
    train, test : tuple of Tensor, shape (n, P, P)
        Patches of the first and of the second kind.
    seed : int
        Equal seeds give equal scores.
    steps : int
        Steps of 24 crops (of 32 pixels at most) of each kind.

    Returns
    -------
    float
        Balanced accuracy; 0.5 cannot be told apart, 1 is told apart always.
    """
    rng = torch.Generator().manual_seed(seed)
    network = _small_classifier(rng)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        crops = torch.cat([_random_crops(t, 24, rng) for t in train])
        target = torch.arange(2).repeat_interleave(24).float()
        loss = nn.functional.binary_cross_entropy_with_logits(network(crops[:, None]).flatten(), target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return _balanced_accuracy(network, test, rng)


def _small_classifier(rng: torch.Generator) -> nn.Module:
    """Three convolutions and a mean over the patch: sees texture and marginal law, not position."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ELU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=rng)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return network


def _random_crops(patches: Tensor, count: int, rng: torch.Generator, side: int = 32) -> Tensor:
    """Crops of at most 32 pixels at random places of random patches."""
    room = patches.shape[-1] - side
    if room < 0:
        return patches[torch.randint(len(patches), (count,), generator=rng)]
    index = torch.randint(len(patches), (count,), generator=rng).tolist()
    corners = torch.randint(room + 1, (count, 2), generator=rng).tolist()
    return torch.stack(
        [patches[i, y : y + side, x : x + side] for i, (y, x) in zip(index, corners, strict=True)]
    )


@torch.no_grad()
def _balanced_accuracy(network: nn.Module, test: Sequence[Tensor], rng: torch.Generator) -> float:
    """Mean of the two shares of crops put on the right side."""
    shares = []
    for patches, label in zip(test, (0.0, 1.0), strict=True):
        scores = [network(_random_crops(patches, 512, rng)[:, None]).flatten() for _ in range(4)]
        shares.append(((torch.cat(scores) > 0).float() == label).float().mean())
    return float(torch.stack(shares).mean())
