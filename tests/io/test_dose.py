"""Exposure before and of each image, from lists, mdoc and star files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryomend.io import InputError, read_doses

SIDECARS = Path(__file__).parents[3] / "shared/data/sidecars"
real = pytest.mark.skipif(not SIDECARS.is_dir(), reason="no real side files here")


def write(folder, text, name="doses.txt"):
    (folder / name).write_text(text)
    return folder / name


def test_one_column_is_what_had_accumulated_before_each_image(tmp_path):
    prior, exposure = read_doses(write(tmp_path, "6.0\n0\n\n3.0 # second\n12\n"))
    assert prior.tolist() == [6, 0, 3, 12]
    assert exposure.tolist() == [3, 3, 3, 3]  # an image is missing at 9


def test_two_columns_are_before_and_of_each_image(tmp_path):
    prior, exposure = read_doses(write(tmp_path, "6 3.5\n0 3\n3 3\n"))
    assert prior.tolist() == [6, 0, 3]
    assert exposure.tolist() == [3.5, 3, 3]


def test_second_column_that_is_always_larger_is_what_had_accumulated_after(tmp_path):
    prior, exposure = read_doses(write(tmp_path, "6 9.5\n0 3\n3 6\n"))
    assert prior.tolist() == [6, 0, 3]
    assert exposure.tolist() == [3.5, 3, 3]


def test_exposure_before_the_first_image_is_believed_with_a_warning(tmp_path, caplog):
    prior, exposure = read_doses(write(tmp_path, "3\n6\n9\n"))
    assert prior.tolist() == [3, 6, 9] and exposure.tolist() == [3, 3, 3]
    assert "3 e⁻/Å² are taken as received before the first image" in caplog.text


def test_relion_gives_what_came_before(tmp_path):
    star = "data_\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographPreExposure #2\na 4.4\nb 0\nc 2.2\n"
    prior, exposure = read_doses(write(tmp_path, star, "a.star"))
    assert prior.tolist() == [4.4, 0, 2.2]
    assert exposure == pytest.approx([2.2, 2.2, 2.2])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no numbers; expected the exposure before each image"),
        ("1 2 3\n", "line 1 does not fit"),
        ("1 2\n3\n", "line 2 does not fit"),
        ("1\ninf\n", "line 2 does not fit"),
        ("1\nx\n", "line 2 does not fit"),
        ("3\n3\n3\n", "repeats an exposure; one column is what had accumulated before each image"),
        ("0\n", "holds no exposure"),
        ("0 0\n3 0\n", "holds no exposure"),
        ("-3\n0\n", "holds negative exposures"),
        ("0 3\n3 -3\n", "holds negative exposures"),
    ],
)
def test_bad_list_is_refused(tmp_path, text, reason):
    with pytest.raises(InputError, match=r"doses\.txt:? " + reason) as caught:
        read_doses(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_binary_or_other_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_doses(tmp_path / "doses.txt")
    (tmp_path / "doses.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match="not a text file"):
        read_doses(tmp_path / "doses.txt")
    with pytest.raises(InputError, match="has no table with _rlnMicrographPreExposure"):
        read_doses(write(tmp_path, "data_\n\nloop_\n_rlnVoltage #1\n300\n", "a.star"))


@real
@pytest.mark.parametrize(
    ("file", "images", "step"),
    [
        ("serialem/017.mdoc", 60, 2.23843),
        ("serialem/frame_set_multiple.mdoc", 20, 7.66184),
        ("relion5/relion5_TS_01_tilt.star", 40, 3.0),
        ("relion5/tomo200528_107.star", 35, 2.2),
    ],
)
def test_real_files_accumulate(file, images, step):
    prior, exposure = read_doses(SIDECARS / file)
    assert len(prior) == len(exposure) == images
    assert np.median(exposure) == pytest.approx(step, rel=0.01)
    assert len(np.unique(prior)) == images


@real
@pytest.mark.parametrize("file", ["tilt_series.mdoc", "montage_section.mdoc"])
def test_real_mdoc_without_calibrated_dose_says_so(file):
    with pytest.raises(InputError, match="holds no exposure: all are 0; give a list"):
        read_doses(SIDECARS / "serialem" / file)
