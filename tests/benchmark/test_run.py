"""A whole benchmark: rows are made once, failures are told, a kill leaves nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from cryomend.benchmark import METHODS, BenchmarkOptions, read_recipe, run_benchmark
from cryomend.benchmark.digest import digest_of_given
from cryomend.benchmark.job import Job
from cryomend.benchmark.row import do_job
from cryomend.io import InputError

PYTHON = shlex.quote(sys.executable)
COPY = f"{PYTHON} -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{tomogram}} {{output}}"


def external(name: str, command: str) -> str:
    return f"[external.{name}]\ncommand = {json.dumps(command)}\n"


def options(**changes) -> BenchmarkOptions:
    return BenchmarkOptions(**{"device": "cpu", "command": "cryomend benchmark x"} | changes)


def rows_of(folder, table="methods") -> list[dict[str, str]]:
    with (folder / f"table_{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_benchmark_leaves_tables_pictures_and_a_page(recipe, tmp_path, in_process):
    lines = run_benchmark(str(recipe()), tmp_path / "out", options(methods="wbp,gaussian,sirt"))
    assert in_process == ["ball--wbp", "ball--gaussian", "ball--sirt"]
    names = {p.name for p in (tmp_path / "out").iterdir() if p.is_file()}
    tables = {f"table_methods.{end}" for end in ("md", "csv", "tex", "json")}
    assert names == tables | {"methods_ball.png", "benchmark.html", "recipe.json"}
    assert (tmp_path / "out" / "table_methods.md").read_text() == "\n".join(lines) + "\n"
    rows = {row["row"]: row for row in rows_of(tmp_path / "out") if row["tomogram"] == "ball"}
    assert float(rows["gaussian"]["corr."]) > float(rows["wbp"]["corr."])
    for row in rows.values():
        assert (row["command"], row["seed"], row["device"]) == ("cryomend benchmark x", "0", "cpu")
        assert float(row["seconds"]) > 0
        assert float(row["peak GiB"]) > 0
        assert row["version"]
    assert "chosen_with_truth True" in rows["gaussian"]["chosen"]


def test_finished_rows_are_not_made_again_and_changed_ones_are(recipe, tmp_path, in_process):
    out = tmp_path / "out"
    run_benchmark(str(recipe()), out, options(methods="wbp"))
    before = (out / "table_methods.csv").read_text()
    run_benchmark(str(recipe()), out, options(methods="wbp"))
    assert in_process == ["ball--wbp"]
    assert (out / "table_methods.csv").read_text() == before
    run_benchmark(str(recipe()), out, options(methods="wbp", seed=1))
    assert in_process == ["ball--wbp"] * 2
    run_benchmark(str(recipe(before="sirt_iterations = 3\n")), out, options(methods="wbp,sirt"))
    run_benchmark(str(recipe(before="sirt_iterations = 4\n")), out, options(methods="wbp,sirt"))
    assert in_process[2:] == ["ball--sirt"] * 2  # of the settings only those that a row depends on count


def test_a_failing_program_marks_its_row_and_the_others_go_on(recipe, tmp_path, in_process):
    more = external("bad", f"{PYTHON} -c 'import sys; sys.exit(\"no licence\")'") + external("good", COPY)
    out = tmp_path / "out"
    lines = run_benchmark(str(recipe(more)), out, options(methods="bad,good,wbp"))
    rows = {row["row"]: row for row in rows_of(out) if row["tomogram"] == "ball"}
    assert rows["bad"]["status"] == "failed"
    assert "no licence" in rows["bad"]["error"]
    assert rows["good"]["corr."] == rows["wbp"]["corr."]
    assert str(out / "cases" / "ball" / "whole.mrc") in rows["good"]["external_command"]
    assert any(line.startswith("| bad (failed) | -") for line in lines)
    run_benchmark(str(recipe(more)), out, options(methods="bad,good,wbp"))
    assert in_process[3:] == ["ball--bad"]  # what failed is tried again


def test_files_of_a_command_are_found_from_where_it_runs_and_their_changes_seen(
    recipe, tmp_path, in_process, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "copy.py"
    script.write_text("import shutil, sys; shutil.copy(*sys.argv[1:])")
    path = recipe(external("mine", f"{PYTHON} copy.py {{tomogram}} {{output}}"))
    run_benchmark(str(path), tmp_path / "out", options(methods="mine"))
    run_benchmark(str(path), tmp_path / "out", options(methods="mine"))
    assert in_process == ["ball--mine"]
    assert rows_of(tmp_path / "out")[0]["status"] == "done"
    script.write_text("import shutil, sys; shutil.copy(*sys.argv[1:])  # better")
    run_benchmark(str(path), tmp_path / "out", options(methods="mine"))
    assert in_process == ["ball--mine"] * 2


def test_a_program_that_needs_what_a_tomogram_lacks_fails_in_one_line(recipe, tmp_path, in_process):
    path = recipe(external("mine", f"{PYTHON} -c 0 {{first}} {{output}}"))
    path.write_text(path.read_text().replace("blanks = 1", 'blanks = 1\nhalves = "tilts"'))
    run_benchmark(str(path), tmp_path / "out", options(methods="mine"))
    assert rows_of(tmp_path / "out")[0]["error"] == "the command asks for {first}, which ball does not have"


def test_a_fit_that_failed_is_not_tried_again_for_the_next_row(recipe, tmp_path, in_process, monkeypatch):
    def fail(job, run):
        raise InputError("no empty area")

    monkeypatch.setattr("cryomend.benchmark.row.fit_noise_model", fail)
    path = recipe("[ablation]\npairs = 2\n")
    lines = run_benchmark(str(path), tmp_path / "out", options(table="lambda"))
    assert in_process == ["noise"]
    assert sum("failed: no empty area" in line for line in lines) == 4


@pytest.mark.parametrize(("halves", "learned_from"), [("frames", "frames"), ("tilts", "neighbouring tilts")])
def test_learned_rivals_take_what_halves_there_are(recipe, tmp_path, in_process, halves, learned_from):
    path = recipe("[two_stage]\nsteps = 2\n[deepdewedge]\nsteps = 1\n")
    path.write_text(path.read_text().replace("blanks = 1", f'blanks = 1\nhalves = "{halves}"'))
    run_benchmark(str(path), tmp_path / "out", options(methods="two-stage,deepdewedge"))
    rows = {row["row"]: row for row in rows_of(tmp_path / "out") if row["tomogram"] == "ball"}
    assert {row["status"] for row in rows.values()} == {"done"}, rows
    assert rows["two-stage"]["chosen"] == f"halves {learned_from}"
    assert rows["deepdewedge"]["chosen"] == f"halves {halves}"


def test_options_that_do_not_fit_are_refused(recipe, tmp_path, run_cli):
    path = recipe()
    for given, message in (
        (["--methods", "wpb"], "unknown method 'wpb'; choose from wbp"),
        (["--table", "tables"], "unknown table 'tables'; choose from methods, noise, lambda"),
        (["--methods", ","], "no method is named; choose from wbp"),
        (["--table", "noise", "--methods", "wbp"], "--methods belongs to --table methods"),
        (["--data", tmp_path], "simulates its data; leave out --data"),
        (["--device", "abacus"], "unknown device 'abacus'"),
    ):
        result = run_cli("benchmark", path, "-o", tmp_path / "out", *given)
        assert (result.code, len(result.err.strip().splitlines())) == (2, 1)
        assert message in result.err
    result = run_cli("benchmark", path, "-o", path)
    assert result.code == 2
    assert "is not a directory" in result.err
    assert not (tmp_path / "out").exists()


def test_the_key_of_a_job_depends_on_the_work_and_not_on_the_place(tmp_path):
    facts = {
        "name": "a",
        "action": "method",
        "settings": {"x": [1, 2]},
        "inputs": "i",
        "seed": 0,
        "device": "cpu",
    }
    job = Job(folder=tmp_path, command="c", **facts)
    assert job.key == Job(folder=tmp_path / "other", command="d", **facts).key
    assert Job.load(job.dump()) == job
    for change in ({"seed": 1}, {"inputs": "j"}, {"settings": {"x": [1, 3]}}, {"device": "cuda"}):
        assert Job(folder=tmp_path, command="c", **facts | change).key != job.key


@pytest.mark.parametrize("changed", [{"bins": [1.0, 2.0]}, {"pixel_sizes": [5.0, 5.4]}])
def test_one_model_for_voxels_of_several_sizes_is_refused(tmp_path, changed):
    settings = {
        "structures": ["1abc"], "membrane_structures": [], "simulated": False, "options": {}, "minutes": 1,
        "stacks": ["a.mrc", "b.mrc"], "angles": ["a.tlt", "b.tlt"], "bins": [2.0, 2.0],
        "pixel_sizes": [5.0, 5.0],
    } | changed  # fmt: skip
    job = Job("per-data-set", "data-set", tmp_path, settings, "i", 0, "cpu", "c")
    job.stem.parent.mkdir()
    record = do_job(job)
    assert record["status"] == "failed"
    assert re.search(r"one model for tomograms of several .*\(.*, .*\); split them", record["error"])


def test_structures_are_told_apart_by_content(tmp_path):
    (tmp_path / "a.pdb").write_text("x")
    before = digest_of_given([str(tmp_path), str(tmp_path / "a.pdb"), "1abc"])
    assert before[0] == before[1] and before[2] == "1abc"
    (tmp_path / "a.pdb").write_text("y")
    assert digest_of_given([str(tmp_path)])[0] != before[0]


def test_rows_of_models_depend_on_their_weights(recipe, tmp_path, monkeypatch, tiny_model):
    config = read_recipe(str(recipe()))
    before = METHODS["fast"].settings(config)
    monkeypatch.setattr("cryomend.benchmark.methods.resolve_model", lambda name: tiny_model)
    assert METHODS["fast"].settings(config) != before


def test_peak_memory_is_seen_and_is_that_of_this_process():
    program = (
        "from cryomend.benchmark.row import peak_memory_gib as peak\n"
        "before = peak()\nblock = b'1' * (int(before * 2**30) + 300 * 2**20)\n"
        "print(before, peak(), block[-1])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    before, after, _ = map(float, done.stdout.split())
    assert after - before > 0.25


def start(recipe_file, out, methods):
    program = f"import sys; sys.argv = ['cryomend', 'benchmark', {str(recipe_file)!r}, '-o', {str(out)!r}, "
    program += f"'--methods', {methods!r}]; from cryomend.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_kill_leaves_nothing_half_written_and_the_next_run_completes(recipe, tmp_path):
    flag = tmp_path / "started"
    wait = f"{PYTHON} -c 'import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); "
    wait += 'p.exists() or (p.write_text(str(__import__("os").getpid())), time.sleep(600)); '
    wait += f'__import__("shutil").copy(*sys.argv[2:])\' {flag} {{tomogram}} {{output}}'
    path, out = recipe(external("slow", wait)), tmp_path / "out"
    parent = start(path, out, "slow")
    deadline = time.monotonic() + 300
    while not (flag.exists() and flag.read_text()):
        assert time.monotonic() < deadline and parent.poll() is None, parent.stderr.read()
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stderr.close()
    while runs(int(flag.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    left = [p.name for p in (out / "rows").iterdir()]
    assert not any(name.endswith((".json", ".mrc", ".partial")) for name in left)
    again = start(path, out, "slow")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert [row["status"] for row in rows_of(out) if row["tomogram"] == "ball"] == ["done"]


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
