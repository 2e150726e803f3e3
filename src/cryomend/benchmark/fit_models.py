"""Jobs that fit a model: the noise of the data, a network per variant, a network for the data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import yaml

from cryomend.benchmark.job import Job
from cryomend.benchmark.methods import Run
from cryomend.benchmark.variants import Variant, simulate_variant, vary_recipe
from cryomend.config import AblationConfig
from cryomend.io import InputError, write_text
from cryomend.noise import extract_noise, fit_noise, save_noise_model
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.procedural import procedural_macromolecule
from cryomend.training.maker import Ingredients
from cryomend.training.run import train_restorer
from cryomend.training.series import UserSeries
from cryomend.training.supply import Sources
from cryomend.training.user import train_for_user

__all__ = ["fit_noise_model", "train_data_set", "train_variant", "variant_settings"]

_MADE_UP = 6  # procedural structures for a data set whose structures nobody gave
_MASSES_KDA = (60.0, 2500.0)
_SYMMETRIES = ("C1", "C2", "C4", "D2", "D7", "O")
_MADE_UP_SEED = 990_000  # of no specimen of the simulated recipes


def variant_settings(config: AblationConfig, variant: Variant, noise: str | None) -> dict[str, Any]:
    """What a job that trains a variant must know; ``noise`` is a model file, from the benchmark's folder."""
    only = {"pairs": config.pairs, "recipe": config.recipe.model_dump(mode="json")}
    return {"ablation": only, "variant": asdict(variant), "noise": noise}


def fit_noise_model(job: Job, run: Run) -> dict[str, Any]:
    """Learn the noise of tilt series, given as ``stacks`` with ``angles``, from their empty areas.

    Raises
    ------
    cryomend.io.InputError
        If no area is empty, or the tilt series differ in their pixels.
    """
    start = time.perf_counter()
    minutes = float(run.settings["minutes"])
    noise, report = extract_noise(
        [job.folder / path for path in run.settings["stacks"]],
        tilt_angles=[job.folder / path for path in run.settings["angles"]],
        patch=int(run.settings["patch"]),
        pixel_size=_only(run.settings, "pixel_sizes") if "pixel_sizes" in run.settings else None,
        on_progress=run.progress,
    )

    def tell(step: int, losses: dict[str, float]) -> None:
        run.progress(min((time.perf_counter() - start) / (60 * minutes), 1.0), f"noise model, step {step}")

    model = fit_noise(
        noise, kind=str(run.settings["kind"]), seed=run.seed, device=run.device, max_minutes=minutes,
        on_step=tell,
    )  # fmt: skip
    save_noise_model(job.result, model)
    return {
        "seconds": time.perf_counter() - start,
        "chosen": {"kind": model.kind, "patches": len(noise.patches)},
        "notes": [*report[-2:], *model.config["notes"]],
    }


def _only(settings: Mapping[str, Any], name: str) -> float:
    """What all tomograms have in common; one model is for voxels of one size."""
    values = sorted({round(float(value), 4) for value in settings[name]})
    if len(values) > 1:
        listed = ", ".join(f"{value:g}" for value in values)
        raise InputError(
            f"one model for tomograms of several {name.replace('_', ' ')} ({listed}); split them"
        )
    return float(settings[name][0])


def train_variant(job: Job, run: Run) -> dict[str, Any]:
    """Simulate the pairs of a variant, unless others have, and train its network; only that is timed."""
    config = AblationConfig.model_validate(run.settings["ablation"])
    variant = Variant(**run.settings["variant"])
    noise = run.settings["noise"]
    recipe = vary_recipe(config.recipe, variant, {"validate_every": config.recipe.training.steps})
    folder = job.folder / "ablation" / f"pairs-{variant.pairs}-{job.inputs[:8]}"
    begin = time.perf_counter()
    simulate_variant(
        recipe,
        folder,
        count=config.pairs,
        seed=run.seed,
        noise=None if noise is None else job.folder / noise,
        device=run.device,
        on_done=lambda done: run.progress(0.5 * done / config.pairs, f"pair {done} of {config.pairs}"),
    )
    _forget_checkpoint(job)
    start = time.perf_counter()
    facts = train_restorer(
        job.result,
        recipe=recipe,
        sources=Sources(directories=[folder]),
        seed=run.seed + variant.seed,
        device=run.device,
        on_step=_tell_step(run, 0.5),
    )
    return {
        "seconds": time.perf_counter() - start,
        "preparation_seconds": start - begin,
        "chosen": {"steps": facts["steps"], "pairs": facts["pairs"]},
    }


def _forget_checkpoint(job: Job) -> None:
    """Begin anew after a kill: all rows are timed from their first step."""
    job.result.with_name(job.result.name + ".checkpoint").unlink(missing_ok=True)


def _tell_step(run: Run, before: float) -> Callable[..., None]:
    """What tells the progress of a training that begins when a share is done."""

    def tell(trainer: Any, loss: float) -> None:
        run.progress(before + (1 - before) * trainer.progress, f"step {trainer.step}, loss {loss:.3g}")

    return tell


def train_data_set(job: Job, run: Run) -> dict[str, Any]:
    """`cryomend train --for` on all tilt series of the benchmark together.

    Raises
    ------
    cryomend.io.InputError
        If recorded data come without structures, tomograms differ in their voxels, or as `train_for_user`.
    """
    start = time.perf_counter()
    settings = run.settings
    structures: list[str | Macromolecule] = list(settings["structures"])
    in_membranes: list[str | Macromolecule] = list(settings["membrane_structures"])
    made_up = not structures and not in_membranes
    if made_up and not settings["simulated"]:
        raise InputError("per_data_set.structures: name the structures of the specimen in the recipe")
    if made_up:
        structures += _make_up()
    options = job.stem.with_name(job.stem.name + ".yaml")
    write_text(options, yaml.safe_dump(dict(settings["options"]), sort_keys=False))
    _forget_checkpoint(job)
    facts = train_for_user(
        job.result,
        UserSeries(
            [job.folder / path for path in settings["stacks"]],
            [job.folder / path for path in settings["angles"]],
            bin=_only(settings, "bins"),
            pixel_size=_only(settings, "pixel_sizes"),
        ),
        ingredients=Ingredients(structures, in_membranes),
        config=options,
        seed=run.seed,
        device=run.device,
        max_minutes=float(settings["minutes"]),
        on_step=_tell_step(run, 0.0),
    )
    given = "procedural, of other seeds than the specimens" if made_up else "given"
    return {
        "seconds": time.perf_counter() - start,
        "chosen": {"steps": facts["steps"], "structures": given},
    }


def _make_up() -> list[Macromolecule]:
    """Structures for a simulated data set without structure files; not those that stand in it."""
    rng = np.random.default_rng(_MADE_UP_SEED)
    masses = np.geomspace(*_MASSES_KDA, _MADE_UP)
    return [
        procedural_macromolecule(rng, mass_kda=float(mass), symmetry=symmetry, name=f"made-up-{i + 1}")
        for i, (mass, symmetry) in enumerate(zip(masses, _SYMMETRIES, strict=True))
    ]
