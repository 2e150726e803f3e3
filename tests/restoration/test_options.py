"""What is asked for beside the plain restoration: refused in one line or carried out on files."""

from __future__ import annotations

import re
import shutil

import mrcfile
import numpy as np
import pytest
import torch
from torch import nn

from cryomend.io import read_volume, write_tilt_angles, write_volume
from cryomend.restoration import batch
from cryomend.restoration.confidence import N_PASSES
from cryomend.restoration.inputs import list_sources
from cryomend.restoration.measured import blend_measured, measured_weight, weight_from_tomogram


class Half(nn.Module):
    """Half the input: the least-squares scale of the blend is two."""

    def forward(self, x):
        return 0.5 * x


@pytest.fixture
def half_network(monkeypatch):
    monkeypatch.setattr(batch, "load_model", lambda name: (Half(), {"name": "half"}))


@pytest.fixture
def restore(run_cli, tomogram_file, tmp_path):
    """Run the command on the small tomogram."""

    def run(*arguments):
        return run_cli("restore", tomogram_file, "-o", tmp_path / "o.mrc", "--device", "cpu", *arguments)

    return run


RANGE = ("--tilt-range", "-60", "60")


def write_half(path, shape=(16, 20, 24), seed=5):
    write_volume(path, np.random.default_rng(seed).normal(size=shape), voxel_size=10.0)
    return path


# ---- refused --------------------------------------------------------------------------------------


def refused(result, tmp_path, *parts):
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    assert all(part in result.err for part in parts), result.err
    assert not (tmp_path / "o.mrc").exists()


@pytest.mark.parametrize("first", ["--keep-measured", "--denoise-only"])
def test_options_exclude_each_other(restore, tmp_path, tiny_model, first):
    result = restore("--model", tiny_model, first, "--fill-only", *RANGE)
    refused(result, tmp_path, first, "--fill-only", "not both")


@pytest.mark.parametrize("flag", ["--keep-measured", "--fill-only", "--denoise-only"])
def test_tilt_range_is_needed(restore, tmp_path, tiny_model, flag):
    refused(restore("--model", tiny_model, flag), tmp_path, flag, "tomogram.mrc", "--tilt-range MIN MAX")


def test_halves_come_in_pairs_and_for_something_that_uses_them(restore, tmp_path, tiny_model):
    even, odd = write_half(tmp_path / "e.mrc"), write_half(tmp_path / "d.mrc", seed=6)
    options = ("--model", tiny_model, *RANGE)
    refused(restore(*options, "--keep-measured", "--even", even), tmp_path, "give --odd too")
    refused(restore(*options, "--keep-measured", "--odd", even), tmp_path, "give --even too")
    sigma = ("--confidence", tmp_path / "c.mrc")
    refused(restore(*options, *sigma, "--even", even), tmp_path, "give --odd too")
    unused = restore(*options, "--fill-only", "--even", even, "--odd", odd)
    refused(unused, tmp_path, "--keep-measured", "--confidence", "give one of them too")
    refused(
        restore(*options, "--keep-measured", "--even", even, "--odd", even), tmp_path, "give the two halves"
    )
    other = write_half(tmp_path / "other.mrc", (16, 20, 25))
    result = restore(*options, "--keep-measured", "--even", even, "--odd", other)
    refused(result, tmp_path, "other.mrc has 16 x 20 x 25 voxels", "16 x 20 x 24")
    missing = restore(*options, "--keep-measured", "--even", even, "--odd", tmp_path / "none.mrc")
    refused(missing, tmp_path, "none.mrc")


def test_one_volume_of_confidence_and_one_pair_of_halves_per_call(run_cli, tmp_path, tiny_model):
    first, second = write_half(tmp_path / "a.mrc"), write_half(tmp_path / "b.mrc", seed=6)
    command = ("restore", first, second, "-o", tmp_path / "out", "--model", tiny_model, *RANGE)
    refused(run_cli(*command, "--confidence", tmp_path / "c.mrc"), tmp_path, "give one input")
    halves = ("--keep-measured", "--even", first, "--odd", second)
    refused(run_cli(*command, *halves), tmp_path, "give one input")
    assert not (tmp_path / "out").exists()


def test_confidence_overwrites_nothing(restore, tmp_path, tiny_model):
    for name in ("o.mrc", "tomogram.mrc"):
        result = restore("--model", tiny_model, "--confidence", tmp_path / name)
        refused(result, tmp_path, name, "would overwrite")
    result = restore("--model", tiny_model, "--confidence", tmp_path / "no/c.mrc")
    refused(result, tmp_path, "not a directory")


# ---- carried out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--fill-only", "--denoise-only"])
def test_network_of_any_gain_is_scaled_to_the_data(restore, tmp_path, tomogram_file, half_network, flag):
    result = restore(flag, *RANGE)
    assert result.code == 0, result.err
    assert "network scaled by 2.000 to the data" in result.err and "GiB of disk" in result.err
    before, after = (read_volume(path) for path in (tomogram_file, tmp_path / "o.mrc"))
    np.testing.assert_allclose(after.data, before.data, rtol=0, atol=1e-3)
    assert re.fullmatch(rf"cryomend \S+ half \([0-9a-f]{{8}}\) restored {flag}", after.labels[-1])


@pytest.mark.parametrize("keep", ["measured", "fill", "denoise"])
def test_files_are_joined_as_volumes_in_memory_are(run_cli, tmp_path, monkeypatch, keep):
    class Smooth(nn.Module):
        def forward(self, x):
            return nn.functional.avg_pool3d(x, 3, 1, 1)

    monkeypatch.setattr(batch, "load_model", lambda name: (Smooth(), {"name": "smooth"}))
    source = tmp_path / "bytes.mrc"
    flag = "--keep-measured" if keep == "measured" else f"--{keep}-only"
    data = np.random.default_rng(2).normal(20, 9, (33, 37, 34)).clip(-128, 127).astype(np.int8)
    with mrcfile.new(source, data=data) as file:
        file.voxel_size = 10
    command = ("restore", source, "--device", "cpu", "--precision", "float32", *RANGE, "-o")
    assert run_cli(*command, tmp_path / "plain.mrc").code == 0
    assert run_cli(*command, tmp_path / "kept.mrc", flag).code == 0
    plain, kept = (read_volume(tmp_path / name).data for name in ("plain.mrc", "kept.mrc"))
    before = torch.from_numpy(data).float()
    weight = weight_from_tomogram(before, tilt_range=(-60, 60)) if keep == "measured" else None
    expected, _ = blend_measured(
        before, torch.from_numpy(plain), tilt_range=(-60, 60), keep=keep, weight=weight
    )
    np.testing.assert_allclose(kept, expected.numpy(), rtol=0, atol=2e-4)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_half_with_broken_voxels_is_refused_before_any_work(restore, tmp_path, tiny_model):
    other, bad = write_half(tmp_path / "e.mrc"), write_half(tmp_path / "nan.mrc")
    with mrcfile.open(bad, mode="r+") as file:
        file.data[3, 4, 5] = np.nan
    options = ("--model", tiny_model, *RANGE, "--keep-measured", "--even", other, "--odd", bad)
    refused(restore(*options), tmp_path, "nan.mrc", "the first at (Z, Y, X) = (3, 4, 5)")


@pytest.mark.parametrize(
    ("even", "odd", "words"),
    [
        ("e.mrc", "scaled.mrc", ("e.mrc and ", "scaled.mrc: the halves hold the same voxels")),
        ("e.mrc", "copy.mrc", ("tomogram.mrc and ", "copy.mrc: the halves hold the same voxels")),
        ("tomogram.mrc", "e.mrc", ("--even ", "tomogram.mrc is the tomogram itself; give its two halves")),
        ("e.mrc", "tomogram.mrc", ("--odd ", "tomogram.mrc is the tomogram itself; give its two halves")),
    ],
)
@pytest.mark.parametrize("flag", ["--keep-measured", "--confidence"])
def test_halves_that_are_copies_are_refused(
    restore, tmp_path, tomogram_file, tiny_model, even, odd, words, flag
):
    data = read_volume(write_half(tmp_path / "e.mrc")).data
    write_volume(tmp_path / "scaled.mrc", 7 - 2 * data, voxel_size=10.0)
    write_volume(tmp_path / "copy.mrc", read_volume(tomogram_file).data, voxel_size=10.0)
    flags = RANGE if flag == "--keep-measured" else (tmp_path / "c.mrc",)
    result = restore("--model", tiny_model, flag, *flags, "--even", tmp_path / even, "--odd", tmp_path / odd)
    refused(result, tmp_path, *words)


def test_keep_measured_lets_the_data_stay_as_far_as_the_halves_agree(
    restore, tmp_path, tomogram_file, half_network
):
    data = read_volume(tomogram_file).data
    rng = np.random.default_rng(7)
    for name in ("e.mrc", "d.mrc"):  # halves with next to no noise
        write_volume(tmp_path / name, data + rng.normal(0, 0.3, data.shape), voxel_size=10.0)
    halves = ("--even", tmp_path / "e.mrc", "--odd", tmp_path / "d.mrc")
    write_tilt_angles(tmp_path / "tomogram.tlt", np.array([-60.0, 0, 60]))  # found beside it
    result = restore("--keep-measured", *halves)
    assert result.code == 0, result.err
    assert "signal-to-noise from the halves" in result.err
    np.testing.assert_allclose(read_volume(tmp_path / "o.mrc").data, data, rtol=0, atol=0.1)


def test_keep_measured_without_halves_takes_noise_out_of_the_data(
    restore, tmp_path, tomogram_file, half_network
):
    result = restore("--keep-measured", *RANGE)
    assert result.code == 0, result.err
    assert "quiet places" in result.err
    before, after = (read_volume(path).data for path in (tomogram_file, tmp_path / "o.mrc"))
    inside = (measured_weight(before.shape, tilt_range=(-60, 60)) == 1).expand(-1, 20, -1)
    powers = [
        torch.fft.rfftn(torch.from_numpy(v - v.mean()))[inside].abs().square().sum() for v in (before, after)
    ]
    assert powers[1] < 0.3 * powers[0]  # of a tomogram that is noise


def test_confidence_is_a_volume_like_the_restoration(restore, tmp_path, tiny_model, tomogram_file):
    result = restore("--model", tiny_model, "--confidence", tmp_path / "c.mrc")
    assert result.code == 0, result.err
    assert f"confidence, {N_PASSES} more passes" in result.err
    assert "warning: nobody has calibrated the confidence of tiny" in result.err
    with mrcfile.open(tmp_path / "c.mrc") as found, mrcfile.open(tmp_path / "o.mrc") as restored:
        assert found.data.shape == restored.data.shape and found.header.mode == 2
        assert found.voxel_size == restored.voxel_size
        assert found.data.min() >= 0 and found.data.max() > 0
        assert str(found.get_labels()[-1]).endswith("1 sigma / contrast")
    # a directory knows it by that label, and has no other use for it
    assert [source.path.name for source in list_sources([tmp_path])[0]] == ["o.mrc", "tomogram.mrc"]


def test_confidence_does_not_change_the_restoration(restore, tmp_path, tiny_model):
    restore("--model", tiny_model)
    plain = read_volume(tmp_path / "o.mrc").data
    restore("--model", tiny_model, "--confidence", tmp_path / "c.mrc")
    np.testing.assert_array_equal(read_volume(tmp_path / "o.mrc").data, plain)


@pytest.fixture
def halves(tmp_path, tomogram_file):
    """Options for two halves of the tomogram, each with noise of its own."""
    rng, data = np.random.default_rng(7), read_volume(tomogram_file).data
    for name in ("e.mrc", "d.mrc"):
        write_volume(tmp_path / name, data + rng.normal(0, 5, data.shape), voxel_size=10.0)
    return "--even", tmp_path / "e.mrc", "--odd", tmp_path / "d.mrc"


def test_halves_raise_the_bare_disagreement(restore, tmp_path, tiny_model, halves):
    sigma = ("--model", tiny_model, "--confidence", tmp_path / "c.mrc")
    restore(*sigma)
    without = read_volume(tmp_path / "c.mrc").data
    result = restore(*sigma, *halves)
    assert result.code == 0, result.err
    assert f"{N_PASSES + 2} more passes of the network, two of them for the halves" in result.err
    found = read_volume(tmp_path / "c.mrc").data
    assert (found >= without).all() and found.mean() > without.mean()
    assert not list(tmp_path.glob("*tmp*")) and not list(tmp_path.glob("*partial*"))


def test_model_calibrated_without_halves_says_so_and_leaves_them_out(
    restore, tmp_path, halves, half_network, monkeypatch
):
    metadata = {"name": "half", "confidence_curve": [[0.1, 0.2], [0.3, 0.4]]}
    monkeypatch.setattr(batch, "load_model", lambda name: (Half(), metadata))
    result = restore("--confidence", tmp_path / "c.mrc", *halves)
    assert result.code == 0, result.err
    assert "warning: the confidence of half is calibrated without halves" in result.err
    assert f"{N_PASSES} more passes of the network\n" in result.err
    with mrcfile.open(tmp_path / "c.mrc") as found:
        np.testing.assert_allclose(found.data, 0.3, rtol=1e-5)  # half is always sure


def test_confidence_is_that_of_the_network_whatever_is_kept(restore, tmp_path, half_network, halves):
    restore("--confidence", tmp_path / "plain.mrc", *halves)
    result = restore("--fill-only", *RANGE, "--confidence", tmp_path / "c.mrc", *halves)
    assert result.code == 0, result.err
    plain, kept = (read_volume(tmp_path / name).data for name in ("plain.mrc", "c.mrc"))
    np.testing.assert_array_equal(kept, plain)


def test_confidence_does_not_depend_on_the_grey_levels(restore, tmp_path, tiny_model, tomogram_file):
    sigma = ("--model", tiny_model, "--precision", "float32", "--confidence", tmp_path / "c.mrc")
    restore(*sigma)
    plain = read_volume(tmp_path / "c.mrc").data
    write_volume(tomogram_file, 3 * read_volume(tomogram_file).data + 7, voxel_size=10.0)
    restore(*sigma)
    np.testing.assert_allclose(read_volume(tmp_path / "c.mrc").data, plain, rtol=1e-3)


def test_confidence_of_a_resampled_tomogram_has_its_own_sampling(restore, tmp_path, tiny_model, halves):
    sigma = ("--model", tiny_model, "--voxel-size", "14", "--confidence", tmp_path / "c.mrc")
    result = restore(*sigma, *halves)
    assert result.code == 0, result.err
    assert "resampled to 19 x 23 x 28 voxels" in result.err
    found = read_volume(tmp_path / "c.mrc").data
    assert found.shape == (16, 20, 24) and found.min() >= 0 and found.mean() > 0


def test_network_that_contradicts_the_data_is_said_in_one_line(restore, tmp_path, monkeypatch):
    class Negative(nn.Module):
        def forward(self, x):
            return -x

    monkeypatch.setattr(batch, "load_model", lambda name: (Negative(), {"name": "negative"}))
    result = restore("--fill-only", *RANGE, "--confidence", tmp_path / "c.mrc")
    assert result.code == 2
    assert not (tmp_path / "o.mrc").exists() and not (tmp_path / "c.mrc").exists()
    assert "does not agree with the data" in result.err.splitlines()[-1]


def test_flat_restoration_has_no_confidence(restore, tmp_path, monkeypatch):
    class Zero(nn.Module):
        def forward(self, x):
            return 0 * x

    monkeypatch.setattr(batch, "load_model", lambda name: (Zero(), {"name": "zero"}))
    result = restore("--confidence", tmp_path / "c.mrc")
    assert result.code == 2 and not (tmp_path / "c.mrc").exists()
    assert "the restoration is flat" in result.err.splitlines()[-1]


def test_room_for_the_joining_is_asked_for_before_the_network_runs(
    run_cli, tomogram_file, tmp_path, tiny_model, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("cryomend.io.mapped.shutil.disk_usage", lambda place: usage)
    monkeypatch.setattr("cryomend.restoration.job.restore_mapped", lambda *a, **k: pytest.fail("too late"))
    arguments = "restore", tomogram_file, "-o", tmp_path / "o.mrc", "--model", tiny_model
    result = run_cli(*arguments, "--fill-only", "--tilt-range", "-60", "60")
    assert result.code == 2
    assert "has 0.0 GiB free and" in result.err and "needed for temporary files" in result.err
    assert not (tmp_path / "o.mrc").exists()
