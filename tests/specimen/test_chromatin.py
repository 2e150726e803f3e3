import numpy as np
import pytest
from scipy.spatial import cKDTree

from cryomend.specimen.chromatin import (
    BASE_PAIR_POTENTIAL,
    b_dna,
    nucleosome,
    nucleosome_fibre,
    nucleosome_sites,
)


def fibre(seed=0, *, count=25, linker_bp=40, start=(0.0, 0, 0), is_free=None):
    rng = np.random.default_rng(seed)
    core = nucleosome(rng)
    return nucleosome_fibre(rng, np.array(start), core, count=count, linker_bp=linker_bp, is_free=is_free)


def copies(strand):
    return strand.unit.positions_zyx @ strand.rotations.transpose(0, 2, 1) + strand.positions_zyx[:, None]


def test_potential_of_a_base_pair_follows_from_its_form_factors():
    gemmi = pytest.importorskip("gemmi")
    composition = {"C": 19.5, "H": 22.5, "N": 7.5, "O": 12.5, "P": 2}  # mean of A·T and G·C in a chain
    total = sum(47.878 * sum(gemmi.Element(e).c4322.a) * n for e, n in composition.items())
    mass = sum(gemmi.Element(e).weight * n for e, n in composition.items())
    displaced = 0.55 * mass * 1.6605  # partial specific volume of DNA, cm³/g; Å³
    assert pytest.approx(total - 4.57 * displaced, rel=0.01) == BASE_PAIR_POTENTIAL


def test_dna_is_a_right_handed_rod_20_angstrom_wide():
    rod = b_dna(63)
    z, y, x = rod.positions_zyx[:63].T.astype(float)  # one backbone
    assert np.diff(z) == pytest.approx(3.4, abs=1e-4)
    np.testing.assert_allclose(np.degrees(np.diff(np.unwrap(np.arctan2(y, x)))), 360 / 10.5, atol=0.01)
    width = np.hypot(rod.positions_zyx[:, 1], rod.positions_zyx[:, 2]).max() * 2
    assert width + 2 == pytest.approx(20, abs=1)  # 1 Å of atom beyond the points
    assert rod.weights.sum() == pytest.approx(63 * BASE_PAIR_POTENTIAL, rel=1e-5)
    assert np.ptp(rod.positions_zyx[:, 0]) == pytest.approx(62 * 3.4, abs=1e-3)
    with pytest.raises(ValueError, match="at least 1 base pair"):
        b_dna(0)


def test_nucleosome_is_a_disc_of_the_measured_size_and_mass():
    core = nucleosome(np.random.default_rng(0))
    z, y, x = np.ptp(core.positions_zyx, axis=0)
    assert 95 <= y <= 110 and 95 <= x <= 110 and 52 <= z <= 68
    dna = core.positions_zyx[-6 * 147 :]
    histones, weight = core.positions_zyx[: -6 * 147], core.weights[: -6 * 147].sum()
    assert core.weights[-6 * 147 :].sum() == pytest.approx(147 * BASE_PAIR_POTENTIAL, rel=1e-4)
    # Daltons from 1.21 Å³/Da at 3.3 V, and 624 Da for a base pair: 108.8 + 91.7 kDa (206 with counter-ions).
    assert weight / 3.3 / 1.21 + 147 * 624 == pytest.approx(203e3, abs=5e3)
    axis = dna.reshape(2, 3, 147, 3)[:, 0].mean(0)  # between the phosphates of a pair, near the helix axis
    assert cKDTree(histones).query(axis)[0].min() > 5


def test_superhelix_winds_left_handed_by_165_turns_with_its_radius_and_pitch():
    core = nucleosome(np.random.default_rng(0))
    dna = core.positions_zyx[-6 * 147 :].reshape(2, 3, 147, 3).astype(float)
    # Running means over 21 pairs, two turns of the duplex, leave its axis; drop the straight ends.
    mean = dna.mean((0, 1))
    path = np.stack([np.convolve(mean[:, i], np.ones(21) / 21, mode="valid") for i in range(3)], axis=1)
    azimuth = np.unwrap(np.arctan2(path[:, 1], path[:, 2]))  # X to Y: right hand of XYZ
    inner = slice(2, -2)
    slope = np.polyfit(azimuth[inner], path[inner, 0], 1)[0]
    assert 2 * np.pi * slope == pytest.approx(-26, abs=1.5)
    # The chord of 21 pairs (71 Å) shrinks the radius by 1 - sinc: 12 %.
    shrunk = 41.8 * np.sin(71.4 / 2 / 42) / (71.4 / 2 / 42)
    assert np.median(np.hypot(path[inner, 1], path[inner, 2])) == pytest.approx(shrunk, abs=1)
    turns = abs(azimuth[-1] - azimuth[0]) / (2 * np.pi) + 20 * 3.4 / 264
    assert turns == pytest.approx(1.65 + 19 * 3.4 / 264, abs=0.1)  # superhelix and straight ends


def test_linkers_run_straight_from_exit_to_entry():
    cores, linkers = fibre(linker_bp=45)
    (entry, leave), (into, out) = nucleosome_sites()
    ends = [linkers.positions_zyx + s * 45 * 3.4 / 2 * linkers.rotations[:, :, 0] for s in (-1, 1)]
    leaves = cores.positions_zyx[:-1] + cores.rotations[:-1] @ leave
    enters = cores.positions_zyx[1:] + cores.rotations[1:] @ entry
    np.testing.assert_allclose(ends[0], leaves, atol=1e-9)
    np.testing.assert_allclose(ends[1], enters, atol=1e-9)
    assert len(linkers.positions_zyx) == len(cores.positions_zyx) - 1 == 24
    assert np.linalg.norm(entry - leave) < 100 and into @ out < 0  # the two ends cross: a zigzag


def test_linkers_bend_as_much_as_dna_of_their_length_does():
    angles = []
    for seed in range(4):
        cores, linkers = fibre(seed, linker_bp=60)
        _, (into, out) = nucleosome_sites()
        along = linkers.rotations[:, :, 0]
        leaves, enters = cores.rotations[:-1] @ out, cores.rotations[1:] @ into
        angles += [np.tan(np.arccos((v * along).sum(1))) ** 2 for v in (leaves, enters)]
    # Each end takes half of L/P per axis, L = 204 Å, P = 500 Å; 192 draws of two axes: 10 % of error, and
    # collisions that are drawn again shift it a little.
    assert np.mean(np.concatenate(angles)) == pytest.approx(2 * 204 / 1000, rel=0.35)


@pytest.mark.parametrize("linker_bp", [20, 40, 60])
def test_fibre_never_runs_into_itself(linker_bp):
    cores, linkers = fibre(1, linker_bp=linker_bp)
    bodies, rods = copies(cores), copies(linkers)
    assert len(bodies) >= 10
    trees = [cKDTree(b) for b in bodies]
    for i, tree in enumerate(trees):
        for j in range(i):
            # Coarse points stay 10 Å apart; the points of a cell lie up to a few Å off their mean.
            assert tree.query(bodies[j], distance_upper_bound=20)[0].min() > 5
        for j, rod in enumerate(rods):
            if j not in (i - 1, i):  # not the two linkers that end on this nucleosome
                assert tree.query(rod, distance_upper_bound=20)[0].min() > 3


def test_fibre_stays_where_it_may():
    def in_slab(points):
        return bool((np.abs(points[:, 0]) < 150).all())

    cores, linkers = fibre(3, count=12, is_free=in_slab)
    assert len(cores.positions_zyx) > 6
    assert max(np.abs(copies(s)[..., 0]).max() for s in (cores, linkers)) < 150 + 6  # coarse cells of 8 Å
    assert fibre(is_free=lambda _: False) == []


def test_fibre_of_one_has_no_linker_and_equal_seeds_give_equal_fibres():
    assert len(fibre(count=1)) == 1
    for a, b in zip(fibre(7), fibre(7), strict=True):
        np.testing.assert_array_equal(a.positions_zyx, b.positions_zyx)
        np.testing.assert_array_equal(a.rotations, b.rotations)
    np.testing.assert_allclose(np.linalg.det(fibre(7)[0].rotations), 1)
    with pytest.raises(ValueError, match="at least 1 nucleosome"):
        fibre(count=0)
