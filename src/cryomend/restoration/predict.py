"""Restoring one tomogram with a network: grey levels and contrast sign go in and come out unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryomend.io import InputError, release_pages
from cryomend.restoration.anchor import find_anchor
from cryomend.restoration.engine import Engine, is_out_of_memory
from cryomend.restoration.memory import hold_pages
from cryomend.restoration.standardise import robust_mean_std
from cryomend.restoration.tile import Window, blend_tiles, count_tiles

__all__ = ["choose_device", "choose_devices", "restore_mapped", "restore_tomogram"]

_TILE = 192  # voxels a side, for a network that does not say on what it was trained
_OVERLAP = 0.25  # of the tile: more costs time and is not closer to the truth (docs/restoration.md)
_LIMIT = 30.0  # deviations: gold goes beyond what training has seen, and training clips there too
_SECTIONS = 16  # between two releases of memory: a few tens of MiB


def restore_tomogram(
    tomogram: Tensor,
    network: nn.Module,
    *,
    protein: str = "dark",
    tile: int | None = None,
    overlap: int | None = None,
    device: torch.device | str = "cpu",
    precision: str = "auto",
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
        Maps (1, 1, z, y, x), protein bright, to the same shape, as `Engine` takes it.
    protein : {"dark", "bright"}
        Contrast of the tomogram; that of the result is the same.
    tile, overlap
        As `restore_mapped` takes them.
    device : torch.device or str
        Where the network runs; the tomogram stays where it is.
    precision : {"auto", "float32", "bfloat16", "float16"}
        As `Engine` takes it.
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
    mean_std = robust_mean_std(tomogram)
    there = tomogram.detach().float().cpu().numpy()
    restored = np.empty_like(there, order="C")
    restore_mapped(
        restored, there, Engine(network, [device], precision=precision), mean_std=mean_std, protein=protein,
        tile=tile, overlap=overlap, progress=progress,
    )  # fmt: skip
    return torch.from_numpy(restored).to(tomogram.device)


def restore_mapped(
    restored: NDArray[np.float32],
    tomogram: NDArray[Any],
    engine: Engine,
    *,
    mean_std: tuple[float, float],
    protein: str = "dark",
    tile: int | None = None,
    overlap: int | None = None,
    origin: tuple[int, int, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Do as `restore_tomogram` on volumes that need not fit into memory, to the last bit.

    Where a device runs out of memory the tile is halved, and the work begins anew.

    Parameters
    ----------
    restored : array of float32, shape (Z, Y, X)
        Filled with the result; memory-mapped or not, of either byte order.
    tomogram : array, shape (Z, Y, X)
        Any real number format, memory-mapped or not.
    engine : Engine
        The network where it runs.
    mean_std : (float, float)
        Of the tomogram, as `cryomend.restoration.standardise.stream_mean_std` finds them.
    protein, progress
        As `restore_tomogram` takes them.
    tile : int, optional
        Largest tile side in voxels; if None that of the crops which the network was trained on, or less if
        the free memory asks for it.
    overlap : int, optional
        Voxels that neighbours share; a quarter of the tile if None.
    origin : (int, int, int), optional
        Voxel (Z, Y, X) from which tiles are counted; if None that of
        `cryomend.restoration.anchor.find_anchor`, so that the result does not depend on where the content
        lies.
    say : callable, optional
        Called with a line of text that names the tile, and when it is halved.

    Raises
    ------
    torch.OutOfMemoryError, RuntimeError, MemoryError
        If the memory does not suffice for the smallest tile.
    InputError
        If a device was lost and the engine is to stop then.
    """
    if origin is None:
        origin = find_anchor(tomogram, mean=mean_std[0])
    if tile is None:
        tile, free = _choose_tile(engine)
        if say is not None:
            say(_tiles_in_words(tomogram.shape, tile, _overlap(tile, overlap), origin, engine, free))
            if tile < min(_multiple(engine.tile_side or 0, engine), max(tomogram.shape)):
                say(
                    f"warning: there is memory for tiles of {tile} voxels only, and the model was trained on "
                    f"{engine.tile_side}; the result is not what it would be with those, and takes longer"
                )
    on_cpu = any(device.type == "cpu" for device in engine.devices)
    while True:
        for slab in _slabs(restored):
            slab[...] = 0
        try:
            with hold_pages() if on_cpu else nullcontext():
                _restore_rows(
                    restored, tomogram, engine, mean_std=mean_std, sign=1 if protein == "bright" else -1,
                    tile=tile, overlap=_overlap(tile, overlap), origin=origin, progress=progress,
                )  # fmt: skip
            return
        except (RuntimeError, MemoryError) as error:
            smaller = min(tile, max(tomogram.shape)) // 2 // engine.multiple * engine.multiple
            if not is_out_of_memory(error) or smaller < engine.multiple:
                raise
        tile = smaller
        if any(device.type == "cuda" for device in engine.devices):
            torch.cuda.empty_cache()
        if say is not None:
            say(f"out of memory on {engine.where}: going on with tiles of {tile} voxels")


def _choose_tile(engine: Engine) -> tuple[int, float]:
    """Choose the side of the tiles; also give the bytes that are free."""
    voxels, free = engine.tile_voxels()
    # rounded, for the cube root of a cube may fall just below its side
    return _multiple(round(min(engine.tile_side or _TILE, voxels ** (1 / 3)), 6), engine), free


def _multiple(side: float, engine: Engine) -> int:
    """Cut a side to what the network takes."""
    return max(int(side // engine.multiple), 1) * engine.multiple


def _overlap(tile: int, asked: int | None) -> int:
    """Give the overlap of tiles, never more than half of them."""
    return int(tile * _OVERLAP) if asked is None else min(asked, tile // 2)


def _tiles_in_words(
    shape: tuple[int, ...], tile: int, overlap: int, origin: tuple[int, int, int], engine: Engine, free: float
) -> str:
    """Say which tiles were chosen."""
    counts, sides = count_tiles(shape, tile=tile, overlap=overlap, multiple=engine.multiple, origin=origin)
    tiles = f"{' x '.join(map(str, counts))} tiles of {' x '.join(map(str, sides))} voxels"
    times = math.prod(sides) * math.prod(counts) / math.prod(shape)
    again = f", overlap {overlap}, {times:.1f} times the volume" if math.prod(counts) > 1 else ""
    return f"{tiles}{again} ({free / 2**30:.1f} GiB free on {engine.where})"


def _restore_rows(
    restored: NDArray[np.float32],
    tomogram: NDArray[Any],
    engine: Engine,
    *,
    mean_std: tuple[float, float],
    sign: int,
    tile: int,
    overlap: int,
    origin: tuple[int, int, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Add tile after tile into zeros; at the end of a row its memory is let go."""
    mean, scale = mean_std[0], sign * mean_std[1]
    width = tomogram.shape[2]

    def read(window: Window) -> Tensor:
        part = torch.from_numpy(np.array(tomogram[window], dtype=np.float32, order="C"))
        return part.sub_(mean).div_(scale).clamp_(-_LIMIT, _LIMIT)

    def add(window: Window, part: Tensor) -> None:
        restored[window] += part.numpy()
        if window[2].stop >= width:
            release_pages(tomogram)
            release_pages(restored)

    with torch.no_grad():
        blend_tiles(
            tomogram.shape, read, engine.run, add, tile=tile, overlap=overlap, multiple=engine.multiple,
            origin=origin, progress=progress,
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
    name : {"auto", "cpu", "cuda", "cuda:N", "mps"}
        ``auto`` takes CUDA if there is one, else Apple's MPS, else the CPU; ``cuda:1`` the second GPU.

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
    kind, colon, index = name.partition(":")
    if kind not in present or (colon and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if not present[kind] or (colon and int(index) >= torch.cuda.device_count()):
        raise InputError(f"this machine has no {name} device that PyTorch can use; pass --device cpu or auto")
    return torch.device(name)


def choose_devices(names: str = "auto") -> list[torch.device]:
    """Turn words with commas between them, such as ``cuda:0,cuda:1``, into devices.

    Raises
    ------
    InputError
        As `choose_device`.
    """
    return [choose_device(name.strip()) for name in names.split(",")]
