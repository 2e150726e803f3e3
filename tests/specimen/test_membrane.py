"""The bilayer: peaks as given, integral from the composition, kept at any voxel size."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from cryomend.specimen.membrane import HEAD_POTENTIAL, bilayer_profile
from cryomend.specimen.surface import Frame, ellipsoid_surface, surface_area

STEP = 0.02
ACROSS = np.arange(-80, 80, STEP)


def peaks(profile: np.ndarray) -> np.ndarray:
    middle = profile[1:-1]
    return ACROSS[1:-1][(middle > profile[:-2]) & (middle >= profile[2:])]


@pytest.mark.parametrize("head_distance", [33.0, 37.0, 41.0])
def test_a_bilayer_has_two_peaks_at_the_given_distance_and_nothing_outside(head_distance):
    profile = bilayer_profile(ACROSS, head_distance=head_distance)
    heads = peaks(profile)
    heads = heads[np.abs(heads) < 35]  # farther out are the last bits of zeros
    np.testing.assert_allclose(heads, [-head_distance / 2, head_distance / 2], atol=0.15)
    assert profile.max() == pytest.approx(HEAD_POTENTIAL, rel=2e-3)
    assert np.abs(profile[np.abs(ACROSS) > head_distance / 2 + 17]).max() < 1e-4
    np.testing.assert_allclose(profile, bilayer_profile(-ACROSS, head_distance=head_distance), atol=1e-6)
    assert profile.dtype == np.float32


def excess_potential(formula: dict[str, int], volume: float) -> float:
    """Potential times volume of atoms above the ice of 4.57 V that they displace, V Å³."""
    form_factors = sum(n * sum(gemmi.Element(symbol).c4322.a) for symbol, n in formula.items())
    return 47.878 * form_factors - 4.57 * volume


def test_the_integral_across_is_that_of_the_atoms_of_dopc_in_their_area():
    # DOPC, C44H84NO8P: 1303 Å³ and 67.4 Å² per lipid (Kučerka et al. 2008, doi:10.1529/biophysj.108.132662).
    whole = 2 * excess_potential({"C": 44, "H": 84, "N": 1, "O": 8, "P": 1}, 1303) / 67.4
    assert bilayer_profile(ACROSS).sum() * STEP == pytest.approx(whole, rel=1e-3)
    # A lipid with two more CH2 on each side of the bilayer per Å of thickness: only the chains change.
    thick = bilayer_profile(ACROSS, head_distance=39).sum() * STEP
    per_angstrom = excess_potential({"C": 30, "H": 54}, 972 - 4 * 54) / (972 - 4 * 54)
    assert (thick - whole) / 2 == pytest.approx(per_angstrom, rel=0.2)


def test_the_order_of_potentials_is_heads_chains_methyl_trough_ice():
    heads, chains, methyl, ice = bilayer_profile(np.array([18.5, 9.0, 0.0, 60.0]))
    assert heads > 1.2 * chains > 2 * methyl > ice == 0
    # CH2 of 27.6 Å³ stands 1.62 V above ice in this potential, double bonds a little more.
    assert chains == pytest.approx(excess_potential({"C": 1, "H": 2}, 27.6) / 27.6, abs=0.1)
    # The hydrocarbon is as thick as its volume over its area: 2 x 14.4 Å.
    without_heads = bilayer_profile(ACROSS) - HEAD_POTENTIAL * np.exp(
        -((np.abs(ACROSS) - 18.9) ** 2) / 2 / 3.5**2
    )
    half_height = ACROSS[without_heads > chains / 2]
    assert half_height.max() == pytest.approx(972 / 67.4, abs=1.5)


@pytest.mark.parametrize("voxel_size", [4.0, 10.0, 14.0, 20.0])
def test_the_integral_survives_coarse_voxels_wherever_the_surface_lies_between_them(voxel_size):
    whole = bilayer_profile(ACROSS).sum() * STEP
    for offset in np.linspace(0, voxel_size, 7):
        voxels = np.arange(-20, 21) * voxel_size + offset
        found = bilayer_profile(voxels, voxel_size=voxel_size).sum() * voxel_size
        assert found == pytest.approx(whole, rel=1e-4)


def test_a_voxel_holds_the_mean_of_the_profile_over_it():
    for centre in (0.0, 7.0, 18.5, 27.0):
        inside = np.linspace(centre - 6, centre + 6, 4801)
        expected = bilayer_profile(inside).mean()
        assert bilayer_profile(np.array([centre]), voxel_size=12.0)[0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("voxel_size", [7.0, 14.0])
def test_a_vesicle_holds_the_potential_of_its_lipids(voxel_size):
    n = int(600 / voxel_size)
    surface = ellipsoid_surface(
        np.full(3, 200.0),
        centre_px=np.full(3, n / 2 + 0.3),
        rotation=np.eye(3),
        frame=Frame((n, n, n), voxel_size, 60.0),
    )
    total = bilayer_profile(surface.distance, voxel_size=voxel_size).sum(dtype=np.float64) * voxel_size**3
    across = bilayer_profile(ACROSS).astype(np.float64)
    # A sphere of radius R has 4π(R + d)² of area at the distance d.
    expected = (across * 4 * np.pi * (200 + ACROSS) ** 2).sum() * STEP
    assert total == pytest.approx(expected, rel=0.01)
    assert total / surface_area(surface) == pytest.approx(76.7, rel=0.02)


def test_amplitude_scales_the_whole_profile():
    np.testing.assert_allclose(
        bilayer_profile(ACROSS, amplitude=3 * HEAD_POTENTIAL), 3 * bilayer_profile(ACROSS), atol=1e-5
    )


def test_a_profile_keeps_the_shape_of_the_distance():
    distance = np.linspace(-40, 40, 24).reshape(2, 3, 4)
    np.testing.assert_array_equal(
        bilayer_profile(distance).reshape(-1), bilayer_profile(distance.reshape(-1))
    )


def test_impossible_bilayers_are_refused():
    with pytest.raises(ValueError, match="head_distance"):
        bilayer_profile(ACROSS, head_distance=8)
    with pytest.raises(ValueError, match="voxel_size"):
        bilayer_profile(ACROSS, voxel_size=-1)
