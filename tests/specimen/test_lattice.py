import numpy as np
import pytest
from scipy.spatial import cKDTree

from cryomend.specimen.filament import worm_like_chain
from cryomend.specimen.lattice import HelicalLattice, actin_lattice, helical_poses, microtubule_lattice


def straight(n, step):
    points = np.stack([np.arange(n) * step, np.zeros(n), np.zeros(n)], axis=1)
    return points, np.broadcast_to(np.eye(3), (n, 3, 3))


def screw(positions_zyx, rise, degrees):
    """Move along Z and turn about it by the right hand of XYZ, written out in XYZ."""
    x, y, z = positions_zyx.T[::-1]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.stack([z + rise, s * x + c * y, c * x - s * y], axis=1)


def share_mapped(positions, rise, degrees, *, tolerance=1e-6):
    """Share of the subunits away from the ends that a screw carries onto a subunit."""
    low, high = np.quantile(positions[:, 0], [0.3, 0.7])
    middle = positions[(positions[:, 0] > low) & (positions[:, 0] < high)]
    return (cKDTree(positions).query(screw(middle, rise, degrees))[0] < tolerance).mean()


def test_microtubule_of_13_has_straight_protofilaments_on_a_left_handed_three_start_helix():
    lattice = microtubule_lattice(13)
    positions, _ = helical_poses(lattice, *straight(20, 40.0))
    np.testing.assert_allclose(np.hypot(positions[:, 1], positions[:, 2]), 106)
    assert share_mapped(positions, 40, 0) == 1
    assert share_mapped(positions, 120 / 13, -360 / 13) == 1  # left-handed in XYZ
    assert share_mapped(positions, 120 / 13, 360 / 13, tolerance=1) == 0
    assert lattice.radius * 2 * np.pi / 13 == pytest.approx(51.2, abs=0.1)


@pytest.mark.parametrize("number", [8, 11, 12, 13, 14, 15, 16, 20])
def test_microtubule_lattice_closes_around_the_axis(number):
    lattice = microtubule_lattice(number)
    positions, _ = helical_poses(lattice, *straight(24, 40.0))
    # One step to the side, as from strand to strand, works across the closure as well.
    turn = 360 / number + lattice.twist * lattice.strand_shift / lattice.rise
    assert share_mapped(positions, lattice.strand_shift, turn) == 1
    assert lattice.radius / number == pytest.approx(106 / 13)


def test_supertwist_has_the_measured_hand_and_size():
    twists = {n: microtubule_lattice(n).twist for n in (12, 13, 14, 15)}
    assert twists[12] > 0.2 and abs(twists[13]) < 1e-12 and twists[14] < -0.2 and twists[15] < twists[14]
    # Cryo-EM of 14 protofilaments (EMD-8998): -25.77° and 8.72 Å from one to the next. The monomer is
    # 40 Å here and was 40.7 Å there, so the step up is compared to 2 %.
    lattice = microtubule_lattice(14)
    up = -lattice.strand_shift
    assert -360 / 14 + lattice.twist * up / lattice.rise == pytest.approx(-25.77, abs=0.02)
    assert up * 40.7 / 40 == pytest.approx(8.72, rel=0.02)


def test_actin_is_a_left_handed_one_start_and_a_right_handed_two_start_helix():
    positions, rotations = helical_poses(actin_lattice(), *straight(40, 27.5))
    assert share_mapped(positions, 27.5, -166.7) == 1
    assert share_mapped(positions, 27.5, 166.7, tolerance=1) == 0
    assert share_mapped(positions, 55.0, 2 * (180 - 166.7)) == 1  # the long-pitch strands
    np.testing.assert_allclose(rotations[:, :, 1] * 16, positions * [0, 1, 1], atol=1e-9)  # Y is outwards
    np.testing.assert_allclose(rotations[:, :, 0], [[1, 0, 0]] * 40, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)


def test_poses_follow_a_bent_centre_line_at_the_lattice_radius():
    line = worm_like_chain(
        np.random.default_rng(0),
        start_zyx=np.zeros(3),
        direction_zyx=np.array([1.0, 2, 2]),
        length=4000,
        step=30,
        persistence_length=20_000,
    )
    positions, rotations = helical_poses(HelicalLattice(50.0, 30.0, 40.0, 3, 12.0), *line)
    fine = np.concatenate([line[0] + t * 30 * line[1][:, :, 0] for t in np.linspace(0, 1, 61)])
    # Exact for the side of the polygon above which a subunit stands; the next one, which turns by up to
    # 0.15 rad, may come nearer: 50 Å (1 - cos 0.15) = 0.6 Å.
    np.testing.assert_allclose(cKDTree(fine).query(positions)[0], 50, atol=0.6)
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), [np.eye(3)] * len(rotations), atol=1e-9
    )


def test_lattices_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="at least 3 protofilaments"):
        microtubule_lattice(2)
    with pytest.raises(ValueError, match="rise > 0"):
        HelicalLattice(10.0, 0.0, 30.0)
    with pytest.raises(ValueError, match="steps of 30 Å, but the lattice rises 40 Å"):
        helical_poses(microtubule_lattice(), *straight(5, 30.0))
