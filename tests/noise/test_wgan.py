"""The training loop: resuming, its clock, its checkpoint."""

from pathlib import Path

import pytest
import torch

from cryomend.config import NoiseConfig
from cryomend.io import InputError
from cryomend.noise import train_wgan
from cryomend.noise.wgan import load_checkpoint, new_state, save_checkpoint

CONFIG = NoiseConfig(width=2, latent=8, steps=4, critic_steps=2, batch=8)


@pytest.fixture
def patches():
    return torch.randn(20, 32, 32, generator=torch.Generator().manual_seed(7))


def train(patches, steps, state=None, config=CONFIG):
    return train_wgan(
        patches, state or new_state(32, config, seed=3), config.model_copy(update={"steps": steps})
    )


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, patches):
    whole = train(patches, 4)
    save_checkpoint(tmp_path / "half.safetensors", train(patches, 2), CONFIG)
    resumed = train(
        patches, 4, load_checkpoint(tmp_path / "half.safetensors", new_state(32, CONFIG, seed=99))
    )
    assert resumed.step == whole.step == 4
    for name in ("generator", "critic", "average"):
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
    # Untrained, the generator is nearly flat: any critic worth its name finds the difference.
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
    state = train(patches[:3], 1, config=CONFIG.model_copy(update={"batch": 64}))
    assert state.step == 1


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
