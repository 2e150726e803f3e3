"""The four commands with their required options, and every documented error through them."""

import json
from pathlib import Path

import numpy as np
import pytest

from cryomend.io import read_stack, write_tilt_angles, write_volume

ANGLES = np.array([-40.0, 0.0, 40.0])


@pytest.fixture
def stack(tmp_path: Path):
    series = 50 + 3 * np.random.default_rng(0).standard_normal((3, 144, 144)).astype(np.float32)
    write_volume(tmp_path / "ts.mrc", series, voxel_size=4.0, stack=True)
    write_tilt_angles(tmp_path / "ts.tlt", ANGLES)
    return tmp_path / "ts.mrc"


@pytest.fixture
def patches(run_cli, stack):
    assert run_cli("noise", "extract", stack, "--patch", 32, "-o", stack.with_name("p.h5")).code == 0
    return stack.with_name("p.h5")


@pytest.fixture
def model(run_cli, patches):
    path = patches.with_name("m.safetensors")
    assert run_cli("noise", "fit", patches, "--model", "spectral", "-o", path).code == 0
    return path


def assert_refused(result, words, output):
    assert result.code == 2
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not output.exists()
    assert not list(output.parent.glob("*.partial"))


def test_extract_fit_sample_check_in_a_row(run_cli, stack, tmp_path: Path):
    p, m, s, report = (tmp_path / n for n in ("p.h5", "m.safetensors", "s.mrc", "check.json"))
    extracted = run_cli(
        "noise", "extract", stack, "--tilt-angles", stack.with_suffix(".tlt"), "--patch", 32, "-o", p
    )
    assert extracted.code == 0
    assert "tilt 0 (-40.0 deg): " in extracted.err
    config = tmp_path / "tiny.yaml"
    config.write_text("{width: 2, latent: 8, steps: 2, critic_steps: 1, batch: 8, classifier_steps: 2}")
    assert run_cli("noise", "fit", p, "--config", config, "-o", m).code == 0
    assert run_cli("noise", "fit", p, "--config", config, "--resume", "--max-minutes", 1, "-o", m).code == 0
    assert (
        run_cli(
            "noise",
            "sample",
            m,
            "--tilt-angles",
            stack.with_suffix(".tlt"),
            "--size",
            96,
            70,
            "--seed",
            3,
            "-o",
            s,
        ).code
        == 0
    )
    noise = read_stack(s)
    assert noise.data.shape == (3, 96, 70)
    assert noise.voxel_size == pytest.approx(4.0)
    checked = run_cli("noise", "check", p, s, "--json", report, "--figure", tmp_path / "check.png")
    assert checked.code == 0
    assert checked.out.startswith("floor: spectrum")
    scores = json.loads(report.read_text())
    assert set(scores["sampled"][str(s)]) >= {
        "spectrum_db_max",
        "wasserstein",
        "std_ratio",
        "classifier",
        "repetition",
    }
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")


def test_sampling_is_repeated_by_its_seed(run_cli, model, stack):
    for name, seed in (("a.mrc", 1), ("b.mrc", 1), ("c.mrc", 2)):
        options = ("--tilt-angles", stack.with_suffix(".tlt"), "--size", 40, 50, "--seed", seed)
        assert run_cli("noise", "sample", model, *options, "-o", stack.with_name(name)).code == 0
    a, b, c = (read_stack(stack.with_name(n)).data for n in ("a.mrc", "b.mrc", "c.mrc"))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_extract_refuses_in_one_line(run_cli, stack, tmp_path: Path):
    out = tmp_path / "p.h5"
    assert_refused(
        run_cli("noise", "extract", stack, "--patch", 96, "-o", out), "need 8; try a smaller --patch", out
    )
    assert_refused(
        run_cli("noise", "extract", stack, "--patch", 256, "-o", out), "is larger than the image", out
    )
    assert_refused(run_cli("noise", "extract", tmp_path / "no.mrc", "-o", out), "no.mrc", out)
    write_tilt_angles(tmp_path / "two.tlt", ANGLES[:2])
    wrong = run_cli(
        "noise", "extract", stack, "--tilt-angles", tmp_path / "two.tlt", "--patch", 32, "-o", out
    )
    assert_refused(wrong, "2 tilt angles for 3 tilts", out)


def test_extract_refuses_a_tilt_without_contrast_and_pixels_that_are_not_finite(
    run_cli, stack, tmp_path: Path
):
    out, series = tmp_path / "p.h5", read_stack(stack).data.copy()
    series[2] = 5
    write_volume(stack, series, voxel_size=4.0, stack=True)
    assert_refused(
        run_cli("noise", "extract", stack, "--patch", 32, "-o", out), "tilt 2: constant image", out
    )
    series[2, 0, 0] = np.nan
    stack.write_bytes(stack.read_bytes()[:1024] + series.tobytes())
    assert_refused(run_cli("noise", "extract", stack, "--patch", 32, "-o", out), "NaN or infinite", out)


def test_fit_refuses_in_one_line(run_cli, stack, patches, tmp_path: Path):
    out = tmp_path / "w.safetensors"
    assert_refused(run_cli("noise", "fit", stack, "-o", out), "not a file of noise patches", out)
    assert_refused(
        run_cli("noise", "fit", patches, "--model", "dcgan", "-o", out), "unknown noise model", out
    )
    assert_refused(run_cli("noise", "fit", patches, "--resume", "-o", out), "start without --resume", out)
    assert_refused(run_cli("noise", "fit", patches, "--max-minutes", 0, "-o", out), "must be positive", out)
    assert_refused(run_cli("noise", "fit", patches, "--device", "tpu", "-o", out), "unknown device", out)
    few = tmp_path / "few.h5"
    assert run_cli("noise", "extract", stack, "--patch", 64, "-o", few).code == 0
    fallback = run_cli("noise", "fit", few, "-o", out)
    assert fallback.code == 0
    assert "too few for a learned model (at least 64" in fallback.err
    assert "w.safetensors (spectral)" in fallback.err


def test_sample_and_check_refuse_in_one_line(run_cli, stack, patches, model, tmp_path: Path):
    out, tlt = tmp_path / "s.mrc", stack.with_suffix(".tlt")
    assert_refused(
        run_cli("noise", "sample", stack, "--tilt-angles", tlt, "--size", 9, 9, "-o", out),
        "not a noise model",
        out,
    )
    assert_refused(
        run_cli("noise", "sample", model, "--tilt-angles", tlt, "--size", 0, 9, "-o", out),
        "--size must be",
        out,
    )
    scores = tmp_path / "c.json"
    assert_refused(
        run_cli("noise", "check", patches, tmp_path / "no.mrc", "--json", scores), "no.mrc", scores
    )
    absent = tmp_path / "nowhere" / "c.json"
    assert run_cli("noise", "check", patches, stack, "--json", absent).code == 2
