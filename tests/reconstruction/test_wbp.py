import numpy as np
import pytest
import torch

from cryomend.projection import project_density
from cryomend.reconstruction import ramp_filter, reconstruct_wbp


def test_ramp_is_the_frequency_up_to_the_truncation_of_its_kernel():
    ramp = ramp_filter(256)
    k = torch.fft.rfftfreq(256)
    torch.testing.assert_close(ramp[1:], k[1:], atol=2e-3, rtol=0)
    assert 0 < ramp[0] < 1e-3  # the sampled kernel keeps a little of the mean, |k| would drop it


def test_cutoff_rolls_off_as_a_gaussian():
    plain, rolled = ramp_filter(128), ramp_filter(128, cutoff=0.3, falloff=0.05)
    k = torch.fft.rfftfreq(128)
    expected = torch.exp(-(((k - 0.3).clamp(min=0) / 0.05) ** 2) / 2)
    torch.testing.assert_close(rolled, plain * expected)


def test_sirt_like_weight_approaches_the_ramp_with_iterations():
    plain = ramp_filter(128)
    few, many = ramp_filter(128, sirt_iterations=5), ramp_filter(128, sirt_iterations=100000)
    torch.testing.assert_close(many, plain)
    ratio = few[1:] / plain[1:]
    assert (ratio.diff() < 1e-6).all()
    assert ratio[-1] < 0.2 < ratio[0]


def test_a_constant_offset_of_a_tilt_does_not_change_the_tomogram():
    images = torch.randn(5, 8, 32, generator=torch.Generator().manual_seed(0))
    angles = np.linspace(-40, 40, 5)
    offset = torch.tensor([0.0, 5, -3, 100, 2])[:, None, None]
    a = reconstruct_wbp(images, angles, thickness=16)
    b = reconstruct_wbp(images + offset, angles, thickness=16)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("angles", "thickness", "message"),
    [(np.zeros(4), 8, "3 images but 4"), (np.zeros(3), 0, "thickness"), (np.array([0, 10, 95.0]), 8, "±90")],
)
def test_what_does_not_fit_is_refused(angles, thickness, message):
    with pytest.raises(ValueError, match=message):
        reconstruct_wbp(torch.zeros(3, 4, 16), angles, thickness=thickness)


def test_a_full_range_reconstruction_agrees_with_the_iradon_of_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    n, angles = 65, np.arange(-90.0, 90, 2)
    z, x = torch.meshgrid(torch.arange(n) - n // 2, torch.arange(n) - n // 2, indexing="ij")
    truth = torch.exp(-((z - 9) ** 2 + (x + 6) ** 2) / 18) + torch.exp(-((z + 4) ** 2 + (x - 12) ** 2) / 32)
    images = project_density(truth[:, None].contiguous(), angles)
    ours = reconstruct_wbp(images, angles, thickness=n)[:, 0]
    # skimage turns the image counter-clockwise with rows downwards: its angle is minus ours
    sinogram = images[:, 0].numpy().T
    theirs = torch.from_numpy(transform.iradon(sinogram, theta=-angles, filter_name="ramp")).float()
    inside = z**2 + x**2 < 28**2
    a, b = ours[inside] - ours[inside].mean(), theirs[inside] - theirs[inside].mean()
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.999
    assert (a - b).abs().max() < 0.02 * theirs.max()
