"""The two networks and the gradient penalty, against closed forms."""

import pytest
import torch
from torch import nn

from cryomend.noise import NoiseCritic, NoiseGenerator, gradient_penalty
from cryomend.noise.networks import initialise_weights


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
    patches = generator(torch.randn(3, 10, generator=rng()))
    assert patches.shape == (3, patch, patch)
    assert critic(patches).shape == (3,)


def test_published_widths_are_the_default():
    widths = [m.out_channels for m in NoiseGenerator(128).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert widths == [1024, 512, 256, 128, 64, 1]


def test_output_reaches_the_tails_and_no_further_than_the_reach():
    generator = NoiseGenerator(32, width=2, latent=4, reach=6.0)
    with torch.no_grad():
        generator.layers[-1].weight.mul_(1e3)
        patches = generator(torch.randn(8, 4, generator=rng()))
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
