"""Inputs of a batch: directories, patterns and lists, each file with the wedge that belongs to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryomend.io import InputError, write_tilt_angles, write_volume
from cryomend.restoration.batch import restore_files
from cryomend.restoration.inputs import list_sources


@pytest.fixture
def folder(tmp_path):
    """Three tomograms, an earlier result, and something else."""
    rng = np.random.default_rng(3)
    for name in ("a.mrc", "b.mrc", "c d.rec", "a_restored.mrc"):
        write_volume(tmp_path / name, rng.normal(50, 4, (16, 16, 18)), voxel_size=10.0)
    return tmp_path


def listed(*inputs):
    sources, several = list_sources(inputs)
    return [source.path.name for source in sources], several


def test_a_file_is_one_and_everything_else_is_several(folder):
    assert listed(folder / "a.mrc") == (["a.mrc"], False)
    assert listed(folder / "a.mrc", folder / "b.mrc", folder / "a.mrc") == (["a.mrc", "b.mrc"], True)
    assert listed(folder) == (["a.mrc", "b.mrc", "c d.rec"], True)


def test_a_pattern_takes_files_by_name_without_earlier_results(folder):
    assert listed(folder / "*.mrc") == (["a.mrc", "b.mrc"], True)
    assert listed(folder / "**" / "?.mrc")[0] == ["a.mrc", "b.mrc"]
    with pytest.raises(InputError, match=r"no file matches .*x.*check the pattern"):
        list_sources([folder / "x*.mrc"])


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder):
    (folder / "a.mrc").rename(folder / "[b].mrc")
    assert listed(folder / "[b].mrc") == (["[b].mrc"], False)


def test_a_text_list_gives_every_file_its_own_tilt_range(folder, tiny_model):
    text = "# of today\n\na.mrc -51 49.5\nc d.rec -60 60 # with a blank in its name\nb.mrc\n"
    (folder / "today.txt").write_text(text)
    write_tilt_angles(folder / "b.tlt", np.array([-40.0, 0, 42]))
    write_tilt_angles(folder / "a.tlt", np.array([-10.0, 0, 10]))
    results = restore_files([folder / "today.txt"], folder / "out", model=tiny_model, device="cpu")
    assert [result["tilt_range"] for result in results] == [(-51.0, 49.5), (-60.0, 60.0), (-40.0, 42.0)]
    results = restore_files(
        [folder / "today.txt"], folder / "out", model=tiny_model, device="cpu", tilt_range=(-30.0, 31.0)
    )
    assert [result["tilt_range"] for result in results] == [(-51.0, 49.5), (-60.0, 60.0), (-30.0, 31.0)]


def test_listed_paths_start_at_the_working_directory_or_else_at_the_list(folder, monkeypatch):
    (folder / "sub").mkdir()
    (folder / "sub" / "one.lst").write_text("a.mrc\n")
    monkeypatch.chdir(folder)
    assert list_sources(["sub/one.lst"])[0][0].path == Path("a.mrc")
    (folder / "a.mrc").rename(folder / "sub" / "a.mrc")
    assert list_sources(["sub/one.lst"])[0][0].path == Path("sub/a.mrc")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# nothing\n", "names no tomogram"),
        ("a.mrc 60 -60\n", "line 1 needs -90 <= TILT_MIN < TILT_MAX <= 90"),
        ("a.mrc nan 60\n", "line 1 needs"),
    ],
)
def test_a_text_list_that_makes_no_sense_is_refused(folder, text, says):
    (folder / "bad.txt").write_text(text)
    with pytest.raises(InputError, match=says):
        list_sources([folder / "bad.txt"])


def test_a_text_list_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt does not exist"):
        list_sources([tmp_path / "absent.txt"])


def star(path, columns, rows):
    head = "".join(f"_{name} #{n}\n" for n, name in enumerate(columns, start=1))
    path.write_text(f"data_global\n\nloop_\n{head}" + "".join(" ".join(row) + "\n" for row in rows) + "\n")


def test_relions_list_names_tomograms_and_the_tilts_of_each(folder):
    star(folder / "tilts.star", ["rlnTomoNominalStageTiltAngle"], [["-54.1"], ["0.0"], ["57.2"]])
    columns = ["rlnTomoName", "rlnTomoTiltSeriesStarFile", "rlnTomoReconstructedTomogram"]
    rows = [["TS_1", "tilts.star", "a.mrc"], ["TS_2", "gone.star", "b.mrc"]]
    star(folder / "tomograms.star", columns, rows)
    sources, several = list_sources([folder / "tomograms.star"])
    assert several and [source.path.name for source in sources] == ["a.mrc", "b.mrc"]
    assert [source.tilt_range for source in sources] == [(-54.1, 57.2), None]


def test_a_star_file_without_tomograms_is_refused(folder):
    star(folder / "tomograms.star", ["rlnTomoName"], [["TS_1"], ["TS_2"]])
    with pytest.raises(InputError, match="no table with _rlnTomoReconstructedTomogram"):
        list_sources([folder / "tomograms.star"])


def test_tilts_that_are_none_are_refused(folder):
    star(folder / "tilts.star", ["rlnTomoNominalStageTiltAngle"], [["5.0"], ["5.0"]])
    columns = ["rlnTomoTiltSeriesStarFile", "rlnTomoReconstructedTomogram"]
    star(folder / "tomograms.star", columns, [["tilts.star", "a.mrc"]])
    with pytest.raises(InputError, match="are not those of a tilt series"):
        list_sources([folder / "tomograms.star"])


def test_a_pattern_needs_a_directory_for_its_results(folder, tiny_model):
    with pytest.raises(InputError, match="need a directory"):
        restore_files([folder / "a*.mrc"], folder / "out.mrc", model=tiny_model, device="cpu")


def test_more_than_the_output_directory_missing_is_refused(folder, tiny_model):
    with pytest.raises(InputError, match="cannot make the directory"):
        restore_files([folder], folder / "x" / "y", model=tiny_model, device="cpu")
