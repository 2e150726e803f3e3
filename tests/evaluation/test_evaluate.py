"""Evaluation of volumes and files, and its command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.evaluation import Area, Areas, evaluate_files, evaluate_volume, summary_rows
from cryomend.fourier import gaussian_lowpass
from cryomend.geometry import missing_wedge_mask
from cryomend.io import InputError, write_volume

SHAPE = (24, 32, 40)
AREAS_TOML = """
[foreground.s1]
z = [2, 8]
y = [2, 8]
x = [2, 8]
[background.b1]
z = [12, 20]
y = [12, 20]
x = [12, 20]
"""


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    white = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    return gaussian_lowpass(white, 1.5)


@pytest.fixture
def files(tmp_path: Path, truth: torch.Tensor) -> tuple[Path, Path]:
    """A tomogram with dark protein that lacks the wedge, and its truth."""
    measured = missing_wedge_mask(SHAPE, tilt_min=-60, tilt_max=60)
    tomogram = -torch.fft.ifftn(torch.fft.fftn(truth) * measured).real
    noisy = tomogram + 0.1 * truth.std() * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    paths = tmp_path / "tomogram.mrc", tmp_path / "truth.mrc"
    write_volume(paths[0], noisy.numpy(), voxel_size=10.0)
    write_volume(paths[1], truth.numpy(), voxel_size=10.0)
    return paths


def test_a_perfect_volume_has_perfect_scores_everywhere(truth: torch.Tensor) -> None:
    scores = evaluate_volume(3 * truth + 2, truth=truth, tilt_range=(-60, 60), voxel_size=10.0)["truth"]
    assert scores["correlation"] == pytest.approx(1, abs=1e-5)
    # float32 rounding of the levels, about 1e-7 of the range, is an error of -130 dB
    assert scores["psnr_db"] > 110
    for part in ("overall", "inside_wedge", "inside_measured_region"):
        assert scores[part]["correlation"] == pytest.approx(1, abs=1e-5)
        assert scores[part]["mean_fsc_400_to_40_angstrom"] == pytest.approx(1, abs=1e-4)
        assert scores[part]["resolution_at_0.5_angstrom"] == pytest.approx(20)
    assert scores["fsc_resolution_angstrom"][1] == pytest.approx(240)


def test_a_volume_without_the_wedge_scores_outside_and_not_inside(truth: torch.Tensor) -> None:
    measured = missing_wedge_mask(SHAPE, tilt_min=-60, tilt_max=60)
    tomogram = torch.fft.ifftn(torch.fft.fftn(truth) * measured).real
    tomogram = tomogram + 1e-3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    scores = evaluate_volume(tomogram, truth=truth, tilt_range=(-60, 60), voxel_size=10.0)["truth"]
    # what noise has in common with the truth by chance, about 700 voxels below its cut-off, is 0.04
    assert abs(scores["inside_wedge"]["correlation"]) < 0.15
    assert scores["inside_measured_region"]["correlation"] > 0.99
    assert 0.5 < scores["overall"]["correlation"] < 0.99
    assert math.isnan(scores["inside_wedge"]["resolution_at_0.5_angstrom"])


def test_the_correlation_of_all_fourier_space_is_that_of_real_space(truth: torch.Tensor) -> None:
    other = truth + gaussian_lowpass(torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)), 1.0)
    scores = evaluate_volume(other, truth=truth, voxel_size=10.0)["truth"]
    assert scores["overall"]["correlation"] == pytest.approx(scores["correlation"], abs=1e-5)
    assert "inside_wedge" not in scores


def test_shares_of_the_wedge_and_of_the_measured_region_add_to_one(truth: torch.Tensor) -> None:
    scores = evaluate_volume(truth, truth=truth, tilt_range=(-50, 60), voxel_size=10.0)["truth"]
    shares = [scores[p]["share_of_fourier_space"] for p in ("inside_wedge", "inside_measured_region")]
    assert sum(shares) == pytest.approx(1)
    assert 0.2 < shares[0] < 0.5


def test_areas_are_scored_in_pairs_and_averaged(truth: torch.Tensor) -> None:
    boxes = [Area(str(i), ((2 * i, 2 * i + 2), (0, 30), (0, 30))) for i in range(4)]
    scores = evaluate_volume(truth, areas=Areas("a", tuple(boxes[:2]), tuple(boxes[2:])), voxel_size=10.0)
    pairs = scores["areas"]["pairs"]
    assert [(p["foreground"], p["background"]) for p in pairs] == [("0", "2"), ("1", "3")]
    for name in ("cnr_pooled", "cnr_sum", "enl", "enl_stored"):
        assert scores["areas"]["mean"][name] == pytest.approx((pairs[0][name] + pairs[1][name]) / 2)
    assert pairs[0]["cnr_pooled"] == pytest.approx(math.sqrt(2) * pairs[0]["cnr_sum"])
    scaling = scores["areas"]["scaled_to_unit"]
    assert scaling["offset"] == truth.min().item()
    assert scaling["offset"] + scaling["scale"] == pytest.approx(truth.max().item())


def test_areas_that_overlap_are_refused_also_where_no_file_is_read(truth: torch.Tensor) -> None:
    boxes = [Area(name, ((0, 5), (0, 5), (0, 5))) for name in "fb"]
    with pytest.raises(ValueError, match=r"areas f .* and b .* overlap"):
        evaluate_volume(truth, areas=Areas("a", (boxes[0],), (boxes[1],)), voxel_size=10.0)


def test_cones_and_the_spectral_snr_stand_beside_every_curve(truth: torch.Tensor) -> None:
    noisy = truth + truth.std() * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    scores = evaluate_volume(noisy, truth=truth, voxel_size=10.0)["truth"]
    for part in ("overall", "cone_z", "cone_y", "cone_x"):
        curve, ratio = (torch.tensor(scores[part][key]) for key in ("fsc", "spectral_snr"))
        known = ~curve.isnan() & (curve > 0)
        torch.testing.assert_close(ratio[known], (curve**2 / (1 - curve**2))[known])
    crossing = scores["overall"]["resolution_at_snr_1_angstrom"]  # where the curve falls below 0.707
    assert scores["overall"]["resolution_at_0.143_angstrom"] < crossing
    assert crossing > scores["overall"]["resolution_at_0.5_angstrom"]


def test_a_gap_along_z_is_seen_in_the_cone_about_z_alone(truth: torch.Tensor) -> None:
    from cryomend.evaluation import cone_mask

    spectrum = torch.fft.fftn(truth) * ~cone_mask(SHAPE, axis="z", half_angle=30.0)
    tomogram = torch.fft.ifftn(spectrum).real
    tomogram = tomogram + 1e-3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    scores = evaluate_volume(tomogram, truth=truth, voxel_size=10.0)["truth"]
    assert abs(scores["cone_z"]["correlation"]) < 0.2
    assert scores["cone_x"]["correlation"] > 0.99
    assert scores["cone_y"]["correlation"] > 0.99


def test_a_volume_with_nothing_to_compare_is_refused(truth: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_volume(truth, voxel_size=10.0)


def test_the_table_has_a_column_for_each_part_of_fourier_space(truth: torch.Tensor) -> None:
    rows = summary_rows(evaluate_volume(truth, truth=truth, tilt_range=(-60, 60), voxel_size=10.0))
    assert rows[0] == ("score", "overall", "inside wedge", "inside measured region")
    assert {len(row) for row in rows} == {4}
    assert ("correlation", "1.000", "1.000", "1.000") in rows


def test_files_of_different_shape_are_refused_with_both(tmp_path: Path, files: tuple[Path, Path]) -> None:
    other = tmp_path / "other.mrc"
    write_volume(other, np.random.default_rng(0).random((24, 32, 30)), voxel_size=10.0)
    with pytest.raises(InputError, match=r"shape \(24, 32, 40\) .* has \(24, 32, 30\)"):
        evaluate_files(files[0], truth_path=other)


def test_files_of_different_voxel_size_are_refused_with_both(
    tmp_path: Path, files: tuple[Path, Path]
) -> None:
    other = tmp_path / "other.mrc"
    write_volume(other, np.random.default_rng(0).random(SHAPE), voxel_size=12.5)
    with pytest.raises(InputError, match=r"voxel size 10 Å .* has 12\.5 Å"):
        evaluate_files(files[0], truth_path=other)
    assert evaluate_files(files[0], truth_path=other, voxel_size=10.0)["voxel_size_angstrom"] == 10


def test_a_tilt_range_that_does_not_increase_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r"--tilt-range needs .* got 60 -60"):
        evaluate_files(files[0], truth_path=files[1], tilt_range=(60, -60))


def test_evaluate_needs_only_a_truth_and_takes_the_tomogram_for_dark_protein(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path]
) -> None:
    out = tmp_path / "scores.json"
    result = run_cli("evaluate", files[0], "--truth", files[1], "--json", out)
    assert result.code == 0, result.err
    scores = json.loads(out.read_text())
    assert scores["volume_negated"] is True
    assert scores["truth"]["correlation"] > 0.5
    assert scores["truth"]["overall"]["fsc"][0] is None or abs(scores["truth"]["overall"]["fsc"][0]) <= 1
    assert "scaled to [0, 1]" in scores["scaling"]["psnr_and_ssim"]
    assert "correlation" in result.out


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ([], 1),
        (["--protein", "bright"], -1),
        (["--truth-protein", "dark"], -1),
        (["--protein", "bright", "--truth-protein", "dark"], 1),
    ],
)
def test_the_protein_options_decide_the_sign_of_the_correlation(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path], options: list[str], sign: int
) -> None:
    out = tmp_path / "scores.json"
    assert run_cli("evaluate", files[0], "--truth", files[1], "--json", out, *options).code == 0
    assert sign * json.loads(out.read_text())["truth"]["correlation"] > 0.5


def test_evaluate_scores_parts_of_fourier_space_and_areas_together(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path]
) -> None:
    areas, out = tmp_path / "areas.toml", tmp_path / "scores.json"
    areas.write_text(AREAS_TOML)
    options = ["--truth", files[1], "--tilt-range", "-60", "60", "--areas", areas, "--json", out]
    result = run_cli("evaluate", files[0], *options)
    assert result.code == 0, result.err
    scores = json.loads(out.read_text())
    assert scores["truth"]["inside_measured_region"]["correlation"] > 0.9
    assert abs(scores["truth"]["inside_wedge"]["correlation"]) < 0.3
    assert scores["areas"]["mean"]["enl"] > 0
    assert "inside wedge" in result.out
    assert "ENL" in result.out


def test_evaluate_needs_only_areas(run_cli: Callable, tmp_path: Path, files: tuple[Path, Path]) -> None:
    areas, out = tmp_path / "areas.toml", tmp_path / "scores.json"
    areas.write_text(AREAS_TOML)
    assert run_cli("evaluate", files[0], "--areas", areas, "--json", out).code == 0
    assert "truth" not in json.loads(out.read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to evaluate against; give --truth"),
        (["--areas-of", "empiar-10045"], "asks for z 50 to 60, but the volume has 24 voxels along z"),
        (["--areas-of", "nobody"], "no areas of 'nobody'; there are empiar-10045"),
        (["--truth", "missing.mrc"], "missing.mrc"),
    ],
)
def test_what_cannot_be_evaluated_ends_in_one_line_and_code_two(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path], options: list[str], message: str
) -> None:
    out = tmp_path / "scores.json"
    result = run_cli("evaluate", files[0], "--json", out, *options)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("scores*"))


def test_a_half_is_compared_with_the_other_half_alone(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path], truth: torch.Tensor
) -> None:
    other, out = tmp_path / "odd.mrc", tmp_path / "scores.json"
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    write_volume(other, (-truth + 0.1 * truth.std() * noise).numpy(), voxel_size=10.0)
    result = run_cli("evaluate", files[0], "--half", other, "--tilt-range", "-60", "60", "--json", out)
    assert result.code == 0, result.err
    scores = json.loads(out.read_text())
    assert scores["halves"]["other_half"] == str(other)
    assert scores["halves"]["inside_measured_region"]["correlation"] > 0.9
    assert abs(scores["halves"]["inside_wedge"]["correlation"]) < 0.3
    assert "truth" not in scores
    assert "checks" not in scores
    assert "half against half" in result.out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("tomogram.mrc", "are one file, so their FSC would be 1 everywhere"),
        ("link.mrc", "are one file"),
        ("copy.mrc", "hold the same voxels, so their FSC would be 1 everywhere"),
        ("coarse.mrc", "has voxel size 10 Å but"),
        ("short.mrc", "has shape (24, 32, 40) (Z, Y, X) but"),
        ("missing.mrc", "missing.mrc does not exist"),
    ],
)
def test_halves_that_cannot_be_compared_end_in_one_line_and_nothing_is_written(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path], other: str, message: str
) -> None:
    from cryomend.io import read_volume

    data, out = read_volume(files[0]).data, tmp_path / "scores.json"
    (tmp_path / "link.mrc").symlink_to(files[0])
    write_volume(tmp_path / "copy.mrc", data, voxel_size=10.0)
    write_volume(tmp_path / "coarse.mrc", data[::-1].copy(), voxel_size=20.0)
    write_volume(tmp_path / "short.mrc", data[:20], voxel_size=10.0)
    result = run_cli("evaluate", files[0], "--half", tmp_path / other, "--json", out)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_an_evaluation_never_replaces_what_it_reads(run_cli, files, tmp_path, option):
    before = [path.read_bytes() for path in files]
    for path in files:
        result = run_cli(
            "evaluate", files[0], "--truth", files[1], "--json", tmp_path / "scores.json", option, path
        )
        assert result.code == 2
        assert f"would overwrite the input {path}" in result.err
    for option, path in (("--template", "t.mrc"), ("--model", "m.safetensors")):
        result = run_cli(
            "evaluate", files[0], "--truth", files[1], "--json", tmp_path / path, option, tmp_path / path
        )
        assert "would overwrite the input" in result.err
    result = run_cli("report", files[0], "--areas", tmp_path / "a.toml", "-o", tmp_path / "a.toml")
    assert "would overwrite the input" in result.err
    one = tmp_path / "one"
    assert run_cli("evaluate", files[0], "--truth", files[1], "--json", one, "--report", one).code == 2
    assert [path.read_bytes() for path in files] == before
    assert not one.exists()
