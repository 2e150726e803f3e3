import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.shell import icosahedral_capsid, protein_shell
from cryomend.specimen.subunit import actin_monomer

POINT = Macromolecule("point", np.zeros((1, 3), np.float32), np.full(1, 1e5, np.float32))


def symmetry(capsid):
    """Rotations that carry the first copy of an orbit onto the others (copies run group by group)."""
    step = len(capsid.rotations) // 60
    return capsid.rotations[::step] @ capsid.rotations[0].T


def five_fold_axes(group):
    turns = Rotation.from_matrix(group).as_rotvec()
    angle = np.linalg.norm(turns, axis=1)
    return turns[np.isclose(angle, 2 * np.pi / 5)] / (2 * np.pi / 5)


def capsomers(capsid):
    """Centres to which the copies' Y points: means of clusters of unit vectors, and their sizes."""
    count = len(capsid.rotations) // 60
    arm = np.arccos(1 / np.sqrt(5)) / np.sqrt(count) * 7 / 12 / np.sqrt(3)
    aimed = np.cos(arm) * capsid.rotations[:, :, 0] + np.sin(arm) * capsid.rotations[:, :, 1]
    groups = cKDTree(aimed).query_ball_point(aimed, arm * 0.6)
    centres = {tuple(sorted(g)) for g in groups}
    return np.array([aimed[list(c)].mean(0) for c in centres]), sorted(len(c) for c in centres)


def test_shell_is_even_closed_and_faces_outwards():
    unit = actin_monomer(np.random.default_rng(0))
    shell = protein_shell(np.random.default_rng(1), unit, 300.0)
    np.testing.assert_allclose(shell.rotations[:, :, 0] * 300, shell.positions_zyx, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(shell.rotations), 1)
    area = 4 * np.pi * 300**2 / len(shell.positions_zyx)
    assert area == pytest.approx((1.15 * 50820 ** (1 / 3)) ** 2, rel=0.01)  # 42 kDa x 1.21 Å³/Da
    nearest = cKDTree(shell.positions_zyx).query(shell.positions_zyx, k=2)[0][:, 1]
    assert nearest.min() > 0.85 * np.sqrt(area)
    sphere = np.random.default_rng(2).standard_normal((4000, 3))
    sphere *= 300 / np.linalg.norm(sphere, axis=1, keepdims=True)
    assert cKDTree(shell.positions_zyx).query(sphere)[0].max() < np.sqrt(area)  # no hole
    with pytest.raises(ValueError, match="radius of a shell must be positive"):
        protein_shell(np.random.default_rng(0), unit, 0.0)


@pytest.mark.parametrize("triangulation", [1, 3, 4, 7, 13])
def test_capsid_of_60_t_copies_has_icosahedral_symmetry(triangulation):
    capsid = icosahedral_capsid(np.random.default_rng(0), POINT, triangulation=triangulation, radius=250.0)
    assert len(capsid.positions_zyx) == 60 * triangulation
    np.testing.assert_allclose(capsid.rotations[:, :, 0] * 250, capsid.positions_zyx, atol=1e-9)
    group = symmetry(capsid)
    orders = np.degrees(Rotation.from_matrix(group).magnitude()).round(3)
    # The classes of the icosahedral group: 1 identity, 15 two-, 20 three- and 12 + 12 five-fold rotations.
    assert {v: int((orders == v).sum()) for v in set(orders)} == {0: 1, 180: 15, 120: 20, 72: 12, 144: 12}
    poses = np.concatenate([capsid.positions_zyx / 250, capsid.rotations.reshape(-1, 9)], axis=1)
    tree = cKDTree(poses)
    for g in group:
        moved = [capsid.positions_zyx @ g.T / 250, (g @ capsid.rotations).reshape(-1, 9)]
        distance, partner = tree.query(np.concatenate(moved, axis=1))
        assert distance.max() < 1e-9
        assert len(set(partner)) == len(poses)


@pytest.mark.parametrize("triangulation", [1, 3, 4, 7, 13])
def test_capsid_has_12_pentamers_and_10_t_minus_1_hexamers_evenly_spread(triangulation):
    capsid = icosahedral_capsid(np.random.default_rng(1), POINT, triangulation=triangulation, radius=100.0)
    centres, sizes = capsomers(capsid)
    assert sizes == [5] * 12 + [6] * (10 * (triangulation - 1))
    axes = five_fold_axes(symmetry(capsid))
    pentamers = cKDTree(axes).query(centres)[0] < 0.05
    assert pentamers.sum() == 12
    nearest = cKDTree(capsid.positions_zyx).query(capsid.positions_zyx, k=2)[0][:, 1]
    assert nearest.min() > 0.75 * np.sqrt(4 * np.pi * 100**2 / len(nearest))


def test_capsids_of_t_7_come_in_both_hands():
    hands = []
    for seed in range(8):
        capsid = icosahedral_capsid(np.random.default_rng(seed), POINT, triangulation=7, radius=100.0)
        axes = five_fold_axes(symmetry(capsid))
        centres, _ = capsomers(capsid)
        axis = axes[0]
        ring = centres[np.argsort(-centres @ axis)[1:6]]
        next_axis = axes[np.argsort(-axes @ axis)[1]]
        side = next_axis - axis * (axis @ next_axis)
        angle = np.arctan2(np.cross(side, ring) @ axis, ring @ side)
        hands.append(((np.degrees(angle) + 36) % 72 - 36).mean())
    # From (2, 1) to a lattice line are 19.1° of 60°, of 72° about a pentamer 22.9°.
    np.testing.assert_allclose(np.abs(hands), 22.9, atol=3)
    assert min(hands) < 0 < max(hands)


def test_made_up_capsid_protein_closes_the_shell():
    capsid = icosahedral_capsid(np.random.default_rng(0), None, triangulation=3, radius=140.0)
    area = 4 * np.pi * 140**2 / 180
    assert capsid.unit.volume == pytest.approx(0.85 * 30 * area, rel=1e-3)
    assert 2 * np.abs(capsid.unit.positions_zyx[:, 0]).max() < 60
    points = capsid.unit.positions_zyx @ capsid.rotations.transpose(0, 2, 1) + capsid.positions_zyx[:, None]
    directions = points.reshape(-1, 3) / np.linalg.norm(points.reshape(-1, 3), axis=1, keepdims=True)
    sphere = np.random.default_rng(2).standard_normal((3000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    gaps = cKDTree(directions).query(sphere)[0] * 140
    assert (gaps < 5).mean() > 0.9  # points lie 4 Å apart; pores remain at the capsomers' middles


def test_capsids_that_do_not_exist_are_refused():
    for triangulation, radius in ((2, 100.0), (3, -1.0)):
        with pytest.raises(ValueError, match="a capsid needs T of 1, 3, 4, 7, 13"):
            icosahedral_capsid(np.random.default_rng(0), None, triangulation=triangulation, radius=radius)
