"""Models by name: those that come with the package, and files of the user's own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from cryomend.io import InputError
from cryomend.network import weights
from cryomend.network.mirror import MirroredNetwork
from cryomend.network.unet import RestorationUNet
from cryomend.noise.model import describe_noise_model, is_noise_model

__all__ = [
    "ModelChoice",
    "bundled_models",
    "choose_model",
    "describe_model",
    "load_model",
    "resolve_model",
    "sample_tomogram",
]

_SUFFIX = ".safetensors"
_START_TOLD = ("name", "sha256", "steps", "minutes", "cryomend")
_OLDER_NAMES = {"default": "fast"}


@dataclass(frozen=True)
class _Release:
    """A released model: its file, and the mirror images over which its answers are averaged."""

    file: str
    mirrors: int = 1


_RELEASED = {"fast": _Release("fast" + _SUFFIX), "best": _Release("fast" + _SUFFIX, mirrors=8)}


@dataclass(frozen=True)
class ModelChoice:
    """Name or path of the model to use, and why it was taken; ``why`` is empty if the user named it."""

    model: str
    why: str = ""


def _models_directory() -> Path:
    """Where the package keeps its models."""
    return Path(str(resources.files("cryomend.restoration") / "models"))


def bundled_models() -> dict[str, Path]:
    """List the models that come with the package, ``fast`` and ``best`` among them: name to file."""
    directory = _models_directory()
    found = {path.stem: path for path in directory.glob("*" + _SUFFIX)}
    there = {n: directory / r.file for n, r in _RELEASED.items() if (directory / r.file).is_file()}
    return dict(sorted((found | there).items()))


def choose_model(name_or_path: str | os.PathLike[str] | None, device: torch.device | str) -> ModelChoice:
    """Take the model that the user names, else ``best`` on an accelerator and ``fast`` on a CPU.

    Parameters
    ----------
    name_or_path : str or path-like, optional
        What the user asked for.
    device : torch.device or str
        Where it will run.

    Returns
    -------
    ModelChoice
        Where the default for the device is missing, the other with a word on it.

    Raises
    ------
    InputError
        If nothing was asked for and the installation has neither.
    """
    if name_or_path is not None:
        return ModelChoice(os.fspath(name_or_path))
    kind = torch.device(device).type
    where = "a CPU" if kind == "cpu" else kind
    wanted, other = ("fast", "best") if kind == "cpu" else ("best", "fast")
    there = bundled_models()
    if wanted in there:
        return ModelChoice(wanted, f"the default on {where}")
    if other in there:
        return ModelChoice(other, f"{wanted} would be the default on {where}; this version does not have it")
    raise InputError("this installation holds no model; install cryomend again, or give one with --model")


def resolve_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Find the file of a model.

    A bundled name wins (``default`` is an older one of ``fast``); anything that ends in .safetensors, holds a
    separator or exists is a path.

    Raises
    ------
    InputError
        If it is neither a bundled name nor a file, or a released one that this version lacks; the message
        lists the names.
    """
    text = os.fspath(name_or_path)
    bundled = bundled_models()
    if (name := _OLDER_NAMES.get(text, text)) in bundled:
        return bundled[name]
    path = Path(text)
    if path.exists():
        return path
    names = ", ".join(bundled) or "none in this installation"
    if name in _RELEASED:
        raise InputError(f"this version does not come with the model {text!r}; it has {names}")
    if path.suffix == _SUFFIX or len(path.parts) > 1:
        raise InputError(f"model file {text} does not exist; give another or a bundled model ({names})")
    raise InputError(f"unknown model {text!r}; bundled models: {names}; or give a .safetensors file")


def load_model(
    name_or_path: str | os.PathLike[str] = "fast",
) -> tuple[RestorationUNet | MirroredNetwork, dict[str, Any]]:
    """Load a restoration network by name or path.

    Parameters
    ----------
    name_or_path : str or path-like
        Name of a bundled model or a file written by ``cryomend train``.

    Returns
    -------
    network : RestorationUNet or MirroredNetwork
        On the CPU, in evaluation mode; the latter for ``best``, the mean over mirror images. Its
        attribute ``tile_side`` (of the network inside) is the side of the crops that it was trained on, if
        its file tells: in larger tiles it is farther from every face than it has ever been, and does worse.
    metadata : dict
        Its configuration and provenance, with ``name`` added if it has none.

    Raises
    ------
    InputError
        If there is no such model or the file is not one.
    """
    path = resolve_model(name_or_path)
    network, metadata = weights.load_model(path)
    training = metadata.get("training")
    network.tile_side = training.get("crop") if isinstance(training, dict) else None  # type: ignore[assignment]
    asked = os.fspath(name_or_path)
    metadata = {"name": asked if asked in bundled_models() else path.stem} | metadata
    mirrors = _RELEASED[asked].mirrors if asked in _RELEASED else 1
    return network if mirrors == 1 else MirroredNetwork(network, mirrors), metadata


def sample_tomogram() -> Path:
    """Find the simulated tomogram that comes with the package.

    Raises
    ------
    InputError
        If this installation lacks it.
    """
    path = Path(str(resources.files("cryomend") / "sample" / "sample.mrc"))
    if not path.is_file():
        raise InputError(f"this installation lacks its sample tomogram ({path}); install cryomend again")
    return path


def describe_model(path: str | os.PathLike[str]) -> dict[str, str]:
    """Tell what is known of a model, a file or a bundled name, in the order to print it.

    Raises
    ------
    InputError
        If there is none, or the file is neither a restoration model nor a noise model.
    """
    if is_noise_model(path):
        return describe_noise_model(path)
    file = resolve_model(path)
    metadata = weights.read_metadata(file)
    mirrors = _RELEASED[name].mirrors if (name := os.fspath(path)) in _RELEASED else 1
    kind = "restoration model" + (f", the mean over {mirrors} mirror images" if mirrors > 1 else "")
    described = {"file": os.fspath(file), "kind": kind}
    start = metadata.get("started_from")
    if isinstance(start, dict):  # all that this model says of itself, and so on back to the first
        metadata = metadata | {"started_from": {key: start[key] for key in _START_TOLD if key in start}}
    said = {key: _in_words(value) for key, value in metadata.items()}
    return described | {key: words for key, words in said.items() if words}


def _in_words(value: Any) -> str:
    """Write nested values on one line: names once, four digits, nothing of what is empty."""
    if isinstance(value, dict):
        said = {key: _in_words(item) for key, item in value.items()}
        return ", ".join(f"{key} {words}" for key, words in said.items() if words)
    if isinstance(value, list):
        names = value and all(isinstance(item, str) for item in value)
        return ", ".join(filter(None, map(_in_words, dict.fromkeys(value) if names else value)))
    if isinstance(value, float):
        return str(float(f"{value:.4g}"))
    return "" if value is None else str(value)
