"""From a folder of pairs to a model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cryomend import __version__
from cryomend.config import TrainingConfig
from cryomend.io import InputError, check_writable
from cryomend.network.weights import save_model
from cryomend.training.crops import PreparedPair, prepare_pair, rotated_side
from cryomend.training.loop import Trainer, network_arguments
from cryomend.training.pairs import pair_paths, read_pair

__all__ = ["find_pairs", "train_from_folder"]


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


def train_from_folder(
    directory: Path,
    output: Path,
    *,
    config: TrainingConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    resume: bool = False,
    on_step: Callable[[Trainer, float], None] = lambda *_: None,
) -> dict[str, Any]:
    """Train the restoration network on all pairs of a folder and write the best model.

    The first pairs by name are kept for validation. A checkpoint stands beside the output as
    ``NAME.checkpoint`` while training runs.

    Returns
    -------
    dict
        What was written into the model's metadata.

    Raises
    ------
    cryomend.io.InputError
        If the pairs are missing or too small for the crops, the output cannot be written, or there
        is nothing to resume.
    """
    # Adam's second moments become denormal numbers, which cost a CPU ten times the time. The flag holds
    # for threads started after it, hence before anything else.
    torch.set_flush_denormal(True)
    check_writable(output)
    names = find_pairs(directory)
    checkpoint = output.with_name(output.name + ".checkpoint")
    if resume and not checkpoint.exists():
        raise InputError(f"{checkpoint}: no checkpoint to resume from; leave out --resume")
    pairs, voxel_sizes = _prepare(directory, names, config)
    held = min(round(config.validation_share * len(pairs)), len(pairs) - 1)
    trainer = Trainer(config, pairs[held:], pairs[:held], seed=seed, device=device, max_minutes=max_minutes)
    if resume:
        trainer.load(checkpoint)
    trainer.run(checkpoint=checkpoint, on_step=on_step)
    metadata = {
        "network": network_arguments(config),
        "voxel_size_range": [min(voxel_sizes), max(voxel_sizes)],
        "training": config.model_dump(mode="json"),
        "pairs": len(pairs) - held,
        "validation_pairs": held,
        "validation_correlation": trainer.best_score if held else None,
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 1),
        "seed": seed,
        "device": str(device),
        "cryomend": __version__,
    }
    save_model(output, trainer.best_network(), metadata)
    checkpoint.unlink()
    return metadata


def _prepare(
    directory: Path, names: list[str], config: TrainingConfig
) -> tuple[list[PreparedPair], list[float]]:
    """Read and standardise all pairs."""
    need = rotated_side(config.crop) if config.rotation_share > 0 else config.crop
    pairs, voxel_sizes = [], []
    for name in names:
        tomogram, density, voxel_size = read_pair(directory, name)
        if min(tomogram.shape) < need:
            turned = f", {need} when rotated" if need > config.crop else ""
            raise InputError(
                f"{pair_paths(directory, name)[0]}: shape {tuple(tomogram.shape)} is smaller than a crop of "
                f"{config.crop} voxels{turned}; make the crop smaller or the pairs larger"
            )
        pairs.append(prepare_pair(tomogram, density))
        voxel_sizes.append(voxel_size)
    return pairs, voxel_sizes
