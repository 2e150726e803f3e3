"""Tables: means over finished tomograms, best numbers marked, failures told."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import pytest

from cryomend.benchmark.table import COLUMNS, Row, mean_scores, write_table_files


@dataclass
class Tomogram:
    name: str
    shape: tuple[int, int, int] = (8, 8, 8)
    voxel_size: float = 10.0
    sought: dict | None = None


def record(case: str, correlation: float, *, seconds: float = 1.0, peak: float = 1.0, **more):
    truth = {"overall": {"correlation": correlation, "resolution_at_0.5_angstrom": 100 * (1 - correlation)}}
    return {
        "name": f"{case}--x", "case": case, "status": "done", "version": "1", "seed": 0, "device": "cpu",
        "command": "cryomend benchmark x", "seconds": seconds, "peak_memory_gib": peak, "chosen": {},
        "scores": {"truth": truth, "scaling": {"enl": "mean^2 / variance"}}, **more,
    }  # fmt: skip


FAILED = record("b", 0.0) | {"status": "failed", "error": "sorry | no memory"}
ROWS = [
    Row("good_one", [record("a", 0.8, peak=2.0), record("b", 0.6, seconds=3.0)]),
    Row("poor", [record("a", 0.1), record("b", 0.2)]),
    Row("half", [record("a", 0.9), FAILED]),
    Row("λ 1", [FAILED, FAILED], fits=[record("a", 0.0, seconds=7.0) | {"case": None}]),
]


@pytest.fixture
def files(tmp_path):
    lines = write_table_files(tmp_path, "methods", "title", ROWS, [Tomogram("a"), Tomogram("b")])
    return lines, tmp_path


def test_scores_are_means_and_peaks_the_largest():
    means = mean_scores(ROWS[0])
    assert means["corr."] == pytest.approx(0.7)
    assert means["seconds"] == 2.0
    assert means["peak GiB"] == 2.0
    assert means["fit seconds"] is None
    assert mean_scores(ROWS[3])["fit seconds"] == 7.0
    assert mean_scores(ROWS[3])["corr."] is None


def test_markdown_marks_the_best_and_tells_what_failed(files):
    text = "\n".join(files[0])
    assert "| good_one | **0.700** | **30.0** |" in text  # of the resolution less is better
    assert "| half (1 of 2) | 0.900 | 10.0 |" in text  # not the best: it lacks a tomogram
    assert "| λ 1 (failed) | - | - |" in text
    assert "- half failed: sorry | no memory" in text
    assert (files[1] / "table_methods.md").read_text() == text + "\n"


def test_particles_count_in_the_tomograms_that_have_some(tmp_path):
    found = {part: {"best_threshold": {"f1": f1}} for part, f1 in (("measured", 0.5), ("all", 0.75))}
    first, second = record("a", 0.8), record("b", 0.6)
    first["scores"]["particles"] = found
    assert mean_scores(Row("x", [first, second]))["F1"] == 0.5
    alone = first | {"scores": {"particles": found}}  # neither truth nor areas
    write_table_files(tmp_path, "methods", "t", [Row("x", [alone])], [Tomogram("a")])
    sought = {"species": "thing", "voxels_zyx": [[1.0, 2.0, 3.0]] * 7}
    lines = write_table_files(
        tmp_path, "methods", "t", [Row("x", [first, second])],
        [Tomogram("a", sought=sought), Tomogram("b")],
    )  # fmt: skip
    text = "\n".join(lines)
    assert "| F1 | F1 all |" in text and "| 0.500 | 0.750 |" in text
    assert "(7 of thing in a)" in text


def test_columns_that_no_row_has_are_left_out(files):
    assert "CNR" not in files[0][2]
    assert files[0][2].count("|") == len(["methods", "corr.", "FSC 0.5", "seconds", "fit", "peak"]) + 1


def test_latex_escapes_and_has_as_many_cells_in_every_line(files):
    text = (files[1] / "table_methods.tex").read_text()
    assert r"good\_one & \textbf{0.700}" in text
    assert r"$\lambda$ 1 (failed)" in text
    assert len({line.count("&") for line in text.splitlines() if line.endswith(r"\\")}) == 1


def test_csv_has_a_line_for_every_record_and_one_for_the_mean(files):
    with (files[1] / "table_methods.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(x["row"], x["tomogram"]) for x in lines] == [
        ("good_one", "a"), ("good_one", "b"), ("good_one", "mean"),
        ("poor", "a"), ("poor", "b"), ("poor", "mean"), ("half", "a"), ("half", "b"),
        ("half", "mean"), ("λ 1", "(a--x)"), ("λ 1", "b"), ("λ 1", "b"), ("λ 1", "mean"),
    ]  # fmt: skip
    assert float(lines[2]["corr."]) == pytest.approx(0.7)
    assert lines[0]["command"] == "cryomend benchmark x"
    assert lines[7]["error"] == "sorry | no memory"
    assert {c.head for c in COLUMNS} < set(lines[0])
