"""Who makes the pairs of a stream: worker processes that write them to a folder, or the process itself."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cryomend.io import InputError, atomic_path
from cryomend.training.crops import PreparedPair

__all__ = ["Inline", "Workers", "load_prepared", "write_prepared"]

Make = Callable[[int, "torch.device | str | None"], PreparedPair]
_PATIENCE = 5.0  # seconds that a worker has to end before it is killed


def write_prepared(path: Path, pair: PreparedPair, *, seed: int, digest: str) -> None:
    """Write a prepared pair with what it was made from (safetensors), complete or not at all.

    Raises
    ------
    cryomend.io.InputError
        If the folder is gone or the disk is full.
    """
    values = {field.name: getattr(pair, field.name) for field in fields(pair)}
    tensors = {n: v.cpu().contiguous() for n, v in values.items() if isinstance(v, torch.Tensor)}
    tensors["power"] = torch.from_numpy(values.pop("power"))
    rest = {name: value for name, value in values.items() if name not in tensors}
    facts = {"seed": str(seed), "digest": digest, "facts": json.dumps(rest)}
    # Serialised first: safetensors writes by way of a file of its own, which a killed worker would leave.
    content = save(tensors, metadata=facts)
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def load_prepared(path: Path, *, seed: int, digest: str) -> PreparedPair | None:
    """Read a prepared pair; None if it is not there, damaged, or made otherwise than seed and digest say."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if (header.get("seed"), header.get("digest")) != (str(seed), digest):
                return None
            tensors: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}
            facts = json.loads(header["facts"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError):
        return None
    rest = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()}
    return PreparedPair(**tensors | {"power": tensors["power"].numpy()} | rest)


class Inline:
    """Makes pairs in this process, on a device, when they are asked for."""

    def __init__(self, make: Make, device: torch.device | str) -> None:
        self._make, self._device = make, device
        self._orders: list[tuple[int, int]] = []

    def submit(self, number: int, seed: int) -> None:
        """Remember to make a pair."""
        self._orders.append((number, seed))

    def collect(self, *, wait: bool) -> Iterator[tuple[int, PreparedPair | None]]:
        """Make one pair if ``wait``."""
        if not wait or not self._orders:
            return
        number, seed = self._orders.pop(0)
        try:
            pair = self._make(seed, self._device)
        except Exception as error:
            raise InputError(_complaint(seed, error)) from error
        yield number, pair

    def close(self) -> None:
        """Nothing is left behind."""
        self._orders.clear()


@dataclass
class _Worker:
    """A process, our end of the pipe to it, and the pairs that it has been told to make."""

    process: BaseProcess
    pipe: Connection
    orders: list[tuple[int, int]]


class Workers:
    """Processes that make pairs and write them into a folder; they end with the process that started them.

    Parameters
    ----------
    make : callable
        (seed, device) -> prepared pair; goes to the processes.
    count : int
        How many.
    folder : Path
        Where pairs are written as ``BRANCH_NUMBER.safetensors``.
    branch, digest : str
        Name and origin of the pairs.
    """

    def __init__(self, make: Make, count: int, *, folder: Path, branch: str, digest: str) -> None:
        context = multiprocessing.get_context("spawn")  # forking after torch has started threads can hang
        self._folder, self._branch = folder, branch
        self._workers: list[_Worker] = []
        with _no_interrupt():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, make, folder, branch, digest), daemon=True
                )
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours, []))

    def submit(self, number: int, seed: int) -> None:
        """Tell the worker with the least to do to make a pair."""
        worker = min(self._workers, key=lambda w: len(w.orders))
        worker.orders.append((number, seed))
        with suppress(OSError):  # a worker that died is found by `collect`
            worker.pipe.send((number, seed))

    def collect(self, *, wait: bool) -> Iterator[tuple[int, PreparedPair | None]]:
        """Numbers of the pairs that have been written since; with ``wait`` at least one.

        Raises
        ------
        cryomend.io.InputError
            If a pair could not be made or a worker died; the seed is named.
        """
        busy = [w for w in self._workers if w.orders]
        ready = wait_for([w.pipe for w in busy], None if wait else 0)
        for worker in [w for w in busy if w.pipe in ready]:
            number, seed = worker.orders[0]
            try:
                complaint, trace = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join(_PATIENCE)
                raise InputError(
                    f"a worker died (exit code {worker.process.exitcode}) making the pair of seed {seed}; "
                    "if memory ran out, use fewer workers or smaller specimens"
                ) from None
            if complaint:
                raise InputError(complaint) from RuntimeError(trace)
            worker.orders.pop(0)
            yield number, None

    def close(self) -> None:
        """Stop all processes and remove what they had half written."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()
        _remove_partial(self._folder, self._branch)


def _serve(pipe: Connection, make: Make, folder: Path, branch: str, digest: str) -> None:
    """What a worker does: make pairs until it is stopped."""
    if hasattr(os, "nice"):
        os.nice(10)  # the optimiser comes first where cores are few
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends us
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(folder, branch), daemon=True).start()
    while True:
        try:
            number, seed = pipe.recv()
        except (EOFError, OSError):
            return
        reply = ("", "")
        try:
            path = folder / f"{branch}_{number:06d}.safetensors"
            write_prepared(path, make(seed, None), seed=seed, digest=digest)
        except Exception as error:
            reply = _complaint(seed, error), traceback.format_exc()
        try:
            pipe.send(reply)
        except OSError:
            return


def _complaint(seed: int, error: Exception) -> str:
    """One line that names the seed."""
    what = " ".join(str(error).split()) or type(error).__name__
    return f"making the pair of seed {seed} failed: {what}; `cryomend simulate --seed {seed}` repeats it"


def _end_with_parent(folder: Path, branch: str) -> None:
    """Leave at once when the process that started us is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _remove_partial(folder, branch)
        os._exit(1)


def _remove_partial(folder: Path, branch: str) -> None:
    for path in folder.glob(f"{branch}_*.partial"):
        path.unlink(missing_ok=True)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back, and from the processes that are started meanwhile: they inherit it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
