"""The training loop: resuming, its clock, its checkpoint."""

from pathlib import Path

import pytest
import torch

from cryomend.config import NoiseConfig
from cryomend.io import InputError
from cryomend.noise import estimate_power_spectrum, train_wgan
from cryomend.noise.spectral import measure_whitening
from cryomend.noise.wgan import RealNoise, load_checkpoint, new_state, resolve_config, save_checkpoint

CONFIG = NoiseConfig(width=2, latent=8, steps=4, critic_steps=2, batch=8, learning_rate=1e-4)
TOLD = CONFIG.model_copy(update={"conditioning": "angle"})


def real_noise(patches, angle=float("nan")):
    whitening = measure_whitening(patches, estimate_power_spectrum(patches))
    return RealNoise(patches, torch.full((len(patches),), angle), whitening)


@pytest.fixture
def patches():
    return real_noise(torch.randn(20, 32, 32, generator=torch.Generator().manual_seed(7)), angle=30.0)


def train(patches, steps, state=None, config=CONFIG):
    state = state or new_state(32, config, seed=3)
    return train_wgan(patches, state, config.model_copy(update={"steps": steps}))


@pytest.mark.parametrize("config", [CONFIG, TOLD])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, patches, config):
    whole = train(patches, 4, config=config)
    save_checkpoint(tmp_path / "half.safetensors", train(patches, 2, config=config), config)
    fresh = new_state(32, config, seed=99)
    resumed = train(patches, 4, load_checkpoint(tmp_path / "half.safetensors", fresh), config=config)
    assert resumed.step == whole.step == 4
    for name in ("generator", "critic", "average", "best"):
        expected, found = getattr(whole, name).state_dict(), getattr(resumed, name).state_dict()
        for key, value in expected.items():
            assert torch.equal(value, found[key]), f"{name}.{key}"


def test_equal_seeds_train_equally_and_every_step_changes_the_weights(patches):
    first, second, longer = train(patches, 2), train(patches, 2), train(patches, 3)
    for a, b, c in zip(*(s.generator.parameters() for s in (first, second, longer)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_the_critic_learns_to_score_real_patches_higher(patches):
    distances = []
    config = CONFIG.model_copy(update={"learning_rate": 1e-3, "critic_steps": 10, "steps": 6})
    # A mean patch that the generator cannot have: any critic worth its name finds the difference.
    wave = 3 * torch.sin(torch.arange(32) / 3).expand(32, 32)
    patches.patches = patches.patches + wave
    train_wgan(
        patches,
        new_state(32, config, seed=3),
        config,
        on_step=lambda _, loss: distances.append(loss["distance"]),
    )
    assert len(distances) == 6
    assert distances[-1] > max(0.1, 2 * distances[0])


def test_no_step_is_made_when_time_is_up(patches):
    state = train_wgan(patches, new_state(32, CONFIG, seed=3), CONFIG, max_minutes=0.0)
    assert state.step == 0


def test_the_batch_is_clipped_to_the_patches(patches):
    config = CONFIG.model_copy(update={"batch": 64})
    assert train(patches, 1, config=config).step == 1


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path, patches):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, train(patches, 1), CONFIG)
    other = CONFIG.model_copy(update={"width": 3})
    with pytest.raises(InputError, match="made with another patch size or width; start without --resume"):
        load_checkpoint(path, new_state(32, other, seed=3))
    with pytest.raises(InputError, match="no such file; start without --resume"):
        load_checkpoint(tmp_path / "absent", new_state(32, CONFIG, seed=3))
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(InputError, match="not a checkpoint of a noise fit"):
        load_checkpoint(path, new_state(32, CONFIG, seed=3))


def test_scores_stop_the_training_and_the_best_generator_is_kept(patches):
    scores = iter([3.0, 1.0, 2.0, 2.5, 9.0])
    seen = []

    def validate(generator):
        seen.append({k: v.clone() for k, v in generator.state_dict().items()})
        return next(scores)

    config = CONFIG.model_copy(update={"steps": 100, "validate_every": 2, "patience": 2})
    state = train_wgan(patches, new_state(32, config, seed=3), config, validate=validate)
    assert state.scores == [3.0, 1.0, 2.0, 2.5]
    assert state.step == 6
    for key, value in seen[1].items():
        assert torch.equal(state.best.state_dict()[key], value), key


def test_scores_and_the_best_generator_survive_a_checkpoint(tmp_path: Path, patches):
    config = CONFIG.model_copy(update={"validate_every": 1, "patience": 3, "steps": 2})
    state = train_wgan(patches, new_state(32, config, seed=3), config, validate=lambda g: 0.5)
    save_checkpoint(tmp_path / "c", state, config)
    back = load_checkpoint(tmp_path / "c", new_state(32, config, seed=8))
    assert back.scores == [0.5, 0.5, 0.5]
    assert back.stale == 2
    for key, value in state.best.state_dict().items():
        assert torch.equal(back.best.state_dict()[key], value)


def test_imitations_are_what_the_critic_sees_of_real_patches(patches):
    state = new_state(32, CONFIG, seed=3)
    made = patches.imitate(state.generator, patches.conditions[:16], state.rng)
    real, conditions = patches.draw(16, state.rng, flips=True)
    assert made.shape == real.shape == (16, 32, 32)
    assert conditions.shape == (16, 2)
    # Both are white noise of about unit variance here, whitened on the patch.
    assert made.std().item() == pytest.approx(real.std().item(), rel=0.35)


def test_mirrored_patches_keep_their_pixels_and_rows_stay_rows(patches):
    stripes = torch.arange(32.0).expand(32, 32)
    patches.patches = stripes.expand(20, 32, 32).clone()
    drawn, _ = patches.draw(20, torch.Generator().manual_seed(0), flips=True)
    assert (drawn[:, 0] == drawn[:, 5]).all()  # never turned
    assert {float(row[0, 0]) for row in drawn} == {0.0, 31.0}


def test_the_device_decides_what_the_configuration_leaves_open():
    left_open = NoiseConfig()
    published, small = resolve_config(left_open, "cuda"), resolve_config(left_open, "cpu")
    assert (published.width, published.batch, published.critic_steps) == (64, 64, 5)
    assert published.learning_rate == 1e-4
    assert small.width < 64
    assert resolve_config(NoiseConfig(width=3, batch=5), "cuda").batch == 5
