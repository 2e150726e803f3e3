"""Restoring one tomogram with a network: grey levels and contrast sign go in and come out unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryomend.io import InputError, release_pages
from cryomend.restoration.standardise import robust_mean_std
from cryomend.restoration.tile import Window, blend_tiles, restore_tiles

__all__ = ["choose_device", "is_out_of_memory", "restore_mapped", "restore_tomogram"]

_LIMIT = 30.0  # deviations: gold goes beyond what training has seen, and training clips there too
_SECTIONS = 16  # between two releases of memory: a few tens of MiB


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


def restore_mapped(
    restored: NDArray[np.float32],
    tomogram: NDArray[Any],
    network: nn.Module,
    *,
    mean_std: tuple[float, float],
    protein: str = "dark",
    tile: int = 128,
    overlap: int = 32,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Do as `restore_tomogram` on volumes that need not fit into memory, to the last bit.

    Where the device runs out of memory the tile is halved, and so is the overlap when it must, and the
    work begins anew.

    Parameters
    ----------
    restored : array of float32, shape (Z, Y, X)
        Filled with the result; memory-mapped or not, of either byte order.
    tomogram : array, shape (Z, Y, X)
        Any real number format, memory-mapped or not.
    network, protein, tile, overlap, device, progress
        As `restore_tomogram` takes them.
    mean_std : (float, float)
        Of the tomogram, as `cryomend.restoration.standardise.stream_mean_std` finds them.
    say : callable, optional
        Called with a line of text when the tile is halved.

    Raises
    ------
    torch.OutOfMemoryError, RuntimeError, MemoryError
        If the memory does not suffice for the smallest tile.
    """
    network = network.to(device).eval()
    multiple = int(getattr(network, "multiple", 16))
    while True:
        for slab in _slabs(restored):
            slab[...] = 0
        try:
            _restore_rows(
                restored, tomogram, network, mean_std=mean_std, sign=1 if protein == "bright" else -1,
                tile=tile, overlap=overlap, device=device, progress=progress,
            )  # fmt: skip
            return
        except (RuntimeError, MemoryError) as error:
            smaller = tile // 2 // multiple * multiple
            if not is_out_of_memory(error) or smaller < multiple:
                raise
        tile, overlap = smaller, min(overlap, smaller // 2)
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
        if say is not None:
            say(f"out of memory on {device}: going on with tiles of {tile} voxels")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out; PyTorch's CPU allocator has only words for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _restore_rows(
    restored: NDArray[np.float32],
    tomogram: NDArray[Any],
    network: nn.Module,
    *,
    mean_std: tuple[float, float],
    sign: int,
    tile: int,
    overlap: int,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Add tile after tile into zeros; at the end of a row its memory is let go."""
    mean, scale = mean_std[0], sign * mean_std[1]
    width = tomogram.shape[2]

    def read(window: Window) -> Tensor:
        part = torch.from_numpy(np.array(tomogram[window], dtype=np.float32, order="C"))
        return part.sub_(mean).div_(scale).clamp_(-_LIMIT, _LIMIT)

    def run(part: Tensor) -> Tensor:
        answer: Tensor = network(part.to(device))
        return answer.cpu()

    def add(window: Window, part: Tensor) -> None:
        restored[window] += part.numpy()
        if window[2].stop >= width:
            release_pages(tomogram)
            release_pages(restored)

    with torch.no_grad():
        blend_tiles(
            tomogram.shape, read, run, add, tile=tile, overlap=overlap,
            multiple=int(getattr(network, "multiple", 16)), progress=progress,
        )  # fmt: skip
    for slab in _slabs(restored):
        slab *= np.float32(scale)
        slab += np.float32(mean)


def _slabs(volume: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Give some sections after the other; the memory of each is let go after it."""
    for start in range(0, len(volume), _SECTIONS):
        yield volume[start : start + _SECTIONS]
        release_pages(volume)


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
