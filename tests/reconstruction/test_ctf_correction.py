import math

import numpy as np
import pytest
import torch

from cryomend.ctf import Optics, contrast_transfer
from cryomend.fourier import radial_frequency
from cryomend.reconstruction.ctf_correction import _strips, correct_phase

SHAPE, PIXEL, OPTICS = (128, 512), 4.0, Optics(300, 2.7, 0.07)


def correct(image, angle, defocus, hand=1):
    return correct_phase(
        image[None], np.array([angle]), pixel_size=PIXEL, defocus_um=np.array([defocus]), optics=OPTICS,
        astigmatism_um=np.array([0.1]), astigmatism_angle=np.array([30.0]), phase_shift=np.array([0.0]),
        defocus_hand=hand,
    )[0]  # fmt: skip


def ctf_of(defocus):
    return contrast_transfer(
        SHAPE, pixel_size=PIXEL, defocus_um=defocus, optics=OPTICS, astigmatism_um=0.1, astigmatism_angle=30.0
    )


def test_an_untilted_image_is_flipped_as_a_whole_and_stays_dark():
    spectrum = torch.fft.rfft2(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))
    spectrum[SHAPE[0] // 2], spectrum[:, -1] = 0, 0  # at Nyquist an astigmatic CTF has no one value
    image = torch.fft.irfft2(spectrum * ctf_of(3.0), s=SHAPE)
    expected = torch.fft.irfft2(spectrum * -ctf_of(3.0).abs(), s=SHAPE)
    torch.testing.assert_close(correct(image, 0.0, 3.0), expected, atol=1e-4, rtol=1e-4)


def test_strips_correct_the_gradient_that_a_tilted_plane_has_in_imods_sense():
    angle, defocus = 55.0, 2.0
    truth = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    spectrum = torch.fft.rfft2(truth)
    image = torch.empty(SHAPE)
    for x in range(0, SHAPE[1], 4):  # each column with the defocus of its own height
        local = defocus + 1e-4 * (x + 1.5 - SHAPE[1] // 2) * PIXEL * math.tan(math.radians(angle))
        image[:, x : x + 4] = torch.fft.irfft2(spectrum * ctf_of(local), s=SHAPE)[:, x : x + 4]

    def agreement(corrected, columns):
        a, b = -corrected[:, columns].flatten(), truth[:, columns].flatten()
        return float(torch.corrcoef(torch.stack([a, b]))[0, 1])

    edges = (slice(32, 96), slice(416, 480))
    strips = [agreement(correct(image, angle, defocus), e) for e in edges]
    one = [agreement(correct(image, 0.0, defocus), e) for e in edges]
    inverted = [agreement(correct(image, angle, defocus, hand=-1), e) for e in edges]
    # |CTF| against 1: the mean of |sin| over its root mean square is 0.9; blending costs the rest
    assert min(strips) > 0.8
    assert max(one) < min(strips) - 0.15  # what is left are the low frequencies, which no gradient reverses
    assert max(inverted) < max(one)


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="1 images, 2 tilt angles"):
        correct_phase(
            torch.ones(1, 16, 16), np.zeros(2), pixel_size=4.0, defocus_um=np.ones(1), optics=OPTICS,
            astigmatism_um=np.zeros(1), astigmatism_angle=np.zeros(1), phase_shift=np.zeros(1),
        )  # fmt: skip


@pytest.mark.parametrize("angle", [-90.0, 89.9])
def test_a_tilt_near_90_degrees_is_corrected_in_strips_of_one_column(angle):
    image = torch.randn((16, 40), generator=torch.Generator().manual_seed(3))
    corrected = correct(image, angle, 3.0)
    assert torch.isfinite(corrected).all() and corrected.std() > 0.1


def band_agreement(corrected, truth, columns, bands=8):
    """Correlation with the truth in rings of frequency up to Nyquist, within some columns."""
    window = torch.hann_window(columns.stop - columns.start)
    a, b = (torch.fft.rfft2(image[:, columns] * window) for image in (-corrected, truth))
    k = radial_frequency((len(a), len(window)), half=True)
    ring = (2 * bands * k).long()
    cross, power_a, power_b = (
        torch.stack([values[ring == n].sum() for n in range(bands)])
        for values in ((a * b.conj()).real, a.abs().square(), b.abs().square())
    )
    return cross / (power_a * power_b).sqrt()


@pytest.mark.parametrize("angle", [-60.0, 60.0])
def test_transfer_is_positive_in_every_band_at_both_edges_where_one_flip_reverses_some(angle):
    shape, defocus = (64, 1024), 2.5
    truth = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    spectrum, image = torch.fft.rfft2(truth), torch.empty(shape)
    for x in range(0, shape[1], 4):
        local = defocus + 1e-4 * (x + 1.5 - shape[1] // 2) * PIXEL * math.tan(math.radians(angle))
        ctf = contrast_transfer(
            shape, pixel_size=PIXEL, defocus_um=local, optics=OPTICS, astigmatism_um=0.1, astigmatism_angle=30
        )
        image[:, x : x + 4] = torch.fft.irfft2(spectrum * ctf, s=shape)[:, x : x + 4]
    for columns in (slice(32, 160), slice(864, 992)):
        assert band_agreement(correct(image, angle, defocus), truth, columns).min() > 0.6
        assert band_agreement(correct(image, 0.0, defocus), truth, columns).min() < -0.2


def test_shares_of_the_strips_add_up_to_one_in_every_column():
    for width, slope in ((100, 0.0), (101, 0.4), (512, -3.0), (64, 600.0), (65, -1e16)):
        shares = sum(share for _, share in _strips(width, slope, 4.0, 300.0))
        torch.testing.assert_close(shares, torch.ones(width))
