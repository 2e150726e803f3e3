"""Training for a user's own tilt series: their noise, structures, tilts and optics in, a model out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryomend.config import Recipe, UserConfig, load_recipe
from cryomend.io import (
    InputError,
    check_folder,
    open_stack,
    read_image,
    write_json,
    write_volume,
)
from cryomend.noise import (
    NoiseModel,
    NoisePatches,
    extract_noise,
    fit_noise,
    load_noise_model,
    save_noise_model,
)
from cryomend.reconstruction.align import bin_images
from cryomend.restoration.model import choose_model
from cryomend.training.maker import Ingredients
from cryomend.training.run import OnNotes, OnStep, prepare_run, train_restorer
from cryomend.training.series import (
    SeriesFacts,
    UserSeries,
    describe_series,
    find_dqe,
    make_recipe,
    read_series,
    say_series,
)
from cryomend.training.supply import Sources, find_supply

__all__ = ["train_as_asked", "train_for_user"]

OnProgress = Callable[[float, str], None]
_WGAN_PATCHES = 64  # `fit_noise` learns from no fewer
_WGAN_SIDES = (32, 64, 128, 256)
_WGAN_MINUTES = 10.0  # on a CPU; in less it does not come near the spectral model (docs/noise.md)


def train_as_asked(
    output: Path,
    *,
    directories: Sequence[Path],
    series: UserSeries,
    ingredients: Ingredients,
    config: Path | None,
    workers: int | None,
    from_scratch: bool,
    on_progress: OnProgress,
    **how: Any,
) -> dict[str, Any]:
    """`train_for_user` if there are tilt series, else `train_restorer`; refuses what belongs to the other.

    Raises
    ------
    cryomend.io.InputError
        If options of the one are given for the other, or as they do.
    """
    if series.stacks:
        if directories:
            raise InputError(f"{directories[0]}: --for makes its own pairs; leave out the folders of pairs")
        return train_for_user(
            output,
            series,
            ingredients=ingredients,
            config=config,
            workers=workers,
            from_scratch=from_scratch,
            on_progress=on_progress,
            **how,
        )
    options = {
        "--tilt-angles": bool(series.tilt_angles),
        "--pixel-size": series.pixel_size is not None,
        "--bin": series.bin is not None,
        "--from-scratch": from_scratch,
    }
    if wrong := [option for option, given in options.items() if given]:
        raise InputError(f"{', '.join(wrong)}: belongs to --for TILT_SERIES; give that too, or leave it out")
    sources = Sources(directories, ingredients, workers)
    return train_restorer(output, recipe=load_recipe(config), sources=sources, **how)


def train_for_user(
    output: Path,
    series: UserSeries,
    *,
    ingredients: Ingredients,
    config: Path | None = None,
    workers: int | None = None,
    start_from: str | None = None,
    from_scratch: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    max_minutes: float | None = None,
    resume: bool = False,
    on_step: OnStep = lambda *_: None,
    on_notes: OnNotes = lambda notes: None,
    on_progress: OnProgress = lambda share, text: None,
) -> dict[str, Any]:
    """Train a model for the tomograms of a user's tilt series.

    The noise of the series is learned from their empty areas, pairs are simulated without end from the
    user's structures at their voxel size, tilts and optics, and a model of the package is trained on.
    Beside the output ``NAME.run`` gets the noise model, the recipe and ``for.json``, which says what was
    understood of the series.

    Parameters
    ----------
    output : Path
        The model (safetensors), for `cryomend restore --model`.
    series : UserSeries
        Tilt series.
    ingredients : Ingredients
        Structures; with noise models none is fitted.
    config : Path, optional
        Recipe whose options win over what is read from the series.
    workers : int, optional
        As in `Sources`.
    start_from : str, optional
        Model to begin with; the one that `choose_model` takes for the device if None.
    from_scratch : bool
        Begin with random weights.
    seed, device, resume, on_step, on_notes
        As in `train_restorer`.
    max_minutes : float, optional
        Wall clock for all together; the noise takes a share.
    on_progress : callable
        Told the share done and a text while the noise is learned.

    Returns
    -------
    dict
        What was written into the model's metadata.

    Raises
    ------
    cryomend.io.InputError
        If a series, its angles or its pixel size cannot be used, no structure is given, there is no empty
        area, or as `train_restorer`.
    FloatingPointError
        If the loss is not finite.
    """
    start = time.monotonic()
    _check_ingredients(ingredients)
    start_from = _choose_start(start_from, from_scratch, device)
    bin = 1.0 if series.bin is None else series.bin
    found = read_series(series, bin)
    recipe = make_recipe(config, found, bin, ingredients, start_from)
    prepare_run(output, recipe.training, start_from=start_from, max_minutes=max_minutes, resume=resume)
    ingredients = ingredients.read(recipe.simulation)  # once, for `train_restorer` too
    find_supply(recipe, Sources(ingredients=ingredients))  # refuses now, not after the noise is learned
    folder = check_folder(output.with_name(output.name + ".run"))
    record = describe_series(found, bin)
    on_notes(say_series(record))
    if not ingredients.noise:
        model = folder / "noise.safetensors"
        if not (resume and model.is_file()):
            limit = None if max_minutes is None else max_minutes * recipe.user.noise_time_share
            noise = _cut_patches(found, bin, recipe.user, folder, on_notes, on_progress)
            fitted = _fit(noise, recipe.user, seed=seed, device=device, limit=limit, on_progress=on_progress)
            save_noise_model(model, fitted)
            on_notes([*fitted.config["notes"], f"noise of the series: {model} ({fitted.kind})"])
        ingredients = replace(ingredients, noise=[model])
        dqe = find_dqe(found, load_noise_model(model).std_table, bin, recipe.simulation.acquisition)
        recipe = make_recipe(config, found, bin, ingredients, start_from, dqe=dqe)
        on_notes([_say_strength(recipe, dqe)])
    folder.mkdir(exist_ok=True)
    write_json(folder / "for.json", record)
    spent = (time.monotonic() - start) / 60
    return train_restorer(
        output,
        recipe=recipe,
        sources=Sources(ingredients=ingredients, workers=workers, origin=record),
        start_from=start_from,
        seed=seed,
        device=device,
        max_minutes=None if max_minutes is None else max(max_minutes - spent, max_minutes / 2),
        resume=resume,
        on_step=on_step,
        on_notes=on_notes,
    )


def _say_strength(recipe: Recipe, dqe: tuple[float, float] | None) -> str:
    """One line on how strong the noise of the pairs will be."""
    low, high = recipe.simulation.acquisition.dqe
    drawn = f"a DQE of {low:.2g} to {high:.2g}"
    if dqe is None:
        return f"grey levels of the series have no zero, so they do not say how strong the noise is: {drawn}"
    if not np.allclose((low, high), dqe):
        return f"noise as strong as --config says: {drawn}"
    return f"noise as strong as in the series, over their mean: {drawn}"


def _check_ingredients(ingredients: Ingredients) -> None:
    """Refuse to train for series without their structures, or in several processes without their noise."""
    if not ingredients.structures and not ingredients.membrane_structures:
        raise InputError("--for needs the structures of the specimen; give --structures FILE_OR_ID")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not ingredients.noise:
        raise InputError("several processes cannot learn the noise; fit it first and give it with --noise")


def _choose_start(start_from: str | None, from_scratch: bool, device: torch.device | str) -> str | None:
    """The model to begin with, if any."""
    if from_scratch and start_from is not None:
        raise InputError("--from-scratch begins without a model; leave out one of --from-scratch and --from")
    return None if from_scratch else choose_model(start_from, device).model


def _cut_patches(
    found: Sequence[SeriesFacts],
    bin: float,
    config: UserConfig,
    folder: Path,
    on_notes: OnNotes,
    on_progress: OnProgress,
) -> NoisePatches:
    """Noise patches of the final pixel size: of the largest side that gives enough, else of the smallest."""
    folder.mkdir(exist_ok=True)
    made: list[Path] = []
    noise, complaint = None, ""
    try:
        stacks = [facts.stack for facts in found]
        if bin > 1:
            made = [folder / f"binned_{n}.mrc" for n in range(len(found))]
            stacks = [_write_binned(facts, bin, path) for facts, path in zip(found, made, strict=True)]
        for side in sorted(config.patches, reverse=True):
            try:
                noise, report = extract_noise(
                    stacks,
                    tilt_angles=[facts.angle_file for facts in found],
                    patch=side,
                    pixel_size=found[0].pixel_size * bin,
                    on_progress=on_progress,
                )
            except InputError as error:  # no area so large is empty; a smaller one may be
                complaint = str(error).rpartition("; ")[0] or str(error)  # its advice is of `noise extract`
                continue
            if len(noise.patches) >= _WGAN_PATCHES:
                break
    finally:
        for path in made:
            path.unlink(missing_ok=True)
    if noise is None:
        raise InputError(
            f"{complaint}; give emptier series, or fit the noise yourself and give it with --noise"
        )
    on_notes(report[-2:])
    return noise


def _write_binned(facts: SeriesFacts, bin: float, path: Path) -> Path:
    """A series with pixels of the final size."""
    stack = open_stack(facts.stack, pixel_size=facts.pixel_size)
    images = (torch.from_numpy(read_image(stack, n))[None] for n in range(len(stack.data)))
    try:
        binned = [bin_images(image, bin)[0][0].numpy() for image in images]
    except ValueError as error:
        raise InputError(f"{facts.stack}: {error}; give a smaller --bin") from None
    write_volume(path, np.stack(binned), voxel_size=facts.pixel_size * bin, stack=True)
    return path


def _fit(
    noise: NoisePatches,
    config: UserConfig,
    *,
    seed: int,
    device: torch.device | str,
    limit: float | None,
    on_progress: OnProgress,
) -> NoiseModel:
    """The noise model that the recipe asks for; of a learned one and its rivals the nearest."""
    minutes = config.noise_minutes if limit is None else min(limit, config.noise_minutes)
    able = torch.device(device).type != "cpu" or minutes >= _WGAN_MINUTES
    fits = noise.patches.shape[-1] in _WGAN_SIDES
    kind = config.noise_model or ("wgan" if able and fits else "spectral")
    begin = time.monotonic()

    def show(step: int, losses: dict[str, float]) -> None:
        share = (time.monotonic() - begin) / (60 * minutes)
        on_progress(share, f"noise model, step {step}")

    model = fit_noise(noise, kind=kind, seed=seed, device=device, max_minutes=minutes, on_step=show)
    scores = model.config.get("validation", {})
    nearest = min(scores, key=lambda name: float(scores[name]["score"])) if scores else model.kind
    return model if nearest == model.kind else fit_noise(noise, kind=nearest)
