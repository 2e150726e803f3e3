"""Folders of pairs: which pairs they hold, and the pairs prepared for the network."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from cryomend.config import TrainingConfig
from cryomend.io import InputError
from cryomend.network.unet import RestorationUNet
from cryomend.training.crops import PreparedPair, prepare_pair
from cryomend.training.loop import network_arguments
from cryomend.training.pairs import pair_paths, read_pair
from cryomend.training.rotate import rotated_side

__all__ = ["check_side", "find_pairs", "read_folders"]

_log = logging.getLogger(__name__)


def find_pairs(directory: Path) -> list[str]:
    """Names of the pairs in a folder.

    Raises
    ------
    cryomend.io.InputError
        If the folder is missing, holds no pair, or one half of a pair is missing (it is named).
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder; make pairs with `cryomend simulate -o {directory}`")
    names = {
        end: {p.name.removesuffix(f"_{end}.mrc") for p in directory.glob(f"*_{end}.mrc")}
        for end in ("input", "target")
    }
    if lonely := sorted(names["input"] ^ names["target"]):
        raise InputError(
            f"{directory}: no partner for {', '.join(lonely[:20])}{' and others' if lonely[20:] else ''}; "
            "a pair is NAME_input.mrc and NAME_target.mrc"
        )
    if not names["input"]:
        raise InputError(
            f"{directory}: holds no pairs NAME_input.mrc, NAME_target.mrc; make some with `cryomend simulate`"
        )
    return sorted(names["input"])


def read_folders(
    directories: Sequence[Path], config: TrainingConfig
) -> tuple[list[PreparedPair], list[PreparedPair]]:
    """Read all pairs of some folders; the first of each folder by name are kept for validation.

    Parameters
    ----------
    directories : sequence of Path
        Folders of pairs.
    config : TrainingConfig
        Crops that must fit into the pairs, and the share kept for validation.

    Returns
    -------
    training, validation : list of PreparedPair

    Raises
    ------
    cryomend.io.InputError
        If pairs are missing, damaged or too small for the crops.
    """
    found = [(directory, name) for directory in directories for name in find_pairs(directory)]
    held = _held_out([directory for directory, _ in found], config.validation_share)
    prepared = [_prepare(directory, name, config) for directory, name in found]
    return (
        [pair for pair, out in zip(prepared, held, strict=True) if not out],
        [pair for pair, out in zip(prepared, held, strict=True) if out],
    )


def _held_out(folders: Sequence[Path], share: float) -> list[bool]:
    """Mark the first ``share`` of each folder's pairs, and never the only pair there is."""
    marks: list[bool] = []
    for folder in dict.fromkeys(folders):
        count = folders.count(folder)
        held = min(round(share * count), count - 1)
        marks += [i < held for i in range(count)]
    return marks


def _prepare(directory: Path, name: str, config: TrainingConfig) -> PreparedPair:
    """Read and standardise a pair."""
    tomogram, density, voxel_size = read_pair(directory, name)
    check_side(
        min(tomogram.shape), config, f"{pair_paths(directory, name)[0]}: shape {tuple(tomogram.shape)}"
    )
    tilt_range = _read_tilt_range(pair_paths(directory, name)[2])
    return prepare_pair(tomogram, density, tilt_range=tilt_range, voxel_size=voxel_size)


def check_side(smallest: int, config: TrainingConfig, what: str) -> None:
    """Refuse volumes that are smaller than a crop; ``smallest`` is their shortest side, in voxels.

    Raises
    ------
    cryomend.io.InputError
        If so; ``what`` names the volumes.
    """
    if smallest >= _needed(config.crop, config):
        return
    turned = f", {_needed(config.crop, config)} when rotated" if config.rotation_share > 0 else ""
    multiple = RestorationUNet(**network_arguments(config)).multiple
    fitting = [n for n in range(multiple, smallest + 1, multiple) if _needed(n, config) <= smallest]
    fits = f"set training.crop to {fitting[-1]}" if fitting and fitting[-1] >= 16 else "no crop fits"
    raise InputError(
        f"{what} is smaller than a crop of {config.crop} voxels{turned}; "
        f"make the crop smaller or the pairs larger ({fits})"
    )


def _needed(crop: int, config: TrainingConfig) -> int:
    """Voxels that a volume must have along each axis."""
    return rotated_side(crop) if config.rotation_share > 0 else crop


def _read_tilt_range(record: Path) -> tuple[float, float]:
    """Extreme tilts of a pair from its record; ±60° where a pair of another making has none."""
    try:
        low, high = json.loads(record.read_text(encoding="utf-8"))["tilt_range"]
    except FileNotFoundError:
        _log.warning("%s: not there, so its missing wedge is taken for that of tilts from -60 to 60", record)
        return -60.0, 60.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record}: not the record of a pair with its tilt_range [MIN, MAX] in degrees; simulate it again"
        ) from error
    if not -90 < low < high < 90:
        raise InputError(f"{record}: needs -90 < MIN < MAX < 90 in tilt_range, got {low} and {high}")
    return float(low), float(high)
