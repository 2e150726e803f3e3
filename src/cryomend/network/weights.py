"""Weights of the restoration network on disk: safetensors, with the configuration in its header.

Never pickle: a model file is data and cannot run code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryomend.io import InputError, atomic_path, existing_file
from cryomend.network.unet import RestorationUNet

__all__ = ["load_model", "read_metadata", "save_model"]

_KIND, _VERSION = "cryomend restoration model", 1
FORMAT = f"{_KIND} {_VERSION}"


def save_model(path: str | os.PathLike[str], network: RestorationUNet, metadata: dict[str, Any]) -> None:
    """Write a network with what is needed to build it again.

    Parameters
    ----------
    path : path-like
        Where to write, by custom ``NAME.safetensors``.
    network : RestorationUNet
        The weights, on any device.
    metadata : dict
        JSON-like. ``metadata["network"]`` holds the keyword arguments of ``RestorationUNet``; what
        restoration uses besides is ``voxel_size_range`` (Å, two numbers); the rest is provenance.

    Raises
    ------
    ValueError
        If ``metadata["network"]`` does not build a network that takes these weights.
    InputError
        If the place cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    _build(metadata, tensors)
    config = json.dumps(metadata, allow_nan=False)
    # Serialised first: safetensors writes files itself and reports a full disk as an error of its own.
    content = save(tensors, metadata={"format": FORMAT, "config": config})
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def load_model(path: str | os.PathLike[str]) -> tuple[RestorationUNet, dict[str, Any]]:
    """Read a network written by :func:`save_model`.

    Returns
    -------
    network : RestorationUNet
        On the CPU, in evaluation mode.
    metadata : dict
        What was saved beside it.

    Raises
    ------
    InputError
        If the file is missing, is no safetensors file, or holds no model of this architecture.
    """
    name = existing_file(path)
    metadata = read_metadata(name)
    with safe_open(name, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    try:
        return _build(metadata, tensors).eval(), metadata
    except ValueError as error:
        raise InputError(f"{name} is a damaged model: {error}; download or train it again") from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read only what was saved beside the weights.

    Raises
    ------
    InputError
        If the file is missing, is no safetensors file, or holds no restoration model.
    """
    name = existing_file(path)
    try:
        with safe_open(name, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{name} is not a safetensors file; give a model trained by cryomend (pickled .pt and .pth "
            "files are not loaded)"
        ) from error
    kind, _, version = header.get("format", "").rpartition(" ")
    if kind == _KIND and version.isdecimal() and int(version) > _VERSION:
        raise InputError(
            f"{name} was made by a newer cryomend (model format {version}, this one reads {_VERSION}); "
            "update it"
        )
    if header.get("format") != FORMAT:
        found = f"its format is {header['format']!r}" if "format" in header else "it names no format"
        raise InputError(f"{name} is not a cryomend restoration model: {found}, expected {FORMAT!r}")
    return _parse_config(header.get("config", ""), name)


def _parse_config(text: str, name: Path) -> dict[str, Any]:
    """Read the JSON object of the safetensors header."""
    try:
        config = json.loads(text)
    except json.JSONDecodeError:
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{name} is a damaged model: its config is not a JSON object; get it again")
    return config


def _build(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> RestorationUNet:
    """Make the network of the metadata and load the tensors, all of them and no others."""
    arguments = metadata.get("network")
    if not isinstance(arguments, dict):
        raise ValueError('no "network" (keyword arguments of RestorationUNet) in its config')
    try:
        network = RestorationUNet(**arguments)
        network.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        first = " ".join(str(error).split(":")[0].split())
        raise ValueError(f"its weights and config are of another architecture ({first})") from error
    return network
