"""Structures by file or identifier: whatever the user names becomes a `Macromolecule`."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryomend.io import InputError, Volume, fetch_contour_level, fetch_structure, is_identifier, read_volume
from cryomend.specimen.atoms import macromolecule_from_atoms
from cryomend.specimen.density_map import macromolecule_from_map
from cryomend.specimen.macromolecule import Macromolecule

__all__ = ["STRUCTURE_SUFFIXES", "find_structures", "load_structure"]

_ATOM_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
_MAP_SUFFIXES = (".mrc", ".map", ".ccp4")
STRUCTURE_SUFFIXES = tuple(s + z for s in _ATOM_SUFFIXES + _MAP_SUFFIXES for z in ("", ".gz"))


def load_structure(
    path_or_id: str | Path, *, cache: str | Path | None = None, in_membrane: bool = False
) -> Macromolecule:
    """Read a macromolecule from a file, or from the PDB or EMDB by its identifier.

    Files are PDB, mmCIF and MRC/CCP4 maps at any grey scale, each also gzip-compressed. Identifiers
    are those of `cryomend.io.fetch_structure`, such as ``4V6X`` and ``EMD-11999``; maps of the EMDB are
    cut at their recommended contour level. A file of the same name is preferred.

    Parameters
    ----------
    path_or_id : str or Path
        File name or identifier.
    cache : path-like, optional
        Folder for downloads, as in `cryomend.io.fetch_structure`.
    in_membrane : bool
        The origin is the middle of a bilayer whose normal is Z: Z = 0 of atomic models, as in the OPM
        database, and voxel ``n // 2`` of maps.

    Raises
    ------
    cryomend.io.InputError
        If it is neither, cannot be read or fetched, or holds nothing.
    """
    text, path = str(path_or_id), Path(path_or_id)
    if path.exists() or not is_identifier(text):
        return _load_file(path, path.name.split(".")[0], in_membrane=in_membrane)
    name = text.split("@")[0].upper()
    file = fetch_structure(text, cache=cache)
    level = fetch_contour_level(text, cache=cache) if name.startswith("EMD") else None
    return replace(_load_file(file, name, threshold=level, in_membrane=in_membrane), name=name)


def find_structures(
    names: Sequence[str | Path], *, only: Sequence[str] | None = None, in_membrane: bool = False
) -> list[Macromolecule]:
    """Load structures, and the structure files of folders in the order of their names.

    Parameters
    ----------
    names : sequence of str or Path
        Files, folders, or identifiers as in `load_structure`.
    only : sequence of str, optional
        Stems of the files to keep; all if None.
    in_membrane : bool
        As in `load_structure`.

    Raises
    ------
    cryomend.io.InputError
        If something does not exist, is no structure, or nothing is left of what was given.
    """
    files: list[str | Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.name.lower().endswith(STRUCTURE_SUFFIXES))
        elif path.exists() or is_identifier(str(name)):
            files.append(name)
        else:
            raise InputError(f"{path}: no such file or folder; give structure files or a folder of them")
    kept = [f for f in files if only is None or Path(f).name.split(".")[0].split("@")[0] in only]
    if names and not kept:
        raise InputError(
            f"{names[0]}: holds no structure file (.pdb, .cif, .mrc) that the configuration names"
        )
    return [load_structure(f, in_membrane=in_membrane) for f in kept]


def _load_file(
    path: Path, name: str, *, threshold: float | None = None, in_membrane: bool = False
) -> Macromolecule:
    """Read a file by its ending."""
    ending = path.name.lower().removesuffix(".gz")
    if ending.endswith(_ATOM_SUFFIXES):
        return macromolecule_from_atoms(path, in_membrane=in_membrane)
    if not ending.endswith(_MAP_SUFFIXES):
        raise InputError(
            f"{path} is no structure; give a .pdb, .cif or .mrc file or an identifier (4V6X, EMD-11999)"
        )
    try:
        volume = _read_compressed(path) if path.name.lower().endswith(".gz") else read_volume(path)
    except InputError as error:
        if "--voxel-size" not in str(error):
            raise
        raise InputError(f"{path} has no voxel size in its header; write it there first") from None
    try:
        return macromolecule_from_map(
            volume.data, voxel_size=volume.voxel_size, name=name, threshold=threshold
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _read_compressed(path: Path) -> Volume:
    """Read a gzip-compressed map through a temporary file."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name[: -len(".gz")]
        try:
            with gzip.open(path) as source, open(plain, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; check the name") from None
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise InputError(f"{path} is a damaged gzip file; copy or download it again") from None
        except OSError as error:
            raise InputError(
                f"cannot unpack {path}: {error.strerror or error}; unpack it yourself"
            ) from error
        try:
            return read_volume(plain)
        except InputError as error:
            raise InputError(str(error).replace(str(plain), str(path))) from None
