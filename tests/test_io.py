"""Files: what is written is read back, by us and by mrcfile; what is wrong is named."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryomend.io import (
    InputError,
    atomic_path,
    check_writable,
    describe_file,
    find_tilt_angles,
    read_stack,
    read_tilt_angles,
    read_toml,
    read_volume,
    refuse_overwriting,
    write_json,
    write_tilt_angles,
    write_volume,
)

SHAPE = (16, 17, 19)
IMOD_STAMP = 1146047817


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.float32)


def write_with_mrcfile(path: Path, data: np.ndarray, voxel_size: float | tuple[float, ...] = 10.0) -> Path:
    """An MRC that our own writer had no hand in."""
    with mrcfile.new(path, data=data, overwrite=True) as file:
        file.voxel_size = voxel_size
    return path


def patch_bytes(path: Path, offset: int, raw: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(raw)


# ---- reading


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f4", "f2"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_every_mode_in_either_byte_order_is_read_exactly(tmp_path, voxels, dtype, byte_order):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels.astype(byte_order + dtype))
    volume = read_volume(path)
    assert volume.data.dtype == np.float32 and volume.data.dtype.isnative
    assert np.array_equal(volume.data, voxels)
    assert volume.voxel_size == 10.0


def test_signed_bytes_of_the_standard_stay_signed(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", (voxels - 100).astype(np.int8))
    assert np.array_equal(read_volume(path).data, voxels - 100)


@pytest.mark.parametrize(("flags", "shift"), [(0, 256), (1, 0)])
def test_imod_stamp_decides_whether_bytes_are_signed(tmp_path, voxels, flags, shift):
    path = write_with_mrcfile(tmp_path / "a.mrc", (voxels - 100).astype(np.int8))
    patch_bytes(path, 152, struct.pack("<ii", IMOD_STAMP, flags))
    assert np.array_equal(read_volume(path).data, voxels - 100 + shift)


def test_bytes_are_unsigned_when_the_header_maximum_exceeds_127(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", (voxels + 100).astype(np.uint8).view(np.int8))
    patch_bytes(path, 76, struct.pack("<fff", 100.0, 199.0, 150.0))
    assert np.array_equal(read_volume(path).data, voxels + 100)


def test_axes_stored_in_another_order_come_out_as_zyx_and_go_back(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", np.ascontiguousarray(voxels.transpose(2, 0, 1)))
    patch_bytes(path, 64, struct.pack("<iii", 2, 3, 1))  # columns Y, rows Z, sections X
    volume = read_volume(path)
    assert np.array_equal(volume.data, voxels)
    write_volume(tmp_path / "b.mrc", volume.data, voxel_size=volume.voxel_size, like=volume)
    assert (tmp_path / "b.mrc").read_bytes()[1024:] == path.read_bytes()[1024:]
    assert np.array_equal(read_volume(tmp_path / "b.mrc").data, voxels)


def test_wrong_machine_stamp_does_not_matter(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels)
    patch_bytes(path, 212, b"\x11\x11\0\0")
    assert np.array_equal(read_volume(path).data, voxels)


def test_old_file_without_map_word_is_read_when_its_size_agrees_to_the_byte(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels)
    patch_bytes(path, 208, bytes(8))
    assert np.array_equal(read_volume(path).data, voxels)
    with open(path, "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match="not an MRC file"):
        read_volume(path)


def test_given_voxel_size_replaces_that_of_the_header(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels, 3.0)
    assert read_volume(path, voxel_size=13.5).voxel_size == 13.5


@pytest.mark.parametrize("size", [10.52, 1.05, 0.834, 21.6])
def test_voxel_size_survives_the_float32_of_the_header(tmp_path, voxels, size):
    write_volume(tmp_path / "a.mrc", voxels, voxel_size=size)
    assert read_volume(tmp_path / "a.mrc").voxel_size == size


def test_voxel_sizes_within_one_percent_are_averaged(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels, (10.0, 10.0, 10.06))
    assert read_volume(path).voxel_size == pytest.approx(10.02)


def test_stack_may_have_any_number_of_images_and_no_pixel_size(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.st", voxels[:3], 0.0)
    stack = read_stack(path)
    assert stack.data.shape == (3, 17, 19)
    assert stack.voxel_size == 0.0
    assert read_stack(path, pixel_size=2.5).voxel_size == 2.5


def test_stack_ignores_the_header_size_along_the_tilts(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.st", voxels, (2.0, 2.0, 1.0))
    assert read_stack(path).voxel_size == 2.0


# ---- bad input


WRONG = {
    "missing": r"bad\.mrc does not exist",
    "directory": r"bad\.mrc is a directory",
    "not mrc": r"bad\.mrc is not an MRC file",
    "short": r"bad\.mrc is not an MRC file: 3 bytes",
    "gzip": r"bad\.mrc is gzip-compressed; unpack",
    "complex": r"bad\.mrc has 32-bit complex data \(MRC mode 4\)",
    "rgb": r"bad\.mrc has RGB data \(MRC mode 16\)",
    "damaged header": r"bad\.mrc has a damaged MRC header",
    "volume stack": r"bad\.mrc holds 2 volumes",
    "small": r"bad\.mrc has 15 x 17 x 19 voxels; along each axis at least 16",
    "constant": r"bad\.mrc is constant \(every voxel is 3\.5\)",
    "no voxel size": r"bad\.mrc has voxel size 0 in its header; pass --voxel-size",
    "anisotropic": r"bad\.mrc has different voxel sizes along its axes \(X 10, Y 10, Z 12 Å\)",
    "truncated": r"bad\.mrc is truncated: .*16 x 17 x 19 voxels.* 21696 bytes in all, but the file has 21695",
    "nan": r"bad\.mrc has 3 voxels that are NaN or infinite, the first at \(Z, Y, X\) = \(3, 4, 5\)",
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_volume_is_refused_by_name_and_reason(damaged, kind):
    with pytest.raises(InputError, match=WRONG[kind]) as caught:
        read_volume(damaged(kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["truncated", "nan", "constant", "missing", "complex"])
def test_bad_stack_is_refused_like_a_volume(damaged, kind):
    with pytest.raises(InputError, match=WRONG[kind]):
        read_stack(damaged(kind))


@pytest.mark.parametrize("read", [read_volume, read_stack])
def test_a_file_longer_than_its_header_tells_by_a_section_is_refused(tmp_path, voxels, read):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels, 10.0)
    section = 17 * 19 * voxels.itemsize
    with open(path, "ab") as file:
        file.write(bytes(section - 1))
    assert np.array_equal(read(path).data, voxels)  # a last block that was filled up
    with open(path, "ab") as file:
        file.write(b"\0")
    said = rf"a\.mrc is longer than its header tells: its header says 16 x 17 x 19 .* {1024 + 17 * section}"
    with pytest.raises(InputError, match=said):
        read(path)


def test_narrow_stack_is_refused_along_y_and_x_only(tmp_path, voxels):
    with pytest.raises(InputError, match="16 x 17 x 15 voxels; along Y and X at least 16"):
        read_stack(write_with_mrcfile(tmp_path / "a.mrc", voxels[:, :, :15]))


def test_minimum_size_can_be_lowered_for_small_maps(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels[:8, :8, :8])
    assert read_volume(path, minimum_size=8).data.shape == (8, 8, 8)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_given_voxel_size_must_be_positive(tmp_path, voxels, size):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels)
    with pytest.raises(InputError, match="--voxel-size must be a positive number"):
        read_volume(path, voxel_size=size)


def test_unreadable_file_is_refused_with_the_reason(tmp_path, voxels, monkeypatch):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"cannot read .*a\.mrc: permission denied"):
        read_volume(path)


# ---- writing


def rich_file(path: Path, voxels: np.ndarray, byte_order: str = "<") -> Path:
    """An MRC with something in every part of its header that must survive."""
    with mrcfile.new(path, data=voxels.astype(byte_order + "i2"), overwrite=True) as file:
        file.set_extended_header(np.frombuffer(bytes(range(256)) * 3, dtype="V1"))
        file.header.exttyp = b"SERI"
        file.voxel_size = 10.52
        file.nstart = (-7, 8, 9)
        file.header.origin = (123.5, -4.25, 1e4)
        file.header.cellb = (90, 90, 89.5)
        file.header.ispg = 1
        file.header.extra1 = b"12345678"
        file.header.extra2 = bytes(84)
        file.add_label("second label")
    return path


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_header_of_the_source_survives_byte_for_byte(tmp_path, voxels, byte_order):
    source = rich_file(tmp_path / "a.mrc", voxels, byte_order)
    volume = read_volume(source)
    write_volume(tmp_path / "b.mrc", volume.data * 2, voxel_size=volume.voxel_size, like=volume)
    before, after = source.read_bytes(), (tmp_path / "b.mrc").read_bytes()
    changed = {12: 4, 76: 12, 216: 4}  # mode, statistics, rms: nothing else
    for offset, length in changed.items():
        before = before[:offset] + bytes(length) + before[offset + length :]
        after = after[:offset] + bytes(length) + after[offset + length :]
    assert after[: 1024 + 768] == before[: 1024 + 768]


def test_mrcfile_finds_written_file_valid_with_right_statistics(tmp_path, voxels, capsys):
    source = read_volume(rich_file(tmp_path / "a.mrc", voxels))
    path = tmp_path / "b.mrc"
    write_volume(path, voxels, voxel_size=10.52, like=source, label="cryomend 1.0 test")
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as file:
        assert np.array_equal(file.data, voxels) and file.header.mode == 2
        assert file.get_labels()[1:] == ["second label", "cryomend 1.0 test"]
        assert file.header.dmean == pytest.approx(voxels.mean(dtype=np.float64), rel=1e-6)
        assert file.header.rms == pytest.approx(voxels.std(dtype=np.float64), rel=1e-6)
        assert (file.header.dmin, file.header.dmax) == (voxels.min(), voxels.max())
        assert file.extended_header.tobytes() == bytes(range(256)) * 3
        assert file.header.exttyp == b"SERI"


def test_new_file_is_valid_and_has_its_voxel_size(tmp_path, voxels, capsys):
    write_volume(tmp_path / "a.mrc", voxels, voxel_size=10.0, label="made by a test")
    assert mrcfile.validate(tmp_path / "a.mrc"), capsys.readouterr().out
    volume = read_volume(tmp_path / "a.mrc")
    assert volume.labels == ["made by a test"]
    assert volume.origin_zyx == (0.0, 0.0, 0.0)
    with mrcfile.open(tmp_path / "a.mrc") as file:
        assert file.is_volume()


def test_new_stack_is_marked_as_a_stack(tmp_path, voxels):
    write_volume(tmp_path / "a.st", voxels, voxel_size=2.0, stack=True)
    with mrcfile.open(tmp_path / "a.st") as file:
        assert file.is_image_stack()
        assert file.voxel_size.x == 2.0


def test_override_of_the_voxel_size_reaches_the_output(tmp_path, voxels):
    source = read_volume(rich_file(tmp_path / "a.mrc", voxels), voxel_size=8.0)
    write_volume(tmp_path / "b.mrc", source.data, voxel_size=source.voxel_size, like=source)
    assert read_volume(tmp_path / "b.mrc").voxel_size == 8.0
    assert read_volume(tmp_path / "b.mrc").origin_zyx == (1e4, -4.25, 123.5)


def test_another_shape_gets_a_cell_of_its_own(tmp_path, voxels):
    source = read_volume(rich_file(tmp_path / "a.mrc", voxels))
    larger = np.concatenate([voxels, voxels], axis=1)
    write_volume(tmp_path / "b.mrc", larger, voxel_size=10.52, like=source)
    assert read_volume(tmp_path / "b.mrc").voxel_size == 10.52
    assert np.array_equal(read_volume(tmp_path / "b.mrc").data, larger)


def test_eleventh_label_is_left_out(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels)
    with mrcfile.open(path, "r+") as file:
        for i in range(9):
            file.add_label(f"label {i}")
    source = read_volume(path)
    write_volume(tmp_path / "b.mrc", voxels, voxel_size=10.0, like=source, label="one too many")
    assert read_volume(tmp_path / "b.mrc").labels == source.labels
    assert len(source.labels) == 10


def test_big_endian_source_gives_a_big_endian_result(tmp_path, voxels):
    source = read_volume(rich_file(tmp_path / "a.mrc", voxels, ">"))
    write_volume(tmp_path / "b.mrc", voxels, voxel_size=10.52, like=source)
    with mrcfile.open(tmp_path / "b.mrc") as file:
        assert file.data.dtype == np.dtype(">f4")
        assert np.array_equal(file.data, voxels)


@pytest.mark.parametrize("name", ["WT_001.rec.mrc", "a b.c.d.mrc", "no_suffix"])
def test_names_with_dots_and_blanks_are_kept(tmp_path, voxels, name):
    write_volume(tmp_path / name, voxels, voxel_size=10.0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert np.array_equal(read_volume(tmp_path / name).data, voxels)


def test_result_that_is_not_finite_is_not_written(tmp_path, voxels):
    voxels[1, 2, 3] = np.nan
    with pytest.raises(InputError, match=r"has 1 voxels that are NaN .*\(1, 2, 3\)"):
        write_volume(tmp_path / "a.mrc", voxels, voxel_size=10.0)
    assert not list(tmp_path.iterdir())


def test_only_three_axes_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"three axes \(Z, Y, X\), got shape \(2, 2\)"):
        write_volume(tmp_path / "a.mrc", np.zeros((2, 2)), voxel_size=10.0)


# ---- places


def test_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("new")
        raise RuntimeError("half way")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_file_appears_under_its_name_only_when_complete(tmp_path):
    with atomic_path(tmp_path / "a.b.txt") as partial:
        partial.write_text("new")
        assert partial == tmp_path / "a.b.txt.partial"
        assert not (tmp_path / "a.b.txt").exists()
    assert (tmp_path / "a.b.txt").read_text() == "new"


def test_full_disk_is_one_line_that_names_the_file(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot write .*a\.txt: no space left"),
        atomic_path(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")


def test_missing_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a directory; make it first"):
        check_writable(tmp_path / "nowhere" / "a.mrc")


def test_directory_as_file_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is a directory; give a file name"):
        check_writable(tmp_path)


def test_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        check_writable(tmp_path / "file" / "a.mrc")


def test_device_file_is_never_replaced():
    with pytest.raises(InputError, match="not a regular file"):
        check_writable("/dev/null")


def test_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot write .*a\.mrc: permission denied; choose another place"):
        check_writable(tmp_path / "a.mrc")


def test_results_that_have_names_of_their_own_are_apart(tmp_path):
    (tmp_path / "in.mrc").touch()
    refuse_overwriting(
        [tmp_path / "out.mrc", None, "r.json"], [tmp_path / "in.mrc", None, tmp_path / "in.mrc"]
    )
    refuse_overwriting([], [])


@pytest.mark.parametrize("written", ["in.mrc", "sub/../in.mrc", "link.mrc", "in.mrc/"])
def test_a_result_over_an_input_is_refused_however_it_is_written(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "in.mrc").touch()
    (tmp_path / "link.mrc").symlink_to("in.mrc")
    with pytest.raises(
        InputError, match=rf"{Path(written)} would overwrite the input .*in\.mrc; choose another"
    ):
        refuse_overwriting(["out.mrc", written], ["other.mrc", tmp_path / "in.mrc"])


def test_two_results_of_one_name_are_refused_though_nothing_is_there_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"two results go into .*a\.html"):
        refuse_overwriting(["a.html", None, tmp_path / "a.html"], ["b.mrc"])


def test_links_that_go_round_are_names_like_others(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refuse_overwriting([tmp_path / "a"], [tmp_path / "c"])


def test_text_holds_names_of_files_that_are_no_utf_8(tmp_path):
    name = os.fsdecode(b"caf\xe9.mrc")
    write_json(tmp_path / "a.json", {"input": Path(name), "unit": "Å"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"input": name, "unit": "Å"}


# ---- tilt angles


def test_tilt_angles_survive_writing_to_four_decimals(tmp_path):
    angles = np.array([-60.0, -0.00005, 3.1234, 89.9999, 0.0])
    write_tilt_angles(tmp_path / "a.tlt", angles)
    assert np.abs(read_tilt_angles(tmp_path / "a.tlt") - angles).max() <= 0.5001e-4


def test_blank_lines_comments_and_a_second_column_are_ignored(tmp_path):
    (tmp_path / "a.rawtlt").write_text("\n# angle exposure\n  -3.0  1.5\n\n0.0 3.0\n 3 4.5 # last\n\n")
    assert read_tilt_angles(tmp_path / "a.rawtlt").tolist() == [-3.0, 0.0, 3.0]


def test_mdoc_angles_come_in_the_order_of_the_stack(tmp_path):
    sections = "".join(
        f"[ZValue = {z}]\nTiltAngle = {a}\nMagnification = 64000\n\n" for z, a in [(1, 3.5), (0, -2)]
    )
    (tmp_path / "a.mdoc").write_text(
        "PixelSpacing = 5.4\nImageFile = a.st\nImageSize = 10 10\nDataMode = 1\n\n" + sections
    )
    assert read_tilt_angles(tmp_path / "a.mdoc").tolist() == [-2.0, 3.5]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no tilt angles"),
        ("1.0\nabc\n", "line 2 is not a tilt angle"),
        ("1 0 0 1 0 0\n", "line 1 is not a tilt angle"),
        ("1\n2\n90.5\n", r"line 3: tilt angle 90\.5 is outside ±90 degrees"),
        ("-91\n", "line 1: tilt angle -91 is outside"),
        ("nan\n", "line 1: tilt angle nan is outside"),
    ],
)
def test_bad_list_of_tilt_angles_is_refused_by_line(tmp_path, text, reason):
    (tmp_path / "a.tlt").write_text(text)
    with pytest.raises(InputError, match=r"a\.tlt:? .*" + reason.removeprefix("a.tlt")):
        read_tilt_angles(tmp_path / "a.tlt")


def test_missing_or_binary_list_of_tilt_angles_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_tilt_angles(tmp_path / "a.tlt")
    (tmp_path / "a.tlt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match="not a text file of tilt angles"):
        read_tilt_angles(tmp_path / "a.tlt")


def test_mdoc_without_sections_is_refused(tmp_path):
    (tmp_path / "a.mdoc").write_text("nothing here")
    with pytest.raises(InputError, match="not an mdoc file with sections that have ZValue, TiltAngle"):
        read_tilt_angles(tmp_path / "a.mdoc")


@pytest.mark.parametrize(
    ("tomogram", "listed"),
    [
        ("WT_001.mrc", "WT_001.tlt"),
        ("WT_001.mrc", "WT_001.rawtlt"),
        ("WT_001.rec.mrc", "WT_001.rec.tlt"),
        ("WT_001.rec.mrc", "WT_001.tlt"),
        ("WT_001_rec.mrc", "WT_001.tlt"),
    ],
)
def test_tilt_list_of_the_same_name_is_found(tmp_path, tomogram, listed):
    (tmp_path / listed).write_text("0\n")
    (tmp_path / "WT_002.tlt").write_text("0\n")
    assert find_tilt_angles(tmp_path / tomogram) == tmp_path / listed


def test_tilt_list_of_another_name_is_not_taken(tmp_path):
    (tmp_path / "WT_002.tlt").write_text("0\n")
    assert find_tilt_angles(tmp_path / "WT_001.mrc") is None


def test_tlt_comes_before_rawtlt(tmp_path):
    for name in ("a.rawtlt", "a.tlt"):
        (tmp_path / name).write_text("0\n")
    assert find_tilt_angles(tmp_path / "a.mrc") == tmp_path / "a.tlt"


# ---- JSON, TOML, descriptions


def test_json_keeps_the_order_and_takes_numpy_and_what_is_not_finite(tmp_path):
    obj = {"z": np.float32(1.5), "a": [np.arange(2), (1, float("nan"))], 3: Path("x"), "t": True, "n": None}
    write_json(tmp_path / "a.json", obj)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"z": 1.5, "a": [[0, 1], [1, None]], "3": "x", "t": True, "n": None}
    assert list(json.loads(text)) == ["z", "a", "3", "t", "n"]
    assert text.startswith('{\n  "z"')


def test_toml_is_read_and_bad_toml_is_one_line(tmp_path):
    (tmp_path / "a.toml").write_text('[areas]\ns1 = [1, 2]\nname = "µ"\n', encoding="utf-8")
    assert read_toml(tmp_path / "a.toml") == {"areas": {"s1": [1, 2], "name": "µ"}}
    (tmp_path / "a.toml").write_text("= 3\n")
    with pytest.raises(InputError, match=r"a\.toml is not valid TOML: [^\n]+$"):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(InputError, match="does not exist"):
        read_toml(tmp_path / "b.toml")


def test_description_tells_shape_mode_size_labels_levels_and_tilt_angles(tmp_path, voxels):
    path = rich_file(tmp_path / "a.mrc", voxels)
    (tmp_path / "a.tlt").write_text("-50\n0\n40\n")
    described = describe_file(path)
    assert described["kind"] == "MRC, volume"
    assert described["shape"] == "16 x 17 x 19 (Z, Y, X)"
    assert described["mode"] == "1, 16-bit signed integer, little-endian"
    assert described["voxel size"] == "10.52 Å"
    assert described["origin"] == "10000, -4.25, 123.5 Å (Z, Y, X)"
    assert described["extended header"] == "768 bytes"
    assert described["labels"].endswith("| second label")
    assert f"mean {voxels.mean(dtype=np.float64):g}" in described["grey levels"]
    assert described["tilt angles"].startswith("-50 to 40 degrees, 3 in")


def test_list_with_one_angle_for_every_section_makes_it_a_stack(tmp_path, voxels):
    path = write_with_mrcfile(tmp_path / "a.mrc", voxels, 0.0)
    write_tilt_angles(tmp_path / "a.tlt", np.arange(16.0))
    assert describe_file(path)["kind"] == "MRC, tilt series or image stack"
    assert describe_file(path)["voxel size"] == "not in the header; pass --voxel-size"
    assert describe_file(tmp_path / "a.tlt")["range"] == "0 to 15 degrees"


def test_side_files_are_described_in_their_own_words(tmp_path):
    (tmp_path / "a.xf").write_text("0 -1 1 0 3 -4.5\n1 0 0 1 0 0\n")
    described = describe_file(tmp_path / "a.xf")
    assert (described["kind"], described["images"]) == ("alignment", "2")
    assert (described["rotation"], described["largest shift"]) == ("0 to 90 degrees", "4.5 pixels")
    rows = "1 30000 20000 0 0 0.1 5\n2 35000 25000 0 0 0.1 5\n"
    (tmp_path / "a_CTF.txt").write_text("# Columns: #1 - micrograph number; #2 - defocus 1\n" + rows)
    described = describe_file(tmp_path / "a_CTF.txt")
    assert (described["images"], described["defocus"]) == ("2", "2.5 to 3 µm")
    (tmp_path / "a.star").write_text("data_x\n\nloop_\n_rlnA #1\n_rlnB #2\n1 2\n3 4\n")
    assert describe_file(tmp_path / "a.star")["data_x"] == "2 rows of rlnA, rlnB"
    (tmp_path / "a.toml").write_text("a = 1\n")
    with pytest.raises(InputError, match=r"a.toml: info tells of MRC files, lists of angles, alignments"):
        describe_file(tmp_path / "a.toml")
    (tmp_path / "b.star").write_text("nothing of the kind")
    with pytest.raises(InputError, match=r"b\.star"):
        describe_file(tmp_path / "b.star")


def test_description_counts_voxels_that_are_not_finite_instead_of_refusing(damaged):
    described = describe_file(damaged("nan"))
    assert described["grey levels"].endswith("3 voxels are NaN or infinite")
