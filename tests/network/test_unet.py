import pytest
import torch

from cryomend.network import RestorationUNet
from cryomend.network.unet import _depth_to_space, _space_to_depth


@pytest.mark.parametrize(("stem", "multiple"), [("halve", 8), ("none", 4), ("double", 2)])
def test_output_has_the_shape_of_the_input(stem, multiple, device):
    network = RestorationUNet((4, 6, 8), stem=stem).to(device)
    assert network.multiple == multiple
    x = torch.randn(2, 1, 16, 24, 8, device=device)
    assert network(x).shape == x.shape


def test_published_configuration_with_five_levels_builds():
    network = RestorationUNet((2, 2, 2, 2, 2), stem="double")
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 1, 16, 16, 16)


def test_space_to_depth_and_back_is_the_identity():
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    assert torch.equal(_depth_to_space(_space_to_depth(x)), x)


def test_gradients_reach_every_weight():
    network = RestorationUNet((4, 6))
    network(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"channels": ()}, "at least one level"), ({"channels": (4,), "stem": "wide"}, "stem must be")],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RestorationUNet(**arguments)


def test_sides_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        RestorationUNet((4, 4))(torch.zeros(1, 1, 8, 8, 6))
