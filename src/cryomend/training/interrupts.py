"""Ctrl-C where a run can be resumed: it waits for the moment in which nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "Stopped"]


class Stopped(KeyboardInterrupt):
    """Ctrl-C, at a moment from which the run can go on."""


class Interrupts:
    """The first Ctrl-C waits for `at_once`; a second one ends the program where it is, as ever."""

    def __init__(self) -> None:
        self.asked = False
        self._free = False  # nothing is half done now

    @contextmanager
    def heeded(self, *, wanted: bool = True) -> Iterator[None]:
        """Take Ctrl-C over, if ``wanted``.

        Left alone are threads, which get none, and what somebody else has said: a shell that starts a program
        in the background has interrupts ignored.
        """
        ours = threading.current_thread() is threading.main_thread()
        if not (wanted and ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
            yield
            return
        signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What happens here may be cut short, for it will be done again.

        Raises
        ------
        Stopped
            At Ctrl-C, be it now or before.
        """
        self._free = True
        try:
            if self.asked:
                raise Stopped
            yield
        finally:
            self._free = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        before, self.asked = self.asked, True
        if self._free:
            raise Stopped
        if before:
            raise KeyboardInterrupt
