"""Transforms of volumes on disk: the numbers of those in memory, a block at a time, nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from cryomend.evaluation.fsc import sum_shells
from cryomend.fourier import radial_frequency
from cryomend.geometry import missing_wedge_mask
from cryomend.io import InputError, mapped_volume, scratch_array
from cryomend.restoration import spectrum
from cryomend.restoration.measured import (
    SpectralWeight,
    blend_mapped,
    blend_measured,
    measured_weight,
    weight_from_halves,
    weight_from_tomogram,
)
from cryomend.restoration.resample import resample_mapped, resample_volume

SHAPES = [(20, 24, 26), (17, 24, 21), (20, 19, 23)]
RANGE = (-50.0, 60.0)


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()


@pytest.fixture(params=[1, 3000, 2**25])
def small_blocks(request, monkeypatch):
    """One section or row at a time, a few, or all."""
    monkeypatch.setattr(spectrum, "BLOCK_BYTES", request.param)


class Watched:
    """A volume that remembers the largest part that was read or written at a time."""

    def __init__(self, volume):
        self.volume, self.shape, self.largest = volume, volume.shape, 0

    def __len__(self):
        return len(self.volume)

    def __getitem__(self, window):
        part = self.volume[window]
        self.largest = max(self.largest, part.nbytes)
        return part

    def __setitem__(self, window, part):
        self.largest = max(self.largest, part.nbytes)
        self.volume[window] = part


# ---- the transform --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_spectrum_is_that_of_the_volume_without_its_mean(tmp_path, shape, on_disk):
    volume = 1e4 + 7 * noise(shape)
    volume[3] += 50  # sections of other means
    with spectrum.transform_volume(volume, directory=tmp_path if on_disk else None) as found:
        assert found.mean == pytest.approx(volume.mean(dtype=np.float64), rel=1e-7)
        expected = torch.fft.rfftn(torch.from_numpy(volume).double() - found.mean)
        joined = torch.cat([found.read(rows) for rows in found.rows()], dim=1)
        assert joined.dtype == torch.complex64
        assert (joined - expected).abs().max() < 1e-6 * expected.abs().max()
        frequency = torch.cat([found.frequency(rows) for rows in found.rows()], dim=1)
        assert torch.equal(frequency, radial_frequency(shape, half=True))
        assert found.planes.nbytes == spectrum.scratch_bytes(shape)


@pytest.mark.parametrize("kind", ["i1", ">f4", "<f2", "upright"])
def test_every_number_format_and_axis_order_has_the_same_spectrum(kind):
    volume = np.random.default_rng(0).integers(-100, 100, (12, 9, 10))
    stored = np.ascontiguousarray(volume.T).T if kind == "upright" else volume.astype(kind)
    spectra = []
    for source in (stored, volume.astype(np.float32)):
        with spectrum.transform_volume(source) as found:
            spectra.append(found.read(slice(None)))
    assert torch.equal(*spectra)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("small_blocks")
def test_there_and_back_is_the_volume(tmp_path, shape):
    volume, back = 100 + noise(shape), np.empty(shape, np.float32)
    with spectrum.transform_volume(volume, directory=tmp_path) as found:
        for rows in found.rows():
            found.write(rows, found.read(rows))
        spectrum.fill_inverse(back, [(found, 0.25), (found, 0.75)], mean=found.mean)
    np.testing.assert_allclose(back, volume, rtol=0, atol=3e-5)


# ---- what is made with it -------------------------------------------------------------------------


def direct_blend(data, network, keep, weight):
    """The formula of `blend_measured` on transforms of whole volumes in double precision."""
    shape = data.shape
    d, n = (torch.fft.rfftn(torch.from_numpy(v).double()) for v in (data, network))
    transition = measured_weight(shape, tilt_range=RANGE).double()
    c = weight.at(radial_frequency(shape, half=True)).double() if keep == "measured" else 1.0
    columns = torch.full((shape[2] // 2 + 1,), 2.0)
    columns[[0, -1] if shape[2] % 2 == 0 else [0]] = 1
    fit = transition * c * columns * torch.ones(shape[0], shape[1], 1)
    fit[0, 0, 0] = 0
    scale = ((n.conj() * d).real * fit).sum() / (n.abs() ** 2 * fit).sum()
    if keep == "denoise":
        joined, mean = transition * scale * n + (1 - transition) * d, n[0, 0, 0]
    else:
        joined, mean = transition * c * d + (1 - transition) * scale * n, d[0, 0, 0]
    joined[0, 0, 0] = mean
    return torch.fft.irfftn(joined, s=shape).numpy(), scale.item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep", ["measured", "fill", "denoise"])
@pytest.mark.usefixtures("small_blocks")
def test_blend_of_files_is_the_formula_on_whole_transforms(tmp_path, shape, keep):
    data = 300 + 10 * noise(shape)
    network = (0.5 * data + 4 * noise(shape, 1)).astype(np.float32)
    weight = SpectralWeight(torch.linspace(1, 0.2, 9), 16)
    expected, expected_scale = direct_blend(data, network, keep, weight)
    options = {"tilt_range": RANGE, "keep": keep, "weight": weight}
    in_memory, scale = blend_measured(torch.from_numpy(data), torch.from_numpy(network), **options)
    assert scale == pytest.approx(expected_scale, rel=1e-4)
    np.testing.assert_allclose(in_memory.numpy(), expected, rtol=0, atol=1e-3)
    # over the restoration itself, as the command does it
    blend_mapped(network, data, network, **options, directory=tmp_path)
    np.testing.assert_allclose(network, in_memory.numpy(), rtol=0, atol=1e-3)


def test_the_restoration_stays_where_it_contradicts_the_data(tmp_path):
    data = noise((16, 18, 20))
    restored = -data
    with pytest.raises(ValueError, match="does not agree with the data"):
        blend_mapped(restored, data, restored, tilt_range=RANGE, directory=tmp_path)
    np.testing.assert_array_equal(restored, -data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("small_blocks")
def test_halves_on_disk_give_the_shell_correlation_inside_the_measured_region(tmp_path, shape):
    even, odd = (50 + noise(shape) + 0.7 * noise(shape, seed) for seed in (1, 2))
    mask = missing_wedge_mask(shape, tilt_min=RANGE[0], tilt_max=RANGE[1])
    curve = sum_shells(torch.from_numpy(even), torch.from_numpy(odd), [mask])[0].curve()
    found = weight_from_halves(even, odd, tilt_range=RANGE, directory=tmp_path)
    correlation = found.values / (2 - found.values)  # of c = 2 FSC / (1 + FSC)
    middle = curve.unfold(0, 3, 1).mean(1)[1:]  # shell 0 has no value of its own
    torch.testing.assert_close(correlation[2:-1], middle.clamp(0, 1), rtol=0, atol=1e-5)
    assert found.side == min(shape)


def test_quiet_places_of_a_file_are_those_of_the_volume_in_memory(tmp_path):
    data = np.random.default_rng(0).integers(-100, 100, (40, 36, 50)).astype(np.int8)
    with scratch_array(tmp_path, data.shape, np.int8) as mapped:
        mapped[:] = data
        found = weight_from_tomogram(mapped, tilt_range=RANGE, mean_std=(0.25, 58.0))
    expected = weight_from_tomogram(torch.from_numpy(data).float(), tilt_range=RANGE, mean_std=(0.25, 58.0))
    assert torch.equal(found.values, expected.values) and found.side == expected.side


@pytest.mark.parametrize("shape", [(20, 33, 50), (25, 24, 26), (16, 40, 19)])
@pytest.mark.usefixtures("small_blocks")
def test_resampling_of_files_is_that_in_memory(tmp_path, shape):
    volume = noise((20, 24, 26))
    resampled = np.empty(shape, np.float32)
    resample_mapped(resampled, volume.astype(">f4"), directory=tmp_path)
    expected = resample_volume(torch.from_numpy(volume), shape).numpy()
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=1e-5)


# ---- memory and disk ------------------------------------------------------------------------------


def test_no_more_than_a_block_of_a_volume_is_read_or_written_at_a_time(monkeypatch):
    shape = (24, 40, 32)
    monkeypatch.setattr(spectrum, "BLOCK_BYTES", 8 * 40 * 17 * 2)  # of the spectrum: two sections
    data = Watched(noise(shape))
    restored, blended = Watched(data.volume * 0.5), Watched(np.empty(shape, np.float32))
    blend_mapped(blended, data, restored, tilt_range=RANGE)
    resampled = Watched(np.empty((30, 44, 32), np.float32))
    resample_mapped(resampled, data)
    section = data.volume[0].nbytes
    assert [v.largest for v in (data, restored, blended)] == [2 * section] * 3
    assert resampled.largest <= 4 * 30 * 44 * 32 // 10


MEASURE = """
import resource, sys
import numpy as np
from pathlib import Path
from cryomend.io import open_volume
from cryomend.restoration import spectrum
from cryomend.restoration.measured import blend_mapped, weight_from_halves, weight_from_tomogram
from cryomend.restoration.resample import resample_mapped

spectrum.BLOCK_BYTES = 2**22

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

directory = Path(sys.argv[1])
options = {"tilt_range": (-60, 60), "directory": directory}
small = np.random.default_rng(0).normal(size=(20, 24, 26))
weight = weight_from_halves(small, small, **options)
blend_mapped(np.empty_like(small), small, small, weight=weight, **options)
before = peak()
data = open_volume(directory / "data.mrc").data
result = np.memmap(directory / "result.raw", "<f4", "w+", shape=data.shape)
weight_from_tomogram(data, tilt_range=(-60, 60), mean_std=(0.0, 1.0))
weight = weight_from_halves(data, data, **options)
blend_mapped(result, data, data, weight=weight, **options)
resampled = np.memmap(directory / "resampled.raw", "<f4", "w+", shape=(150, 480, 440))
resample_mapped(resampled, data, directory=directory)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts resident pages in Linux' unit")
def test_peak_memory_is_less_than_one_volume(tmp_path):
    shape = (128, 512, 400)  # 100 MiB
    with mapped_volume(tmp_path / "data.mrc", shape, voxel_size=10.0) as data:
        data[:] = noise((16, *shape[1:])).repeat(8, axis=0)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert int(done.stdout) < 4 * np.prod(shape)  # in memory: five times that


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_on_the_disk_when_the_work_is_broken_off(tmp_path, error):
    with pytest.raises(error), spectrum.transform_volume(noise((8, 9, 10)), directory=tmp_path) as found:
        assert isinstance(found.planes, np.memmap)
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is not reserved here")
def test_a_full_disk_is_one_line_that_names_directory_and_bytes(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError) as said, spectrum.transform_volume(noise((8, 9, 10)), directory=tmp_path):
        pass
    line = str(said.value)
    assert "\n" not in line and str(tmp_path) in line and "no space left on device" in line
    assert f"{8 * 8 * 9 * 6} bytes" in line and "make room or choose another output" in line
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_is_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot work in .*none with a temporary file of 48 bytes"),
        scratch_array(tmp_path / "none", (2, 3), np.complex64),
    ):
        pass


def test_errors_of_the_work_itself_keep_their_words(tmp_path):
    with pytest.raises(OSError, match="of the work"), scratch_array(tmp_path, (2, 3), np.float32):
        raise OSError("of the work")
