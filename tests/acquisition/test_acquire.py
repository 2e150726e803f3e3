import math

import numpy as np
import pytest
import torch

from cryomend.acquisition.acquire import (
    Exposure,
    acquire_tilt_series,
    draw_exposure,
    draw_tilt_angles,
)
from cryomend.acquisition.exposure import (
    detector_mtf,
    dose_symmetric_order,
    thickness_transmission,
)
from cryomend.config import AcquisitionConfig
from cryomend.ctf import Optics, interaction_constant
from cryomend.dose import radiation_damage

ANGLES = np.array([-40.0, 0, 40])


def record(density, seed=0, **changes):
    exposure = Exposure(Optics(), **{"misalignment": 0.0, **changes})
    return acquire_tilt_series(
        density, ANGLES, pixel_size=10.0, exposure=exposure, generator=torch.Generator().manual_seed(seed)
    )


def test_empty_ice_counts_the_fluence_that_passes_and_its_variance_is_poisson():
    images = record(
        torch.zeros(32, 128, 128), fluence=90, thickness=500, mean_free_path=3000, mtf_nyquist=1.0
    )
    expected = 90 / 3 * 100 * np.exp(-500 / (3000 * np.cos(np.radians(ANGLES))))
    # 16,384 pixels of some 2,500 counts: the mean is known to 0.02 %, the variance to 1.1 %.
    np.testing.assert_allclose(images.mean(dim=(1, 2)), expected, rtol=1e-3)
    np.testing.assert_allclose(images.var(dim=(1, 2)), expected, rtol=0.05)


def test_protein_is_dark_at_underfocus_and_its_contrast_follows_the_weak_phase_formula():
    density = torch.zeros(16, 128, 128)
    density[6:10, 40:88, 40:88] = 3.0
    images = record(density, damage=False, fluence=3e6, mtf_nyquist=1.0, defocus_um=4.0)
    image = images[1] / images[1].mean() - 1
    assert image[44:84, 44:84].mean() < -0.001
    # k = 0: contrast of the whole image is -2 σ v Q, here from its noise-free mean count.
    dose = 1e6 * 100 * math.exp(-1000 / 3200)
    v = 3.0 * 4 * 10 * (48 / 128) ** 2
    assert images[1].mean().item() / dose - 1 == pytest.approx(
        -2 * interaction_constant(300) * v * 0.07, rel=0.02
    )


def test_equal_seeds_give_equal_counts_and_others_do_not():
    density = torch.rand(8, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(record(density, 3), record(density, 3))
    assert not torch.equal(record(density, 3), record(density, 4))


def test_noise_at_a_given_snr_measures_back_as_that_snr():
    density = torch.rand(16, 128, 128, generator=torch.Generator().manual_seed(0))
    clean, noisy = record(density, snr=1e9), record(density, snr=0.25)
    measured = clean.var(dim=(1, 2)) / (noisy - clean).var(dim=(1, 2))
    np.testing.assert_allclose(measured, 0.25, rtol=0.02)


def test_misalignment_moves_images_and_keeps_their_sum():
    density = torch.zeros(8, 64, 64)
    density[4, 30:34, 30:34] = 5
    still, moved = (record(density, snr=1e12, misalignment=m, mtf_nyquist=1.0) for m in (0.0, 30.0))
    torch.testing.assert_close(still.sum(dim=(1, 2)), moved.sum(dim=(1, 2)), rtol=1e-5, atol=0)
    assert (still - moved).abs().max() > 0.2 * (still - still.mean()).abs().max()


def test_damage_is_one_at_the_origin_and_halves_by_the_critical_exposure():
    critical = 0.245 * (1 / 20) ** -1.665 + 2.81
    damage = radiation_damage((1, 64), pixel_size=10.0, accumulated_fluence=2 * critical)[0]
    assert damage[0] == pytest.approx(1, abs=1e-3)
    assert damage[-1].item() == pytest.approx(math.exp(-1), rel=1e-5)  # Nyquist is 1/20 per Å


def test_transmission_and_mtf_have_their_closed_forms():
    np.testing.assert_allclose(
        thickness_transmission(np.array([0.0, 60]), thickness=1000, mean_free_path=2000), np.exp([-0.5, -1.0])
    )
    assert detector_mtf((1, 64), at_nyquist=0.4)[0, -1].item() == pytest.approx(0.4)
    with pytest.raises(ValueError, match="MTF"):
        detector_mtf((4, 4), at_nyquist=0.0)


def test_dose_symmetric_order_starts_at_zero_and_grows_outwards():
    place = dose_symmetric_order(np.array([-6.0, -3, 0, 3, 6]))
    assert list(place) == [4, 2, 0, 1, 3]


def test_draws_stay_in_their_ranges():
    config = AcquisitionConfig()
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = draw_tilt_angles(config, rng)
        assert -60.5 <= angles[0] <= -47.5
        assert 45 <= angles[-1] <= 60.5
        assert 2 <= draw_exposure(config, rng, thickness=900).defocus_um <= 6
