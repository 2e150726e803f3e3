import math

import pytest
import torch

from cryomend.config import TrainingConfig
from cryomend.io import InputError
from cryomend.training.crops import prepare_pair
from cryomend.training.loop import Trainer, learning_rate
from cryomend.training.monitor import Monitor

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


def test_a_gradient_that_is_not_finite_leaves_the_weights_and_names_the_crops(monkeypatch):
    trainer = Trainer(CONFIG, pairs(), seed=7)
    trainer.take_step()
    before = weights(trainer).clone()
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    says = r"the gradient is not finite at step 1 \(seed 7, crops 1 to 1\); there is no checkpoint yet"
    with pytest.raises(FloatingPointError, match=says):
        trainer.take_step()
    assert torch.equal(weights(trainer), before)


def test_a_run_that_breaks_names_its_last_good_checkpoint_and_leaves_it(tmp_path):
    trainer, path = Trainer(CONFIG, pairs(), seed=0), tmp_path / "checkpoint"

    def save_then_poison(trainer, loss):
        if trainer.step == 2:
            trainer.save(path)
        if trainer.step == 3:
            next(trainer.network.parameters()).data.fill_(math.nan)

    says = rf"the loss is nan at step 3 .*; the last good checkpoint is {path} of step 2; lower training"
    with pytest.raises(FloatingPointError, match=says):
        trainer.run(checkpoint=path, every_minutes=1e9, on_step=save_then_poison)
    resumed = Trainer(CONFIG, pairs(), seed=0)
    resumed.load(path)
    assert torch.isfinite(weights(resumed)).all()


def test_validation_writes_scores_and_a_picture_every_so_many_steps(tmp_path):
    config = CONFIG.model_copy(update={"validate_every": 2})
    Trainer(config, pairs(), pairs(2), seed=0).run(monitor=Monitor(tmp_path))
    lines = (tmp_path / "validation.csv").read_text().split()
    assert lines[0] == "step,correlation,wedge_correlation,wedge_fsc,measured_fsc"
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4", "6"]
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [f"step_{i:06d}.png" for i in (2, 4, 6)]
    assert (tmp_path / "steps.csv").read_text().startswith("step,loss,learning_rate,samples_per_second,stall")
    assert not list(tmp_path.glob("*.partial"))


class Stream:
    """Pairs without end, with a state."""

    def __init__(self):
        self.made = 0

    def draw(self, rng):
        self.made += 1
        return prepare_pair(
            torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(self.made)),
            torch.zeros(32, 32, 32),
        )

    def state(self):
        return {"made": self.made}

    def restore(self, state):
        self.made = state["made"]


def test_pairs_may_come_from_a_stream_whose_state_is_kept(tmp_path):
    straight, first = Trainer(CONFIG, Stream(), seed=0), Trainer(CONFIG, Stream(), seed=0)
    straight.run()
    for _ in range(2):
        first.take_step()
    first.save(tmp_path / "c")
    second = Trainer(CONFIG, Stream(), seed=0)
    second.load(tmp_path / "c")
    assert second.pairs.made == 2
    second.run()
    assert torch.equal(weights(straight), weights(second))
    second.pairs.last_seed = 77
    next(second.network.parameters()).data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="crops 6 to 6, last of the pair of seed 77"):
        second.take_step()


def test_speed_and_stall_are_measured():
    trainer = Trainer(CONFIG, pairs(), seed=0)
    assert (trainer.samples_per_second, trainer.stall) == (0.0, 0.0)
    trainer.run()
    assert trainer.samples_per_second > 0
    assert 0 < trainer.stall < 1


@pytest.mark.parametrize(
    "change",
    [
        {"residual": True},
        {"wedge_weight": 2.0},
        {"rotation_share": 0.0},
        {"precision": "bfloat16"},
        {"stem": "double", "encoder_convs": 1},
        {"lambda_recon": 0.0},
        {"balance": 1.0},
    ],
)
def test_every_switch_trains(change):
    trainer = Trainer(CONFIG.model_copy(update=change), pairs(), pairs(1), seed=0)
    trainer.run()
    assert torch.isfinite(weights(trainer)).all()
    assert all(p.dtype == torch.float32 for p in trainer.network.parameters())
    assert -1 <= trainer.best_score <= 1


def test_a_residual_network_begins_with_its_input():
    plain, residual = (
        Trainer(CONFIG.model_copy(update={"residual": r}), pairs(), seed=3) for r in (False, True)
    )
    x = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(residual.network(x), plain.network(x) + x)


class Counted:
    """A source of pairs that can fail, and whose state is the number of its draws."""

    def __init__(self, fails_at=None):
        self.pairs, self.draws, self.fails_at = pairs(), 0, fails_at

    def draw(self, rng):
        self.draws += 1
        if self.draws == self.fails_at:
            raise InputError("no more pairs")
        return self.pairs[int(rng.integers(len(self.pairs)))]

    def state(self):
        return {"draws": self.draws}


def test_crops_drawn_ahead_are_those_of_the_steps_and_no_checkpoint_counts_them(tmp_path, one_thread):
    ahead, plain = (Trainer(CONFIG, Counted(), seed=4) for _ in range(2))
    with ahead.drawing_ahead():
        for _ in range(3):
            ahead.take_step()
        ahead.save(tmp_path / "a")
        assert ahead._stream_state == {"draws": 3 * CONFIG.batch}
    assert ahead.pairs.draws == 4 * CONFIG.batch
    for _ in range(3):
        plain.take_step()
    assert torch.equal(weights(ahead), weights(plain))


def test_what_fails_ahead_is_raised_by_the_step_that_needs_it():
    trainer = Trainer(CONFIG, Counted(fails_at=2 * CONFIG.batch), seed=4)
    with trainer.drawing_ahead():
        trainer.take_step()
        with pytest.raises(InputError, match="no more pairs"):
            trainer.take_step()
    last = Trainer(CONFIG, Counted(fails_at=2 * CONFIG.batch), seed=4)
    with last.drawing_ahead():
        last.take_step()  # and no step follows


def test_compiling_changes_nothing_but_the_call(monkeypatch):
    calls = []

    def record(network):
        def run(x):
            calls.append(x.shape)
            return network(x)

        return run

    monkeypatch.setattr(torch, "compile", record)
    compiled = Trainer(CONFIG.model_copy(update={"compile_network": True}), pairs(), pairs(1), seed=0)
    plain = Trainer(CONFIG, pairs(), pairs(1), seed=0)
    compiled.run()
    plain.run()
    assert torch.equal(weights(compiled), weights(plain))
    assert set(calls) == {(1, 1, 16, 16, 16)}  # not those of the validation


def test_a_gradient_that_is_not_finite_in_bfloat16_is_found_again(monkeypatch):
    """What PyTorch's bfloat16 gradients on a CPU do now and then must not end a run."""
    steady, unsteady = (
        Trainer(CONFIG.model_copy(update={"precision": "bfloat16"}), pairs(), seed=2) for _ in range(2)
    )
    tried = []
    find = Trainer._find_gradient

    def fail_at_first(trainer, batch, dtype):
        loss, norm = find(trainer, batch, dtype)
        tried.append(dtype)
        return loss, norm if len(tried) % 3 else math.nan

    steady.take_step()
    monkeypatch.setattr(Trainer, "_find_gradient", fail_at_first)
    unsteady.take_step()
    assert tried == [torch.bfloat16]
    unsteady.take_step()
    unsteady.take_step()
    assert tried == [torch.bfloat16] * 4  # the third was not finite
    monkeypatch.setattr(Trainer, "_find_gradient", lambda *_: (1.0, math.nan))
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 3"):
        unsteady.take_step()


def test_a_start_that_nothing_beats_is_what_is_kept(monkeypatch):
    start = Trainer(CONFIG, pairs(), pairs(1), seed=0)
    initial = {k: v.clone() for k, v in start.network.state_dict().items()}
    trainer = Trainer(CONFIG, pairs(), pairs(1), seed=1, initial=initial)
    scores = iter([0.9] + [0.1] * 99)
    monkeypatch.setattr(Trainer, "_score", lambda self: ({"correlation": next(scores)}, None))
    trainer.run()
    assert trainer.best_score == 0.9
    assert all(torch.equal(trainer.best[k], v) for k, v in initial.items())
    assert not torch.equal(weights(trainer), torch.cat([v.flatten() for v in initial.values()]))


def test_the_result_lies_between_the_start_and_what_was_learned():
    initial = {k: v.clone() for k, v in Trainer(CONFIG, pairs(), seed=0).network.state_dict().items()}
    config = CONFIG.model_copy(update={"keep_start": 0.25})
    trainer = Trainer(config, pairs(), pairs(1), seed=1, initial=initial)
    trainer.run()
    learned, score = {k: v.clone() for k, v in trainer.best.items()}, trainer.best_score
    trainer.best = {k: v + 1 for k, v in learned.items()}
    trainer.mix_with_start()
    for key, value in trainer.best_network().state_dict().items():
        torch.testing.assert_close(value, 0.25 * initial[key] + 0.75 * (learned[key] + 1))
    assert trainer.best_score != score  # it is that of the mean
    without = Trainer(config, pairs(), seed=1)
    without.mix_with_start()
    assert all(torch.equal(without.best[k], v) for k, v in without.network.state_dict().items())
