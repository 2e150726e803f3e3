import math

import numpy as np
import pytest
import torch

from cryomend.projection import interpolate_rays
from cryomend.reconstruction.x_tilt import cut_tilted_slab, resample_tilted


def reconstruct_rows(images, angles, rows, thickness, x_tilt):
    height = images.shape[1]
    place = {"height": height, "thickness": thickness, "centre_z": thickness // 2, "x_tilt": x_tilt}
    slab = cut_tilted_slab(rows, **place)
    source = interpolate_rays(
        images[:, slab.first_row : slab.last_row], angles, depth=slab.depth, centre_z=slab.centre_z
    )
    return resample_tilted(source, slab, rows=rows, **place)


@pytest.mark.parametrize("x_tilt", [-7.0, 12.0])
def test_a_bead_returns_to_its_place_with_imods_sign_of_the_x_tilt(x_tilt):
    z, y, x = 9, 14, -5
    c, s = math.cos(math.radians(x_tilt)), math.sin(math.radians(x_tilt))
    y1, z1 = y * c - z * s, y * s + z * c
    angles = np.arange(-60.0, 61, 3)
    t = torch.from_numpy(np.radians(angles)).float()[:, None, None]
    rows, columns = torch.arange(48.0)[:, None] - 24, torch.arange(40.0) - 20
    centre = x * torch.cos(t) + z1 * torch.sin(t)
    images = torch.exp(-((rows - y1) ** 2 + (columns - centre) ** 2) / (2 * 1.5**2))
    volume = reconstruct_rows(images, angles, (0, 48), 32, x_tilt)
    peak = np.unravel_index(int(volume.argmax()), volume.shape)
    assert peak == (16 + z, 24 + y, 20 + x)


def test_slabs_of_rows_are_cut_from_one_and_the_same_tomogram():
    images = torch.randn(5, 30, 20, generator=torch.Generator().manual_seed(0))
    angles = np.array([-50.0, -20, 0, 20, 50])
    whole = reconstruct_rows(images, angles, (0, 30), 12, 9.0)
    parts = [reconstruct_rows(images, angles, (a, b), 12, 9.0) for a, b in ((0, 7), (7, 8), (8, 30))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_no_x_tilt_changes_nothing():
    images = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(1))
    angles = np.array([-30.0, 0, 30])
    torch.testing.assert_close(
        reconstruct_rows(images, angles, (0, 20), 10, 0.0),
        interpolate_rays(images, angles, depth=10),
        atol=1e-5,
        rtol=1e-5,
    )
