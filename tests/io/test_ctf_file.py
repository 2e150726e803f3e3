"""Defocus of every tilt from the files of CTFFIND, AreTomo, Gctf, RELION, IMOD and Warp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryomend.io import InputError, read_defocus

SIDECARS = Path(__file__).parents[3] / "shared/data/sidecars"
real = pytest.mark.skipif(not SIDECARS.is_dir(), reason="no real side files here")

COLUMNS = "# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth\n"
OPTICS = (
    "# Pixel size: 1.327 Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; "
    "amplitude contrast: 0.07\n"
)


def write(folder, text, name="a.defocus"):
    (folder / name).write_text(text)
    return folder / name


def warp_xml(values, *, delta, angle, phase, used):
    def grid(tag, numbers):
        nodes = "".join(
            f'<Node X="0" Y="0" Z="{z}" Value="{v}" />' for z, v in reversed([*enumerate(numbers)])
        )
        return f"<{tag}>{nodes}</{tag}>"

    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<TiltSeries><UseTilt>' + "\n".join(used) + "</UseTilt><CTF>"
        '<Param Name="Voltage" Value="200.0" /><Param Name="Cs" Value="2.7" /></CTF>'
        + grid("GridCTF", values)
        + grid("GridCTFDefocusDelta", delta)
        + grid("GridCTFDefocusAngle", angle)
        + grid("GridCTFPhase", phase)
        + "</TiltSeries>"
    )


def test_ctffind_rows_stand_in_the_order_of_the_stack_in_micrometres(tmp_path):
    rows = "2 30000 28000 -30 1.5707963 0.1 8.0\n1 20000 19000 75 0 0.1 inf\n"
    series = read_defocus(write(tmp_path, OPTICS + COLUMNS + rows, "a.txt"))
    assert series.defocus_um == pytest.approx([1.95, 2.9])
    assert series.astigmatism_um == pytest.approx([0.05, 0.1])
    assert series.astigmatism_angle == pytest.approx([75, -30])
    assert series.phase_shift == pytest.approx([0, 90])
    assert (series.voltage_kv, series.spherical_aberration_mm, series.amplitude_contrast) == (300, 2.7, 0.07)


def test_aretomo_and_ctffind_5_have_no_optics_and_more_columns(tmp_path):
    series = read_defocus(
        write(tmp_path, COLUMNS + "1 25951.41 24469.37 88.08 0 -0.01 24.7 1.0\n", "a_CTF.txt")
    )
    assert series.defocus_um == pytest.approx([2.521039])
    assert series.voltage_kv is None and series.amplitude_contrast is None
    ten = read_defocus(write(tmp_path, COLUMNS + "1 25951.41 24469.37 88.08 0 0.1 6 171 20 1200\n", "b.txt"))
    assert ten.astigmatism_um == pytest.approx(series.astigmatism_um)


def test_the_angle_is_always_that_of_the_larger_defocus(tmp_path):
    one = read_defocus(
        write(tmp_path, COLUMNS + "1 20000 19000 10 0 0 8\n1 20000 19000 -85 0 0 8\n", "a.txt")
    )
    two = read_defocus(write(tmp_path, COLUMNS + "1 19000 20000 100 0 0 8\n1 19000 20000 5 0 0 8\n", "b.txt"))
    assert one.astigmatism_angle == pytest.approx(two.astigmatism_angle)
    assert one.astigmatism_um == pytest.approx(two.astigmatism_um)
    assert (two.astigmatism_um > 0).all()


def test_gctf_star_gives_optics_and_relion_star_none(tmp_path):
    head = "data_\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n_rlnDefocusAngle #4\n"
    plain = read_defocus(write(tmp_path, head + "a 20000 18000 12\nb 30000 29000 13\n", "a.star"))
    assert plain.defocus_um == pytest.approx([1.9, 2.95])
    assert plain.phase_shift.tolist() == [0, 0] and plain.voltage_kv is None
    more = head + "_rlnVoltage #5\n_rlnSphericalAberration #6\n_rlnAmplitudeContrast #7\n_rlnPhaseShift #8\n"
    gctf = read_defocus(write(tmp_path, more + "a 20000 18000 12 300 2.7 0.07 90\n", "b.star"))
    assert (gctf.voltage_kv, gctf.spherical_aberration_mm, gctf.amplitude_contrast) == (300, 2.7, 0.07)
    assert gctf.phase_shift.tolist() == [90]


def test_imod_version_2_is_interpolated_between_the_middles_of_its_ranges(tmp_path):
    # ctfphaseflip puts a value on view (first + last) / 2, counted from 0 and rounded down
    series = read_defocus(write(tmp_path, "1 4 -60 -51 4000 2\n5 5 -48 -48 5000\n6 9 -45 -36 7000\n"))
    assert series.defocus_um == pytest.approx([4, 4, 4 + 1 / 3, 4 + 2 / 3, 5, 6, 7, 7, 7])
    assert not series.astigmatism_um.any() and not series.phase_shift.any()


def test_imod_views_behind_the_last_one_keep_its_values_up_to_the_end_of_the_stack(tmp_path):
    text = "1 0 0. 0. 0 3\n2 2 0 0 4000 3800 20\n4 4 0 0 5000 4800 40\n"
    path = write(tmp_path, text)
    series = read_defocus(path, views=6)
    assert series.defocus_um + series.astigmatism_um == pytest.approx([4, 4, 4.5, 5, 5, 5])
    assert series.astigmatism_angle == pytest.approx([20, 20, 30, 40, 40, 40])
    assert len(series.phase_shift) == 6 and series.last_view == 4
    assert [len(read_defocus(path, views=views).defocus_um) for views in (None, 3)] == [4, 4]


def test_angles_that_a_program_has_inverted_are_warned_of(tmp_path, caplog):
    read_defocus(write(tmp_path, "0 0 0. 0. 0 3\n1 1 0 0 4000\n"))
    grids = {"delta": [0.1], "angle": [10], "phase": [0], "used": ["True"]}
    xml = warp_xml([3.0], **grids)
    read_defocus(
        write(tmp_path, xml.replace("<TiltSeries", '<TiltSeries AreAnglesInverted="False"'), "a.xml")
    )
    assert not caplog.records
    read_defocus(write(tmp_path, "16 0 0. 0. 0 3\n1 1 0 0 4000\n"))
    read_defocus(write(tmp_path, xml.replace("<TiltSeries", '<TiltSeries AreAnglesInverted="True"'), "a.xml"))
    flag, attribute = (record.getMessage() for record in caplog.records)
    assert (
        "a.defocus: its tilt angles are inverted (flag 16), which is not applied; set defocus_hand: -1"
        in flag
    )
    assert "a.xml: its tilt angles are inverted (AreAnglesInverted)" in attribute


def test_imod_version_3_flags_say_which_columns_follow_and_in_which_unit(tmp_path):
    row = "{angle} {phase} {cut}\n"
    degrees = "{flags} 0 0. 0. 0 3\n1 1 -3 -3 4000 3800 " + row + "2 2 0 0 4100 3900 " + row
    plain = read_defocus(write(tmp_path, degrees.format(flags=5, angle=30, phase=90, cut="")))
    assert plain.defocus_um == pytest.approx([3.9, 4.0])
    assert plain.astigmatism_um == pytest.approx([0.1, 0.1])
    assert plain.astigmatism_angle == pytest.approx([30, 30])
    assert plain.phase_shift == pytest.approx([90, 90])
    for flags, angle, phase, cut in [
        (5 + 2, np.pi / 6, 90, ""),
        (5 + 8, 30, np.pi / 2, ""),
        (5 + 2 + 8 + 16 + 32, np.pi / 6, np.pi / 2, 0.05),
    ]:
        other = read_defocus(write(tmp_path, degrees.format(flags=flags, angle=angle, phase=phase, cut=cut)))
        assert other.astigmatism_angle == pytest.approx(plain.astigmatism_angle)
        assert other.phase_shift == pytest.approx(plain.phase_shift)
        assert other.defocus_um == pytest.approx(plain.defocus_um)


def test_imod_phase_shift_alone_is_the_sixth_column(tmp_path):
    series = read_defocus(write(tmp_path, "4 0 0. 0. 0 3\n1 1 0 0 4000 60\n3 3 6 6 4000 80\n"))
    assert series.phase_shift == pytest.approx([60, 70, 80])
    assert not series.astigmatism_um.any()


def test_imod_angles_are_interpolated_the_short_way_round(tmp_path):
    series = read_defocus(write(tmp_path, "1 0 0. 0. 0 3\n1 1 0 0 4000 3800 80\n3 3 6 6 4000 3800 -80\n"))
    assert series.astigmatism_angle % 180 == pytest.approx([80, 90, 100])
    assert (np.abs(series.astigmatism_angle) <= 90).all()


def test_imod_second_defocus_of_zero_is_no_astigmatism_measured(tmp_path):
    text = "1 0 0. 0. 0 3\n1 1 0 0 4000 3800 20\n2 2 3 3 5000 0 0\n3 3 6 6 4000 3800 40\n"
    series = read_defocus(write(tmp_path, text))
    assert series.defocus_um + series.astigmatism_um == pytest.approx([4, 5, 4])
    assert series.astigmatism_um[1] == pytest.approx(5 * 0.05 / 2)  # the ratio of its neighbours
    assert series.astigmatism_angle == pytest.approx([20, 30, 40])


def test_views_of_an_old_ctfplotter_are_moved_by_one_with_a_warning(tmp_path, caplog):
    series = read_defocus(write(tmp_path, "0 0 -60 -60 4000\n1 1 -57 -57 5000\n"))
    assert series.defocus_um.tolist() == [4, 5]
    assert "views are counted from 0" in caplog.text


def test_warp_difference_is_of_the_two_defoci_and_unused_tilts_are_left_out(tmp_path):
    text = warp_xml(
        [3.0, 4.0, 5.0],
        delta=[0.2, 0.1, 0.4],
        angle=[10, 20, 30],
        phase=[0.5],
        used=["True", "False", "True"],
    )
    series = read_defocus(write(tmp_path, text, "a.xml"))
    assert series.defocus_um == pytest.approx([3, 5])
    assert series.astigmatism_um == pytest.approx([0.1, 0.2])
    assert series.astigmatism_angle == pytest.approx([10, 30])
    assert series.phase_shift == pytest.approx([90, 90])
    assert (series.voltage_kv, series.spherical_aberration_mm, series.amplitude_contrast) == (200, 2.7, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no numbers; expected CTFFIND, AreTomo or IMOD"),
        ("1 1 0 0\n", "line 1 does not fit"),
        ("1 1 0 0 4000 3800 20\n", "line 1 does not fit"),
        ("1 1 0 0 4000 2\n2 2 0 0\n", "line 2 does not fit"),
        ("1 0 0. 0. 0 3\n1 1 0 0 4000\n", "line 2 does not fit"),
        ("1 1 0 0 nan\n", "line 1 does not fit"),
        ("0 1 0 0 4000 2\n", "views must be ranges counted from 1"),
        ("3 2 0 0 4000 2\n", "views must be ranges counted from 1"),
        ("1.5 2 0 0 4000\n", "views must be ranges counted from 1"),
        (COLUMNS, "holds no numbers; expected the columns of CTFFIND or AreTomo"),
        (COLUMNS + "1 20000 19000 10 0\n", "line 2 does not fit; expected the columns of CTFFIND"),
        (COLUMNS + "1 20000 nan 10 0 0 8\n", "line 2 does not fit"),
    ],
)
def test_bad_defocus_file_is_refused_by_line(tmp_path, text, reason):
    with pytest.raises(InputError, match=r"a\.defocus:? " + reason) as caught:
        read_defocus(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not XML"),
        ("no xml", "is not XML"),
        ("<Movie><UseTilt>True</UseTilt></Movie>", "is not Warp's file of a tilt series"),
        ("<TiltSeries><UseTilt>False</UseTilt></TiltSeries>", "uses no tilt"),
        ("<TiltSeries><UseTilt>True</UseTilt></TiltSeries>", "GridCTF must hold one number per tilt, 1"),
        (
            '<TiltSeries><UseTilt>True</UseTilt><GridCTF><Node Z="0" Value="x"/></GridCTF></TiltSeries>',
            "GridCTF must hold one number per tilt, 1",
        ),
    ],
)
def test_bad_warp_file_is_refused(tmp_path, text, reason):
    with pytest.raises(InputError, match=r"a\.xml:? .*" + reason) as caught:
        read_defocus(write(tmp_path, text, "a.xml"))
    assert "\n" not in str(caught.value)


def test_missing_binary_or_other_star_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_defocus(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match="not a text file"):
        read_defocus(tmp_path / "a.txt")
    with pytest.raises(InputError, match="has no table with _rlnDefocusU"):
        read_defocus(write(tmp_path, "data_\n\nloop_\n_rlnVoltage #1\n300\n", "a.star"))


@real
@pytest.mark.parametrize(
    ("file", "images", "first"),
    [
        ("aretomo/test_CTF.txt", 3, 2.521039),
        ("ctf/017_ctffind4.txt", 60, 1.3988936),
        ("ctf/017_gctf.star", 60, 3.5152383),
        ("relion5/relion5_TS_01_tilt.star", 40, 3.9473096),
        ("relion5/tomo200528_107.star", 35, 2.3207438),
        ("warp/TS_1.xml", 41, 2.8969),
        ("warp/00254.xml", 41, 1.5701942),
    ],
)
def test_real_files_are_read_in_micrometres(file, images, first):
    series = read_defocus(SIDECARS / file)
    assert len(series.defocus_um) == images
    assert series.defocus_um[0] == pytest.approx(first, abs=1e-4)
    assert ((series.defocus_um > 0.5) & (series.defocus_um < 10)).all()
    assert (series.astigmatism_um >= 0).all() and (np.abs(series.astigmatism_angle) <= 90).all()
