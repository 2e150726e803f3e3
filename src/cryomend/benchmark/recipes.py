"""Recipes by name, those that come with the package, and recipe files of the user's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cryomend.benchmark.external import check_template
from cryomend.benchmark.methods import METHODS
from cryomend.config import BenchmarkConfig, load_benchmark
from cryomend.io import InputError

__all__ = ["PER_DATA_SET", "check_methods", "known_methods", "named_recipes", "read_recipe"]

PER_DATA_SET = "per-data-set"


def named_recipes() -> dict[str, Path]:
    """Recipes of the package: name to file. Those that others begin with have an underscore and no name."""
    folder = Path(str(resources.files("cryomend.benchmark") / "recipes"))
    return {p.stem: p for p in sorted(folder.glob("*.toml")) if not p.stem.startswith("_")}


def known_methods(config: BenchmarkConfig) -> list[str]:
    """All methods that a recipe can have as rows: the package's and its own external ones."""
    return [*METHODS, PER_DATA_SET, *config.external]


def read_recipe(name_or_path: str) -> BenchmarkConfig:
    """Read a recipe and refuse what cannot be.

    Parameters
    ----------
    name_or_path : str
        A name of `named_recipes`, which wins, or a TOML file.

    Returns
    -------
    BenchmarkConfig

    Raises
    ------
    ValueError
        If there is no such recipe, a key is misspelt (named by its dotted path), it has no data or both
        kinds, a method is unknown, two tomograms share a name, or a command template cannot be filled in.
    """
    named = named_recipes()
    path = named.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise InputError(
            f"no recipe {name_or_path!r}; there are {', '.join(named)}; or give a TOML file of your own"
        )
    config = load_benchmark(path, named=named)
    if (config.simulated is None) == (not config.tomograms):
        raise InputError(f"{path}: a recipe has either [simulated] or [[tomograms]]; write one of them")
    names = [one.name for one in config.tomograms]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: tomograms.name: each tomogram needs a name of its own")
    for name, program in config.external.items():
        if name in METHODS or name == PER_DATA_SET:
            raise InputError(f"{path}: external.{name}: a method of the package has that name; take another")
        check_template(name, program.command)
    check_methods(config, config.methods)
    return config


def check_methods(config: BenchmarkConfig, names: tuple[str, ...]) -> None:
    """Refuse names that are no methods of a recipe, and repeated ones.

    Raises
    ------
    cryomend.io.InputError
        If so, or if there are none; the message lists those there are.
    """
    known = known_methods(config)
    if not names:
        raise InputError(f"no method is named; choose from {', '.join(known)}")
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"unknown method {unknown[0]!r}; choose from {', '.join(known)}")
    if len(set(names)) < len(names):
        raise InputError("a method is named twice; name each once")
