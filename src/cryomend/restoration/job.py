"""Restoring one file: what was understood is said, the result appears only when complete."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cryomend import __version__
from cryomend.io import (
    InputError,
    Volume,
    mapped_volume,
    open_volume,
    read_sections,
    scratch_array,
)
from cryomend.restoration.confidence import network_digest
from cryomend.restoration.confidence_file import write_confidence
from cryomend.restoration.engine import Engine
from cryomend.restoration.inputs import Job
from cryomend.restoration.options import Options, blend_file, open_halves, require_room_to_blend
from cryomend.restoration.predict import restore_mapped
from cryomend.restoration.resample import resample_mapped, shape_for_network, sizes_in_words
from cryomend.restoration.standardise import sample_rows, stream_mean_std

__all__ = [
    "Setting",
    "Work",
    "is_done",
    "make_directory",
    "range_in_words",
    "restore_job",
    "say_setting",
]

Progress = Callable[[int, int], None]
Progresses = Callable[[str], AbstractContextManager[Progress]]
Say = Callable[[str], None]
_LABEL_LENGTH = 79  # bytes of a label, and an end for the programs that want one
_LABEL = re.compile(r"^cryomend \S+ .*(\([0-9a-f]{8}\) restored.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Work:
    """How the work is done, as `Engine` and `restore_mapped` take it; no label tells it."""

    precision: str = "auto"
    compile_network: bool = False
    on_device_loss: str = "stop"
    jobs: int = 1
    overlap: int | None = None


@dataclass(frozen=True)
class Setting:
    """What all files of one call share."""

    network: nn.Module
    metadata: dict[str, Any]
    devices: tuple[torch.device, ...]
    protein: str
    report: Path | None
    average_along_y: bool
    why_model: str = ""
    options: Options = field(default_factory=Options)
    work: Work = field(default_factory=Work)

    @property
    def device(self) -> torch.device:
        """The first of the devices, for what runs on one."""
        return self.devices[0]

    def sampling(
        self, shape: tuple[int, int, int], voxel_size: float
    ) -> tuple[tuple[int, int, int], float] | None:
        """Shape and voxel size for the network where a tomogram must be resampled, as `shape_for_network`."""
        return shape_for_network(shape, voxel_size, self.metadata.get("voxel_size_range"))

    @cached_property
    def engine(self) -> Engine:
        """The network on its devices."""
        return self.make_engine(self.network)

    def make_engine(self, network: nn.Module) -> Engine:
        """Put a network on the devices that still answer."""
        work, made = self.work, self.__dict__.get("engine")
        return Engine(
            network, self.devices if made is None else made.in_use, precision=work.precision,
            compile_network=work.compile_network, on_device_loss=work.on_device_loss, jobs=work.jobs,
            say=None if made is None else made.say,
        )  # fmt: skip

    @cached_property
    def label(self) -> str:
        """What the headers of the results say was done, and by what: the model's name and its weights.

        A name that is too long is cut, never what tells results apart.
        """
        before = f"cryomend {__version__} "
        after = f" ({network_digest(self.network)[:8]}) {self.options.label}"
        room = max(_LABEL_LENGTH - len(before) - len(after), 0)
        return before + str(self.metadata["name"])[:room] + after

    @property
    def model_in_words(self) -> str:
        """Name of the model and, where nobody asked for it, why it was taken."""
        name = str(self.metadata["name"])
        return f"{name} ({self.why_model})" if self.why_model else name


def restore_job(job: Job, setting: Setting, say: Say, progresses: Progresses, *, announce: bool) -> None:
    """Read, restore and write one file.

    Parameters
    ----------
    job : Job
        The file, its header checked.
    setting : Setting
        What all files share.
    say : callable
        Called with lines of text on what was understood.
    progresses : callable
        Makes what shows the progress under a name.
    announce : bool
        Say what `say_setting` says too, once the voxels have been looked at.

    Raises
    ------
    InputError
        If the voxels cannot be worked with or the place cannot be written.
    """
    opened = open_volume(job.source, voxel_size=job.voxel_size)
    # before a word is said: of voxels that cannot be used the user is to read one line
    mean_std = _measure(opened)
    if announce:
        say_setting(setting, say)
    _say_what_was_understood(job, setting, say)
    make_directory(job.target.parent)
    started = time.monotonic()
    with mapped_volume(
        job.target, job.shape, voxel_size=opened.voxel_size, like=opened, label=setting.label
    ) as result:
        _restore_and_join(result, job, opened, setting, say, progresses, mean_std)
    if setting.report is not None:
        _write_report(setting.report, job, opened, setting, seconds=time.monotonic() - started)
        say(f"wrote {setting.report}")


def make_directory(directory: Path) -> None:
    """Make the directory of the results if it is not there, once there is something to put into it.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the directory {directory}: {error.strerror}; make it first") from error


def _measure(opened: Volume) -> tuple[float, float]:
    """Find mean and deviation, and look at every voxel, in one pass after a sample of rows."""
    return stream_mean_std(read_sections(opened), sample_rows(opened.data))


def _restore_and_join(
    result: NDArray[np.float32],
    job: Job,
    opened: Volume,
    setting: Setting,
    say: Say,
    progresses: Progresses,
    mean_std: tuple[float, float],
) -> None:
    """Fill an array with the answer of the network, joined with the data as asked; write its confidence."""
    options, directory = setting.options, job.target.parent
    tilt_range = job.tilt_range if options.keep is not None else None
    # the confidence is that of the network's own answer
    apart = tilt_range is not None and options.confidence is not None
    require_room_to_blend(options, job.shape, directory)  # now, and not after an hour of the network
    with scratch_array(directory, job.shape, np.float32) if apart else nullcontext(result) as answer:
        with progresses(job.source.name) as progress:
            _restore(answer, opened, setting, say, progress, mean_std, directory)
        if tilt_range is not None:
            blend_file(
                options, opened, answer, result,
                tilt_range=tilt_range, mean_std=mean_std, directory=directory, say=say,
            )  # fmt: skip
        if options.confidence is not None:
            halves = (options.even, options.odd) if options.even and options.odd else None
            known = setting.sampling(job.shape, job.voxel_size)
            with progresses(f"{job.source.name}, confidence") as progress:
                write_confidence(
                    options.confidence, opened, answer, (setting.network, setting.metadata),
                    setting.make_engine, halves=open_halves(*halves, opened) if halves else (),
                    protein=setting.protein, overlap=setting.work.overlap,
                    network_shape=known[0] if known else None,
                    progress=progress, say=say,
                )  # fmt: skip


def _restore(
    restored: NDArray[np.float32],
    opened: Volume,
    setting: Setting,
    say: Say,
    progress: Progress,
    mean_std: tuple[float, float],
    directory: Path,
) -> None:
    """Fill an array with the answer of the network, which may want another sampling."""
    setting.engine.say = say

    def run(answer: NDArray[np.float32], data: NDArray[Any], mean_std: tuple[float, float]) -> None:
        restore_mapped(
            answer, data, setting.engine, mean_std=mean_std, protein=setting.protein,
            overlap=setting.work.overlap, progress=progress, say=say,
        )  # fmt: skip

    known = setting.sampling(opened.data.shape, opened.voxel_size)
    if known is None:
        run(restored, opened.data, mean_std)
        return
    with (
        scratch_array(directory, known[0], np.float32) as data,
        scratch_array(directory, known[0], np.float32) as answer,
    ):
        resample_mapped(data, opened.data, directory=directory)
        run(answer, data, _measure(replace(opened, data=data)))  # fine noise may have gone
        resample_mapped(restored, answer, directory=directory)


def _write_report(page: Path, job: Job, opened: Volume, setting: Setting, *, seconds: float) -> None:
    """Show the file and its result, both where they lie on disk."""
    from cryomend.evaluation.report import write_restoration_report  # brings matplotlib

    confidence = setting.options.confidence
    write_restoration_report(
        page,
        before=opened.data,
        after=open_volume(job.target, voxel_size=1.0).data,
        voxel_size=opened.voxel_size,
        tilt_range=_inside_90(job.tilt_range),
        provenance=_provenance(job, setting, seconds),
        average_along_y=setting.average_along_y,
        confidence=None if confidence is None else open_volume(confidence, voxel_size=1.0).data,
    )


def is_done(job: Job, setting: Setting, say: Say) -> bool:
    """Tell whether the result is there already, complete and made by the same weights and options.

    Results appear under their name only when complete. One older than what it was made from, or of another
    voxel size, is none. The model is told by the label in the header; where the ten labels of the tomogram
    left no room for it, nothing tells, which is said with ``say``, and the result counts as not done.
    """
    options = setting.options
    try:
        there = open_volume(job.target)
        before = open_volume(job.source, voxel_size=1.0)
        made_from = [path for path in (job.source, options.even, options.odd) if path is not None]
        made = [path for path in (job.target, setting.report, options.confidence) if path is not None]
        if min(path.stat().st_mtime for path in made) < max(path.stat().st_mtime for path in made_from):
            return False
    except (InputError, OSError):
        return False
    if there.data.shape != job.shape or not math.isclose(there.voxel_size, job.voxel_size, rel_tol=1e-3):
        return False
    if before.header is not None and bytes(before.header["label"][-1]).strip(b"\x00 "):
        say(
            f"{job.source}: {job.target} is there, but the header has no room for a label that tells how it "
            "was made, so it counts as not done"
        )
        return False
    made_by = [_LABEL.findall("\n".join(volume.labels)) for volume in (before, there)]
    # a tomogram may have been restored before: its own labels say nothing of the result
    return len(made_by[1]) > len(made_by[0]) and setting.label.endswith(made_by[1][-1])


def _inside_90(tilt_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Move a range that reaches 90 degrees just inside, where the tangent of the wedge is finite."""
    return None if tilt_range is None else (max(tilt_range[0], -89.9), min(tilt_range[1], 89.9))


def _provenance(job: Job, setting: Setting, seconds: float) -> dict[str, str]:
    """Say where a result comes from, for the report."""
    return {
        "Input": str(job.source),
        "Shape (Z, Y, X)": " x ".join(map(str, job.shape)),
        "Voxel size": f"{job.voxel_size:g} Å",
        "Tilt range": range_in_words(job.tilt_range),
        "Protein": setting.protein,
        "Model": setting.model_in_words,
        "Device": ", ".join(map(_device_in_words, setting.devices)),
        "Time": f"{seconds:.1f} s",
        "Program": f"cryomend {__version__}",
        "Output": str(job.target),
    }


def say_setting(setting: Setting, say: Say) -> None:
    """Say what holds for all files."""
    where = ", ".join(map(_device_in_words, setting.devices))
    say(f"model {setting.model_in_words}, device {where}, protein {setting.protein}")


def _say_what_was_understood(job: Job, setting: Setting, say: Say) -> None:
    """Print shape, voxel size and tilt range of a file, and warn if the model knows no such voxels."""
    size = job.voxel_size
    shape = " x ".join(map(str, job.shape))
    say(f"{job.source}: {shape} voxels (Z, Y, X) of {size:g} Å, {range_in_words(job.tilt_range)}")
    known = setting.sampling(job.shape, size)
    if known is not None:
        inner, nearest = known
        times = " x ".join(map(str, inner))
        lost = f", so what is finer than {2 * nearest:g} Å comes from no network" if nearest > size else ""
        done = f"resampled to {times} voxels of {nearest:g} Å for the network, and back{lost}"
        say(
            f"warning: {job.source} has voxels of {size:g} Å, the model was trained on "
            f"{sizes_in_words(setting.metadata['voxel_size_range'])}: "
            + (done if inner != job.shape else "near enough, taken as they are")
        )


def range_in_words(tilt_range: tuple[float, float] | None) -> str:
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
