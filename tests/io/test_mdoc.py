"""SerialEM's .mdoc, written and read."""

from __future__ import annotations

from pathlib import Path

import mdocfile
import numpy as np
import pytest

from cryomend.io import InputError, read_doses, read_tilt_angles, write_mdoc
from cryomend.io.mdoc import read_mdoc_angles, read_mdoc_exposures, read_mdoc_table

SIDECARS = Path(__file__).parents[3] / "shared/data/sidecars"
real = pytest.mark.skipif(not SIDECARS.is_dir(), reason="no real side files here")

ANGLES = [-3.0, 0.0, 3.00125]
PRIOR = [6.125, 0.0, 3.0625]
EXPOSURES = [3.5, 3.0625, 3.0625]
HEAD = "PixelSpacing = 5.4\nImageFile = a.st\nImageSize = 10 10\nDataMode = 1\n\n"


def write_series(folder):
    write_mdoc(
        folder / "a.mrc.mdoc",
        stack=folder / "a.mrc",
        shape=(30, 40),
        pixel_size=1.35,
        voltage_kv=300,
        tilt_axis_angle=85.3,
        tilt_angles=ANGLES,
        exposures=EXPOSURES,
        prior=PRIOR,
        places=[2, 0, 1],
        defocus_um=4.0,
    )
    return folder / "a.mrc.mdoc"


def section(z, fields):
    return f"[ZValue = {z}]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items()) + "\n"


def test_what_is_written_is_read_back_to_the_digit(tmp_path):
    path = write_series(tmp_path)
    assert read_tilt_angles(path).tolist() == ANGLES
    prior, exposure = read_doses(path)
    assert prior.tolist() == PRIOR and exposure.tolist() == EXPOSURES
    assert [file.name for file in tmp_path.iterdir()] == ["a.mrc.mdoc"]


def test_what_is_written_is_serialem_s_for_mdocfile(tmp_path):
    table = mdocfile.read(write_series(tmp_path))
    assert table["ZValue"].tolist() == [0, 1, 2]
    assert table["TiltAngle"].tolist() == ANGLES
    assert table["PriorRecordDose"].tolist() == PRIOR and table["ExposureDose"].tolist() == EXPOSURES
    assert table["TargetDefocus"].tolist() == [-4.0] * 3  # underfocus
    assert table["PixelSpacing"].tolist() == [1.35] * 3
    assert table["ImageSize"].iloc[0] == (40, 30)
    assert str(table["ImageFile"].iloc[0]) == "a.mrc"
    assert table["Voltage"].iloc[0] == 300
    assert "Tilt axis angle = 85.3" in str(table["titles"].iloc[0])


def test_dates_tell_the_same_order_as_the_doses(tmp_path):
    path = write_series(tmp_path)
    kept = [line for line in path.read_text().splitlines() if not line.startswith("PriorRecordDose")]
    path.write_text("\n".join(kept) + "\n")
    prior, exposure = read_mdoc_exposures(path)
    assert prior.tolist() == PRIOR and exposure.tolist() == EXPOSURES


def test_order_of_time_holds_over_midnight_and_new_year(tmp_path):
    times = ["31-Dec-22  23:59:50", "01-Jan-23  00:00:10", "31-Dec-22  23:59:30"]
    text = HEAD + "".join(
        section(z, {"TiltAngle": z, "ExposureDose": 2, "DateTime": time}) for z, time in enumerate(times)
    )
    (tmp_path / "a.mdoc").write_text(text)
    assert read_mdoc_exposures(tmp_path / "a.mdoc")[0].tolist() == [2, 4, 0]
    (tmp_path / "a.mdoc").write_text(text.replace("-22 ", "-2022 ").replace("-23 ", "-2023 "))
    assert read_mdoc_exposures(tmp_path / "a.mdoc")[0].tolist() == [2, 4, 0]


def test_prior_dose_that_never_grows_is_no_prior_dose(tmp_path):
    (tmp_path / "a.mdoc").write_text(
        HEAD
        + "".join(
            section(z, {"ExposureDose": 2, "PriorRecordDose": 0, "DateTime": f"01-Jan-23  00:0{9 - z}:00"})
            for z in range(3)
        )
    )
    assert read_mdoc_exposures(tmp_path / "a.mdoc")[0].tolist() == [4, 2, 0]


def test_sections_come_in_the_order_of_their_number(tmp_path):
    (tmp_path / "a.mdoc").write_text(HEAD + section(1, {"TiltAngle": 3.5}) + section(0, {"TiltAngle": -2}))
    assert read_mdoc_angles(tmp_path / "a.mdoc") == [("ZValue 0", -2.0), ("ZValue 1", 3.5)]


def test_a_section_that_lacks_a_field_is_named_and_not_left_out(tmp_path):
    sections = [section(z, {"TiltAngle": z, "ExposureDose": 2, "PriorRecordDose": 2 * z}) for z in range(3)]
    sections[1] = section(1, {"Defocus": 1})
    (tmp_path / "a.mdoc").write_text(HEAD + "".join(sections))
    with pytest.raises(
        InputError, match=r"a\.mdoc: section ZValue = 1 has no TiltAngle, but others have; write"
    ):
        read_mdoc_angles(tmp_path / "a.mdoc")
    with pytest.raises(InputError, match=r"a\.mdoc: section ZValue = 1 has no ExposureDose"):
        read_mdoc_exposures(tmp_path / "a.mdoc")


def test_sections_of_other_kinds_are_no_images(tmp_path):
    other = "[MontSection = 0]\nStageZ = 3\n\n"
    (tmp_path / "a.mdoc").write_text(HEAD + section(0, {"TiltAngle": 3}) + other)
    assert read_mdoc_angles(tmp_path / "a.mdoc") == [("ZValue 0", 3.0)]


def test_titles_may_be_in_the_encoding_of_windows(tmp_path):
    text = HEAD + "[T = 5 µm at 20 °]\n\n" + section(0, {"TiltAngle": 3, "SubFramePath": "X:\\Müller\\a.tif"})
    for encoding in ("cp1252", "utf-8", "utf-8-sig"):
        (tmp_path / "a.mdoc").write_bytes(text.encode(encoding))
        assert read_tilt_angles(tmp_path / "a.mdoc").tolist() == [3]
        (row,) = read_mdoc_table(tmp_path / "a.mdoc", needs=("SubFramePath",))
        assert str(row["SubFramePath"]) == "X:\\Müller\\a.tif"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not an mdoc file with sections that have ZValue, ExposureDose"),
        ("nothing here", "not an mdoc file"),
        (
            HEAD + section(0, {"TiltAngle": 3}),
            "not an mdoc file with sections that have ZValue, ExposureDose",
        ),
        (HEAD + section(0, {"ExposureDose": "x"}), "not an mdoc file"),
        (HEAD + section(0, {"ExposureDose": 2}), "has neither PriorRecordDose nor DateTime; give a list"),
        (
            HEAD + section(0, {"ExposureDose": 2, "DateTime": "noon"}),
            "has neither PriorRecordDose nor DateTime",
        ),
        (
            HEAD + section(0, {"ExposureDose": "nan", "PriorRecordDose": 0}),
            "not an mdoc file",
        ),
        (
            HEAD + section(0, {"ExposureDose": "inf", "PriorRecordDose": 0}),
            "holds an ExposureDose that is not",
        ),
    ],
)
def test_mdoc_that_does_not_tell_the_exposure_is_refused(tmp_path, text, reason):
    (tmp_path / "a.mdoc").write_text(text)
    with pytest.raises(InputError, match=r"a\.mdoc .*" + reason) as caught:
        read_mdoc_exposures(tmp_path / "a.mdoc")
    assert "\n" not in str(caught.value)


def test_missing_or_binary_mdoc_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_mdoc_exposures(tmp_path / "a.mdoc")
    (tmp_path / "a.mdoc").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match="not an mdoc file"):
        read_mdoc_exposures(tmp_path / "a.mdoc")


def test_nothing_is_left_where_an_mdoc_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_series(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@real
@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("017.mdoc", 60),
        ("frame_set_multiple.mdoc", 20),
        ("tilt_series.mdoc", 41),
        ("montage_section.mdoc", 62),
    ],
)
def test_real_mdoc_tell_their_angles(file, images):
    assert len(read_tilt_angles(SIDECARS / "serialem" / file)) == images


@real
def test_real_dates_tell_the_order_that_serialem_counted(tmp_path):
    source = SIDECARS / "serialem/017.mdoc"
    counted, _ = read_mdoc_exposures(source)
    kept = [line for line in source.read_text().splitlines() if not line.startswith("PriorRecordDose")]
    (tmp_path / "a.mdoc").write_text("\n".join(kept) + "\n")
    summed, _ = read_mdoc_exposures(tmp_path / "a.mdoc")
    assert np.argsort(summed).tolist() == np.argsort(counted).tolist()


@real
def test_real_mdoc_of_a_frame_set_without_sections_is_refused():
    with pytest.raises(InputError, match="not an mdoc file with sections that have ZValue, ExposureDose"):
        read_mdoc_exposures(SIDECARS / "serialem/frame_set_single.mdoc")
