import math

import numpy as np
import pytest
import torch

from cryomend.ctf import Optics, contrast_transfer, electron_wavelength, interaction_constant


def test_constants_at_300_kv_are_the_textbook_ones():
    assert electron_wavelength(300) == pytest.approx(0.0196870, abs=1e-6)
    assert interaction_constant(300) == pytest.approx(6.526e-4, rel=1e-3)


def test_first_zero_without_aberration_lies_where_the_phase_reaches_pi():
    n, pixel_size, defocus = 512, 4.0, 3.0
    ctf = contrast_transfer((1, n), pixel_size=pixel_size, defocus_um=defocus, optics=Optics(300, 0, 0.0))[
        0
    ].numpy()
    k_zero = 1 / math.sqrt(electron_wavelength(300) * defocus * 1e4)  # π λ Δf k² = π
    k = np.fft.rfftfreq(n) / pixel_size
    crossing = np.flatnonzero(np.diff(np.sign(ctf[1:])) != 0)[0] + 1
    assert k[crossing] <= k_zero <= k[crossing + 1]


def test_origin_is_minus_the_amplitude_contrast_and_underfocus_makes_protein_dark():
    ctf = contrast_transfer((64, 64), pixel_size=10.0, defocus_um=4.0, optics=Optics(amplitude_contrast=0.1))
    assert ctf[0, 0].item() == pytest.approx(-0.1, abs=1e-6)
    assert ctf[0, 1:8].max() < -0.1


def test_overfocus_turns_the_contrast():
    ctf = contrast_transfer((64, 64), pixel_size=10.0, defocus_um=-4.0, optics=Optics(amplitude_contrast=0.0))
    assert ctf[0, 1:8].min() > 0


def test_astigmatism_is_largest_along_its_angle():
    kwargs = {"pixel_size": 10.0, "optics": Optics()}
    astigmatic = contrast_transfer((65, 65), defocus_um=3, astigmatism_um=0.5, astigmatism_angle=90, **kwargs)
    along_y, along_x = astigmatic[:33, 0], astigmatic[0, :33]
    torch.testing.assert_close(along_y, contrast_transfer((65, 65), defocus_um=3.5, **kwargs)[:33, 0])
    torch.testing.assert_close(along_x, contrast_transfer((65, 65), defocus_um=2.5, **kwargs)[0, :33])


def test_agreement_with_torch_ctf_which_has_the_other_sign():
    torch_ctf = pytest.importorskip("torch_ctf")
    theirs = torch_ctf.calculate_ctf_2d(
        defocus=2.5, astigmatism=0.1, astigmatism_angle=30.0, voltage=300.0, spherical_aberration=2.7,
        amplitude_contrast=0.07, phase_shift=0.0, pixel_size=4.0, image_shape=(64, 64), rfft=True,
        fftshift=False,
    )  # fmt: skip
    ours = contrast_transfer(
        (64, 64),
        pixel_size=4.0,
        defocus_um=2.5,
        astigmatism_um=0.1,
        astigmatism_angle=30,
        optics=Optics(300, 2.7, 0.07),
    )
    torch.testing.assert_close(ours, -theirs.float(), atol=0.01, rtol=0)  # they work in single precision


@pytest.mark.parametrize(
    ("pixel_size", "amplitude", "message"), [(0.0, 0.1, "pixel size"), (1.0, 1.5, "amplitude contrast")]
)
def test_impossible_optics_are_refused(pixel_size, amplitude, message):
    with pytest.raises(ValueError, match=message):
        contrast_transfer(
            (8, 8), pixel_size=pixel_size, defocus_um=1, optics=Optics(amplitude_contrast=amplitude)
        )


def test_temporal_envelope_has_its_closed_form():
    kwargs = {"pixel_size": 1.0, "defocus_um": 1.5}
    spread, wavelength = 80.0, electron_wavelength(300)
    plain, faded = (
        contrast_transfer((1, 64), optics=Optics(focal_spread=d), **kwargs)[0] for d in (0, spread)
    )
    k = torch.fft.rfftfreq(64)
    envelope = torch.exp(-0.5 * (math.pi * wavelength * spread * k**2) ** 2)
    torch.testing.assert_close(faded, plain * envelope, atol=1e-5, rtol=0)
    assert envelope[-1] < 0.5


def test_spatial_envelope_is_the_squared_slope_of_the_aberration_function():
    """exp(-(α/2λ)² (dγ/dk)²), the slope by finite differences of γ itself."""
    cs, alpha, defocus, wavelength = 2.7e7, 0.1e-3, 1.5e4, electron_wavelength(300)
    k = np.fft.rfftfreq(64) / 2.0

    def gamma(q):
        return math.pi * wavelength * defocus * q**2 - math.pi / 2 * cs * wavelength**3 * q**4

    slope = (gamma(k + 1e-5) - gamma(k - 1e-5)) / 2e-5
    envelope = np.exp(-((alpha / (2 * wavelength) * slope) ** 2))
    kwargs = {"pixel_size": 2.0, "defocus_um": 1.5}
    plain, faded = (
        contrast_transfer((1, 64), optics=Optics(source_angle_mrad=a), **kwargs)[0].numpy() for a in (0, 0.1)
    )
    np.testing.assert_allclose(faded, plain * envelope, atol=1e-4)
    assert envelope[-1] < 0.9


def test_agreement_with_torch_ctf_on_a_phase_plate():
    torch_ctf = pytest.importorskip("torch_ctf")
    theirs = torch_ctf.calculate_ctf_2d(
        defocus=0.5, astigmatism=0.05, astigmatism_angle=-20.0, voltage=200.0, spherical_aberration=2.0,
        amplitude_contrast=0.1, phase_shift=75.0, pixel_size=3.0, image_shape=(64, 48), rfft=True,
        fftshift=False,
    )  # fmt: skip
    ours = contrast_transfer(
        (64, 48),
        pixel_size=3.0,
        defocus_um=0.5,
        astigmatism_um=0.05,
        astigmatism_angle=-20,
        optics=Optics(200, 2.0, 0.1, 75.0),
    )
    torch.testing.assert_close(ours, -theirs.float(), atol=0.01, rtol=0)
