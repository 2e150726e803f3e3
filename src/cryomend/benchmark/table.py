"""Tables of a benchmark: means over its tomograms as Markdown and LaTeX, every record as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryomend.benchmark.case import Case
from cryomend.io import write_json, write_text

__all__ = ["COLUMNS", "Column", "Row", "mean_scores", "write_table_files"]


@dataclass(frozen=True)
class Row:
    """A row: its label, a record for every tomogram, and those of what was fitted before."""

    label: str
    records: Sequence[Mapping[str, Any]]
    fits: Sequence[Mapping[str, Any]] = ()

    @property
    def finished(self) -> list[Mapping[str, Any]]:
        """Records of the tomograms that have a volume."""
        return [record for record in self.records if record["status"] == "done"]

    @property
    def fit_seconds(self) -> float | None:
        """Seconds of what was fitted for all tomograms together."""
        return sum(float(fit.get("seconds", 0.0)) for fit in self.fits) if self.fits else None


@dataclass(frozen=True)
class Column:
    """A column: its head, where its number stands in a record, digits, and whether more is better.

    ``better`` is 1, -1 where less is better, 0 where neither; what is not ``shown`` is in the CSV alone;
    ``everywhere`` says that every tomogram has it if one has.
    """

    head: str
    path: tuple[str, ...]
    digits: int
    better: int = 1
    shown: bool = True
    everywhere: bool = True

    def value(self, record: Mapping[str, Any]) -> float | None:
        """The number in a record, None if it is not there or not finite."""
        here: Any = record
        for key in self.path:
            here = here.get(key) if isinstance(here, Mapping) else None
        return float(here) if isinstance(here, (int, float)) and math.isfinite(here) else None


def _truth(head: str, *path: str, digits: int = 3, better: int = 1, shown: bool = True) -> Column:
    return Column(head, ("scores", "truth", *path), digits, better, shown)


def _found(head: str, *path: str, shown: bool = False) -> Column:
    return Column(head, ("scores", "particles", *path), 3, shown=shown, everywhere=False)


_FSC, _HALF = "mean_fsc_400_to_40_angstrom", "resolution_at_0.5_angstrom"
COLUMNS = (
    _truth("corr.", "overall", "correlation"),
    _truth("corr. wedge", "inside_wedge", "correlation"),
    _truth("corr. measured", "inside_measured_region", "correlation"),
    _truth("FSC", "overall", _FSC),
    _truth("FSC wedge", "inside_wedge", _FSC),
    _truth("FSC measured", "inside_measured_region", _FSC),
    _truth("FSC 0.5 (Å)", "overall", _HALF, digits=1, better=-1),
    _truth("PSNR (dB)", "psnr_db", digits=2),
    _truth("SSIM", "ssim"),
    _truth("SNR 1 (Å)", "overall", "resolution_at_snr_1_angstrom", digits=1, better=-1, shown=False),
    *(_truth(f"FSC cone {axis}", f"cone_{axis}", _FSC, shown=False) for axis in "zyx"),
    Column("CNR pooled", ("scores", "areas", "mean", "cnr_pooled"), 3),
    Column("CNR sum", ("scores", "areas", "mean", "cnr_sum"), 3),
    Column("ENL", ("scores", "areas", "mean", "enl"), 1),
    Column("ENL stored", ("scores", "areas", "mean", "enl_stored"), 1, shown=False),
    _found("F1", "measured", "best_threshold", "f1", shown=True),
    _found("F1 all", "all", "best_threshold", "f1", shown=True),
    _found("precision", "measured", "best_threshold", "precision"),
    _found("recall", "measured", "best_threshold", "recall"),
    _found("F1 as many", "measured", "as_many_as_particles", "f1"),
    Column("seconds", ("seconds",), 1, 0),
    Column("CPU s", ("processor_seconds",), 1, 0),
    Column("fit seconds", ("fit_seconds",), 0, 0),
    Column("peak GiB", ("peak_memory_gib",), 2, 0),
    Column("device GiB", ("device_memory_gib",), 2, 0),
)


def mean_scores(row: Row) -> dict[str, float | None]:
    """Mean of every column over the tomograms that a row has finished; peaks are the largest."""
    means: dict[str, float | None] = {}
    for column in COLUMNS:
        if column.head == "fit seconds":
            means[column.head] = row.fit_seconds
            continue
        records = [*row.finished, *row.fits] if column.head.endswith("GiB") else row.finished
        values = [v for record in records if (v := column.value(record)) is not None]
        if column.better and column.everywhere and len(values) < len(row.finished):
            values = []  # a mean over the easy tomograms would win
        combine = np.max if column.head.endswith("GiB") else np.mean
        means[column.head] = float(combine(values)) if values else None
    return means


def write_table_files(
    folder: Path, name: str, title: str, rows: Sequence[Row], cases: Sequence[Case]
) -> list[str]:
    """Write ``table_NAME.md``, ``.csv``, ``.tex`` and ``.json``.

    Parameters
    ----------
    folder : Path
        Of the benchmark.
    name, title : str
        Of the table, and of the recipe.
    rows : sequence of Row
        In their order.
    cases : sequence of Case
        The tomograms.

    Returns
    -------
    list of str
        The lines of the Markdown.
    """
    means = [mean_scores(row) for row in rows]
    columns = [c for c in COLUMNS if c.shown and any(mean[c.head] is not None for mean in means)]
    notes = _notes(rows, cases)
    body = [_cells(row, mean, columns) for row, mean in zip(rows, means, strict=True)]
    whole = [len(row.finished) == len(row.records) for row in rows]
    best = _best(means, columns, whole)
    heads = [name, *(c.head for c in columns)]
    lines = [f"## {title}: {name}", "", *_markdown(heads, body, best), "", *[f"- {note}" for note in notes]]
    write_text(folder / f"table_{name}.md", "\n".join(lines) + "\n")
    write_text(folder / f"table_{name}.tex", _latex(heads, body, best, f"{title}: {name}"))
    write_text(folder / f"table_{name}.csv", _csv(rows, means))
    content = {"name": name, "title": title, "heads": heads, "rows": body, "notes": notes}
    marks = [[i in best.get(column.head, ()) for column in columns] for i in range(len(rows))]
    write_json(folder / f"table_{name}.json", content | {"best": marks})
    return lines


def _cells(row: Row, mean: Mapping[str, float | None], columns: Sequence[Column]) -> list[str]:
    """A row as text: label, then numbers or dashes; failures and gaps stand beside the label."""
    label = row.label
    if not row.finished:
        label += " (failed)"
    elif len(row.finished) < len(row.records):
        label += f" ({len(row.finished)} of {len(row.records)})"
    numbers = ((mean[c.head], c.digits) for c in columns)
    return [label, *("-" if value is None else f"{value:.{digits}f}" for value, digits in numbers)]


def _best(
    means: Sequence[Mapping[str, float | None]], columns: Sequence[Column], whole: Sequence[bool]
) -> dict[str, set[int]]:
    """Numbers of the rows that are best in a column, as far as its digits tell, of those without gaps."""
    best = {}
    for column in columns:
        values = [
            None
            if (v := mean[column.head]) is None or not all_there
            else round(column.better * v, column.digits)
            for mean, all_there in zip(means, whole, strict=True)
        ]
        known = [v for v in values if v is not None]
        if column.better and len(known) > 1:
            best[column.head] = {i for i, v in enumerate(values) if v == max(known)}
    return best


def _markdown(heads: Sequence[str], body: Sequence[Sequence[str]], best: Mapping[str, set[int]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for i, cells in enumerate(body):
        marked = [
            f"**{cell}**" if i in best.get(head, ()) else cell
            for head, cell in zip(heads, cells, strict=True)
        ]
        lines.append("| " + " | ".join(marked) + " |")
    return lines


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "λ": r"$\lambda$", "Å": r"\AA{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def _latex(
    heads: Sequence[str], body: Sequence[Sequence[str]], best: Mapping[str, set[int]], caption: str
) -> str:
    """A table that needs no package."""
    lines = [
        r"\begin{table}", rf"\caption{{{_tex(caption)}}}", rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\hline", " & ".join(map(_tex, heads)) + r" \\", r"\hline",
    ]  # fmt: skip
    for i, cells in enumerate(body):
        marked = [
            rf"\textbf{{{_tex(cell)}}}" if i in best.get(head, ()) else _tex(cell)
            for head, cell in zip(heads, cells, strict=True)
        ]
        lines.append(" & ".join(marked) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}", ""])


_FACTS = (
    "status",
    "seed",
    "device",
    "version",
    "command",
    "external_command",
    "chosen",
    "error",
)


def _csv(rows: Sequence[Row], means: Sequence[Mapping[str, float | None]]) -> str:
    """Every record of every row, what was fitted first, then its mean."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "tomogram", *(c.head for c in COLUMNS), *_FACTS])
    for row, mean in zip(rows, means, strict=True):
        for record in row.fits:
            writer.writerow([row.label, f"({record['name']})", *_plain(record), *_facts(record)])
        for record in row.records:
            writer.writerow([row.label, record["case"], *_plain(record), *_facts(record)])
        writer.writerow(
            [row.label, "mean", *("" if v is None else v for v in mean.values()), *[""] * len(_FACTS)]
        )
    return text.getvalue()


def _plain(record: Mapping[str, Any]) -> list[Any]:
    return ["" if (value := column.value(record)) is None else value for column in COLUMNS]


def _facts(record: Mapping[str, Any]) -> list[Any]:
    values = (record.get(name, "") for name in _FACTS)
    return [
        "; ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        for value in values
    ]


def _notes(rows: Sequence[Row], cases: Sequence[Case]) -> list[str]:
    """What the numbers are, what was chosen with the truth in hand, and what failed."""
    first = next((record for row in rows for record in row.records), {})
    shapes = dict.fromkeys(" x ".join(map(str, case.shape)) for case in cases)
    notes = [
        f"Mean over {len(cases)} tomogram{'s' if len(cases) > 1 else ''} "
        f"({', '.join(case.name for case in cases)}; {', '.join(shapes)} voxels of "
        f"{cases[0].voxel_size:.4g} Å). Version {first.get('version')}, seed {first.get('seed')}, "
        f"device {first.get('device')}.",
        "Seconds are those of one tomogram on the clock, CPU s of the processors (much less than seconds "
        "means that the machine had other work); fit seconds those of a model fitted once for all. Peak "
        "memory is the largest resident of the row's own process, which holds 0.4 GiB before it begins.",
    ]
    scaling = next((s for row in rows for r in row.finished if (s := r["scores"].get("scaling"))), None)
    if scaling:
        notes.append("; ".join(f"{k.replace('_', ' ')}: {v}" for k, v in scaling.items()) + ".")
    sought = [f"{len(s['voxels_zyx'])} of {s['species']} in {c.name}" for c in cases if (s := c.sought)]
    if sought:
        notes.append(
            "F1: of picks by template matching at the best threshold, in the measured region; F1 all: in all "
            f"of Fourier space ({'; '.join(sought)})."
        )
    if any(r.get("chosen", {}).get("chosen_with_truth") for row in rows for r in row.finished):
        told = [row.label for row in rows if any(r["chosen"].get("chosen_with_truth") for r in row.finished)]
        notes.append(f"{' and '.join(told)}: settings chosen for each tomogram with the truth in hand.")
    if first.get("command"):
        notes.append(f"`{first['command']}`")
    for row in rows:
        errors = dict.fromkeys(str(r["error"]) for r in (*row.fits, *row.records) if r["status"] != "done")
        notes += [f"{row.label} failed: {error}" for error in errors]
    return notes
