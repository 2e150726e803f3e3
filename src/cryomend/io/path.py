"""Names of files: what must stand there to read, and writing that never leaves a broken file.

The one error of user input, :class:`InputError`, is defined here because paths raise it first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # of Windows, where nothing takes its place
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "InputError",
    "atomic_path",
    "check_folder",
    "check_writable",
    "existing_file",
    "reason",
    "refuse_overwriting",
]


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
def atomic_path(path: str | os.PathLike[str], *, alone: bool = False) -> Iterator[Path]:
    """Yield ``NAME.partial`` beside ``path``; rename it when the block succeeds, remove it when it fails.

    Parameters
    ----------
    path : path-like
        The final name; its directory must exist.
    alone : bool
        Let no other process that says so too write it at the same time, where the file system has locks.
        What a process that was killed has left is taken over.

    Yields
    ------
    Path
        The temporary sibling to write to.

    Raises
    ------
    InputError
        If the directory is missing or cannot be written, the disk is full or another process writes it.
    """
    final = check_writable(path)
    partial = final.with_name(final.name + ".partial")  # appended, so that names with dots survive
    with _locked(partial, final) if alone and fcntl is not None else nullcontext():
        try:
            yield partial
            partial.replace(final)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise InputError(f"cannot write {final}: {reason(error)}") from error
            raise


@contextmanager
def _locked(partial: Path, final: Path) -> Iterator[None]:
    """Hold a lock on a file, which is made where it is not there; it ends with the block or the process."""
    while True:
        try:
            file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"cannot write {partial}: {reason(error)}; remove it if it is there") from error
        try:
            if _lock(file, final) and not _is_named(file, partial):
                continue  # its writer has ended in between, and given it another name or none
            yield
            return
        finally:
            os.close(file)


def _lock(file: int, final: Path) -> bool:
    """Take the lock of an open file; False where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another process is writing {final}; wait for it or choose another name") from error
    except OSError:
        return False
    return True


def _is_named(file: int, path: Path) -> bool:
    """Tell whether an open file stands under a name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


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


def refuse_overwriting(
    written: Iterable[str | os.PathLike[str] | None], read: Iterable[str | os.PathLike[str] | None]
) -> None:
    """See that no result would be written over an input or over another result, before any work.

    Names are compared after links have been followed; none of the files need exist.

    Parameters
    ----------
    written : iterable of path-like or None
        Where results will go; None is left out.
    read : iterable of path-like or None
        What the user gave to read; the same file may be named twice.

    Raises
    ------
    InputError
        If two of them are one file, unless both are read.
    """
    inputs = {os.path.realpath(path): path for path in read if path is not None}
    results: set[str] = set()
    for path in written:
        if path is None:
            continue
        place = os.path.realpath(path)  # unlike Path.resolve it takes links that go round
        if place in inputs:
            raise InputError(
                f"the result {Path(path)} would overwrite the input {Path(inputs[place])}; "
                "choose another name"
            )
        if place in results:
            raise InputError(
                f"two results go into {Path(path)}, where one would overwrite the other; choose another name"
            )
        results.add(place)
