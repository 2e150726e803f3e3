import math

import numpy as np
import pytest
import torch

from cryomend.acquisition import Placement, backproject_placed, project_placed
from cryomend.acquisition.placement import alignment_of, place_image, rotate_about_x
from cryomend.reconstruction.align import align_images

ANGLES = np.array([-50.0, -20, 0, 35])
PLACEMENTS = [Placement(85 + i, 1 + 0.01 * i, (1.5 * i, -0.7)) for i in range(4)]


def blob(shape, place, sigma=2.0):
    squares = [(torch.arange(n) - n // 2 - p) ** 2 for n, p in zip(shape, place, strict=True)]
    total = sum(s.reshape([-1 if i == a else 1 for i in range(len(shape))]) for a, s in enumerate(squares))
    return torch.exp(-total / (2 * sigma**2))


def centre_of(image):
    weight = image.clamp(min=0)
    return [
        float((weight.sum(1 - axis) * (torch.arange(n) - n // 2)).sum() / weight.sum())
        for axis, n in enumerate(image.shape)
    ]


@pytest.mark.parametrize("shape", [(12, 24, 24), (9, 21, 25)])
def test_backprojection_is_the_exact_adjoint_in_any_pose(shape):
    rng = torch.Generator().manual_seed(0)
    volume, images = torch.randn(shape, generator=rng), torch.randn(4, *shape[1:], generator=rng)
    projected = project_placed(volume, ANGLES, PLACEMENTS, x_tilt=6.0)
    smeared = backproject_placed(images, ANGLES, PLACEMENTS, depth=shape[0], x_tilt=6.0)
    left, right = (projected.double() * images).sum(), (volume.double() * smeared).sum()
    assert left.item() == pytest.approx(right.item(), rel=2e-5)


def test_the_tilt_axis_angle_turns_the_axis_from_y_towards_minus_x():
    image = place_image(blob((64, 64), (12, 0)), Placement(rotation=30))
    y, x = centre_of(image)
    assert (y, x) == pytest.approx((12 * math.cos(math.pi / 6), -12 * math.sin(math.pi / 6)), abs=0.05)


@pytest.mark.parametrize("shape", [(48, 48), (49, 51)])
def test_the_alignment_that_is_written_undoes_the_placement(shape):
    image = blob(shape, (7, -9))
    placed = place_image(image, Placement(20, 1.02, (3.0, -4.5)))
    row = alignment_of([Placement(20, 1.02, (3.0, -4.5))], shape)
    back = align_images(placed[None], row[:, :4].reshape(-1, 2, 2), row[:, 4:], output_shape=shape)[0]
    assert (back - back.min() - image).abs().max() < 0.05


def test_a_tilt_about_x_follows_imods_sign():
    angle, y, z = math.radians(15), 8.0, -3.0
    turned = rotate_about_x(blob((32, 48, 16), (z, y, 0)), 15.0)
    place = centre_of(turned.sum(2))
    expected = (y * math.sin(angle) + z * math.cos(angle), y * math.cos(angle) - z * math.sin(angle))
    assert place == pytest.approx(expected, abs=0.05)
