import numpy as np
import pytest

from cryomend.specimen.filament import actin_lattice, helical_poses, microtubule_lattice, worm_like_chain
from cryomend.specimen.membrane import bilayer_profile, ellipsoid_distance, ellipsoid_surface


def test_bilayer_has_two_peaks_at_the_given_distance_and_nothing_outside():
    d = np.linspace(-80, 80, 3201)
    profile = bilayer_profile(d, head_distance=37, amplitude=2.6)
    peaks = d[1:-1][(profile[1:-1] > profile[:-2]) & (profile[1:-1] > profile[2:]) & (profile[1:-1] > 1.3)]
    np.testing.assert_allclose(peaks, [-18.5, 18.5], atol=0.1)
    assert profile.max() == pytest.approx(2.6, rel=1e-3)
    assert profile[np.abs(d) > 45].max() < 1e-4
    np.testing.assert_allclose(profile, profile[::-1], atol=1e-6)
    with pytest.raises(ValueError, match="head_distance"):
        bilayer_profile(d, head_distance=0)


def test_distance_to_a_sphere_is_exact_and_the_ellipsoids_surface_has_distance_zero():
    points = np.random.default_rng(0).normal(0, 200, (500, 3))
    np.testing.assert_allclose(
        ellipsoid_distance(points, np.full(3, 150.0)), np.linalg.norm(points, axis=1) - 150, atol=1e-9
    )
    axes = np.array([100.0, 200, 300])
    surface, normals = ellipsoid_surface(np.random.default_rng(0), axes, 400)
    np.testing.assert_allclose(ellipsoid_distance(surface, axes), 0, atol=1e-9)
    outside = ellipsoid_distance(surface + 1e-3 * normals, axes)
    np.testing.assert_allclose(outside, 1e-3, rtol=1e-3)


def test_chain_has_its_step_its_frames_are_rotations_and_tangents_decorrelate_as_stated():
    rng = np.random.default_rng(0)
    cosines = []
    for _ in range(300):
        points, frames = worm_like_chain(
            rng,
            start_zyx=np.zeros(3),
            direction_zyx=np.array([0, 1.0, 0]),
            length=1000,
            step=10,
            persistence_length=1000,
        )
        cosines.append(frames[0, :, 0] @ frames[50, :, 0])
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), 10)
    np.testing.assert_allclose(
        frames @ frames.transpose(0, 2, 1), np.eye(3)[None].repeat(len(frames), 0), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(frames), 1)
    # exp(-s/P) at s = 500 Å; the standard error of 300 chains is 0.015.
    assert np.mean(cosines) == pytest.approx(np.exp(-0.5), abs=0.05)


def straight(n, step):
    points = np.stack([np.arange(n) * step, np.zeros(n), np.zeros(n)], axis=1)
    return points, np.broadcast_to(np.eye(3), (n, 3, 3))


def test_microtubule_has_thirteen_protofilaments_40_angstrom_repeat_and_a_seam():
    lattice = microtubule_lattice(13)
    positions, _ = helical_poses(lattice, *straight(4, lattice.rise))
    np.testing.assert_allclose(np.linalg.norm(positions[:, 1:], axis=1), 112)
    azimuth = np.degrees(np.arctan2(positions[:13, 2], positions[:13, 1])) % 360
    np.testing.assert_allclose(np.diff(np.sort(azimuth)), 360 / 13)
    np.testing.assert_allclose(positions[13:26, 0] - positions[:13, 0], 40)
    # Three starts: going once around climbs three monomers; across the seam neighbours are 3 x 40 Å apart.
    climb = positions[12, 0] - positions[0, 0]
    assert climb + 120 / 13 == pytest.approx(120)


def test_actin_subunits_rise_and_turn_as_given():
    lattice = actin_lattice()
    positions, rotations = helical_poses(lattice, *straight(3, lattice.rise))
    np.testing.assert_allclose(np.diff(positions[:, 0]), 27.5)
    turn = rotations[1] @ rotations[0].T
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(166.7)
