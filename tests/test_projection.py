import math

import numpy as np
import pytest
import torch

from cryomend import projection
from cryomend.geometry import tilt_angles_from_range
from cryomend.projection import backproject, interpolate_rays, project_density, ray_matrix
from cryomend.reconstruction import reconstruct_wbp

ANGLES = np.array([-90.0, -62.5, -45, -10, 0, 30, 45, 77])


def gaussian_blob(shape, centre_zyx, sigma):
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 - c for n, c in zip(shape, centre_zyx, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.exp(-(z**2 + y**2 + x**2) / (2 * sigma**2)).float()


def test_projection_of_a_gaussian_is_the_analytic_gaussian_at_the_conventions_place(device):
    shape, centre, sigma = (40, 20, 64), (7.0, -2.0, -12.0), 2.0
    images = project_density(gaussian_blob(shape, centre, sigma).to(device), ANGLES).cpu()
    y = torch.arange(20.0) - 10 - centre[1]
    for image, angle in zip(images, np.radians(ANGLES), strict=True):
        x = torch.arange(64.0) - 32 - (centre[2] * math.cos(angle) + centre[0] * math.sin(angle))
        expected = sigma * math.sqrt(2 * math.pi) * torch.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2))
        # Linear interpolation between voxels widens a Gaussian by up to 1/4 voxel²: 3 % at sigma 2.
        assert (image - expected).abs().max() < 0.035 * expected.max()


@pytest.mark.parametrize("shape", [(12, 5, 16), (9, 4, 21), (33, 3, 10)])
def test_backprojection_is_the_exact_adjoint_of_projection(shape, device):
    rng = torch.Generator().manual_seed(0)
    volume = torch.randn(shape, generator=rng).to(device)
    images = torch.randn(len(ANGLES), *shape[1:], generator=rng).to(device)
    left = (project_density(volume, ANGLES).double() * images.double()).sum()
    right = (volume.double() * backproject(images, ANGLES, depth=shape[0]).double()).sum()
    assert left.item() == pytest.approx(right.item(), rel=2e-5)


def test_projection_is_linear_and_the_untilted_image_is_the_sum_along_z():
    volume = torch.randn(10, 4, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(project_density(volume, np.array([0.0]))[0], volume.sum(0))
    a, b = project_density(volume, ANGLES), project_density(volume.flip(0), ANGLES)
    torch.testing.assert_close(
        project_density(2 * volume - 3 * volume.flip(0), ANGLES), 2 * a - 3 * b, atol=1e-4, rtol=1e-4
    )


def test_rotation_centre_stays_in_place_at_every_tilt():
    volume = torch.zeros(11, 1, 16)
    volume[5, 0, 8] = 1
    images = project_density(volume, ANGLES)[:, 0]
    position = (images * torch.arange(16.0)).sum(1) / images.sum(1)
    torch.testing.assert_close(position, torch.full((len(ANGLES),), 8.0), atol=1e-5, rtol=0)


def test_projection_agrees_with_the_radon_transform_of_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    n = 65
    plane = (
        gaussian_blob((n, 1, n), (9, 0, 14), 3.0)[:, 0]
        + 0.5 * gaussian_blob((n, 1, n), (-12, 0, 3), 4.0)[:, 0]
    )
    r2 = (torch.arange(n) - n // 2)[:, None] ** 2 + (torch.arange(n) - n // 2)[None] ** 2
    plane = torch.where(r2 < 30**2, plane, 0)  # skimage wants nothing outside its circle
    angles = np.array([-50.0, -20, 0, 35, 60])
    ours = project_density(plane[:, None].contiguous(), angles)[:, 0].numpy()
    # skimage turns the image counter-clockwise with rows downwards: its angle is minus ours.
    theirs = transform.radon(plane.numpy(), theta=-angles, circle=True).T
    # Both interpolate linearly, in different places.
    assert np.abs(ours - theirs).max() < 0.02 * theirs.max()


def test_full_range_projection_and_wbp_give_back_the_volume():
    shape = (48, 4, 64)
    rng = np.random.default_rng(0)
    volume = sum(
        gaussian_blob(shape, (*rng.uniform(-8, 8, 1), 0, *rng.uniform(-16, 16, 1)), 2.0) for _ in range(8)
    )
    angles = tilt_angles_from_range(-90, 89, 1)
    back = reconstruct_wbp(project_density(volume, angles), angles, thickness=shape[0])
    inside = back[8:40, :, 12:52].flatten(), volume[8:40, :, 12:52].flatten()
    assert torch.corrcoef(torch.stack(inside))[0, 1] > 0.995
    slope = np.polyfit(inside[1].numpy(), inside[0].numpy(), 1)[0]
    # Two linear interpolations widen a blob of variance 4 by about 1/6 voxel² each: a few per cent.
    assert slope == pytest.approx(1, abs=0.05)


def test_wbp_puts_an_off_centre_bead_where_it_was():
    shape, centre = (32, 8, 48), (6, 1, -11)
    angles = tilt_angles_from_range(-60, 60, 3)
    back = reconstruct_wbp(project_density(gaussian_blob(shape, centre, 1.5), angles), angles, thickness=32)
    peak = np.unravel_index(int(back.argmax()), shape)
    assert tuple(p - n // 2 for p, n in zip(peak, shape, strict=True)) == centre


def test_angles_beyond_90_degrees_are_refused():
    with pytest.raises(ValueError, match="within ±90"):
        ray_matrix(8, 8, np.array([0.0, 91]))


def test_counts_of_images_and_angles_must_agree():
    with pytest.raises(ValueError, match="3 images but 2 tilt angles"):
        backproject(torch.zeros(3, 4, 8), np.array([0.0, 1]), depth=4)


def test_interpolated_rays_of_a_constant_image_are_constant_where_it_is_seen():
    smeared = interpolate_rays(torch.ones(1, 3, 64), np.array([45.0]), depth=16)
    torch.testing.assert_close(smeared[:, :, 20:44], torch.ones(16, 3, 24))


def test_a_constant_image_smears_unevenly_through_the_adjoint_which_is_why_wbp_interpolates():
    smeared = backproject(torch.ones(1, 3, 64), np.array([45.0]), depth=16)[:, :, 20:44]
    assert smeared.std() > 0.1


@pytest.mark.parametrize("shape", [(5, 3, 9), (37, 130, 20), (40, 129, 70)])
@pytest.mark.parametrize("centre_z", [None, -3.25])
def test_compiled_loops_and_gathering_with_pytorch_agree(shape, centre_z):
    rng = torch.Generator().manual_seed(2)
    volume, images = torch.randn(shape, generator=rng), torch.randn(len(ANGLES), *shape[1:], generator=rng)
    centre = (shape[0] // 2 if centre_z is None else centre_z, shape[2] // 2, shape[2] // 2)
    gathered = projection._project_gathered(volume, ANGLES, centre)
    torch.testing.assert_close(
        project_density(volume, ANGLES, centre_z=centre_z), gathered, atol=1e-4, rtol=1e-4
    )
    reach = np.ones(len(ANGLES))
    smeared = projection._smear_gathered(images, ANGLES, reach, centre, shape[0])
    torch.testing.assert_close(
        interpolate_rays(images, ANGLES, depth=shape[0], centre_z=centre_z), smeared, atol=1e-4, rtol=1e-4
    )


def test_projection_applies_the_sparse_ray_matrix():
    volume = torch.randn(7, 4, 12, generator=torch.Generator().manual_seed(3))
    expected = ray_matrix(7, 12, ANGLES) @ volume.permute(0, 2, 1).reshape(84, 4).numpy()
    expected = expected.reshape(len(ANGLES), 12, 4).transpose(0, 2, 1)
    np.testing.assert_allclose(project_density(volume, ANGLES).numpy(), expected, atol=1e-5)


def test_moving_the_rotation_centre_along_z_moves_the_volume():
    volume = torch.zeros(20, 2, 24)
    volume[3:17] = torch.randn(14, 2, 24, generator=torch.Generator().manual_seed(4))
    lower = volume.roll(2, 0)
    images = project_density(volume, ANGLES)
    torch.testing.assert_close(project_density(lower, ANGLES, centre_z=12), images, atol=1e-5, rtol=1e-5)
    back = backproject(images, ANGLES, depth=20)
    torch.testing.assert_close(
        backproject(images, ANGLES, depth=18, centre_z=8), back[2:], atol=1e-4, rtol=1e-5
    )


def test_an_off_centre_bead_stands_where_imod_puts_it_in_a_right_handed_tomogram():
    # IMOD's tilt: x' = x cos t - j sin t, j the line of a slice perpendicular to Y (flib/tilt/tilt.f90);
    # trimvol -rx and RotateBy90, which keep the handedness, stack the planes with z = -j.
    angle, x, z = 40.0, 11, -6
    volume = torch.zeros(41, 1, 65)
    volume[20 + z, 0, 32 + x] = 1
    image = project_density(volume, np.array([angle]))[0, 0]
    theta, line = math.radians(angle), -z
    expected = x * math.cos(theta) - line * math.sin(theta)
    place = (image * (torch.arange(65.0) - 32)).sum() / image.sum()
    assert place.item() == pytest.approx(expected, abs=0.1)  # one voxel is no disc
    tomogram = reconstruct_wbp(
        project_density(volume, np.arange(-60.0, 61, 2)), np.arange(-60.0, 61, 2), thickness=41
    )
    assert np.unravel_index(int(tomogram.argmax()), tomogram.shape) == (20 + z, 0, 32 + x)
