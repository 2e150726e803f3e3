"""A whole benchmark: data, jobs in child processes, tables and pictures; what stands is not made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cryomend import __version__
from cryomend.benchmark.case import Case
from cryomend.benchmark.digest import digest_of, digest_of_content, digest_of_given
from cryomend.benchmark.external import pin_files
from cryomend.benchmark.fit_models import variant_settings
from cryomend.benchmark.job import Job, read_record
from cryomend.benchmark.methods import METHODS
from cryomend.benchmark.outcome import TABLES, write_outcome
from cryomend.benchmark.recipes import PER_DATA_SET, check_methods, read_recipe
from cryomend.benchmark.recorded import prepare_cases
from cryomend.benchmark.simulated import record_blanks, simulate_cases
from cryomend.benchmark.table import Row
from cryomend.benchmark.variants import Variant, lambda_variants, noise_variants
from cryomend.config import BenchmarkConfig
from cryomend.io import InputError, check_folder, write_json
from cryomend.restoration.model import choose_model, resolve_model
from cryomend.restoration.predict import choose_device

__all__ = ["BenchmarkOptions", "run_benchmark"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What a user asks of a benchmark beside its recipe; ``command`` is recorded with every row."""

    methods: str | None = None
    table: str = "methods"
    data: Path | None = None
    seed: int = 0
    device: str = "auto"
    command: str = ""


@dataclass(frozen=True)
class _Planned:
    """A row: what must be fitted first, in order, and then a job for each case."""

    label: str
    fits: list[Job] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)


def run_benchmark(
    recipe: str,
    output: Path,
    options: BenchmarkOptions,
    *,
    on_progress: Progress = lambda share, text: None,
) -> list[str]:
    """Run a recipe and write ``table_NAME.md``, ``.csv``, ``.tex``, pictures and ``benchmark.html``.

    Parameters
    ----------
    recipe : str
        Name of a recipe of the package, or a TOML file.
    output : Path
        Folder; ``cases`` holds the data, ``rows`` volumes and records, which a later run takes as they are.
    options : BenchmarkOptions
        Methods, table, folder of recorded data, seed and device.
    on_progress : callable
        Told the share done and what is being done.

    Returns
    -------
    list of str
        The Markdown of the table, line by line, then what failed.

    Raises
    ------
    ValueError
        As `read_recipe`; if methods are unknown, data are missing or the folder cannot be written.
    """
    config = read_recipe(recipe)
    if options.table not in TABLES:
        raise InputError(f"unknown table {options.table!r}; choose from {', '.join(TABLES)}")
    if options.methods is not None and options.table != "methods":
        raise InputError(f"--methods belongs to --table methods; leave it out of --table {options.table}")
    methods = config.methods
    if options.methods is not None:
        methods = tuple(name.strip() for name in options.methods.split(",") if name.strip())
        check_methods(config, methods)
    device = choose_device(options.device)
    check_folder(output)
    if config.simulated is not None and options.data is not None:
        raise InputError(f"{recipe} simulates its data; leave out --data")
    output = output.absolute()
    cases = _find_cases(config, output, options, device, on_progress)
    (output / "rows").mkdir(parents=True, exist_ok=True)
    write_json(output / "recipe.json", {"version": __version__, **config.model_dump(mode="json")})
    plan = _Planner(config, output, cases, options, str(device))
    if options.table == "methods":
        planned = [plan.method(name) for name in methods]
    else:
        variants = (noise_variants if options.table == "noise" else lambda_variants)(config.ablation)
        planned = [plan.variant(label, variant) for label, variant in variants.items()]
    rows = _run_rows(planned, on_progress)
    return write_outcome(output, options.table, config.title, rows, cases)


def _find_cases(
    config: BenchmarkConfig, output: Path, options: BenchmarkOptions, device: torch.device, progress: Progress
) -> list[Case]:
    """Data of the recipe, simulated or found."""
    if config.simulated is None:
        return prepare_cases(config, output / "cases", options.data)
    return simulate_cases(config.simulated, output / "cases", device=device, on_progress=progress)


@dataclass(frozen=True)
class _Planner:
    """Makes the jobs of rows."""

    config: BenchmarkConfig
    output: Path
    cases: Sequence[Case]
    options: BenchmarkOptions
    device: str

    def method(self, name: str) -> _Planned:
        """The row of a method."""
        if name == PER_DATA_SET:
            return self._restored(name, [self._job(name, "data-set", self._data_set(), self._data())])
        if name in self.config.external:
            action, settings = "external", pin_files(self.config.external[name].model_dump())
        else:
            action, settings = "method", {"method": name} | METHODS[name].settings(self.config)
        jobs = [self._job(f"{c.name}--{name}", action, settings, c.digest, c) for c in self.cases]
        return _Planned(name, [], jobs)

    def variant(self, label: str, variant: Variant) -> _Planned:
        """The row of a network trained in one way."""
        ablation, fits = self.config.ablation, list[Job]()
        simulation = ablation.recipe.simulation.model_dump(mode="json")
        # a folder of pairs is trained on as a whole: no two runs may put theirs into one
        made = digest_of(
            __version__, self.options.seed, self.device, ablation.pairs, simulation, variant.pairs
        )
        noise = None
        if variant.learned is not None:
            fits.append(self._job("noise", "noise", *self._noise()))
            noise = self._place(fits[0].result)
            made = digest_of(made, fits[0].key)
        settings = variant_settings(ablation, variant, noise)
        fits.append(self._job(f"train--{variant.name}", "variant", settings, made))
        return self._restored(label, fits, variant.name)

    def _restored(self, label: str, fits: list[Job], name: str | None = None) -> _Planned:
        """A row whose model is fitted first."""
        settings = {"model": self._place(fits[-1].result)}
        jobs = [
            self._job(f"{c.name}--{name or label}", "model", settings, digest_of(c.digest, fits[-1].key), c)
            for c in self.cases
        ]
        return _Planned(label, fits, jobs)

    def _job(
        self, name: str, action: str, settings: dict[str, Any], inputs: str, case: Case | None = None
    ) -> Job:
        plain = json.loads(json.dumps(settings, default=str))  # as the child will see them: lists, not tuples
        return Job(
            name, action, self.output, plain, inputs, self.options.seed, self.device, self.options.command,
            None if case is None else case.name,
        )  # fmt: skip

    def _data(self) -> str:
        return digest_of([case.digest for case in self.cases])

    def _place(self, path: Path) -> str:
        """A path as it stands in the settings: from the benchmark's folder if it lies there."""
        try:
            return str(path.relative_to(self.output))
        except ValueError:
            return str(path)

    def _sources(self) -> dict[str, Any]:
        """Stacks as they were recorded, their angles, and what a tomogram's voxel is over their pixel."""
        stacks = [self._place(c.folder / c.source["stack"]) for c in self.cases]
        angles = [self._place(c.folder / (c.source["angles"] or "angles.tlt")) for c in self.cases]
        bins = [float(c.source["bin"]) for c in self.cases]
        sizes = [c.voxel_size / bin for c, bin in zip(self.cases, bins, strict=True)]
        return {"stacks": stacks, "angles": angles, "bins": bins, "pixel_sizes": sizes}

    def _data_set(self) -> dict[str, Any]:
        """Settings of the row per-data-set."""
        simulated, given = self.config.simulated, self.config.per_data_set.model_dump(mode="json")
        if simulated is not None and not (given["structures"] or given["membrane_structures"]):
            given["structures"] = list(simulated.structures)
            given["membrane_structures"] = list(simulated.membrane_structures)
        contents = [digest_of_given(given[key]) for key in ("structures", "membrane_structures")]
        start = digest_of_content(resolve_model(choose_model(None, self.device).model))
        more = {"simulated": simulated is not None, "start": start, "contents": contents}
        return given | self._sources() | more

    def _noise(self) -> tuple[dict[str, Any], str]:
        """Settings of the noise model of the tables noise and lambda, and the digest of its data."""
        ablation, simulated = self.config.ablation, self.config.simulated
        settings: dict[str, Any] = {
            "kind": ablation.noise_model, "minutes": ablation.noise_minutes, "patch": ablation.patch
        }  # fmt: skip
        if simulated is None:
            sources = self._sources()
            return settings | {k: sources[k] for k in ("stacks", "angles", "pixel_sizes")}, self._data()
        digest = digest_of(__version__, simulated.model_dump(mode="json"))
        blanks = record_blanks(simulated, self.output / "cases" / f"blanks-{digest[:8]}")
        stacks, angles = ([self._place(path) for path in paths] for paths in zip(*blanks, strict=True))
        return settings | {"stacks": stacks, "angles": angles}, digest


def _run_rows(planned: Sequence[_Planned], on_progress: Progress) -> list[Row]:
    """Do all jobs that have not been done, row by row."""
    total = sum(len(row.fits) + len(row.jobs) for row in planned)
    before = 0
    rows = []
    fitted: dict[str, dict[str, Any]] = {}  # by key: what failed is not tried again for the next row
    for row in planned:
        fits: list[dict[str, Any]] = []
        for job in row.fits:
            if job.key not in fitted:
                fitted[job.key] = _run_unless_broken(job, fits, before, total, on_progress)
            fits.append(fitted[job.key])
            before += 1
        records = []
        for job in row.jobs:
            records.append(_run_unless_broken(job, fits, before, total, on_progress))
            before += 1
        rows.append(Row(row.label, records, fits))
    on_progress(1.0, "tables and pictures")
    return rows


def _run_unless_broken(
    job: Job, fits: Sequence[dict[str, Any]], before: int, total: int, on_progress: Progress
) -> dict[str, Any]:
    """The record of a job; one that needs what could not be fitted has failed for the same reason."""
    broken = next((record for record in fits if record["status"] != "done"), None)
    if broken is not None:
        return job.describe() | {"status": "failed", "error": broken["error"]}
    on_progress(before / total, job.name)
    return _run_job(job, lambda share, text: on_progress((before + share) / total, text))


def _run_job(job: Job, on_progress: Progress) -> dict[str, Any]:
    """The record of a job: as it stands, or after a child process has done it."""
    if (record := read_record(job)) is not None:
        return record
    job.record.unlink(missing_ok=True)
    log = job.stem.with_name(job.stem.name + ".log")
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "cryomend.benchmark.row"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that it can be ended with all that it starts
        )
        try:
            _talk(child, job, on_progress)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            code = child.wait()
            with suppress(ProcessLookupError, PermissionError):  # what a program of the user's left running
                os.killpg(child.pid, signal.SIGKILL)
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
    if job.record.is_file():
        record = json.loads(job.record.read_text(encoding="utf-8"))
    else:
        record = job.describe() | {"status": "failed", "error": _how_it_ended(code, log)}
        write_json(job.record, record)
    if record["status"] == "done":
        log.unlink()
    return dict(record)


def _talk(child: subprocess.Popen[str], job: Job, on_progress: Progress) -> None:
    """Tell a child its job and hear how far it is, until it closes its mouth."""
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(job.dump() + "\n")
        child.stdin.flush()  # left open: its end tells the child that this process is gone
    except BrokenPipeError:
        return
    for line in child.stdout:
        try:
            share, text = json.loads(line)
        except (ValueError, TypeError):  # a library that prints
            continue
        on_progress(float(share), f"{job.name}: {text}")


def _how_it_ended(code: int, log: Path) -> str:
    """Why a child left no record."""
    if code == -signal.SIGKILL:
        return "killed, maybe for want of memory"
    lines = [x.strip() for x in log.read_text(errors="replace").splitlines() if x.strip()]
    return f"ended with exit code {code}: {' | '.join(lines[-3:])}"
