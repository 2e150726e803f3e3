"""Power spectra and marginal laws against known fields."""

import numpy as np
import pytest
import torch

from cryomend.fourier import filter_fourier, radial_frequency, radial_mean, shell_index
from cryomend.noise import estimate_power_spectrum
from cryomend.noise.spectral import (
    gaussian_power_spectrum,
    map_marginal,
    marginal_quantiles,
    measure_whitening,
    normal_levels,
    refine_transfer,
    sample_gaussian_field,
    thin_values,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def falling_power(side, scale=0.12):
    power = 1 / (1 + (radial_frequency((side, side), half=True) / scale) ** 2)
    return power / torch.fft.irfft2(power, s=(side, side))[0, 0]


def test_white_noise_has_power_one_at_every_frequency():
    power = estimate_power_spectrum(3 * torch.randn(2000, 32, 32, generator=rng()))
    # 2,000 periodograms leave 2.2 % per frequency (3.2 % where the transform is real); five of those.
    assert (power / 9 - 1).abs().max() < 0.16
    assert power.mean().item() == pytest.approx(9, rel=0.01)


def test_the_mean_of_a_patch_does_not_reach_its_spectrum():
    patches = torch.randn(50, 32, 32, generator=rng())
    offsets = 100 * torch.randn(50, 1, 1, generator=rng(1))
    torch.testing.assert_close(
        estimate_power_spectrum(patches + offsets), estimate_power_spectrum(patches), rtol=1e-3, atol=1e-3
    )


def test_sampled_fields_have_the_wanted_spectrum_and_unit_variance():
    wanted = falling_power(64)
    field = sample_gaussian_field(wanted, (640, 1280), rng())
    assert field.var().item() == pytest.approx(1, rel=0.03)
    tiles = field.unfold(0, 64, 64).unfold(1, 64, 64).reshape(-1, 64, 64)
    shells = shell_index((64, 64), half=True)
    found, expected = (radial_mean(p, shells, 30) for p in (estimate_power_spectrum(tiles), wanted))
    assert (10 * torch.log10(found / expected))[2:].abs().max() < 0.5  # 200 tiles: 0.15 dB, three of those


def test_a_refined_transfer_filters_a_large_image_as_the_kernel_would():
    transfer = torch.exp(-20 * radial_frequency((32, 32), half=True) ** 2)
    impulse = torch.zeros(90, 70)
    impulse[40, 30] = 1
    found = filter_fourier(impulse, refine_transfer(transfer, (90, 70)))
    kernel = torch.fft.fftshift(torch.fft.irfft2(transfer, s=(32, 32)))
    # Of an even number of samples the outermost stands on one side only; the filter splits it.
    torch.testing.assert_close(found[25:56, 15:46], kernel[1:, 1:], rtol=0, atol=1e-6)
    assert found[:20].abs().max() < 1e-6
    with pytest.raises(ValueError, match="an image of 31 x 70 is smaller than the 32 x 32 filter"):
        refine_transfer(transfer, (31, 70))


def test_whitened_noise_is_white_and_colouring_gives_its_law_and_spectrum_back():
    field = sample_gaussian_field(falling_power(64), (640, 1280), rng())
    skewed = torch.exp(0.4 * field)
    tiles = (skewed - skewed.mean()).unfold(0, 64, 64).unfold(1, 64, 64).reshape(-1, 64, 64)
    tiles = tiles / tiles.std()
    power = estimate_power_spectrum(tiles)
    whitening = measure_whitening(tiles, power)
    flat = estimate_power_spectrum(whitening.whiten(tiles))
    shells = shell_index((64, 64), half=True)
    assert (10 * torch.log10(radial_mean(flat, shells, 30)))[2:].abs().max() < 0.5
    made = whitening.colour(torch.randn(40, 128, 128, generator=rng(1)))
    again = estimate_power_spectrum(made[:, :64, :64])
    ratio = radial_mean(again, shells, 30) / radial_mean(power, shells, 30)
    assert (10 * torch.log10(ratio))[3:].abs().max() < 1.0  # 40 tiles


def test_very_many_values_are_thinned_evenly_and_few_are_not():
    values = torch.arange(1000.0)
    assert torch.equal(thin_values(values), values)
    thinned = thin_values(values.reshape(10, 100), most=99)
    assert len(thinned) <= 99
    assert thinned.mean().item() == pytest.approx(499.5, rel=0.02)
    assert (thinned.diff() == thinned[1] - thinned[0]).all()


def test_mapping_to_the_same_law_changes_nothing():
    law = torch.linspace(-3, 5, 513, dtype=torch.float64)
    values = torch.randn(1000, generator=rng()) * 4
    torch.testing.assert_close(map_marginal(values, law, law), values, rtol=0, atol=1e-5)


def test_a_normal_field_mapped_to_measured_quantiles_has_their_law():
    skewed = torch.from_numpy(np.random.default_rng(0).gamma(4.0, size=200_000))
    mapped = map_marginal(torch.randn(200_000, generator=rng()), normal_levels(), marginal_quantiles(skewed))
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert mapped.quantile(share).item() == pytest.approx(skewed.quantile(share).item(), rel=0.03)


def test_mapping_is_monotone_also_beyond_the_table():
    quantiles = marginal_quantiles(torch.randn(5000, generator=rng()) ** 3)
    mapped = map_marginal(torch.linspace(-7, 7, 5001, dtype=torch.float64), normal_levels(), quantiles)
    assert (mapped.diff() >= 0).all()
    assert mapped.diff()[-1] > 0


def test_bent_autocorrelation_of_a_lognormal_field_is_straightened():
    # exp(s z) of a field with correlation rho has correlation (exp(s² rho) - 1) / (exp(s²) - 1).
    s, side = 0.6, 32
    wanted = falling_power(side)
    rho = torch.fft.irfft2(wanted, s=(side, side)).double()
    bent = (torch.exp(s**2 * rho) - 1) / (np.exp(s**2) - 1)
    found = gaussian_power_spectrum(torch.fft.rfft2(bent).real.float(), torch.exp(s * normal_levels()))
    back = torch.fft.irfft2(found, s=(side, side)).double()
    torch.testing.assert_close(back, rho, rtol=0, atol=2e-3)  # the table of quantiles ends at four sigma
