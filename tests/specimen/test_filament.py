import numpy as np
import pytest
from scipy.spatial import cKDTree

from cryomend.specimen.filament import (
    actin_filament,
    bundle,
    helical_filament,
    microtubule,
    network,
    outer_radius,
    worm_like_chain,
)
from cryomend.specimen.lattice import HelicalLattice
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.subunit import actin_monomer, tubulin_monomer

POINT = Macromolecule("point", np.zeros((1, 3), np.float32), np.ones(1, np.float32))


def chain(seed=0, *, length=1000.0, step=10.0, persistence=1e20, direction=(1.0, 0, 0)):
    return worm_like_chain(
        np.random.default_rng(seed),
        start_zyx=np.zeros(3),
        direction_zyx=np.array(direction),
        length=length,
        step=step,
        persistence_length=persistence,
    )


def beads(filament):
    parts = [
        (s.unit.positions_zyx @ s.rotations.transpose(0, 2, 1) + s.positions_zyx[:, None]).reshape(-1, 3)
        for s in filament
    ]
    return np.concatenate(parts), np.concatenate(
        [np.tile(s.unit.weights, len(s.positions_zyx)) for s in filament]
    )


def test_chain_has_its_step_and_its_frames_are_rotations_that_do_not_twist():
    points, frames = chain(persistence=1000, direction=(0, 1.0, 0))
    np.testing.assert_allclose(np.linalg.norm(np.diff(points, axis=0), axis=1), 10)
    np.testing.assert_allclose(frames @ frames.transpose(0, 2, 1), [np.eye(3)] * len(frames), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(frames), 1)
    # The side vector turns only with the tangent: no first-order part along the third axis. Bends are
    # 0.1 rad per step, so what is left is of the order of their product, 0.01.
    twist = np.einsum("ni,ni->n", np.diff(frames[:, :, 1], axis=0), frames[:-1, :, 2])
    assert np.abs(twist).max() < 0.06 and abs(twist.mean()) < 0.005


def test_tangents_and_ends_of_chains_follow_the_worm_like_chain():
    cosines, squares = [], []
    for seed in range(400):
        points, frames = chain(seed, length=1010, persistence=1000)
        cosines.append(frames[0, :, 0] @ frames[50, :, 0])
        squares.append(np.sum((points[100] - points[0]) ** 2))
    # exp(-s/P) at s = 500 Å, and Kratky & Porod at s = P: 2 P² (1 - (1 - e⁻¹)). Standard errors of 400
    # chains are 0.013 and 0.013.
    assert np.mean(cosines) == pytest.approx(np.exp(-0.5), abs=0.045)
    assert np.mean(squares) / 1e6 == pytest.approx(2 * np.exp(-1), abs=0.045)


def test_chain_refuses_lengths_that_are_not_positive():
    with pytest.raises(ValueError, match="must be positive"):
        chain(step=0.0)


@pytest.mark.parametrize(("protofilaments", "seams"), [(11, 1), (12, 1), (13, 1), (14, 1), (15, 1), (16, 0)])
def test_dimers_alternate_along_protofilaments_and_meet_their_like_except_at_one_seam(protofilaments, seams):
    alpha, beta = microtubule(
        np.random.default_rng(0), *chain(length=800, step=40), protofilaments, POINT, POINT
    )
    positions = np.concatenate([alpha.positions_zyx, beta.positions_zyx])
    is_alpha = np.arange(len(positions)) < len(alpha.positions_zyx)
    middle = np.flatnonzero((positions[:, 0] > 200) & (positions[:, 0] < 500))
    unlike, ring = 0, 0
    for i in middle:
        step = positions - positions[i]
        across = np.linalg.norm(step[:, 1:], axis=1)
        above = np.flatnonzero((across < 5) & (np.abs(step[:, 0] - 40) < 1))
        assert len(above) == 1 and is_alpha[above[0]] != is_alpha[i]  # 80 Å repeat of dimers
        side = np.flatnonzero((across > 40) & (across < 60) & (np.abs(step[:, 0]) < 15))
        assert len(side) == 2  # a lateral neighbour on either side
        unlike += int((is_alpha[side] != is_alpha[i]).sum())
        ring += 1
    # Each seam touches two monomers per turn of `protofilaments`.
    assert unlike / ring * protofilaments / 2 == pytest.approx(seams, abs=0.15)
    np.testing.assert_allclose(np.linalg.norm(positions[:, 1:], axis=1), 106 * protofilaments / 13)


def test_rendered_microtubule_is_a_closed_wall_of_250_angstrom():
    rng = np.random.default_rng(0)
    tube = microtubule(rng, *chain(length=800, step=40), 13, tubulin_monomer(rng), tubulin_monomer(rng))
    positions, weights = beads(tube)
    inside = (positions[:, 0] > 150) & (positions[:, 0] < 550)
    z, y, x = positions[inside].T
    weights, radius = weights[inside], np.hypot(y, x)
    assert np.average(radius, weights=weights) == pytest.approx(106, abs=1)
    edges = np.arange(60, 150, 2.0)
    shells = np.histogram(radius, edges, weights=weights)[0] / (np.pi * np.diff(edges**2) * 400)
    smooth = np.convolve(shells, np.exp(-(np.arange(-6, 7) ** 2) / 8) / 5.01, mode="same")
    wall = edges[:-1][smooth > smooth.max() / 2]
    # Half maximum of the mean over ridges and grooves lies inside the ridges, which end at 125 Å.
    assert 2 * (wall.max() + 2) == pytest.approx(244, abs=6)
    assert 2 * (np.quantile(radius, 0.995) + 2) == pytest.approx(250, abs=4)  # points of 4 Å
    assert 2 * wall.min() == pytest.approx(178, abs=10)  # the lumen
    # Through the wall, in patches of 10 by 10 Å: nowhere less than a third of the mean.
    azimuth = np.arctan2(y, x)
    patches = np.histogram2d(z, azimuth, (40, 66), weights=weights)[0]
    assert patches.min() > patches.mean() / 3


def test_actin_filament_is_about_80_angstrom_wide_with_one_subunit_per_step():
    rng = np.random.default_rng(0)
    line = chain(length=1000, step=27.5)
    filament = actin_filament(rng, *line, actin_monomer(rng))
    assert len(filament) == 1 and len(filament[0].positions_zyx) == len(line[0])
    assert 70 <= 2 * outer_radius(filament, line) <= 100
    np.testing.assert_allclose(np.diff(filament[0].positions_zyx[:, 0]), 27.5)


def test_helical_filament_has_the_lattice_that_is_asked_for_at_a_random_azimuth():
    lattice = HelicalLattice(30.0, 14.0, -22.0, starts=2)
    line = chain(length=700, step=14)
    first, second = (helical_filament(np.random.default_rng(s), *line, lattice, POINT)[0] for s in (0, 1))
    for strand in (first, second):
        x, y = strand.positions_zyx[::2, 2], strand.positions_zyx[::2, 1]
        step = np.degrees(np.diff(np.unwrap(np.arctan2(y, x))))
        np.testing.assert_allclose(step, -22)
        np.testing.assert_allclose(strand.positions_zyx[1::2, 1:], -strand.positions_zyx[::2, 1:], atol=1e-4)
    assert np.abs(first.positions_zyx - second.positions_zyx).max() > 1
    assert outer_radius([first], line) == pytest.approx(30)


def test_bundle_is_a_hexagonal_array_with_its_gap_that_bends_together():
    rng = np.random.default_rng(2)
    line = chain(3, length=3000, step=27.5, persistence=5e4)
    unit = actin_monomer(rng)
    gap = 30.0
    filaments = bundle(rng, line, lambda p, f: actin_filament(rng, p, f, unit), count=7, gap=gap)
    diameter = 2 * outer_radius(filaments[0], line)
    assert len(filaments) == 7
    # The axis of an actin filament is the mean of 27 subunits, which turn 12.5 times.
    axes = [
        np.stack([np.convolve(f[0].positions_zyx[:, i], np.ones(27) / 27, mode="valid") for i in range(3)], 1)
        for f in filaments
    ]
    apart = np.array([[cKDTree(a).query(b[20:-20])[0].mean() for a in axes] for b in axes])
    np.fill_diagonal(apart, np.inf)
    # Spacing D + gap, sites off by up to gap / 4 each; 3 Å for the means and the points 27.5 Å apart.
    np.testing.assert_array_less(diameter + gap / 2 - 3, apart.min(1))
    neighbours = (apart < diameter + 1.5 * gap + 2).sum(1)
    assert sorted(neighbours) == [3] * 6 + [6]
    tangents = [np.linalg.norm(np.diff(a, axis=0), axis=1) for a in axes]
    assert np.allclose(
        np.concatenate(tangents), 27.5, rtol=0.02
    )  # the rise is kept inside and outside a bend
    everything = [beads(f)[0][::7] for f in filaments]
    for i in range(1, 7):
        assert cKDTree(everything[0]).query(everything[i])[0].min() > gap / 2 - 5
    with pytest.raises(ValueError, match="count >= 1 and gap >= 0"):
        bundle(rng, line, lambda p, f: [], count=0, gap=1.0)


def test_daughters_leave_their_mothers_at_70_degrees_without_touching_them():
    rng = np.random.default_rng(0)
    unit = actin_monomer(rng)
    line = chain(length=3000, step=27.5, direction=(0, 1.0, 0))
    grown = []
    for _ in range(16):
        filaments = network(
            rng,
            line,
            lambda p, f: actin_filament(rng, p, f, unit),
            branches=1,
            length=800.0,
            persistence_length=1e20,
        )
        mother, daughter = filaments
        tangent, along = mother[0].rotations[0][:, 0], daughter[0].rotations[0][:, 0]
        assert np.degrees(np.arccos(tangent @ along)) == pytest.approx(70)
        normal = np.cross(tangent, along)
        assert abs(daughter[0].positions_zyx[:27].mean(0) @ normal) < 2  # the axes meet
        assert 10 < cKDTree(beads(mother)[0]).query(beads(daughter)[0][::7])[0].min() < 80
        grown.append(abs(along[0]))
    # |cos| to the slab's normal: 0.11 for the flattest of 12 azimuths, 0.6 for any.
    assert np.mean(grown) < 0.25


def test_a_network_is_one_mother_and_as_many_daughters_and_repeats_from_its_seed():
    def grow():
        rng = np.random.default_rng(5)
        return network(
            rng,
            chain(length=2000, step=27.5),
            lambda p, f: actin_filament(rng, p, f, POINT),
            branches=5,
            length=900.0,
            persistence_length=1e5,
        )

    first, again = grow(), grow()
    assert len(first) == 6
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a[0].positions_zyx, b[0].positions_zyx)


def test_bundles_of_floppy_filaments_keep_the_rise_of_their_lattice():
    """Offset lines of a kinky chain are kinkier: their points must still be one rise apart."""
    rng = np.random.default_rng(0)
    unit = actin_monomer(rng)
    line = worm_like_chain(
        rng, start_zyx=np.zeros(3), direction_zyx=np.array([0, 0, 1.0]), length=3000, step=27.5,
        persistence_length=1000,
    )  # fmt: skip
    for filament in bundle(rng, line, lambda p, f: actin_filament(rng, p, f, unit), count=12, gap=40.0):
        assert len(filament[0].positions_zyx) > 40
