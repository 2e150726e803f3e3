import pytest
import torch

from cryomend.mixing import mix_noise


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("snr", [0.01, 0.5, 20.0])
def test_mixed_ratio_is_measured_back_whatever_the_offsets(snr):
    signal = 1000 + torch.randn(3, 64, 64, generator=rng()) * torch.tensor([1.0, 5, 50])[:, None, None]
    noise = -300 + 7 * torch.randn(3, 64, 64, generator=rng(1))
    added = mix_noise(signal, noise, snr=snr) - signal
    found = signal.var(dim=(1, 2)) / added.var(dim=(1, 2))
    torch.testing.assert_close(found, torch.full((3,), snr), rtol=0.02, atol=0)
    assert added.mean(dim=(1, 2)).abs().max() < 1e-2 * added.std(dim=(1, 2)).max()


def test_every_tilt_can_have_its_own_ratio():
    signal, noise = torch.randn(2, 3, 32, 32, generator=rng())
    wanted = torch.tensor([0.1, 1.0, 4.0])
    added = mix_noise(signal, noise, snr=wanted) - signal
    torch.testing.assert_close(signal.var(dim=(1, 2)) / added.var(dim=(1, 2)), wanted, rtol=0.02, atol=0)


def test_scale_of_the_noise_does_not_matter():
    signal, noise = torch.randn(2, 2, 32, 32, generator=rng())
    torch.testing.assert_close(mix_noise(signal, 9 * noise + 4, snr=1.0), mix_noise(signal, noise, snr=1.0))


def test_mixing_refuses_what_has_no_ratio():
    signal, noise = torch.randn(2, 2, 32, 32, generator=rng())
    with pytest.raises(ValueError, match="differ in shape"):
        mix_noise(signal, noise[:1], snr=1.0)
    with pytest.raises(ValueError, match="not decibels"):
        mix_noise(signal, noise, snr=-3.0)
    with pytest.raises(ValueError, match="constant tilt"):
        mix_noise(torch.ones(2, 32, 32), noise, snr=1.0)
