"""Power spectra and marginal laws against known fields."""

import numpy as np
import pytest
import torch

from cryomend.fourier import radial_frequency
from cryomend.noise import estimate_power_spectrum
from cryomend.noise.spectral import (
    gaussian_power_spectrum,
    map_marginal,
    marginal_quantiles,
    normal_levels,
    sample_gaussian_field,
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
    field = sample_gaussian_field(wanted, 800, rng())
    assert field.var().item() == pytest.approx(1, rel=0.01)
    direct = torch.fft.rfft2(field).abs().square().mean(dim=0) / 64**2
    assert (10 * torch.log10(direct / wanted)).abs().max() < 1.0  # 800 periodograms: 0.15 dB, six of those


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
