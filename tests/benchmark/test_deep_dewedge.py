"""DeepDeWedge: the masks, the loss, the filling of the wedge, and a fit that is reproducible."""

import re

import numpy as np
import pytest
import torch

from cryomend.benchmark.deep_dewedge import (
    DeWedgeBatch,
    DeWedgeFit,
    HalfTomograms,
    dewedge_loss,
    restore_deep_dewedge,
)
from cryomend.benchmark.fitting import build_seeded, fit_network
from cryomend.evaluation import correlation
from cryomend.fourier import gaussian_lowpass
from cryomend.geometry import missing_wedge_mask
from cryomend.network.unet import RestorationUNet

RANGE = (-60.0, 60.0)
SMALL = DeWedgeFit(crop=16, batch=2, channels=(8, 16), refills=1)


def specimen(side=32):
    density = gaussian_lowpass(torch.randn(side, side, side, generator=torch.Generator().manual_seed(0)), 2.0)
    return density / density.std()


def noisy_halves(side=32, noise=1.0):
    generator = torch.Generator().manual_seed(1)
    measured = missing_wedge_mask((side, side, side), tilt_min=RANGE[0], tilt_max=RANGE[1])
    seen = torch.fft.ifftn(torch.fft.fftn(specimen(side)) * measured).real
    return [seen + noise * torch.randn(seen.shape, generator=generator) for _ in range(2)]


def wave(k_zyx, side=32):
    """A plane wave of so many periods along each axis."""
    z, y, x = torch.meshgrid(*[torch.arange(side) / side] * 3, indexing="ij")
    return torch.cos(2 * torch.pi * (k_zyx[0] * z + k_zyx[1] * y + k_zyx[2] * x))


def drawn(seed=0, batch=4, volume=None, crop=16):
    halves = HalfTomograms(torch.randn(2, 24, 28, 32) if volume is None else volume, RANGE)
    return halves.draw(DeWedgeFit(crop=crop, batch=batch), np.random.default_rng(seed))


def outside(crops, mask):
    """The largest Fourier component where a mask is False, over the largest of all."""
    spectrum = torch.fft.fftn(crops, dim=(-3, -2, -1)).abs()
    return float((spectrum * ~mask).max() / spectrum.max())


def test_the_loss_is_the_published_formula_summed_over_fourier_space():
    batch = drawn()
    restored = torch.randn(batch.target.shape)
    error = torch.fft.fftn(restored - batch.target, dim=(-3, -2, -1)).abs().square() / 16**3
    seen = (error * (batch.measured & batch.kept)).mean()
    removed = (error * (batch.measured & ~batch.kept)).mean()
    torch.testing.assert_close(dewedge_loss(restored, batch, wedge_weight=2.0), seen + 2 * removed)


def test_the_loss_does_not_see_what_the_target_lacks():
    batch = drawn()
    spectrum = torch.fft.fftn(torch.randn(batch.target.shape), dim=(-3, -2, -1)) * ~batch.measured
    restored = batch.target + torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real
    assert float(dewedge_loss(restored, batch, wedge_weight=2.0)) < 1e-9
    assert float(dewedge_loss(-batch.target, batch, wedge_weight=2.0)) > 0.1


def test_the_wedge_of_the_input_is_empty_and_that_of_the_target_is_not():
    batch = drawn()
    assert outside(batch.given, batch.kept) < 1e-5
    assert outside(batch.target, batch.kept) > 0.1


@pytest.mark.parametrize(("k_zyx", "is_measured"), [((0, 0, 8), True), ((4, 0, 8), True), ((8, 0, 0), False)])
def test_the_mask_turns_with_the_tomogram(k_zyx, is_measured):
    batch = drawn(volume=wave(k_zyx).expand(2, 32, 32, 32), batch=8, crop=32)
    window = torch.hann_window(32, periodic=True)
    window = window[:, None, None] * window[:, None] * window
    for target, measured in zip(batch.target[:, 0], batch.measured[:, 0], strict=True):
        peak = int(torch.fft.fftn(target * window).abs().argmax())
        assert bool(measured.flatten()[peak]) is is_measured


def test_input_and_target_are_the_two_halves_turned_alike():
    batch = drawn(volume=torch.stack(noisy_halves(noise=0)), batch=6)
    seen = torch.fft.fftn(batch.target, dim=(-3, -2, -1)) * batch.kept
    assert correlation(batch.given, torch.fft.ifftn(seen, dim=(-3, -2, -1)).real) > 0.95


def test_refilling_changes_the_wedge_of_the_inputs_and_nothing_else():
    fit, in_wedge = DeWedgeFit(crop=16, batch=6), wave((6, 0, 0))
    halves = HalfTomograms(torch.randn(2, 32, 32, 32), RANGE)
    before = halves.draw(fit, np.random.default_rng(0))
    halves.refill(lambda volume: -3 * volume)  # nothing of it is inside the wedge
    unchanged = halves.draw(fit, np.random.default_rng(0))
    torch.testing.assert_close(unchanged.given, before.given, atol=1e-4, rtol=0)
    halves.refill(lambda volume: in_wedge)
    filled = halves.draw(fit, np.random.default_rng(0))
    torch.testing.assert_close(filled.target, before.target)
    power = (filled.given - before.given).square().mean(dim=(1, 2, 3, 4))
    assert float(power.max()) > 0.3  # a wave of amplitude 1 has 0.5 wherever it was turned out of the wedge
    assert halves.refilled == 2


def test_the_fit_lowers_the_loss():
    halves = HalfTomograms(torch.stack(noisy_halves(noise=0.3)), RANGE)
    network = build_seeded(lambda: RestorationUNet((8, 16)), seed=0, device="cpu")
    rng, losses = np.random.default_rng(0), []

    def draw_loss(share):
        batch = halves.draw(SMALL, rng)
        loss = dewedge_loss(network(batch.given), batch, wedge_weight=2.0)
        losses.append(loss.item())
        return loss

    fit_network(network, draw_loss, steps=40, seconds=None, learning_rate=3e-3)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


def test_a_restoration_is_nearer_to_the_truth_and_keeps_contrast_and_grey_levels():
    even, odd = noisy_halves()
    fit = DeWedgeFit(crop=16, batch=2, channels=(8, 16), learning_rate=3e-3, refills=1)
    told = []
    restored = restore_deep_dewedge(
        7 - 0.1 * even, 7 - 0.1 * odd, tilt_range=RANGE, steps=100, fit=fit,
        progress=lambda share, text: told.append((share, text)),
    )  # fmt: skip
    assert correlation(-restored, specimen()) > correlation(even + odd, specimen()) + 0.05
    assert abs(float(restored.mean()) - 7) < 0.05
    assert [share for share, _ in told] == pytest.approx([(i + 1) / 100 for i in range(100)])
    assert re.fullmatch(r"step 100, loss \d\.\d+", told[-1][1])


def test_equal_seeds_give_equal_results_and_the_global_generator_is_left_alone():
    even, odd = noisy_halves(side=24)
    state = torch.get_rng_state()
    first, again, other = (
        restore_deep_dewedge(even, odd, tilt_range=RANGE, steps=3, fit=SMALL, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_seconds_end_the_fit_and_what_progress_raises_does_too():
    even, odd = noisy_halves(side=24)
    shares = []
    how = {"tilt_range": RANGE, "fit": SMALL}
    restore_deep_dewedge(even, odd, seconds=0.2, progress=lambda share, text: shares.append(share), **how)
    assert shares[-1] == 1

    def stop(share, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_deep_dewedge(even, odd, steps=1000, progress=stop, **how)


def test_halves_that_teach_nothing_are_refused():
    even, odd = noisy_halves(side=24)
    how = {"tilt_range": RANGE, "steps": 1, "fit": SMALL}
    with pytest.raises(ValueError, match="two halves"):
        restore_deep_dewedge(even, odd[1:], **how)
    with pytest.raises(ValueError, match="identical"):
        restore_deep_dewedge(even, even, **how)
    with pytest.raises(ValueError, match="tilt"):
        restore_deep_dewedge(even, odd, **{**how, "tilt_range": (-95.0, 60.0)})
    with pytest.raises(ValueError, match="multiples"):
        restore_deep_dewedge(even, odd, **{**how, "fit": DeWedgeFit(crop=18, channels=(8, 16))})
    with pytest.raises(ValueError, match="steps or seconds"):
        restore_deep_dewedge(even, odd, tilt_range=RANGE, fit=SMALL)
    with pytest.raises(FloatingPointError, match="learning rate"):
        restore_deep_dewedge(even, odd, **{**how, "steps": 9, "fit": DeWedgeFit(16, 2, (8, 16), False, 1e30)})


def test_a_batch_says_what_it_is_made_of():
    batch = drawn(batch=3)
    assert isinstance(batch, DeWedgeBatch)
    assert batch.given.shape == batch.target.shape == batch.measured.shape == (3, 1, 16, 16, 16)
    assert batch.kept.shape == (16, 16, 16)
