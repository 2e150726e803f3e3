"""The two networks and the gradient penalty, against closed forms."""

import pytest
import torch
from torch import nn

from cryomend.noise import NoiseCritic, NoiseGenerator, gradient_penalty
from cryomend.noise.networks import _grow, initialise_weights, tilt_conditions


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class LinearCritic(nn.Module):
    """``<w, x>``: its slope is w everywhere."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, patches):
        return (patches * self.weight).sum(dim=(1, 2))


@pytest.mark.parametrize(("norm", "penalty"), [(1.0, 0.0), (2.0, 10.0), (0.0, 10.0), (4.0, 90.0)])
def test_penalty_of_a_linear_critic_is_lambda_times_norm_minus_one_squared(norm, penalty):
    direction = torch.randn(8, 8, generator=rng())
    critic = LinearCritic(norm * direction / direction.norm())
    real, fake = torch.randn(2, 5, 8, 8, generator=rng(1))
    found = gradient_penalty(critic, real, fake, weight=10.0, generator=rng())
    assert found.item() == pytest.approx(penalty, abs=1e-4)


def test_penalty_is_taken_per_sample_before_the_mean():
    class Quadratic(nn.Module):
        def forward(self, patches):
            return 0.5 * patches.square().sum(dim=(1, 2))  # the slope at x is x itself

    # real = fake, so slopes are taken at the samples; norms 1 and 3 give (0 + 4) / 2, pooled they would not.
    samples = torch.zeros(2, 4, 4)
    samples[0, 0, 0], samples[1, 0, 0] = 1.0, 3.0
    found = gradient_penalty(Quadratic(), samples, samples, weight=1.0, generator=rng())
    assert found.item() == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize(("patch", "blocks"), [(32, 3), (64, 4), (128, 5), (256, 6)])
def test_blocks_follow_the_patch_side(patch, blocks):
    generator, critic = NoiseGenerator(patch, width=2, latent=10), NoiseCritic(patch, width=2)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in generator.modules()) == blocks
    assert sum(isinstance(m, nn.LeakyReLU) for m in critic.modules()) == blocks
    patches = generator(generator.draw_latent(3, (4, 4), rng()), rng())
    assert patches.shape == (3, patch, patch)
    assert critic(patches).shape == (3,)


def test_published_widths_are_the_default():
    widths = [m.out_channels for m in NoiseGenerator(128).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert widths == [1024, 512, 256, 128, 64, 1]


def test_output_reaches_the_tails_and_no_further_than_the_reach():
    generator = NoiseGenerator(32, width=2, latent=4, reach=6.0)
    with torch.no_grad():
        initialise_weights(generator, rng())
        generator.out.weight.mul_(1e3)
        patches = generator(generator.draw_latent(8, (4, 4), rng()), rng())
    assert 5.9 < patches.abs().max() <= 6.0


def test_score_of_a_patch_does_not_depend_on_the_others():
    critic = NoiseCritic(32, width=4)
    initialise_weights(critic, rng())
    patches = torch.randn(4, 32, 32, generator=rng())
    torch.testing.assert_close(critic(patches)[:1], critic(patches[:1]), rtol=1e-4, atol=1e-6)


def test_critic_sees_the_amplitude_of_a_patch():
    torch.manual_seed(0)
    critic = NoiseCritic(32, width=8)
    patches = torch.randn(16, 32, 32, generator=rng())
    # Biases of the first block, which has no norm, set a scale; without it the scores would be equal.
    change = (critic(2 * patches) - critic(patches)).abs().mean()
    assert change > 0.01 * critic(patches).std()


def test_a_larger_latent_field_makes_a_larger_image():
    generator = NoiseGenerator(32, width=2, latent=4)
    made = generator(generator.draw_latent(2, (5, 9), rng()), rng())
    assert made.shape == (2, 40, 72)


def test_on_the_torus_a_shifted_latent_field_makes_the_shifted_image():
    generator = NoiseGenerator(32, width=4, latent=4).eval()
    with torch.no_grad():
        for block in generator.blocks:
            block.amplitude.zero_()  # its own noise is drawn pixel by pixel and does not shift
        latent = generator.draw_latent(1, (6, 7), rng())
        first = generator(latent, rng())
        second = generator(latent.roll((1, 2), dims=(2, 3)), rng())
    torch.testing.assert_close(second, first.roll((8, 16), dims=(1, 2)), rtol=1e-4, atol=1e-6)
    assert first.std() > 0


def test_growing_on_a_torus_is_pytorchs_layer_away_from_the_border():
    generator = NoiseGenerator(32, width=4, latent=4)
    layer = generator.blocks[1].convolution
    x = torch.randn(1, layer.in_channels, 6, 6, generator=rng())
    plain = nn.functional.conv_transpose2d(x, layer.weight, stride=2, padding=1)
    torch.testing.assert_close(
        _grow(x, layer)[:, :, 2:-2, 2:-2], plain[:, :, 2:-2, 2:-2], rtol=1e-4, atol=1e-6
    )


def test_an_untrained_generator_makes_nearly_white_noise_of_unit_variance():
    generator = NoiseGenerator(64, width=16)
    initialise_weights(generator, rng())
    with torch.no_grad():
        made = generator(generator.draw_latent(8, (8, 8), rng()), rng())
    assert made.std() == pytest.approx(1, abs=0.15)
    # The coarser blocks add a weak pattern of their own.
    assert (made[:, :, 1:] * made[:, :, :-1]).mean().abs() < 0.15 * made.var()


def test_conditions_change_nothing_before_training_and_unknown_angles_are_zero():
    torch.testing.assert_close(
        tilt_conditions(torch.tensor([0.0, 60.0, -60.0, float("nan")])),
        torch.tensor([[0, 0], [1, 0.75**0.5], [1, -(0.75**0.5)], [0, 0]]),
        rtol=1e-5,
        atol=1e-6,
    )
    told, plain = NoiseGenerator(32, width=2, latent=4, conditions=2), NoiseGenerator(32, width=2, latent=4)
    initialise_weights(told, rng())
    plain.load_state_dict(told.state_dict(), strict=False)
    latent = plain.draw_latent(3, (4, 4), rng())
    conditions = tilt_conditions(torch.tensor([0.0, 30.0, 60.0]))
    torch.testing.assert_close(told(latent, rng(), conditions), plain(latent, rng()))


def test_a_conditioned_critic_sees_the_conditions():
    critic = NoiseCritic(32, width=4, conditions=2)
    patches = torch.randn(1, 32, 32, generator=rng()).expand(2, 32, 32)
    scores = critic(patches, tilt_conditions(torch.tensor([0.0, 60.0])))
    assert scores[0] != scores[1]


def test_initial_weights_depend_on_the_generator_alone():
    first, second = NoiseGenerator(32, width=2), NoiseGenerator(32, width=2)
    initialise_weights(first, rng(3))
    initialise_weights(second, rng(3))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("network", [NoiseGenerator, NoiseCritic])
def test_other_patch_sides_are_refused(network):
    with pytest.raises(ValueError, match="patch must be 32, 64, 128 or 256 for the learned model, got 48"):
        network(48)
