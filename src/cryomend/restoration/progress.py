"""How far a restoration is and how long it will take: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

__all__ = ["BatchProgress"]

_SECONDS_BETWEEN_LINES = 30.0


@dataclass
class _Running:
    """A file that is worked on; times in seconds."""

    number: int
    started: float
    printed: float
    bar: TaskID | None = None


class BatchProgress:
    """Progress of the files of one call, measured in voxels; several may be worked on at a time.

    Parameters
    ----------
    console : Console
        Where to say it.
    voxels : sequence of int
        Voxels of every file that will be restored, in order.
    """

    def __init__(self, console: Console, voxels: Sequence[int]) -> None:
        self._console = console
        self._voxels = list(voxels)
        self._shares = [0.0] * len(self._voxels)  # done, of every file
        self._running: dict[str, _Running] = {}
        self._bars: Progress | None = None
        self._started = time.monotonic()

    @contextmanager
    def file(self, name: str, number: int) -> Iterator[Callable[[int, int], None]]:
        """Yield what to call as ``progress(done, total)`` while file ``number`` (from 0) is restored."""
        self.begin(name, number)
        try:
            yield lambda done, total: self.advance(name, done, total)
        finally:
            self.end(name)

    def begin(self, name: str, number: int) -> None:
        """Count the time of a piece of work on a file from now on."""
        now = time.monotonic()
        self._running[name] = _Running(number, now, now)
        if self._console.is_terminal:
            if self._bars is None:
                columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
                self._bars = Progress(*columns, console=self._console, transient=True)
                self._bars.start()
            self._running[name].bar = self._bars.add_task(name, total=None)

    def advance(self, name: str, done: int, total: int) -> None:
        """Say that so many tiles of a piece of work are done."""
        running = self._running[name]
        now = time.monotonic()
        self._shares[running.number] = done / total
        left = f"about {_duration((now - running.started) / done * (total - done))} left"
        if self._bars is not None and running.bar is not None:
            text = f"{name}: {left}{self._overall(running.number, now)}"
            self._bars.update(running.bar, completed=done, total=total, description=text)
        elif now - running.printed >= _SECONDS_BETWEEN_LINES and done < total:
            self._console.print(
                f"{name}: {done} of {total} tiles, {left}{self._overall(running.number, now)}"
            )
            running.printed = now

    def end(self, name: str) -> None:
        """Take away the bar of a piece of work."""
        running = self._running.pop(name)
        if self._bars is None or running.bar is None:
            return
        if self._running:
            self._bars.remove_task(running.bar)
        else:  # a bar that stands still would hold the terminal
            self._bars.stop()
            self._bars = None

    def finish(self, number: int, *, worked: bool) -> None:
        """Count a file as tried; what failed says nothing of the speed."""
        for name in [name for name, running in self._running.items() if running.number == number]:
            self.end(name)  # its process died
        self._shares[number] = 1.0
        if not worked:
            self._voxels[number] = 0

    def _overall(self, number: int, now: float) -> str:
        """Say which file this is and what is left in all; nothing of a single one."""
        if len(self._voxels) == 1:
            return ""
        done = sum(share * n for share, n in zip(self._shares, self._voxels, strict=True))
        left = (now - self._started) * (sum(self._voxels) / done - 1) if done else 0.0
        return f"; file {number + 1} of {len(self._voxels)}, about {_duration(left)} left in all"


def _duration(seconds: float) -> str:
    """Write a time in the unit that people would take."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
