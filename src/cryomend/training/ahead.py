"""A background thread that draws the next crops while the network learns from the last."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

import torch

__all__ = ["DrawAhead"]

Drawn = TypeVar("Drawn")


class DrawAhead(Generic[Drawn]):
    """One thread, with as many threads for PyTorch as the caller has, that draws what it is told, in order.

    It does not hold up the end of the program: an executor's threads are waited for, even where a slow pair
    is on its way and the user has pressed Ctrl-C.

    Parameters
    ----------
    draw : callable
        Draws the crops of the step whose first crop has the number given.
    """

    def __init__(self, draw: Callable[[int], Drawn]) -> None:
        self._draw = draw
        self._orders: SimpleQueue[tuple[int, Future[Drawn]] | None] = SimpleQueue()
        Thread(target=self._serve, args=(torch.get_num_threads(),), daemon=True).start()

    def begin(self, first: int) -> Future[Drawn]:
        """Have crops drawn; the result, or what was raised, comes with the future."""
        future: Future[Drawn] = Future()
        self._orders.put((first, future))
        return future

    def close(self) -> None:
        """End the thread after what it was told to draw."""
        self._orders.put(None)

    def _serve(self, threads: int) -> None:
        torch.set_num_threads(threads)  # each thread has a number of its own
        while (order := self._orders.get()) is not None:
            first, future = order
            try:
                future.set_result(self._draw(first))
            except BaseException as error:
                future.set_exception(error)
