import math

import pytest
import torch

from cryomend.config import TrainingConfig
from cryomend.io import InputError
from cryomend.training.crops import prepare_pair
from cryomend.training.loop import Trainer, learning_rate

CONFIG = TrainingConfig(
    channels=(4, 4), crop=16, batch=1, steps=6, warm_up=2, rotation_share=0.5, recon_share=0.5
)


def pairs(count=2):
    rng = torch.Generator().manual_seed(0)
    density = torch.zeros(32, 32, 32)
    density[12:20, 10:22, 12:20] = 3
    return [prepare_pair(-density + torch.randn(32, 32, 32, generator=rng), density) for _ in range(count)]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.network.parameters()])


def test_learning_rate_warms_up_and_falls_to_zero():
    config = TrainingConfig(learning_rate=1e-3, warm_up=10)
    assert learning_rate(0.0, 0, config) == pytest.approx(1e-4)
    assert learning_rate(0.0, 9, config) == pytest.approx(1e-3)
    assert learning_rate(0.5, 500, config) == pytest.approx(5e-4)
    assert learning_rate(1.0, 1000, config) == pytest.approx(0, abs=1e-12)


def test_equal_seeds_train_equal_weights():
    a, b = Trainer(CONFIG, pairs(), seed=1), Trainer(CONFIG, pairs(), seed=1)
    a.run()
    b.run()
    assert torch.equal(weights(a), weights(b))


def test_resumed_training_ends_at_the_weights_of_an_uninterrupted_run(tmp_path):
    straight, first = Trainer(CONFIG, pairs(), seed=2), Trainer(CONFIG, pairs(), seed=2)
    straight.run()
    for _ in range(3):
        first.take_step()
    first.save(tmp_path / "checkpoint")
    second = Trainer(CONFIG, pairs(), seed=99)
    second.load(tmp_path / "checkpoint")
    second.run()
    assert torch.equal(weights(straight), weights(second))
    assert all(torch.equal(straight.average[k], second.average[k]) for k in straight.average)


def test_a_network_overfits_one_crop():
    config = CONFIG.model_copy(
        update={"steps": 150, "rotation_share": 0.0, "lambda_recon": 0.0, "learning_rate": 5e-3}
    )
    trainer = Trainer(config, pairs(1), seed=0)
    losses = [trainer.take_step() for _ in range(150)]
    assert sum(losses[-10:]) < 0.35 * sum(losses[:10])


def test_best_weights_are_those_of_the_best_validation_score():
    trainer = Trainer(CONFIG, pairs(), pairs(1), seed=0)
    trainer.run()
    assert -1 <= trainer.best_score <= 1
    best = trainer.best_network()
    assert all(torch.equal(best.state_dict()[k], trainer.best[k]) for k in trainer.best)


def test_a_loss_that_is_not_finite_stops_the_run():
    trainer = Trainer(CONFIG, pairs(), seed=0)
    next(trainer.network.parameters()).data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        trainer.take_step()


def test_checkpoints_of_another_network_and_other_files_are_refused(tmp_path):
    Trainer(CONFIG, pairs(), seed=0).save(tmp_path / "checkpoint")
    other = Trainer(CONFIG.model_copy(update={"channels": (4, 6)}), pairs(), seed=0)
    with pytest.raises(InputError, match=r"checkpoint of a network .*4, 4.* asks for .*4, 6"):
        other.load(tmp_path / "checkpoint")
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(InputError, match="not a training checkpoint"):
        other.load(tmp_path / "text")
