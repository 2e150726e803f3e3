"""What tells results apart: a hash over all that they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryomend.specimen.macromolecule import Macromolecule

__all__ = ["digest_of", "digest_of_content", "digest_of_files", "digest_of_given", "digest_of_structure"]


def digest_of(*parts: Any) -> str:
    """Hash of values that JSON knows: 16 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_files(paths: list[Path]) -> str:
    """Hash of names, sizes and times of files: whether they are the same, without reading gigabytes."""
    stats = [(path.name, path.stat()) for path in paths]
    return digest_of([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def digest_of_content(path: Path) -> str:
    """Hash of what a file holds, such as the weights of a model."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def digest_of_given(names: Sequence[str]) -> list[str]:
    """Hashes of the contents of files and of what lies in folders; other names stand for themselves."""
    digests = []
    for name in names:
        path = Path(name)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        digests += [digest_of_content(p) if p.is_file() else name for p in files]
    return digests


def digest_of_structure(molecule: Macromolecule) -> str:
    """Hash of a structure's name, points and weights, whatever file they were read from."""
    content = hashlib.sha256(molecule.name.encode())
    content.update(molecule.positions_zyx.tobytes())
    content.update(molecule.weights.tobytes())
    if molecule.kinds is not None:
        content.update(molecule.kinds.tobytes())
    return content.hexdigest()[:16]
