"""Names of files: what must stand there to read, and writing that never leaves a broken file.

The one error of user input, :class:`InputError`, is defined here because paths raise it first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["InputError", "atomic_path", "check_folder", "check_writable", "existing_file", "reason"]


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line naming it and the next step."""


def reason(error: OSError) -> str:
    """Give the operating system's words for an error, in one line."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path if a file stands there.

    Raises
    ------
    InputError
        If nothing is there, or a directory, or the place cannot be looked at.
    """
    name = Path(path)
    try:
        if name.is_dir():
            raise InputError(f"{name} is a directory, not a file")
        name.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{name} does not exist; check the name") from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {reason(error)}") from error
    return name


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield ``NAME.partial`` beside ``path``; rename it when the block succeeds, remove it when it fails.

    Parameters
    ----------
    path : path-like
        The final name; its directory must exist.

    Yields
    ------
    Path
        The temporary sibling to write to.

    Raises
    ------
    InputError
        If the directory is missing or cannot be written, or the disk is full.
    """
    final = check_writable(path)
    partial = final.with_name(final.name + ".partial")  # appended, so that names with dots survive
    try:
        yield partial
        partial.replace(final)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {final}: {reason(error)}") from error
        raise


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure that ``path`` can be written, before any work is done for it.

    Permission bits mislead on network file systems and for root, so a file is really created
    in the directory (and is gone at once).

    Raises
    ------
    InputError
        If the directory is missing or cannot be written, or ``path`` is there and no regular file.
    """
    final = Path(path)
    try:
        if final.is_dir():
            raise InputError(f"cannot write {final}: it is a directory; give a file name")
        if final.exists() and not final.is_file():  # renaming onto a device would replace it
            raise InputError(f"cannot write {final}: it is not a regular file; give a file name")
        if not final.parent.is_dir():
            raise InputError(f"cannot write {final}: {final.parent} is not a directory; make it first")
        with tempfile.TemporaryFile(dir=final.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {final}: {reason(error)}; choose another place") from error
    return final


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Make sure that files can be written into a folder, before any work is done for it.

    The folder need not exist, and is not made yet: then the one that it will stand in is tried.

    Raises
    ------
    InputError
        If ``path`` or what it would stand in is no directory or cannot be written.
    """
    folder = Path(path)
    try:
        place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not place.is_dir():
            raise InputError(f"cannot write into {folder}: {place} is not a directory; choose another place")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {reason(error)}; choose another place") from error
    return folder
