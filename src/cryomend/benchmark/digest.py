"""What tells results apart: a hash over all that they were made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["digest_of", "digest_of_content", "digest_of_files"]


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
