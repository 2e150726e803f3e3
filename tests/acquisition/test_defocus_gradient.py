import math

import numpy as np
import pytest
import torch

from cryomend.acquisition import defocus_gradient
from cryomend.acquisition.defocus_gradient import (
    depth_nodes,
    project_slabs,
    shift_phase,
    smear_slabs,
    transfer_specimen,
    voxel_depths,
)
from cryomend.ctf import Optics, coma_phase, contrast_transfer, electron_wavelength
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
        nodes = np.linspace(ends[0], ends[-1], count)
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


@pytest.mark.parametrize("tilt", [-90.0, -60, -45, 0, 17, 70])
def test_slabs_add_up_to_the_projection(tilt):
    density = torch.rand(11, 6, 20, generator=torch.Generator().manual_seed(0))
    parts = project_slabs(density, tilt, nodes_px=np.linspace(-12, 12, 6))
    torch.testing.assert_close(parts.sum(0), project_density(density, np.array([tilt]))[0])


def test_slabs_and_their_smearing_are_adjoint():
    generator = torch.Generator().manual_seed(1)
    for tilt in (-63.0, 30.0):
        nodes = np.linspace(-9, 9, 4)
        x = torch.rand(11, 6, 20, generator=generator)
        y = torch.rand(4, 6, 20, generator=generator)
        forward = (project_slabs(x, tilt, nodes_px=nodes).double() * y).sum()
        backward = (x.double() * smear_slabs(y, tilt, nodes_px=nodes, depth=11)).sum()
        assert forward.item() == pytest.approx(backward.item(), rel=1e-5)


def test_nodes_span_the_voxels_and_grow_denser_with_the_wanted_error():
    shape = (20, 8, 40)
    one, quarter = (depth_nodes(shape, 60.0, pixel_size=2.0, voltage_kv=300, error=e) for e in (1e-2, 2.5e-3))
    reach = 2.0 * (10 * math.cos(math.pi / 3) + 20 * math.sin(math.pi / 3))
    assert one[-1] == pytest.approx(reach) and one[0] == pytest.approx(-reach)
    rate = math.pi * electron_wavelength(300) / 16
    assert ((one[1] - one[0]) * rate) ** 2 / 8 <= 1e-2
    assert len(quarter) - 1 == pytest.approx(2 * (len(one) - 1), abs=1)


def test_transfer_is_linear():
    a, b = torch.rand(2, 8, 16, 24, generator=torch.Generator().manual_seed(4))
    ours = [
        transfer_specimen(v, 40.0, pixel_size=PIXEL, defocus_um=2, optics=OPTICS)
        for v in (a, b, 2 * a - 3 * b)
    ]
    torch.testing.assert_close(2 * ours[0] - 3 * ours[1], ours[2], atol=2e-3, rtol=1e-3)


def test_a_tilted_beam_displaces_a_bead_by_its_depth_and_brings_coma():
    beam, options = (20.0, -10.0), {"pixel_size": PIXEL, "defocus_um": 1.0, "optics": OPTICS}
    still, moved = (
        transfer_specimen(bead(0, 10), 0.0, beam_tilt_mrad_xy=b, **options) for b in ((0.0, 0.0), beam)
    )
    shift = [10 * math.tan(1e-3 * b) for b in beam]
    coma = coma_phase(SHAPE[1:], pixel_size=PIXEL, optics=OPTICS, beam_tilt_mrad_xy=beam)
    expected = still * shift_phase(SHAPE[1:], shift, still.device) * coma
    assert (moved - expected).norm() < 0.02 * still.norm()
    assert (moved - still * coma).norm() > 0.1 * still.norm()
    assert (moved - expected / coma).norm() > 0.05 * still.norm()


def test_coma_is_the_odd_third_order_term_of_the_tilted_aberration_function():
    """γ(k + β/λ) - γ(-k + β/λ), less what is linear in k, over 2; γ from its definition."""
    wavelength, cs, beta = electron_wavelength(300), 2.7e7, 2e-3
    k = np.fft.rfftfreq(64) / 1.5

    def gamma(q):
        return -math.pi / 2 * cs * wavelength**3 * q**4

    odd = (gamma(k + beta / wavelength) - gamma(-k + beta / wavelength)) / 2
    odd -= k * -2 * math.pi * cs * beta**3  # the linear term: an image shift
    coma = coma_phase((1, 64), pixel_size=1.5, optics=OPTICS, beam_tilt_mrad_xy=(1e3 * beta, 0.0))[0]
    np.testing.assert_allclose(coma.numpy(), np.exp(1j * odd), atol=1e-4)


def test_the_product_of_other_devices_is_that_of_the_cpu(monkeypatch, device):
    volume = torch.rand(11, 6, 20, generator=torch.Generator().manual_seed(5))
    nodes = np.linspace(-9, 9, 4)
    expected = project_slabs(volume, 30.0, nodes_px=nodes)
    smeared = smear_slabs(expected, 30.0, nodes_px=nodes, depth=11)
    monkeypatch.setattr(defocus_gradient, "_multiply", defocus_gradient._multiply_on_device)
    ours = project_slabs(volume.to(device), 30.0, nodes_px=nodes)
    torch.testing.assert_close(ours.cpu(), expected)
    torch.testing.assert_close(smear_slabs(ours, 30.0, nodes_px=nodes, depth=11).cpu(), smeared)
