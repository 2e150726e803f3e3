"""Restoring files: headers kept, names made, tilt ranges found, failures of a batch survived."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryomend.io import InputError, read_volume, write_tilt_angles, write_volume
from cryomend.network.unet import RestorationUNet
from cryomend.network.weights import save_model
from cryomend.restoration import job, progress
from cryomend.restoration.batch import restore_files
from cryomend.restoration.model import load_model
from cryomend.restoration.predict import restore_tomogram


@pytest.fixture
def three_files(tmp_path):
    """Tomograms whose names have dots, in a directory with other things."""
    folder = tmp_path / "tomograms"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name in ("WT_001.rec.mrc", "WT_002.rec", "WT_003.map"):
        write_volume(folder / name, rng.normal(50, 4, (16, 16, 18)), voxel_size=10.0)
    write_volume(folder / "WT_001.rec_restored.mrc", rng.normal(size=(16, 16, 16)), voxel_size=10.0)
    (folder / "notes.txt").write_text("not a tomogram")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_result_keeps_header_grey_levels_and_says_who_made_it(tmp_path, tiny_model):
    source = tmp_path / "WT_001.rec.mrc"
    data = np.random.default_rng(2).normal(-300, 20, (16, 18, 20)).astype(np.int16)
    with mrcfile.new(source, data=data) as file:
        file.set_extended_header(np.frombuffer(bytes(range(200)), dtype="V1"))
        file.header.exttyp = b"FEI1"
        file.voxel_size = 10.52
        file.nstart = (1, -2, 3)
        file.header.origin = (5.5, 6.5, -7.5)
        file.add_label("kept")
    (result,) = restore_files([source], tmp_path / "out.mrc", model=tiny_model, device="cpu")
    with mrcfile.open(tmp_path / "out.mrc") as after, mrcfile.open(source) as before:
        assert after.header.mode == 2 and after.data.shape == before.data.shape
        assert after.extended_header.tobytes() == before.extended_header.tobytes()
        assert after.header.exttyp == before.header.exttyp
        for field in ("cella", "cellb", "origin", "nxstart", "nystart", "nzstart", "mx", "my", "mz", "ispg"):
            assert after.header[field] == before.header[field]
        labels = after.get_labels()
        assert labels[:-1] == before.get_labels()
        assert re.fullmatch(r"cryomend \S+ tiny \([0-9a-f]{8}\) restored", labels[-1])
    assert result["status"] == "restored" and result["error"] is None
    assert result["shape"] == (16, 18, 20) and result["voxel_size"] == 10.52


def test_contrast_flag_is_the_sign_of_the_data(tmp_path, tiny_model, tomogram_file):
    negative = read_volume(tomogram_file)
    write_volume(tmp_path / "negative.mrc", -negative.data, voxel_size=10.0)
    restore_files([tomogram_file], tmp_path / "dark.mrc", model=tiny_model, device="cpu")
    restore_files(
        [tmp_path / "negative.mrc"], tmp_path / "bright.mrc", protein="bright", model=tiny_model, device="cpu"
    )
    dark, bright = (read_volume(tmp_path / name).data for name in ("dark.mrc", "bright.mrc"))
    np.testing.assert_allclose(bright, -dark, rtol=1e-5)
    restore_files([tomogram_file], tmp_path / "wrong.mrc", protein="bright", model=tiny_model, device="cpu")
    assert not np.allclose(read_volume(tmp_path / "wrong.mrc").data, dark)


def test_directory_is_restored_into_a_directory_with_names_that_keep_their_dots(
    tmp_path, three_files, tiny_model, capsys
):
    report = tmp_path / "batch.json"
    results = restore_files([three_files], tmp_path / "out", model=tiny_model, batch_report=report)
    made = ["WT_001.rec_restored.mrc", "WT_002_restored.mrc", "WT_003_restored.mrc"]
    assert names(tmp_path / "out") == made
    records = json.loads(report.read_text())
    assert [record["output"] for record in records] == [str(tmp_path / "out" / name) for name in made]
    assert all(record["status"] == "restored" and record["seconds"] > 0 for record in records)
    assert [record["status"] for record in results] == ["restored"] * 3
    err = capsys.readouterr().err
    assert all(name in err for name in made)


def test_directories_and_files_mix_and_repetitions_count_once(
    tmp_path, three_files, tomogram_file, tiny_model
):
    inputs = [tomogram_file, three_files, three_files / "WT_003.map"]
    results = restore_files(inputs, f"{tmp_path}/out{os.sep}", model=tiny_model, device="cpu")
    assert [path["input"].name for path in results] == [
        "tomogram.mrc",
        "WT_001.rec.mrc",
        "WT_002.rec",
        "WT_003.map",
    ]


def test_one_input_goes_into_a_directory_that_exists(tmp_path, tomogram_file, tiny_model):
    (tmp_path / "out").mkdir()
    restore_files([tomogram_file], tmp_path / "out", model=tiny_model, device="cpu")
    assert names(tmp_path / "out") == ["tomogram_restored.mrc"]


def test_one_input_goes_into_a_new_directory_when_its_name_ends_in_a_separator(
    tmp_path, tomogram_file, tiny_model
):
    restore_files([tomogram_file], f"{tmp_path}/new/", model=tiny_model, device="cpu")
    assert names(tmp_path / "new") == ["tomogram_restored.mrc"]


def test_failure_of_one_file_does_not_stop_the_others(
    tmp_path, three_files, tiny_model, monkeypatch, run_cli
):
    real, calls = job.restore_mapped, []

    def fail_second(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the device\nfell off")
        return real(*args, **kwargs)

    monkeypatch.setattr(job, "restore_mapped", fail_second)
    report = tmp_path / "batch.json"
    result = run_cli(
        "restore", three_files, "-o", tmp_path / "out", "--model", tiny_model, "--batch-report", report
    )
    assert result.code == 1
    assert names(tmp_path / "out") == ["WT_001.rec_restored.mrc", "WT_003_restored.mrc"]
    records = json.loads(report.read_text())
    assert [record["status"] for record in records] == ["restored", "failed", "restored"]
    assert [record["error"] for record in records] == [
        None,
        "cpu: the device; CRYOMEND_DEBUG=1 shows where, with one file",
        None,
    ]
    assert "WT_002.rec  " in result.err.splitlines()[-2]  # the table at the end


def test_tilt_range_comes_from_the_option_the_list_or_the_file_beside(
    tmp_path, tomogram_file, tiny_model, capsys
):
    def found(**options):
        (result,) = restore_files(
            [tomogram_file], tmp_path / "o.mrc", model=tiny_model, device="cpu", **options
        )
        return result["tilt_range"], capsys.readouterr().err

    assert found()[0] is None
    assert "tilt range unknown" in found()[1]
    write_tilt_angles(tmp_path / "other.tlt", np.array([-51.0, 3, 45]))
    assert found(tilt_angles_path=tmp_path / "other.tlt")[0] == (-51.0, 45.0)
    write_tilt_angles(tmp_path / "tomogram.rawtlt", np.array([60.0, 0, -57.5]))
    tilt_range, said = found()
    assert tilt_range == (-57.5, 60.0)
    assert "tilt range -57.5 to 60 degrees" in said
    assert found(tilt_range=(-40.0, 41.0))[0] == (-40.0, 41.0)


def test_what_was_understood_is_said(tmp_path, tomogram_file, tiny_model, capsys):
    restore_files([tomogram_file], tmp_path / "o.mrc", model=tiny_model, device="cpu")
    said = capsys.readouterr()
    assert said.out == ""
    for part in ("16 x 20 x 24 voxels", "of 10 Å", "model tiny", "device cpu", "protein dark", "o.mrc in "):
        assert part in said.err
    assert "warning" not in said.err


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (7.9, "trained on 8 to 12 Å: near enough, taken as they are"),
        (8.0, None),
        (12.0, None),
        (
            6.0,
            "resampled to 12 x 15 x 18 voxels of 8 Å for the network, and back, so what is finer than 16 Å",
        ),
        (18.0, "resampled to 24 x 30 x 36 voxels of 12 Å for the network, and back"),
    ],
)
def test_a_voxel_size_the_model_was_not_trained_on_is_resampled_and_that_is_said(
    tmp_path, tomogram_file, tiny_model, capsys, size, said
):
    restore_files([tomogram_file], tmp_path / "o.mrc", model=tiny_model, device="cpu", voxel_size=size)
    err = capsys.readouterr().err
    assert ("warning: " in err) == (said is not None) and (said is None or said in err)
    after = read_volume(tmp_path / "o.mrc")
    assert after.data.shape == (16, 20, 24) and after.voxel_size == size


@pytest.mark.parametrize(("size", "remedy"), [(3.9, "bin it"), (24.1, "reconstruct it with smaller voxels")])
def test_voxels_too_far_from_the_training_are_refused_before_any_work(
    tmp_path, tomogram_file, tiny_model, run_cli, size, remedy
):
    command = ("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model)
    result = run_cli(*command, "--voxel-size", size)
    assert result.code == 2 and result.err.count("\n") == 1
    assert f"voxels of {size} Å are too far from the 8 to 12 Å" in result.err and remedy in result.err


def test_a_resampled_tomogram_goes_with_the_other_options(tmp_path, tomogram_file, tiny_model):
    from cryomend.restoration.options import Options

    options = Options(confidence=tmp_path / "sigma.mrc")
    common = {"model": tiny_model, "device": "cpu", "tilt_range": (-60.0, 60.0)}
    restore_files([tomogram_file], tmp_path / "o.mrc", voxel_size=16.0, options=options, **common)
    sigma = read_volume(tmp_path / "sigma.mrc")
    assert sigma.data.shape == (16, 20, 24) and sigma.data.min() >= 0


def test_interrupted_batch_still_reports_what_was_done(tmp_path, three_files, tiny_model, monkeypatch):
    real, calls = job.restore_mapped, []

    def interrupt_second(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(job, "restore_mapped", interrupt_second)
    with pytest.raises(KeyboardInterrupt):
        restore_files([three_files], tmp_path / "out", model=tiny_model, batch_report=tmp_path / "batch.json")
    assert len(json.loads((tmp_path / "batch.json").read_text())) == 1
    assert names(tmp_path / "out") == ["WT_001.rec_restored.mrc"]


def test_log_files_get_a_line_with_the_time_left_now_and_then(monkeypatch, capsys):
    from rich.console import Console

    clock = iter([0.0, 0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    batch = progress.BatchProgress(Console(stderr=True, soft_wrap=True), [100])
    with batch.file("a.mrc", 0) as show:
        for done in range(1, 5):
            show(done, 4)
    assert capsys.readouterr().err == "a.mrc: 2 of 4 tiles, about 31 s left\n"


def test_report_page_is_written_for_one_input(tmp_path, tomogram_file, tiny_model, run_cli):
    page = tmp_path / "report.html"
    arguments = tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, "--tilt-range", "-90", "60"
    result = run_cli("restore", *arguments, "--report", page, "--average-along-y")
    assert f"wrote{page}" in "".join(result.err.split())  # a long name is wrapped
    assert result.code == 0, result.err
    text = page.read_text(encoding="utf-8")
    assert "tiny" in text and "tilt range -90 to 60 degrees" in text and "Time" in text


def test_a_result_that_stays_on_disk_is_that_of_the_volume_in_memory(tmp_path, tiny_model):
    source = tmp_path / "big-endian.mrc"
    data = np.random.default_rng(5).normal(30, 4, (36, 40, 33)).astype(np.int16)
    with mrcfile.new(source, data=data) as file:
        file.voxel_size = 10
    raw = source.read_bytes()
    header = np.frombuffer(raw[:1024], mrcfile.dtypes.HEADER_DTYPE)
    swapped = header.astype(header.dtype.newbyteorder(">"))
    swapped["machst"] = [0x11, 0x11, 0, 0]
    source.write_bytes(swapped.tobytes() + data.astype(">i2").tobytes())
    restore_files([source], tmp_path / "mapped.mrc", model=tiny_model, device="cpu")
    before = read_volume(source)
    network, _ = load_model(tiny_model)
    after = restore_tomogram(torch.from_numpy(before.data), network)
    np.testing.assert_allclose(read_volume(tmp_path / "mapped.mrc").data, after, rtol=1e-6)


def test_voxels_of_one_file_that_cannot_be_used_do_not_stop_the_others(
    tmp_path, three_files, damaged, tiny_model, run_cli
):
    damaged("nan").rename(three_files / "WT_000.mrc")
    result = run_cli("restore", three_files, "-o", tmp_path / "out", "--model", tiny_model)
    assert result.code == 1
    assert len(names(tmp_path / "out")) == 3
    assert "WT_000.mrc: failed: " in result.err and "the first at (Z, Y, X) = (3, 4, 5)" in result.err


@pytest.mark.parametrize("kind", ["truncated", "no voxel size", "missing", "bad tilt angles", "far voxels"])
def test_a_header_that_cannot_be_used_fails_that_file_alone(
    tmp_path, three_files, damaged, tiny_model, run_cli, kind
):
    bad, out = three_files / "WT_000.mrc", tmp_path / "out"
    if kind == "missing":
        bad.symlink_to("unmounted.mrc")
    elif kind == "bad tilt angles":
        bad.write_bytes((three_files / "WT_003.map").read_bytes())
        bad.with_suffix(".tlt").write_text("95\n")
    elif kind == "far voxels":
        write_volume(bad, read_volume(three_files / "WT_003.map").data, voxel_size=30.0)
    else:
        damaged(kind).rename(bad)
    report = tmp_path / "batch.json"
    command = ("restore", three_files, "-o", out, "--model", tiny_model, "--batch-report", report)
    planned = run_cli(*command, "--dry-run")
    assert planned.code == 1 and not out.exists() and not report.exists()
    assert f"cannot be restored: {bad}: " in planned.err
    assert "dry run: 3 of 4 to restore, nothing written" in planned.err
    result = run_cli(*command)
    assert result.code == 1 and len(names(out)) == 3
    records = json.loads(report.read_text())
    assert [record["status"] for record in records] == ["failed", "restored", "restored", "restored"]
    assert records[0]["input"] == str(bad) and f"{bad}: failed: {records[0]['error']}" in result.err
    row = result.err.splitlines()[-4]  # of the table at the end
    assert row.startswith(f"{bad}") and row.endswith(records[0]["error"])
    again = run_cli(*command, "--skip-done")  # what is left of the others is nothing
    assert again.code == 1 and again.err.count(": skipped, ") == 3


def test_what_the_options_lack_stops_a_batch_before_any_work(tmp_path, three_files, tiny_model, run_cli):
    command = ("restore", three_files, "-o", tmp_path / "out", "--model", tiny_model)
    (three_files / "WT_001.rec.mrc").write_bytes(b"broken")
    for option in (["--fill-only"], ["--confidence", tmp_path / "c.mrc"]):
        result = run_cli(*command, *option)
        assert result.code == 2 and result.err.count("\n") == 1
        assert names(tmp_path) == ["tomograms"]


def test_the_record_of_a_single_file_tells_its_failure(tmp_path, damaged, tiny_model, run_cli):
    report = tmp_path / "r.json"
    command = ("restore", damaged("nan"), "-o", tmp_path / "o.mrc", "--model", tiny_model)
    result = run_cli(*command, "--batch-report", report)
    assert result.code == 2 and result.err.count("\n") == 1
    (record,) = json.loads(report.read_text())
    assert (record["status"], record["output"]) == ("failed", str(tmp_path / "o.mrc"))
    assert f"cryomend: {record['error']}\n" == result.err


def test_reports_may_lie_in_the_directory_that_the_results_make(
    tmp_path, tomogram_file, damaged, tiny_model, run_cli
):
    new = tmp_path / "new"
    command = ("restore", tomogram_file, "-o", f"{new}/", "--model", tiny_model)
    reports = ("--batch-report", new / "r.json", "--report", new / "r.html", "--confidence", new / "c.mrc")
    assert run_cli(*command, *reports, "--dry-run").code == 0 and not new.exists()
    assert run_cli(*command, *reports).code == 0
    assert names(new) == ["c.mrc", "r.html", "r.json", "tomogram_restored.mrc"]
    failing = run_cli("restore", damaged("nan"), "-o", f"{tmp_path}/other/", "--model", tiny_model,
                      "--batch-report", tmp_path / "other/r.json")  # fmt: skip
    assert failing.code == 2 and names(tmp_path / "other") == ["r.json"]


def test_a_single_file_that_fails_leaves_no_directory(tmp_path, damaged, tiny_model):
    with pytest.raises(InputError, match="NaN"):
        restore_files([damaged("nan")], f"{tmp_path}/new/", model=tiny_model, device="cpu")
    assert not (tmp_path / "new").exists()


def test_what_is_done_is_skipped_when_asked_and_a_killed_batch_goes_on(
    tmp_path, three_files, tiny_model, run_cli
):
    command = ("restore", three_files, "-o", tmp_path / "out", "--model", tiny_model)
    assert run_cli(*command).code == 0
    first, second, third = (tmp_path / "out" / name for name in names(tmp_path / "out"))
    second.rename(second.with_name(second.name + ".partial"))  # as a kill leaves it
    times = first.stat().st_mtime_ns, third.stat().st_mtime_ns
    result = run_cli(*command, "--skip-done", "--batch-report", tmp_path / "batch.json")
    assert result.code == 0
    assert (first.stat().st_mtime_ns, third.stat().st_mtime_ns) == times
    assert names(tmp_path / "out") == [first.name, second.name, third.name]
    records = json.loads((tmp_path / "batch.json").read_text())
    assert [record["status"] for record in records] == ["skipped", "restored", "skipped"]
    assert result.err.count(": skipped, ") == 2
    assert run_cli(*command).code == 0  # without the option everything is done again
    assert first.stat().st_mtime_ns > times[0]


@pytest.mark.parametrize(
    "change",
    ["options", "weights", "version before", "voxel size", "page", "shape", "newer input", "no result"],
)
def test_a_result_of_another_kind_is_not_taken_for_done(tmp_path, tomogram_file, tiny_model, change):
    out = tmp_path / "out.mrc"
    settings = {"model": tmp_path / "mine.safetensors", "device": "cpu", "tilt_range": (-60.0, 60.0)}
    settings["model"].write_bytes(tiny_model.read_bytes())
    restore_files([tomogram_file], out, **settings)
    if change in ("options", "version before"):
        before, label = read_volume(tomogram_file), read_volume(out).labels[-1]
        label = f"{label} --fill-only" if change == "options" else "cryomend 0.1.0 mine restored"
        write_volume(out, before.data, voxel_size=10.0, like=before, label=label)
    elif change == "voxel size":
        settings["voxel_size"] = 8.0
    elif change == "shape":
        rng = np.random.default_rng(0)
        write_volume(tomogram_file, rng.normal(size=(16, 16, 16)), voxel_size=10.0)
    elif change == "weights":
        network, metadata = load_model(settings["model"])
        with torch.no_grad():
            next(network.parameters()).mul_(1.5)
        save_model(settings["model"], network, metadata)
    elif change == "page":
        settings["report"] = tmp_path / "page.html"
    elif change == "newer input":
        os.utime(out, (0, 0))
    else:
        out.write_bytes(b"something else")
    (again,) = restore_files([tomogram_file], out, skip_done=True, **settings)
    assert again["status"] == "restored"
    (again,) = restore_files([tomogram_file], out, skip_done=True, **settings)
    assert again["status"] == "skipped"


def test_newer_halves_make_a_result_old(tmp_path, tomogram_file, tiny_model):
    from cryomend.restoration.options import Options

    data, rng = read_volume(tomogram_file).data, np.random.default_rng(4)
    even, odd, sigma = (tmp_path / name for name in ("e.mrc", "o.mrc", "sigma.mrc"))
    for path in (even, odd):
        write_volume(path, data + rng.normal(0, 5, data.shape), voxel_size=10.0)
    options = Options(even=even, odd=odd, confidence=sigma)

    def status():
        settings = {"model": tiny_model, "device": "cpu", "options": options, "skip_done": True}
        return restore_files([tomogram_file], tmp_path / "out.mrc", **settings)[0]["status"]

    assert [status(), status()] == ["restored", "skipped"]
    later = (tmp_path / "out.mrc").stat().st_mtime + 10
    os.utime(odd, (later, later))
    assert status() == "restored"


def test_the_same_weights_under_a_name_of_any_length_are_known_again(tmp_path, tomogram_file, tiny_model):
    model, out = tmp_path / f"{'long' * 30}.safetensors", tmp_path / "out.mrc"
    model.write_bytes(tiny_model.read_bytes())
    restore_files([tomogram_file], out, model=model, device="cpu")
    label = read_volume(out).labels[-1]
    assert len(label) == 79 and re.fullmatch(r"cryomend \S+ (long)+l?o?n? \(\w{8}\) restored", label)
    for name in (model, tiny_model):
        (again,) = restore_files([tomogram_file], out, model=name, device="cpu", skip_done=True)
        assert again["status"] == "skipped"


def test_a_restored_tomogram_restored_again_is_known_by_its_own_label(tmp_path, tomogram_file, tiny_model):
    once, twice = tmp_path / "once.mrc", tmp_path / "twice.mrc"
    settings = {"model": tiny_model, "device": "cpu", "skip_done": True}
    restore_files([tomogram_file], once, **settings)
    twice.write_bytes(once.read_bytes())  # nobody has restored this
    for status in ("restored", "skipped"):
        assert restore_files([once], twice, **settings)[0]["status"] == status


def test_where_no_label_can_tell_how_a_result_was_made_it_counts_as_not_done_and_that_is_said(
    tmp_path, tomogram_file, tiny_model, run_cli
):
    with mrcfile.open(tomogram_file, mode="r+") as file:
        for number in range(10 - len(file.get_labels())):
            file.add_label(f"IMOD step {number}")
    out = tmp_path / "out.mrc"
    command = ("restore", tomogram_file, "-o", out, "--model", tiny_model, "--skip-done")
    assert "no room" not in run_cli(*command).err  # nothing to decide
    for more, word in (((), "wrote "), (("--dry-run",), "restore: ")):
        result = run_cli(*command, *more)
        assert result.code == 0 and word in result.err
        assert f"{tomogram_file}: {out} is there, but the header has no room for a label" in result.err


def test_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path, three_files, tiny_model, run_cli):
    write_tilt_angles(three_files / "WT_002.tlt", np.array([-57.0, 0, 60]))
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    command = ("restore", three_files, "-o", out, "--model", tiny_model, "--dry-run")
    result = run_cli(*command, "--batch-report", tmp_path / "batch.json")
    assert result.code == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert (
        f"restore: {three_files / 'WT_002.rec'}: 16 x 16 x 18 voxels (Z, Y, X) of 10 Å, "
        f"tilt range -57 to 60 degrees -> {out / 'WT_002_restored.mrc'}"
    ) in result.err
    assert "dry run: 3 of 3 to restore, nothing written" in result.err


def test_tile_is_halved_when_memory_runs_out_and_that_is_said(
    tmp_path, tomogram_file, tiny_model, monkeypatch, capsys
):
    real = RestorationUNet.forward
    write_volume(tomogram_file, np.random.default_rng(0).normal(size=(70, 40, 40)), voxel_size=10.0)

    def forward(self, x):
        if x.shape[2] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return real(self, x)

    monkeypatch.setattr(RestorationUNet, "forward", forward)
    restore_files([tomogram_file], tmp_path / "o.mrc", model=tiny_model, device="cpu")
    assert "out of memory on cpu: going on with tiles of 32 voxels" in capsys.readouterr().err


def test_memory_that_does_not_suffice_for_the_smallest_tile_is_one_line(
    tmp_path, tomogram_file, tiny_model, monkeypatch, run_cli
):
    def forward(self, x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(RestorationUNet, "forward", forward)
    result = run_cli(
        "restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, "--device", "cpu"
    )
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("cryomend: out of memory on cpu; free some")
    assert names(tmp_path) == ["tomogram.mrc"]


def test_no_input_is_refused(tmp_path, tiny_model):
    with pytest.raises(InputError, match="no input file"):
        restore_files([], tmp_path / "out", model=tiny_model)


def test_sample_prints_a_file_that_can_be_restored(run_cli):
    result = run_cli("sample")
    if result.code != 0:
        pytest.skip("this tree holds no sample yet")
    path = Path(result.out.strip())
    assert path.stat().st_size <= 4e6
    assert read_volume(path).voxel_size == 10


def test_real_microtubule_is_read_and_described(run_cli):
    path = Path(__file__).parents[3] / "shared/data/real/microtubule_13pf.mrc"
    if not path.exists():
        pytest.skip("no shared data here")
    result = run_cli("info", path)
    assert result.code == 0
    assert "36 x 206 x 94" in result.out and "10.52 Å" in result.out and "signed" in result.out


def test_the_model_that_nobody_asked_for_is_said_with_the_reason(
    tmp_path, tomogram_file, tiny_model, monkeypatch, run_cli
):
    from cryomend.restoration import model

    (tmp_path / "models").mkdir()
    monkeypatch.setattr(model, "_models_directory", lambda: tmp_path / "models")
    (tmp_path / "models/fast.safetensors").write_bytes(tiny_model.read_bytes())
    command = ("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--device", "cpu")
    result = run_cli(*command, "--report", tmp_path / "page.html")
    assert result.code == 0, result.err
    assert "model fast (the default on a CPU), device cpu" in result.err
    assert "fast (the default on a CPU)" in (tmp_path / "page.html").read_text()
    named = run_cli(*command, "--model", "fast")
    assert "model fast, device cpu" in named.err
    best = run_cli(*command, "--model", "best")
    assert best.code == 0 and "model best, device cpu" in best.err


def test_a_batch_says_what_is_left_in_all(capsys, monkeypatch):
    from rich.console import Console

    clock = iter([0.0, 0.0, 40.0, 50.0, 90.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    batch = progress.BatchProgress(Console(stderr=True, soft_wrap=True), [100, 50, 150])
    with batch.file("a.mrc", 0) as show:
        show(1, 2)
    batch.finish(0, worked=False)  # says nothing of the speed
    with batch.file("b.mrc", 1) as show:
        show(1, 2)
    assert capsys.readouterr().err.splitlines() == [
        "a.mrc: 1 of 2 tiles, about 40 s left; file 1 of 3, about 3 min left in all",
        "b.mrc: 1 of 2 tiles, about 40 s left; file 2 of 3, about 10 min left in all",
    ]


def test_a_terminal_shows_bars_and_leaves_nothing_of_them(monkeypatch):
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    batch = progress.BatchProgress(console, [100, 50])
    with batch.file("a.mrc", 0) as show:
        show(1, 2)
        show(2, 2)
    assert batch._bars is None
    written = console.file.getvalue()
    assert "a.mrc: about 0 s left; file 1 of 2" in written
    assert written.endswith("\r\x1b[1A\x1b[2K")  # one line up, which is erased


# ---- files in, files out ---------------------------------------------------------------------------

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", MODES)
def test_header_comes_through_byte_for_byte_from_every_mode_and_byte_order(tmp_path, tiny_model, mode, order):
    dtype = np.dtype(MODES[mode])
    data = np.random.default_rng(mode).integers(0, 100, (17, 20, 33)).astype(dtype)
    plain = tmp_path / "plain.mrc"
    with mrcfile.new(plain, data=data) as file:
        file.set_extended_header(np.frombuffer(bytes(range(200)), dtype="V1"))
        file.header.exttyp = b"FEI1"
        file.voxel_size = 10.52
        file.nstart = (1, -2, 3)
        file.header.origin = (5.5, 6.5, -7.5)
        file.header.mapc, file.header.mapr, file.header.maps = (
            1,
            3,
            2,
        )  # sections along Y, as IMOD's rotatevol
        file.header.cella = (33 * 10.52, 17 * 10.52, 20 * 10.52)
        file.header.mx, file.header.my, file.header.mz = 33, 17, 20
        file.add_label("kept")
    raw = plain.read_bytes()
    header = np.frombuffer(raw[:1024], mrcfile.dtypes.HEADER_DTYPE)[0].astype(
        mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order)
    )
    if order == ">":
        header["machst"] = [0x11, 0x11, 0, 0]
    source = tmp_path / "in.mrc"
    source.write_bytes(header.tobytes() + raw[1024:1224] + data.astype(dtype.newbyteorder(order)).tobytes())
    restore_files([source], tmp_path / "out.mrc", model=tiny_model, device="cpu")
    before, after = source.read_bytes(), (tmp_path / "out.mrc").read_bytes()
    changed = {*range(12, 16), *range(76, 88), *range(216, 220), *range(220, 224)}  # mode, statistics, nlabl
    label = 224 + 80 * 2  # behind mrcfile's own and "kept"
    changed |= set(range(label, label + 80))
    assert {i for i in range(1224) if before[i] != after[i]} <= changed
    assert after[label : label + 9] == b"cryomend "
    assert len(after) == 1224 + 4 * data.size
    read = read_volume(tmp_path / "out.mrc")
    assert read.data.shape == read_volume(source).data.shape == (20, 17, 33)


def restore_in_a_process(*arguments, **settings):
    """Run the command where limits and kills hit nobody else."""
    command = [sys.executable, "-c", "from cryomend.cli import main; main()", "restore", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **settings
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
@pytest.mark.parametrize(
    ("room", "more"), [(8000, ()), (1024 + 4 * 16 * 20 * 24, ("--fill-only", "--tilt-range", "-60", "60"))]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, tomogram_file, tiny_model, room, more):
    """The second has room for the result, not for the transforms that it is joined by."""
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # as a disk with no more room

    before = names(tmp_path)
    running = restore_in_a_process(
        tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, *more, preexec_fn=limit
    )
    _, err = running.communicate(timeout=120)
    assert running.returncode == 2
    assert err.splitlines()[-1].startswith("cryomend: ") and "Traceback" not in err
    assert ("temporary file" in err) == bool(more)
    assert names(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf_8_is_restored_and_reported(tmp_path, tomogram_file, tiny_model):
    source, report = tmp_path / os.fsdecode(b"caf\xe9.mrc"), tmp_path / "r.json"
    tomogram_file.rename(source)
    command = (source, "-o", tmp_path / "o.mrc", "--model", tiny_model, "--batch-report", report)
    running = restore_in_a_process(*command)  # whose stderr is that of the system
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert json.loads(report.read_text())[0]["input"] == str(source)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--denoise-only", "--tilt-range", "-60", "60")])
def test_what_was_killed_is_completed_by_the_same_command(tmp_path, more):
    tiny_model, source, out = (tmp_path / name for name in ("tiny.safetensors", "large.mrc", "o.mrc"))
    agreeing = RestorationUNet([2, 2, 2, 2], residual=True)  # what contradicts the data is not joined with it
    save_model(tiny_model, agreeing, {"network": agreeing.arguments, "voxel_size_range": [8.0, 12.0]})
    write_volume(source, np.random.default_rng(0).normal(size=(96, 160, 160)), voxel_size=10.0)
    command = (source, "-o", out, "--model", tiny_model, "--skip-done", *more)
    running = restore_in_a_process(*command)
    while running.poll() is None and not list(tmp_path.glob("*.partial")):
        time.sleep(0.01)
    running.kill()
    running.communicate()
    assert not out.exists() and running.returncode == -9
    finished = restore_in_a_process(*command)
    assert finished.communicate(timeout=300) and finished.returncode == 0
    assert read_volume(out).data.shape == (96, 160, 160)
    assert names(tmp_path) == ["large.mrc", "o.mrc", "tiny.safetensors"]


# ---- several at a time -----------------------------------------------------------------------------


def test_several_tomograms_at_a_time_are_restored_as_one_after_the_other(
    tmp_path, three_files, damaged, tiny_model, run_cli
):
    damaged("nan").rename(three_files / "WT_000.mrc")
    command = ("restore", three_files, "--model", tiny_model, "--device", "cpu", "-o")
    assert run_cli(*command, tmp_path / "one").code == 1
    result = run_cli(*command, tmp_path / "two", "--jobs", 2, "--batch-report", tmp_path / "batch.json")
    assert result.code == 1
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(names(tmp_path / "two")) == 3
    records = json.loads((tmp_path / "batch.json").read_text())
    assert [record["status"] for record in records] == ["failed", "restored", "restored", "restored"]
    assert "2 tomograms at a time, " in result.err and "NaN" in result.err.splitlines()[-4]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--jobs", "0"), "--jobs must be 1 or more, got 0"),
        (("--precision", "float8"), "--precision must be auto, float32, bfloat16, float16, got 'float8'"),
        (("--precision", "float16", "--device", "cpu"), "--precision: float16 needs a CUDA device"),
        (("--on-device-loss", "hope"), "--on-device-loss must be stop or cpu, got 'hope'"),
        (("--overlap", "-1"), "--overlap must be 0 or more voxels, got -1"),
    ],
)
def test_work_that_cannot_be_done_as_asked_is_refused(
    tmp_path, tomogram_file, tiny_model, run_cli, options, says
):
    result = run_cli("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, *options)
    assert result.code == 2 and says in result.err


def test_jobs_are_for_the_cpu():
    from cryomend.restoration.batch import check_work
    from cryomend.restoration.job import Work

    with pytest.raises(InputError, match="--jobs is for the CPU"):
        check_work(Work(jobs=2), [torch.device("cuda")])


def test_precision_and_overlap_reach_the_network(tmp_path, tomogram_file, tiny_model, run_cli, monkeypatch):
    seen = []
    real = RestorationUNet.forward

    def forward(self, x):
        answer = real(self, x)
        seen.append((answer.dtype, tuple(x.shape[2:])))
        return answer

    monkeypatch.setattr(RestorationUNet, "forward", forward)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        command = ("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model)
        result = run_cli(*command, "--device", "cpu", "--precision", precision, "--overlap", 0)
        found, sides = seen.pop()
        assert result.code == 0 and found == dtype and len(seen) == 0
        assert f"1 x 1 x 1 tiles of {' x '.join(map(str, sides))} voxels" in result.err
        assert all(n <= side < n + 32 for n, side in zip((16, 32, 32), sides, strict=True))
