"""Restoring files: everything is checked before work starts, one bad file does not stop the others."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cryomend.io import InputError, write_json
from cryomend.network.precision import PRECISIONS, autocast_dtype
from cryomend.restoration.engine import is_out_of_memory
from cryomend.restoration.inputs import (
    Job,
    check_job,
    check_places,
    common_tilt_range,
    list_sources,
    name_targets,
)
from cryomend.restoration.job import (
    Progress,
    Progresses,
    Say,
    Setting,
    Work,
    is_done,
    range_in_words,
    restore_job,
    say_setting,
)
from cryomend.restoration.model import choose_model, load_model
from cryomend.restoration.options import Options, check_options
from cryomend.restoration.parallel import Died, Send, work_in_processes
from cryomend.restoration.predict import choose_devices
from cryomend.restoration.progress import BatchProgress

__all__ = ["Work", "restore_files"]

PathLike = str | os.PathLike[str]


def restore_files(
    inputs: Sequence[PathLike],
    output: PathLike,
    *,
    tilt_range: tuple[float, float] | None = None,
    tilt_angles_path: PathLike | None = None,
    protein: str = "dark",
    voxel_size: float | None = None,
    model: PathLike | None = None,
    device: str = "auto",
    batch_report: PathLike | None = None,
    report: PathLike | None = None,
    average_along_y: bool = False,
    options: Options | None = None,
    work: Work | None = None,
    skip_done: bool = False,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Restore tomograms in MRC files and say on stderr what was understood and done.

    The header of every input, the model, the device and the output place are checked before any work; the
    voxels of an input when its turn has come. Of one file a failure is raised; of several the others are
    still restored and the failure is in the results.

    Parameters
    ----------
    inputs : sequence of path-like
        Files, directories of which every .mrc, .rec and .map is taken (but no ``*_restored.mrc``), patterns
        and lists, as `cryomend.restoration.inputs.list_sources` takes them.
    output : path-like
        A file for one input; a directory for several, for a directory, or where one exists or the name
        ends in a separator. In a directory results are called ``STEM_restored.mrc``.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees, inside ±90, of all inputs for which no list tells others.
    tilt_angles_path : path-like, optional
        List of tilt angles instead; if neither is given, one of the input's name beside it is used.
    protein : {"dark", "bright"}
        Contrast of the inputs and of the results.
    voxel_size : float, optional
        Å; replaces what the headers say.
    model : str or path-like, optional
        Name of a bundled model (``fast``, ``best``) or a file; as `choose_model` takes it if None.
    device : str
        Where the network runs, as `cryomend.restoration.predict.choose_devices` takes it; of several every
        one takes the next tile.
    batch_report : path-like, optional
        JSON file: a list of the results.
    report : path-like, optional
        HTML page with pictures of one input before and after.
    average_along_y : bool
        Average the x-z pictures of that page along Y.
    options : Options, optional
        What of the data is kept, and the confidence volume, as `choose_options` puts them together.
    work : Work, optional
        Precision, processes, and what happens when a device is lost.
    skip_done : bool
        Leave alone what has a result already of the same shape, model and options.
    dry_run : bool
        Check everything and say what would be done, but write nothing.

    Returns
    -------
    list of dict
        Per file ``input``, ``output``, ``status`` ("restored", "failed", "skipped" or "planned"), ``error``,
        ``seconds``, ``device``, ``model``, ``shape``, ``voxel_size``, ``tilt_range``.

    Raises
    ------
    InputError
        If an input, an option or the output place cannot be used, or the only file failed.
    """
    if protein not in ("dark", "bright"):
        raise InputError(f"--protein must be dark or bright, got {protein!r}")
    common = common_tilt_range(tilt_range, tilt_angles_path)
    sources, several = list_sources(inputs)
    paths = [source.path for source in sources]
    if report is not None and len(sources) > 1:
        raise InputError("--report shows one tomogram; give one input or leave it out")
    targets = name_targets(paths, output, into_directory=several)
    pairs = zip(sources, targets, strict=True)
    jobs = [check_job(source, target, common, voxel_size) for source, target in pairs]
    options = options or Options()
    check_options(options, paths, targets, [job.tilt_range for job in jobs])
    devices, work = tuple(choose_devices(device)), work or Work()
    check_work(work, devices)
    choice = choose_model(model, devices[0])
    network, metadata = load_model(choice.model)
    page = None if report is None else Path(report)
    beside = [Path(p) for p in (report, batch_report, options.confidence) if p is not None]
    check_places(targets, beside, Path(output))
    setting = Setting(network, metadata, devices, protein, page, average_along_y, choice.why, options, work)
    for job in jobs:
        try:
            setting.sampling(job.shape, job.voxel_size)
        except InputError as error:
            raise InputError(f"{job.source}: {error}") from error
    done = {job.target for job in jobs if skip_done and is_done(job, setting)}
    if dry_run:
        return _plan(jobs, done, setting)
    return _run_jobs(jobs, done, setting, batch_report)


def check_work(work: Work, devices: Sequence[torch.device]) -> None:
    """See that the work can be done as asked.

    Raises
    ------
    InputError
        If a device has none of the precision, a word is unknown, or several processes would share a GPU.
    """
    if work.precision not in PRECISIONS:
        raise InputError(f"--precision must be {', '.join(PRECISIONS)}, got {work.precision!r}")
    if work.on_device_loss not in ("stop", "cpu"):
        raise InputError(f"--on-device-loss must be stop or cpu, got {work.on_device_loss!r}")
    if work.overlap is not None and work.overlap < 0:
        raise InputError(f"--overlap must be 0 or more voxels, got {work.overlap}")
    if work.jobs < 1:
        raise InputError(f"--jobs must be 1 or more, got {work.jobs}")
    if work.jobs > 1 and any(device.type != "cpu" for device in devices):
        raise InputError("--jobs is for the CPU; several GPUs share the tiles: --device cuda:0,cuda:1")
    for device in devices:
        try:
            autocast_dtype(work.precision, device)
        except ValueError as error:
            raise InputError(f"--precision: {error}") from error


def _record(job: Job, status: str, setting: Setting) -> dict[str, Any]:
    """Start what the results say of a file."""
    record: dict[str, Any] = {"input": job.source, "output": job.target, "status": status, "error": None}
    record |= {
        "seconds": 0.0,
        "device": ",".join(map(str, setting.devices)),
        "model": setting.metadata["name"],
    }
    return record


def _facts(job: Job) -> dict[str, Any]:
    """Give what the header of a file says."""
    return {"shape": job.shape, "voxel_size": job.voxel_size, "tilt_range": job.tilt_range}


def _make_console() -> Console:
    """Make where things are said, for people and for log files."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def _plan(jobs: list[Job], done: set[Path], setting: Setting) -> list[dict[str, Any]]:
    """Say what would be done."""
    console = _make_console()
    say_setting(setting, console.print)
    for job in jobs:
        shape = " x ".join(map(str, job.shape))
        what = "skip, result is there" if job.target in done else "restore"
        console.print(
            f"{what}: {job.source}: {shape} voxels (Z, Y, X) of {job.voxel_size:g} Å, "
            f"{range_in_words(job.tilt_range)} -> {job.target}"
        )
    left = sum(job.target not in done for job in jobs)
    console.print(f"dry run: {left} of {len(jobs)} to restore, nothing written")
    return [
        _record(job, "skipped" if job.target in done else "planned", setting) | _facts(job) for job in jobs
    ]


def _run_jobs(
    jobs: list[Job], done: set[Path], setting: Setting, batch_report: PathLike | None
) -> list[dict[str, Any]]:
    """Restore file after file, or several at a time; the batch report is written even after an interrupt."""
    console = _make_console()
    todo = [job for job in jobs if job.target not in done]
    progress = BatchProgress(console, [math.prod(job.shape) for job in todo])
    results: dict[Path, dict[str, Any]] = {}
    if len(jobs) > 1:
        say_setting(setting, console.print)
    for job in jobs:
        if job.target in done:
            console.print(f"{job.source}: skipped, {job.target} is there")
            results[job.target] = _record(job, "skipped", setting) | _facts(job)
    run = _run_in_processes if setting.work.jobs > 1 and len(todo) > 1 else _run_here
    try:
        for number, record in run(todo, setting, console, progress, keep_going=len(jobs) > 1):
            progress.finish(number, worked=record["status"] == "restored")
            results[todo[number].target] = record
            if record["status"] == "restored":
                console.print(f"wrote {todo[number].target} in {record['seconds']:.1f} s")
            else:
                console.print(f"{todo[number].source}: failed: {record['error']}")
    finally:
        in_order = [results[job.target] for job in jobs if job.target in results]
        if batch_report is not None:
            write_json(batch_report, in_order)
    if len(jobs) > 1:
        console.print(_table(in_order))
    return in_order


def _run_here(
    todo: list[Job], setting: Setting, console: Console, progress: BatchProgress, *, keep_going: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Restore one file after the other in this process."""
    for number, job in enumerate(todo):
        show = partial(progress.file, number=number)
        yield number, _run_job(job, setting, console.print, show, keep_going=keep_going)


def _run_in_processes(
    todo: list[Job], setting: Setting, console: Console, progress: BatchProgress, *, keep_going: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Restore several files at a time, which share the threads."""
    processes = min(setting.work.jobs, len(todo))
    threads = max(1, torch.get_num_threads() // processes)
    setting = replace(setting, work=replace(setting.work, jobs=processes))
    console.print(f"{processes} tomograms at a time, {threads} threads each")

    def show(number: int, message: tuple[str, ...]) -> None:
        kind, *what = message
        if kind == "say":
            console.print(*what)
        elif kind == "begin":
            progress.begin(what[0], number)
        else:
            getattr(progress, kind)(*what)

    ended = work_in_processes(
        partial(_run_apart, setting=setting), todo, processes=processes, threads=threads, on_message=show
    )
    for number, record in ended:
        if isinstance(record, Died):
            record = _record(todo[number], "failed", setting) | {"error": str(record)}
        yield number, record


def _run_apart(job: Job, send: Send, *, setting: Setting) -> dict[str, Any]:
    """Restore a file in a process of its own; what there is to say and to show goes to the first one."""

    @contextmanager
    def show(name: str) -> Iterator[Progress]:
        send(("begin", name))
        yield lambda done, total: send(("advance", name, done, total))
        send(("end", name))

    return _run_job(job, setting, lambda text: send(("say", text)), show, keep_going=True)


def _run_job(job: Job, setting: Setting, say: Say, show: Progresses, *, keep_going: bool) -> dict[str, Any]:
    """Restore one file and record how it went."""
    record = _record(job, "failed", setting)
    started = time.monotonic()
    try:
        restore_job(job, setting, say, show, announce=not keep_going)
        record |= _facts(job) | {"status": "restored"}
    except Exception as error:
        if not keep_going:
            raise _as_input_error(error, setting.device) from error
        record["error"] = " ".join(str(_as_input_error(error, setting.device)).split())
    record["seconds"] = round(time.monotonic() - started, 2)
    return record


def _as_input_error(error: Exception, device: torch.device) -> Exception:
    """Turn running out of memory into one line; leave everything else."""
    if is_out_of_memory(error):
        return InputError(f"out of memory on {device}; free some, or pass another --device")
    return error


def _table(results: list[dict[str, Any]]) -> str:
    """Show what became of every file of a batch, one line each, never cut to the width of a terminal."""
    width = max(len(str(result["input"])) for result in results)
    lines = [f"{'file':<{width}}  status    seconds  result or reason"]
    for result in results:
        outcome = result["error"] if result["status"] == "failed" else result["output"]
        seconds = f"{result['seconds']:.1f}"
        lines.append(f"{result['input']!s:<{width}}  {result['status']:<8}  {seconds:>7}  {outcome}")
    return "\n".join(lines)
