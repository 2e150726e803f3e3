import pytest
import torch
from torch import nn

from cryomend.network import RestorationUNet
from cryomend.network.unet import _depth_to_space, _space_to_depth


@pytest.mark.parametrize(("stem", "multiple"), [("halve", 8), ("none", 4), ("double", 2)])
def test_output_has_the_shape_of_the_input(stem, multiple, device):
    network = RestorationUNet((4, 6, 8), stem=stem).to(device)
    assert network.multiple == multiple
    x = torch.randn(2, 1, 16, 24, 8, device=device)
    assert network(x).shape == x.shape


def convolutions(blocks):
    return [sum(isinstance(m, nn.Conv3d) for m in block) for block in blocks]


def test_the_published_network_is_one_configuration():
    """Nearest-neighbour upsampling, five levels, one convolution per level down and two per level up."""
    network = RestorationUNet((2, 3, 4, 5, 6), stem="double", encoder_convs=1)
    assert convolutions(network.encoder) == [1] * 5
    assert convolutions(network.decoder) == [2] * 4
    assert not hasattr(network, "head")
    seen = []
    network.encoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.randn(1, 1, 16, 16, 16)
    assert network(x).shape == x.shape
    assert torch.equal(seen[0], x.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4))
    assert network.multiple == 8


def test_the_default_runs_its_wide_levels_at_half_resolution():
    network = RestorationUNet()
    assert len(network.encoder) == 4
    seen = []
    network.encoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    network(torch.zeros(1, 1, 16, 16, 16))
    assert seen == [(1, 8, 8, 8, 8)]


@pytest.mark.parametrize("stem", ["halve", "none", "double"])
def test_a_residual_adds_the_input(stem):
    torch.manual_seed(0)
    plain = RestorationUNet((4, 6), stem=stem)
    residual = RestorationUNet((4, 6), stem=stem, residual=True)
    residual.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(residual(x), plain(x) + x)


def test_arguments_build_the_same_network_again():
    network = RestorationUNet((4, 6), stem="none", encoder_convs=1, residual=True)
    again = RestorationUNet(**network.arguments)
    assert again.arguments == network.arguments
    again.load_state_dict(network.state_dict())
    assert RestorationUNet((4, 6)).arguments["encoder_convs"] == 2


def test_space_to_depth_and_back_is_the_identity():
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    assert torch.equal(_depth_to_space(_space_to_depth(x)), x)


def test_gradients_reach_every_weight():
    network = RestorationUNet((4, 6))
    network(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": ()}, "at least one level"),
        ({"channels": (4,), "stem": "wide"}, "stem must be"),
        ({"channels": (4,), "encoder_convs": 0}, "at least one level"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RestorationUNet(**arguments)


def test_sides_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        RestorationUNet((4, 4))(torch.zeros(1, 1, 8, 8, 6))
