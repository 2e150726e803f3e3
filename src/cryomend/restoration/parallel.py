"""Several processes that work through a list; one that dies takes only its own piece of work with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

__all__ = ["Died", "work_in_processes"]

Send = Callable[[Any], None]
_SECONDS_TO_TIDY = 10.0


@dataclass(frozen=True)
class Died:
    """In place of a result: the exit code of the process, negative for a signal."""

    code: int | None

    def __str__(self) -> str:
        how = f"by signal {-self.code}" if self.code is not None and self.code < 0 else f"with {self.code}"
        return f"its process ended {how}; if memory ran out, fewer --jobs need less"


@dataclass
class _Worker:
    """A process, what it says, and the task it has."""

    process: BaseProcess
    connection: Connection
    number: int = -1


def work_in_processes(
    work: Callable[[Any, Send], Any],
    tasks: Sequence[Any],
    *,
    processes: int,
    threads: int,
    on_message: Callable[[int, Any], None],
) -> Iterator[tuple[int, Any]]:
    """Call a function on every task, each in one of several processes.

    Parameters
    ----------
    work : callable
        ``work(task, send)``, which can be pickled; what it passes to ``send`` arrives at ``on_message``.
    tasks : sequence
        Arguments that can be pickled.
    processes : int
        How many work at a time.
    threads : int
        Of PyTorch in each.
    on_message : callable
        Called here as ``on_message(number of the task, message)``.

    Yields
    ------
    number, result
        In the order in which they end; `Died` where the process did not live to give one.
    """
    context = multiprocessing.get_context("spawn")  # a forked OpenMP does not work

    def start() -> _Worker:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, work, threads), daemon=True)
        process.start()
        there.close()  # so that its end is seen when the process has gone
        return _Worker(process, here)

    waiting = list(range(len(tasks)))[::-1]
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < processes:
                workers.append(start())
                _assign(workers[-1], waiting, tasks)
            busy = {worker.connection: worker for worker in workers}
            for ready in wait(list(busy)):
                worker = busy[ready]  # type: ignore[index]
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    workers.remove(worker)
                    yield worker.number, Died(worker.process.exitcode)
                    continue
                if kind == "message":
                    on_message(worker.number, value)
                    continue
                number = worker.number
                if not _assign(worker, waiting, tasks):
                    workers.remove(worker)
                yield number, value
    finally:
        _stop(workers)


def _assign(worker: _Worker, waiting: list[int], tasks: Sequence[Any]) -> bool:
    """Give a process the next task, or tell it that there is none."""
    task = None
    if there := bool(waiting):
        worker.number = waiting.pop()
        task = tasks[worker.number]
    with suppress(OSError):  # it has just died, which the next look at it tells
        worker.connection.send(task)
    return there


def _stop(workers: list[_Worker]) -> None:
    """End what still works, as Ctrl-C would, so that it takes away what it has half written."""
    for worker in workers:
        if worker.process.is_alive() and worker.process.pid is not None:
            os.kill(worker.process.pid, signal.SIGINT)
    for worker in workers:
        worker.process.join(_SECONDS_TO_TIDY)
        if worker.process.is_alive():
            worker.process.kill()


def _serve(connection: Connection, work: Callable[[Any, Send], Any], threads: int) -> None:
    """Work in a process until there are no tasks left."""
    torch.set_num_threads(threads)
    try:
        for task in iter(connection.recv, None):
            connection.send(("result", work(task, lambda message: connection.send(("message", message)))))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        os._exit(130)  # the one who asked knows, or is gone
