"""Restoring files: everything is checked before work starts, each result appears only when complete."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from cryomend import __version__
from cryomend.io import (
    InputError,
    Volume,
    check_writable,
    find_tilt_angles,
    read_tilt_angles,
    read_volume,
    write_json,
    write_volume,
)
from cryomend.restoration.model import choose_model, load_model
from cryomend.restoration.options import Options, blend_file, check_options, write_confidence
from cryomend.restoration.predict import choose_device, restore_tomogram

__all__ = ["restore_files"]

PathLike = str | os.PathLike[str]
_SUFFIXES = (".mrc", ".rec", ".map")
_RESTORED = "_restored.mrc"
_SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class _Job:
    """One file to restore, already checked."""

    source: Path
    target: Path
    tilt_range: tuple[float, float] | None
    voxel_size: float | None


@dataclass(frozen=True)
class _Setting:
    """What all files of one call share."""

    network: nn.Module
    metadata: dict[str, Any]
    device: torch.device
    protein: str
    report: Path | None
    average_along_y: bool
    why_model: str = ""
    options: Options = field(default_factory=Options)

    @property
    def model_in_words(self) -> str:
        """Name of the model and, where nobody asked for it, why it was taken."""
        name = str(self.metadata["name"])
        return f"{name} ({self.why_model})" if self.why_model else name


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
) -> list[dict[str, Any]]:
    """Restore tomograms in MRC files and say on stderr what was understood and done.

    Every input, the model, the device and the output place are checked before any work. Of one file a
    failure is raised; of several the others are still restored and the failure is in the results.

    Parameters
    ----------
    inputs : sequence of path-like
        Files, or directories of which every .mrc, .rec and .map is taken (but no ``*_restored.mrc``).
    output : path-like
        A file for one input; a directory for several, for a directory, or where one exists or the name
        ends in a separator. In a directory results are called ``STEM_restored.mrc``.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees, inside ±90.
    tilt_angles_path : path-like, optional
        List of tilt angles instead; if neither is given, one of the input's name beside it is used.
    protein : {"dark", "bright"}
        Contrast of the inputs and of the results.
    voxel_size : float, optional
        Å; replaces what the headers say.
    model : str or path-like, optional
        Name of a bundled model (``fast``, ``best``) or a file; as `choose_model` takes it if None.
    device : {"auto", "cpu", "cuda", "mps"}
        Where the network runs.
    batch_report : path-like, optional
        JSON file: a list of the results.
    report : path-like, optional
        HTML page with pictures of one input before and after.
    average_along_y : bool
        Average the x-z pictures of that page along Y.
    options : Options, optional
        What of the data is kept, and the confidence volume, as `choose_options` puts them together.

    Returns
    -------
    list of dict
        Per file ``input``, ``output``, ``status`` ("restored" or "failed"), ``error``, ``seconds``,
        ``device``, ``model``, ``shape``, ``voxel_size``, ``tilt_range``.

    Raises
    ------
    InputError
        If an input, an option or the output place cannot be used, or the only file failed.
    """
    if protein not in ("dark", "bright"):
        raise InputError(f"--protein must be dark or bright, got {protein!r}")
    common_range = _common_tilt_range(tilt_range, tilt_angles_path)
    sources = _list_sources(inputs)
    if report is not None and len(sources) > 1:
        raise InputError("--report shows one tomogram; give one input or leave it out")
    into_directory = len(sources) > 1 or any(Path(name).is_dir() for name in inputs)
    targets = _name_targets(sources, output, into_directory=into_directory)
    jobs = [
        _check_job(source, target, common_range, voxel_size)
        for source, target in zip(sources, targets, strict=True)
    ]
    options = options or Options()
    check_options(options, sources, targets, [job.tilt_range for job in jobs])
    chosen = choose_device(device)
    choice = choose_model(model, chosen)
    network, metadata = load_model(choice.model)
    page = None if report is None else Path(report)
    beside = [Path(p) for p in (report, batch_report, options.confidence) if p is not None]
    _check_places(targets, beside, Path(output))
    setting = _Setting(network, metadata, chosen, protein, page, average_along_y, choice.why, options)
    return _run_jobs(jobs, setting, batch_report)


# ---- checking -------------------------------------------------------------------------------------


def _common_tilt_range(
    tilt_range: tuple[float, float] | None, tilt_angles_path: PathLike | None
) -> tuple[float, float] | None:
    """Give the range that the options state for all files, if any."""
    if tilt_range is not None and tilt_angles_path is not None:
        raise InputError("give --tilt-range or --tilt-angles, not both")
    if tilt_angles_path is not None:
        return _range_of_list(Path(tilt_angles_path))
    if tilt_range is not None:
        low, high = tilt_range
        if not -90 <= low < high <= 90:
            raise InputError(f"--tilt-range needs -90 <= MIN < MAX <= 90 degrees, got {low:g} {high:g}")
    return tilt_range


def _range_of_list(path: Path) -> tuple[float, float]:
    """Give the extremes of a list of tilt angles."""
    angles = read_tilt_angles(path)
    if angles.min() == angles.max():
        raise InputError(f"{path} holds one tilt angle only; a tilt series has several")
    return float(angles.min()), float(angles.max())


def _list_sources(inputs: Sequence[PathLike]) -> list[Path]:
    """Expand directories, keep the order given, drop repetitions."""
    listed: dict[Path, Path] = {}
    for name in map(Path, inputs):
        for path in _list_directory(name) if name.is_dir() else [name]:
            listed.setdefault(path.resolve(), path)
    if not listed:
        raise InputError("no input file; give at least one tomogram")
    return list(listed.values())


def _list_directory(directory: Path) -> list[Path]:
    """List the tomograms of a directory by name, without earlier results."""
    files = [path for path in sorted(directory.iterdir()) if path.suffix.lower() in _SUFFIXES]
    files = [path for path in files if path.is_file() and not path.name.endswith(_RESTORED)]
    if not files:
        raise InputError(f"{directory} holds no .mrc, .rec or .map file to restore")
    return files


def _name_targets(sources: list[Path], output: PathLike, *, into_directory: bool) -> list[Path]:
    """Name the result of every source and refuse that one overwrites another or a source."""
    text = os.fspath(output)
    path = Path(text)
    if into_directory and (path.is_file() or path.suffix.lower() in _SUFFIXES):
        raise InputError(f"the results of several files or of a directory need a directory, got -o {text}")
    if into_directory or path.is_dir() or text.endswith(("/", os.sep)):
        targets = [path / (source.stem + _RESTORED) for source in sources]
    else:
        targets = [path]
    taken = {source.resolve(): f"the input {source}" for source in sources}
    for source, target in zip(sources, targets, strict=True):
        other = taken.setdefault(target.resolve(), f"the result of {source}")
        if other != f"the result of {source}":
            raise InputError(f"the result {target} would overwrite {other}; choose another -o")
    return targets


def _check_job(
    source: Path, target: Path, common_range: tuple[float, float] | None, voxel_size: float | None
) -> _Job:
    """Read a source once to see that it can be restored, and find its tilt range."""
    read_volume(source, voxel_size=voxel_size)
    beside = find_tilt_angles(source) if common_range is None else None
    tilt_range = common_range if beside is None else _range_of_list(beside)
    return _Job(source, target, tilt_range, voxel_size)


def _check_places(targets: list[Path], reports: list[Path], output: Path) -> None:
    """See that everything can be written; make the output directory if only that is missing."""
    for place in reports:
        check_writable(place)
    if targets != [output] and not output.exists():
        _make_directory(output)
    for target in targets:
        check_writable(target)


def _make_directory(directory: Path) -> None:
    """Make one directory, in one that exists: more are more likely a slip of the pen."""
    try:
        directory.mkdir()
    except OSError as error:
        raise InputError(f"cannot make the directory {directory}: {error.strerror}; make it first") from error


# ---- working --------------------------------------------------------------------------------------


def _run_jobs(jobs: list[_Job], setting: _Setting, batch_report: PathLike | None) -> list[dict[str, Any]]:
    """Restore file after file; the batch report is written even when the user interrupts."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    where = _device_in_words(setting.device)
    console.print(f"model {setting.model_in_words}, device {where}, protein {setting.protein}")
    results: list[dict[str, Any]] = []
    try:
        for job in jobs:
            results.append(_run_job(job, setting, console, keep_going=len(jobs) > 1))
    finally:
        if batch_report is not None:
            write_json(batch_report, results)
    if len(jobs) > 1:
        console.print(_table(results))
    return results


def _run_job(job: _Job, setting: _Setting, console: Console, *, keep_going: bool) -> dict[str, Any]:
    """Restore one file and record how it went."""
    record: dict[str, Any] = {"input": job.source, "output": job.target, "status": "failed", "error": None}
    record |= {"seconds": 0.0, "device": str(setting.device), "model": setting.metadata["name"]}
    started = time.monotonic()
    try:
        record |= _restore_file(job, setting, console)
        record["status"] = "restored"
    except Exception as error:
        if not keep_going:
            raise _as_input_error(error, setting.device) from error
        record["error"] = " ".join(str(_as_input_error(error, setting.device)).split())
        console.print(f"{job.source}: failed: {record['error']}")
    record["seconds"] = round(time.monotonic() - started, 2)
    if record["status"] == "restored":
        console.print(f"wrote {job.target} in {record['seconds']:.1f} s")
    return record


def _as_input_error(error: Exception, device: torch.device) -> Exception:
    """Turn running out of memory into one line; leave everything else."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return InputError(f"out of memory on {device}; free some, or pass another --device")
    return error


def _restore_file(job: _Job, setting: _Setting, console: Console) -> dict[str, Any]:
    """Read, restore and write one file; return what to record of it."""
    before = read_volume(job.source, voxel_size=job.voxel_size)
    _say_what_was_understood(job, before, setting, console)
    started = time.monotonic()
    with _progress(console, job.source.name) as progress:
        answer = restore_tomogram(
            torch.from_numpy(before.data),
            setting.network,
            protein=setting.protein,
            device=setting.device,
            progress=progress,
        )
    restored = _follow_options(job, before, answer, setting, console).numpy()
    seconds = time.monotonic() - started
    label = f"cryomend {__version__} {setting.metadata['name']} {setting.options.label}"
    write_volume(job.target, restored, voxel_size=before.voxel_size, like=before, label=label)
    if setting.report is not None:
        from cryomend.evaluation.report import write_restoration_report  # brings matplotlib

        write_restoration_report(
            setting.report,
            before=before.data,
            after=restored,
            voxel_size=before.voxel_size,
            tilt_range=_inside_90(job.tilt_range),
            provenance=_provenance(job, before, setting, seconds),
            average_along_y=setting.average_along_y,
        )
    return {"shape": before.data.shape, "voxel_size": before.voxel_size, "tilt_range": job.tilt_range}


def _follow_options(
    job: _Job, before: Volume, restored: Tensor, setting: _Setting, console: Console
) -> Tensor:
    """Give back what of the data the answer of the network is joined with, and write its confidence."""
    options, model = setting.options, (setting.network, setting.metadata)
    joined = restored
    if options.keep is not None and job.tilt_range is not None:
        joined = blend_file(options, before, restored, tilt_range=job.tilt_range, say=console.print)
    if options.confidence is not None:
        with _progress(console, f"{job.source.name}, confidence") as progress:
            write_confidence(
                options, before, restored, model, protein=setting.protein, device=setting.device,
                progress=progress, say=console.print,
            )  # fmt: skip
    return joined


def _inside_90(tilt_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Move a range that reaches 90 degrees just inside, where the tangent of the wedge is finite."""
    return None if tilt_range is None else (max(tilt_range[0], -89.9), min(tilt_range[1], 89.9))


def _provenance(job: _Job, before: Volume, setting: _Setting, seconds: float) -> dict[str, str]:
    """Say where a result comes from, for the report."""
    return {
        "Input": str(job.source),
        "Shape (Z, Y, X)": " x ".join(map(str, before.data.shape)),
        "Voxel size": f"{before.voxel_size:g} Å",
        "Tilt range": _range_in_words(job.tilt_range),
        "Protein": setting.protein,
        "Model": setting.model_in_words,
        "Device": _device_in_words(setting.device),
        "Time": f"{seconds:.1f} s",
        "Program": f"cryomend {__version__}",
        "Output": str(job.target),
    }


# ---- saying ---------------------------------------------------------------------------------------


def _say_what_was_understood(job: _Job, before: Volume, setting: _Setting, console: Console) -> None:
    """Print shape, voxel size and tilt range of a file, and warn if the model knows no such voxels."""
    size = before.voxel_size
    shape = " x ".join(map(str, before.data.shape))
    console.print(f"{job.source}: {shape} voxels (Z, Y, X) of {size:g} Å, {_range_in_words(job.tilt_range)}")
    trained = setting.metadata.get("voxel_size_range")
    if trained is not None and not 0.999 * trained[0] <= size <= 1.001 * trained[1]:
        known = f"{trained[0]:g} to {trained[1]:g} Å" if trained[0] < trained[1] else f"{trained[0]:g} Å"
        console.print(
            f"warning: {job.source} has voxels of {size:g} Å, the model was trained on {known}; "
            "bin or resample the tomogram to that size for a trustworthy result"
        )


def _range_in_words(tilt_range: tuple[float, float] | None) -> str:
    """Write a tilt range, or what to do about its absence."""
    if tilt_range is None:
        return (
            "tilt range unknown (--tilt-range or --tilt-angles tells; the report and --keep-measured use it)"
        )
    return f"tilt range {tilt_range[0]:g} to {tilt_range[1]:g} degrees"


def _device_in_words(device: torch.device) -> str:
    """Name the device so that nobody computes on a CPU without knowing it."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


@contextmanager
def _progress(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with the time left on a terminal; elsewhere print a line now and then."""
    if not console.is_terminal:
        yield _line_printer(console, name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("restoring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line_printer(console: Console, name: str) -> Callable[[int, int], None]:
    """Make a progress function for log files."""
    started = printed = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= _SECONDS_BETWEEN_LINES and done < total:
            left = (now - started) / done * (total - done)
            console.print(f"{name}: {done} of {total} tiles, about {left:.0f} s left")
            printed = now

    return report


def _table(results: list[dict[str, Any]]) -> str:
    """Show what became of every file of a batch, one line each, never cut to the width of a terminal."""
    width = max(len(str(result["input"])) for result in results)
    lines = [f"{'file':<{width}}  status    seconds  result or reason"]
    for result in results:
        outcome = result["output"] if result["status"] == "restored" else result["error"]
        seconds = f"{result['seconds']:.1f}"
        lines.append(f"{result['input']!s:<{width}}  {result['status']:<8}  {seconds:>7}  {outcome}")
    return "\n".join(lines)
