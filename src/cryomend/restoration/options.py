"""What a user may ask for beside the plain restoration of a file: checked before, carried out after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from cryomend.evaluation.halves import require_different
from cryomend.io import InputError, Volume, open_volume, read_sections, require_room
from cryomend.restoration.measured import (
    SpectralWeight,
    blend_mapped,
    weight_from_halves,
    weight_from_tomogram,
)
from cryomend.restoration.spectrum import scratch_bytes
from cryomend.restoration.standardise import sample_rows

__all__ = ["Options", "blend_file", "check_options", "choose_options", "open_halves", "require_room_to_blend"]

PathLike = str | os.PathLike[str]
Say = Callable[[str], None]
_FLAGS = {"measured": "--keep-measured", "fill": "--fill-only", "denoise": "--denoise-only"}
_WORDS = {
    "measured": "data weighted by their signal-to-noise where measured, network in the wedge",
    "fill": "data as they are where measured, network in the wedge",
    "denoise": "network where measured, wedge as it was",
}


@dataclass(frozen=True)
class Options:
    """``keep`` is a word of `blend_measured` or None; the others are files or None."""

    keep: str | None = None
    even: Path | None = None
    odd: Path | None = None
    confidence: Path | None = None

    @property
    def label(self) -> str:
        """What the header of the result says was done."""
        halves = " --even --odd" if self.keep == "measured" and self.even is not None else ""
        return "restored" if self.keep is None else f"restored {_FLAGS[self.keep]}{halves}"


def choose_options(
    *,
    keep_measured: bool = False,
    fill_only: bool = False,
    denoise_only: bool = False,
    even: Path | None = None,
    odd: Path | None = None,
    confidence: Path | None = None,
) -> Options:
    """Put the options of the command line together.

    Raises
    ------
    InputError
        If they contradict each other.
    """
    asked = dict(zip(_FLAGS, (keep_measured, fill_only, denoise_only), strict=True))
    chosen = [keep for keep, there in asked.items() if there]
    if len(chosen) > 1:
        raise InputError(f"give {' or '.join(_FLAGS[keep] for keep in chosen)}, not both")
    if (even is None) != (odd is None):
        missing = "--odd" if odd is None else "--even"
        raise InputError(f"halves come in pairs: give {missing} too")
    if even is not None and not keep_measured and confidence is None:
        raise InputError(
            "--even and --odd tell the signal-to-noise for --keep-measured and the noise for --confidence; "
            "give one of them too"
        )
    return Options(chosen[0] if chosen else None, even, odd, confidence)


def check_options(
    options: Options,
    sources: Sequence[Path],
    tilt_ranges: Sequence[tuple[float, float] | None],
) -> None:
    """See that the options fit the files, before any work.

    Raises
    ------
    InputError
        If a tilt range is missing, several inputs share what belongs to one, or the halves cannot be
        read.
    """
    for source, tilt_range in zip(sources, tilt_ranges, strict=True):
        if options.keep is not None and tilt_range is None:
            raise InputError(
                f"{_FLAGS[options.keep]} needs to know what was measured of {source}; "
                "give --tilt-range MIN MAX or --tilt-angles FILE"
            )
    if len(sources) > 1 and options.confidence is not None:
        raise InputError("--confidence writes one volume; give one input or leave it out")
    if len(sources) > 1 and options.even is not None:
        raise InputError("--even and --odd are the halves of one tomogram; give one input or leave them out")
    if options.even is not None and options.odd is not None:
        whole = open_volume(sources[0], voxel_size=1.0)
        even, odd = open_halves(options.even, options.odd, whole)
        for half in (even, odd):
            for _ in read_sections(half):  # which looks at every voxel
                pass
        _require_no_copies(whole, even, odd)


def open_halves(even: Path, odd: Path, whole: Volume) -> tuple[Volume, Volume]:
    """Open two halves of the shape of the whole; the voxels stay on disk.

    Raises
    ------
    InputError
        If they cannot be read, have another shape, or are the same file or that of the whole.
    """
    if even.resolve() == odd.resolve():
        raise InputError(f"--even and --odd are both {even}; give the two halves")
    halves = []
    for option, path in (("--even", even), ("--odd", odd)):
        if whole.path is not None and path.resolve() == whole.path.resolve():
            raise InputError(f"{option} {path} is the tomogram itself; give its two halves")
        # the header's voxel size does not matter: the correlation is in voxels
        half = open_volume(path, voxel_size=1.0)
        if half.data.shape != whole.data.shape:
            found, wanted = (" x ".join(map(str, v.data.shape)) for v in (half, whole))
            raise InputError(f"{path} has {found} voxels, {whole.path} has {wanted}; give its two halves")
        halves.append(half)
    return halves[0], halves[1]


def _require_no_copies(*volumes: Volume) -> None:
    """Refuse a half that is a copy of the other or of the whole: its noise would count as signal."""
    samples = [torch.from_numpy(sample_rows(volume.data)) for volume in volumes]
    for (a, first), (b, other) in combinations(zip(volumes, samples, strict=True), 2):
        try:
            require_different(first, other)
        except ValueError as error:
            raise InputError(f"{a.path} and {b.path}: {error}") from None


def require_room_to_blend(options: Options, shape: tuple[int, int, int], directory: Path) -> None:
    """See that the disk has room for what `blend_file` will put on it.

    Raises
    ------
    InputError
        If it has not.
    """
    if options.keep is not None:
        require_room(directory, 2 * scratch_bytes(shape))


def blend_file(
    options: Options,
    before: Volume,
    restored: NDArray[Any],
    blended: NDArray[Any],
    *,
    tilt_range: tuple[float, float],
    mean_std: tuple[float, float],
    directory: Path,
    say: Say,
) -> None:
    """Join a file's data and its restoration as asked, into ``blended``, which may be ``restored``.

    Volumes may be memory-mapped; what lies between is in temporary files in ``directory``. ``mean_std`` is
    that of the data.

    Raises
    ------
    InputError
        If the restoration does not agree with the data or the disk is too full.
    """
    if options.keep is None:
        return
    shape = before.data.shape
    gibibytes = 2 * scratch_bytes(shape) / 2**30
    say(f"{before.path}: {_WORDS[options.keep]}; needs another {gibibytes:.2g} GiB of disk for some time")
    weight = None
    if options.keep == "measured":
        weight = _weigh(options, before, tilt_range, mean_std, directory, say)
    try:
        scale = blend_mapped(
            blended, before.data, restored,
            tilt_range=tilt_range, keep=options.keep, weight=weight, directory=directory,
        )  # fmt: skip
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{before.path}: {error}") from error
    say(f"{before.path}: network scaled by {scale:.3f} to the data")


def _weigh(
    options: Options,
    before: Volume,
    tilt_range: tuple[float, float],
    mean_std: tuple[float, float],
    directory: Path,
    say: Say,
) -> SpectralWeight:
    """Find the signal-to-noise from the halves if there are any, and say where half of the weight is left."""
    if options.even is not None and options.odd is not None:
        source = "the halves"
        even, odd = open_halves(options.even, options.odd, before)
        weight = weight_from_halves(even.data, odd.data, tilt_range=tilt_range, directory=directory)
    else:
        source = "the quiet places of the tomogram (--even and --odd give a better one)"
        weight = weight_from_tomogram(before.data, tilt_range=tilt_range, mean_std=mean_std)
    below = (weight.values < 0.5).nonzero()
    first = int(below[0]) if len(below) else len(weight.values) - 1
    reach = f"{weight.side * before.voxel_size / first:.0f} Å" if first > 0 else "no frequency"
    say(f"{before.path}: signal-to-noise from {source}; 1 at {reach}")
    return weight
