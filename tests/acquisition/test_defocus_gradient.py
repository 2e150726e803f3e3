import math

import numpy as np
import pytest
import torch

from cryomend.acquisition.defocus_gradient import depth_nodes, transfer_specimen, voxel_depths
from cryomend.ctf import Optics, contrast_transfer
from cryomend.fourier import radial_frequency
from cryomend.projection import project_density

SHAPE, PIXEL, OPTICS = (32, 64, 256), 8.0, Optics(300, 2.7, 0.07)


def bead(x, z):
    volume = torch.zeros(SHAPE)
    volume[SHAPE[0] // 2 + z, SHAPE[1] // 2, SHAPE[2] // 2 + x] = 1
    return volume


@pytest.mark.parametrize(("angle", "x", "z"), [(50.0, 90, 0), (-40.0, 70, 5), (0.0, 0, 12), (30.0, -80, -8)])
def test_an_off_centre_bead_has_the_defocus_of_its_depth_in_imods_sense(angle, x, z):
    theta = math.radians(angle)
    depth = (-x * math.sin(theta) + z * math.cos(theta)) * PIXEL
    spectrum = transfer_specimen(bead(x, z), angle, pixel_size=PIXEL, defocus_um=3.0, optics=OPTICS)
    flat = torch.fft.rfft2(project_density(bead(x, z), np.array([angle]))[0] * PIXEL)
    band = radial_frequency(SHAPE[1:], half=True) <= 0.5  # the corners lie beyond Nyquist
    local, other = (
        contrast_transfer(SHAPE[1:], pixel_size=PIXEL, defocus_um=3.0 + sign * 1e-4 * depth, optics=OPTICS)
        for sign in (-1, 1)
    )

    def error(image, ctf):
        return float((image - flat * ctf)[band].abs().max() / flat[band].abs().max())

    assert error(spectrum, local) < 0.01  # what the nodes promise at Nyquist
    assert error(spectrum, other) > 0.03
    flipped = transfer_specimen(
        bead(x, z), angle, pixel_size=PIXEL, defocus_um=3.0, optics=OPTICS, defocus_hand=-1
    )
    assert error(flipped, other) < 0.01


def test_on_a_flat_specimen_the_right_side_is_more_underfocused_at_positive_tilt():
    depths = voxel_depths(1, 101, 40.0, PIXEL)[0]
    underfocus = 3e4 - depths
    assert underfocus[-1] - underfocus[0] == pytest.approx(100 * PIXEL * math.sin(math.radians(40)), rel=1e-6)


def test_the_error_falls_as_the_square_of_the_distance_of_the_nodes():
    volume = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    options = {"pixel_size": PIXEL, "defocus_um": 3.0, "optics": OPTICS}

    def with_nodes(count):
        ends = depth_nodes(SHAPE, 60.0, pixel_size=PIXEL, voltage_kv=300)
        nodes = torch.linspace(float(ends[0]), float(ends[-1]), count, dtype=torch.float64)
        return transfer_specimen(volume, 60.0, nodes=nodes, **options)

    truth = with_nodes(65)
    errors = [
        float((with_nodes(n) - truth).abs().square().mean() / truth.abs().square().mean()) for n in (3, 5)
    ]
    assert math.sqrt(errors[0] / errors[1]) == pytest.approx(4, rel=0.35)
    chosen = transfer_specimen(volume, 60.0, **options)
    assert float((chosen - truth).abs().square().mean() / truth.abs().square().mean()) < 0.01**2


def test_a_tilted_beam_moves_what_lies_off_the_centre_plane():
    still, tilted = (
        torch.fft.irfft2(
            transfer_specimen(
                bead(0, 10), 0.0, pixel_size=PIXEL, defocus_um=0.0, optics=Optics(300, 0, 1.0),
                beam_tilt_mrad_xy=(b, 0.0),
            ),
            s=SHAPE[1:],
        )
        for b in (0.0, 300.0)
    )  # fmt: skip
    columns = torch.arange(SHAPE[2]) - SHAPE[2] // 2
    moved = [float((image.sum(0) * columns).sum() / image.sum()) for image in (still, tilted)]
    assert moved[1] - moved[0] == pytest.approx(10 * math.tan(0.3), rel=0.02)
