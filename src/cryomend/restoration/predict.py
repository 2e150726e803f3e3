"""Restoring one tomogram with a network: grey levels and contrast sign go in and come out unchanged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cryomend.io import InputError
from cryomend.restoration.standardise import robust_mean_std
from cryomend.restoration.tile import restore_tiles

__all__ = ["choose_device", "restore_tomogram"]

_LIMIT = 30.0  # deviations: gold goes beyond what training has seen, and training clips there too


def restore_tomogram(
    tomogram: Tensor,
    network: nn.Module,
    *,
    protein: str = "dark",
    tile: int = 128,
    overlap: int = 32,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoise a tomogram and fill its missing wedge.

    The tomogram is standardised (see ``robust_mean_std``) and turned protein bright, goes through
    the network in overlapping tiles, and is brought back to its own grey levels by the inverse of
    the same two numbers: ``restored = mean + sign * std * network((tomogram - mean) * sign / std)``.
    It is never stretched again, so where the network sees nothing the result is flat at the mean.

    Parameters
    ----------
    tomogram : Tensor, shape (Z, Y, X)
        Any real grey levels, at least 16 voxels a side, not constant.
    network : Module
        Maps (1, 1, z, y, x), protein bright, to the same shape; its attribute ``multiple`` (16 if it
        has none) says of what the tile sides are multiples. It is moved to ``device``.
    protein : {"dark", "bright"}
        Contrast of the tomogram; that of the result is the same.
    tile, overlap : int
        Largest tile side and what neighbours share, in voxels.
    device : torch.device or str
        Where the network runs; the tomogram stays where it is.
    progress : callable, optional
        Called as ``progress(done, total)`` after each tile.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)
        On the device of ``tomogram``, in its grey levels.

    Raises
    ------
    ValueError
        If ``protein`` is neither word, the tomogram is constant or the tile does not fit the network.
    """
    if protein not in ("dark", "bright"):
        raise ValueError(f"protein must be dark or bright, got {protein!r}")
    mean, std = robust_mean_std(tomogram)
    scale = std if protein == "bright" else -std
    network = network.to(device).eval()

    def run(part: Tensor) -> Tensor:
        restored: Tensor = network(part.to(device))
        return restored.to(part.device)

    with torch.no_grad():
        standardised = ((tomogram.float() - mean) / scale).float().clamp_(-_LIMIT, _LIMIT)
        multiple = int(getattr(network, "multiple", 16))
        restored = restore_tiles(
            standardised, run, tile=tile, overlap=overlap, multiple=multiple, progress=progress
        )
        return restored.mul_(scale).add_(mean)


def choose_device(name: str = "auto") -> torch.device:
    """Turn the word of the command line into a device.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}
        ``auto`` takes CUDA if there is one, else Apple's MPS, else the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        If the word is unknown or this machine has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if name not in present:
        raise InputError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if not present[name]:
        raise InputError(f"this machine has no {name} device that PyTorch can use; pass --device cpu or auto")
    return torch.device(name)
