"""Alignments: IMOD's .xf, AreTomo's .aln, RELION's tilt series."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cryomend.io import InputError, read_alignment

SIDECARS = Path(__file__).parents[3] / "shared/data/sidecars"
real = pytest.mark.skipif(not SIDECARS.is_dir(), reason="no real side files here")

HEAD = "# AreTomo Alignment / Priims bprmMn\n# RawSize = 40 30 {count}\n# NumPatches = 0\n"
TABLE = "# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT\n"
STAR = (
    "data_TS_01\n\nloop_\n_rlnTomoXTilt #1\n_rlnTomoYTilt #2\n_rlnTomoZRot #3\n_rlnTomoXShiftAngst #4\n"
    "_rlnTomoYShiftAngst #5\n"
)


def write_aln(folder, sections, *, count, dark=(), offsets="", local="", rot=-12.5, gmag=1.0):
    """An .aln with one row per section; dark frames are pairs of (frame, section)."""
    lines = [f"# DarkFrame =  {frame:4d} {section:4d}   -66.00\n" for frame, section in dark]
    rows = [
        f"{n:5d} {rot:9.4f} {gmag:9.5f} {1.5 * n:9.3f} {-0.25 * n:9.3f} 1.0 1.0 1.0 0.0 {3 * n - 60:8.2f}\n"
        for n in sections
    ]
    path = folder / "a.aln"
    path.write_text(HEAD.format(count=count) + "".join(lines) + offsets + TABLE + "".join(rows) + local)
    return path


def test_xf_rows_are_matrix_then_shift(tmp_path):
    (tmp_path / "a.xf").write_text("   0.5  -0.25   0.125   2.0   -27.094   -2.191\n1 0 0 1 0 0\n\n")
    alignment = read_alignment(tmp_path / "a.xf")
    assert alignment.matrices[0].tolist() == [[0.5, -0.25], [0.125, 2.0]]
    assert alignment.shifts_xy.tolist() == [[-27.094, -2.191], [0, 0]]
    assert alignment.sections.tolist() == [0, 1]
    assert alignment.tilt_angles is None and alignment.raw_shape is None


def test_aln_sends_what_aretomo_looks_up_to_where_it_looks_from(tmp_path):
    # AreTomo fills the aligned pixel p with the raw one at R(ROT) p + (TX, TY), both from the middle
    alignment = read_alignment(write_aln(tmp_path, range(5), count=5, rot=33.0))
    turn = np.radians(33.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    aligned = np.array([7.0, -4.0])
    for n, (matrix, shift) in enumerate(zip(alignment.matrices, alignment.shifts_xy, strict=True)):
        raw = rotation @ aligned + [1.5 * n, -0.25 * n]
        assert matrix @ raw + shift == pytest.approx(aligned, abs=1e-12)
    assert alignment.tilt_angles.tolist() == [-60, -57, -54, -51, -48]
    assert alignment.raw_shape == (5, 30, 40)


def test_a_magnified_image_is_made_smaller(tmp_path):
    alignment = read_alignment(write_aln(tmp_path, range(3), count=3, gmag=1.25))
    assert np.linalg.det(alignment.matrices) == pytest.approx(1 / 1.25**2)


@pytest.mark.parametrize(
    ("sections", "count", "dark", "expected"),
    [
        ([0, 1, 2], 3, [], [0, 1, 2]),
        ([1, 2, 3], 3, [], [0, 1, 2]),
        ([1, 2], 4, [(0, 0), (3, 3)], [1, 2]),  # from 0: first and last are dark
        ([2, 3], 4, [(0, 1), (3, 4)], [1, 2]),  # from 1: the same images
        ([1, 2, 3], 4, [(3, 4)], [0, 1, 2]),  # from 1, and no line that reaches 4
        ([2, 0, 1], 3, [], [2, 0, 1]),  # a stack in the order of recording
        ([3, 1, 2], 4, [(2, 0)], [3, 1, 2]),
    ],
)
def test_sections_are_counted_from_0_whether_aretomo_counted_from_0_or_1(
    tmp_path, sections, count, dark, expected
):
    assert read_alignment(write_aln(tmp_path, sections, count=count, dark=dark)).sections.tolist() == expected


def test_offset_that_is_contained_in_the_angles_is_told(tmp_path):
    offsets = "# AlphaOffset =     4.50\n# BetaOffset =     0.00\n# Thickness = 300\n"
    alignment = read_alignment(write_aln(tmp_path, range(2), count=2, offsets=offsets))
    assert alignment.tilt_offset == 4.5
    assert alignment.tilt_angles.tolist() == [-60, -57]
    assert read_alignment(write_aln(tmp_path, range(2), count=2)).tilt_offset == 0


def test_local_alignment_and_tilt_about_x_are_left_out_with_a_warning(tmp_path, caplog):
    local = "# Local Alignment\n   0   0  -558.42   -802.00   -100.07     24.43   1.0\n"
    offsets = "# BetaOffset =     2.00\n"
    alignment = read_alignment(write_aln(tmp_path, range(2), count=2, local=local, offsets=offsets))
    assert len(alignment.sections) == 2
    assert "local alignment is not applied" in caplog.text and "BetaOffset of 2 degrees" in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_relion_shift_is_applied_after_its_rotation(tmp_path):
    (tmp_path / "a.star").write_text(STAR + "0.0 -30.0 85.0 12.0 -6.0\n0.0 0.0 85.0 0.0 4.0\n")
    alignment = read_alignment(tmp_path / "a.star", pixel_size=2.0)
    turn = np.radians(85.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    point = np.array([10.0, 3.0])  # of the projection before Rz and shift, where the tilt axis is Y
    assert alignment.matrices[0] @ (rotation @ point + [6, -3]) + alignment.shifts_xy[0] == pytest.approx(
        point
    )
    assert alignment.tilt_angles.tolist() == [-30, 0]


def test_relion_tilt_about_x_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "a.star").write_text(STAR + "1.5 -30.0 85.0 12.0 -6.0\n1.5 0.0 85.0 0.0 4.0\n")
    read_alignment(tmp_path / "a.star", pixel_size=2.0)
    assert "tilt about X of 1.50 degrees is not applied" in caplog.text


def test_relion_shifts_need_a_pixel_size(tmp_path):
    (tmp_path / "a.star").write_text(STAR + "0.0 -30.0 85.0 12.0 -6.0\n")
    for pixel_size in (None, 0.0, float("nan")):
        with pytest.raises(InputError, match=r"a\.star gives shifts in Å; say the pixel size of the stack"):
            read_alignment(tmp_path / "a.star", pixel_size=pixel_size)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"holds no numbers; expected six numbers a line \(IMOD \.xf\) or an AreTomo \.aln"),
        ("1 0 0 1 0\n", "line 1 does not fit; expected six numbers"),
        ("1 0 0 1 0 0\n1 0 0 1 0\n", "line 2 does not fit"),
        ("1 0 0 1 0 nan\n", "line 1 does not fit"),
        ("1 0 0 1 x 0\n", "line 1 does not fit"),
        ("1 0 0 1 0 0\n0 0 0 0 0 0\n", "the matrix of image 2 cannot be inverted"),
    ],
)
def test_bad_xf_is_refused_by_line(tmp_path, text, reason):
    (tmp_path / "a.xf").write_text(text)
    with pytest.raises(InputError, match=r"a\.xf:? " + reason) as caught:
        read_alignment(tmp_path / "a.xf")
    assert "\n" not in str(caught.value)


def test_missing_or_binary_alignment_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_alignment(tmp_path / "a.xf")
    (tmp_path / "a.xf").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match="not a text file"):
        read_alignment(tmp_path / "a.xf")


@pytest.mark.parametrize(
    ("sections", "count", "changes", "reason"),
    [
        ([0, 1, 1], 3, {}, "no list of different images"),
        ([0, 1, 3], 3, {}, "no list of different images"),  # 0 and 3 of 3 images
        ([0, 1, 7], 3, {}, "SEC goes beyond the 3 images of its RawSize"),
        ([0, 1], 2, {"gmag": 0.0}, "GMAG must be positive"),
        ([], 2, {}, "holds no numbers; expected ten numbers a line"),
        ([0, 1], 2, {"offsets": "# AlphaOffset = x\n"}, "expected '# AlphaOffset =' with 1 number"),
        ([0, 1], "", {}, "expected '# RawSize =' with 3 numbers"),
    ],
)
def test_bad_aln_is_refused(tmp_path, sections, count, changes, reason):
    with pytest.raises(InputError, match=r"a\.aln:? .*" + reason) as caught:
        read_alignment(write_aln(tmp_path, sections, count=count, **changes))
    assert "\n" not in str(caught.value)


@real
@pytest.mark.parametrize(("file", "images"), [("00254.xf", 41), ("tilt_1.xf", 59), ("xf_file.xf", 41)])
def test_real_xf_are_rotations(file, images):
    alignment = read_alignment(SIDECARS / "imod" / file)
    assert len(alignment.sections) == images
    assert np.linalg.det(alignment.matrices) == pytest.approx(1, abs=0.02)


@real
def test_real_aln_agrees_with_alnfile():
    alignment = read_alignment(SIDECARS / "aretomo/test.aln")
    assert alignment.raw_shape == (90, 2032, 2032)
    assert alignment.tilt_angles.tolist() == [-61.5, -60, -58.5, -57]
    alnfile = pytest.importorskip("alnfile")
    xf = alnfile.df_to_xf(alnfile.read(SIDECARS / "aretomo/test.aln"))
    assert np.abs(xf[:, :, :2] - alignment.matrices).max() < 1e-12
    assert np.abs(xf[:, :, 2] - alignment.shifts_xy).max() < 1e-12


@real
@pytest.mark.parametrize(("file", "images"), [("relion5_TS_01_tilt.star", 40), ("tomo200528_107.star", 35)])
def test_real_relion_tilt_series_are_read(file, images):
    alignment = read_alignment(SIDECARS / "relion5" / file, pixel_size=1.724)
    assert alignment.matrices.shape == (images, 2, 2)
    assert (np.diff(alignment.tilt_angles) > 0).all()


@real
def test_warp_and_imod_mean_the_same_rotation():
    # both files are of one series; Warp's AxisAngle is in the sense of AreTomo's ROT and RELION's ZRot
    from xml.etree import ElementTree

    text = (SIDECARS / "warp/00254.xml").read_text(encoding="utf-8-sig")
    axis = float(ElementTree.fromstring(text).findtext("AxisAngle").split()[0])
    first = read_alignment(SIDECARS / "imod/00254.xf").matrices[0]
    assert np.degrees(np.arctan2(first[0, 1], first[0, 0])) == pytest.approx(axis, abs=1e-3)
