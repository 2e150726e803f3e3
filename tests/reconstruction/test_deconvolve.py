import math

import numpy as np
import pytest
import torch

from cryomend.ctf import Optics, electron_wavelength
from cryomend.reconstruction import deconvolve_tomogram
from cryomend.reconstruction.deconvolve import deconvolution_filter

OPTICS = Optics(300, 2.7, 0.07)


def published(u, voxel_size, defocus_um, falloff, strength, flipped):
    """tom_deconv's filter, written from its description; u in units of Nyquist."""
    k = u / (2 * voxel_size)
    wavelength = electron_wavelength(300)
    gamma = math.pi * wavelength * defocus_um * 1e4 * k**2 - math.pi / 2 * 2.7e7 * wavelength**3 * k**4
    ctf = math.sin(gamma + math.asin(0.07))
    highpass = 1 - math.cos(math.pi * min(1, u / 0.02))
    snr = math.exp(-u * falloff * 100 / voxel_size) * 10 ** (3 * strength) * highpass + 1e-6
    ctf = abs(ctf) if flipped else ctf
    return ctf / (ctf * ctf + 1 / snr)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("falloff", "strength"), [(1.0, 1.0), (0.7, 0.67)])
def test_the_filter_is_the_published_one(falloff, strength, flipped):
    u = np.linspace(0, 0.99, 57)
    ours = deconvolution_filter(
        torch.from_numpy(u / 2), voxel_size=10.0, defocus_um=4.0, optics=OPTICS, snr_falloff=falloff,
        strength=strength, phase_flipped=flipped,
    )  # fmt: skip
    expected = [published(v, 10.0, 4.0, falloff, strength, flipped) for v in u]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=5e-3, atol=5e-3)


def test_dark_protein_stays_dark_and_gains_contrast_at_low_frequency():
    z, y, x = torch.meshgrid(*[torch.arange(48.0) - 24] * 3, indexing="ij")
    blob = -torch.exp(-(z**2 + y**2 + x**2) / 40)
    restored = deconvolve_tomogram(blob, voxel_size=10.0, defocus_um=4.0, optics=OPTICS)
    assert restored[24, 24, 24] < 2 * blob[24, 24, 24]
    assert abs(restored.mean()) < 1e-5


@pytest.mark.parametrize("shape", [(21, 30, 17), (8, 9, 40)])
def test_a_tomogram_is_filtered_by_the_distance_from_the_origin_in_units_of_nyquist(shape):
    tomogram = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grid = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    u = np.minimum(2 * np.sqrt(sum(k**2 for k in grid)), 1)  # as Nyquist in the corners beyond it
    transfer = np.vectorize(lambda v: published(v, 8.0, 3.0, 1.1, 0.8, False))(u)
    expected = np.fft.ifftn(np.fft.fftn(tomogram.double().numpy()) * transfer).real
    ours = deconvolve_tomogram(
        tomogram, voxel_size=8.0, defocus_um=3.0, optics=OPTICS, snr_falloff=1.1, strength=0.8
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=5e-3)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_constant_tomogram_becomes_zero(flipped):
    constant = torch.full((12, 20, 16), 7.0)
    restored = deconvolve_tomogram(
        constant, voxel_size=10.0, defocus_um=4.0, optics=OPTICS, phase_flipped=flipped
    )
    assert restored.abs().max() < 1e-4


def test_flipped_phases_are_divided_by_the_size_of_the_ctf_only():
    k = torch.linspace(0, 0.5, 200)
    filters = {
        flipped: deconvolution_filter(
            k, voxel_size=4.0, defocus_um=4.0, optics=OPTICS, phase_flipped=flipped, strength=1.5
        )
        for flipped in (False, True)
    }
    assert filters[False].min() < 0 <= filters[True].min()
    torch.testing.assert_close(filters[True], filters[False].abs(), atol=0.3, rtol=0)  # kinks at the zeros


def test_more_fall_off_or_less_strength_leaves_less_of_high_frequencies():
    k = torch.tensor([0.2])

    def gain(**kwargs):
        return deconvolution_filter(k, voxel_size=10.0, defocus_um=2.0, optics=OPTICS, **kwargs).abs().item()

    assert gain(snr_falloff=1.5) < gain() < gain(snr_falloff=0.5)
    assert gain(strength=0.5) < gain() < gain(strength=1.5)
