"""What a benchmark leaves: tables, pictures and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomend.benchmark.case import Case
from cryomend.benchmark.figures import draw_rows, write_page
from cryomend.benchmark.table import Row, write_table_files
from cryomend.io import open_volume

__all__ = ["TABLES", "write_outcome"]

TABLES = ("methods", "noise", "lambda")


def write_outcome(
    folder: Path, name: str, title: str, rows: Sequence[Row], cases: Sequence[Case]
) -> list[str]:
    """Write the table of some rows, a picture for every tomogram, and the page of all tables there are.

    Parameters
    ----------
    folder : Path
        Of the benchmark.
    name, title : str
        Of the table and of the recipe.
    rows : sequence of Row
        In their order.
    cases : sequence of Case
        The tomograms.

    Returns
    -------
    list of str
        The table as Markdown.
    """
    lines = write_table_files(folder, name, title, rows, cases)
    for old in folder.glob(f"{name}_*.png"):
        old.unlink()  # of other tomograms or rows
    for case in cases:
        if volumes := _volumes(folder, rows, case):
            draw_rows(
                folder / f"{name}_{case.name}.png",
                volumes,
                areas=case.areas(),
                title=f"{title}: {case.name}",
                voxel_size=case.voxel_size,
                only_xz=name == "lambda",
            )
    write_page(folder, TABLES)
    return lines


def _volumes(folder: Path, rows: Sequence[Row], case: Case) -> dict[str, NDArray[np.float32]]:
    """What is drawn of a tomogram: its truth, if it is known, and the volume of every row that has one."""
    drawn: dict[str, NDArray[np.float32]] = {}
    truth = case.truth()
    if truth is not None:
        drawn["truth"] = -truth.numpy()
    for row in rows:
        for record in row.finished:
            if record["case"] == case.name:
                drawn[row.label] = open_volume(folder / "rows" / record["result"]).data
    return drawn if len(drawn) > (truth is not None) else {}
