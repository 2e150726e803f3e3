"""Restoring files: headers kept, names made, tilt ranges found, failures of a batch survived."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryomend.io import InputError, read_volume, write_tilt_angles, write_volume
from cryomend.network.unet import RestorationUNet
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
        assert labels[-1].startswith("cryomend ") and labels[-1].endswith(" tiny restored")
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
    assert [record["error"] for record in records] == [None, "the device fell off", None]
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


@pytest.mark.parametrize(("size", "warned"), [(7.9, True), (8.0, False), (12.0, False), (12.1, True)])
def test_voxel_size_the_model_was_not_trained_on_is_warned_of(
    tmp_path, tomogram_file, tiny_model, capsys, size, warned
):
    restore_files([tomogram_file], tmp_path / "o.mrc", model=tiny_model, device="cpu", voxel_size=size)
    assert ("warning: " in capsys.readouterr().err) == warned


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

    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    console = Console(stderr=True, soft_wrap=True)
    advance = progress._line_printer(console, "a.mrc", lambda share, now: "")
    for done in range(1, 5):
        advance(done, 4)
    assert capsys.readouterr().err == "a.mrc: 2 of 4 tiles, about 31 s left\n"


def test_report_page_is_written_for_one_input(tmp_path, tomogram_file, tiny_model, run_cli):
    page = tmp_path / "report.html"
    arguments = tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, "--tilt-range", "-90", "60"
    result = run_cli("restore", *arguments, "--report", page, "--average-along-y")
    assert result.code == 0, result.err
    text = page.read_text(encoding="utf-8")
    assert "tiny" in text and "tilt range -90 to 60 degrees" in text and "Time" in text


def test_a_result_larger_than_memory_is_written_as_the_one_in_memory_to_the_last_bit(
    tmp_path, tiny_model, monkeypatch
):
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
    monkeypatch.setattr(job.Setting, "needs_whole", True)
    restore_files([source], tmp_path / "whole.mrc", model=tiny_model, device="cpu")
    assert (tmp_path / "mapped.mrc").read_bytes() == (tmp_path / "whole.mrc").read_bytes()
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


@pytest.mark.parametrize("change", ["options", "model", "page", "shape", "newer input", "no result"])
def test_a_result_of_another_kind_is_not_taken_for_done(tmp_path, tomogram_file, tiny_model, change):
    out = tmp_path / "out.mrc"
    settings = {"model": tiny_model, "device": "cpu", "tilt_range": (-60.0, 60.0)}
    restore_files([tomogram_file], out, **settings)
    if change == "options":
        before = read_volume(tomogram_file)
        write_volume(
            out, before.data, voxel_size=10.0, like=before, label="cryomend 9 tiny restored --fill-only"
        )
    elif change == "shape":
        rng = np.random.default_rng(0)
        write_volume(tomogram_file, rng.normal(size=(16, 16, 16)), voxel_size=10.0)
    elif change == "model":
        settings["model"] = tmp_path / "other.safetensors"
        settings["model"].write_bytes(tiny_model.read_bytes())
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
    assert "out of memory on cpu: going on with tiles of 64 voxels" in capsys.readouterr().err


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
    refused = run_cli(*command, "--model", "best")
    assert refused.code == 2
    assert refused.err.strip() == (
        "cryomend: this version does not come with the model 'best'; it has fast"
    )


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
    assert "a.mrc: about 0 s left; file 1 of 2" in console.file.getvalue()
