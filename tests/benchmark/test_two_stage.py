"""Two-stage: images of two halves teach a 2D network to denoise them."""

import numpy as np
import pytest
import torch

from cryomend.benchmark.image_network import ImageUNet
from cryomend.benchmark.two_stage import ImageFit, denoise_tilts, denoise_tilts_alone
from cryomend.fourier import gaussian_lowpass

FIT = ImageFit(crop=32, batch=4, channels=(8, 16), learning_rate=3e-3)
ANGLES = np.arange(6.0)


def signal():
    images = gaussian_lowpass(torch.randn(6, 45, 50, generator=torch.Generator().manual_seed(0)), 3.0, ndim=2)
    return images / images.std() + torch.arange(6.0)[:, None, None]


def halves(noise=1.0):
    generator = torch.Generator().manual_seed(1)
    return [signal() + noise * torch.randn(6, 45, 50, generator=generator) for _ in range(2)]


def error(images, truth):
    return float((images - truth).square().mean())


def test_denoised_halves_are_nearer_to_the_signal_than_their_mean():
    first, second = halves()
    denoised = denoise_tilts(first, second, steps=60, fit=FIT)
    assert denoised.shape == first.shape and denoised.dtype == torch.float32
    assert error(denoised, signal()) < 0.6 * error((first + second) / 2, signal())


def test_grey_levels_are_those_of_the_images():
    first, second = halves()
    plain = denoise_tilts(first, second, steps=5, fit=FIT)
    scaled = denoise_tilts(10 + 4 * first, 10 + 4 * second, steps=5, fit=FIT)
    torch.testing.assert_close(scaled, 10 + 4 * plain, atol=0.2, rtol=0)  # bfloat16 rounds


def test_the_order_of_the_halves_does_not_matter_to_a_network_that_does_nothing_yet():
    first, second = halves()
    almost = ImageFit(crop=32, batch=1, channels=(8,), learning_rate=1e-12)
    there, back = (denoise_tilts(a, b, steps=1, fit=almost) for a, b in ((first, second), (second, first)))
    torch.testing.assert_close(there, back, atol=1e-3, rtol=1e-3)


def test_a_series_with_one_image_per_tilt_learns_from_neighbours_in_the_order_of_the_angles():
    generator = torch.Generator().manual_seed(2)
    truth = signal()[:1].expand(6, 45, 50) - 2 * torch.arange(6.0)[:, None, None]
    noisy = truth + torch.randn(truth.shape, generator=generator)
    denoised = denoise_tilts_alone(noisy, ANGLES, steps=60, fit=FIT)
    assert error(denoised, truth) < 0.5 * error(noisy, truth)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = denoise_tilts_alone(noisy[order], ANGLES[order], steps=60, fit=FIT)
    torch.testing.assert_close(shuffled, denoised[order])


def test_equal_seeds_give_equal_results_and_the_global_generator_is_left_alone():
    first, second = halves()
    state = torch.get_rng_state()
    one, again, other = (denoise_tilts(first, second, steps=3, fit=FIT, seed=s) for s in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_seconds_end_the_fit_and_what_progress_raises_does_too():
    shares = []
    denoise_tilts(*halves(), seconds=0.2, fit=FIT, progress=lambda share, text: shares.append(share))
    assert shares[-1] == 1 and shares == sorted(shares)

    def stop(share, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        denoise_tilts(*halves(), steps=1000, fit=FIT, progress=stop)


def test_halves_that_teach_nothing_are_refused():
    first, second = halves()
    with pytest.raises(ValueError, match="two stacks"):
        denoise_tilts(first, second[1:], steps=1)
    with pytest.raises(ValueError, match="identical"):
        denoise_tilts(first, first, steps=1)
    with pytest.raises(ValueError, match="steps or seconds"):
        denoise_tilts(first, second, fit=FIT)
    with pytest.raises(ValueError, match="steps or seconds"):
        denoise_tilts(first, second, steps=0, fit=FIT)
    with pytest.raises(ValueError, match="constant"):
        denoise_tilts(
            torch.ones(2, 32, 32), torch.ones(2, 32, 32).index_fill(0, torch.tensor(1), 2.0), steps=1
        )
    with pytest.raises(ValueError, match="pixels a side"):
        denoise_tilts(first[:, :3], second[:, :3], steps=1)
    with pytest.raises(ValueError, match="angle"):
        denoise_tilts_alone(first, ANGLES[:5], steps=1)
    with pytest.raises(ValueError, match="identical"):
        denoise_tilts_alone(first[:1].expand(6, 45, 50), ANGLES, steps=1)


def test_the_network_gives_an_image_for_an_image_and_refuses_odd_sides():
    network = ImageUNet((4, 8, 8))
    assert network.multiple == 4
    assert network(torch.randn(2, 1, 16, 20)).shape == (2, 1, 16, 20)
    with pytest.raises(ValueError, match="multiples of 4"):
        network(torch.randn(1, 1, 16, 18))
    with pytest.raises(ValueError, match="positive width"):
        ImageUNet(())
