"""A widened network computes the same, and its copies learn different things."""

import pytest
import torch

from cryomend.network.unet import RestorationUNet
from cryomend.network.widen import can_widen, widen_network


def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("stem", ["halve", "double", "none"])
@pytest.mark.parametrize("residual", [True, False])
def test_the_function_stays(stem, residual):
    torch.manual_seed(0)
    narrow = RestorationUNet((4, 6, 8), stem=stem, residual=residual)
    wide = widen_network(narrow, (7, 6, 20), generator=generator())
    x = torch.randn(2, 1, 16, 24, 16)
    assert wide.arguments["channels"] == [7, 6, 20]
    torch.testing.assert_close(wide(x), narrow(x), atol=1e-5, rtol=1e-4)


def test_copies_of_a_feature_have_gradients_of_their_own():
    torch.manual_seed(0)
    wide = widen_network(RestorationUNet((4, 6)), (8, 12), generator=generator())
    wide(torch.randn(1, 1, 16, 16, 16)).square().mean().backward()
    convolution = wide.encoder[1][0]
    same = torch.cdist(convolution.bias.detach()[:, None], convolution.bias.detach()[:, None]) == 0
    rows = convolution.weight.detach().sum(dim=1).flatten(1)  # parts add up to the same
    a, b = ((same & (torch.cdist(rows, rows) < 1e-5)).fill_diagonal_(False)).nonzero()[0].tolist()
    gradient = convolution.weight.grad.flatten(1)
    alike = torch.cosine_similarity(gradient[a], gradient[b], dim=0)
    assert alike < 0.999


def test_what_cannot_be_widened_is_refused():
    network = RestorationUNet((4, 6))
    for channels in ((3, 6), (4, 6, 8)):
        with pytest.raises(ValueError, match=r"cannot widen a network of \[4, 6\]"):
            widen_network(network, channels, generator=generator())
    assert not can_widen(network, RestorationUNet((4, 8), residual=True))
