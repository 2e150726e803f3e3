import numpy as np
import pytest
import torch

from cryomend.specimen.macromolecule import (
    PROTEIN_CONTRAST,
    FormFactor,
    Macromolecule,
    potential_grid,
    sigma_of_resolution,
)

SPREAD = FormFactor((1.4, -0.4), (2.0, 6.0))


def cloud(n: int = 40, radius: float = 6.0, form_factors=(SPREAD,), seed: int = 0) -> Macromolecule:
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-radius, radius, (n, 3)).astype(np.float32)
    return Macromolecule("cloud", positions, rng.uniform(1, 9, n).astype(np.float32), None, form_factors)


def fourier_sum(molecule: Macromolecule, spacing: float, sigma: float, n: int) -> np.ndarray:
    """The definition: every Fourier coefficient of the grid as a sum over the points."""
    k = np.fft.fftfreq(n, spacing)
    grid = np.stack(np.meshgrid(k, k, k, indexing="ij"), axis=-1).reshape(-1, 3)
    squared = (grid**2).sum(1)
    spectrum = np.exp(-2j * np.pi * grid @ molecule.positions_zyx.T.astype(float)) @ molecule.weights
    for form_factor in molecule.form_factors:
        terms = zip(form_factor.amplitudes, form_factor.variances, strict=True)
        spectrum = spectrum * sum(a * np.exp(-2 * np.pi**2 * v * squared) for a, v in terms)
    spectrum = spectrum * np.exp(-2 * np.pi**2 * sigma**2 * squared) / spacing**3
    return np.fft.fftshift(np.fft.ifftn(spectrum.reshape(n, n, n)).real)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.3])  # the last one needs no finer grid
@pytest.mark.parametrize("form_factors", [(), (SPREAD,)])
def test_potential_is_the_band_limited_sum_over_the_points(device, sigma, form_factors):
    molecule = cloud(form_factors=form_factors)
    grid = potential_grid(molecule, spacing=1.0, sigma=sigma, device=device).cpu()
    exact = fourier_sum(molecule, 1.0, sigma, len(grid))
    # the aliases of a cubic spline on a grid twice as fine: (1/3)^4 of the signal at Nyquist, less below
    assert np.abs(grid.numpy() - exact).max() < 0.01 * np.abs(exact).max()


def test_one_gaussian_point_has_the_profile_of_a_gaussian():
    molecule = Macromolecule(
        "point", np.zeros((1, 3), np.float32), np.array([50], np.float32), None, (FormFactor((1.0,), (9.0,)),)
    )
    grid = potential_grid(molecule, spacing=2.0, sigma=4.0)
    middle = len(grid) // 2
    r = 2.0 * (torch.arange(len(grid)) - middle)
    expected = 50 * (2 * np.pi * 25) ** -1.5 * torch.exp(-(r**2) / 50)
    torch.testing.assert_close(grid[middle, middle], expected, atol=2e-3 * expected.max().item(), rtol=0)
    assert len(grid) % 2 == 1 and len(set(grid.shape)) == 1


@pytest.mark.parametrize("spacing", [1.0, 3.7, 9.0])
def test_total_potential_does_not_depend_on_spacing_or_blur(spacing):
    molecule = cloud(n=300, radius=30)
    grid = potential_grid(molecule, spacing=spacing, sigma=spacing / 2)
    assert grid.double().sum().item() * spacing**3 == pytest.approx(molecule.weights.sum(), rel=1e-5)


def test_a_point_at_the_rim_does_not_come_back_on_the_other_side():
    molecule = Macromolecule("rim", np.array([[0, 0, 40]], np.float32), np.ones(1, np.float32))
    grid = potential_grid(molecule, spacing=4.0, sigma=4.0)
    assert grid[..., 0].abs().max() < 1e-3 * grid.max()
    assert grid[..., -1].abs().max() < 0.02 * grid.max()  # three standard deviations of tail fit


def test_kinds_are_spread_by_their_own_form_factors():
    kinds = np.array([0, 1], np.uint8)
    wide, narrow = FormFactor((1.0,), (25.0,)), FormFactor((1.0,), (9.0,))
    positions = np.array([[0, 0, -20], [0, 0, 20]], np.float32)
    molecule = Macromolecule("two", positions, np.ones(2, np.float32), kinds, (wide, narrow))
    grid = potential_grid(molecule, spacing=2.0)
    middle = len(grid) // 2
    line = grid[middle, middle]
    # peaks of Gaussians of equal integral are as their volumes
    assert (line[middle + 10] / line[middle - 10]).item() == pytest.approx((25 / 9) ** 1.5, rel=0.01)


def test_resolution_is_where_the_blur_falls_to_one_over_e():
    sigma = sigma_of_resolution(20.0)
    assert np.exp(-2 * np.pi**2 * sigma**2 / 20.0**2) == pytest.approx(np.exp(-1))
    assert sigma == pytest.approx(0.225 * 20, rel=0.001)


def test_volume_is_that_of_protein_and_radius_that_of_the_farthest_point():
    positions = np.array([[0, 3, 4], [1, 0, 0]], np.float32)
    molecule = Macromolecule("m", positions, np.array([33, 66], np.float32))
    assert molecule.radius == pytest.approx(5)
    assert molecule.volume == pytest.approx(99 / PROTEIN_CONTRAST)


@pytest.mark.parametrize(
    ("positions", "weights", "kinds"),
    [
        (np.zeros((0, 3)), np.zeros(0), None),
        (np.zeros((2, 2)), np.ones(2), None),
        (np.zeros((1, 3)), *2 * [np.ones(1, int)]),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(positions, weights, kinds):
    with pytest.raises(ValueError, match="bad: "):
        Macromolecule("bad", positions, weights, kinds)


@pytest.mark.parametrize(
    ("amplitudes", "variances", "message"),
    [((0.5,), (1.0,), "sum to 1"), ((1.0,), (-1.0,), "variance"), ((1.0,), (), "variance")],
)
def test_form_factors_that_are_none_are_refused(amplitudes, variances, message):
    with pytest.raises(ValueError, match=message):
        FormFactor(amplitudes, variances)


@pytest.mark.parametrize(("spacing", "sigma"), [(0, 1), (1, -1), (float("nan"), 1)])
def test_impossible_grids_are_refused(spacing, sigma):
    with pytest.raises(ValueError, match="spacing > 0"):
        potential_grid(cloud(), spacing=spacing, sigma=sigma)
