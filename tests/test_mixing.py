import math

import pytest
import torch

from cryomend.fourier import gaussian_lowpass, resample_fourier
from cryomend.mixing import (
    blend_noise,
    measure_mixed_snr,
    measure_power,
    measure_snr,
    mix_noise,
    sample_rescaled,
    scale_noise,
    snr_from_db,
)
from cryomend.reconstruction.align import bin_images

BAND = (0.05, 0.25)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def white(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


@pytest.fixture
def disc():
    """A specimen area that differs from tilt to tilt, (3, 64, 64)."""
    y, x = torch.arange(64.0)[:, None] - 30, torch.arange(64.0)[None] - 36
    return torch.stack([(y**2 + (x / w) ** 2).sqrt() < 20 for w in (1.2, 1.0, 0.5)])


@pytest.mark.parametrize("snr", [0.01, 0.5, 20.0])
def test_mixed_ratio_is_measured_back_whatever_the_offsets(snr):
    signal = 1000 + white(3, 64, 64) * torch.tensor([1.0, 5, 50])[:, None, None]
    noise = -300 + 7 * white(3, 64, 64, seed=1)
    added = mix_noise(signal, noise, snr=snr) - signal
    found = signal.var(dim=(1, 2)) / added.var(dim=(1, 2))
    torch.testing.assert_close(found, torch.full((3,), snr), rtol=0.02, atol=0)
    assert added.mean(dim=(1, 2)).abs().max() < 1e-2 * added.std(dim=(1, 2)).max()


def test_every_tilt_can_have_its_own_ratio():
    signal, noise = white(2, 3, 32, 32)
    wanted = torch.tensor([0.1, 1.0, 4.0])
    added = mix_noise(signal, noise, snr=wanted) - signal
    torch.testing.assert_close(signal.var(dim=(1, 2)) / added.var(dim=(1, 2)), wanted, rtol=0.02, atol=0)


def test_scale_of_the_noise_does_not_matter():
    signal, noise = white(2, 2, 32, 32)
    torch.testing.assert_close(mix_noise(signal, 9 * noise + 4, snr=1.0), mix_noise(signal, noise, snr=1.0))


def test_offsets_of_ten_thousand_in_single_precision_do_not_matter(disc):
    signal, noise = white(2, 3, 64, 64)
    how = {"band": BAND, "area": disc}
    there = mix_noise(signal + 1e4, noise - 1e4, snr=0.5, **how) - 1e4
    # Single precision holds 1e4 to 1e-3.
    torch.testing.assert_close(there, mix_noise(signal, noise, snr=0.5, **how), atol=3e-3, rtol=0)
    far = measure_snr(signal + 1e4, noise - 1e4, **how)
    torch.testing.assert_close(far, measure_snr(signal, noise, **how), rtol=1e-3, atol=0)


@pytest.mark.parametrize("band", [None, BAND])
def test_what_lies_outside_the_area_changes_nothing(disc, band):
    signal, noise = white(2, 3, 64, 64)
    loud = torch.where(disc, noise, 1e3 * noise + 500)
    bright = torch.where(disc, signal, 1e3 * signal - 700)
    quiet = measure_snr(signal, noise, band=band, area=disc)
    torch.testing.assert_close(measure_snr(bright, loud, band=band, area=disc), quiet, rtol=1e-6, atol=0)
    mixed = mix_noise(signal, noise, snr=0.3, band=band, area=disc)
    torch.testing.assert_close(mix_noise(bright, loud, snr=0.3, band=band, area=disc)[disc], mixed[disc])
    added = (mixed - signal).to(torch.float64)
    found = measure_snr(signal.double(), added, band=band, area=disc)
    torch.testing.assert_close(found, torch.full((3,), 0.3, dtype=torch.float64), rtol=1e-5, atol=0)


def test_power_over_an_area_is_the_variance_there(disc):
    images = 40 + white(3, 64, 64)
    expected = torch.stack([i[a].var(correction=0) for i, a in zip(images, disc, strict=True)])
    torch.testing.assert_close(measure_power(images, area=disc), expected)


def test_only_frequencies_in_the_band_count():
    x = torch.arange(64.0)
    wave = [
        a * torch.cos(2 * math.pi * m * x / 64).expand(1, 64, 64) for a, m in ((3.0, 2), (1.0, 8), (5.0, 24))
    ]
    # (low, high]: 8 / 64 = 0.125 lies in the first and not in the second band.
    for band, expected in (((0.05, 0.125), 0.5), ((0.125, 0.5), 12.5), ((0.0, 0.75), 17.5)):
        assert measure_power(sum(wave) + 7, band=band).item() == pytest.approx(expected, rel=1e-5)
    assert measure_snr(wave[1] + wave[2], wave[0] + wave[1], band=(0.1, 0.2)).item() == pytest.approx(1)


def test_white_noise_has_the_share_of_its_power_that_the_band_has_of_the_spectrum(disc):
    noise = white(3, 64, 64)
    share = math.pi * (BAND[1] ** 2 - BAND[0] ** 2)  # area of the ring, of the unit square
    measured = (measure_power(noise, band=BAND, area=disc) / measure_power(noise, area=disc)).mean()
    assert measured.item() == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize(("snr", "band"), [(0.1, None), (5.0, None), (0.5, (0.0, 0.2)), (2.0, (0.05, 0.2))])
def test_two_noisy_stacks_of_one_signal_measure_the_mixed_ratio_back_within_two_percent(snr, band):
    signal = 1e4 + gaussian_lowpass(white(8, 512, 512), 1.5, ndim=2)
    area = torch.zeros(1, 512, 512, dtype=torch.bool)
    area[:, :, 40:-40] = True
    how = {"band": band, "area": area}
    stacks = [mix_noise(signal, white(8, 512, 512, seed=s), snr=snr, **how) for s in (1, 2)]
    assert measure_mixed_snr(*stacks, **how).mean().item() == pytest.approx(snr, rel=0.02)


def test_the_sum_of_two_halves_has_twice_their_ratio():
    signal, a, b = white(3, 4, 256, 256)
    halves = measure_mixed_snr(signal + a, signal + b).mean()
    whole = measure_snr(2 * signal, a + b).mean()
    assert (whole / halves).item() == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("keep_total", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_share_and_the_total_of_blended_noise_are_as_stated(share, keep_total, disc):
    counting = 5 * white(3, 64, 64)
    learned = 100 + gaussian_lowpass(white(3, 64, 64, seed=1), 1.0, ndim=2)
    how = {"band": BAND, "area": disc}
    kept, mixed_in = blend_noise(counting, learned, share=share, keep_total=keep_total, **how)
    left, right, before = (measure_power(n, **how) for n in (kept, mixed_in, counting))
    torch.testing.assert_close(right / (left + right), torch.full((3,), share), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(left + right, before * (1 if keep_total else 1 / (1 - share)))


def test_all_noise_can_be_learned():
    kept, mixed_in = blend_noise(*white(2, 2, 32, 32), share=1.0)
    assert not kept.any()
    torch.testing.assert_close(measure_power(mixed_in), measure_power(white(2, 2, 32, 32)[0]))


def test_decibels_are_ten_log_ten_of_the_power_ratio():
    assert [snr_from_db(d) for d in (0, 10, -20)] == pytest.approx([1, 10, 0.01])
    signal, noise = white(2, 1, 64, 64)
    added = mix_noise(signal, noise, snr=snr_from_db(5.0)) - signal
    assert 20 * math.log10(signal.std() / added.std()) == pytest.approx(5, abs=0.01)


def test_mixing_refuses_what_has_no_ratio(disc):
    signal, noise = white(2, 3, 64, 64)
    ones = torch.ones(3, 64, 64)
    with pytest.raises(ValueError, match="differ in shape"):
        mix_noise(signal, noise[:1], snr=1.0)
    with pytest.raises(ValueError, match="not decibels"):
        mix_noise(signal, noise, snr=-3.0)
    for pair in ((ones, noise), (signal, ones)):
        with pytest.raises(ValueError, match="constant tilt"):
            mix_noise(*pair, snr=1.0)
    with pytest.raises(ValueError, match="constant tilt"):
        measure_snr(signal, torch.where(disc, ones, noise), area=disc)
    with pytest.raises(ValueError, match="constant tilt"):
        scale_noise(ones, power=1.0)


def test_measuring_refuses_bands_areas_and_shares_without_meaning(disc):
    images = white(3, 64, 64)
    for band in ((0.3, 0.2), (-0.1, 0.2)):
        with pytest.raises(ValueError, match="a band is 0 <= low < high"):
            measure_power(images, band=band)
    with pytest.raises(ValueError, match="holds no frequency of images of 64 x 64 pixels"):
        measure_power(images, band=(0.001, 0.002))
    for area in (disc[:2], disc[0], disc.float()):
        with pytest.raises(ValueError, match="the area is a mask"):
            measure_power(images, area=area)
    with pytest.raises(ValueError, match="area of tilt 2 has fewer"):
        measure_power(images, area=disc & torch.tensor([True, False, True])[:, None, None])
    with pytest.raises(ValueError, match="do not differ"):
        measure_mixed_snr(images, images)
    with pytest.raises(ValueError, match="differ in shape"):
        measure_mixed_snr(images, images[:1])
    with pytest.raises(ValueError, match="within 0 to 1"):
        blend_noise(images, images, share=1.5)
    with pytest.raises(ValueError, match="has no end"):
        blend_noise(images, images, share=1.0, keep_total=False)


@pytest.mark.parametrize(("old", "new"), [((24, 30), (16, 21)), ((16, 21), (24, 30)), ((15, 16), (15, 16))])
def test_resampling_keeps_a_wave_that_both_grids_have(old, new):
    def wave(shape):
        y, x = ((torch.arange(float(n)) - n // 2) / n for n in shape)
        return 3 + torch.cos(2 * math.pi * (2 * y[:, None] - 5 * x[None]) + 0.4)[None]

    torch.testing.assert_close(resample_fourier(wave(old), new), wave(new), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="positive number of pixels"):
        resample_fourier(wave(old), (0, 4))


def test_resampling_to_fewer_pixels_is_the_binning_of_the_reconstruction():
    images = white(2, 64, 48)
    torch.testing.assert_close(resample_fourier(images, (32, 24)), bin_images(images, 2.0)[0])


@pytest.mark.parametrize("factor", [2.5, 1.17, 0.6])
def test_rescaled_noise_keeps_its_density_at_every_physical_frequency(factor):
    def draw(shape):
        return gaussian_lowpass(white(16, *shape), 0.5, ndim=2) + 9

    noise = sample_rescaled(draw, (96, 100), factor=factor)
    assert noise.shape == (16, 96, 100)
    assert noise.mean().item() == pytest.approx(9, abs=0.02)
    # The drawn noise has the density exp(-(2 π σ k)²) at k per drawn pixel, σ = 1/2.
    for low, high in ((0.05, 0.15), (0.15, 0.25)):
        k = torch.linspace(low, high, 101)
        density = torch.exp(-((math.pi * k / factor) ** 2))
        expected = (density * 2 * math.pi * k).mean() * (high - low) / factor**2
        measured = measure_power(noise, band=(low, high)).mean()
        assert measured.item() == pytest.approx(expected.item(), rel=0.06), (low, high)
    if factor < 1:  # beyond the Nyquist of what was drawn there is nothing
        beyond = measure_power(noise, band=(0.5 * factor * math.sqrt(2) + 0.02, 0.8)).mean()
        assert beyond < 5e-3 * measure_power(noise).mean()


def test_rescaling_refuses_factors_without_meaning():
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive factor"):
            sample_rescaled(lambda shape: white(1, *shape), (8, 8), factor=factor)
