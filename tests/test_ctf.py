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
