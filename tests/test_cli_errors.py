"""Bad input at the command line: one line on stderr, exit code 2, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

import cryomend
from cryomend.cli import app
from cryomend.io import InputError, read_volume, write_volume

BAD_VOLUMES = {
    "missing": "does not exist",
    "not mrc": "not an MRC file",
    "short": "not an MRC file",
    "gzip": "unpack it first",
    "complex": "MRC mode 4",
    "rgb": "MRC mode 16",
    "damaged header": "damaged MRC header",
    "volume stack": "holds 2 volumes",
    "small": "at least 16 are needed",
    "constant": "is constant",
    "no voxel size": "pass --voxel-size",
    "anisotropic": "different voxel sizes",
    "truncated": "is truncated",
    "nan": "the first at (Z, Y, X) = (3, 4, 5)",
}


@pytest.fixture
def refused(run_cli, tmp_path):
    """Run a command that must fail, and check how it fails."""

    def run(*arguments: object, says: str) -> None:
        before = set(tmp_path.rglob("*"))
        result = run_cli(*arguments)
        assert result.code == 2
        assert result.out == ""
        assert result.err.startswith("cryomend: ") and result.err.count("\n") == 1
        assert says in result.err
        assert set(tmp_path.rglob("*")) == before  # no output, no .partial

    return run


@pytest.mark.parametrize("kind", BAD_VOLUMES)
def test_bad_tomogram_is_refused_in_one_line(refused, damaged, tmp_path, tiny_model, kind):
    path = damaged(kind)
    refused("restore", path, "-o", tmp_path / "out.mrc", "--model", tiny_model, says=BAD_VOLUMES[kind])
    if kind != "missing":
        refused("restore", path, "-o", tmp_path / "out.mrc", "--model", tiny_model, says=str(path))


def test_tomograms_that_are_all_bad_are_refused_in_one_line(refused, damaged, tmp_path, tiny_model):
    damaged("truncated").rename(tmp_path / "short.mrc")
    inputs = tmp_path / "short.mrc", damaged("gzip")
    says = f"none of the 2 inputs can be restored; {inputs[0]} is truncated"
    refused("restore", *inputs, "-o", tmp_path / "out", "--model", tiny_model, says=says)
    refused("restore", *inputs, "-o", tmp_path / "out", "--model", tiny_model, "--dry-run", says=says)


def test_voxel_size_on_the_command_line_mends_a_header_without_one(run_cli, damaged, tmp_path, tiny_model):
    arguments = damaged("no voxel size"), "-o", tmp_path / "out.mrc", "--model", tiny_model
    assert run_cli("restore", *arguments, "--voxel-size", 11).code == 0
    assert "11 Å" in run_cli("info", tmp_path / "out.mrc").out


BAD_OPTIONS = {
    ("--voxel-size", "-3"): "--voxel-size must be a positive number",
    ("--voxel-size", "nan"): "--voxel-size must be a positive number",
    ("--protein", "grey"): "--protein must be dark or bright",
    ("--device", "tpu"): "unknown device 'tpu'",
    ("--model", "unheard-of"): "unknown model 'unheard-of'",
    ("--model", "absent/model.safetensors"): "does not exist",
    ("--tilt-range", "-100", "60"): "--tilt-range needs -90 <= MIN < MAX <= 90 degrees, got -100 60",
    ("--tilt-range", "60", "-60"): "--tilt-range needs",
    ("--tilt-range", "nan", "60"): "--tilt-range needs",
    ("--tilt-angles", "absent.tlt"): "absent.tlt does not exist",
    ("--tilt-range", "-60", "60", "--tilt-angles", "a.tlt"): "--tilt-range or --tilt-angles, not both",
    ("--batch-report", "absent/report.json"): "absent is not a directory",
    ("--report", "absent/report.html"): "absent is not a directory",
}


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=" ".join)
def test_bad_option_is_refused_in_one_line(refused, tomogram_file, tmp_path, tiny_model, options):
    model = () if "--model" in options else ("--model", tiny_model)
    arguments = tomogram_file, "-o", tmp_path / "out.mrc", *model, *options
    refused("restore", *arguments, says=BAD_OPTIONS[options])


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_absent_device_is_refused(refused, tomogram_file, tmp_path, tiny_model, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    arguments = tomogram_file, "-o", tmp_path / "out.mrc", "--model", tiny_model
    refused("restore", *arguments, "--device", device, says=f"no {device} device")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("95\n", "outside ±90"),
        ("x\n", "line 1 is not a tilt angle"),
        ("", "no tilt angles"),
        ("3\n", "one tilt angle only"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_bad_tilt_angles_are_refused_whether_given_or_found(
    refused, tomogram_file, tmp_path, tiny_model, text, says, beside
):
    listed = tomogram_file.with_suffix(".tlt") if beside else tmp_path / "other.tlt"
    listed.write_text(text)
    option = () if beside else ("--tilt-angles", listed)
    refused("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, *option, says=says)


def test_model_file_that_is_not_one_is_refused(refused, tomogram_file, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pt")
    arguments = tomogram_file, "-o", tmp_path / "out.mrc"
    refused("restore", *arguments, "--model", tmp_path / "model.pt", says="not a safetensors file")
    refused("restore", *arguments, "--model", tomogram_file, says="not a safetensors file")


@pytest.mark.parametrize(
    "output", ["absent/out.mrc", "absent/deeper/", "tomogram.mrc/out.mrc", "/proc/out.mrc"]
)
def test_output_that_cannot_be_written_is_refused(refused, tomogram_file, tmp_path, tiny_model, output):
    output = output if output.startswith("/") else f"{tmp_path}/{output}"
    refused("restore", tomogram_file, "-o", output, "--model", tiny_model, says="cannot")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_directory_without_permission_is_refused(refused, tomogram_file, tmp_path, tiny_model):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    refused(
        "restore", tomogram_file, "-o", closed / "out.mrc", "--model", tiny_model, says="permission denied"
    )


def test_output_never_replaces_an_input(refused, tomogram_file, tiny_model):
    refused(
        "restore", tomogram_file, "-o", tomogram_file, "--model", tiny_model, says="would overwrite the input"
    )


def test_two_inputs_of_one_name_in_one_folder_are_refused(refused, tomogram_file, tmp_path, tiny_model):
    twin = tomogram_file.with_suffix(".rec")
    twin.write_bytes(tomogram_file.read_bytes())
    says = f"would overwrite the result of {tomogram_file}"
    refused("restore", tomogram_file, twin, "-o", tmp_path / "out", "--model", tiny_model, says=says)


@pytest.mark.parametrize(
    ("output", "advised"),
    [
        ("restored", "restored.mrc"),
        ("out.tif", "out.mrc"),
        ("of.today", "of.mrc"),
        ("out.mrc.gz", "out.mrc.mrc"),
    ],
)
def test_a_result_not_named_as_an_mrc_file_is_refused_in_one_line(
    refused, tomogram_file, tmp_path, tiny_model, output, advised
):
    command = ("restore", tomogram_file, "-o", tmp_path / output, "--model", tiny_model)
    says = f"give {tmp_path / output}{os.sep} for a directory, {tmp_path / advised} for a file"
    refused(*command, says=says)
    refused(*command, "--dry-run", says=says)


def test_a_tilt_series_is_refused_in_one_line(refused, tomogram_file, tmp_path, tiny_model):
    tomogram_file.with_suffix(".tlt").write_text("".join(f"{5 * n - 40}\n" for n in range(16)))
    for more in ((), ("--dry-run",)):
        command = ("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model, *more)
        refused(*command, says=f"{tomogram_file} looks like a tilt series")
        refused(*command, says="reconstruct it first, or say --tilt-range MIN MAX if it is a tomogram")


@pytest.mark.parametrize("output", ["out.mrc", "tomogram.mrc"])
def test_several_inputs_need_a_directory(refused, tomogram_file, tmp_path, tiny_model, output):
    other = tmp_path / "second.mrc"
    other.write_bytes(tomogram_file.read_bytes())
    arguments = tomogram_file, other, "-o", tmp_path / output, "--model", tiny_model
    refused("restore", *arguments, says="need a directory, got -o")


def test_directory_without_tomograms_is_refused(refused, tmp_path, tiny_model):
    (tmp_path / "empty").mkdir()
    refused(
        "restore", tmp_path / "empty", "-o", tmp_path / "out", "--model", tiny_model, says="holds no .mrc"
    )


OVERWRITTEN = {
    "-o even.mrc": "the result even.mrc would overwrite the input even.mrc",
    "-o mine.safetensors": "would overwrite the input mine.safetensors",
    "-o o.mrc --report tomogram.mrc": "would overwrite the input tomogram.mrc",
    "-o o.mrc --batch-report odd.mrc": "would overwrite the input odd.mrc",
    "-o o.mrc --batch-report link.mrc": "the result link.mrc would overwrite the input tomogram.mrc",
    "-o o.mrc --report angles.txt": "would overwrite the input angles.txt",
    "-o o.mrc --confidence even.mrc": "would overwrite the input even.mrc",
    "-o o.mrc --confidence z.mrc --report z.mrc": "two results go into z.mrc",
    "-o o.mrc --report r --batch-report ./r": "two results go into r",
    "-o o.mrc --report o.mrc": "two results go into o.mrc",
    "-o new/ --batch-report new/tomogram_restored.mrc": "two results go into new/tomogram_restored.mrc",
}


@pytest.mark.parametrize("options", OVERWRITTEN)
def test_no_result_goes_over_an_input_or_another_result(
    refused, tomogram_file, tmp_path, tiny_model, monkeypatch, options
):
    monkeypatch.chdir(tmp_path)
    shape = read_volume(tomogram_file).data.shape
    for seed, name in enumerate(("even.mrc", "odd.mrc")):
        write_volume(name, np.random.default_rng(seed).normal(size=shape), voxel_size=10.0)
    Path("mine.safetensors").write_bytes(tiny_model.read_bytes())
    Path("link.mrc").symlink_to("tomogram.mrc")
    Path("angles.txt").write_text("-60\n0\n60\n")
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    given = "--model mine.safetensors --keep-measured --even even.mrc --odd odd.mrc --tilt-angles angles.txt"
    for more in ((), ("--dry-run",)):
        command = ("restore", "tomogram.mrc", *options.split(), *given.split(), *more)
        refused(*command, says=OVERWRITTEN[options])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("option", ["--report", "--batch-report"])
def test_no_report_goes_over_a_list_or_the_angles_found_beside(
    refused, tomogram_file, tmp_path, tiny_model, option
):
    listed, angles = tmp_path / "today.txt", tomogram_file.with_suffix(".tlt")
    listed.write_text("tomogram.mrc\n")
    angles.write_text("-60\n0\n60\n")
    for path in (listed, angles):
        command = ("restore", listed, "-o", tmp_path / "out", "--model", tiny_model, option, path)
        refused(*command, says=f"would overwrite the input {path}")


def test_a_report_named_as_the_directory_to_make_is_refused(refused, tomogram_file, tmp_path, tiny_model):
    command = ("restore", tomogram_file, "-o", f"{tmp_path}/new/", "--model", tiny_model)
    refused(*command, "--batch-report", tmp_path / "new", says="it will be the directory of the results")
    refused(*command, "--batch-report", tmp_path / "no/r.json", says="no is not a directory")


def test_picture_report_of_several_inputs_is_refused(refused, tomogram_file, tmp_path, tiny_model):
    other = tmp_path / "second.mrc"
    other.write_bytes(tomogram_file.read_bytes())
    arguments = tomogram_file, other, "-o", tmp_path / "out", "--model", tiny_model
    refused("restore", *arguments, "--report", tmp_path / "r.html", says="--report shows one tomogram")


@pytest.mark.parametrize("kind", ["missing", "not mrc", "truncated", "complex"])
def test_info_refuses_what_it_cannot_understand(refused, damaged, kind):
    refused("info", damaged(kind), says=BAD_VOLUMES[kind])


@pytest.mark.parametrize("kind", ["nan", "constant", "small", "no voxel size", "anisotropic"])
def test_info_describes_what_only_restoration_refuses(run_cli, damaged, kind):
    result = run_cli("info", damaged(kind))
    assert result.code == 0 and result.err == ""
    assert "grey levels" in result.out


def test_info_refuses_a_file_of_weights_that_is_no_model(refused, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    refused("info", tmp_path / "a.safetensors", says="not a safetensors file")


def test_failure_while_working_on_the_only_file_is_one_more_line(
    run_cli, tomogram_file, tmp_path, tiny_model, monkeypatch
):
    def exhaust(*_args, **_kwargs):
        raise torch.OutOfMemoryError("tried to allocate\nmuch")

    monkeypatch.setattr("cryomend.restoration.job.restore_mapped", exhaust)
    out = tmp_path / "out.mrc"
    result = run_cli("restore", tomogram_file, "-o", out, "--model", tiny_model, "--device", "cpu")
    assert result.code == 2
    assert (
        result.err.splitlines()[-1] == "cryomend: out of memory on cpu; free some, or pass another --device"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"tomogram.mrc"}


# ---- the frame


def test_debug_variable_shows_the_traceback(run_cli, tmp_path, monkeypatch):
    monkeypatch.setenv("CRYOMEND_DEBUG", "1")
    with pytest.raises(InputError, match="does not exist"):
        from cryomend.cli import main

        monkeypatch.setattr("sys.argv", ["cryomend", "info", str(tmp_path / "absent.mrc")])
        main()


def test_interrupt_leaves_with_130(run_cli, tomogram_file, tmp_path, tiny_model, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("cryomend.restoration.job.restore_mapped", interrupt)
    result = run_cli("restore", tomogram_file, "-o", tmp_path / "out.mrc", "--model", tiny_model)
    assert result.code == 130
    last = "cryomend: stopped; what is finished stays, --skip-done goes on"
    assert result.err.splitlines()[-1] == last
    assert {path.name for path in tmp_path.iterdir()} == {"tomogram.mrc"}


def test_an_interrupt_is_one_line_without_the_bar(run_cli, tmp_path, monkeypatch):
    def interrupt(*_args, on_progress, **_kwargs):
        on_progress(0.5, "building")
        raise KeyboardInterrupt

    monkeypatch.setattr("cryomend.specimen.build_to_folder", interrupt)
    result = run_cli("specimen", "-o", tmp_path / "s", "--device", "cpu")
    assert (result.code, result.err) == (130, "cryomend: stopped\n")


def test_wrong_configuration_is_one_line_with_the_dotted_path(run_cli, monkeypatch, tmp_path):
    from pydantic import BaseModel, ConfigDict

    class Inner(BaseModel):
        model_config = ConfigDict(extra="forbid")
        steps: int = 1

    class Outer(BaseModel):
        training: Inner

    def misread(_path):
        Outer.model_validate({"training": {"steps": "many", "stepz": 2}})

    monkeypatch.setattr("cryomend.io.describe_file", misread)
    result = run_cli("info", tmp_path / "a.mrc")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "training.steps: " in result.err and "training.stepz: " in result.err


@pytest.mark.parametrize(
    "arguments",
    [("restore",), ("restore", "a.mrc"), ("restore", "a.mrc", "-o", "b", "--depth", "3"), ("repair",)],
)
def test_wrong_usage_leaves_with_2_and_no_boxes(run_cli, arguments):
    result = run_cli(*arguments)
    assert result.code == 2
    assert "Error: " in result.err
    assert not set("╭╮╰╯│─") & set(result.err)


def test_a_range_that_lacks_a_number_is_told_what_it_needs(run_cli, tmp_path):
    result = run_cli("acquire", tmp_path / "d.mrc", "--tilt-range", -60, 60, "-o", tmp_path / "t")
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "Error: Invalid value for '--tilt-range': needs MIN MAX STEP, 3 numbers"
    )


def test_every_option_of_several_numbers_names_them(run_cli):
    group = typer.main.get_command(app)
    commands = [*group.commands.values(), *group.commands["noise"].commands.values()]
    commands += group.commands["areas"].commands.values()
    several = [p for c in commands for p in c.params if p.nargs > 1]
    assert len(several) == 8
    assert all(p.metavar and len(p.metavar.split()) == p.nargs for p in several)


def test_an_option_of_the_command_line_is_called_as_it_is_there(run_cli, tmp_path):
    result = run_cli("reconstruct", "a.mrc", "--thickness", 16, "--method", "SIRT", "-o", tmp_path / "r.mrc")
    assert (result.code, result.err) == (2, "cryomend: --method: Input should be 'wbp', 'sirt' or 'sart'\n")


def test_a_log_gets_a_line_for_each_job_of_a_benchmark_and_no_bar(run_cli, tmp_path, monkeypatch):
    def jobs(*_args, on_progress, **_kwargs):
        for share, text in ((0.0, "a--fast"), (0.25, "a--fast: tile 1"), (0.5, "b--fast"), (1.0, "tables")):
            on_progress(share, text)
        return ["the table"]

    monkeypatch.setattr("cryomend.benchmark.run_benchmark", jobs)
    result = run_cli("benchmark", "tiny", "-o", tmp_path)
    assert result.out == "the table\n"
    assert result.err.splitlines() == [
        "  0%  a--fast", " 50%  b--fast", "100%  tables", f"wrote {tmp_path / 'benchmark.html'}"
    ]  # fmt: skip


def test_installed_program_behaves_like_the_function(tmp_path):
    program = Path(sys.executable).with_name("cryomend")
    if not program.exists():
        pytest.skip("cryomend is not installed as a program here")
    done = subprocess.run(
        [program, "info", tmp_path / "absent.mrc"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"cryomend: {tmp_path / 'absent.mrc'} does not exist; check the name\n"


@pytest.mark.parametrize(("given", "found"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")])
def test_waiting_threads_leave_the_cores_to_others_unless_the_user_says_otherwise(given, found):
    program = (
        "import os, sys; from cryomend.cli import main; sys.argv = ['cryomend', '--version']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | given, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["cryomend", cryomend.__version__, found, "False"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory",
        ),
        (MemoryError(), "out of memory; free some"),
        (
            RuntimeError("CUDA error: device-side assert\nCompile with"),
            "a device stopped answering (CUDA error",
        ),
    ],
)
def test_want_of_memory_and_lost_devices_are_one_line_in_every_command(
    refused, monkeypatch, tmp_path, error, says
):
    def fail(path):
        raise error

    monkeypatch.setattr("cryomend.io.describe_file", fail)
    refused("info", tmp_path / "a.mrc", says=says)


def test_an_error_of_our_own_keeps_its_traceback(run_cli, monkeypatch, tmp_path):
    def fail(path):
        raise RuntimeError("a bug")

    monkeypatch.setattr("cryomend.io.describe_file", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run_cli("info", tmp_path / "a.mrc")


@pytest.mark.parametrize(
    "command",
    [
        "noise extract in.mrc -o in.mrc",
        "noise extract in.mrc -o a.h5 --picture in.mrc",
        "noise extract in.mrc -o a.h5 --tilt-angles a.png",
        "noise fit in.h5 -o in.h5",
        "noise sample in.safetensors --tilt-angles in.tlt -o in.tlt",
        "noise check in.h5 b.mrc --json in.h5",
        "noise check a.h5 in.mrc --json a.json --figure in.mrc",
        "reconstruct in.mrc --thickness 16 --tilt-angles in.tlt -o in.tlt",
        "reconstruct in.mrc --thickness 16 --alignment in.xf -o in.xf",
        "train --for in.mrc --structures 1abc -o in.mrc",
        "train --structures 1abc --noise in.safetensors -o in.safetensors",
    ],
)
def test_no_command_writes_over_what_it_reads(run_cli, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name in ("in.mrc", "in.h5", "in.safetensors", "in.tlt", "in.xf", "a.png"):
        Path(name).write_text("as it was")
    result = run_cli(*command.split())
    assert result.code == 2
    assert "would overwrite" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert {path.read_text() for path in tmp_path.iterdir()} == {"as it was"}
