import numpy as np
import pytest
import torch
from scipy.ndimage import label

from cryomend.geometry import random_rotations
from cryomend.specimen.macromolecule import PROTEIN_CONTRAST, Macromolecule
from cryomend.specimen.procedural import procedural_macromolecule
from cryomend.specimen.template import make_template, occupied_cells, paste_potential

SPECIES = procedural_macromolecule(np.random.default_rng(3), mass_kda=600, symmetry="C1")


def ball(radius, step=4.0):
    axis = np.arange(-radius, radius + step, step)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[(grid**2).sum(1) <= radius**2].astype(np.float32)
    weight = PROTEIN_CONTRAST * 4 / 3 * np.pi * radius**3 / len(grid)
    return Macromolecule("ball", grid, np.full(len(grid), weight, dtype=np.float32))


def paste(template, rotations, positions, side=64, **options):
    density = torch.zeros(side, side, side, device=template.potential.device)
    turns = torch.as_tensor(np.asarray(rotations, dtype=np.float32), device=density.device)
    places = torch.as_tensor(np.asarray(positions, dtype=np.float32), device=density.device)
    paste_potential(density, template, turns, places, **options)
    return density.cpu()


@pytest.mark.parametrize("voxel_size", [8.0, 10.0, 14.0])
def test_total_potential_does_not_depend_on_the_pose(device, voxel_size):
    template = make_template(SPECIES, voxel_size=voxel_size, device=device)
    rng = np.random.default_rng(0)
    totals = [
        float(paste(template, random_rotations(rng, 1), rng.uniform(31, 33, (1, 3))).double().sum())
        for _ in range(12)
    ]
    # aliasing of the potential at the frequency of the voxels, after the blur of half a voxel: below 0.5 %
    np.testing.assert_allclose(np.array(totals) * voxel_size**3, float(SPECIES.weights.sum()), rtol=5e-3)


def test_centre_of_mass_moves_with_the_pose_to_a_fiftieth_of_a_voxel():
    template = make_template(SPECIES, voxel_size=10.0)
    rng = np.random.default_rng(1)
    weights = SPECIES.weights / SPECIES.weights.sum()
    middle = (SPECIES.positions_zyx * weights[:, None]).sum(0) / 10
    grid = torch.stack(torch.meshgrid(*[torch.arange(64.0)] * 3, indexing="ij"), dim=-1)
    for _ in range(4):
        rotation, position = random_rotations(rng, 1), rng.uniform(30, 34, (1, 3))
        density = paste(template, rotation, position)
        found = (density[..., None] * grid).sum((0, 1, 2)) / density.sum()
        np.testing.assert_allclose(found, position[0] + rotation[0] @ middle, atol=0.02)


def test_a_turned_template_is_the_template_of_the_turned_molecule():
    """Independent of the sampling: rotate the points, render them anew, compare voxel by voxel."""
    rotation = random_rotations(np.random.default_rng(2), 1).astype(np.float32)
    turned = Macromolecule(
        "turned", SPECIES.positions_zyx @ rotation[0].T, SPECIES.weights, SPECIES.kinds, SPECIES.form_factors
    )
    place = np.array([[32.0, 32, 32]])
    a = paste(make_template(SPECIES, voxel_size=10.0), rotation, place)
    b = paste(make_template(turned, voxel_size=10.0), np.eye(3)[None], place)
    # trilinear interpolation on a grid of half a voxel loses a little at the finest scale
    assert float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) < 0.03


def test_occupied_voxels_hold_the_volume_of_the_molecule_and_contain_the_pose():
    template = make_template(ball(60.0), voxel_size=10.0)
    assert template.n_voxels == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.01)
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(10):
        position = rng.uniform(30, 34, (1, 3)).astype(np.float32)
        middle, taken = occupied_cells(
            template, torch.as_tensor(random_rotations(rng, 1)).float(), torch.as_tensor(position)
        )
        cells = (middle + template.near.long())[taken[0]]
        distance = (cells.float() - torch.as_tensor(position)).norm(dim=1)
        assert float(distance.max()) < 6 + 0.9  # the half diagonal of a voxel
        counts.append(int(taken.sum()))
    assert np.mean(counts) == pytest.approx(template.n_voxels, rel=0.02)


def test_occupied_voxels_of_one_compact_molecule_are_connected():
    template = make_template(ball(45.0), voxel_size=10.0)
    middle, taken = occupied_cells(template, torch.eye(3)[None], torch.full((1, 3), 20.3))
    volume = np.zeros((40, 40, 40), dtype=bool)
    volume[tuple((middle + template.near.long())[taken[0]].T.numpy())] = True
    assert label(volume)[1] == 1


def test_pasting_is_linear_in_the_contrast_and_adds_up():
    template = make_template(ball(30.0), voxel_size=10.0)
    rotations, positions = (
        random_rotations(np.random.default_rng(0), 2),
        np.array([[20.0, 20, 20], [40, 40, 40]]),
    )
    both = paste(template, rotations, positions, contrast=0.5)
    each = [paste(template, rotations[i : i + 1], positions[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, 0.5 * (each[0] + each[1]))


def test_periodic_volumes_keep_the_potential_that_crosses_a_border():
    template = make_template(ball(40.0), voxel_size=10.0)
    corner = np.array([[32.0, 0, 63]])
    wrapped = paste(template, np.eye(3)[None], corner, periodic=True)
    inside = paste(template, np.eye(3)[None], np.array([[32.0, 32, 31]]))
    torch.testing.assert_close(wrapped.roll((32, -32), (1, 2)), inside)
    cut = paste(template, np.eye(3)[None], corner)
    assert float(cut.sum()) < 0.4 * float(inside.sum())  # a quarter of the ball and the layer on the border


def test_a_molecule_far_smaller_than_a_voxel_is_refused():
    speck = Macromolecule("speck", np.zeros((1, 3), np.float32), np.array([3.0], np.float32))
    with pytest.raises(ValueError, match="speck: too small for voxels of 10 Å"):
        make_template(speck, voxel_size=10.0)
