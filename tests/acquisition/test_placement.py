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


@pytest.mark.parametrize("beam", [(0.0, 0.0), (8.0, -5.0)])
def test_projection_and_back_projection_in_any_pose_are_adjoint(beam):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(9, 21, 24, generator=generator), torch.rand(4, 21, 24, generator=generator)
    pose = {"x_tilt": 6.0, "beam_tilt_mrad_xy": beam}
    forward = (project_placed(x, ANGLES, PLACEMENTS, **pose).double() * y).sum()
    backward = (x.double() * backproject_placed(y, ANGLES, PLACEMENTS, depth=9, **pose)).sum()
    assert forward.item() == pytest.approx(backward.item(), rel=1e-5)


@pytest.mark.parametrize("tilt", [-50.0, 0.0, 30.0])
@pytest.mark.parametrize("x_tilt", [-12.0, 0.0, 12.0])
def test_a_bead_falls_where_the_conventions_put_it(tilt, x_tilt):
    """y1 = y cos a - z sin a, z1 = y sin a + z cos a, x' = x cos t + z1 sin t, y' = y1."""
    x, y, z = 6, 5, 4
    image = project_placed(blob((32, 48, 48), (z, y, x)), np.array([tilt]), [Placement()], x_tilt=x_tilt)[0]
    a, t = math.radians(x_tilt), math.radians(tilt)
    z1 = y * math.sin(a) + z * math.cos(a)
    expected = x * math.cos(t) + z1 * math.sin(t), y * math.cos(a) - z * math.sin(a)
    assert centre_of(image)[::-1] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("beam", [(30.0, 0.0), (0.0, -30.0)])
def test_a_tilted_beam_displaces_by_the_depth_along_it(beam):
    x, z, tilt = 6, 9, 25.0
    volume = blob((40, 48, 48), (z, 0, x))
    image = project_placed(volume, np.array([tilt]), [Placement()], beam_tilt_mrad_xy=beam)[0]
    t = math.radians(tilt)
    depth = -x * math.sin(t) + z * math.cos(t)
    expected = [
        u + depth * math.tan(1e-3 * b)
        for u, b in zip((x * math.cos(t) + z * math.sin(t), 0), beam, strict=True)
    ]
    assert centre_of(image)[::-1] == pytest.approx(expected, abs=0.05)


def test_a_beam_tilted_along_x_sees_the_specimen_tilted_further():
    """x' + z' tan β = (x cos(t + β) + z sin(t + β)) / cos β."""
    volume, beta = blob((40, 48, 48), (9, 0, 5)), 40.0
    slanted = project_placed(volume, np.array([20.0]), [Placement()], beam_tilt_mrad_xy=(beta, 0.0))
    further = project_placed(volume, np.array([20 + math.degrees(1e-3 * beta)]), [Placement()])
    torch.testing.assert_close(slanted, further, atol=0.03 * float(further.max()), rtol=0)


def test_local_motion_moves_what_lies_there():
    field = torch.zeros(64, 64, 2)
    field[..., 0], field[..., 1] = 1.5, -0.5
    placed = place_image(blob((64, 64), (4, 3)), Placement(), displacement_xy=field)
    assert centre_of(placed) == pytest.approx((3.5, 4.5), abs=0.05)


def test_a_placement_that_does_nothing_returns_the_image():
    image = torch.rand(20, 31, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(place_image(image, Placement()), image, atol=1e-4, rtol=0)


def test_numbers_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="2 placements but 4 tilt angles"):
        project_placed(torch.zeros(4, 8, 8), ANGLES, PLACEMENTS[:2])
    with pytest.raises(ValueError, match="2 images but 4 tilt angles"):
        backproject_placed(torch.zeros(2, 8, 8), ANGLES, PLACEMENTS, depth=4)
