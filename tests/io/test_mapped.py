"""Volumes that stay on disk: the same bytes as those written from memory, the same refusals."""

from __future__ import annotations

import errno
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

from cryomend.io import InputError, mapped_volume, open_volume, read_sections, read_volume, write_volume
from cryomend.io import path as io_path


def store(path, *, byte_order="<", order=(1, 2, 3)):
    """Write a tomogram with everything in its header that must survive."""
    data = np.random.default_rng(4).normal(-300, 20, (17, 18, 20)).astype(np.int16)
    with mrcfile.new(path, data=data) as file:
        file.set_extended_header(np.frombuffer(bytes(range(200)), dtype="V1"))
        file.header.exttyp = b"FEI1"
        file.voxel_size = 10.52
        file.nstart = (1, -2, 3)
        file.header.origin = (5.5, 6.5, -7.5)
        file.header.mapc, file.header.mapr, file.header.maps = order
        file.add_label("kept")
    raw = path.read_bytes()
    if byte_order == ">":
        header = np.frombuffer(raw[:1024], mrcfile.dtypes.HEADER_DTYPE)
        swapped = header.astype(header.dtype.newbyteorder(">"))
        swapped["machst"] = [0x11, 0x11, 0, 0]
        path.write_bytes(swapped.tobytes() + raw[1024:1224] + data.astype(">i2").tobytes())
    return path


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("order", [(1, 2, 3), (1, 3, 2), (3, 1, 2)])
def test_a_mapped_result_is_the_written_one_byte_for_byte(tmp_path, byte_order, order):
    source = store(tmp_path / "in.mrc", byte_order=byte_order, order=order)
    before = read_volume(source)
    result = before.data * np.float32(0.5)
    write_volume(tmp_path / "written.mrc", result, voxel_size=before.voxel_size, like=before, label="done")
    opened = open_volume(source)
    shape = opened.data.shape
    with mapped_volume(
        tmp_path / "mapped.mrc", shape, voxel_size=opened.voxel_size, like=opened, label="done"
    ) as voxels:
        assert voxels.shape == shape == result.shape
        for z in range(len(result)):
            voxels[z] += result[z]
    written, mapped = ((tmp_path / name).read_bytes() for name in ("written.mrc", "mapped.mrc"))
    statistics = slice(76, 88), slice(216, 220)  # these are sums: their last digits depend on the order
    kept = [bytearray(raw) for raw in (written, mapped)]
    for raw in kept:
        for place in statistics:
            raw[place] = bytes(place.stop - place.start)
    assert kept[0] == kept[1]
    np.testing.assert_array_equal(read_volume(tmp_path / "mapped.mrc").data, result)
    found = [open_volume(tmp_path / name).header for name in ("written.mrc", "mapped.mrc")]
    for word in ("dmin", "dmax", "dmean", "rms"):
        assert float(found[0][word]) == pytest.approx(float(found[1][word]), rel=1e-6)
    assert mapped[1024:1224] == source.read_bytes()[1024:1224]


def test_nothing_is_left_when_the_work_fails_or_the_voxels_are_not_finite(tmp_path):
    opened = open_volume(store(tmp_path / "in.mrc"))
    target = tmp_path / "out.mrc"
    with (
        pytest.raises(KeyboardInterrupt),
        mapped_volume(target, (17, 18, 20), voxel_size=10.0, like=opened),
    ):
        raise KeyboardInterrupt
    with (
        pytest.raises(InputError, match="not finite; nothing is written"),
        mapped_volume(target, (17, 18, 20), voxel_size=10.0, like=opened) as voxels,
    ):
        voxels[16, 3, 3] = np.inf
    assert [path.name for path in tmp_path.iterdir()] == ["in.mrc"]


def test_sections_are_those_of_the_volume(tmp_path):
    source = store(tmp_path / "in.mrc", byte_order=">", order=(3, 1, 2))
    sections = np.stack(list(read_sections(open_volume(source))))
    assert sections.dtype == np.float32 and sections.dtype.isnative
    np.testing.assert_array_equal(sections, read_volume(source).data)


@pytest.mark.parametrize("kind", ["nan", "constant"])
def test_sections_that_cannot_be_used_are_refused_in_the_words_of_the_whole_volume(damaged, kind):
    path = damaged(kind)
    with pytest.raises(InputError) as whole:
        read_volume(path)
    with pytest.raises(InputError) as piecewise:
        list(read_sections(open_volume(path)))
    assert str(piecewise.value) == str(whole.value)


# ---- two at a time ---------------------------------------------------------------------------------

SHAPE = (16, 17, 18)
RAMP = np.arange(16, dtype=np.float32)[:, None, None] + np.ones(SHAPE, dtype=np.float32)
has_locks = pytest.mark.skipif(io_path.fcntl is None, reason="this system has no file locks")


def fill(target):
    with mapped_volume(target, SHAPE, voxel_size=10.0) as voxels:
        voxels += RAMP


def holds_the_ramp_alone(target):
    np.testing.assert_array_equal(read_volume(target).data, RAMP)
    return [path.name for path in target.parent.iterdir()] == [target.name]


@has_locks
def test_two_cannot_fill_one_file_and_the_first_is_not_disturbed(tmp_path):
    target = tmp_path / "out.mrc"
    with mapped_volume(target, SHAPE, voxel_size=10.0) as voxels:
        voxels += RAMP
        with pytest.raises(InputError, match=r"another process is writing .*out\.mrc; wait for it"):
            fill(target)
        assert [path.name for path in tmp_path.iterdir()] == ["out.mrc.partial"]
    assert holds_the_ramp_alone(target)
    fill(target)  # the lock has gone
    assert holds_the_ramp_alone(target)


@has_locks
def test_another_process_is_refused_while_the_file_is_filled(tmp_path):
    target = tmp_path / "out.mrc"
    script = f"""
from cryomend.io import mapped_volume
with mapped_volume({str(target)!r}, {SHAPE}, voxel_size=10.0):
    pass
"""
    with mapped_volume(target, SHAPE, voxel_size=10.0) as voxels:
        voxels += RAMP
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert other.returncode == 1
    assert other.stderr.splitlines()[-1].startswith("cryomend.io.path.InputError: another process is writing")
    assert holds_the_ramp_alone(target)


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
def test_what_a_killed_process_left_is_taken_over(tmp_path):
    target = tmp_path / "out.mrc"
    script = f"""
import os, signal
from cryomend.io import mapped_volume
with mapped_volume({str(target)!r}, (19, 19, 19), voxel_size=10.0) as voxels:
    voxels += 3
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == ["out.mrc.partial"]
    fill(target)
    assert holds_the_ramp_alone(target)


@has_locks
@pytest.mark.parametrize("end", ["finished", "failed"])
def test_a_file_whose_writer_ends_while_it_is_opened_is_left_as_it_is(tmp_path, monkeypatch, end):
    target, kept = tmp_path / "out.mrc", tmp_path / "kept"
    partial = tmp_path / "out.mrc.partial"
    partial.write_text("of the other")
    lock, tried = io_path._lock, []

    def end_of_the_other(file, final):
        if not tried:
            partial.rename(kept if end == "finished" else tmp_path / "gone")
        tried.append(file)
        return lock(file, final)

    monkeypatch.setattr(io_path, "_lock", end_of_the_other)
    fill(target)
    assert len(tried) == 2
    (gone,) = (path for path in tmp_path.iterdir() if path != target)
    assert gone.read_text() == "of the other"
    gone.unlink()
    assert holds_the_ramp_alone(target)


@pytest.mark.parametrize("system", ["without fcntl", "no locks on this disk"])
def test_without_locks_the_file_is_written_as_ever(tmp_path, monkeypatch, system):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    if system == "without fcntl":
        monkeypatch.setattr(io_path, "fcntl", None)
    else:
        monkeypatch.setattr("fcntl.flock", refuse)
    fill(tmp_path / "out.mrc")
    assert holds_the_ramp_alone(tmp_path / "out.mrc")


def test_a_partial_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "out.mrc.partial").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*out\.mrc.*: is a directory"):
        fill(tmp_path / "out.mrc")
    assert not (tmp_path / "out.mrc").exists()
