"""Checkpoints of a training run: tensors and JSON in one safetensors file, complete or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryomend.io import InputError, atomic_path

__all__ = ["read_checkpoint", "write_checkpoint"]

_FORMAT = "cryomend checkpoint 2"


def write_checkpoint(path: Path, states: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
    """Write named groups of tensors and JSON-like facts; an older file stays until the new one is complete.

    Raises
    ------
    cryomend.io.InputError
        If it cannot be written; the older one is as it was.
    """
    tensors = {
        f"{group}/{name}": value.detach().cpu().contiguous()
        for group, state in states.items()
        for name, value in state.items()
    }
    # Serialised first: safetensors writes files itself and reports a full disk as an error of its own.
    content = save(tensors, metadata={"format": _FORMAT, "facts": json.dumps(facts)})
    try:
        with atomic_path(path) as partial:
            partial.write_bytes(content)
    except InputError as error:
        kept = "the last checkpoint is as it was" if path.exists() else "there is no checkpoint yet"
        raise InputError(f"{error}; make room and go on with --resume ({kept})") from error


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what `write_checkpoint` wrote.

    Raises
    ------
    cryomend.io.InputError
        If the file is no checkpoint of this version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a training checkpoint; leave out --resume to start afresh") from error
    if header.get("format") != _FORMAT:
        raise InputError(
            f"{path}: not a training checkpoint of this version (its format is {header.get('format')!r}, "
            f"expected {_FORMAT!r}); leave out --resume to start afresh"
        )
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, name = key.split("/", 1)
        states.setdefault(group, {})[name] = value
    return states, json.loads(header["facts"])
