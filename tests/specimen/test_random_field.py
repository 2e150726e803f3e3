import numpy as np
import pytest

from cryomend.specimen.random_field import random_field, random_undulation


@pytest.mark.parametrize("n_waves", [16, 48])
def test_fields_have_mean_zero_and_variance_one_for_any_number_of_waves(n_waves):
    wide = np.random.default_rng(1).uniform(0, 2000, (20_000, 3))
    field = np.array(
        [random_field(np.random.default_rng(i), wavelength=30.0, n_waves=n_waves).at(wide) for i in range(4)]
    )
    # of a sum of plane waves both are exact over all space; 20,000 samples know them to 1 %
    np.testing.assert_allclose(field.var(1), 1, atol=0.05)
    np.testing.assert_allclose(field.mean(1), 0, atol=0.05)


def test_a_field_on_a_grid_is_the_field_at_its_points():
    field = random_field(np.random.default_rng(0), wavelength=200.0)
    axes = [np.arange(n) * 10.0 for n in (5, 6, 7)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    np.testing.assert_allclose(field.on_grid(axes), field.at(points), atol=1e-4)


def test_wavelengths_and_amplitudes_out_of_range_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="wavelength must be positive"):
        random_field(rng, wavelength=0.0)
    with pytest.raises(ValueError, match="amplitude must not be negative"):
        random_undulation(rng, wavelength=100.0, amplitude=-1.0)
