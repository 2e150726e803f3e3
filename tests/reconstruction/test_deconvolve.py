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
