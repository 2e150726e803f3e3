import math

import numpy as np
import pytest
import torch

from cryomend.geometry import angular_weights
from cryomend.projection import interpolate_rays, project_density
from cryomend.reconstruction import exact_weights, ramp_filter, reconstruct_wbp
from cryomend.reconstruction.wbp import weight_rows


def test_hamming_like_fall_off_is_imods_gaussian_and_close_to_the_window():
    start = 0.1
    k = torch.fft.rfftfreq(512).double()
    share = ((k - start) / (0.5 - start)).clamp(min=0)
    ratio = ramp_filter(512, hamming_from=start).double() / ramp_filter(512).double()
    torch.testing.assert_close(ratio, torch.exp(-0.5 * (share / 0.438) ** 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(ratio, 0.54 + 0.46 * torch.cos(math.pi * share), atol=0.025, rtol=0)


def test_hamming_like_fall_off_is_a_cut_off_with_that_sigma():
    torch.testing.assert_close(
        ramp_filter(256, hamming_from=0.2), ramp_filter(256, cutoff=0.2, falloff=0.438 * 0.3)
    )


def test_a_sharp_cut_off_leaves_nothing_beyond():
    cut, k = ramp_filter(100, cutoff=0.25), torch.fft.rfftfreq(100)
    assert cut[k > 0.25].abs().max() == 0
    torch.testing.assert_close(cut[k <= 0.25], ramp_filter(100)[k <= 0.25])


@pytest.mark.parametrize("start", [-0.1, 0.5])
def test_a_hamming_fall_off_that_starts_nowhere_is_refused(start):
    with pytest.raises(ValueError, match="starts in"):
        ramp_filter(64, hamming_from=start)


def test_exact_weights_of_a_full_regular_range_are_the_ramp_below_the_crowther_limit():
    count, thickness, width = 180, 32, 512
    weights = exact_weights(np.arange(count) * 180 / count - 89.5, width, thickness=thickness)
    k = torch.fft.rfftfreq(width)
    between = (k > 2 / thickness) & (k < 0.25 * count / (math.pi * thickness))
    flat = weights[60:120, between]  # not near 90 degrees, where the row ends before the slab
    torch.testing.assert_close(flat, (k[between] * math.pi / count).expand_as(flat), rtol=0.06, atol=0)


def test_beyond_the_crowther_limit_each_tilt_counts_by_its_path_through_the_slab():
    angles = np.arange(-60.0, 61, 20)
    weights = exact_weights(angles, 1024, thickness=100)
    expected = torch.from_numpy(np.cos(np.radians(angles)) / 100).float()
    torch.testing.assert_close(weights[:, -1], expected)


def test_repeated_angles_share_one_weight():
    once = exact_weights(np.array([-40.0, -3, 20]), 128, thickness=20)
    twice = exact_weights(np.array([-40.0, -3, -3, 20]), 128, thickness=20)
    torch.testing.assert_close(twice[1], twice[2])
    torch.testing.assert_close(twice[1, -1] * 2, once[1, -1])
    assert (twice[1] < once[1]).all()


def test_weights_are_positive_where_angles_crowd():
    angles = np.concatenate([np.arange(-60, 0, 0.5), [40.0]])
    weights = exact_weights(angles, 256, thickness=64)
    assert torch.isfinite(weights).all() and (weights > 0).all()
    assert weights[-1, 64:].min() > 4 * weights[60, 64:80].max()  # the lonely tilt counts for many


def test_irregular_angles_reconstruct_better_than_by_the_ramp_alone_and_noise_weighs_less():
    angles = np.concatenate([np.arange(-60, 0, 1.0), np.arange(0, 61, 4.0)])
    depth, width = 48, 128
    density = _draw_blobs(depth, width)
    images = project_density(density, angles)
    noisy = images + images.std() * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    plain = ramp_filter(256).expand(len(angles), -1)
    shares = plain * torch.from_numpy(angular_weights(angles)).float()[:, None]
    exact = exact_weights(angles, 256, thickness=depth)

    def agreement(rows, weights):
        volume = interpolate_rays(weight_rows(rows, weights), angles, depth=depth)
        return np.corrcoef(volume.flatten(), density.flatten())[0, 1]

    assert agreement(images, exact) > agreement(images, plain) + 0.05
    assert agreement(images, exact) > agreement(images, shares) - 0.01
    assert agreement(noisy, exact) > agreement(noisy, shares) + 0.03
    centred = images - images.mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(
        reconstruct_wbp(images, angles, thickness=depth, weighting="exact"),
        interpolate_rays(weight_rows(centred, exact), angles, depth=depth),
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip


def _draw_blobs(depth, width):
    rng = np.random.default_rng(0)
    z, x = torch.arange(depth)[:, None] - depth // 2, torch.arange(width) - width // 2
    density = torch.zeros(depth, 1, width)
    for _ in range(60):
        at_z, at_x = rng.uniform(-depth / 2 + 6, depth / 2 - 6), rng.uniform(-0.42 * width, 0.42 * width)
        distance = (z - at_z) ** 2 + (x - at_x) ** 2
        density[:, 0] += rng.normal() * torch.exp(-distance / (2 * rng.uniform(1.2, 4) ** 2))
    return density


def test_a_slab_without_thickness_is_refused():
    with pytest.raises(ValueError, match="thickness"):
        exact_weights(np.array([0.0, 10]), 64, thickness=0)
