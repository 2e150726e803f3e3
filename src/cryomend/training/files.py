"""From a folder of pairs to a model file."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryomend import __version__
from cryomend.config import TrainingConfig
from cryomend.io import InputError, check_writable
from cryomend.network.unet import RestorationUNet
from cryomend.network.weights import load_model, read_metadata, save_model
from cryomend.training.crops import PreparedPair, prepare_pair
from cryomend.training.distributed import join_processes
from cryomend.training.loop import Trainer, network_arguments
from cryomend.training.monitor import Monitor
from cryomend.training.pairs import pair_paths, read_pair
from cryomend.training.rotate import rotated_side

__all__ = ["find_pairs", "train_from_folders"]

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


def train_from_folders(
    directories: Sequence[Path],
    output: Path,
    *,
    config: TrainingConfig,
    start_from: Path | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    resume: bool = False,
    on_step: Callable[[Trainer, float], None] = lambda *_: None,
) -> dict[str, Any]:
    """Train the restoration network on all pairs of some folders and write the best model.

    The first pairs of each folder by name are kept for validation. While training runs, a checkpoint stands
    beside the output as ``NAME.checkpoint``; tables, pictures and TensorBoard events go to ``NAME.run``.
    Started by ``torchrun``, its processes train together, and the first one writes.

    Parameters
    ----------
    directories : sequence of Path
        Folders of pairs.
    output : Path
        The model (safetensors).
    config : TrainingConfig
        Network, loss, optimiser.
    start_from : Path, optional
        Model of the same network whose weights to begin with.
    seed : int
        Seed of weights and crops.
    device : torch.device or str
        Where the network runs.
    max_minutes : float, optional
        Wall clock after which training ends.
    resume : bool
        Go on from the checkpoint.
    on_step : callable
        Called with the trainer and the loss after each step.

    Returns
    -------
    dict
        What was written into the model's metadata.

    Raises
    ------
    cryomend.io.InputError
        If the pairs are missing or too small for the crops, the crops do not suit the network, the output
        cannot be written, there is no time, nothing to resume or a run that is not finished, or the model to
        start from is none or of another network.
    FloatingPointError
        If the loss is not finite.
    """
    # Adam's second moments become denormal numbers, which cost a CPU ten times the time. The flag holds
    # for threads started after it, hence before anything else.
    torch.set_flush_denormal(True)
    check_writable(output)
    if max_minutes is not None and not 0 < max_minutes < math.inf:
        raise InputError(f"--max-minutes must be a positive number of minutes, got {max_minutes:g}")
    _check_crop(config)
    found = [(directory, name) for directory in directories for name in find_pairs(directory)]
    checkpoint = output.with_name(output.name + ".checkpoint")
    if resume and not checkpoint.exists():
        raise InputError(f"{checkpoint}: no checkpoint to resume from; leave out --resume")
    initial = None if start_from is None else _initial_weights(start_from, config)
    if checkpoint.exists() and not resume:
        raise InputError(
            f"{checkpoint}: of a run that is not finished; pass --resume, or delete it to start afresh"
        )
    prepared = [_prepare(directory, name, config) for directory, name in found]
    held = _held_out([directory for directory, _ in found], config.validation_share)
    with join_processes(device) as processes:
        trainer = Trainer(
            config,
            [pair for pair, out in zip(prepared, held, strict=True) if not out],
            [pair for pair, out in zip(prepared, held, strict=True) if out],
            seed=seed,
            device=processes.device,
            max_minutes=max_minutes,
            initial=initial,
            processes=processes,
        )
        if resume:
            trainer.load(checkpoint)
        _run(trainer, output, checkpoint, on_step)
        started_from = None if start_from is None else read_metadata(start_from)
        metadata = _describe(trainer, [pair.voxel_size for pair in prepared], started_from)
        if processes.first:
            save_model(output, trainer.best_network(), metadata)
            checkpoint.unlink()
    return metadata


def _run(trainer: Trainer, output: Path, checkpoint: Path, on_step: Callable[[Trainer, float], None]) -> None:
    """Train to the end and name the output where a number stops being finite."""
    monitor = Monitor(output.with_name(output.name + ".run"))
    try:
        trainer.run(checkpoint=checkpoint, monitor=monitor, on_step=on_step)
    except FloatingPointError as error:
        raise FloatingPointError(f"{output}: {error}") from error
    finally:
        monitor.close()
        trainer.forward = trainer.network  # what shares gradients must go before the processes part


def _describe(
    trainer: Trainer, voxel_sizes: Sequence[float], started_from: dict[str, Any] | None
) -> dict[str, Any]:
    """What a model file says about its training."""
    return {
        "network": network_arguments(trainer.config),
        "voxel_size_range": [min(voxel_sizes), max(voxel_sizes)],
        "training": trainer.config.model_dump(mode="json"),
        "started_from": started_from,
        "pairs": len(trainer.pairs) if isinstance(trainer.pairs, Sequence) else None,
        "validation_pairs": len(trainer.validation),
        "validation_correlation": trainer.best_score if trainer.validation else None,
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 1),
        "seed": trainer.seed,
        "device": str(trainer.device),
        "processes": trainer.processes.count,
        "cryomend": __version__,
    }


def _initial_weights(path: Path, config: TrainingConfig) -> dict[str, Tensor]:
    """Weights of a model of the network that the configuration asks for."""
    network, metadata = load_model(path)
    ours = network_arguments(config)
    if network.arguments != RestorationUNet(**ours).arguments:
        raise InputError(
            f"{path}: a network {metadata['network']}, the configuration asks for {ours}; use the same"
        )
    return network.state_dict()


def _check_crop(config: TrainingConfig) -> None:
    """Refuse crops that the network cannot halve as often as it does."""
    multiple = RestorationUNet(**network_arguments(config)).multiple
    if config.crop % multiple:
        nearest = max(multiple, round(config.crop / multiple) * multiple)
        raise InputError(
            f"training.crop: {config.crop} voxels; this network needs sides that are multiples of "
            f"{multiple}, so set crop to {nearest}"
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
    smallest = min(tomogram.shape)
    if smallest < _needed(config.crop, config):
        turned = f", {_needed(config.crop, config)} when rotated" if config.rotation_share > 0 else ""
        multiple = RestorationUNet(**network_arguments(config)).multiple
        fitting = [n for n in range(multiple, smallest + 1, multiple) if _needed(n, config) <= smallest]
        fits = f"set training.crop to {fitting[-1]}" if fitting and fitting[-1] >= 16 else "no crop fits"
        raise InputError(
            f"{pair_paths(directory, name)[0]}: shape {tuple(tomogram.shape)} is smaller than a crop of "
            f"{config.crop} voxels{turned}; make the crop smaller or the pairs larger ({fits})"
        )
    tilt_range = _read_tilt_range(pair_paths(directory, name)[2])
    return prepare_pair(tomogram, density, tilt_range=tilt_range, voxel_size=voxel_size)


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
