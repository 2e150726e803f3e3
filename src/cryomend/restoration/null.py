"""Noise in, nothing out: what a network makes of a tomogram whose structure has been destroyed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryomend.restoration.predict import restore_tomogram

__all__ = ["energy_left", "randomise_phases"]


def randomise_phases(volume: Tensor, *, generator: torch.Generator) -> Tensor:
    """Keep the power spectrum of a volume and nothing else.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Any real grey levels.
    generator : torch.Generator
        Of the device of ``volume``.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)
        The same amplitudes, missing wedge included, and the same mean; the phases are those of white noise.
    """
    mean = volume.float().mean()
    noise = torch.randn(volume.shape, generator=generator, device=volume.device)
    # the phases of a real volume, so that Friedel mates agree and the amplitudes stay as they are
    phases = torch.fft.rfftn(noise)
    phases /= phases.abs().clamp(min=torch.finfo(torch.float32).tiny)
    amplitudes = torch.fft.rfftn(volume.float() - mean).abs()
    return torch.fft.irfftn(amplitudes * phases, s=volume.shape).add_(mean)


def energy_left(
    tomogram: Tensor,
    restored: Tensor,
    network: nn.Module,
    *,
    generator: torch.Generator,
    protein: str = "dark",
    device: torch.device | str = "cpu",
) -> float:
    """Compare what a network makes of a phase-randomised tomogram with what it makes of the tomogram.

    A restoration that shows structure where there is none fails this. One more pass of the network.

    Parameters
    ----------
    tomogram, restored : Tensor, shape (Z, Y, X)
        The data, and what the network made of them.
    network, protein, device
        As `cryomend.restoration.restore_tomogram` takes them.
    generator : torch.Generator
        Draws the phases; of the device of ``tomogram``.

    Returns
    -------
    float
        Variance of the restored noise over that of ``restored``: 0 is best, 1 says that the network makes
        as much of noise as of the specimen.

    Raises
    ------
    ValueError
        If the tomogram or its restoration is constant.
    """
    if restored.min() == restored.max():
        raise ValueError("the restoration is flat, so nothing can be compared with it")
    nothing = randomise_phases(tomogram, generator=generator)
    invented = restore_tomogram(nothing, network, protein=protein, device=device)
    return float(invented.var() / restored.var())
