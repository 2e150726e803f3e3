import pytest
import torch
from torch import nn

from cryomend.geometry import missing_wedge_mask
from cryomend.network.losses import CropBatch, multi_task_loss, remove_wedge, restoration_error


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_removing_a_wedge_twice_is_removing_it_once_and_leaves_nothing_in_it():
    x = noise(2, 1, 15, 15, 15)
    mask = missing_wedge_mask((15, 15, 15), tilt_min=-60, tilt_max=60)
    once = remove_wedge(x, mask)
    torch.testing.assert_close(remove_wedge(once, mask), once, atol=1e-5, rtol=1e-5)
    inside = torch.fft.fftn(once[0, 0])[~mask].abs().max()
    assert inside < 1e-5 * torch.fft.fftn(x[0, 0]).abs().max()


def test_one_mask_per_crop_equals_each_crop_alone():
    x = noise(2, 1, 8, 8, 8)
    masks = torch.stack([missing_wedge_mask((8, 8, 8), tilt_min=-t, tilt_max=t) for t in (40, 60)])[:, None]
    both = remove_wedge(x, masks)
    for i in (0, 1):
        torch.testing.assert_close(both[i], remove_wedge(x[i : i + 1], masks[i, 0])[0])


def test_loss_of_the_identity_network_has_its_closed_form():
    x, y = noise(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    mask = missing_wedge_mask((8, 8, 8), tilt_min=-60, tilt_max=60)
    plain = x.square().mean()
    both = multi_task_loss(nn.Identity(), CropBatch(x, y, kept=mask), weight=0.1)
    assert both.item() == pytest.approx((plain + 0.1 * remove_wedge(x, mask).square().mean()).item())
    assert multi_task_loss(nn.Identity(), CropBatch(x, y), weight=0.1) == plain
    assert multi_task_loss(nn.Identity(), CropBatch(x, y, kept=mask), weight=0.0) == plain


@pytest.mark.parametrize(("weight", "kept", "runs"), [(0.0, True, 1), (0.1, False, 1), (0.1, True, 2)])
def test_the_network_runs_twice_only_where_the_second_task_counts(weight, kept, runs):
    seen = []

    class Counted(nn.Identity):
        def forward(self, x):
            seen.append(x)
            return x

    mask = missing_wedge_mask((8, 8, 8), tilt_min=-60, tilt_max=60) if kept else None
    multi_task_loss(
        Counted(), CropBatch(noise(1, 1, 8, 8, 8), noise(1, 1, 8, 8, 8), kept=mask), weight=weight
    )
    assert len(seen) == runs


def test_weighting_the_wedge_obeys_parseval():
    x, y = noise(2, 1, 8, 9, 10), 0.3 * noise(2, 1, 8, 9, 10).flip(0)
    mask = missing_wedge_mask((8, 9, 10), tilt_min=-50, tilt_max=65)
    mask = mask & mask.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    plain = (x - y).square().mean()
    power = torch.fft.fftn(x - y, dim=(2, 3, 4)).abs() ** 2 / (8 * 9 * 10)
    weighted = restoration_error(x, y, measured=mask, wedge_weight=3.0)
    expected = power.mean() + 3 * (power * ~mask).mean()
    assert weighted.item() == pytest.approx(expected.item(), rel=1e-5)
    assert restoration_error(x, y, measured=mask, wedge_weight=0.0) == plain
    everywhere = restoration_error(x, y, measured=torch.zeros_like(mask), wedge_weight=3.0)
    assert everywhere.item() == pytest.approx(4 * plain.item(), rel=1e-5)


def test_the_removed_wedge_counts_as_missing_in_the_second_task():
    x = noise(1, 1, 8, 8, 8)
    all_measured = torch.ones(8, 8, 8, dtype=torch.bool)
    kept = missing_wedge_mask((8, 8, 8), tilt_min=-60, tilt_max=60)
    kept = kept & kept.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    target = noise(1, 1, 8, 8, 8).flip(2)

    def loss(wedge_weight):
        batch = CropBatch(x, target, kept=kept, measured=all_measured)
        return multi_task_loss(nn.Identity(), batch, weight=1.0, wedge_weight=wedge_weight).item()

    inside = (target - remove_wedge(target, kept)).square().mean().item()
    assert loss(2.0) - loss(0.0) == pytest.approx(2 * inside, rel=1e-4)


def test_importance_weighs_the_squared_error_of_each_crop():
    x, y = noise(2, 1, 8, 8, 8), torch.zeros(2, 1, 8, 8, 8)
    mask = missing_wedge_mask((8, 8, 8), tilt_min=-60, tilt_max=60)
    importance = torch.tensor([4.0, 0.5])

    def loss(x, importance=None):
        batch = CropBatch(x, torch.zeros_like(x), kept=mask, measured=mask, importance=importance)
        return multi_task_loss(nn.Identity(), batch, weight=0.3, wedge_weight=2.0)

    torch.testing.assert_close(loss(x, importance), (4 * loss(x[:1]) + 0.5 * loss(x[1:])) / 2)
    torch.testing.assert_close(restoration_error(x, y, measured=None, wedge_weight=0.0), x.square().mean())
