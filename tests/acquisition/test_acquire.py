import math

import numpy as np
import pytest
import torch

from cryomend.acquisition.acquire import (
    acquire_halves,
    acquire_signal_and_noise,
    acquire_tilt_series,
    specimen_area,
)
from cryomend.acquisition.exposure import (
    Exposure,
    draw_exposure,
    draw_tilt_angles,
    thickness_transmission,
)
from cryomend.acquisition.placement import Placement
from cryomend.config import AcquisitionConfig
from cryomend.ctf import Optics, interaction_constant
from cryomend.dose import radiation_damage
from cryomend.mixing import measure_mixed_snr, measure_snr

ANGLES = np.array([-40.0, 0, 40])


def record(density, seed=0, **changes):
    exposure = Exposure(Optics(), **changes)
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


def draw_scatterers(shape=(16, 128, 128)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("band", [None, (40.0, 400.0)])
def test_noise_at_a_given_snr_measures_back_as_that_snr_over_the_specimen(band):
    density, exposure = draw_scatterers(), Exposure(Optics(), snr_band=band)
    clean, noisy = (record(density, snr=snr, snr_band=band) for snr in (1e9, 0.25))
    where = {"band": exposure.band(10.0), "area": specimen_area(density, ANGLES, exposure)}
    np.testing.assert_allclose(measure_snr(clean, noisy - clean, **where), 0.25, rtol=0.002)
    if band:
        assert where["band"] == (0.025, 0.25)


def test_the_snr_of_two_recordings_measures_back_within_two_percent():
    density = draw_scatterers((16, 512, 512))
    area = specimen_area(density, ANGLES, Exposure(Optics()))
    found = measure_mixed_snr(record(density, 1, snr=0.5), record(density, 2, snr=0.5), area=area)
    np.testing.assert_allclose(found, 0.5, rtol=0.02)


@pytest.mark.parametrize("snr_db", [0, 2, 5, 10])
def test_white_noise_at_decibels_comes_from_the_configuration(snr_db):
    config = AcquisitionConfig(snr_db=snr_db)
    exposure = draw_exposure(config, np.random.default_rng(0), thickness=900, tilts=3, pixel_size=10.0)
    assert exposure.snr == pytest.approx(10 ** (snr_db / 10))
    density = draw_scatterers()
    clean, added = acquire_signal_and_noise(
        density, ANGLES, pixel_size=10.0, exposure=exposure, generator=torch.Generator()
    )
    found = 10 * measure_snr(clean, added, area=specimen_area(density, ANGLES, exposure)).log10()
    np.testing.assert_allclose(found, snr_db, atol=0.01)
    power = torch.fft.fft2(added, norm="ortho").abs().square().mean(0)
    ratio = power[48:80, 48:80].mean() / power[:16, :16].mean()  # around Nyquist, around 0
    assert ratio.item() == pytest.approx(1, abs=0.25)
    deviation = (added / added.std(dim=(1, 2), keepdim=True)).flatten()
    assert (deviation**4).mean().item() == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("snr", [None, 0.5])
def test_signal_and_noise_add_up_to_the_series_and_the_signal_has_no_noise(snr):
    density, changes = draw_scatterers(), {"gain_error": 0.02, "hot_pixels": 1000, "damage": False}
    how = {"pixel_size": 10.0, "exposure": Exposure(Optics(), snr=snr, **changes)}
    signal, noise = acquire_signal_and_noise(
        density, ANGLES, generator=torch.Generator().manual_seed(0), **how
    )
    series = acquire_tilt_series(density, ANGLES, generator=torch.Generator().manual_seed(0), **how)
    torch.testing.assert_close(signal + noise, series)
    if snr is None:  # a million times the electrons show the same, defects included
        bright = record(density, fluence=1e8, **changes)
        torch.testing.assert_close(bright / 1e6, signal, rtol=1e-3, atol=0)
        assert abs(noise.mean()) < 1e-3 * signal.mean()


def test_the_specimen_area_is_what_its_mid_plane_covers():
    shape, x = (16, 32, 128), torch.arange(128.0) - 64
    angles = np.array([-60.0, 0, 45, 90])
    area = specimen_area(torch.zeros(shape), angles, Exposure(Optics()))
    assert (area == area[:, :1]).all()
    for tilt, width in enumerate((64, 128, 128 / math.sqrt(2), 16)):  # at 90° the slab seen from its side
        assert (area[tilt, 0] == (x.abs() <= width / 2)).float().mean() > 0.98
    moved = Exposure(Optics(), placements=(Placement(90.0, 1.0, (0.0, 5.0)),) * 4)
    turned = specimen_area(torch.zeros(16, 128, 128), angles, moved)[0]
    rows = turned[:, 64].nonzero().flatten()
    assert turned[64, 1:].all() and rows.float().mean().item() == pytest.approx(64 + 5, abs=1)
    assert len(rows) == pytest.approx(64, abs=2)


def test_a_tilt_about_x_shears_the_specimen_area():
    area = specimen_area(torch.zeros(32, 128, 128), np.array([50.0]), Exposure(Optics(), x_tilt=10.0))[0]
    columns = torch.arange(128.0)
    middle = [(columns[row] - 64).mean().item() for row in (area[40], area[88])]
    # A point of the mid-plane lies at x' = x cos t + y' tan a sin t; the corners that the turned slab loses
    # at the top and the bottom of the volume take up to half of that back.
    shear = 48 * math.tan(math.radians(10)) * math.sin(math.radians(50))
    assert 0.4 * shear < middle[1] - middle[0] < 1.1 * shear


def test_a_given_snr_needs_something_to_see_and_noise_of_the_same_shape():
    with pytest.raises(ValueError, match="shows nothing of the specimen"):
        record(torch.zeros(8, 32, 32), snr=1.0)
    with pytest.raises(ValueError, match=r"noise \(2, 32, 32\) for images \(3, 32, 32\)"):
        acquire_tilt_series(
            torch.rand(8, 32, 32), ANGLES, pixel_size=10.0, exposure=Exposure(Optics(), snr=1.0),
            generator=torch.Generator(), noise=torch.randn(2, 32, 32),
        )  # fmt: skip


def test_residual_shifts_move_images_by_what_is_recorded_and_keep_their_sum():
    density = torch.zeros(8, 64, 64)
    density[4, 30:34, 30:34] = 5
    moves = tuple(Placement(shift_xy=(float(i), -2.0 * i)) for i in (1, 2, 3))
    still, moved = (record(density, snr=1e12, placements=p, mtf_nyquist=1.0) for p in ((), moves))
    torch.testing.assert_close(still.sum(dim=(1, 2)), moved.sum(dim=(1, 2)), rtol=1e-5, atol=0)
    for before, after, move in zip(still, moved, moves, strict=True):
        x, y = (int(v) for v in move.shift_xy)
        torch.testing.assert_close(before.roll((y, x), (0, 1)), after, rtol=1e-4, atol=0)


def test_halves_add_up_are_independent_and_hold_half_of_the_electrons():
    exposure = Exposure(Optics(), mtf_nyquist=1.0)
    series = acquire_halves(
        torch.zeros(8, 128, 128), ANGLES, pixel_size=10.0, exposure=exposure, generator=torch.Generator()
    )
    torch.testing.assert_close(series.even + series.odd, series.images)
    even, odd = (h - h.mean(dim=(1, 2), keepdim=True) for h in (series.even, series.odd))
    correlation = (even * odd).mean() / (even.std() * odd.std())
    assert abs(correlation) < 4 / math.sqrt(even.numel())
    np.testing.assert_allclose(series.even.var(dim=(1, 2)), series.even.mean(dim=(1, 2)), rtol=0.05)


def test_gain_defects_and_hot_pixels_stand_still():
    images = record(torch.zeros(8, 128, 128), fluence=3e5, gain_error=0.05, hot_pixels=500, mtf_nyquist=1.0)
    ratio = images / images.median()
    hot = ratio[0] > 5
    assert 0 < hot.sum() < 40
    assert all(torch.equal(hot, r / r.median() > 5) for r in ratio)
    first, last = (r[~hot] / r[~hot].mean() - 1 for r in (images[0], images[2]))
    assert first.std() == pytest.approx(0.05, rel=0.1)
    assert torch.corrcoef(torch.stack([first, last]))[0, 1] > 0.95


def test_white_counting_noise_stays_white_and_blurred_noise_falls_as_the_mtf():
    powers = {}
    for kind in ("white", "mtf"):
        images = record(torch.zeros(8, 128, 128), mtf_nyquist=0.3, noise_power=kind)
        power = torch.fft.rfft2(images - images.mean(dim=(1, 2), keepdim=True)).abs().square().mean(0)
        powers[kind] = float(power[60:68, :8].mean() / power[2:8, 2:8].mean())
    assert powers["white"] == pytest.approx(1, abs=0.25)
    assert powers["mtf"] == pytest.approx(0.3**2, rel=0.4)


def test_high_tilts_are_darker_and_noisier_in_thick_ice():
    images = record(torch.zeros(8, 128, 128), thickness=2000, mtf_nyquist=1.0)
    mean, noise = images.mean(dim=(1, 2)), images.std(dim=(1, 2)) / images.mean(dim=(1, 2))
    assert mean[0] < mean[1] > mean[2]
    assert noise[0] > noise[1] < noise[2]


def test_local_motion_grows_with_the_exposure():
    density = torch.zeros(8, 64, 64)
    density[4, ::8, ::8] = 20
    pattern = tuple(np.random.default_rng(0).normal(size=10).tolist())
    still, moved = (
        record(density, snr=1e12, motion=m, motion_field=pattern, mtf_nyquist=1.0) for m in (1e-6, 30.0)
    )
    change = [(a - b).std() / a.std() for a, b in zip(still, moved, strict=True)]
    assert change[1] < change[2] < change[0]  # dose-symmetric: 0, +40, -40 degrees


def test_damage_is_one_at_the_origin_and_halves_by_the_critical_exposure():
    critical = 0.245 * (1 / 20) ** -1.665 + 2.81
    damage = radiation_damage((1, 64), pixel_size=10.0, accumulated_fluence=2 * critical)[0]
    assert damage[0] == pytest.approx(1, abs=1e-3)
    assert damage[-1].item() == pytest.approx(math.exp(-1), rel=1e-5)  # Nyquist is 1/20 per Å


def test_transmission_has_its_closed_form():
    np.testing.assert_allclose(
        thickness_transmission(np.array([0.0, 60]), thickness=1000, mean_free_path=2000), np.exp([-0.5, -1.0])
    )


def test_draws_stay_in_their_ranges():
    config = AcquisitionConfig()
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = draw_tilt_angles(config, rng)
        assert -60.5 <= angles[0] <= -47.5
        assert 45 <= angles[-1] <= 60.5
        exposure = draw_exposure(config, rng, thickness=900, tilts=len(angles), pixel_size=10.0)
        assert 2 <= exposure.defocus_um <= 6
        assert len(exposure.placements) == len(exposure.record()["placements"]) == len(angles)


def test_damage_fades_late_tilts_more_than_early_ones():
    density = torch.randn(8, 64, 64, generator=torch.Generator().manual_seed(0))
    whole, faded = (record(density, snr=1e12, mtf_nyquist=1.0, damage=d, fluence=120) for d in (False, True))
    left = (faded.var(dim=(1, 2)) / whole.var(dim=(1, 2))).tolist()
    assert 1 > left[1] > left[2] > left[0]


def test_prior_doses_add_up_in_the_order_of_recording():
    exposure = Exposure(Optics(), fluence=90.0, scheme=("dose-symmetric", 0.0, 1, -1))
    np.testing.assert_allclose(exposure.prior_doses(ANGLES), [30, 0, 60])
    listed = Exposure(Optics(), doses=(1.0, 2.0, 4.0), places=(2, 1, 0))
    np.testing.assert_allclose(listed.prior_doses(ANGLES), [6, 4, 0])


def test_each_tilt_has_its_own_lens():
    exposure = Exposure(
        Optics(), defocus_um=3.0, astigmatism_um=0.2, astigmatism_angle=30.0, phase_shift_drift=90.0,
        lens_errors=((0.1, 0, 0), (0, 0.0, 0.0), (0, -0.1, -0.1 * math.sqrt(3))),
    )  # fmt: skip
    lenses = exposure.lenses(ANGLES)
    assert [lens.defocus_um for lens in lenses] == [3.1, 3.0, 3.0]
    assert [lens.phase_shift for lens in lenses] == pytest.approx([75, 15, 45])
    assert (lenses[1].astigmatism_um, lenses[1].astigmatism_angle) == pytest.approx((0.2, 30))
    assert lenses[2].astigmatism_um == pytest.approx(0, abs=1e-9)


def test_dqe_at_nyquist_is_drawn_relative_to_that_at_zero_and_may_not_rise():
    config = AcquisitionConfig(dqe=(0.8, 0.8), dqe_nyquist=(0.4, 0.4))
    exposure = draw_exposure(config, np.random.default_rng(0), thickness=900, tilts=3, pixel_size=10.0)
    assert exposure.dqe_nyquist == pytest.approx(0.5)
    with pytest.raises(ValueError, match="dqe_nyquist"):
        AcquisitionConfig(dqe=(0.5, 0.9), dqe_nyquist=(0.6, 0.7))
