"""How far a restoration is and how long it will take: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

__all__ = ["BatchProgress"]

_SECONDS_BETWEEN_LINES = 30.0


class BatchProgress:
    """Progress of the files of one call, measured in voxels.

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
        self._started = time.monotonic()
        self._done = 0  # voxels of the files that were tried

    @contextmanager
    def file(self, name: str, number: int) -> Iterator[Callable[[int, int], None]]:
        """Yield what to call as ``progress(done, total)`` while file ``number`` (from 0) is restored."""
        if self._console.is_terminal:
            with self._bars(name, number) as show:
                yield show
        else:
            yield _line_printer(self._console, name, lambda share, now: self._overall(number, share, now))

    def finish(self, number: int, *, worked: bool) -> None:
        """Count a file as tried; what failed says nothing of the speed."""
        if worked:
            self._done += self._voxels[number]
        else:
            self._voxels[number] = 0

    def _overall(self, number: int, share: float, now: float) -> str:
        """Say which file this is and what is left in all; nothing of a single one."""
        if len(self._voxels) == 1:
            return ""
        done = self._done + share * self._voxels[number]
        left = (now - self._started) * (sum(self._voxels) / done - 1) if done else 0.0
        return f"; file {number + 1} of {len(self._voxels)}, about {_duration(left)} left in all"

    @contextmanager
    def _bars(self, name: str, number: int) -> Iterator[Callable[[int, int], None]]:
        """Show a bar and the time left on a terminal."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        started = time.monotonic()
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(name, total=None)

            def show(done: int, total: int) -> None:
                now = time.monotonic()
                left = _duration((now - started) / done * (total - done))
                text = f"{name}: about {left} left{self._overall(number, done / total, now)}"
                bar.update(task, completed=done, total=total, description=text)

            yield show


def _line_printer(
    console: Console, name: str, overall: Callable[[float, float], str]
) -> Callable[[int, int], None]:
    """Make a progress function for log files."""
    started = printed = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= _SECONDS_BETWEEN_LINES and done < total:
            left = _duration((now - started) / done * (total - done))
            console.print(f"{name}: {done} of {total} tiles, about {left} left{overall(done / total, now)}")
            printed = now

    return report


def _duration(seconds: float) -> str:
    """Write a time in the unit that people would take."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
