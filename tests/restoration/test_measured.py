"""What was measured stays, what was not comes from the network, and nothing rings between them."""

from __future__ import annotations

import math

import pytest
import torch

from cryomend.fourier import gaussian_lowpass, radial_mean, shell_index
from cryomend.geometry import missing_wedge_mask
from cryomend.restoration.measured import (
    SpectralWeight,
    blend_measured,
    measured_weight,
    weight_from_halves,
    weight_from_tomogram,
)

SHAPE = (32, 24, 40)
RANGE = (-50.0, 60.0)


def noise(shape, seed=0, blur=0.0):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return gaussian_lowpass(made, blur) if blur else made


def transform(volume):
    return torch.fft.rfftn(volume.double())


@pytest.fixture
def truth():
    return noise(SHAPE, 1, blur=1.0) * 10 + 3


def blobs(shape=(96, 96, 96)):
    made, generator = torch.zeros(shape), torch.Generator().manual_seed(1)
    for _ in range(25):
        z, y, x = torch.randint(8, 88, (3,), generator=generator).tolist()
        made[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3] += 3
    return made - made.mean()


def wiener(signal, noise_volume):
    """Signal over total power of white noise, by shell."""
    shells = shell_index(signal.shape, half=True)
    s, n = (radial_mean(torch.fft.rfftn(v).abs() ** 2, shells, 49) for v in (signal, noise_volume))
    return s / (s + n)


# ---- the transition -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SHAPE, (33, 17, 21)])
@pytest.mark.parametrize("tilt_range", [RANGE, (-60.0, 60.0), (10.0, 50.0)])
def test_hard_transition_is_the_mask_of_the_missing_wedge(device, shape, tilt_range):
    weight = measured_weight(shape, tilt_range=tilt_range, softness=0, device=device)
    mask = missing_wedge_mask(shape, tilt_min=tilt_range[0], tilt_max=tilt_range[1], device=device)
    different = weight.expand(-1, shape[1], -1) != mask[..., : shape[2] // 2 + 1]
    different[:, :, -1] = different[shape[0] // 2] = False  # Nyquist planes have both signs
    assert not different.any()


def test_soft_transition_lies_inside_what_was_measured():
    hard = measured_weight(SHAPE, tilt_range=RANGE, softness=0)
    soft = measured_weight(SHAPE, tilt_range=RANGE, softness=10)
    inner = measured_weight(SHAPE, tilt_range=(RANGE[0] + 10, RANGE[1] - 10), softness=0)
    assert (soft <= hard).all() and (soft[inner == 1] == 1).all()
    assert ((soft > 0) & (soft < 1)).any()


def test_full_range_has_no_wedge():
    assert (measured_weight(SHAPE, tilt_range=(-90.0, 90.0)) == 1).all()


@pytest.mark.parametrize("tilt_range", [(60.0, -60.0), (-91.0, 60.0), (0.0, 0.0)])
def test_wrong_tilt_range_is_refused(tilt_range):
    with pytest.raises(ValueError, match="need -90 <= tilt_min < tilt_max <= 90"):
        measured_weight(SHAPE, tilt_range=tilt_range)


def test_negative_softness_is_refused():
    with pytest.raises(ValueError, match="softness must not be negative"):
        measured_weight(SHAPE, tilt_range=RANGE, softness=-1)


def test_soft_transition_takes_the_far_ringing_away():
    def far(softness):
        n = 128
        weight = measured_weight((n, 3, n), tilt_range=(-60, 60), softness=softness).expand(-1, 3, -1)
        kernel = torch.fft.fftshift(torch.fft.irfftn(weight, s=(n, 3, n)), dim=(0, 2))[:, 0]
        grid = torch.arange(n) - n // 2
        distance = torch.hypot(grid[:, None].float(), grid.float())
        return kernel[(distance > 32) & (distance < 60)].norm().item()

    assert far(5.0) < 0.55 * far(0.0)
    assert far(10.0) < 0.4 * far(0.0)


def test_edge_along_the_wedge_overshoots_less_than_with_the_hard_mask():
    """The worst edge there is: a bar whose faces look along the last measured direction."""
    n, t = 64, math.radians(60)
    z, _, x = torch.meshgrid(*[torch.arange(n) - n // 2] * 3, indexing="ij")
    across, along = x * math.cos(t) + z * math.sin(t), -x * math.sin(t) + z * math.cos(t)
    bar = ((across.abs() < 8) & (along.abs() < 20)).float()
    far = gaussian_lowpass(bar, 4.0) < 0.01

    def ringing(softness):  # of a network that sees nothing
        blended, _ = blend_measured(
            bar, torch.zeros_like(bar), tilt_range=(-60, 60), keep="fill", softness=softness
        )
        ripple = blended.diff(dim=2).abs()[far[..., 1:]].mean().item()
        return blended.max().item() - 1, ripple

    hard, soft = ringing(0.0), ringing(5.0)
    assert soft[0] < 0.35 and soft[0] < 0.7 * hard[0]  # 0.33 and 0.51
    assert soft[1] < 0.65 * hard[1]


# ---- the blend ------------------------------------------------------------------------------------


def test_data_without_noise_stay_and_the_truth_fills_the_wedge(device, truth):
    """SNR to infinity: inside the data, in the wedge what the network knows."""
    truth = truth.to(device)
    measured = missing_wedge_mask(SHAPE, tilt_min=RANGE[0], tilt_max=RANGE[1], device=device)
    data = torch.fft.ifftn(torch.fft.fftn(truth) * measured).real.float()
    infinite = SpectralWeight(torch.ones(17), 32)
    blended, scale = blend_measured(data, truth, tilt_range=RANGE, weight=infinite)
    assert blended.device == truth.device
    assert scale == pytest.approx(1, abs=1e-5)
    # at Nyquist both signs of a frequency share a voxel, of which the mask knows one
    away = transform(blended - truth)[:, :, :-1]
    away[SHAPE[0] // 2] = 0
    assert away.abs().max() < 1e-5 * transform(truth).abs().max()


@pytest.mark.parametrize("keep", ["measured", "fill"])
def test_where_measured_the_network_has_no_say(truth, keep):
    data, network = truth + noise(SHAPE, 2), truth + noise(SHAPE, 3)
    blended, _ = blend_measured(data, network, tilt_range=RANGE, keep=keep)
    inside = (measured_weight(SHAPE, tilt_range=RANGE) == 1).expand(-1, SHAPE[1], -1)
    torch.testing.assert_close(transform(blended)[inside], transform(data)[inside], rtol=1e-4, atol=2e-3)


def test_where_not_measured_the_data_have_no_say_but_their_contrast(truth):
    data, network = truth + noise(SHAPE, 2), truth / 4 + noise(SHAPE, 3, blur=2.0)
    blended, scale = blend_measured(data, network, tilt_range=RANGE, keep="fill")
    outside = (measured_weight(SHAPE, tilt_range=RANGE) == 0).expand(-1, SHAPE[1], -1)
    expected = scale * transform(network)[outside]
    torch.testing.assert_close(transform(blended)[outside], expected, rtol=1e-4, atol=2e-3)


def test_denoise_only_leaves_the_wedge_as_it_was(truth):
    data, network = truth + noise(SHAPE, 2), truth + noise(SHAPE, 3)
    blended, scale = blend_measured(data, network, tilt_range=RANGE, keep="denoise")
    weight = measured_weight(SHAPE, tilt_range=RANGE).expand(-1, SHAPE[1], -1)
    outside, inside = weight == 0, weight == 1
    inside[0, 0, 0] = False
    torch.testing.assert_close(transform(blended)[outside], transform(data)[outside], rtol=1e-4, atol=2e-3)
    expected = scale * transform(network)[inside]
    torch.testing.assert_close(transform(blended)[inside], expected, rtol=1e-4, atol=2e-3)


def test_fill_only_and_denoise_only_add_up_to_data_and_network(truth):
    data, network = truth + noise(SHAPE, 2), truth + noise(SHAPE, 3)
    fill, scale = blend_measured(data, network, tilt_range=RANGE, keep="fill")
    denoise, _ = blend_measured(data, network, tilt_range=RANGE, keep="denoise")
    scaled = (network - network.mean()) * scale + network.mean()
    torch.testing.assert_close(fill + denoise, data + scaled, rtol=0, atol=1e-3)


def test_hard_parts_keep_their_energy():
    """Parseval: data and network in parts of Fourier space that do not overlap."""
    shape = (33, 25, 41)
    truth = noise(shape, 1, blur=1.0) * 10
    data, network = truth + noise(shape, 2), truth + noise(shape, 3)
    data, network = data - data.mean(), network - network.mean()
    blended, scale = blend_measured(data, network, tilt_range=RANGE, keep="fill", softness=0)
    measured = missing_wedge_mask(shape, tilt_min=RANGE[0], tilt_max=RANGE[1])
    energies = [(torch.fft.fftn(v.double()).abs() ** 2) for v in (data, network)]
    kept = energies[0][measured].sum() + scale**2 * energies[1][~measured].sum()
    assert blended.double().square().sum() == pytest.approx(kept.item() / blended.numel(), rel=1e-4)


@pytest.mark.parametrize("gain", [0.2, 1.0, 7.0])
@pytest.mark.parametrize("keep", ["measured", "fill", "denoise"])
def test_gain_of_the_network_does_not_matter(truth, gain, keep):
    data = truth + noise(SHAPE, 2) * 3
    plain, _ = blend_measured(data, truth, tilt_range=RANGE, keep=keep)
    scaled, scale = blend_measured(
        data, gain * (truth - truth.mean()) + truth.mean(), tilt_range=RANGE, keep=keep
    )
    assert scale * gain == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-3)


def test_mean_is_that_of_the_data(truth):
    blended, _ = blend_measured(truth + 1e4, truth - 500, tilt_range=RANGE)
    assert blended.double().mean().item() == pytest.approx((truth + 1e4).double().mean().item(), abs=1e-2)


def test_weight_of_zero_leaves_only_the_wedge(truth):
    blended, _ = blend_measured(truth + noise(SHAPE), truth, tilt_range=RANGE, keep="fill")
    none = SpectralWeight(torch.tensor([0.5, 0.0]), 32)
    only, _ = blend_measured(truth + noise(SHAPE), truth, tilt_range=RANGE, weight=none)
    assert (only - only.mean()).norm() < 0.9 * (blended - blended.mean()).norm()
    inside = (measured_weight(SHAPE, tilt_range=RANGE) == 1).expand(-1, SHAPE[1], -1).clone()
    inside[:2, :2, :2] = inside[-2:, :2, :2] = inside[:2, -2:, :2] = inside[-2:, -2:, :2] = False
    assert transform(only)[inside].abs().max() < 1e-3 * transform(blended).abs().max()


def test_flat_network_needs_no_scale(truth):
    blended, scale = blend_measured(truth, torch.full(SHAPE, 2.0), tilt_range=RANGE, keep="fill")
    assert scale == 1 and blended.isfinite().all()


def test_network_against_the_data_is_refused(truth):
    with pytest.raises(ValueError, match="does not agree with the data"):
        blend_measured(truth, -truth, tilt_range=RANGE)


def test_other_shapes_and_words_are_refused(truth):
    with pytest.raises(ValueError, match="shapes differ"):
        blend_measured(truth, truth[1:], tilt_range=RANGE)
    with pytest.raises(ValueError, match="keep must be one of measured, fill, denoise, got 'all'"):
        blend_measured(truth, truth, tilt_range=RANGE, keep="all")


# ---- signal-to-noise ------------------------------------------------------------------------------


def test_weight_is_interpolated_and_holds_beyond_its_end():
    weight = SpectralWeight(torch.tensor([1.0, 0.5, 0.0]), 4)
    found = weight.at(torch.tensor([0.0, 0.125, 0.25, 0.375, 0.5, 0.8]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0, 0.0]))


def test_halves_give_the_wiener_filter_of_their_mean():
    signal = blobs()
    even, odd = (signal + math.sqrt(2) * noise(signal.shape, seed) for seed in (2, 3))
    weight = weight_from_halves(even, odd, tilt_range=(-60, 60))
    expected = wiener(signal, noise(signal.shape, 4))
    assert weight.side == 96
    assert (weight.values - expected)[2:].abs().max() < 0.12  # of a shell with few voxels
    assert (weight.values - expected)[2:].abs().mean() < 0.03


def test_quiet_places_give_about_the_wiener_filter():
    signal = blobs()
    weight = weight_from_tomogram(1000 + 7 * (signal + noise(signal.shape, 4)), tilt_range=(-60, 60))
    expected = SpectralWeight(wiener(signal, noise(signal.shape, 4)), 96)
    frequency = torch.linspace(0.06, 0.5, 15)
    assert (weight.at(frequency) - expected.at(frequency)).abs().max() < 0.15


@pytest.mark.parametrize("shape", [(16, 17, 40), (64, 64, 64)])
def test_noise_alone_has_no_signal(shape):
    found = weight_from_tomogram(noise(shape, 5, blur=0.4), tilt_range=RANGE).values
    assert found.max() < (0.4 if min(shape) < 32 else 0.1)


def test_gold_and_masked_parts_do_not_count():
    signal = blobs() + noise((96, 96, 96), 4)
    plain = weight_from_tomogram(signal, tilt_range=(-60, 60)).values
    signal[40:44, 40:44, 40:44] = 500
    gold = weight_from_tomogram(signal, tilt_range=(-60, 60)).values
    assert (gold - plain).abs().max() < 0.1
    signal[:16] = 0
    assert (weight_from_tomogram(signal, tilt_range=(-60, 60)).values - gold).abs().max() < 0.1


def test_halves_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        weight_from_halves(noise((16, 16, 16)), noise((16, 16, 17)), tilt_range=RANGE)


def test_constant_tomogram_has_no_noise_to_measure():
    with pytest.raises(ValueError, match="constant"):
        weight_from_tomogram(torch.ones(16, 16, 16), tilt_range=RANGE)


def test_the_place_of_the_specimen_in_a_thin_slab_does_not_matter():
    noise = torch.randn(24, 96, 96, generator=torch.Generator().manual_seed(0))
    signal = torch.nn.functional.avg_pool3d(
        torch.randn(1, 24, 96, 96, generator=torch.Generator().manual_seed(1)), 5, 1, 2
    )[0]
    signal[:, 48:] = 0
    tomogram = noise + 8 * signal
    here, there = (weight_from_tomogram(v, tilt_range=(-60, 60)).values for v in (tomogram, tomogram.flip(1)))
    assert here[1] > 0.3
    torch.testing.assert_close(here, there, rtol=0, atol=0.1)


def test_an_end_of_the_range_at_90_degrees_leaves_the_weight_symmetric():
    weight = measured_weight((8, 8, 8), tilt_range=(-60, 90))[:, 0, 0]
    torch.testing.assert_close(weight, weight.roll(-1).flip(0))
