"""The mean over mirror images: what it leaves alone, and what it makes symmetric."""

import pytest
import torch

from cryomend.network.mirror import MIRRORS, MirroredNetwork
from cryomend.network.unet import RestorationUNet


@pytest.mark.parametrize("mirrors", [1, 2, 4, 8])
def test_the_mean_commutes_with_the_mirrors_it_is_taken_over_and_with_no_other(mirrors):
    torch.manual_seed(0)
    network = MirroredNetwork(RestorationUNet((4, 6)), mirrors)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        y = network(x)
        for i, axes in enumerate(MIRRORS):
            error = (network(x.flip(axes)) - y.flip(axes)).abs().max() / y.abs().max()
            assert (error < 1e-5) == (i < mirrors)
    assert network.multiple == network.network.multiple


def test_the_first_2_4_and_8_mirrors_are_groups():
    for count in (2, 4, 8):
        group = {frozenset(axes) for axes in MIRRORS[:count]}
        assert len(group) == count
        assert {a ^ b for a in group for b in group} == group


def test_a_network_that_commutes_with_mirrors_is_left_as_it_is():
    x = torch.randn(2, 1, 4, 6, 8)
    torch.testing.assert_close(MirroredNetwork(torch.nn.ReLU(), 8)(x), x.relu())
    with pytest.raises(ValueError, match="1, 2, 4 or 8, got 3"):
        MirroredNetwork(torch.nn.Identity(), 3)
