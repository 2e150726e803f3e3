"""A network on one device or several: tiles go in, answers come out in the same order."""

from __future__ import annotations

import copy
import queue
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cryomend.io import InputError
from cryomend.network.precision import autocast_dtype
from cryomend.restoration.memory import free_memory, voxels_that_fit

__all__ = ["Engine", "device_error", "is_device_lost", "is_out_of_memory"]

_BATCH = 2**22  # voxels
_AHEAD = 2  # batches that wait for each device, so that it never waits for them
# what PyTorch says of a device that does not answer any more; the same words may come as several classes
_LOST = re.compile(
    r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS|cuDNN error|MPS backend|device.* lost", re.IGNORECASE
)


@dataclass(frozen=True)
class _Place:
    """A network where it runs."""

    network: Callable[[Tensor], Tensor]
    device: torch.device
    dtype: torch.dtype | None

    @torch.no_grad()
    def run(self, tiles: Tensor) -> Tensor:
        """Answer to tiles (B, 1, z, y, x), in float32 where they are."""
        answer = self._run(tiles, self.dtype)
        if self.dtype is not None and self.device.type == "cpu" and not bool(answer.isfinite().all()):
            answer = self._run(tiles, None)  # seen in gradients of small tiles
        return answer

    def _run(self, tiles: Tensor, dtype: torch.dtype | None) -> Tensor:
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            answer = self.network(tiles.to(self.device))
        return answer.float().to(tiles.device)


class Engine:
    """A network on its devices, in the layout and precision that are fast there.

    Parameters
    ----------
    network : Module
        Maps (1, 1, z, y, x) to the same shape; its attribute ``multiple`` (16 if it has none) says of what
        the sides are multiples, ``tile_side`` of how many voxels it takes tiles best. On a CPU it is used
        itself, elsewhere a copy of it.
    devices : sequence of torch.device or str
        Where it runs; of several each takes the next tile when it is free.
    precision : {"auto", "float32", "bfloat16", "float16"}
        As `cryomend.network.precision.autocast_dtype` takes it.
    compile_network : bool
        Let PyTorch compile the network for the shape of the tiles; takes a minute at first.
    on_device_loss : {"stop", "cpu"}
        What to do when a device stops answering: raise an error, or go on on the CPU and say so.
    jobs : int
        Processes that share the memory.
    say : callable, optional
        Called with a line of text when a device is lost.

    Raises
    ------
    ValueError
        If a device has none of that precision.
    """

    def __init__(
        self,
        network: nn.Module,
        devices: Sequence[torch.device | str] = ("cpu",),
        *,
        precision: str = "auto",
        compile_network: bool = False,
        on_device_loss: str = "stop",
        jobs: int = 1,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.multiple = int(getattr(network, "multiple", 16))
        sides = (getattr(module, "tile_side", None) for module in network.modules())
        self.tile_side = next((int(side) for side in sides if side), None)
        self.devices = [torch.device(device) for device in devices]
        self._network = network.eval()
        self._precision, self._compile, self._jobs, self.say = precision, compile_network, jobs, say
        self._on_device_loss = on_device_loss
        for device in self.devices:
            with suppress(RuntimeError):  # of a device that does not answer: `_places` sees to it
                autocast_dtype(precision, device)

    @cached_property
    def _places(self) -> list[_Place]:
        """The network on its devices; brought there when first needed, when a loss can be said."""
        return [self._place_or_replace(device) for device in self.devices]

    def _place_or_replace(self, device: torch.device) -> _Place:
        """Bring the network to a device, or to the CPU where that one does not answer."""
        try:
            return self._place(device)
        except RuntimeError as error:
            if not is_device_lost(error):
                raise
            return self._place_instead(device, error)

    def _place(self, device: torch.device) -> _Place:
        """Bring the network to a device."""
        dtype = autocast_dtype(self._precision, device)
        network = self._network if device.type == "cpu" else copy.deepcopy(self._network)
        # convolutions over the last axis in memory: 1.2 to 1.4 times as fast on a CPU
        placed: Any = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return _Place(torch.compile(placed, dynamic=False) if self._compile else placed, device, dtype)

    @property
    def in_use(self) -> list[torch.device]:
        """The devices, the CPU in the place of one that was lost."""
        return [place.device for place in self._places]

    @property
    def where(self) -> str:
        """The devices in one word."""
        return ",".join(map(str, self.devices))

    def tile_voxels(self) -> tuple[float, float]:
        """Voxels that fit on every device at a time, and the bytes that are free where these are fewest."""
        free = [self._free_memory(number) for number in range(len(self._places))]
        room = []
        for place, there in zip(self._places, free, strict=True):
            sharing = self._jobs * sum(p.device == place.device for p in self._places)
            room.append((voxels_that_fit(self._network, place.dtype, there / sharing), float(there)))
        return min(room)

    def _free_memory(self, number: int) -> int:
        """Bytes that are free on a device, or on the CPU where that one does not answer."""
        try:
            return free_memory(self._places[number].device)
        except RuntimeError as error:
            if not is_device_lost(error):
                raise
            self._replace(number, error)
            return free_memory(self._places[number].device)

    def run(self, tiles: Iterable[Tensor]) -> Iterator[Tensor]:
        """Answer to tiles (1, 1, z, y, x) of one shape, in their order; some are taken ahead.

        Raises
        ------
        InputError
            If a device was lost and this is to stop.
        """
        if [place.device.type for place in self._places] == ["cpu"]:
            yield from map(self._places[0].run, tiles)
            return
        free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(self._places)):
            free.put(number)
        pool = ThreadPoolExecutor(len(self._places), thread_name_prefix="cryomend-device")
        waiting: deque[Future[Tensor]] = deque()
        try:
            for batch in self._batches(tiles):
                waiting.append(pool.submit(self._run_where_free, batch, free))
                if len(waiting) > _AHEAD * len(self._places):
                    yield from (answer[None] for answer in waiting.popleft().result())
            while waiting:
                yield from (answer[None] for answer in waiting.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batches(self, tiles: Iterable[Tensor]) -> Iterator[Tensor]:
        """Join tiles to as many voxels as keep an accelerator busy; a CPU has its caches for one."""
        most = _BATCH if all(place.device.type != "cpu" for place in self._places) else 0
        most = min(most, int(self.tile_voxels()[0]))
        joined: list[Tensor] = []
        for tile in tiles:
            joined.append(tile)
            if (len(joined) + 1) * tile.numel() > most:
                yield torch.cat(joined)
                joined = []
        if joined:
            yield torch.cat(joined)

    def _run_where_free(self, tiles: Tensor, free: queue.SimpleQueue[int]) -> Tensor:
        """Run some tiles on the first device that has nothing to do."""
        number = free.get()
        try:
            return self._places[number].run(tiles)
        except RuntimeError as error:
            if not is_device_lost(error):
                raise
            self._replace(number, error)
            return self._places[number].run(tiles)
        finally:
            free.put(number)

    def _replace(self, number: int, error: RuntimeError) -> None:
        """Put the CPU in the place of a device that was lost."""
        self._places[number] = self._place_instead(self._places[number].device, error)

    def _place_instead(self, device: torch.device, error: RuntimeError) -> _Place:
        """Bring the network to the CPU and say that a device was lost, or refuse to."""
        what = " ".join(str(error).split())[:160]
        if self._on_device_loss != "cpu":
            raise InputError(
                f"{device} was lost ({what}); restart it, or pass --device cpu; "
                "--on-device-loss cpu would have gone on there"
            ) from error
        place = self._place(torch.device("cpu"))
        if self.say is not None:
            self.say(f"warning: {device} was lost ({what}); going on on the CPU, which is slower")
        return place


def device_error(
    error: BaseException, device: torch.device | str, *, compiled: bool = False
) -> InputError | None:
    """Put into one line what PyTorch says of a device or of its compiler.

    Parameters
    ----------
    error : BaseException
        What was raised.
    device : torch.device or str
        Where the network ran.
    compiled : bool
        Whether PyTorch was to compile it.

    Returns
    -------
    InputError or None
        None of other errors than lack of memory and those of PyTorch.
    """
    if is_out_of_memory(error):
        return InputError(f"out of memory on {device}; free some, or pass another --device")
    if not isinstance(error, RuntimeError):
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    what = " ".join(lines[: 2 if lines[0].endswith(":") else 1])  # "backend='inductor' raised:"
    ways = ["leave out --compile"] * compiled + ["pass --device cpu"] * (torch.device(device).type != "cpu")
    todo = " or ".join(ways) or "CRYOMEND_DEBUG=1 shows where, with one file"
    return InputError(f"{device}: {what.rstrip(' .;:')}; {todo}")


def is_device_lost(error: BaseException) -> bool:
    """Tell whether an error says that a device stopped answering; lack of memory is another matter."""
    lost = isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    return lost and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out; PyTorch's CPU allocator has only words for it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
