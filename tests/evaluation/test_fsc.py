"""Fourier shell correlation, whole and inside parts of Fourier space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryomend.evaluation.fsc import (
    cone_mask,
    fourier_correlation,
    fourier_shell_correlation,
    fsc_crossing,
    mean_fsc,
    shell_resolution,
    spectral_snr,
    sum_shells,
)
from cryomend.evaluation.metrics import correlation
from cryomend.geometry import missing_wedge_mask

SHAPES = [(24, 24, 24), (17, 30, 23), (21, 16, 40), (19, 19, 19)]


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wedge(shape: tuple[int, int, int]) -> torch.Tensor:
    return ~missing_wedge_mask(shape, tilt_min=-50, tilt_max=50)


def reference_fsc(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> np.ndarray:
    """Independent: full transforms in float64, one shell at a time."""
    fa, fb = (np.fft.fftn(x.double().numpy()) for x in (a, b))
    k = np.sqrt(sum(g**2 for g in np.meshgrid(*map(np.fft.fftfreq, a.shape), indexing="ij")))
    shells = np.round(k * min(a.shape)).astype(int)
    kept = np.ones(a.shape, bool) if mask is None else mask.numpy().copy()
    kept[0, 0, 0] = False
    curve = []
    for s in range(min(a.shape) // 2 + 1):
        x, y = (f[(shells == s) & kept] for f in (fa, fb))
        empty = len(x) == 0
        curve.append(np.nan if empty else np.vdot(y, x).real / np.linalg.norm(x) / np.linalg.norm(y))
    return np.array(curve)


@pytest.mark.parametrize("shape", SHAPES)
def test_fsc_of_a_volume_with_itself_is_one(shape: tuple[int, int, int], device: torch.device) -> None:
    a = noise(shape).to(device) + 50
    curve = fourier_shell_correlation(a, a)
    assert len(curve) == min(shape) // 2 + 1
    torch.testing.assert_close(curve[1:], torch.ones_like(curve[1:]))


def test_fsc_of_a_cube_has_no_voxel_in_shell_zero() -> None:
    curve = fourier_shell_correlation(noise((16, 16, 16)), noise((16, 16, 16), 1))
    assert curve[0].isnan()
    assert not curve[1:].isnan().any()


@pytest.mark.parametrize("shape", SHAPES)
def test_fsc_agrees_with_full_transforms_taken_shell_by_shell(
    shape: tuple[int, int, int], device: torch.device
) -> None:
    # the wedge is symmetric, so reading half of Fourier space must give the full sums; the sizes
    # include even and odd last axes, whose Nyquist columns count differently
    a = noise(shape)
    b = a + noise(shape, 1)
    mask = wedge(shape)
    ours = fourier_shell_correlation(a.to(device), b.to(device)).cpu()
    inside = fourier_shell_correlation(a.to(device), b.to(device), mask=mask.to(device)).cpu()
    # float32 transforms: relative error about 1e-6
    np.testing.assert_allclose(ours.numpy(), reference_fsc(a, b), atol=2e-5)
    np.testing.assert_allclose(inside.numpy(), reference_fsc(a, b, mask), atol=2e-5)


def test_fsc_of_independent_noise_averages_to_zero_within_its_sampling_error() -> None:
    shape = (24, 28, 25)
    curves = torch.stack(
        [fourier_shell_correlation(noise(shape, 2 * i), noise(shape, 2 * i + 1)) for i in range(8)]
    )
    sums = sum_shells(noise(shape), noise(shape))[0]
    # one shell's FSC has a standard deviation of 1 / sqrt(independent voxels), half of all by
    # Friedel's law; the mean of 8 is narrower by sqrt(8). Five deviations fail by chance in 1e-5.
    error = (sums.voxels[:-1] / 2).rsqrt() / math.sqrt(8)
    assert (curves.mean(dim=0)[1:].abs() < 5 * error[1:]).all()
    assert (curves[:, 1:] != 0).all()


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_fsc_of_two_noisy_copies_is_snr_over_one_plus_snr(ratio: float) -> None:
    shape = (40, 40, 40)
    signal = math.sqrt(ratio) * noise(shape)
    curve = fourier_shell_correlation(signal + noise(shape, 1), signal + noise(shape, 2))
    # the largest shells hold about 5,000 voxels: 0.02 is more than a standard deviation of each
    assert curve[10:].mean().item() == pytest.approx(ratio / (1 + ratio), abs=0.02)


def test_fsc_of_signal_against_signal_plus_noise_is_the_square_root_of_that() -> None:
    signal = noise((40, 40, 40))
    curve = fourier_shell_correlation(signal + noise((40, 40, 40), 1), signal)
    assert curve[10:].mean().item() == pytest.approx(math.sqrt(0.5), abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_energies_in_the_wedge_and_in_the_measured_region_add_to_the_total(
    shape: tuple[int, int, int],
) -> None:
    a, b = noise(shape), noise(shape, 1)
    everything, inside, outside = sum_shells(a, b, [None, wedge(shape), ~wedge(shape)])
    for name in ("cross", "power_a", "power_b", "voxels"):
        whole, parts = getattr(everything, name), getattr(inside, name) + getattr(outside, name)
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6 * whole.abs().max().item())
    assert everything.voxels.sum() == math.prod(shape) - 1  # all but the zero frequency
    # Parseval: the sum over Fourier space is the variance times the voxels squared
    variance = a.double().var(correction=0).item()
    assert everything.power_a.sum().item() == pytest.approx(variance * math.prod(shape) ** 2, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_correlation_is_the_correlation_of_the_filtered_volumes(
    shape: tuple[int, int, int], device: torch.device
) -> None:
    a = noise(shape) + 3
    b = noise(shape, 1) - 0.7 * a
    mask = wedge(shape)
    filtered = [torch.fft.ifftn(torch.fft.fftn(x.double()) * mask).real for x in (a, b)]
    ours = fourier_correlation(a.to(device), b.to(device), mask.to(device))
    # the mask is symmetric, so the filtered volumes are real
    assert ours == pytest.approx(correlation(*filtered), abs=1e-5)
    assert fourier_correlation(a, b) == pytest.approx(correlation(a, b), abs=1e-5)


def test_a_volume_without_the_wedge_correlates_with_nothing_inside_it() -> None:
    shape = (20, 22, 24)
    truth, mask = noise(shape), wedge(shape)
    measured = torch.fft.ifftn(torch.fft.fftn(truth.double()) * ~mask).real
    restored = measured.float() + 0.3 * noise(shape, 1)
    inside = fourier_correlation(restored, truth, mask)
    # about 3,700 independent voxels: one standard deviation is 0.017
    assert abs(inside) < 0.07
    assert fourier_correlation(restored, truth, ~mask) > 0.9


def test_fourier_correlation_without_energy_is_not_a_number() -> None:
    a = torch.zeros(16, 16, 16)
    assert math.isnan(fourier_correlation(a, noise((16, 16, 16))))
    assert (fourier_shell_correlation(a, noise((16, 16, 16)))[1:] == 0).all()


def test_fsc_refuses_volumes_and_masks_of_different_shapes() -> None:
    a = noise((16, 16, 16))
    with pytest.raises(ValueError, match="shapes differ"):
        fourier_shell_correlation(a, noise((16, 16, 17)))
    with pytest.raises(ValueError, match="shapes differ"):
        fourier_correlation(a, a, torch.ones(16, 16, 9, dtype=torch.bool))


def test_shell_resolution_ends_at_twice_the_voxel_size() -> None:
    resolution = shell_resolution(33, smallest_axis=64, voxel_size=10.0)
    assert resolution[0] == math.inf
    assert resolution[1] == 640
    assert resolution[-1] == 20


def test_crossing_is_linear_between_shells() -> None:
    curve = torch.tensor([math.nan, 1.0, 0.9, 0.7, 0.3, 0.1, 0.6])
    assert fsc_crossing(curve, 0.5) == pytest.approx(3.5)
    assert fsc_crossing(curve, 0.143) == pytest.approx(4 + 0.157 / 0.2)


def test_crossing_of_a_curve_that_stays_above_is_its_last_shell() -> None:
    assert fsc_crossing(torch.tensor([math.nan, 1.0, 0.9, 0.8]), 0.5) == 3


def test_crossing_of_a_curve_that_starts_below_or_is_empty_is_not_a_number() -> None:
    assert math.isnan(fsc_crossing(torch.tensor([math.nan, 0.2, 0.9]), 0.5))
    assert math.isnan(fsc_crossing(torch.full((4,), math.nan), 0.5))


def test_mean_fsc_takes_the_shells_between_400_and_40_angstrom_and_passes_over_empty_ones() -> None:
    resolution = shell_resolution(33, smallest_axis=64, voxel_size=10.0)  # 640 / shell
    curve = torch.zeros(33)
    curve[2:17] = 1  # 320 to 40 Å
    assert mean_fsc(curve, resolution) == 1
    curve[5] = math.nan
    assert mean_fsc(curve, resolution) == 1
    assert math.isnan(mean_fsc(curve, resolution, coarsest=3, finest=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_that_overlap_are_each_summed_as_if_alone(shape: tuple[int, int, int]) -> None:
    a, b = noise(shape), noise(shape) + noise(shape, 1)
    masks = [None, wedge(shape), cone_mask(shape, axis="z"), cone_mask(shape, axis="x", half_angle=60.0)]
    for mask, together in zip(masks, sum_shells(a, b, masks), strict=True):
        alone = sum_shells(a, b, [mask])[0]
        for name in ("cross", "power_a", "power_b", "voxels"):
            torch.testing.assert_close(getattr(together, name), getattr(alone, name))
        np.testing.assert_allclose(together.curve().numpy(), reference_fsc(a, b, mask), atol=2e-5)


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize("half_angle", [10.0, 20.0, 45.0])
def test_a_cone_takes_its_solid_angle_of_a_ball(axis: str, half_angle: float) -> None:
    mask = cone_mask((65, 64, 63), axis=axis, half_angle=half_angle)
    k = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(n) for n in mask.shape], indexing="ij"))
    ball = (k**2).sum(0).sqrt() < 0.5
    # two caps of 2 pi (1 - cos a) of 4 pi; a thin cone holds few voxels near the origin
    assert mask[ball].float().mean().item() == pytest.approx(1 - math.cos(math.radians(half_angle)), rel=0.05)


def test_cones_hold_their_axis_are_symmetric_and_lie_in_the_wedge_or_in_what_was_measured() -> None:
    shape = (31, 31, 31)
    cones = {axis: cone_mask(shape, axis=axis) for axis in "zyx"}
    for dim, cone in enumerate(cones.values()):
        on_axis = [0, 0, 0]
        on_axis[dim] = 9
        assert cone[tuple(on_axis)]
        assert torch.equal(cone.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2)), cone)  # Friedel's law
    at_origin = torch.zeros(shape, dtype=torch.bool)
    at_origin[0, 0, 0] = True
    assert not (cones["z"] & ~at_origin & ~wedge(shape)).any()  # tilts to 50 degrees: a wedge of 40
    assert not (cones["x"] & wedge(shape)).any()


def test_cones_refuse_an_unknown_axis_and_an_angle_that_is_none() -> None:
    with pytest.raises(ValueError, match="unknown axis 'Z'"):
        cone_mask((8, 8, 8), axis="Z")
    with pytest.raises(ValueError, match="between 0 and 90 degrees, got 90"):
        cone_mask((8, 8, 8), axis="z", half_angle=90.0)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_spectral_snr_finds_the_ratio_of_signal_to_noise(ratio: float) -> None:
    shape = (40, 40, 40)
    signal = math.sqrt(ratio) * noise(shape)
    one, two = signal + noise(shape, 1), signal + noise(shape, 2)
    whole = spectral_snr(fourier_shell_correlation(one, two), against="half")
    single = spectral_snr(fourier_shell_correlation(one, signal), against="truth")
    # shells of 1,000 to 5,000 voxels: a few per cent each, of which the mean of ten is taken
    assert single[10:].mean().item() == pytest.approx(ratio, rel=0.05)
    assert whole[10:].mean().item() == pytest.approx(2 * ratio, rel=0.08)  # of both halves together


def test_spectral_snr_of_known_correlations() -> None:
    curve = torch.tensor([math.nan, -0.2, 0.0, 1 / 3, 0.6, 1.0])
    assert spectral_snr(curve, against="truth")[1:].tolist() == pytest.approx([0, 0, 1 / 8, 9 / 16, math.inf])
    assert spectral_snr(curve, against="half")[1:].tolist() == pytest.approx([0, 0, 1, 3, math.inf])
    assert spectral_snr(curve, against="half")[0].isnan()
    with pytest.raises(ValueError, match="'truth' or 'half', got 'odd'"):
        spectral_snr(curve, against="odd")  # type: ignore[arg-type]
