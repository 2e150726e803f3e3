"""How much memory there is for a tile, and how to keep it between tiles."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import torch
from torch import nn

from cryomend.network.unet import RestorationUNet

__all__ = ["bytes_per_voxel", "free_memory", "hold_pages", "voxels_that_fit"]

_SHARE = 0.5  # of the free memory: others want some too
_SLACK = 1.75  # copies in the layout of the processor and what the allocator wastes, measured
_UNKNOWN = 64  # values per voxel of a network that tells nothing of itself; that of `fast` has 58
_CGROUP = Path("/sys/fs/cgroup")  # where Linux shows its control groups
_MEMBERSHIP = Path("/proc/self/cgroup")  # in which of them this process is
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h


def free_memory(device: torch.device | str) -> int:
    """Bytes that can be had on a device: of a CPU, what the machine and its container leave."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return max(min([_machine_memory(), *_group_memory()]), 0)


def _group_memory() -> list[int]:
    """Bytes left by the control group of this process, and by each that it lies in, where they have limits.

    A container, a batch system or systemd sets the limit on any of them. Both versions of control groups are
    read; where the path is that of the machine and not of the container, only its root is there to be found.
    """
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) < 3:
            continue
        _, kinds, path = parts
        inside = PurePosixPath(path.lstrip("/"))
        folders = (inside, *inside.parents)
        if not kinds:
            left += [_left_in(_CGROUP / folder, "max", "current") for folder in folders]
        elif "memory" in kinds.split(","):
            tree = _CGROUP / "memory"
            left += [_left_in(tree / f, "limit_in_bytes", "usage_in_bytes", "total_") for f in folders]
    return [free for free in left if free is not None]


def _left_in(folder: Path, limit: str, used: str, prefix: str = "") -> int | None:
    """Bytes that one control group leaves below its limit; None where it has none."""
    try:
        most, taken = (int((folder / f"memory.{word}").read_text()) for word in (limit, used))
    except (OSError, ValueError):  # not there, or the word max
        return None
    with suppress(OSError, ValueError):
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # pages of files count as used, but the kernel gives them back before it refuses memory
        taken -= sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return most - max(taken, 0)


def _machine_memory() -> int:
    """Bytes that the machine can give without swapping; where it does not say, half of what it has."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):  # not on this system
        return 4 * 2**30


def bytes_per_voxel(network: nn.Module, dtype: torch.dtype | None) -> float:
    """Estimate the memory that a network takes for each voxel of a tile, at its peak.

    Parameters
    ----------
    network : Module
        A `RestorationUNet`, or one that holds one; of others a guess.
    dtype : torch.dtype, optional
        In which it computes; None for float32.
    """
    values = float(_UNKNOWN)
    for module in network.modules():
        if not isinstance(module, RestorationUNet):
            continue
        arguments = module.arguments
        first, second = (*arguments["channels"], 0)[:2]
        density = {"halve": 1 / 8, "none": 1.0, "double": 8.0}[arguments["stem"]]
        # the last level of the decoder: skip and upsampled, both joined, and what comes out
        values = density * (2 * (first + second) + first)
        if arguments["stem"] == "halve":
            values += 4 * arguments["head_channels"] + 2
    return _SLACK * values * (4 if dtype is None else dtype.itemsize)


def voxels_that_fit(network: nn.Module, dtype: torch.dtype | None, free: float) -> float:
    """Voxels that a tile may have where so many bytes are free."""
    return _SHARE * free / bytes_per_voxel(network, dtype)


@contextmanager
def hold_pages() -> Iterator[None]:
    """Keep the memory of large arrays for the next ones, until the block ends.

    Where glibc gives every large array fresh pages of the system, clearing these took a quarter of the time
    with tiles of 128³ voxels and half of it with 192³. On other systems nothing changes.
    """
    library = mallopt = None
    with suppress(OSError):
        library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
        mallopt = getattr(library, "mallopt", None)
    if library is None or mallopt is None:
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:  # as glibc has them after it has met large arrays
        mallopt(_M_MMAP_MAX, 65536)
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**26)
        library.malloc_trim(0)
