import numpy as np
import pytest
import torch

from cryomend.config import TrainingConfig
from cryomend.geometry import missing_wedge_mask
from cryomend.training.crops import prepare_pair
from cryomend.training.sampling import draw_batch

CONFIG = TrainingConfig(channels=(4, 4), crop=16, batch=2, rotation_share=0.5, lambda_recon=0.1)


def pairs(tilt_range=(-40.0, 65.0)):
    rng = torch.Generator().manual_seed(0)
    return [
        prepare_pair(torch.randn(32, 32, 32, generator=rng), torch.zeros(32, 32, 32), tilt_range=tilt_range)
        for _ in range(3)
    ]


def draw(config=CONFIG, first=0, own=None, seed=0, **how):
    return draw_batch(
        pairs(**how),
        config,
        seed=seed,
        step_first=first,
        own_first=first if own is None else own,
        device="cpu",
    )


def test_two_processes_draw_the_crops_of_one_with_the_doubled_batch():
    one = draw(CONFIG.model_copy(update={"batch": 4}), first=8)
    halves = [draw(first=8, own=own) for own in (8, 10)]
    for name in ("tomogram", "density", "kept"):
        assert torch.equal(getattr(one, name), torch.cat([getattr(half, name) for half in halves])), name


def test_no_two_steps_share_a_crop_and_equal_seeds_draw_equal_crops():
    assert torch.equal(draw(first=2).tomogram, draw(first=2).tomogram)
    assert not torch.equal(draw(first=2).tomogram, draw(first=4).tomogram)
    assert not torch.equal(draw(first=2).tomogram, draw(first=2, seed=1).tomogram)


def test_the_second_task_is_trained_in_the_asked_share_of_steps_and_never_without_weight():
    config = CONFIG.model_copy(update={"recon_share": 0.3, "rotation_share": 0.0, "batch": 1})
    share = np.mean([draw(config, first=step).kept is not None for step in range(200)])
    assert share == pytest.approx(0.3, abs=0.1)
    assert draw(CONFIG.model_copy(update={"lambda_recon": 0.0})).kept is None


@pytest.mark.parametrize("tilt_range", [(-40.0, 65.0), (-70.0, 50.0)])
def test_a_turned_crop_loses_the_wedge_of_its_own_data_in_the_true_pose(tilt_range):
    low, high = tilt_range
    kept = draw(CONFIG.model_copy(update={"rotation_share": 1.0}), tilt_range=tilt_range).kept
    expected = missing_wedge_mask((16, 16, 16), tilt_min=low, tilt_max=high)
    expected = expected & expected.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    assert torch.equal(kept[0, 0], expected) and torch.equal(kept[1, 0], expected)


def test_a_crop_in_the_true_pose_loses_a_turned_wedge_of_the_same_width():
    config = CONFIG.model_copy(update={"rotation_share": 0.0, "crop": 32, "batch": 6})
    kept = draw(config).kept[:, 0]
    k = torch.fft.fftfreq(32)
    ball = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2 < 0.23) & (k[:, None, None] ** 2 + k**2 > 0)
    shares = kept[:, ball].float().mean(1)
    np.testing.assert_allclose(shares, 105 / 180, atol=0.03)
    assert len({mask.numpy().tobytes() for mask in kept}) == 6


def test_the_own_wedge_is_drawn_only_for_a_loss_that_asks():
    assert draw().measured is None
    batch = draw(CONFIG.model_copy(update={"wedge_weight": 1.0, "rotation_share": 0.0}))
    assert batch.measured.shape == batch.tomogram.shape
    # The mirror image of a single-axis wedge along Y is itself; along Z and X together as well.
    ranges = ((-40.0, 65.0), (-65.0, 40.0))
    wedges = [missing_wedge_mask((16, 16, 16), tilt_min=a, tilt_max=b) for a, b in ranges]
    wedges = [w & w.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2)) for w in wedges]
    assert all(any(torch.equal(m[0], w) for w in wedges) for m in batch.measured)


def test_thin_specimens_count_more_and_crowded_ones_less_up_to_four_times():
    config = CONFIG.model_copy(update={"balance": 1.0, "batch": 1, "rotation_share": 0.0})
    for value, weight in ((0.5, 2.0), (0.1, 4.0), (1.0, 0.5), (4.0, 0.25), (0.0, 4.0)):
        tomogram = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
        pair = prepare_pair(tomogram, torch.full((16, 16, 16), value))
        batch = draw_batch([pair], config, seed=0, step_first=0, own_first=0, device="cpu")
        assert batch.importance.tolist() == pytest.approx([weight], rel=1e-3)
    assert draw().importance is None
