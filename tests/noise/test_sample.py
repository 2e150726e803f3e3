"""Noise tilts: no seams, spectrum kept, scaled by tilt; files, pixel sizes, stated ratios."""

import numpy as np
import pytest
import torch

from cryomend.config import NoiseConfig
from cryomend.fourier import radial_frequency, radial_mean, shell_index
from cryomend.io import InputError, read_stack, write_tilt_angles, write_volume
from cryomend.mixing import measure_snr
from cryomend.noise import (
    NoiseModel,
    SampleOptions,
    estimate_power_spectrum,
    sample_noise,
    sample_noise_file,
    save_noise_model,
    stream_noise,
)
from cryomend.noise.fit import calibrate
from cryomend.noise.model import new_generator, prepare_spectral
from cryomend.noise.networks import initialise_weights
from cryomend.noise.spectral import normal_levels

TABLE = np.array([[-60.0, 4.0], [0.0, 2.0], [60.0, 6.0]])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def spectral_model(side=32, scale=0.1, table=TABLE):
    """Gaussian noise with a falling power spectrum."""
    power = 1 / (1 + (radial_frequency((side, side), half=True) / scale) ** 2)
    power = power / torch.fft.irfft2(power, s=(side, side))[0, 0]
    tensors = prepare_spectral({"power": power, "quantiles": normal_levels()})
    return NoiseModel("spectral", side, 5.0, table, tensors)


def learned_model(side=32, angle=False):
    """An untrained generator of two channels, calibrated to the noise of the spectral model."""
    truth = spectral_model(side, scale=0.1)
    config = NoiseConfig(width=2, latent=4, conditioning="angle" if angle else "moments").model_dump()
    generator = new_generator(side, config)
    initialise_weights(generator, rng())
    tensors = {k: truth.tensors[k] for k in ("power", "quantiles")} | {"white_quantiles": normal_levels()}
    model = NoiseModel("wgan", side, 5.0, TABLE, tensors, config, generator)
    return calibrate(model, seed=0)


def test_equal_seeds_give_equal_noise_and_others_other():
    model = spectral_model()
    first, again, other = (
        sample_noise(model, tilt_angles=[0.0, 30.0], shape=(50, 70), generator=rng(s)) for s in (1, 1, 2)
    )
    assert first.shape == (2, 50, 70)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert (first - other).std() > 1


@pytest.mark.parametrize("make", [spectral_model, learned_model])
def test_variance_and_jumps_between_pixels_are_the_same_everywhere(make):
    model = make()
    fields = torch.stack([model.sample_field((96, 96), rng(s)) for s in range(60)])
    jumps = (fields[:, :, 1:] - fields[:, :, :-1]).square()
    for values in (fields.square(), jumps):
        # By column, over 60 fields of 96 rows, of which a sixth are independent: 5 % each, four of those.
        by_column = values.mean(dim=(0, 1))
        assert (by_column / by_column.mean() - 1).abs().max() < 0.2
    # The cells of the generator are 8 pixels: no place in them is louder than another.
    phases = torch.stack([fields[:, y::8, x::8].var() for y in range(8) for x in range(8)])
    assert phases.std() / phases.mean() < 0.06


@pytest.mark.parametrize("make", [spectral_model, learned_model])
def test_fields_have_the_spectrum_of_the_real_patches(make):
    model = make(side=64)
    fields = torch.stack([model.sample_field((256, 256), rng(s)) for s in range(12)])
    tiles = fields.unfold(1, 64, 64).unfold(2, 64, 64).reshape(-1, 64, 64)
    found = radial_mean(estimate_power_spectrum(tiles), shell_index((64, 64), half=True), 33)
    wanted = radial_mean(model.tensors["power"], shell_index((64, 64), half=True), 33)
    difference = 10 * torch.log10(found / wanted)[2:30]  # 0.03 to 0.45 cycles/pixel
    # 192 tiles: 0.2 dB in the smallest shells; the calibration has seen 256 others.
    assert difference.abs().max() < 0.8
    assert difference.abs().mean() < 0.2


@pytest.mark.parametrize("make", [spectral_model, learned_model])
def test_nothing_repeats_and_opposite_borders_are_independent(make):
    model = make()
    fields = torch.stack([model.sample_field((128, 128), rng(s)) for s in range(40)])
    for lag in (32, 64, 127):
        product = fields[:, :, lag:] * fields[:, :, :-lag]
        # The last lag has 40 x 128 products only, a quarter of them independent: 3 % each.
        assert product.mean().abs() < 0.1
    repeated = torch.corrcoef(fields.flatten(1)).fill_diagonal_(0)
    assert repeated.abs().max() < 0.1  # about 4,000 independent pixels: 1.6 %, six of those


def test_a_field_at_another_angle_differs_only_for_a_conditioned_model():
    for angle in (True, False):
        model = learned_model(angle=angle)
        with torch.no_grad():
            for block in model.generator.blocks:
                if block.shift is not None:
                    block.shift.weight.fill_(0.3)
        flat, tilted = (model.sample_field((40, 40), rng(4), tilt_angle=a) for a in (0.0, 60.0))
        assert torch.equal(flat, tilted) != angle


def test_deviation_follows_the_tilt_angle_between_and_beyond_the_table():
    angles = [-70, -30, 0, 30]
    model = spectral_model(scale=0.4)
    noise = sample_noise(model, tilt_angles=angles, shape=(256, 256), generator=rng())
    # The table says 4 (held), 3, 2 and 4; 65,536 mildly correlated pixels know a deviation to 0.5 %.
    np.testing.assert_allclose(noise.std(dim=(1, 2)), [4, 3, 2, 4], rtol=0.03)


def test_unknown_angles_give_one_deviation_everywhere():
    model = spectral_model(table=np.array([[np.nan, 3.0]]), scale=0.4)
    noise = sample_noise(model, tilt_angles=[-60, 0], shape=(256, 256), generator=rng())
    np.testing.assert_allclose(noise.std(dim=(1, 2)), [3, 3], rtol=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (16, 100)])
def test_any_size_can_be_asked_for(shape):
    noise = sample_noise(spectral_model(), tilt_angles=[0.0], shape=shape, generator=rng())
    assert noise.shape == (1, *shape)
    assert noise.isfinite().all()


def test_sampling_refuses_nothing_to_do():
    with pytest.raises(ValueError, match="positive shape"):
        sample_noise(spectral_model(), tilt_angles=[0.0], shape=(0, 5), generator=rng())
    with pytest.raises(ValueError, match="at least one angle"):
        sample_noise(spectral_model(), tilt_angles=[], shape=(5, 5), generator=rng())


def test_streamed_tilts_are_those_of_the_stack():
    model, angles = learned_model(), [0.0, 20.0, 60.0]
    stack = sample_noise(model, tilt_angles=angles, shape=(40, 50), generator=rng(3))
    for whole, tilt in zip(
        stack, stream_noise(model, tilt_angles=angles, shape=(40, 50), generator=rng(3)), strict=True
    ):
        assert torch.equal(whole, tilt)


# ---- files ----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    save_noise_model(tmp_path / "m.safetensors", spectral_model(scale=0.4))
    write_tilt_angles(tmp_path / "a.tlt", np.array([-60.0, 0.0, 60.0]))
    signal = 7 + np.random.default_rng(0).standard_normal((3, 128, 128)).astype(np.float32)
    write_volume(
        tmp_path / "signal.mrc", signal * np.array([1, 2, 3.0])[:, None, None], voxel_size=5, stack=True
    )
    return tmp_path


def write_noise(files, shape=(128, 128), **options):
    notes = sample_noise_file(
        files / "m.safetensors",
        files / "noise.mrc",
        tilt_angles=files / "a.tlt",
        shape=shape,
        options=SampleOptions(**options),
    )
    return read_stack(files / "noise.mrc"), notes


@pytest.mark.parametrize("snr_db", [0.0, 2.0, 5.0, 10.0])
def test_noise_is_matched_to_the_energy_of_every_tilt_in_decibels(files, snr_db):
    noise, notes = write_noise(files, shape=None, signal=files / "signal.mrc", snr_db=snr_db)
    signal = torch.from_numpy(read_stack(files / "signal.mrc").data)
    found = 10 * torch.log10(measure_snr(signal, torch.from_numpy(noise.data)))
    np.testing.assert_allclose(found, [snr_db] * 3, atol=0.01)
    assert notes == []


def test_noise_of_another_pixel_size_is_said_and_rescaled_only_when_asked(files):
    plain, notes = write_noise(files, pixel_size=10.0)
    assert plain.voxel_size == pytest.approx(5)
    assert len(notes) == 1
    assert "fitted at 5 Å, not 10 Å" in notes[0]
    scaled, notes = write_noise(files, pixel_size=10.0, rescale=True)
    assert scaled.voxel_size == pytest.approx(10)
    assert "rescaled to 10" in notes[0]

    def neighbours(stack):
        return float((stack[:, :, 1:] * stack[:, :, :-1]).mean() / (stack**2).mean())

    # Pixels of 10 Å are twice as far apart, and correlate less.
    assert neighbours(scaled.data) < neighbours(plain.data) - 0.1
    assert write_noise(files, pixel_size=5.05)[1] == []


def test_what_cannot_be_sampled_is_refused_before_anything_is_written(files):
    with pytest.raises(InputError, match="--rescale needs the pixel size"):
        write_noise(files, rescale=True)
    with pytest.raises(InputError, match="give both or neither"):
        write_noise(files, snr_db=3.0)
    with pytest.raises(InputError, match="--size must be two positive numbers"):
        write_noise(files, shape=None)
    write_tilt_angles(files / "a.tlt", np.array([0.0, 3.0]))
    with pytest.raises(InputError, match="3 images for 2 tilt angles"):
        write_noise(files, shape=None, signal=files / "signal.mrc", snr_db=3.0)
    assert not (files / "noise.mrc").exists()
