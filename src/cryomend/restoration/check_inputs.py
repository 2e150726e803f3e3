"""What the user asks to be checked, and whether the files that are given allow it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomend.config import ReconstructionConfig, load_config
from cryomend.evaluation.projections import hold_out_tilts
from cryomend.io import InputError, Volume
from cryomend.reconstruction.prepare import Preparation, plan_preparation

__all__ = [
    "CHECKS",
    "MEASURE",
    "CheckData",
    "CheckSettings",
    "choose_checks",
    "choose_held_out",
    "plan_tilts",
    "possible_checks",
    "require_pair",
]

CHECKS = ("reprojection", "held-out", "halves", "noise")
_NEEDS = {
    "reprojection": "--tilts STACK and --tilt-angles FILE",
    "held-out": "--tilts STACK and --tilt-angles FILE",
    "halves": "--even FILE and --odd FILE",
    "noise": "--raw FILE",
}
MEASURE = "every:5"  # tilts kept apart to tell how well a raw tomogram foretells its neighbours


@dataclass(frozen=True)
class CheckData:
    """What the user has beside the restored tomogram; files or None.

    ``reconstruction`` holds the options that the tomogram was reconstructed with, as `cryomend reconstruct`
    takes them with ``--config``.
    """

    raw: Path | None = None
    tilts: Path | None = None
    tilt_angles: Path | None = None
    alignment: Path | None = None
    reconstruction: Path | None = None
    even: Path | None = None
    odd: Path | None = None
    even_restored: Path | None = None
    odd_restored: Path | None = None
    confidence: Path | None = None


@dataclass(frozen=True)
class CheckSettings:
    """How it is checked; ``wanted`` are names with commas between, or None for all that the files allow."""

    wanted: str | None = None
    hold_out: str = MEASURE
    band: tuple[float, float] | None = None
    model: str | None = None
    device: str = "auto"
    protein: str = "dark"
    voxel_size: float | None = None
    tilt_range: tuple[float, float] | None = None
    seed: int = 0


def possible_checks(data: CheckData) -> list[str]:
    """Names of the checks for which there are files, in order."""
    there = {
        "reprojection": data.tilts is not None,
        "held-out": data.tilts is not None,
        "halves": data.even is not None or data.odd is not None,
        "noise": data.raw is not None,
    }
    return [name for name in CHECKS if there[name]]


def choose_checks(data: CheckData, wanted: str | None) -> list[str]:
    """Name the checks to carry out, in order.

    Raises
    ------
    InputError
        If a name is unknown, or a check that was asked for lacks its files.
    """
    possible = possible_checks(data)
    if wanted is None:
        return possible
    asked = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in asked:
        if name not in CHECKS:
            raise InputError(f"unknown check {name!r}; there are {', '.join(CHECKS)}")
        if name not in possible:
            raise InputError(f"--check {name} needs {_NEEDS[name]}")
    if not asked:
        raise InputError(f"--check names no check; there are {', '.join(CHECKS)}")
    return [name for name in CHECKS if name in asked]


def require_pair(files: dict[str, Path | None]) -> None:
    """Refuse one half without the other, and one file for both; the keys are the options.

    Raises
    ------
    InputError
        As said.
    """
    missing = [option for option, path in files.items() if path is None]
    if len(missing) == 1:
        raise InputError(f"halves come in pairs: give {missing[0]} too")
    (first, a), (second, b) = files.items()
    if a is not None and b is not None and a.resolve() == b.resolve():
        raise InputError(f"{first} and {second} are both {a}; give the two halves")


def plan_tilts(
    stack: Volume, header: Volume, data: CheckData, volume: Path
) -> tuple[Preparation, ReconstructionConfig]:
    """Read the side files of a stack and bin it to the voxels of a tomogram.

    Parameters
    ----------
    stack, header : Volume
        The tilts and the tomogram, opened.
    data : CheckData
        Side files.
    volume : Path
        The tomogram, for messages.

    Returns
    -------
    Preparation
        Of the tilts, binned.
    ReconstructionConfig
        The options that the tomogram was reconstructed with.

    Raises
    ------
    InputError
        If sizes or voxels do not fit together, a side file is not that of the stack, or no angles are known.
    """
    config = load_config(ReconstructionConfig, data.reconstruction)
    if config.x_tilt:
        raise InputError(f"{data.reconstruction}: x_tilt is not known to the checks; leave out --tilts")
    shape = header.data.shape[1:]
    size = config.pixel_size or stack.voxel_size
    if size <= 0:  # no header says otherwise
        size = header.voxel_size if stack.data.shape[1:] == shape else 0.0
    if size <= 0:
        raise InputError(f"{data.tilts} has pixel size 0 in its header; give pixel_size in --reconstruction")
    factor = header.voxel_size / size
    wrong = InputError(
        f"{data.tilts} has {_times(stack.data.shape[1:])} pixels (Y, X) of {size:g} Å, {volume} "
        f"{_times(shape)} of {header.voxel_size:g} Å; give the stack of this tomogram, or --voxel-size"
    )
    if factor < 0.999:
        raise wrong
    binned = config.model_copy(update={"bin": 1.0 if factor < 1.001 else factor, "pixel_size": None})
    plan = plan_preparation(
        replace(stack, voxel_size=size),
        config=binned,
        angles_path=data.tilt_angles,
        alignment_path=data.alignment,
        ctf_path=None,
        dose_path=None,
    )
    if plan.shape != tuple(shape):
        raise wrong
    return plan, config


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def choose_held_out(text: str, plan: Preparation, tilts: Path) -> NDArray[np.bool_]:
    """Turn ``every:5`` or ``outermost:3`` into the tilts that are kept apart.

    Raises
    ------
    InputError
        If it is neither, or too few tilts are left.
    """
    word, _, count = text.partition(":")
    if word not in ("every", "outermost") or not count.isdecimal():
        raise InputError(f"--hold-out must be every:K or outermost:N, got {text}")
    try:
        return hold_out_tilts(plan.tilt_angles, **{word: int(count)})
    except ValueError as error:
        raise InputError(f"{tilts}: {error}; see --hold-out") from error
