"""From a folder of pairs to a model file."""

from __future__ import annotations

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
from cryomend.training.loop import Trainer, network_arguments
from cryomend.training.pairs import pair_paths, read_pair
from cryomend.training.rotate import rotated_side

__all__ = ["find_pairs", "train_from_folders"]


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
            f"{directory}: no partner for {', '.join(lonely[:5])}; "
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

    The first pairs of each folder by name are kept for validation. A checkpoint stands beside the
    output as ``NAME.checkpoint`` while training runs.

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
        If the pairs are missing or too small for the crops, the output cannot be written, there is
        nothing to resume, or the model to start from is none or of another network.
    """
    # Adam's second moments become denormal numbers, which cost a CPU ten times the time. The flag holds
    # for threads started after it, hence before anything else.
    torch.set_flush_denormal(True)
    check_writable(output)
    found = [(directory, name) for directory in directories for name in find_pairs(directory)]
    checkpoint = output.with_name(output.name + ".checkpoint")
    if resume and not checkpoint.exists():
        raise InputError(f"{checkpoint}: no checkpoint to resume from; leave out --resume")
    initial = None if start_from is None else _initial_weights(start_from, config)
    prepared = [_prepare(directory, name, config) for directory, name in found]
    held = _held_out([directory for directory, _ in found], config.validation_share)
    trainer = Trainer(
        config,
        [pair for (pair, _), out in zip(prepared, held, strict=True) if not out],
        [pair for (pair, _), out in zip(prepared, held, strict=True) if out],
        seed=seed,
        device=device,
        max_minutes=max_minutes,
        initial=initial,
    )
    if resume:
        trainer.load(checkpoint)
    trainer.run(checkpoint=checkpoint, on_step=on_step)
    voxel_sizes = [voxel_size for _, voxel_size in prepared]
    metadata = {
        "network": network_arguments(config),
        "voxel_size_range": [min(voxel_sizes), max(voxel_sizes)],
        "training": config.model_dump(mode="json"),
        "started_from": None if start_from is None else read_metadata(start_from),
        "pairs": len(trainer.pairs),
        "validation_pairs": len(trainer.validation),
        "validation_correlation": trainer.best_score if trainer.validation else None,
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 1),
        "seed": seed,
        "device": str(device),
        "cryomend": __version__,
    }
    save_model(output, trainer.best_network(), metadata)
    checkpoint.unlink()
    return metadata


def _initial_weights(path: Path, config: TrainingConfig) -> dict[str, Tensor]:
    """Weights of a model of the network that the configuration asks for."""
    network, metadata = load_model(path)
    theirs, ours = metadata["network"], network_arguments(config)
    if RestorationUNet(**theirs).state_dict().keys() != RestorationUNet(**ours).state_dict().keys() or any(
        theirs.get(key) != value for key, value in ours.items()
    ):
        raise InputError(f"{path}: a network {theirs}, the configuration asks for {ours}; use the same")
    return network.state_dict()


def _held_out(folders: Sequence[Path], share: float) -> list[bool]:
    """Mark the first ``share`` of each folder's pairs, and never the only pair there is."""
    marks: list[bool] = []
    for folder in dict.fromkeys(folders):
        count = folders.count(folder)
        held = min(round(share * count), count - 1)
        marks += [i < held for i in range(count)]
    return marks


def _prepare(directory: Path, name: str, config: TrainingConfig) -> tuple[PreparedPair, float]:
    """Read and standardise a pair; its voxel size in Å."""
    need = rotated_side(config.crop) if config.rotation_share > 0 else config.crop
    tomogram, density, voxel_size = read_pair(directory, name)
    if min(tomogram.shape) < need:
        turned = f", {need} when rotated" if need > config.crop else ""
        raise InputError(
            f"{pair_paths(directory, name)[0]}: shape {tuple(tomogram.shape)} is smaller than a crop of "
            f"{config.crop} voxels{turned}; make the crop smaller or the pairs larger"
        )
    return prepare_pair(tomogram, density), voxel_size
