"""Template matching against a direct computation, and with a particle whose place and pose are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from cryomend.evaluation.rotation_grid import rotation_grid
from cryomend.evaluation.template_matching import (
    find_peaks,
    match_template,
    pose_template,
    score_picks,
    sphere,
)
from cryomend.geometry import missing_wedge_mask

DIAMETER = 13.0


def blobs(zyx: np.ndarray) -> np.ndarray:
    """Three Gaussians of unlike size without any symmetry, at positions (..., 3) in voxels."""
    places = np.array([[2.5, 0.0, -2.0], [-3.0, 2.0, 2.5], [0.0, -4.0, 0.5]])
    widths, heights = (1.5, 1.2, 1.3), (1.0, 0.8, 0.9)
    parts = zip(places, widths, heights, strict=True)
    return sum(h * np.exp(-((zyx - p) ** 2).sum(-1) / (2 * w**2)) for p, w, h in parts)


def grid_around(shape: tuple[int, ...], centre: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) - centre


def template(oversampling: int = 2) -> torch.Tensor:
    n = 10 * oversampling * 2 + 1
    zyx = grid_around((n, n, n), np.full(3, n // 2)) / oversampling
    return torch.from_numpy(blobs(zyx)).float()


def planted(
    shape: tuple[int, int, int], poses: list[tuple[list[float], np.ndarray]], noise: float, seed: int = 0
) -> torch.Tensor:
    """Particles at positions in voxels, their rotations acting on ZYX columns."""
    volume = sum(blobs(grid_around(shape, np.array(place)) @ rotation) for place, rotation in poses)
    return torch.from_numpy(volume + noise * np.random.default_rng(seed).standard_normal(shape)).float()


def direct_score(
    tomogram: np.ndarray, posed: np.ndarray, mask: np.ndarray, voxel: tuple[int, int, int]
) -> float:
    """Pearson correlation of the voxels around one voxel, which may not reach beyond the volume."""
    reach = len(mask) // 2
    window = tomogram[tuple(slice(v - reach, v + reach + 1) for v in voxel)]
    return float(np.corrcoef(window[mask], posed[mask])[0, 1])


@pytest.mark.parametrize("tilt_range", [None, (-60.0, 50.0)])
def test_scores_are_the_masked_correlations_computed_voxel_by_voxel(
    tilt_range: tuple[float, float] | None, device: torch.device
) -> None:
    shape = (20, 23, 26)
    rotation = Rotation.random(random_state=4).as_matrix()
    tomogram = planted(shape, [([9, 11, 13], rotation)], noise=0.3)
    score, pose = match_template(
        tomogram.to(device), template().to(device), rotation[None], diameter=DIAMETER, step=2.0,
        tilt_range=tilt_range,
    )  # fmt: skip
    # independently: splines of SciPy for the pose, a full complex transform for the wedge, one window a time
    side = 41
    source = 2 * grid_around((side,) * 3, np.full(3, side // 2)) @ rotation + 20
    posed = map_coordinates(template().numpy(), source.transpose(3, 0, 1, 2), order=3)
    searched = tomogram.double().numpy()
    if tilt_range is not None:
        for_template, for_volume = (
            missing_wedge_mask(s, tilt_min=tilt_range[0], tilt_max=tilt_range[1]).numpy()
            for s in ((side,) * 3, shape)
        )
        posed = np.fft.ifftn(np.fft.fftn(posed) * for_template).real
        searched = np.fft.ifftn(np.fft.fftn(searched) * for_volume).real
    mask = sphere(DIAMETER).numpy()
    first = side // 2 - len(mask) // 2
    posed = posed[(slice(first, first + len(mask)),) * 3]
    voxels = [(9, 11, 13), (6, 6, 6), (10, 12, 15), (13, 16, 19), (8, 14, 9)]
    expected = [direct_score(searched, posed, mask, v) for v in voxels]
    # linear interpolation at half a voxel, and the smaller box in which the wedge is taken away
    assert [score[v].item() for v in voxels] == pytest.approx(expected, abs=0.02)
    assert score.argmax().item() == np.ravel_multi_index((9, 11, 13), shape)
    assert (pose == 0).all()


def test_scores_at_the_faces_see_the_mean_beyond_them() -> None:
    tomogram = planted((16, 18, 20), [([8, 9, 10], np.eye(3))], noise=0.5)
    tomogram = tomogram - tomogram.mean()
    score, _ = match_template(tomogram, template(), np.eye(3)[None], diameter=DIAMETER, step=2.0)
    mask = sphere(DIAMETER)
    reach = len(mask) // 2
    padded = np.pad(tomogram.numpy(), reach)
    posed = pose_template(template(), torch.eye(3), mask, step=2.0).numpy()
    for voxel in ((0, 0, 0), (15, 17, 19), (0, 9, 19)):
        inside = tuple(v + reach for v in voxel)
        assert score[voxel].item() == pytest.approx(
            direct_score(padded, posed, mask.numpy(), inside), abs=1e-4
        )


def test_a_posed_template_has_no_mean_unit_variance_and_nothing_outside_its_mask() -> None:
    mask = sphere(DIAMETER)
    rotation = torch.from_numpy(Rotation.random(random_state=1).as_matrix())
    for tilt_range in (None, (-60.0, 60.0)):
        posed = pose_template(template(), rotation, mask, step=2.0, tilt_range=tilt_range)
        assert posed[mask].mean().item() == pytest.approx(0, abs=1e-5)
        assert posed[mask].std(correction=0).item() == pytest.approx(1, abs=1e-5)
        assert (posed[~mask] == 0).all()


def test_planted_particles_are_found_with_their_places_and_poses() -> None:
    shape, grid = (28, 36, 44), rotation_grid(30.0)
    numbers = (3, 250, 501)
    places = [[10, 9, 10], [15, 25, 14], [14, 18, 33]]
    poses = list(zip(places, grid[list(numbers)], strict=True))
    tomogram = planted(shape, poses, noise=0.1)
    score, pose = match_template(tomogram, template(), grid, diameter=DIAMETER, step=2.0)
    picks, scores = find_peaks(score, distance=6, most=10)
    assert sorted(picks[:3].tolist()) == sorted(places)
    assert scores[2] > 1.5 * scores[3]
    found = [Rotation.from_matrix(grid[pose[tuple(p)].item()]) for p in places]
    for one, number in zip(found, numbers, strict=True):
        assert math.degrees((one * Rotation.from_matrix(grid[number]).inv()).magnitude()) < 1e-6


def test_in_a_tomogram_with_a_wedge_the_constrained_search_finds_more() -> None:
    shape, grid = (28, 44, 44), rotation_grid(40.0)
    drawn = Rotation.random(4, random_state=2).as_matrix()
    places = [[13, 11, 11], [14, 32, 12], [13, 12, 32], [14, 32, 33]]
    clean = planted(shape, list(zip(places, drawn, strict=True)), noise=0.0)
    measured = missing_wedge_mask(shape, tilt_min=-50, tilt_max=50)
    noise = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tomogram = torch.fft.ifftn(torch.fft.fftn(clean + noise) * measured).real
    options = {"diameter": DIAMETER, "step": 2.0}
    means = []
    for tilt_range in (None, (-50.0, 50.0)):
        score, _ = match_template(tomogram, template(), grid, tilt_range=tilt_range, **options)
        at_places = np.mean([score[tuple(p)].item() for p in places])
        means.append(at_places / score.median().item())
    assert means[1] > means[0]


def test_the_scores_do_not_depend_on_grey_levels_but_on_their_sign() -> None:
    tomogram = planted((20, 20, 20), [([10, 10, 10], np.eye(3))], noise=0.2)
    options = {"diameter": DIAMETER, "step": 2.0}
    score = match_template(tomogram, template(), np.eye(3)[None], **options)[0]
    scaled = match_template(30 * tomogram + 500, 5 * template() + 1, np.eye(3)[None], **options)[0]
    torch.testing.assert_close(scaled, score, atol=1e-3, rtol=0)
    inverted = match_template(-tomogram, template(), np.eye(3)[None], **options)[0]
    torch.testing.assert_close(inverted, -score, atol=1e-4, rtol=0)


def test_what_cannot_be_searched_is_refused() -> None:
    volume, pose = torch.randn(16, 16, 16), np.eye(3)[None]
    for diameter in (1.5, 30.0):
        with pytest.raises(ValueError, match=f"{diameter:.3g} voxels diameter in a tomogram of 16 to 16"):
            match_template(volume, template(), pose, diameter=diameter)
    with pytest.raises(ValueError, match="constant tomogram"):
        match_template(torch.ones(16, 16, 16), template(), pose, diameter=9)
    with pytest.raises(ValueError, match="template is constant inside its mask"):
        match_template(volume, torch.ones(41, 41, 41), pose, diameter=9)


def test_peaks_fall_in_height_and_keep_their_distance() -> None:
    score = torch.zeros(12, 12, 12)
    for place, value in (
        ((2, 2, 2), 0.9),
        ((2, 2, 6), 0.8),
        ((2, 7, 2), 0.7),
        ((9, 9, 9), 0.5),
        ((9, 0, 0), -1),
    ):
        score[place] = value
    places, values = find_peaks(score, distance=4.5, most=10)
    assert places.tolist() == [[2, 2, 2], [2, 7, 2], [9, 9, 9]]  # (2, 2, 6) is 4 voxels from the highest
    assert values.tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert find_peaks(score, distance=3.5, most=2)[0].tolist() == [[2, 2, 2], [2, 2, 6]]
    assert find_peaks(-torch.ones(4, 4, 4), distance=1, most=5)[0].shape == (0, 3)


def test_a_particle_is_found_once_by_the_highest_pick_near_it() -> None:
    particles = np.array([[0.0, 0, 0], [10, 0, 0], [20, 0, 0]])
    picks = np.array([[1, 0, 0], [0, 1, 0], [50, 0, 0], [10, 2, 0], [21, 3, 0]])
    best, as_many = score_picks(picks, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), particles, tolerance=2.5)
    # right, a second one for the same particle, nothing there, right, too far
    assert (best.picks, best.threshold) == (4, 0.6)
    assert (best.precision, best.recall, best.f1) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert (as_many.picks, as_many.threshold) == (3, 0.7)
    assert (as_many.precision, as_many.recall, as_many.f1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_perfect_picks_score_one_and_none_scores_zero() -> None:
    particles = np.arange(12.0).reshape(4, 3) * 5
    for score in score_picks(particles, np.linspace(1, 0.5, 4), particles, tolerance=1):
        assert (score.precision, score.recall, score.f1, score.picks) == (1, 1, 1, 4)
    for score in score_picks(np.zeros((0, 3)), np.zeros(0), particles, tolerance=1):
        assert (score.precision, score.recall, score.f1, score.picks) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="no particle to find"):
        score_picks(particles, np.ones(4), np.zeros((0, 3)), tolerance=1)
