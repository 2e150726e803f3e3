"""Fetching from the PDB and EMDB, against a server in this process."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cryomend.io import InputError, fetch_contour_level, fetch_structure, is_identifier

CIF = gzip.compress(b"data_4V6X\n" + bytes(range(256)) * 100)
MAP = gzip.compress(b"a map" * 5000)
HEADER = b"""<?xml version="1.0" encoding="UTF-8"?>
<emd emdb_id="EMD-11999" version="3.0.2.4"><map format="CCP4"><contour_list>
<contour primary="false"><level>0.9</level></contour>
<contour primary="true"><level>0.0345</level><source>AUTHOR</source></contour>
</contour_list></map></emd>"""
OLD_HEADER = b'<emdEntry><map><contourLevel source="author">1.21</contourLevel></map></emdEntry>'
PAGE = b"<html>please log in</html>"


class Archive(ThreadingHTTPServer):
    """A server with a table of paths, that counts requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.faults: set[str] = set()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        body = self.server.files.get(self.path)
        if body is None or "error" in self.server.faults:
            self.send_error(503 if "error" in self.server.faults else 404)
            return
        self.send_response(200)
        if "no length" not in self.server.faults:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.faults & {"truncated", "no length", "slow"}:
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if "slow" in self.server.faults:
            self.wfile.flush()
            self.server.released.wait(20)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def archive(monkeypatch, tmp_path) -> Iterator[Archive]:
    server = Archive()
    server.files = {
        "/4v6x.cif.gz": CIF,
        "/EMD-11999/map/emd_11999.map.gz": MAP,
        "/EMD-11999/header/emd-11999.xml": HEADER,
        "/EMD-1234/header/emd-1234.xml": OLD_HEADER,
        "/EMD-1235/header/emd-1235.xml": b"<emd><map/></emd>",
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in ("CRYOMEND_PDB_URL", "CRYOMEND_EMDB_URL"):
        monkeypatch.setenv(name, server.url)
    monkeypatch.setenv("CRYOMEND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("CRYOMEND_OFFLINE", raising=False)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def refusal(identifier: str, **options) -> str:
    """The one line with which a fetch is refused."""
    with pytest.raises(InputError) as caught:
        fetch_structure(identifier, **options)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("identifier", ["4V6X", "4v6x", "pdb_00004v6x", "PDB_00004V6X"])
def test_pdb_entries_are_fetched_once_and_come_from_the_cache_when_the_server_is_gone(
    archive, tmp_path, identifier
):
    path = fetch_structure(identifier)
    assert path == tmp_path / "cache" / "4v6x.cif.gz" and path.read_bytes() == CIF
    note = path.with_name("4v6x.cif.gz.sha256").read_text()
    assert note == f"{hashlib.sha256(CIF).hexdigest()}  4v6x.cif.gz\n"
    assert archive.seen == ["/4v6x.cif.gz"]
    assert fetch_structure("4V6X", base_url="http://127.0.0.1:9") == path
    assert archive.seen == ["/4v6x.cif.gz"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["4v6x.cif.gz", "4v6x.cif.gz.sha256"]


def test_emdb_entries_give_a_map_and_the_contour_level_of_their_author(archive):
    assert fetch_structure("EMD-11999").read_bytes() == MAP
    assert fetch_contour_level("emd_11999@sha256:" + 64 * "0") == 0.0345
    assert fetch_contour_level("EMD-1234") == 1.21
    assert fetch_contour_level("EMD-1235") is None


def test_mirrors_of_another_layout_are_addressed_by_a_pattern(archive, tmp_path):
    archive.files["/mmCIF/v6/4v6x.cif.gz"] = CIF
    pattern = archive.url + "/mmCIF/{middle}/{id}.cif.gz"
    assert fetch_structure("4V6X", cache=tmp_path / "other", base_url=pattern).read_bytes() == CIF


def test_entries_that_do_not_exist_are_refused(archive, tmp_path):
    line = refusal("9ZZZ")
    assert line.startswith("there is no entry 9ZZZ") and "404" in line and "check the identifier" in line
    assert "there is no entry EMD-4321" in refusal("EMD-4321")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("truncated", "the transfer of .* broke off; try again"),
        ("no length", "damaged or cut short"),
        ("slow", "sent nothing for 0.3 s"),
        ("error", "answered 503; try again later, or set CRYOMEND_PDB_URL"),
    ],
)
def test_transfers_that_fail_leave_nothing_behind_and_can_be_repeated(archive, tmp_path, fault, message):
    archive.faults = {fault}
    with pytest.raises(InputError, match=message):
        fetch_structure("4V6X", timeout=0.3)
    assert list((tmp_path / "cache").iterdir()) == []
    archive.released.set()
    archive.faults = set()
    assert fetch_structure("4V6X").read_bytes() == CIF


def test_a_server_that_accepts_but_never_answers_is_given_up(archive):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "sent nothing for 0.2 s" in refusal("4V6X", base_url=url, timeout=0.2)


def test_a_server_that_is_not_there_is_named(archive):
    line = refusal("4V6X", base_url="http://127.0.0.1:9")
    assert "cannot reach http://127.0.0.1:9/4v6x.cif.gz; check the network, or set CRYOMEND_PDB_URL" in line


def test_log_in_pages_of_networks_are_not_taken_for_data(archive, tmp_path):
    archive.files = {"/4v6x.cif.gz": PAGE, "/EMD-11999/header/emd-11999.xml": PAGE}
    assert "something other than a gzip file; check the network" in refusal("4V6X")
    with pytest.raises(InputError, match="something other than an EMDB header"):
        fetch_contour_level("EMD-11999")
    assert list((tmp_path / "cache").iterdir()) == []


def test_headers_that_are_damaged_are_refused(archive):
    archive.files["/EMD-11999/header/emd-11999.xml"] = HEADER[:200]
    with pytest.raises(InputError, match=r"emd-11999\.xml is not a readable EMDB header; delete it"):
        fetch_contour_level("EMD-11999")


def test_a_file_that_changed_in_the_cache_is_refused_until_it_is_deleted(archive):
    path = fetch_structure("4V6X")
    path.write_bytes(CIF[:-1])
    assert (
        refusal("4V6X") == f"{path} has changed since it was fetched (checksum); delete it to fetch it again"
    )
    path.unlink()
    assert fetch_structure("4V6X").read_bytes() == CIF


def test_a_pinned_checksum_is_enforced_on_arrival_and_in_the_cache(archive, tmp_path):
    right, wrong = hashlib.sha256(CIF).hexdigest(), "0" * 64
    line = refusal(f"4V6X@sha256:{wrong}")
    assert right in line and "not the one asked for" in line
    assert list((tmp_path / "cache").iterdir()) == []
    assert fetch_structure(f"4V6X@sha256:{right.upper()}").read_bytes() == CIF
    assert "4v6x.cif.gz has the checksum" in refusal(f"4V6X@sha256:{wrong}")


def test_offline_only_the_cache_is_used(archive, monkeypatch, tmp_path):
    monkeypatch.setenv("CRYOMEND_OFFLINE", "1")
    line = refusal("4V6X")
    assert f"4V6X is not in {tmp_path / 'cache'}" in line and "CRYOMEND_OFFLINE" in line
    assert archive.seen == [] and not (tmp_path / "cache").exists()
    path = fetch_structure("4V6X", offline=False)
    assert fetch_structure("4V6X") == path
    monkeypatch.setenv("CRYOMEND_OFFLINE", "0")
    assert "there is no entry" in refusal("9ZZZ")


def test_a_cache_that_cannot_be_used_is_refused(archive, tmp_path):
    (tmp_path / "file").write_text("")
    assert "set CRYOMEND_CACHE to another folder" in refusal("4V6X", cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("4V6X", True), ("1abc", True), ("pdb_00004v6x", True), ("pdb_1000abcd", True), ("EMD-1234", True),
        ("emd_11999", True), ("EMD-123456", True), ("4V6X@sha256:" + 64 * "a", True), ("abcd", False),
        ("4V6", False), ("4V6X.pdb", False), ("EMD-12", False), ("../4v6x", False), ("", False),
        ("0abc", False),
    ],
)  # fmt: skip
def test_identifiers_are_told_from_file_names(text, known):
    assert is_identifier(text) == known


def test_other_words_are_no_identifiers():
    assert "is no identifier of the PDB" in refusal("ribosome")
    assert "a checksum is @sha256:" in refusal("4V6X@md5:12")
    with pytest.raises(InputError, match="4V6X is no EMDB identifier"):
        fetch_contour_level("4V6X")
