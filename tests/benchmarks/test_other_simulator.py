"""The second simulator against closed forms: it judges the models, so it must be right itself."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "other_simulator.py"


@pytest.fixture(scope="module")
def other():
    spec = importlib.util.spec_from_file_location("other_simulator", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recording(other):
    return other.Recording(defocus_um=2.5, fluence=100.0, tilt_angles=(0.0,))


def ball(other, x: float, z: float, sigma: float = 3.0) -> np.ndarray:
    """A Gaussian in the specimen's field, off the centre by (x, z) voxels."""
    grid = np.meshgrid(*[np.arange(n) - n // 2 for n in other.FIELD], indexing="ij", sparse=True)
    r_squared = (grid[0] - z) ** 2 + grid[1] ** 2 + (grid[2] - x) ** 2
    return np.exp(-0.5 * r_squared / sigma**2).astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 35.0, -55.0])
def test_the_projection_of_a_gaussian_is_a_gaussian_where_the_tilt_carries_it(other, angle) -> None:
    x, z = 12.0, 9.0
    projection = other.tilt_volume(ball(other, x, z), angle, other.IMAGE[1]).sum(0)
    t = np.radians(angle)
    y_px, x_px = np.meshgrid(*[np.arange(n) - n // 2 for n in other.IMAGE], indexing="ij")
    centre = x * np.cos(t) + z * np.sin(t)
    law = np.sqrt(2 * np.pi) * 3 * np.exp(-0.5 * (y_px**2 + (x_px - centre) ** 2) / 9)
    assert np.abs(projection - law).max() < 0.03 * law.max()  # linear interpolation blurs that much


def test_depth_runs_as_in_the_conventions(other) -> None:
    tilted = other.tilt_volume(ball(other, 12.0, 9.0), 40.0, other.IMAGE[1])
    t = np.radians(40)
    depth = np.argmax(tilted.sum((1, 2))) - tilted.shape[0] // 2
    assert abs(depth - (-12 * np.sin(t) + 9 * np.cos(t))) < 1


def test_a_weak_slice_has_the_zeros_of_the_ctf(other, recording) -> None:
    rng = np.random.default_rng(0)
    volume = np.zeros(other.FIELD, np.float32)
    z = other.FIELD[0] // 2 - other.SLAB // 2
    volume[z] = 1e-3 * rng.standard_normal(other.FIELD[1:])
    image = other.exit_image(volume, 0.0, recording) - 1
    shown = volume[z, :, other.FIELD[2] // 2 - 80 : other.FIELD[2] // 2 + 80]
    spectra = [np.fft.fft2(v * np.hanning(128)[:, None] * np.hanning(160)) for v in (image, shown)]
    k = np.sqrt(other.squared_frequency(other.IMAGE))
    shells = np.round(k / 0.001).astype(int).ravel()
    cross = np.bincount(shells, (spectra[0] * spectra[1].conj()).real.ravel())
    power = np.bincount(shells, (np.abs(spectra[1]) ** 2).ravel())
    transfer = (cross / power)[4:45]
    gamma = other.aberration((np.arange(4, 45) * 0.001) ** 2, 2.5, recording)
    law = -2 * other.interaction(200) * 10 * np.sin(gamma + np.arcsin(0.08))
    # a shell mixes frequencies, over which the CTF turns by up to half a radian, and holds few of them
    assert np.abs(transfer - law).max() < 0.12 * np.abs(law).max()
    assert np.corrcoef(transfer, law)[0, 1] > 0.995


def test_the_constants_are_those_of_200_kv(other) -> None:
    assert other.wavelength(200) == pytest.approx(0.025079, rel=1e-4)
    assert other.interaction(200) == pytest.approx(7.288e-4, rel=1e-3)


def test_intensity_is_not_linear_in_the_potential(other, recording) -> None:
    dense = 40 * ball(other, 0, 0, sigma=8.0)
    one, two = (other.exit_image(f * dense, 0.0, recording) - 1 for f in (0.5, 1.0))
    assert np.abs(two - 2 * one).max() > 0.05 * np.abs(two).max()


def test_counts_spread_more_than_poisson(other, recording) -> None:
    quiet = replace(recording, readout=0.0)
    counts = other.count_electrons(np.full((200, 200), 100.0), quiet, np.random.default_rng(1))
    assert counts.mean() == pytest.approx(100, rel=0.01)
    assert counts.var() == pytest.approx(100 + 100**2 / recording.dispersion, rel=0.03)


@pytest.mark.parametrize("method", ["fbp", "sart"])
def test_reconstruction_puts_a_ball_where_it_was(other, method) -> None:
    angles = tuple(np.arange(-60.0, 61, 3))
    y = slice(other.FIELD[1] // 2 - 2, other.FIELD[1] // 2 + 3)
    volume = ball(other, 20.0, -10.0)[:, y]
    images = np.stack([other.tilt_volume(volume, a, other.IMAGE[1]).sum(0) for a in angles])
    tomogram = other.reconstruct(images, angles, method)
    z, _, x = np.unravel_index(tomogram.argmax(), tomogram.shape)
    assert (z - other.SHAPE[0] // 2, x - other.SHAPE[2] // 2) == (-10, 20)


def test_multiplying_by_the_ctf_keeps_protein_dark(other, recording) -> None:
    sharp = replace(recording, reported_defocus_um=recording.defocus_um)
    image = other.exit_image(ball(other, 0, 0), 0.0, recording) - 1
    multiplied = other.multiply_ctf(image[None], sharp)[0]
    assert np.unravel_index(multiplied.argmin(), multiplied.shape) == (64, 80)
    assert multiplied.max() < 0.7 * -multiplied.min()
