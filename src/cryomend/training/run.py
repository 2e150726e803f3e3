"""One training run: pairs from folders, from the stream or from both in, a model file out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryomend import __version__
from cryomend.config import Recipe, TrainingConfig, dump_config
from cryomend.io import InputError, atomic_path, check_folder, check_writable
from cryomend.network.unet import RestorationUNet
from cryomend.network.weights import load_model, save_model
from cryomend.network.widen import can_widen, widen_network
from cryomend.restoration.model import resolve_model
from cryomend.training.distributed import is_first_process, join_processes
from cryomend.training.loop import Trainer, network_arguments, read_run
from cryomend.training.monitor import Monitor
from cryomend.training.stream import PairStream
from cryomend.training.supply import Sources, Supply, find_supply

__all__ = ["OnNotes", "OnStep", "prepare_run", "train_from_folders", "train_restorer"]

OnStep = Callable[[Trainer, float], None]
OnNotes = Callable[[list[str]], None]


def train_restorer(
    output: Path,
    *,
    recipe: Recipe,
    sources: Sources,
    start_from: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    resume: bool = False,
    on_step: OnStep = lambda *_: None,
    on_notes: OnNotes = lambda notes: None,
) -> dict[str, Any]:
    """Train the restoration network and write the best model.

    While training runs, a checkpoint stands beside the output as ``NAME.checkpoint``; tables, pictures,
    TensorBoard events, the recipe and the pairs of the stream go to ``NAME.run``. Started by ``torchrun``,
    its processes train together, and the first one writes.

    Parameters
    ----------
    output : Path
        The model (safetensors).
    recipe : Recipe
        Of pairs, stream and network.
    sources : Sources
        Folders of pairs, or what pairs are made from.
    start_from : str or Path, optional
        Model of the same network, or of one with narrower levels, whose weights to begin with: the name of
        one that comes with the package, or a file.
    seed : int
        Seed of weights, pairs and crops; a run that is resumed keeps its own.
    device : torch.device or str
        Where the network runs.
    max_minutes : float, optional
        Wall clock after which training ends, counted from the first step.
    resume : bool
        Go on from the checkpoint.
    on_step : callable
        Called with the trainer and the loss after each step.
    on_notes : callable
        Told what the user should know, one line each.

    Returns
    -------
    dict
        What was written into the model's metadata.

    Raises
    ------
    cryomend.io.InputError
        If pairs, structures or noise models are missing or do not suit, pairs are too small for the crops,
        the crops do not suit the network, the output cannot be written, there is no time, nothing to
        resume or a run that is not finished, or the model to start from is none or of another network.
    FloatingPointError
        If the loss is not finite.
    """
    # Adam's second moments become denormal numbers, which cost a CPU ten times the time. The flag holds
    # for threads started after it, hence before anything else.
    torch.set_flush_denormal(True)
    tell = on_notes if is_first_process() else (lambda notes: None)
    config, checkpoint = recipe.training, _checkpoint_of(output)
    initial, started_from, seed_before = prepare_run(
        output, config, start_from=start_from, max_minutes=max_minutes, resume=resume
    )
    seed = seed if seed_before is None else seed_before
    if started_from is not None and (narrow := started_from["network"]["channels"]) != [*config.channels]:
        tell([f"{start_from}: its levels of {narrow} features become {[*config.channels]}"])
    supply = find_supply(recipe, sources, on_notes=tell)
    folder = check_folder(output.with_name(output.name + ".run"))
    with ExitStack() as stack:
        processes = stack.enter_context(join_processes(device))
        stream = supply.open_stream(folder, seed=seed, processes=processes)
        if stream is not None:
            stack.enter_context(stream)
        trainer = Trainer(
            config,
            supply.mix(stream),
            seed=seed,
            device=processes.device,
            max_minutes=max_minutes,
            initial=initial,
            processes=processes,
        )
        if resume:
            trainer.load(checkpoint)
        tell(supply.summarise(processes.device))
        trainer.validation = supply.find_validation(folder, seed=seed, processes=processes)
        if processes.first:
            _write_recipe(folder, recipe, seed)
        _run(trainer, folder, checkpoint, on_step)
        trainer.mix_with_start()
        facts = _describe(trainer, supply, started_from)
        if processes.first:
            save_model(output, trainer.best_network(), facts)
            checkpoint.unlink()
        if stream is not None:
            stream.close(discard=True)
    return facts


def train_from_folders(
    directories: Sequence[Path], output: Path, *, config: TrainingConfig, **how: Any
) -> dict[str, Any]:
    """`train_restorer` on all pairs of some folders, the first pairs of each kept for validation."""
    return train_restorer(
        output, recipe=Recipe(training=config), sources=Sources(directories=directories), **how
    )


def prepare_run(
    output: Path,
    config: TrainingConfig,
    *,
    start_from: str | Path | None,
    max_minutes: float | None,
    resume: bool,
) -> tuple[dict[str, Tensor] | None, dict[str, Any] | None, int | None]:
    """Refuse a run that cannot be, before any pair is read or made.

    Parameters
    ----------
    output, config, start_from, max_minutes, resume
        As in `train_restorer`.

    Returns
    -------
    initial : dict of Tensor or None
        Weights to begin with.
    started_from : dict or None
        What the model that they are of says of itself.
    seed : int or None
        Of the run that is resumed.

    Raises
    ------
    cryomend.io.InputError
        As `train_restorer`, for all but pairs and what they are made from.
    """
    check_writable(output)
    checkpoint = _checkpoint_of(output)
    if max_minutes is not None and not 0 < max_minutes < math.inf:
        raise InputError(f"--max-minutes must be a positive number of minutes, got {max_minutes:g}")
    _check_crop(config)
    if resume and not checkpoint.exists():
        raise InputError(f"{checkpoint}: no checkpoint to resume from; leave out --resume")
    initial, started_from = (None, None) if start_from is None else _initial_weights(start_from, config)
    if resume:
        return initial, started_from, read_run(checkpoint, config)[1]["seed"]
    if checkpoint.exists():
        raise InputError(
            f"{checkpoint}: of a run that is not finished; pass --resume, or delete it to start afresh"
        )
    return initial, started_from, None


def _checkpoint_of(output: Path) -> Path:
    """Where the checkpoint of a run stands."""
    return output.with_name(output.name + ".checkpoint")


def _run(trainer: Trainer, folder: Path, checkpoint: Path, on_step: OnStep) -> None:
    """Train to the end and name the output where a number stops being finite."""
    monitor = Monitor(folder)
    try:
        trainer.run(checkpoint=checkpoint, monitor=monitor, on_step=on_step)
    except FloatingPointError as error:
        raise FloatingPointError(f"{folder.with_suffix('')}: {error}") from error
    finally:
        monitor.close()
        trainer.forward = trainer.network  # what shares gradients must go before the processes part


def _write_recipe(folder: Path, recipe: Recipe, seed: int) -> None:
    """Leave every option of the run beside its tables."""
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / "recipe.yaml") as partial:
        partial.write_text(
            dump_config(recipe, comment=f"cryomend {__version__}, seed {seed}"), encoding="utf-8"
        )


def _describe(trainer: Trainer, supply: Supply, started_from: dict[str, Any] | None) -> dict[str, Any]:
    """What a model file says about its training."""
    sizes, pairs = supply.voxel_sizes(), trainer.pairs
    stream = pairs if isinstance(pairs, PairStream) else getattr(pairs, "stream", None)
    made = {"stream": stream.describe(), "stall_share": round(stream.stall_share, 4)} if stream else {}
    return {
        "network": network_arguments(trainer.config),
        "voxel_size_range": [min(sizes), max(sizes)],
        "training": trainer.config.model_dump(mode="json"),
        "started_from": started_from,
        "pairs": len(supply.training) + (stream.produced if stream else 0),
        "validation_pairs": len(trainer.validation),
        "validation_correlation": trainer.best_score if trainer.validation else None,
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 2),
        "seed": trainer.seed,
        "device": str(trainer.device),
        "processes": trainer.processes.count,
        "cryomend": __version__,
        **supply.describe(),
        **made,
    }


def _initial_weights(
    name_or_path: str | Path, config: TrainingConfig
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a model for the network that the configuration asks for, and what it says of itself."""
    path = resolve_model(name_or_path)
    network, metadata = load_model(path)
    ours = network_arguments(config)
    wanted = RestorationUNet(**ours)
    if not can_widen(network, wanted):
        raise InputError(
            f"{path}: a network {metadata['network']}, the configuration asks for {ours}; "
            "use the same, or one with wider levels"
        )
    if network.arguments != wanted.arguments:
        network = widen_network(network, config.channels, generator=torch.Generator().manual_seed(0))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return network.state_dict(), {"name": path.stem, "sha256": digest} | metadata


def _check_crop(config: TrainingConfig) -> None:
    """Refuse crops that the network cannot halve as often as it does."""
    multiple = RestorationUNet(**network_arguments(config)).multiple
    if config.crop % multiple:
        nearest = max(multiple, round(config.crop / multiple) * multiple)
        raise InputError(
            f"training.crop: {config.crop} voxels; this network needs sides that are multiples of "
            f"{multiple}, so set crop to {nearest}"
        )
