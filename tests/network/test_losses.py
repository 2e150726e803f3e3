import pytest
import torch
from torch import nn

from cryomend.geometry import missing_wedge_mask
from cryomend.network.losses import multi_task_loss, remove_wedge


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
    both = multi_task_loss(nn.Identity(), x, y, measured=mask, weight=0.1)
    assert both.item() == pytest.approx((plain + 0.1 * remove_wedge(x, mask).square().mean()).item())
    assert multi_task_loss(nn.Identity(), x, y, measured=None, weight=0.1) == plain
    assert multi_task_loss(nn.Identity(), x, y, measured=mask, weight=0.0) == plain
