import itertools

import numpy as np
import pytest
import torch

from cryomend.projection import project_density, ray_matrix
from cryomend.reconstruction import reconstruct_sart, reconstruct_sirt


def draw_discs(depth, width, height=1):
    """Smooth discs inside the circle that every tilt sees."""
    rng = np.random.default_rng(3)
    z, x = torch.arange(depth)[:, None] - depth // 2, torch.arange(width) - width // 2
    density = torch.zeros(depth, height, width)
    for _ in range(12):
        radius, angle = 0.3 * depth * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        distance = (z - radius * np.cos(angle)) ** 2 + (x - radius * np.sin(angle)) ** 2
        density += rng.uniform(0.5, 1.5) * torch.exp(-distance / (2 * 2.0**2))[:, None]
    return density


def noisy_series(angles, depth=24, width=40, noise=0.3):
    images = project_density(draw_discs(depth, width, 2), angles)
    return images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


ANGLES = np.arange(-60.0, 61, 6)


@pytest.mark.parametrize("relaxation", [0.5, 1.0, 1.9])
def test_the_residual_falls_in_every_iteration(relaxation):
    norms = []
    reconstruct_sirt(
        noisy_series(ANGLES), ANGLES, depth=24, iterations=40, relaxation=relaxation,
        on_sweep=lambda sweep, norm: norms.append(norm),
    )  # fmt: skip
    assert len(norms) == 40
    assert (np.diff(norms) < 0).all()


def test_sirt_ends_at_the_weighted_least_squares_solution():
    depth, width, angles = 5, 6, np.arange(-80.0, 90, 10)
    images = torch.randn(len(angles), 1, width, generator=torch.Generator().manual_seed(1))
    matrix = ray_matrix(depth, width, angles).toarray().astype(np.float64)
    lengths = matrix.sum(axis=1)
    root = np.sqrt(np.where(lengths > 0.5, 1 / np.maximum(lengths, 0.5), 0))
    best = np.linalg.lstsq(root[:, None] * matrix, root * images.flatten().numpy(), rcond=None)[0]
    ours = reconstruct_sirt(images, angles, depth=depth, iterations=5000, relaxation=1.9)
    np.testing.assert_allclose(ours.flatten().numpy(), best, atol=2e-3)


def test_one_step_is_the_published_one():
    depth, width, angles = 7, 9, np.array([-50.0, 10, 40])
    images = torch.randn(3, 1, width, generator=torch.Generator().manual_seed(2))
    matrix = ray_matrix(depth, width, angles).toarray().astype(np.float64)
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    rows = np.where(rows > 0.5, 1 / np.maximum(rows, 0.5), 0)
    step = matrix.T @ (rows * images.flatten().numpy()) / np.maximum(columns, 1e-9)
    ours = reconstruct_sirt(images, angles, depth=depth, iterations=1, relaxation=0.7)
    np.testing.assert_allclose(ours.flatten().numpy(), 0.7 * step, atol=1e-5)


def test_rows_of_y_do_not_know_of_each_other():
    images = noisy_series(ANGLES)
    whole = reconstruct_sirt(images, ANGLES, depth=24, iterations=3)
    part = reconstruct_sirt(images[:, 1:].contiguous(), ANGLES, depth=24, iterations=3)
    torch.testing.assert_close(whole[:, 1:], part, atol=1e-5, rtol=1e-5)


def test_going_on_from_a_start_is_as_good_as_going_on():
    images = noisy_series(ANGLES)
    half = reconstruct_sirt(images, ANGLES, depth=24, iterations=4)
    kept = half.clone()
    ours = reconstruct_sirt(images, ANGLES, depth=24, iterations=3, start=half)
    torch.testing.assert_close(half, kept)
    torch.testing.assert_close(ours, reconstruct_sirt(images, ANGLES, depth=24, iterations=7))


def test_a_sweep_of_sart_comes_nearer_than_an_iteration_of_sirt():
    truth = draw_discs(24, 40, 2)
    images = project_density(truth, ANGLES)
    sirt = reconstruct_sirt(images, ANGLES, depth=24, iterations=1)
    sart = reconstruct_sart(images, ANGLES, depth=24, iterations=1, relaxation=0.5)
    few = reconstruct_sart(images, ANGLES, depth=24, iterations=1, relaxation=0.5, subsets=4)
    error = [float((volume - truth).norm() / truth.norm()) for volume in (sirt, few, sart)]
    assert error[2] < error[1] < error[0]


def test_one_subset_is_sirt():
    images = noisy_series(ANGLES)
    sart = reconstruct_sart(images, ANGLES, depth=24, iterations=3, relaxation=1.0, subsets=1)
    torch.testing.assert_close(sart, reconstruct_sirt(images, ANGLES, depth=24, iterations=3))


def test_order_of_the_images_does_not_matter_to_sart():
    images, order = noisy_series(ANGLES), np.random.default_rng(0).permutation(len(ANGLES))
    ours = reconstruct_sart(images, ANGLES, depth=24, iterations=2)
    mixed = reconstruct_sart(images[order], ANGLES[order], depth=24, iterations=2)
    torch.testing.assert_close(ours, mixed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reconstruct", [reconstruct_sirt, reconstruct_sart])
def test_it_stops_when_a_sweep_gains_less_than_the_tolerance(reconstruct):
    norms = []
    reconstruct(
        noisy_series(ANGLES), ANGLES, depth=24, iterations=500, tolerance=0.02,
        on_sweep=lambda sweep, norm: norms.append((sweep, norm)),
    )  # fmt: skip
    assert 2 < len(norms) < 100
    assert [sweep for sweep, _ in norms] == list(range(len(norms)))
    gains = [1 - after / before for (_, before), (_, after) in itertools.pairwise(norms)]
    assert gains[-1] < 0.02 <= min(gains[:-1])


@pytest.mark.parametrize("reconstruct", [reconstruct_sirt, reconstruct_sart])
def test_nothing_below_zero_is_left_only_when_that_is_asked_for(reconstruct):
    images = noisy_series(ANGLES)
    assert reconstruct(images, ANGLES, depth=24, iterations=5).min() < -0.01
    assert reconstruct(images, ANGLES, depth=24, iterations=5, non_negative=True).min() == 0


def test_rays_and_voxels_that_meet_nothing_stay_finite():
    images = torch.ones(2, 1, 32)
    volume = reconstruct_sart(images, np.array([85.0, 90]), depth=8, iterations=3)  # most pixels see no voxel
    assert torch.isfinite(volume).all()
    far = reconstruct_sirt(images, np.array([0.0, 60]), depth=4, iterations=2, centre_z=90.0)
    assert torch.isfinite(far).all()


def test_agreement_with_the_sart_of_scikit_image():
    transform = pytest.importorskip("skimage.transform")
    n, angles = 41, np.arange(-75.0, 76, 5)
    images = project_density(draw_discs(n, n), angles)
    # they divide by the sum of squared weights of bilinear interpolation, (2/3)² of ours on average
    ours = reconstruct_sart(images, angles, depth=n, iterations=3, relaxation=0.15 * 9 / 4)[:, 0].numpy()
    theirs = None
    for _ in range(3):
        theirs = transform.iradon_sart(
            images[:, 0].double().numpy().T, theta=-angles, image=theirs, relaxation=0.15
        )
    inside = np.hypot(*(np.mgrid[:n, :n] - n // 2)) < n // 2 - 2
    # they also trace rays in another way, cut them off at a circle and take the angles in another order
    assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.995
    assert np.linalg.norm((ours - theirs)[inside]) < 0.08 * np.linalg.norm(theirs[inside])


def test_agreement_with_the_sirt_of_astra():
    astra = pytest.importorskip("astra")
    depth, width, iterations = 25, 41, 20  # its centre is (n - 1) / 2, ours only where n is odd
    images = noisy_series(ANGLES, depth, width)
    ours = reconstruct_sirt(images, ANGLES, depth=depth, iterations=iterations)[:, 0].numpy()
    geometry = astra.create_proj_geom("parallel", 1.0, width, np.radians(-ANGLES))  # its rows run up
    plane = astra.create_vol_geom(depth, width)
    projector = astra.create_projector("linear", geometry, plane)
    data = astra.data2d.create("-sino", geometry, images[:, 0].numpy())
    result = astra.data2d.create("-vol", plane, 0)
    options = astra.astra_dict("SIRT")
    options |= {"ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": result}
    algorithm = astra.algorithm.create(options)
    astra.algorithm.run(algorithm, iterations)
    theirs = astra.data2d.get(result)
    astra.algorithm.delete(algorithm)
    astra.data2d.delete([data, result])
    astra.projector.delete(projector)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tilt_angles": np.zeros(3)}, "2 images but 3"),
        ({"relaxation": 2.0}, "relaxation"),
        ({"relaxation": 0.0}, "relaxation"),
        ({"iterations": 0}, "at least 1 iteration"),
        ({"start": torch.zeros(4, 2, 9)}, "the start has shape"),
        ({"tilt_angles": np.array([0.0, 95])}, "±90"),
    ],
)
@pytest.mark.parametrize("reconstruct", [reconstruct_sirt, reconstruct_sart])
def test_what_does_not_fit_is_refused(reconstruct, change, message):
    arguments = {"tilt_angles": np.array([0.0, 10]), "depth": 4, "iterations": 1} | change
    with pytest.raises(ValueError, match=message):
        reconstruct(torch.zeros(2, 2, 8), **arguments)


@pytest.mark.parametrize("subsets", [0, 3])
def test_more_subsets_than_tilts_are_refused(subsets):
    with pytest.raises(ValueError, match="subsets"):
        reconstruct_sart(torch.zeros(2, 2, 8), np.array([0.0, 1]), depth=4, iterations=1, subsets=subsets)
