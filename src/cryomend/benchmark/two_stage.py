"""The two-stage rival: the images of a tilt series are denoised by a 2D network, then reconstructed.

The network is fitted to the series itself by Noise2Noise: from one of two images that share their signal
and not their noise it predicts the other. Reconstruction is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cryomend.benchmark.fitting import Progress, build_seeded, fit_network, run_as_fitted
from cryomend.benchmark.image_network import ImageUNet
from cryomend.restoration.standardise import robust_mean_std

__all__ = ["ImageFit", "denoise_tilts", "denoise_tilts_alone"]


@dataclass(frozen=True)
class ImageFit:
    """How the 2D network is fitted.

    ``crop`` pixels a side at most; ``batch`` crops a step; ``channels`` of each level of the `ImageUNet`;
    ``learning_rate`` of Adam at its highest.
    """

    crop: int = 64
    batch: int = 8
    channels: tuple[int, ...] = (32, 48, 64)
    learning_rate: float = 1e-3


def denoise_tilts(
    first: Tensor,
    second: Tensor,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    fit: ImageFit | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Denoise the images of a tilt series that was recorded as two independent halves.

    A 2D U-Net learns to predict either half of a tilt from the other; noise that the two do not share cannot
    be predicted, so what it gives is the mean signal (Noise2Noise). It is then applied to both halves, and
    the two answers are averaged.

    Parameters
    ----------
    first, second : Tensor, shape (tilt, Y, X)
        The same tilts from two halves of the frames, of equal exposure; any grey levels.
    steps : int, optional
        Steps of the fit; equal seeds and steps give equal results on one device.
    seconds : float, optional
        Wall clock of the fit at most; one of the two must be given.
    fit : ImageFit, optional
        Network and fit.
    seed : int
        Of weights and crops.
    device : torch.device or str
        Where the network runs.
    progress : callable, optional
        Told the share done and a text after every step.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)
        In the grey levels of the mean of the halves, on the device of ``first``.

    Raises
    ------
    ValueError
        If the halves differ in shape or are identical, a tilt is constant, an image is smaller than the
        network can take, or neither steps nor seconds are given.
    FloatingPointError
        If the loss is not finite.

    Notes
    -----
    Each tilt is standardised by the mean and deviation of its two halves, and brought back.

    References
    ----------
    Lehtinen et al. 2018, arXiv:1803.04189.
    """
    _require_halves(first, second)
    levels = [robust_mean_std(torch.stack(pair)) for pair in zip(first, second, strict=True)]
    halves = [_standardise(half, levels) for half in (first, second)]
    network = _fit_images(
        torch.stack(halves), fit or ImageFit(), seed=seed, device=device,
        steps=steps, seconds=seconds, progress=progress,
    )  # fmt: skip
    answer = sum((_apply(network, half, device) for half in halves), torch.zeros(())) / 2
    return _bring_back(answer, levels).to(first.device)


def denoise_tilts_alone(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    fit: ImageFit | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Denoise a tilt series of which there is only one image per tilt.

    The two images of Noise2Noise are then neighbouring tilts. They do not show the same: what a few degrees
    move is blurred, the more the thicker the specimen and the coarser the tilt step. Frame halves, where
    there are any, are better (`denoise_tilts`).

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Any grey levels.
    tilt_angles : array, shape (tilt,)
        Degrees, in any order.
    steps, seconds, fit, seed, device, progress
        As in `denoise_tilts`.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)

    Raises
    ------
    ValueError
        If the counts of angles and images differ, there are fewer than two tilts, or as `denoise_tilts`.
    """
    if len(tilt_angles) != len(tilt_series) or len(tilt_angles) < 2:
        raise ValueError(
            f"need an angle for each of two tilts or more, got {len(tilt_series)} and {len(tilt_angles)}"
        )
    levels = [robust_mean_std(image) for image in tilt_series]
    images = _standardise(tilt_series, levels)
    order = torch.as_tensor(np.argsort(tilt_angles))
    neighbours = images[order[:-1]], images[order[1:]]
    _require_halves(*neighbours)
    network = _fit_images(
        torch.stack(neighbours), fit or ImageFit(), seed=seed, device=device,
        steps=steps, seconds=seconds, progress=progress,
    )  # fmt: skip
    return _bring_back(_apply(network, images, device), levels).to(tilt_series.device)


def _require_halves(first: Tensor, second: Tensor) -> None:
    """Refuse what Noise2Noise cannot learn from."""
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"need two stacks (tilt, Y, X), got {tuple(first.shape)} and {tuple(second.shape)}")
    if torch.equal(first, second):
        raise ValueError("the two halves are identical, so nothing tells noise from signal; give two halves")


def _standardise(images: Tensor, levels: list[tuple[float, float]]) -> Tensor:
    """Images of zero mean and unit deviation, on the CPU."""
    mean, std = torch.tensor(levels).T[:, :, None, None]
    return (images.detach().float().cpu() - mean) / std


def _bring_back(images: Tensor, levels: list[tuple[float, float]]) -> Tensor:
    """Undo `_standardise`."""
    mean, std = torch.tensor(levels).T[:, :, None, None]
    return images * std + mean


def _fit_images(
    halves: Tensor, fit: ImageFit, *, seed: int, device: torch.device | str, **limits: Any
) -> ImageUNet:
    """Fit a network to predict either of two stacks (2, tilt, Y, X) from the other."""
    network = build_seeded(lambda: ImageUNet(fit.channels), seed=seed, device=device)
    sides = [min(fit.crop, n) // network.multiple * network.multiple for n in halves.shape[2:]]
    if min(sides) < 1:
        raise ValueError(
            f"images of {network.multiple} pixels a side at least, got {tuple(halves.shape[2:])}"
        )
    rng = np.random.default_rng(seed)

    def draw_loss(share: float) -> Tensor:
        pairs = torch.stack([_draw_crops(halves, sides, rng) for _ in range(fit.batch)]).to(device)
        with run_as_fitted(device):
            predicted = network(pairs[:, :1])
        return (predicted.float() - pairs[:, 1:]).square().mean()

    fit_network(network, draw_loss, learning_rate=fit.learning_rate, **limits)
    return network


def _draw_crops(halves: Tensor, sides: list[int], rng: np.random.Generator) -> Tensor:
    """The same place of two stacks, (2, Y, X), the input first; mirrored, and turned if it is square."""
    _, tilts, *shape = halves.shape
    corner = [int(rng.integers(0, n - side + 1)) for n, side in zip(shape, sides, strict=True)]
    window = tuple(slice(c, c + side) for c, side in zip(corner, sides, strict=True))
    pair = halves[:, int(rng.integers(tilts))][(slice(None), *window)]
    pair = pair.flip([axis for axis in range(3) if rng.random() < 0.5])  # axis 0: which one is the input
    return pair.rot90(int(rng.integers(2)), (1, 2)) if sides[0] == sides[1] else pair


def _apply(network: ImageUNet, images: Tensor, device: torch.device | str) -> Tensor:
    """The network's answer to every image, padded to what it can take by mirroring."""
    height, width = images.shape[1:]
    down, right = (-n % network.multiple for n in (height, width))
    answers = torch.empty_like(images)
    for image, answer in zip(images, answers, strict=True):
        padded = F.pad(image[None, None], (0, right, 0, down), mode="reflect")
        with torch.no_grad(), run_as_fitted(device):
            answer[...] = network(padded.to(device))[0, 0, :height, :width].float()
    return answers
