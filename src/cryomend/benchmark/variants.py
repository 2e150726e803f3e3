"""Trainings at equal effort that differ in one thing: the mathematics of the tables noise and lambda."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryomend.config import AblationConfig, Recipe
from cryomend.training.maker import Ingredients
from cryomend.training.simulate import simulate_to_folder

__all__ = ["Variant", "lambda_variants", "noise_variants", "simulate_variant", "vary_recipe"]

_LAMBDA = 0.1  # of all rows in which it is not varied, as published


@dataclass(frozen=True)
class Variant:
    """What differs from the recipe: options of the training, signal to noise, learned noise, the seed."""

    training: Mapping[str, Any] = field(default_factory=dict)
    snr_db: float | None = None
    learned: str | None = None
    seed: int = 0  # added to that of weights and crops; the pairs stay the same

    @property
    def pairs(self) -> str:
        """Name of the set of pairs that it is trained on."""
        return self.learned or ("counting" if self.snr_db is None else f"gaussian-{self.snr_db:g}-db")

    @property
    def name(self) -> str:
        """Name of its files: equal for equal trainings, whatever table they stand in."""
        return f"{self.pairs}-lambda-{self.training.get('lambda_recon', _LAMBDA):g}"


def noise_variants(config: AblationConfig) -> dict[str, Variant]:
    """Rows of the table noise: learned noise, and Gaussian noise of given strength in every tilt."""
    same = {"lambda_recon": _LAMBDA}
    learned = {f"learned ({config.noise_model})": Variant(same, learned=config.noise_model)}
    return learned | {f"Gaussian, {db:g} dB": Variant(same, snr_db=db) for db in config.gaussian_db}


def lambda_variants(config: AblationConfig) -> dict[str, Variant]:
    """Rows of the table lambda: the weight of the wedge-filling task, all on learned noise."""
    return {
        f"λ_recon {value:g}": Variant({"lambda_recon": value}, learned=config.noise_model)
        for value in config.lambdas
    }


def vary_recipe(recipe: Recipe, variant: Variant, effort: Mapping[str, Any]) -> Recipe:
    """The recipe of a variant.

    All variants take equal steps, of plain crops (not rotated, no weights of wedge or specimens, not
    residual, λ_recon 0.1) at the specimens' own voxel size without binning, and keep the weights of the last
    step. What the variant names then differs.

    Parameters
    ----------
    recipe : Recipe
        What all start from.
    variant : Variant
        What differs.
    effort : mapping
        Options of the training that all share, such as ``steps``.

    Returns
    -------
    Recipe
    """
    plain = {
        "lambda_recon": _LAMBDA,
        "rotation_share": 0.0,
        "wedge_weight": 0.0,
        "balance": 0.0,
        "residual": False,
    }
    training = recipe.training.model_copy(update={**plain, **effort, **variant.training})
    acquisition = recipe.simulation.acquisition.model_copy(update={"snr_db": variant.snr_db})
    processing = recipe.simulation.processing
    if processing is not None:
        processing = processing.model_copy(update={"binning": {"none": 1.0}})
    changes = {
        "voxel_size": None,
        "acquisition": acquisition,
        "processing": processing,
        "noise_share": 1.0,
        "noise_none_share": 0.0,
    }
    simulation = recipe.simulation.model_copy(update=changes)
    return recipe.model_copy(update={"training": training, "simulation": simulation})


def simulate_variant(
    recipe: Recipe, folder: Path, *, count: int, seed: int, noise: Path | None, device: Any, **how: Any
) -> None:
    """Simulate the pairs of a variant; those that stand are left alone.

    Parameters
    ----------
    recipe : Recipe
        Of `vary_recipe`.
    folder : Path
        Of the pairs, which all variants of one kind of noise share.
    count, seed : int
        Number of pairs, and seed of the first.
    noise : Path or None
        Model of the learned noise, if the variant has it; resampled to the voxels of the simulation.
    device : torch.device or str
        Where they are simulated.
    **how
        ``on_done`` of `simulate_to_folder`.
    """
    given = Ingredients(noise=[] if noise is None else [noise], rescale_noise=noise is not None)
    simulate_to_folder(
        recipe.simulation, folder, count=count, seed=seed, ingredients=given, device=device, **how
    )
