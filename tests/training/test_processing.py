"""What users do before they restore: the law of every step, and that all of them are drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomend.acquisition.exposure import Exposure, Lens
from cryomend.config import AcquisitionConfig, ProcessingConfig, SimulationConfig, SpecimenConfig
from cryomend.ctf import Optics, contrast_transfer
from cryomend.dose import radiation_damage
from cryomend.fourier import gaussian_lowpass, radial_frequency
from cryomend.projection import project_density
from cryomend.training import processing
from cryomend.training.pairs import simulate_pair
from cryomend.training.processing import (
    Processing,
    average_images,
    bin_density,
    draw_processing,
    filter_highpass,
    multiply_ctf,
    quantise,
    tomogram_of,
)

ANGLES = np.arange(-60.0, 61.0, 6.0)
EXPOSURE = Exposure(Optics(300.0, 2.7, 0.07, focal_spread=50.0), defocus_um=3.0, fluence=100.0)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(series, thickness=24, pixel_size=10.0, **changes):
    return tomogram_of(
        series,
        ANGLES,
        thickness=thickness,
        pixel_size=pixel_size,
        exposure=EXPOSURE,
        processing=replace(Processing(), **changes),
    )


@pytest.fixture(scope="module")
def blob():
    """A density with a few blobs off the centre, and its dark tilt series."""
    density = torch.zeros(24, 40, 40)
    for z, y, x in ((12, 20, 20), (9, 12, 26), (15, 28, 10)):
        density[z, y, x] = 50.0
    density = gaussian_lowpass(density, 1.5)
    return density, 100 - project_density(density, ANGLES)


def caught_images(monkeypatch, series, **changes):
    """The images that are reconstructed, and those without the step."""
    seen = []

    def catch(images, *_):
        seen.append(images)
        return torch.zeros(4, 8, 8)

    monkeypatch.setattr(processing, "_reconstruct", catch)
    for step in ({}, changes):
        made(series, **step)
    return seen


def test_multiplying_by_the_ctf_is_the_filter_that_keeps_protein_dark():
    images = noise(2, 32, 48)
    lenses = [Lens(2.0, 0.1, 30.0, 0.0), Lens(3.0, 0.0, 0.0, 90.0)]
    multiplied = multiply_ctf(images, lenses, pixel_size=5.0, optics=EXPOSURE.optics)
    for image, result, lens in zip(images, multiplied, lenses, strict=True):
        optics = Optics(300.0, 2.7, 0.07, lens.phase_shift)  # no envelope: nobody multiplies by it
        ctf = contrast_transfer(
            (32, 48), pixel_size=5.0, defocus_um=lens.defocus_um, optics=optics,
            astigmatism_um=lens.astigmatism_um, astigmatism_angle=lens.astigmatism_angle,
        )  # fmt: skip
        inside = slice(1, -1)  # of kx: on its other planes a real image has no room for astigmatism
        torch.testing.assert_close(
            torch.fft.rfft2(result)[:, inside],
            -(ctf * torch.fft.rfft2(image))[:, inside],
            rtol=1e-3,
            atol=1e-3,
        )
        assert ctf[0, 1] < 0


def test_flipped_and_multiplied_images_agree_in_phase_and_unlike_those_left(monkeypatch):
    series = 100 + noise(21, 40, 40)
    left, flipped = caught_images(monkeypatch, series, ctf="flipped")
    _, multiplied = caught_images(monkeypatch, series, ctf="multiplied")
    middle = len(ANGLES) // 2  # at 0° there is one strip
    product = torch.fft.rfft2(flipped[middle]) * torch.fft.rfft2(multiplied[middle]).conj()
    assert product.real.min() > -1e-3 * product.abs().max()
    assert correlation(left, flipped) < 0.9
    assert correlation(multiplied, flipped) > 0.7


def test_a_wrong_defocus_is_used_by_the_correction(monkeypatch):
    series = 100 + noise(21, 40, 40)
    right = caught_images(monkeypatch, series, ctf="multiplied")[1]
    wrong = caught_images(monkeypatch, series, ctf="multiplied", defocus_misfit_um=0.3)[1]
    assert 0.3 < correlation(right, wrong) < 0.99


def test_dose_weights_are_those_of_the_exposure_at_the_end_of_each_tilt(monkeypatch):
    plain, weighted = caught_images(monkeypatch, 100 + noise(21, 40, 40), dose_weighted=True)
    ends = EXPOSURE.prior_doses(ANGLES) + 100 / 21
    for i in (0, 10):
        left = radiation_damage((40, 40), pixel_size=10.0, accumulated_fluence=float(ends[i]))
        torch.testing.assert_close(
            torch.fft.rfft2(weighted[i]), left * torch.fft.rfft2(plain[i]), rtol=1e-3, atol=1e-3
        )
    assert ends[10] < ends[0]


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({}, 0.7),
        ({"exact": True}, 0.7),
        ({"method": "sirt-like", "iterations": 30}, 0.5),
        ({"method": "sirt", "iterations": 5}, 0.5),
        ({"method": "sart", "iterations": 1, "relaxation": 0.3}, 0.5),
        ({"cutoff": 0.3, "falloff": 0.05, "normalised_by": "mean"}, 0.7),
    ],
)
def test_every_method_gives_the_dark_specimen_in_its_shape(blob, changes, least):
    density, series = blob
    tomogram = made(series, **changes)
    assert tomogram.shape == density.shape
    assert correlation(tomogram, density) < -least


@pytest.mark.parametrize("size", [24, 22])
@pytest.mark.parametrize("binning", ["fourier", "average", "volume"])
def test_binned_tomogram_and_binned_density_lie_on_each_other(binning, size):
    density = torch.zeros(16, 2 * size, 2 * size)
    for z, y, x in ((8, 20, 30), (4, 12, 26), (12, 29, 13)):
        density[z, y, x] = 50.0
    density = gaussian_lowpass(density, 2.0)
    tomogram = made(100 - project_density(density, ANGLES), thickness=16, pixel_size=5.0, binning=binning)
    truth = bin_density(density, binning)
    assert tomogram.shape == truth.shape == (8, size, size)
    assert truth.sum() == pytest.approx(float(density.sum()) / 8, rel=1e-2)
    here = -correlation(tomogram, truth)
    assert here > 0.6
    for axis in range(3):
        for step in (-1, 1):
            assert -correlation(tomogram.roll(step, axis), truth) < 0.9 * here
    # between the voxels to either side the best place is here, to a tenth of a voxel
    for axis in (1, 2):
        before, after = (-correlation(tomogram.roll(step, axis), truth) for step in (-1, 1))
        assert abs(after - before) / 2 / (2 * here - before - after) < 0.1


def test_averaged_images_have_the_noise_of_four_pixels_and_their_mean():
    series = 100 + noise(3, 64, 64)
    binned = average_images(series)
    assert binned.shape == (3, 32, 32)
    assert binned.mean() == pytest.approx(float(series.mean()), rel=1e-5)
    assert binned.std() == pytest.approx(0.5, rel=0.05)


def test_a_highpass_takes_half_at_its_period_and_little_above():
    volume = noise(24, 24, 24)
    k = radial_frequency(volume.shape, half=True)
    gain = torch.fft.rfftn(filter_highpass(volume, 8.0)).abs() / torch.fft.rfftn(volume).abs()
    assert gain[k == 1 / 8].mean() == pytest.approx(0.5, rel=1e-3)
    assert gain[k < 0.05].max() < 0.15 and gain[k > 0.4].min() > 0.99


def test_a_deconvolved_or_high_passed_tomogram_has_another_spectrum(blob):
    _, series = blob
    k = radial_frequency((24, 40, 40), half=True)
    low, middle = (k > 0) & (k < 0.04), (k > 0.1) & (k < 0.2)

    def ratio(tomogram):
        power = torch.fft.rfftn(tomogram).abs() ** 2
        return float(power[low].mean() / power[middle].mean())

    plain = ratio(made(series))
    assert ratio(made(series, highpass_period=200.0)) < 0.1 * plain
    assert ratio(made(series, deconvolution=(1.0, 1.0))) > plain


def test_eight_bits_are_256_whole_levels_of_the_same_picture():
    volume = noise(32, 32, 32)
    levels = quantise(volume, 0.5, 1.0)
    assert len(levels.unique()) == 256 and (levels == levels.round()).all()
    assert (levels.min(), levels.max()) == (0, 255)
    assert (levels == 0).float().mean() == pytest.approx(0.005, abs=0.003)
    assert (levels == 255).float().mean() == pytest.approx(0.01, abs=0.003)
    assert correlation(levels, volume) > 0.99
    constant = torch.ones(4, 4, 4)
    assert quantise(constant, 0, 0) is constant


def test_the_defaults_draw_every_alternative_and_stay_inside_their_ranges():
    config = ProcessingConfig()
    drawn = [draw_processing(config, np.random.default_rng(seed)) for seed in range(600)]
    assert {p.method for p in drawn} == set(config.methods)
    assert {p.ctf for p in drawn} == set(config.ctf)
    assert {p.binning for p in drawn} == set(config.binning)
    assert {p.normalised_by for p in drawn} == {"mean", "standard deviation"}
    for name in ("exact", "dose_weighted"):
        assert {getattr(p, name) for p in drawn} == {True, False}
    for name, share in (("deconvolution", 0.12), ("highpass_period", 0.25), ("clip_percent", 0.25)):
        chosen = np.mean([getattr(p, name) is not None for p in drawn])
        assert chosen == pytest.approx(share, abs=0.05)
    assert np.mean([p.factor == 2 for p in drawn]) == pytest.approx(0.12, abs=0.04)
    assert not any(p.deconvolution for p in drawn if p.ctf == "multiplied")
    for p in drawn:
        assert 0.3 <= p.cutoff <= 0.5 and p.relaxation < 2 and (p.iterations > 0) == (p.method != "wbp")
        assert p.highpass_period is None or 200 <= p.highpass_period <= 2000
        json.dumps(p.record())
    assert draw_processing(None, np.random.default_rng(0)) == Processing()


def test_alternatives_without_weight_are_never_drawn():
    config = ProcessingConfig(methods={"sart": 1, "wbp": 0}, binning={"none": 2}, eight_bit_share=1)
    drawn = [draw_processing(config, np.random.default_rng(seed)) for seed in range(50)]
    assert {p.method for p in drawn} == {"sart"} and {p.binning for p in drawn} == {"none"}
    assert all(p.clip_percent for p in drawn)


KIND = SpecimenConfig(shape=(32, 40, 40), slab_margin=(20.0, 40.0), mass_kda=(60.0, 300.0), species=(2, 2))


def simulated(seed=3, **changes):
    config = SimulationConfig(
        specimens={"small": KIND}, acquisition=AcquisitionConfig(tilt_step=(6.0, 6.0)), **changes
    )
    return simulate_pair(config, seed=seed)


def test_processing_is_recorded_and_changes_nothing_of_specimen_and_recording():
    plain = simulated(processing=None)
    other = simulated(processing=ProcessingConfig(binning={"none": 1}, eight_bit_share=1))
    assert torch.equal(plain.density, other.density)
    assert plain.record["exposure"] == other.record["exposure"]
    assert plain.record["processing"] == Processing().record()
    assert other.record["processing"]["clip_percent"] is not None
    assert len(other.tomogram.unique()) <= 256


@pytest.mark.parametrize("binning", ["fourier", "average", "volume"])
def test_binned_pairs_have_the_shape_and_the_voxel_size_of_the_others(binning):
    pair = simulated(processing=ProcessingConfig(methods={"wbp": 1}, ctf={"left": 1}, binning={binning: 1}))
    assert pair.tomogram.shape == pair.density.shape == KIND.shape
    assert pair.voxel_size == pair.record["voxel_size"] == 10.0
    assert correlation(pair.tomogram, pair.density) < -0.05


def test_learned_noise_has_its_grain_at_the_voxel_size_of_the_pair_also_when_it_is_binned():
    asked = []

    def sample(angles, shape, pixel_size, generator):
        asked.append((shape, pixel_size))
        return torch.randn(len(angles), *shape, generator=generator)

    config = SimulationConfig(
        specimens={"small": KIND}, acquisition=AcquisitionConfig(tilt_step=(6.0, 6.0)),
        processing=ProcessingConfig(binning={"fourier": 1}),
    )  # fmt: skip
    record = simulate_pair(config, seed=3, sample_noise=sample).record
    assert [size for _, size in asked] == [10.0]
    assert 40 <= min(asked[0][0]) and max(asked[0][0]) < 80
    assert record["noise"]["learned_share"] == 0.5


@pytest.mark.parametrize("voxel_size", [5.0, 20.0])
@pytest.mark.parametrize("preset", ["purified", "virus"])
def test_presets_are_kinds_at_any_voxel_size(preset, voxel_size):
    kind = SpecimenConfig.model_validate({"preset": preset, "shape": (32, 40, 40), "occupancy": (0.0, 0.02)})
    pair = simulate_pair(
        SimulationConfig(
            specimens={preset: kind},
            voxel_size=(voxel_size, voxel_size),
            acquisition=AcquisitionConfig(
                tilt_min=(-70.0, -70.0), tilt_max=(40.0, 40.0), tilt_step=(5.0, 5.0)
            ),
            processing=None,
        ),
        seed=1,
    )
    assert pair.voxel_size == pytest.approx(voxel_size)
    assert pair.record["tilt_range"] == [-70.0, 40.0]
    assert torch.isfinite(pair.tomogram).all() and torch.isfinite(pair.density).all()
