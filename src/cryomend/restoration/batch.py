"""Restoring files: everything is checked before work starts, one bad file does not stop the others."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cryomend.io import InputError, find_tilt_angles, refuse_overwriting, write_json
from cryomend.network.precision import PRECISIONS, autocast_dtype
from cryomend.restoration.engine import device_error, is_device_lost
from cryomend.restoration.inputs import (
    Job,
    Source,
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
    make_directory,
    range_in_words,
    restore_job,
    say_setting,
)
from cryomend.restoration.model import choose_model, load_model, resolve_model
from cryomend.restoration.options import Options, check_options
from cryomend.restoration.parallel import Died, Send, work_in_processes
from cryomend.restoration.predict import choose_devices
from cryomend.restoration.progress import BatchProgress

__all__ = ["Work", "restore_files"]

PathLike = str | os.PathLike[str]


@dataclass
class _Batch:
    """The inputs of one call with their results, in order, and what is known of each by its result.

    Of several inputs (not ``alone``) one that cannot be used is no more than ``refused``, with the reason.
    """

    pairs: list[tuple[Path, Path]]
    alone: bool
    jobs: dict[Path, Job] = field(default_factory=dict)
    refused: dict[Path, str] = field(default_factory=dict)
    done: set[Path] = field(default_factory=set)

    @contextmanager
    def check(self, target: Path) -> Iterator[None]:
        """Do what may refuse an input."""
        try:
            yield
        except InputError as error:
            if self.alone:
                raise
            self.jobs.pop(target, None)
            self.refused[target] = " ".join(str(error).split())

    @property
    def todo(self) -> list[Job]:
        """What is to be restored."""
        return [job for target, job in self.jobs.items() if target not in self.done]


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
    still restored and the failure is in the results, unless no header is such that work could begin.

    Parameters
    ----------
    inputs : sequence of path-like
        Files, directories of which every .mrc, .rec and .map is taken (but no ``*_restored.mrc``, halves of
        what is there, confidence volumes), patterns and lists, as `cryomend.restoration.inputs.list_sources`
        takes them.
    output : path-like
        A file for one input, with an ending of MRC files; a directory for several, for a directory, or where
        one exists or the name ends in a separator. In a directory results are called ``STEM_restored.mrc``,
        as `cryomend.restoration.inputs.name_targets` does it.
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
        JSON file: a list of the results, also of a single file that failed once work had begun.
    report : path-like, optional
        HTML page with pictures of one input before and after.
    average_along_y : bool
        Average the x-z pictures of that page along Y.
    options : Options, optional
        What of the data is kept, and the confidence volume, as `choose_options` puts them together.
    work : Work, optional
        Precision, processes, and what happens when a device is lost.
    skip_done : bool
        Leave alone what has a result already of the same shape, voxel size, weights and options.
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
        If an option, the output place or the only input (or every one of several) cannot be used, a result
        would overwrite an input or another result, or the only file failed.
    """
    if protein not in ("dark", "bright"):
        raise InputError(f"--protein must be dark or bright, got {protein!r}")
    common = common_tilt_range(tilt_range, tilt_angles_path)
    left_out: list[str] = []
    sources, several = list_sources(inputs, say=left_out.append)
    paths = [source.path for source in sources]
    if report is not None and len(sources) > 1:
        raise InputError("--report shows one tomogram; give one input or leave it out")
    targets = name_targets(paths, output, into_directory=several)
    options = options or Options()
    batch = _check_headers(sources, targets, options, common, voxel_size)
    devices, work = tuple(choose_devices(device)), work or Work()
    check_work(work, devices)
    choice = choose_model(model, devices[0])
    network, metadata = load_model(choice.model)
    page = None if report is None else Path(report)
    beside = [Path(p) for p in (report, batch_report, options.confidence) if p is not None]
    given = [*paths, *inputs, options.even, options.odd, tilt_angles_path, resolve_model(choice.model)]
    refuse_overwriting([*targets, *beside], [*given, *map(find_tilt_angles, paths)])
    check_places(targets, beside, Path(output))
    jobs = list(batch.jobs.values())
    check_options(options, [j.source for j in jobs], [j.tilt_range for j in jobs])
    setting = Setting(network, metadata, devices, protein, page, average_along_y, choice.why, options, work)
    _check_samplings(batch, setting)
    say = _make_console().print
    for line in left_out:  # not before all is checked: what is refused is one line
        say(line)
    if skip_done:
        batch.done = {target for target, job in batch.jobs.items() if is_done(job, setting, say)}
    return _plan(batch, setting) if dry_run else _run_jobs(batch, setting, batch_report)


def _check_headers(
    sources: Sequence[Source],
    targets: Sequence[Path],
    options: Options,
    common: tuple[float, float] | None,
    voxel_size: float | None,
) -> _Batch:
    """See by its header which input can be restored."""
    # what belongs to one tomogram will be refused of several, whatever their headers say
    alone = len(sources) == 1 or options.confidence is not None or options.even is not None
    batch = _Batch([(source.path, target) for source, target in zip(sources, targets, strict=True)], alone)
    for source, target in zip(sources, targets, strict=True):
        with batch.check(target):
            batch.jobs[target] = check_job(source, target, common, voxel_size)
    return batch


def _check_samplings(batch: _Batch, setting: Setting) -> None:
    """See which tomogram has voxels that the network can be given, and that there is one."""
    for target, job in list(batch.jobs.items()):
        with batch.check(target):
            try:
                setting.sampling(job.shape, job.voxel_size)
            except InputError as error:
                raise InputError(f"{job.source}: {error}") from error
    if not batch.jobs:
        first = next(iter(batch.refused.values()))
        raise InputError(f"none of the {len(batch.pairs)} inputs can be restored; {first}")


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
        except RuntimeError as error:  # of a device that does not answer, which the engine may replace
            if not (is_device_lost(error) and work.on_device_loss == "cpu"):
                raise device_error(error, device) or error from error


def _record(source: Path, target: Path, status: str, setting: Setting) -> dict[str, Any]:
    """Start what the results say of a file."""
    record: dict[str, Any] = {"input": source, "output": target, "status": status, "error": None}
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


def _plan(batch: _Batch, setting: Setting) -> list[dict[str, Any]]:
    """Say what would be done."""
    console = _make_console()
    say_setting(setting, console.print)
    records = []
    for source, target in batch.pairs:
        if target in batch.refused:
            console.print(f"cannot be restored: {source}: {batch.refused[target]}")
            records.append(_record(source, target, "failed", setting) | {"error": batch.refused[target]})
            continue
        job = batch.jobs[target]
        shape = " x ".join(map(str, job.shape))
        what, status = "restore", "planned"
        if target in batch.done:
            what, status = "skip, result is there", "skipped"
        console.print(
            f"{what}: {source}: {shape} voxels (Z, Y, X) of {job.voxel_size:g} Å, "
            f"{range_in_words(job.tilt_range)} -> {target}"
        )
        records.append(_record(source, target, status, setting) | _facts(job))
    console.print(f"dry run: {len(batch.todo)} of {len(batch.pairs)} to restore, nothing written")
    return records


def _run_jobs(batch: _Batch, setting: Setting, batch_report: PathLike | None) -> list[dict[str, Any]]:
    """Restore file after file, or several at a time; the batch report is written even after an interrupt."""
    console, todo, several = _make_console(), batch.todo, len(batch.pairs) > 1
    progress = BatchProgress(console, [math.prod(job.shape) for job in todo])
    if several:
        say_setting(setting, console.print)
    results = _start_results(batch, setting, console)
    run = _run_in_processes if setting.work.jobs > 1 and len(todo) > 1 else _run_here
    try:
        for number, record in run(todo, setting, console, progress, keep_going=several):
            progress.finish(number, worked=record["status"] == "restored")
            results[todo[number].target] = record
            if record["status"] == "restored":
                console.print(f"wrote {todo[number].target} in {record['seconds']:.1f} s")
            else:
                console.print(f"{todo[number].source}: failed: {record['error']}")
    except Exception as error:
        if not several:  # the only file, whose record tells it too
            reason = " ".join(str(error).split())
            results[todo[0].target] = _record(*batch.pairs[0], "failed", setting) | {"error": reason}
        raise
    finally:
        in_order = [results[target] for _, target in batch.pairs if target in results]
        if batch_report is not None:
            make_directory(Path(batch_report).parent)  # that of the results, if none of them was made
            write_json(batch_report, in_order)
    if several:
        console.print(_table(in_order))
    return in_order


def _start_results(batch: _Batch, setting: Setting, console: Console) -> dict[Path, dict[str, Any]]:
    """Record and say of which files nothing will be made, by their results."""
    results = {}
    for source, target in batch.pairs:
        if target in batch.refused:
            console.print(f"{source}: failed: {batch.refused[target]}")
            results[target] = _record(source, target, "failed", setting) | {"error": batch.refused[target]}
        elif target in batch.done:
            console.print(f"{source}: skipped, {target} is there")
            results[target] = _record(source, target, "skipped", setting) | _facts(batch.jobs[target])
    return results


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
            job = todo[number]
            record = _record(job.source, job.target, "failed", setting) | {"error": str(record)}
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
    record = _record(job.source, job.target, "failed", setting)
    started = time.monotonic()
    try:
        restore_job(job, setting, say, show, announce=not keep_going)
        record |= _facts(job) | {"status": "restored"}
    except Exception as error:
        if not keep_going:
            raise _as_input_error(error, setting) from error
        record["error"] = " ".join(str(_as_input_error(error, setting)).split())
    record["seconds"] = round(time.monotonic() - started, 2)
    return record


def _as_input_error(error: Exception, setting: Setting) -> Exception:
    """Turn lack of memory, and what PyTorch says of a device or its compiler, into one line."""
    return device_error(error, setting.device, compiled=setting.work.compile_network) or error


def _table(results: list[dict[str, Any]]) -> str:
    """Show what became of every file of a batch, one line each, never cut to the width of a terminal."""
    width = max(len(str(result["input"])) for result in results)
    lines = [f"{'file':<{width}}  status    seconds  result or reason"]
    for result in results:
        outcome = result["error"] if result["status"] == "failed" else result["output"]
        seconds = f"{result['seconds']:.1f}"
        lines.append(f"{result['input']!s:<{width}}  {result['status']:<8}  {seconds:>7}  {outcome}")
    return "\n".join(lines)
