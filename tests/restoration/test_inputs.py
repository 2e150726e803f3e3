"""Inputs of a batch: directories, patterns and lists, each file with the wedge that belongs to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryomend import __version__
from cryomend.io import InputError, write_mdoc, write_tilt_angles, write_volume
from cryomend.restoration.batch import restore_files
from cryomend.restoration.inputs import Source, check_job, list_sources, name_targets


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


@pytest.mark.parametrize("directory_first", [True, False])
def test_the_tilt_range_of_a_list_counts_wherever_else_the_file_was_named(folder, directory_first):
    (folder / "one.txt").write_text("a.mrc -40 41\n")
    (folder / "two.txt").write_text("a.mrc -10 10\n")
    lists = [folder / "one.txt", folder / "two.txt"]  # of two lists the first
    sources, _ = list_sources([folder, *lists] if directory_first else [*lists, folder / "*.mrc"])
    ranges = {source.path.name: source.tilt_range for source in sources}
    assert ranges["a.mrc"] == (-40.0, 41.0) and ranges["b.mrc"] is None
    names = [source.path.name for source in sources]
    assert names == (["a.mrc", "b.mrc", "c d.rec"] if directory_first else ["a.mrc", "b.mrc"])


def test_a_directory_holds_links_to_nowhere_too_but_no_hidden_files(folder):
    (folder / "gone.mrc").symlink_to("unmounted/gone.mrc")
    (folder / "round.mrc").symlink_to("round.mrc")
    (folder / "._a.mrc").write_bytes(b"of macOS")
    (folder / "sub.mrc").mkdir()
    assert listed(folder)[0] == ["a.mrc", "b.mrc", "c d.rec", "gone.mrc", "round.mrc"]
    assert listed(folder / "g*.mrc")[0] == ["gone.mrc"]


def test_tomograms_of_one_name_take_the_folders_that_tell_them_apart(folder):
    def made(*names):
        targets = name_targets([folder / name for name in names], folder / "out", into_directory=True)
        assert all(target.parent == folder / "out" for target in targets)
        return [target.name for target in targets]

    assert made("x/rec.mrc", "a.mrc", "y/rec.mrc") == [
        "x_rec_restored.mrc",
        "a_restored.mrc",
        "y_rec_restored.mrc",
    ]
    assert made("x/out/rec.mrc", "y/out/rec.rec", "y/in/rec.mrc") == [
        "x_out_rec_restored.mrc",
        "y_out_rec_restored.mrc",
        "y_in_rec_restored.mrc",
    ]
    assert made("x/rec.mrc") == ["rec_restored.mrc"]


def test_names_that_folders_cannot_tell_apart_are_refused(folder):
    for names in (["a.mrc", "a.rec"], ["x/rec.mrc", "y/rec.mrc", "x_rec.mrc"]):
        with pytest.raises(InputError, match=r"would overwrite the result of .*; rename one of them"):
            name_targets([folder / name for name in names], folder / "out", into_directory=True)


def test_tomograms_of_one_name_are_restored_in_one_call(folder, tiny_model, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("x", "y"):
        Path(name).mkdir()
        Path(name, "rec.mrc").write_bytes(Path("a.mrc").read_bytes())
    restore_files(["*/rec.mrc"], "out/", model=tiny_model, device="cpu")
    assert sorted(path.name for path in Path("out").iterdir()) == ["x_rec_restored.mrc", "y_rec_restored.mrc"]


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


# ---- what is no tomogram of its own ---------------------------------------------------------------


@pytest.fixture
def with_halves(folder):
    """Halves of a, one of a tomogram that is not there, and a confidence volume."""
    rng = np.random.default_rng(5)
    for name in ("a_EVN.mrc", "a_ODD.rec", "x_EVN.mrc", "no_odd.mrc"):
        write_volume(folder / name, rng.normal(50, 4, (16, 16, 18)), voxel_size=10.0)
    label = f"cryomend {__version__} fast 1 sigma / contrast"
    write_volume(folder / "s.mrc", rng.uniform(0, 1, (16, 16, 18)), voxel_size=10.0, label=label)
    return folder


def test_a_directory_gives_no_halves_of_what_is_there_and_no_confidence_and_says_so(with_halves):
    said: list[str] = []
    sources, several = list_sources([with_halves], say=said.append)
    names = [source.path.name for source in sources]
    assert several and names == ["a.mrc", "b.mrc", "c d.rec", "no_odd.mrc", "x_EVN.mrc"]
    assert said == [
        f"{with_halves}: left out 2 halves (a_EVN.mrc, a_ODD.rec) and 1 confidence volume (s.mrc); "
        "what is to be restored all the same must be named"
    ]


def test_a_directory_of_which_all_is_taken_says_nothing(folder):
    said: list[str] = []
    list_sources([folder], say=said.append)
    assert said == []


def test_halves_and_confidences_that_are_named_or_match_a_pattern_are_taken(with_halves):
    said: list[str] = []
    more = [with_halves / "a_*.*", with_halves / "s.mrc"]
    names = [source.path.name for source in list_sources([with_halves, *more], say=said.append)[0]]
    assert {"a_EVN.mrc", "a_ODD.rec", "s.mrc"} < set(names) and said == []
    assert listed(with_halves / "s.mrc") == (["s.mrc"], False)


def test_a_directory_with_many_halves_names_three(folder):
    for n in range(4):
        for end in ("", "_EVN", "_ODD"):
            (folder / f"t{n}{end}.mrc").write_bytes((folder / "a.mrc").read_bytes())
    said: list[str] = []
    list_sources([folder], say=said.append)
    assert "left out 8 halves (t0_EVN.mrc, t0_ODD.mrc, t1_EVN.mrc and 5 more);" in said[0]


def test_a_directory_with_nothing_but_a_confidence_is_refused(with_halves, tmp_path):
    (tmp_path / "alone").mkdir()
    (with_halves / "s.mrc").rename(tmp_path / "alone" / "s.mrc")
    with pytest.raises(InputError, match=r"alone holds no tomogram, only s\.mrc of --confidence"):
        list_sources([tmp_path / "alone"])


def test_what_is_left_out_is_said_once_and_not_restored(with_halves, tmp_path, tiny_model, run_cli):
    command = ("restore", with_halves, "-o", tmp_path / "out", "--model", tiny_model)
    planned = run_cli(*command, "--dry-run")
    assert planned.code == 0 and "dry run: 5 of 5 to restore" in planned.err
    assert planned.err.count("left out 2 halves") == 1
    assert "a_EVN.mrc:" not in planned.err and "s.mrc:" not in planned.err


# ---- tilt series ----------------------------------------------------------------------------------


def beside(path, angles):
    """Write a list of angles, or an .mdoc, as the name says."""
    if path.suffix != ".mdoc":
        write_tilt_angles(path, angles)
        return
    zeros = [0.0] * len(angles)
    write_mdoc(
        path, stack="a.mrc", shape=(16, 18), pixel_size=10.0, voltage_kv=300.0, tilt_axis_angle=0.0,
        tilt_angles=angles.tolist(), exposures=zeros, prior=zeros, places=range(len(angles)), defocus_um=3.0,
    )  # fmt: skip


def checked(path, tilt_range=None, common=None):
    return check_job(Source(path, tilt_range), path.with_name("o.mrc"), common, None).tilt_range


SIXTEEN = np.linspace(-45, 45, 16)


@pytest.mark.parametrize("ending", [".tlt", ".rawtlt", ".mdoc", ".mrc.mdoc"])
def test_a_file_with_an_angle_for_every_section_is_taken_for_a_tilt_series(folder, ending):
    beside(folder / f"a{ending}", SIXTEEN)
    with pytest.raises(InputError, match=rf"a\.mrc looks like a tilt series: .*a{ending} .* 16 sections"):
        checked(folder / "a.mrc")
    assert checked(folder / "a.mrc", tilt_range=(-50.0, 51.0)) == (-50.0, 51.0)
    assert checked(folder / "a.mrc", common=(-40.0, 41.0)) == (-40.0, 41.0)
    assert checked(folder / "b.mrc") is None


@pytest.mark.parametrize("half", ["_EVN", "_ODD"])
def test_the_stack_of_a_half_is_known_by_the_angles_of_the_whole(folder, half):
    (folder / "a.mrc").rename(folder / f"a{half}.mrc")
    beside(folder / "a.tlt", SIXTEEN)
    with pytest.raises(InputError, match="looks like a tilt series"):
        checked(folder / f"a{half}.mrc")


@pytest.mark.parametrize("n", [15, 17])
@pytest.mark.parametrize("ending", [".tlt", ".mdoc"])
def test_another_number_of_angles_makes_no_tilt_series(folder, ending, n):
    beside(folder / f"a{ending}", np.linspace(-45, 45, n))
    assert checked(folder / "a.mrc") == ((-45.0, 45.0) if ending == ".tlt" else None)


def test_sections_are_counted_along_z(folder):
    beside(folder / "a.tlt", np.linspace(-45, 45, 18))  # as many as columns
    assert checked(folder / "a.mrc") == (-45.0, 45.0)


@pytest.mark.parametrize("name", ["a.rec", "a_rec.mrc", "a.rec.mrc"])
def test_what_is_named_as_a_reconstruction_may_have_as_many_sections_as_tilts(folder, name):
    (folder / "a.mrc").rename(folder / name)
    beside(folder / "a.tlt", SIXTEEN)
    assert checked(folder / name) == (-45.0, 45.0)


def test_an_mdoc_that_cannot_be_read_stops_no_tomogram(folder):
    (folder / "a.mrc.mdoc").write_text("no mdoc\n")
    assert checked(folder / "a.mrc") is None


def test_a_tilt_series_among_tomograms_fails_alone(folder, tmp_path, tiny_model, run_cli):
    beside(folder / "a.tlt", SIXTEEN)
    command = ("restore", folder / "a.mrc", folder / "b.mrc", "-o", tmp_path / "out", "--model", tiny_model)
    planned = run_cli(*command, "--dry-run")
    assert planned.code == 1 and "dry run: 1 of 2 to restore, nothing written" in planned.err
    said = f"{folder / 'a.mrc'} looks like a tilt series"
    assert f"cannot be restored: {folder / 'a.mrc'}: {said}" in planned.err
    result = run_cli(*command)
    assert result.code == 1 and f"failed: {said}" in result.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b_restored.mrc"]


# ---- the name of the result -----------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".mrc", ".rec", ".map", ".mrcs", ".ccp4", ".st", ".ali", ".MRC"])
def test_one_result_takes_any_ending_of_mrc_files(folder, tiny_model, ending):
    settings = {"model": tiny_model, "device": "cpu", "dry_run": True}
    (plan,) = restore_files([folder / "a.mrc"], folder / f"out{ending}", **settings)
    assert plan["output"] == folder / f"out{ending}"


def test_several_results_go_into_a_directory_of_any_name(folder, tiny_model):
    settings = {"model": tiny_model, "device": "cpu", "dry_run": True}
    for name in ("restored", "restored.tif", "of.today"):
        plans = restore_files([folder / "a.mrc", folder / "b.mrc"], folder / name, **settings)
        assert [plan["output"].parent for plan in plans] == [folder / name] * 2
    (folder / "there.tif").mkdir()
    (plan,) = restore_files([folder / "a.mrc"], folder / "there.tif", **settings)
    assert plan["output"] == folder / "there.tif" / "a_restored.mrc"
    (plan,) = restore_files([folder / "a.mrc"], f"{folder}/new.tif/", **settings)
    assert plan["output"] == folder / "new.tif" / "a_restored.mrc"
