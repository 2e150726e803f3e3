"""Programs that the user has installed: a command template filled in, run without a shell, and its volume."""

from __future__ import annotations

import shlex
import string
import subprocess
from pathlib import Path
from typing import Any

import torch

from cryomend.benchmark.case import Case
from cryomend.benchmark.digest import digest_of_files
from cryomend.benchmark.methods import Result, Run
from cryomend.io import InputError, read_volume

__all__ = ["check_template", "fill_template", "pin_files", "run_external"]

_LAST_LINES = 5
_FIELDS = (
    "tomogram", "even", "odd", "tilts", "first", "second", "angles", "output", "folder", "tilt_min",
    "tilt_max", "voxel_size", "defocus_um", "thickness", "seed", "device",
)  # fmt: skip


def check_template(name: str, command: str) -> None:
    """Refuse a command template before any row is computed.

    Raises
    ------
    cryomend.io.InputError
        If it is empty, cannot be split into words, or has a placeholder that is not known.
    """
    where = f"external.{name}.command"
    try:
        words, used = shlex.split(command), _used(command)
    except ValueError as error:
        raise InputError(f"{where}: {str(error).lower()} in {command!r}; repair it") from None
    if not words:
        raise InputError(f"{where} is empty; write the program and its arguments")
    if unknown := sorted(used - set(_FIELDS)):
        raise InputError(f"{where}: unknown placeholder {{{unknown[0]}}}; there are {', '.join(_FIELDS)}")


def _used(command: str) -> set[str]:
    """Placeholders of a template."""
    parsed = (part for word in shlex.split(command) for part in string.Formatter().parse(word))
    return {field for _, field, _, _ in parsed if field is not None}


def pin_files(settings: dict[str, Any]) -> dict[str, Any]:
    """Name the files of a command by their whole paths, as it runs elsewhere, and note what they are."""
    words = shlex.split(settings["command"])
    files = {
        i: Path(word).resolve() for i, word in enumerate(words) if "{" not in word and Path(word).is_file()
    }
    pinned = shlex.join(str(files.get(i, word)) for i, word in enumerate(words))
    return settings | {"command": pinned, "files": digest_of_files(list(files.values()))}


def fill_template(command: str, values: dict[str, Any]) -> list[str]:
    """Words of a command; a value with spaces stays one word, for it is split first."""
    return [word.format(**values) for word in shlex.split(command)]


def run_external(command: str, minutes: float | None, case: Case, run: Run, folder: Path) -> Result:
    """Run a program on a case, in a folder of its own.

    Parameters
    ----------
    command : str
        Template, as `check_template` accepts it.
    minutes : float or None
        It is ended after so long.
    case : Case
        Its files are the program's input.
    run : Run
        Seed and device for the template.
    folder : Path
        Where the program works and ``output.mrc`` is expected.

    Returns
    -------
    Result
        With the command as it was run.

    Raises
    ------
    cryomend.io.InputError
        If the program cannot be started, fails, takes too long, or leaves no volume of the case's shape; its
        last lines are in the message.
    """
    values = _values(case, run, folder, folder / "output.mrc")
    if "" in values.values() and (missing := sorted(k for k in _used(command) if values[k] == "")):
        raise InputError(f"the command asks for {{{missing[0]}}}, which {case.name} does not have")
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.mrc"
    output.unlink(missing_ok=True)
    words = fill_template(command, values)
    log = folder / "log.txt"
    try:
        with log.open("wb") as file:
            done = subprocess.run(
                words, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                timeout=None if minutes is None else 60 * minutes, check=False,
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{words[0]} was ended after {minutes:g} minutes{_tail(log)}") from None
    except OSError as error:
        raise InputError(f"{words[0]} cannot be run: {(error.strerror or str(error)).lower()}") from None
    if done.returncode:
        raise InputError(f"{words[0]} left with exit code {done.returncode}{_tail(log)}")
    if not output.is_file():
        raise InputError(f"{words[0]} left no {output.name}; its command must write {{output}}{_tail(log)}")
    volume = torch.from_numpy(read_volume(output, voxel_size=case.voxel_size).data)
    if tuple(volume.shape) != case.shape:
        raise InputError(f"{words[0]} wrote a volume of {tuple(volume.shape)}; the tomogram is {case.shape}")
    return Result(volume, {"command": shlex.join(words)})


def _values(case: Case, run: Run, folder: Path, output: Path) -> dict[str, Any]:
    """What the placeholders stand for; names of files are absolute."""
    names = {"tomogram": "whole", "even": "even", "odd": "odd", "tilts": "tilts"}
    files: dict[str, Any] = {key: case.path(name).resolve() for key, name in names.items()}
    for key in ("first", "second"):
        files[key] = case.path(key).resolve() if case.has(key) else ""
    low, high = case.tilt_range
    return files | {
        "angles": (case.folder / "angles.tlt").resolve(),
        "output": output.resolve(),
        "folder": folder.resolve(),
        "tilt_min": f"{low:g}",
        "tilt_max": f"{high:g}",
        "voxel_size": f"{case.voxel_size:g}",
        "defocus_um": "" if case.defocus_um is None else f"{case.defocus_um:g}",
        "thickness": str(case.shape[0]),
        "seed": str(run.seed),
        "device": str(run.device),
    }


def _tail(log: Path) -> str:
    """The last lines of a log, for a message in one line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = [line for line in lines if line][-_LAST_LINES:]
    return f": {' | '.join(last)}" if last else ""
