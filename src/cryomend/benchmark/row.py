"""The child process of one job: a line of JSON on stdin tells it what to do, its result goes to files.

It ends with its parent: stdin stays open as long as that lives.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cryomend.benchmark.case import Case, read_case
from cryomend.benchmark.external import run_external
from cryomend.benchmark.fit_models import fit_noise_model, train_data_set, train_variant
from cryomend.benchmark.job import Job
from cryomend.benchmark.methods import METHODS, Result, Run, restore_with
from cryomend.evaluation import evaluate_volume
from cryomend.evaluation.picking import ANGULAR_STEP, score_picking
from cryomend.evaluation.rotation_grid import rotation_grid
from cryomend.io import InputError, write_json, write_volume
from cryomend.restoration.predict import choose_device

__all__ = ["do_job", "main", "peak_memory_gib", "score_volume"]

_GIB = 2**30
_PAUSE = 0.3  # seconds between two words on the progress


def main() -> None:
    """Do the job of the first line of stdin."""
    job = Job.load(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    do_job(job, _Teller())


def _end_with_parent() -> None:
    """Wait until the parent is gone, then end this process and all that it has started."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read: its lock would hang the end of the process
    os.killpg(os.getpgrp(), signal.SIGKILL)


class _Teller:
    """Tells the parent how far the job is, not too often."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, share: float, text: str) -> None:
        now = time.monotonic()
        if now - self._last > _PAUSE:
            self._last = now
            print(json.dumps([share, text]), flush=True)


def do_job(job: Job, progress: Callable[[float, str], None] = lambda share, text: None) -> dict[str, Any]:
    """Do a job, score its volume and write both; a failure becomes a record that says so.

    Returns
    -------
    dict
        The record, as written to ``job.record``.
    """
    record = job.describe()
    try:
        record |= _do(job, progress)
        record["status"] = "done"
    except Exception as error:  # whatever it is, the other rows go on
        traceback.print_exc()
        record |= {"status": "failed", "error": _one_line(error)}
    write_json(job.record, record)
    return record


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__


def _do(job: Job, progress: Callable[[float, str], None]) -> dict[str, Any]:
    """The work itself: facts for the record."""
    device = choose_device(job.device)
    run = Run(job.settings, job.seed, device, progress)
    if job.action in ("noise", "variant", "data-set"):
        fit = {"noise": fit_noise_model, "variant": train_variant, "data-set": train_data_set}[job.action]
        cpu = _processor_seconds()
        facts = fit(job, run)
        return {**facts, "processor_seconds": _processor_seconds() - cpu, **_memory(device)}
    case = read_case(job.folder / "cases" / str(job.case))
    start, cpu = time.perf_counter(), _processor_seconds()
    result = _restore(job, case, run)
    volume = result.volume.float().cpu()
    if tuple(volume.shape) != case.shape:
        raise InputError(f"{job.name} has {tuple(volume.shape)} voxels, the tomogram {case.shape}")
    spent = {"seconds": time.perf_counter() - start, "processor_seconds": _processor_seconds() - cpu}
    facts = spent | _memory(device)
    write_volume(job.result, volume.numpy(), voxel_size=case.voxel_size, label=f"cryomend {job.name}"[:79])
    chosen = dict(result.chosen)
    if "command" in chosen:
        facts["external_command"] = chosen.pop("command")
    return {**facts, "chosen": chosen, "scores": score_volume(volume, case, device, progress)}


def _restore(job: Job, case: Case, run: Run) -> Result:
    if job.action == "external":
        work = job.stem.with_name(job.stem.name + ".work")
        return run_external(job.settings["command"], job.settings["minutes"], case, run, work)
    if job.action == "model":
        return restore_with(str(job.folder / job.settings["model"]), case, run)
    own = {name: value for name, value in run.settings.items() if name != "method"}
    return METHODS[job.settings["method"]].restore(case, replace(run, settings=own))


def _processor_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _memory(device: torch.device) -> dict[str, float | None]:
    """Peak memory of this process and of those that it ran, and of its device, GiB."""
    on_device = torch.cuda.max_memory_allocated(device) / _GIB if device.type == "cuda" else None
    return {"peak_memory_gib": peak_memory_gib(), "device_memory_gib": on_device}


def peak_memory_gib() -> float:
    """Largest resident memory so far of this process or of one that it has waited for.

    On Linux this process's comes from /proc: ``ru_maxrss`` begins with that of the parent at the fork.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        own = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    return max(own, children) / _GIB


def score_volume(
    volume: torch.Tensor,
    case: Case,
    device: torch.device | str = "cpu",
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> dict[str, Any]:
    """All scores that a case allows: against its truth, over its areas, by the particles found in it.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Protein dark.
    case : Case
        With a truth, areas, particles, some of them or none.
    device : torch.device or str
        Where the particles are looked for.
    progress : callable
        Told the share that is done of that, and what it is.

    Returns
    -------
    dict
        ``truth`` and ``areas`` of `cryomend.evaluation.evaluate_volume`, ``particles`` of
        `cryomend.evaluation.picking.score_picking`, by what was ``measured`` and by ``all`` of Fourier space.
    """
    scores: dict[str, Any] = {}
    truth, areas = case.truth(), case.areas()
    if truth is not None:
        scores |= evaluate_volume(
            -volume, truth=truth, tilt_range=case.tilt_range, voxel_size=case.voxel_size
        )
    if areas is not None:  # on the grey levels as they are: ENL depends on where zero is
        scores |= evaluate_volume(volume, areas=areas, voxel_size=case.voxel_size)
    if (particles := case.particles()) is not None:
        bright, rotations = -volume.to(device), rotation_grid(ANGULAR_STEP)
        scores["particles"] = {
            part: score_picking(
                bright,
                particles.template,
                particles.voxels,
                rotations,
                voxel_size=case.voxel_size,
                tilt_range=tilt_range,
                on_progress=lambda share: progress(share, f"looking for {particles.template.name}"),
            )
            for part, tilt_range in (("measured", case.tilt_range), ("all", None))
        }
    return scores


if __name__ == "__main__":
    main()
