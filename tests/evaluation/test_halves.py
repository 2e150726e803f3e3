"""Restored half against raw half, with signal and noise that are known."""

from __future__ import annotations

import math

import pytest
import torch

from cryomend.evaluation.evaluate import evaluate_halves
from cryomend.evaluation.fsc import fourier_correlation
from cryomend.evaluation.halves import compare_halves
from cryomend.fourier import gaussian_lowpass

SHAPE = (40, 48, 56)


def white(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def signal() -> torch.Tensor:
    return white(0)


@pytest.fixture(scope="module")
def halves(signal) -> tuple[torch.Tensor, torch.Tensor]:
    """White signal and noise of the same power: the halves correlate 1/2."""
    return signal + white(1), signal + white(2)


def compare(restored, halves, **options):
    return compare_halves(restored, *halves, voxel_size=10.0, **options)


def test_the_signal_itself_has_fidelity_one_whatever_the_noise(signal, halves):
    for band in compare(signal, halves):
        assert band.raw == pytest.approx(0.5, abs=0.15)
        assert band.fidelity == pytest.approx(1, abs=0.12)
        assert band.restored > band.raw


def test_fidelity_is_the_correlation_with_the_truth_that_nobody_knows(signal, halves):
    restored = signal + 0.3 * white(1) + 0.5 * white(7)  # some noise of its half left, some invented
    found = compare(restored, halves, bands=((400.0, 25.0),))[0]
    assert found.fidelity == pytest.approx(fourier_correlation(restored, signal), abs=0.03)


def test_a_raw_half_as_its_own_restoration_changes_nothing(halves):
    for band in compare(halves[0], halves):
        assert band.restored == pytest.approx(band.raw, abs=1e-6)
        assert band.fidelity == pytest.approx(math.sqrt(band.raw), abs=1e-6)


def test_a_picture_written_into_both_halves_is_caught(signal, halves):
    """The two restored halves would agree to 1."""
    picture = 3 * white(9)
    assert fourier_correlation(signal + picture, signal + picture) == pytest.approx(1)
    for band in compare(signal + picture, halves):
        assert band.restored < band.raw - 0.1


def test_wrong_contrast_gives_a_negative_correlation(signal, halves):
    assert all(band.restored < -0.5 for band in compare(-signal, halves))


def test_what_was_invented_in_the_wedge_is_not_judged(signal, halves):
    """The halves have their noise there alone, so nothing can be said."""
    from cryomend.geometry import missing_wedge_mask

    measured = missing_wedge_mask(SHAPE, tilt_min=-50, tilt_max=50)
    lost = [torch.fft.ifftn(torch.fft.fftn(half) * measured).real for half in halves]
    invented = torch.fft.ifftn(torch.fft.fftn(3 * white(9)) * ~measured).real
    bands = compare_halves(signal + invented, *lost, voxel_size=10.0, tilt_range=(-50, 50))
    plain = compare_halves(signal, *lost, voxel_size=10.0, tilt_range=(-50, 50))
    for band, other in zip(bands, plain, strict=True):
        assert band.restored == pytest.approx(other.restored, abs=0.05)


def test_bands_without_a_shell_are_left_out(signal, halves):
    assert [band.shortest for band in compare(signal, halves, bands=((900.0, 500.0), (80.0, 40.0)))] == [40]
    with pytest.raises(ValueError, match="no band holds a shell"):
        compare(signal, halves, bands=((15.0, 10.0),))


def test_a_smooth_half_is_judged_band_by_band(signal, halves):
    coarse, _, fine = compare(gaussian_lowpass(signal, 2.0) + 0.2 * white(5), halves)
    assert coarse.fidelity > 0.8 > fine.fidelity


def test_different_shapes_are_refused(halves):
    with pytest.raises(ValueError, match="shapes differ"):
        compare_halves(halves[0][1:], *halves, voxel_size=10.0)


def test_halves_that_are_one_another_are_refused_instead_of_an_fsc_of_one(signal, halves):
    one, _ = halves
    rounded = (one / one.abs().max() * 127).round()
    for copy in (one.clone(), -one, 2 * one + 1, rounded):
        with pytest.raises(ValueError, match=r"same voxels, so their FSC would be 1 everywhere"):
            compare_halves(signal, one, copy, voxel_size=10.0)
        with pytest.raises(ValueError, match="same voxels"):
            evaluate_halves(one, copy, voxel_size=10.0)


def test_evaluated_halves_have_the_signal_to_noise_of_both_together(halves):
    scores = evaluate_halves(*halves, voxel_size=10.0, tilt_range=(-60, 60))
    for part in ("overall", "inside_wedge", "inside_measured_region", "cone_z", "cone_y", "cone_x"):
        assert scores[part]["correlation"] == pytest.approx(0.5, abs=0.06)
    assert sum(scores["overall"]["spectral_snr"][12:]) / len(scores["overall"]["spectral_snr"][12:]) == (
        pytest.approx(2, abs=0.2)
    )
