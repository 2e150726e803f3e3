"""Noise tilts: no seams, flat variance, spectrum kept, scaled by tilt; and mixing at a known ratio."""

import numpy as np
import pytest
import torch

from cryomend.fourier import radial_frequency
from cryomend.noise import NoiseModel, sample_noise
from cryomend.noise.fidelity import radial_spectrum_db
from cryomend.noise.model import prepare_spectral
from cryomend.noise.sample import blend_patches
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


def blended_at_phase_zero(model, count, size):
    """Blended tilts, each rolled so that its tile grid starts at the first pixel, and cut to whole tiles."""
    tilts = []
    for seed in range(count):
        offset = torch.randint(model.patch, (2,), generator=rng(seed)).tolist()
        tilt = blend_patches(model, (size + model.patch, size + model.patch), rng(seed))
        y, x = ((model.patch - o) % model.patch for o in offset)
        tilts.append(tilt[y : y + size, x : x + size])
    return torch.stack(tilts)


def by_phase(values, side):
    """Mean over tilts, rows and tiles, for each column's place in its tile."""
    return values.mean(dim=(0, 1)).reshape(-1, side).mean(dim=0)


def test_equal_seeds_give_equal_noise_and_others_other():
    model = spectral_model()
    first, again, other = (
        sample_noise(model, tilt_angles=[0.0, 30.0], shape=(50, 70), generator=rng(s)) for s in (1, 1, 2)
    )
    assert first.shape == (2, 50, 70)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert (first - other).std() > 1


def test_variance_is_flat_across_tiles():
    tilts = blended_at_phase_zero(spectral_model(scale=0.3), 40, 128)
    variance = by_phase(tilts.square(), 32)
    # 20,000 pixels per place, few of them correlated: about 1.5 %; windows that do not tile miss by 50 %.
    assert (variance - 1).abs().max() < 0.06


def test_neighbouring_pixels_differ_as_much_across_a_tile_border_as_inside():
    tilts = blended_at_phase_zero(spectral_model(scale=0.05), 40, 128)
    jump = by_phase((tilts.roll(-1, dims=2) - tilts).square()[:, :, :-32], 32)
    assert (jump / jump.mean() - 1).abs().max() < 0.08


def test_tiles_a_patch_apart_are_independent():
    tilts = blended_at_phase_zero(spectral_model(), 40, 128)
    product = (tilts[:, :, :64] * tilts[:, :, 64:]).mean()
    assert product.abs() < 0.05


def test_blending_keeps_the_spectrum_of_the_patches():
    model = spectral_model(side=64, scale=0.1)
    blended = torch.stack([blend_patches(model, (256, 256), rng(s)) for s in range(10)])
    tiles = blended.unfold(1, 64, 64).unfold(2, 64, 64).reshape(-1, 64, 64)
    frequency, found = radial_spectrum_db(tiles)
    _, wanted = radial_spectrum_db(model.sample_patches(1000, rng(9)))
    # The sine window smooths over one Fourier pixel: 0.3 dB where it is steep; 160 tiles scatter by 0.2 dB.
    assert (found - wanted).abs().max() < 0.6
    assert (found - wanted).abs().mean() < 0.15
    assert len(frequency) > 20


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
