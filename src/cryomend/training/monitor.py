"""What a run leaves to look at: tables, pictures and TensorBoard events in one folder."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cryomend.io import InputError, atomic_path
from cryomend.io.path import reason

__all__ = ["Monitor"]

_log = logging.getLogger(__name__)


class Monitor:
    """Writes ``steps.csv``, ``validation.csv``, ``step_000500.png`` and TensorBoard events.

    Parameters
    ----------
    folder : Path
        Made with the first row.

    Notes
    -----
    Rows go to the disk at once, so that a kill loses none; rows of steps that a resumed run takes again
    are dropped from the tables when it first writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events: Any = None
        self._rewound: set[str] = set()

    def record_step(self, step: int, values: Mapping[str, float]) -> None:
        """Add the facts of one step.

        Raises
        ------
        cryomend.io.InputError
            If they cannot be written.
        """
        with self._written():
            self._add_row("steps.csv", step, values)
            self._add_scalars("train", step, values)

    def record_validation(
        self, step: int, scores: Mapping[str, float], picture: NDArray[np.uint8] | None
    ) -> None:
        """Add the scores of a validation and the picture (Y, X) of its sections.

        Raises
        ------
        cryomend.io.InputError
            If they cannot be written.
        """
        with self._written():
            self._add_row("validation.csv", step, scores)
            self._add_scalars("validation", step, scores)
            if picture is not None:
                with atomic_path(self.folder / f"step_{step:06d}.png") as partial:
                    Image.fromarray(picture).save(partial, format="PNG")
                if self._events:
                    self._events.add_image("sections", picture, step, dataformats="HW")
            if self._events:
                self._events.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._events:
            self._events.close()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Name the folder where the disk refuses."""
        try:
            self.folder.mkdir(exist_ok=True)
            yield
        except OSError as error:
            raise InputError(
                f"cannot write into {self.folder}: {reason(error)}; make room and go on with --resume"
            ) from error

    def _add_row(self, name: str, step: int, values: Mapping[str, float]) -> None:
        path = self.folder / name
        if name not in self._rewound:
            self._rewound.add(name)
            _drop_rows(path, ["step", *values], step)
        with path.open("a", newline="") as file:
            csv.writer(file).writerow([step, *values.values()])

    def _add_scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self._events is None:
            self._events = _open_events(self.folder, step) or False
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)


def _drop_rows(path: Path, header: list[str], step: int) -> None:
    """Start a table, or take back its rows from a step on."""
    rows: list[list[str]] = []
    if step > 1 and path.exists():
        with path.open(newline="") as file:
            rows = [row for row in list(csv.reader(file))[1:] if row and int(row[0]) < step]
    with atomic_path(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _open_events(folder: Path, step: int) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.warning("tensorboard is not installed; %s has the same in steps.csv and *.png", folder)
        return None
    return SummaryWriter(str(folder), purge_step=step)
