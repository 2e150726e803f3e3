"""Noise in, nothing out: what a network makes of a tomogram whose structure has been destroyed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cryomend.restoration.predict import restore_tomogram

__all__ = ["energy_left", "noise_left", "randomise_phases"]


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
    nothing = randomise_phases(tomogram, generator=generator)

    def restore(noise: Tensor) -> Tensor:
        return restore_tomogram(noise, network, protein=protein, device=device)

    return noise_left(nothing, tomogram, restored, restore)


def noise_left(
    noise: Tensor, tomogram: Tensor, restored: Tensor, restore: Callable[[Tensor], Tensor]
) -> float:
    """Compare what a restoration makes of noise with what it makes of a tomogram.

    Parameters
    ----------
    noise : Tensor, shape (Z, Y, X)
        Something without structure, such as `randomise_phases` or the difference of two halves; it is
        scaled to the deviation of the tomogram.
    tomogram, restored : Tensor, shape (Z, Y, X)
        The data, and what ``restore`` makes of them.
    restore : callable
        Maps a tomogram to its restoration.

    Returns
    -------
    float
        Variance of the restored noise over that of ``restored``.

    Raises
    ------
    ValueError
        If the restoration or the noise is constant.
    """
    if restored.min() == restored.max():
        raise ValueError("the restoration is flat, so nothing can be compared with it")
    if noise.min() == noise.max():
        raise ValueError("the noise is flat; are the halves equal?")
    mean = tomogram.float().mean()
    scaled = (noise - noise.mean()) * (tomogram.float().std() / noise.std()) + mean
    return float(restore(scaled).var() / restored.var())
