"""Fitting on noise with a known law, and the model's file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from cryomend.config import NoiseConfig
from cryomend.io import InputError
from cryomend.noise import (
    NoiseModel,
    compare_noise,
    cut_noise_patches,
    fit_noise,
    load_noise_model,
    sample_noise,
    save_noise_model,
)
from cryomend.noise.fidelity import cut_stack
from cryomend.noise.fit import split_patches, tabulate_std

ANGLES = np.linspace(-60, 60, 7)
TINY = NoiseConfig(width=2, latent=8, steps=2, critic_steps=1, batch=8, classifier_steps=2)


def known_noise(seed, shape=(7, 192, 192)):
    """Correlated, skewed (gamma-like) noise, stronger at high tilt; made by no code of the package."""
    rng = np.random.default_rng(seed)
    normal = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 0.7, 0.7), mode="wrap")
    normal = normal / normal.std() + 0.4 * rng.standard_normal(shape)
    skewed = np.exp(0.25 * normal)
    skewed = (skewed - skewed.mean()) / skewed.std()
    return (skewed * (10 / np.cos(np.radians(ANGLES)))[:, None, None]).astype(np.float32)


@pytest.fixture(scope="module")
def patches():
    return cut_noise_patches(known_noise(0), patch=32, tilt_angles=ANGLES, pixel_size=3.0, source="known")[0]


@pytest.fixture(scope="module")
def held_out():
    return cut_stack(known_noise(1), 32, Path("held-out"), ANGLES)


def sampled(model, seed=5):
    generator = torch.Generator().manual_seed(seed)
    noise = sample_noise(model, tilt_angles=ANGLES, shape=(192, 192), generator=generator)
    return cut_stack(noise.numpy(), 32, Path("sampled"), ANGLES)


def test_the_spectral_model_reproduces_spectrum_marginal_and_deviation_of_held_out_noise(patches, held_out):
    result = compare_noise(held_out, sampled(fit_noise(patches, kind="spectral")), steps=0)
    assert result["spectrum_db_max"] < 1.0  # 250 patches on either side: 0.3 dB in the smallest shell
    assert result["spectrum_db_mean"] < 0.2
    assert result["wasserstein"] < 0.02
    assert result["skewness"][1] == pytest.approx(result["skewness"][0], abs=0.08)
    assert result["std_ratio_worst"] == pytest.approx(1, abs=0.05)


def test_the_gaussian_model_matches_deviations_only(patches, held_out):
    result = compare_noise(held_out, sampled(fit_noise(patches, kind="gaussian")), steps=0)
    assert result["std_ratio_worst"] == pytest.approx(1, abs=0.05)
    assert result["autocorrelation_max"] > 0.2


def test_a_learned_model_is_calibrated_to_spectrum_and_marginal_however_short_its_training(patches, held_out):
    model = fit_noise(patches, kind="wgan", config=TINY)
    result = compare_noise(held_out, sampled(model), steps=0)
    assert model.config["steps_done"] == 2
    # 250 patches on either side, as for the spectral model.
    assert result["spectrum_db_max"] < 1.0
    assert result["spectrum_db_mean"] < 0.25
    assert result["wasserstein"] < 0.02
    assert result["std_ratio_worst"] == pytest.approx(1, abs=0.05)


def test_a_learned_model_is_scored_beside_its_rivals_on_patches_kept_apart(patches):
    model = fit_noise(patches, kind="wgan", config=TINY.model_copy(update={"classifier_steps": 150}))
    scores = {kind: row["score"] for kind, row in model.config["validation"].items()}
    assert set(scores) == {"wgan", "spectral", "gaussian"}
    assert scores["gaussian"] > 3 * scores["spectral"]
    assert "score (classifier)" in model.config["notes"][0]


def test_the_best_scored_generator_is_the_one_that_is_kept(patches):
    config = TINY.model_copy(update={"steps": 4, "validate_every": 1, "patience": 9})
    scores = []
    fit_noise(patches, config=config, on_step=lambda step, losses: scores.append(losses["score"]))
    assert len(scores) == 4
    assert all(np.isfinite(scores))


def test_a_model_told_the_angle_is_fitted_and_read_back(tmp_path: Path, patches):
    model = fit_noise(patches, config=TINY.model_copy(update={"conditioning": "angle"}))
    save_noise_model(tmp_path / "m", model)
    np.testing.assert_array_equal(sampled(load_noise_model(tmp_path / "m")).patches, sampled(model).patches)


def test_validation_takes_the_last_patches_of_every_tilt(patches):
    training, validation = split_patches(patches, 0.2)
    assert len(training.patches) + len(validation.patches) == len(patches.patches)
    assert len(validation.patches) == pytest.approx(0.2 * len(patches.patches), abs=2)
    for tilt in range(7):
        first, second = (p.corner_yx[p.tilt_index == tilt] for p in (training, validation))
        assert len(second) > 0
        assert first[:, 0].max() <= second[:, 0].min()
    assert len(split_patches(patches, 0.9, most=10)[1].patches) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("kind", ["wgan", "spectral", "gaussian"])
def test_a_model_read_back_samples_the_same_noise(tmp_path: Path, patches, kind):
    model = fit_noise(patches, kind=kind, config=TINY)
    save_noise_model(tmp_path / "m.safetensors", model)
    back = load_noise_model(tmp_path / "m.safetensors")
    assert (back.kind, back.patch, back.pixel_size, back.config) == (kind, 32, 3.0, model.config)
    np.testing.assert_array_equal(sampled(back).patches, sampled(model).patches)


def test_the_table_joins_tilts_of_equal_angle_by_their_mean_variance(patches):
    count = len(patches.patches)
    angles, std = np.full(count, 10.0), np.full(count, 3.0)
    angles[::2], std[::2] = 10.04, 4.0
    std[0], angles[0] = 7.0, -5.0
    table = tabulate_std(replace(patches, tilt_angle=angles, tilt_std=std))
    np.testing.assert_array_equal(table[:, 0], [-5, 10])
    share = (np.arange(1, count) % 2 == 0).mean()
    np.testing.assert_allclose(table[:, 1], [7, np.sqrt(share * 16 + (1 - share) * 9)])


def test_the_table_of_unknown_angles_is_one_row(patches):
    table = tabulate_std(replace(patches, tilt_angle=np.full(len(patches.patches), np.nan)))
    assert table.shape == (1, 2)
    assert np.isnan(table[0, 0])


def test_checkpoint_and_resume_through_fit_give_the_uninterrupted_model(tmp_path: Path, patches):
    longer = TINY.model_copy(update={"steps": 4})
    whole = fit_noise(patches, config=longer)
    fit_noise(patches, config=TINY, checkpoint=tmp_path / "c")
    resumed = fit_noise(patches, config=longer, checkpoint=tmp_path / "c", resume=True)
    for key, value in whole.generator.state_dict().items():
        assert torch.equal(value, resumed.generator.state_dict()[key]), key


def test_too_few_patches_fall_back_and_what_cannot_be_fitted_is_refused(patches):
    few = split_patches(patches, 0.9, most=10)[1]
    fallback = fit_noise(few)
    assert fallback.kind == "spectral"
    assert fallback.config["notes"][0].startswith("10 patches are too few for a learned model (at least 64")
    with pytest.raises(InputError, match="unknown noise model 'dcgan': use wgan, spectral or gaussian"):
        fit_noise(patches, kind="dcgan")
    with pytest.raises(ValueError, match="patch must be 32, 64, 128 or 256"):
        fit_noise(replace(patches, patches=patches.patches[:, :24, :24].copy()), config=TINY)
    with pytest.raises(InputError, match="nothing to resume from"):
        fit_noise(patches, config=TINY, resume=True)


def test_files_that_are_no_models_are_refused(tmp_path: Path, patches):
    with pytest.raises(InputError, match="no such file; make it with `cryomend noise fit`"):
        load_noise_model(tmp_path / "absent")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not a noise model"):
        load_noise_model(tmp_path / "text")
    model = fit_noise(patches, kind="wgan", config=TINY)
    broken = NoiseModel("wgan", 64, 3.0, model.std_table, model.tensors, model.config, model.generator)
    save_noise_model(tmp_path / "broken", broken)
    with pytest.raises(InputError, match="damaged noise model"):
        load_noise_model(tmp_path / "broken")
