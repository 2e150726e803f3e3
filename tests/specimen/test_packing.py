import numpy as np
import pytest
import torch

from cryomend.geometry import random_rotations
from cryomend.specimen.macromolecule import PROTEIN_CONTRAST, Macromolecule
from cryomend.specimen.packing import Packing
from cryomend.specimen.procedural import procedural_macromolecule
from cryomend.specimen.template import make_template, occupied_cells


def rng(seed=0):
    return np.random.default_rng(seed)


def sphere(radius, step=5.0):
    axis = np.arange(-radius, radius + step, step)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[(grid**2).sum(1) <= radius**2].astype(np.float32)
    weight = PROTEIN_CONTRAST * 4 / 3 * np.pi * radius**3 / len(grid)
    return make_template(
        Macromolecule("sphere", grid, np.full(len(grid), weight, dtype=np.float32)), voxel_size=10.0
    )


SPHERE = sphere(40.0)
COMPLEX = make_template(procedural_macromolecule(rng(1), mass_kda=400, symmetry="C3"), voxel_size=10.0)


def count_claims(packing):
    """How often each voxel inside the volume is taken, from the poses alone."""
    counts = np.zeros(packing.shape, dtype=np.int64)
    owners = np.zeros(packing.shape, dtype=np.int64)
    for poses in packing.poses_by_species():
        for place, turn, number in zip(poses.positions_px, poses.rotations, poses.instances, strict=True):
            middle, taken = occupied_cells(poses.template, turn[None], place[None])
            cells = (middle + poses.template.near.long())[taken[0]]
            if packing.periodic:
                cells[:, 1:] %= torch.tensor(packing.shape[1:])
            inside = ((cells >= 0) & (cells < torch.tensor(packing.shape))).all(1)
            index = tuple(cells[inside].T.numpy())
            np.add.at(counts, index, 1)
            owners[index] = int(number)
    return counts, owners


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("compact", [False, True])
def test_no_two_copies_overlap_and_the_labels_are_theirs(periodic, compact):
    packing = Packing((40, 48, 48), (4, 36), periodic)
    assert packing.place_at_random(rng(), COMPLEX, 30, compact=compact) > 20
    assert packing.place_at_random(rng(), SPHERE, 1000, compact=compact) > 20
    counts, owners = count_claims(packing)
    assert counts.max() == 1
    np.testing.assert_array_equal(owners, packing.instances.numpy())


def test_nothing_leaves_the_slab_and_occupancy_is_the_share_of_its_voxels():
    packing = Packing((40, 48, 48), (10, 30))
    packing.place_at_random(rng(), SPHERE, 50)
    labels = packing.instances.numpy()
    assert (labels[:10] == 0).all()
    assert (labels[30:] == 0).all()
    assert packing.occupancy == (labels[10:30] > 0).mean()


def test_asking_for_few_gives_exactly_as_many():
    packing = Packing((40, 64, 64), (0, 40))
    assert packing.place_at_random(rng(), SPHERE, 17) == 17
    assert packing.n_instances == len(np.unique(packing.instances)) - 1 == 17


def test_spheres_thrown_at_random_jam_where_random_sequential_addition_does():
    """0.3841 in the continuum (Zhang & Torquato 2013, doi:10.1103/PhysRevE.88.053312), about that here."""
    packing = Packing((56, 64, 64), (0, 56), periodic=True)
    count = packing.place_at_random(rng(), SPHERE, 10**6)
    # hard walls in Z keep centres a radius away, which costs about a seventh of a slab this thin
    fraction = count * 4 / 3 * np.pi * 4**3 / ((56 - 8) * 64 * 64)
    assert 0.37 < fraction < 0.47


def test_snug_spheres_fill_more_than_0_38_of_the_slab():
    packing = Packing((56, 64, 64), (0, 56), periodic=True)
    count = packing.place_at_random(rng(), SPHERE, 10**6, compact=True)
    assert count * 4 / 3 * np.pi * 4**3 / packing.slab_voxels > 0.40


def test_a_jammed_packing_has_no_room_left():
    """Independent of the search: every voxel centre is tried."""
    packing = Packing((20, 24, 24), (0, 20))
    packing.place_at_random(rng(), SPHERE, 10**6)
    free = packing.instances.numpy() == 0
    middle, taken = occupied_cells(SPHERE, torch.eye(3)[None], torch.zeros(1, 3))
    offsets = (middle + SPHERE.near.long())[taken[0]].numpy()
    fits = []
    for z, y, x in np.ndindex(*packing.shape):
        at = offsets + np.array([z, y, x])
        if at[:, 0].min() < 0 or at[:, 0].max() >= 20:
            continue
        at = at[((at[:, 1:] >= 0) & (at[:, 1:] < 24)).all(1)]
        fits.append(free[tuple(at.T)].all())
    assert not any(fits)


def test_more_than_fits_is_not_placed_and_a_giant_is_never():
    packing = Packing((8, 32, 32), (0, 8))
    assert packing.place_at_random(rng(), sphere(60.0), 3) == 0
    assert packing.occupancy == 0


def test_equal_seeds_give_equal_labels():
    labels = []
    for seed in (5, 5, 6):
        packing = Packing((32, 40, 40), (0, 32))
        packing.place_at_random(rng(seed), COMPLEX, 25)
        labels.append(packing.instances.numpy().tobytes())
    assert labels[0] == labels[1] != labels[2]


def test_the_first_of_two_poses_that_collide_is_kept():
    packing = Packing((32, 32, 32), (0, 32))
    turns = np.stack([np.eye(3)] * 3)
    placed = packing.place(SPHERE, turns, np.array([[16.0, 16, 16], [16, 18, 16], [16, 27, 16]]))
    assert placed.tolist() == [True, False, True]


def test_copies_take_over_the_voxels_of_what_they_may_stand_in_and_of_nothing_else():
    packing = Packing((32, 32, 32), (0, 32))
    sheet = packing.claim_region(np.ones((4, 32, 32), dtype=bool), (14, 0, 0))
    turn, place = np.eye(3)[None], np.array([[16.0, 16, 16]])
    assert not packing.place(SPHERE, turn, place).any()
    before = packing.taken
    assert packing.place(SPHERE, turn, place, allowed=sheet).all()
    assert int(packing.instances[16, 16, 16]) == 2
    assert packing.taken == int((packing.instances > 0).sum()) > before
    assert not packing.place(SPHERE, turn, place, allowed=sheet).any()  # another copy is no membrane


def test_an_assembly_is_one_instance_or_nothing():
    packing = Packing((32, 64, 32), (0, 32))
    row = np.array([[16.0, y, 16] for y in range(8, 60, 6)])  # neighbours of one assembly may overlap
    turns = np.stack([np.eye(3)] * len(row))
    assert packing.place_assembly([(SPHERE, turns, row)]) == 1
    assert set(np.unique(packing.instances)) == {0, 1}
    assert packing.place_assembly([(SPHERE, turns, row + np.array([0, 0, 3]))]) == 0
    assert packing.n_instances == 1


def test_regions_are_cut_by_the_slab_only_where_that_is_wanted():
    tall = np.ones((20, 4, 4), dtype=bool)
    assert Packing((20, 16, 16), (5, 15)).claim_region(tall, (0, 4, 4)) == 0
    packing = Packing((20, 16, 16), (5, 15))
    assert packing.claim_region(tall, (0, 4, 4), clip_slab=True) == 1
    assert packing.taken == int((packing.instances > 0).sum()) == 160
    assert packing.claim_region(tall, (0, 10, 10), anywhere=True) == 2
    assert packing.taken == 320  # what stands outside the slab does not fill it
    assert int((packing.instances == 2).sum()) == 320


def test_cells_beyond_the_borders_are_free_and_beyond_the_slab_are_not():
    packing = Packing((16, 16, 16), (4, 12))
    assert packing.is_free(np.array([[8.0, -5, 40]]))
    assert not packing.is_free(np.array([[2.0, 8, 8]]))


def test_rotations_are_uniform():
    """Every matrix element has zero mean and variance 1/3; their traces average 0."""
    turns = random_rotations(rng(), 20_000).astype(np.float64)
    np.testing.assert_allclose(turns.mean(0), 0, atol=5 * (1 / 3 / 20_000) ** 0.5)
    np.testing.assert_allclose((turns**2).mean(0), 1 / 3, atol=0.01)
    np.testing.assert_allclose(np.linalg.det(turns), 1, atol=1e-5)


@pytest.mark.parametrize("slab", [(5, 5), (-1, 10), (0, 17)])
def test_a_slab_that_is_empty_or_leaves_the_volume_is_refused(slab):
    with pytest.raises(ValueError, match="slab"):
        Packing((16, 16, 16), slab)
