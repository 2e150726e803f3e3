"""The rows of the ablation differ from the recipe in what their name says, and in nothing else."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BASE = "λ = 0.1 (the recipe)"


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module("ablation")
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if path and Path(path).parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def options():
    recipe = BENCHMARKS.parent / "configs" / "default-model.yaml"
    return argparse.Namespace(recipe=recipe, steps=100, crop=48, batch=2, recon_share=0.5)


def differences(one: dict, other: dict, path: str = "") -> set[str]:
    """Dotted paths of what two nested dictionaries have not in common."""
    found = set()
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= differences(a, b, f"{path}{key}.")
        elif a != b:
            found.add(f"{path}{key}")
    return found


def test_every_row_changes_one_thing(ablation, options) -> None:
    base = ablation.make_recipe(ablation.VARIANTS[BASE], options).model_dump()
    for name, variant in ablation.VARIANTS.items():
        changed = differences(base, ablation.make_recipe(variant, options).model_dump())
        outside_the_recipe = (variant.learned is not None) + (variant.seed != 0)
        assert len(changed) + outside_the_recipe == (name != BASE), name


def test_the_recipe_states_what_rows_switch_on(ablation, options) -> None:
    training = ablation.make_recipe(ablation.VARIANTS[BASE], options).training
    off = (training.rotation_share, training.wedge_weight, training.balance, training.residual)
    assert off == (0, 0, 0, False)
    assert training.validate_every == training.steps == 100


def test_rows_of_one_kind_of_noise_share_their_pairs(ablation) -> None:
    folders = {name: variant.pairs for name, variant in ablation.VARIANTS.items()}
    assert len(set(folders.values())) == 7  # counting, four Gaussian, two learned
    assert folders["the recipe, second seed"] == folders["rotated crops"] == folders[BASE] == "counting"
