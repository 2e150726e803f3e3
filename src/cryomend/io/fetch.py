"""Structures from the PDB and the EMDB by identifier: the only place that reaches the network.

Nothing is fetched unless the user names an identifier. What was fetched stays in a cache folder with
its checksum beside it, which is verified at every use.
"""

from __future__ import annotations

import functools
import gzip
import logging
import os
import re
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pooch
import requests

from cryomend.io.path import InputError, atomic_path, reason

__all__ = ["fetch_contour_level", "fetch_structure", "is_identifier"]

_PDB_URL = "https://files.rcsb.org/download"
_EMDB_URL = "https://ftp.ebi.ac.uk/pub/databases/emdb/structures"
_PDB = re.compile(r"(?:pdb_0000)?([1-9][a-z0-9]{3})|(pdb_[a-z0-9]{8})", re.IGNORECASE)
_EMDB = re.compile(r"EMD[-_](\d{4,6})", re.IGNORECASE)
_PIN = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    """One file of an entry: its name in the cache, its place below the base URL, the checksum asked for."""

    identifier: str
    file_name: str
    place: str
    pinned: str | None
    option: str

    def url(self, base: str) -> str:
        """Address below ``base``, which may say with ``{id}`` and ``{middle}`` where the identifier goes."""
        stem = self.file_name.split(".")[0]
        if "{id}" in base:
            return base.replace("{id}", stem).replace("{middle}", stem[-3:-1])
        return f"{base.rstrip('/')}/{self.place}"


def is_identifier(text: str) -> bool:
    """Tell whether a text names an entry of the PDB or EMDB, with or without a checksum."""
    name = text.split("@")[0]
    return bool(_PDB.fullmatch(name) or _EMDB.fullmatch(name))


def fetch_structure(
    identifier: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    timeout: float = 60,
    offline: bool | None = None,
) -> Path:
    """Get the file of a PDB entry (mmCIF) or EMDB entry (map), from the cache or the network.

    Parameters
    ----------
    identifier : str
        ``4V6X``, ``pdb_00004v6x`` or ``EMD-11999``. ``@sha256:HEX`` after it pins the file: any other
        is refused.
    cache : path-like, optional
        Folder to keep files in; ``$CRYOMEND_CACHE``, else the user's cache folder.
    base_url : str, optional
        Where to fetch from; ``$CRYOMEND_PDB_URL`` or ``$CRYOMEND_EMDB_URL``, else RCSB and EBI.
        ``{id}`` and ``{middle}`` (its two middle characters) may stand in that of the PDB, as in
        ``https://files.wwpdb.org/pub/pdb/data/structures/divided/mmCIF/{middle}/{id}.cif.gz``.
    timeout : float
        Seconds without an answer or any data after which to give up.
    offline : bool, optional
        Use the cache alone; so it is if ``$CRYOMEND_OFFLINE`` is set to anything but 0.

    Returns
    -------
    Path
        A gzip-compressed mmCIF file or MRC map in the cache.

    Raises
    ------
    InputError
        If there is no such entry, it cannot be fetched, arrives damaged or cut short, is not what was
        pinned, has changed in the cache, or is not there when offline.

    Notes
    -----
    A file appears in the cache when it is complete and its gzip checksum is right. Proxies of the
    environment are used as by other programs; credentials in ``.netrc`` are not sent.
    """
    return _fetch(_main_file(identifier), cache, base_url, timeout, offline)


def fetch_contour_level(
    identifier: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    timeout: float = 60,
    offline: bool | None = None,
) -> float | None:
    """Get the recommended contour level of an EMDB entry from its header, if it has one.

    Parameters and errors are those of `fetch_structure`; a pinned checksum is that of the map.
    """
    match = _EMDB.fullmatch(identifier.split("@")[0])
    if match is None:
        raise InputError(f"{identifier} is no EMDB identifier; give one such as EMD-11999")
    number = match.group(1)
    name = f"emd-{number}.xml"
    entry = _Entry(f"EMD-{number}", name, f"EMD-{number}/header/{name}", None, "CRYOMEND_EMDB_URL")
    return _contour_level(_fetch(entry, cache, base_url, timeout, offline))


def _main_file(identifier: str) -> _Entry:
    """The file that `fetch_structure` is to get."""
    name, _, pin = identifier.partition("@")
    checksum = _PIN.fullmatch(pin)
    if pin and checksum is None:
        raise InputError(f"{identifier}: a checksum is @sha256: and 64 hexadecimal digits")
    pinned = checksum.group(1).lower() if checksum else None
    if match := _EMDB.fullmatch(name):
        number = match.group(1)
        file_name = f"emd_{number}.map.gz"
        place = f"EMD-{number}/map/{file_name}"
        return _Entry(f"EMD-{number}", file_name, place, pinned, "CRYOMEND_EMDB_URL")
    if match := _PDB.fullmatch(name):
        file_name = (match.group(1) or match.group(2)).lower() + ".cif.gz"
        return _Entry(name.upper(), file_name, file_name, pinned, "CRYOMEND_PDB_URL")
    raise InputError(f"{identifier} is no identifier of the PDB (4V6X) or EMDB (EMD-11999)")


def _fetch(
    entry: _Entry,
    cache: str | os.PathLike[str] | None,
    base_url: str | None,
    timeout: float,
    offline: bool | None,
) -> Path:
    """Path of a verified file in the cache; fetched if it is not there."""
    folder = Path(cache or os.environ.get("CRYOMEND_CACHE") or pooch.os_cache("cryomend"))
    path = folder / entry.file_name
    note = path.with_name(path.name + ".sha256")
    try:
        if path.is_file() and note.is_file():
            _verify_cached(path, note, entry)
            return path
        if offline if offline is not None else os.environ.get("CRYOMEND_OFFLINE", "0") not in ("", "0"):
            raise InputError(
                f"{entry.identifier} is not in {folder}, and CRYOMEND_OFFLINE forbids to fetch it; "
                "give a file or go online once"
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot use the cache {folder}: {reason(error)}; set CRYOMEND_CACHE to another folder"
        ) from error
    default = _PDB_URL if entry.option == "CRYOMEND_PDB_URL" else _EMDB_URL
    url = entry.url(base_url or os.environ.get(entry.option) or default)
    _download(url, path, note, entry, timeout)
    return path


def _verify_cached(path: Path, note: Path, entry: _Entry) -> None:
    """Refuse a file that is not as it was fetched, or not what was pinned."""
    checksum = pooch.file_hash(str(path), alg="sha256")
    if checksum != note.read_text(encoding="ascii", errors="replace").split(" ")[0].strip():
        raise InputError(f"{path} has changed since it was fetched (checksum); delete it to fetch it again")
    if entry.pinned not in (None, checksum):
        raise InputError(
            f"{entry.identifier}: {path} has the checksum {checksum}, not the one asked for; "
            "delete it to fetch it again, or correct the checksum"
        )


def _download(url: str, path: Path, note: Path, entry: _Entry, timeout: float) -> None:
    """Fetch to a temporary name, check, note the checksum, and give the file its name."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    _log.warning("fetching %s to %s", url, path.parent)
    pooch.get_logger().setLevel(logging.WARNING)  # it would advise to copy the checksum into code
    try:
        partial.unlink(missing_ok=True)
        pooch.retrieve(
            url,
            known_hash=None,
            fname=partial.name,
            path=path.parent,
            downloader=functools.partial(_transfer, timeout),
        )
        _check_content(partial, url)
        checksum = pooch.file_hash(str(partial), alg="sha256")
        if entry.pinned not in (None, checksum):
            raise InputError(f"{entry.identifier}: {url} has the checksum {checksum}, not the one asked for")
        with atomic_path(note) as file:
            file.write_text(f"{checksum}  {path.name}\n", encoding="ascii")
        partial.replace(path)
    except requests.RequestException as error:
        raise InputError(_network_problem(error, url, entry, timeout)) from None
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {reason(error)}; set CRYOMEND_CACHE to another folder"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _transfer(timeout: float, url: str, output_file: str, _: object) -> None:
    """Fetch one file for pooch, and notice transfers cut short, whatever the version of urllib3."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "cryomend"}
    with (
        requests.get(url, stream=True, timeout=timeout, headers=headers, auth=lambda r: r) as answer,
        open(output_file, "wb") as file,
    ):
        answer.raise_for_status()
        for chunk in answer.iter_content(1 << 20):
            file.write(chunk)
        expected = answer.headers.get("Content-Length")
        if expected is not None and int(expected) != file.tell():
            raise requests.exceptions.ChunkedEncodingError(f"{file.tell()} of {expected} bytes")


def _network_problem(error: requests.RequestException, url: str, entry: _Entry, timeout: float) -> str:
    """Say in one line what went wrong and what to do."""
    if isinstance(error, requests.HTTPError):
        status = 0 if error.response is None else error.response.status_code
        if status in (404, 410):
            return f"there is no entry {entry.identifier} ({url} answered {status}); check the identifier"
        return f"{url} answered {status}; try again later, or set {entry.option} to a mirror"
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"{url} sent nothing for {timeout:g} s; try again later, or set {entry.option} to a mirror"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"the transfer of {url} broke off; try again"
    return f"cannot reach {url}; check the network, or set {entry.option} to a mirror"


def _check_content(path: Path, url: str) -> None:
    """Refuse what is not the kind of file that was asked for, such as the log-in page of a network."""
    with open(path, "rb") as file:
        start = file.read(512)
    if ".xml" in path.name:
        if b"<emd" not in start:
            raise InputError(f"{url} sent something other than an EMDB header; check the network")
        return
    if start[:2] != b"\x1f\x8b":
        raise InputError(f"{url} sent something other than a gzip file; check the network")
    try:
        with gzip.open(path) as file:
            while file.read(1 << 22):
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"what {url} sent is damaged or cut short (gzip checksum); try again") from None


def _contour_level(path: Path) -> float | None:
    """Contour level in an EMDB header, of the author or else the first, in version 3 or 1.9 of the format."""
    try:
        root = ElementTree.parse(path).getroot()
        contours = root.findall("./map//contour")
        contours.sort(key=lambda contour: contour.get("primary") != "true")
        texts = [contour.findtext("level") for contour in contours] + [root.findtext("./map/contourLevel")]
        return next((float(text) for text in texts if text and text.strip()), None)
    except (ElementTree.ParseError, ValueError):
        raise InputError(f"{path} is not a readable EMDB header; delete it to fetch it again") from None
