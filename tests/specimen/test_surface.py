"""Surfaces: distances against closed forms and dense samples, areas and points against geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import label
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.stats import kstest, norm

from cryomend.io import read_labels
from cryomend.specimen.level_set import drop_islands, redistance
from cryomend.specimen.random_field import random_field
from cryomend.specimen.surface import (
    Frame,
    Surface,
    branched_surface,
    double,
    ellipsoid_surface,
    labelled_surface,
    random_undulation,
    sheet_surface,
    stack_surface,
    surface_area,
    surface_points,
    surface_spread,
    torus_surface,
    tubule_surface,
)

LABELS = Path(__file__).parents[3] / "shared/data/membranes/vacuole_contact_labels.tif"
SHAPE = (80, 90, 100)
CENTRE = np.array([41.3, 44.6, 50.2])
TURN = Rotation.from_euler("zyx", [25, -40, 70], degrees=True).as_matrix()
POSE: dict[str, Any] = {"centre_px": CENTRE, "rotation": TURN}
FRAME = Frame(SHAPE, 10.0, 60.0)


def local_points(shape: tuple[int, ...], corner: tuple[int, ...], voxel_size: float) -> np.ndarray:
    """Voxels of a box in the shape's own frame, Å."""
    axes = [np.arange(n) + c for n, c in zip(shape, corner, strict=True)]
    return (np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - CENTRE) * voxel_size @ TURN


def in_volume(surface: Surface, shape: tuple[int, int, int]) -> np.ndarray:
    """The distance on the whole volume, NaN outside the box."""
    full = np.full(shape, np.nan)
    box = tuple(slice(c, c + n) for c, n in zip(surface.corner_px, surface.distance.shape, strict=True))
    full[box] = surface.distance
    return full


def torus(p: np.ndarray) -> np.ndarray:
    return np.hypot(np.hypot(p[..., 1], p[..., 2]) - 250, p[..., 0]) - 120


def bent_tube(p: np.ndarray) -> np.ndarray:
    """An arc of radius 900 Å in the ZY plane, 500 Å long, 110 Å thick on either side."""
    angle = np.clip(np.arctan2(p[..., 0], 900 - p[..., 1]), -250 / 900, 250 / 900)
    axis = 900 * np.stack([np.sin(angle), 1 - np.cos(angle), np.zeros_like(angle)], axis=-1)
    return np.linalg.norm(p - axis, axis=-1) - 110


CLOSED_FORMS: dict[str, tuple[Callable[[Frame], Surface], Callable[[np.ndarray], np.ndarray]]] = {
    "sphere": (
        lambda frame: ellipsoid_surface(np.full(3, 240.0), frame=frame, **POSE),
        lambda p: np.linalg.norm(p, axis=-1) - 240,
    ),
    "torus": (lambda frame: torus_surface(250, 120, frame=frame, **POSE), torus),
    "straight tubule": (
        lambda frame: tubule_surface(130, frame=frame, **POSE),
        lambda p: np.hypot(p[..., 1], p[..., 2]) - 130,
    ),
    "bent tubule": (
        lambda frame: tubule_surface(110, length=500, bend_radius=900, frame=frame, **POSE),
        bent_tube,
    ),
    "sheet": (lambda frame: sheet_surface(frame=frame, **POSE), lambda p: p[..., 0]),
}


@pytest.mark.parametrize("voxel_size", [5.0, 10.0, 14.0])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_distances_equal_the_closed_form_within_reach_and_no_box_is_larger_than_that(name, voxel_size):
    draw, closed_form = CLOSED_FORMS[name]
    frame = Frame(SHAPE, voxel_size, 60.0)
    surface = draw(frame)
    expected = closed_form(local_points(SHAPE, (0, 0, 0), voxel_size))
    found = in_volume(surface, SHAPE)
    near = np.abs(expected) <= 60
    assert surface.distance.dtype == np.float32
    # The worst is where a tube meets its cap and the curvature jumps; NaN, outside the box, fails as well.
    assert np.abs(found - expected)[near].max() < 0.06 * voxel_size
    far = ~near & np.isfinite(found)
    assert np.abs(found[far]).min() > 59
    assert (np.sign(found) == np.sign(expected))[far].all()
    index = np.argwhere(near)
    spare = np.concatenate(
        [
            index.min(0) - surface.corner_px,
            surface.corner_px + np.array(surface.distance.shape) - 1 - index.max(0),
        ]
    )
    assert spare.max() <= 2 * 4  # two cells of at most four voxels


def dense_ellipsoid(axes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on an ellipsoid and their normals."""
    i = np.arange(n) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / n), np.pi * (1 + 5**0.5) * i
    unit = np.stack([np.cos(polar), np.sin(polar) * np.sin(azimuth), np.sin(polar) * np.cos(azimuth)], 1)
    normals = unit / axes
    return unit * axes, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def distance_to_cloud(surface: Surface, cloud: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances of ``n`` voxels between 15 and 50 Å from a surface, as given and to the nearest point."""
    points = local_points(surface.distance.shape, surface.corner_px, surface.voxel_size).reshape(-1, 3)
    given = np.abs(surface.distance.reshape(-1))
    # nearer, the gaps between the points count; farther, the medial axis of the narrow end begins
    chosen = np.flatnonzero((given > 15) & (given < 50))
    chosen = np.random.default_rng(0).choice(chosen, n)
    return given[chosen], cKDTree(cloud).query(points[chosen])[0]


@pytest.mark.parametrize("amplitude", [0.0, 20.0])
def test_distance_to_a_plain_and_to_an_undulating_ellipsoid_is_true_to_an_angstrom(amplitude):
    axes = np.array([170.0, 240.0, 400.0])
    undulation = random_undulation(np.random.default_rng(1), wavelength=500, amplitude=amplitude)
    surface = ellipsoid_surface(axes, frame=FRAME, undulation=undulation, **POSE)
    cloud, normals = dense_ellipsoid(axes, 300_000)
    cloud = cloud + undulation.height(cloud, 85.0)[:, None] * normals
    given, nearest = distance_to_cloud(surface, cloud, 5000)
    # 2 Å between the points add 2²/8/15 = 0.03 Å to the nearest one
    assert np.percentile(np.abs(given - nearest), 99.8) < 1
    assert np.sqrt(np.mean((given - nearest) ** 2)) < 0.15


def test_an_undulation_lifts_the_surface_along_its_normal_by_the_stated_height():
    undulation = random_undulation(np.random.default_rng(2), wavelength=600, amplitude=25)
    surface = ellipsoid_surface(np.full(3, 270.0), frame=FRAME, undulation=undulation, **POSE)
    points, _ = surface_points(np.random.default_rng(0), surface, 2000)
    local = (points - CENTRE) * 10 @ TURN
    radius = np.linalg.norm(local, axis=1)
    feet = local * (270 / radius)[:, None]
    np.testing.assert_allclose(radius, 270 + undulation.height(feet, 135.0), atol=1.0)


def test_the_border_of_the_volume_does_not_change_the_distances_inside():
    undulation = random_undulation(np.random.default_rng(4), wavelength=500, amplitude=20)
    draw = {"frame": FRAME, "rotation": TURN, "undulation": undulation}
    whole = in_volume(ellipsoid_surface(np.full(3, 230.0), centre_px=CENTRE, **draw), SHAPE)
    # 22 voxels lower, so that the membrane is cut and passes within reach of the border from outside as well
    moved = ellipsoid_surface(np.full(3, 230.0), centre_px=CENTRE - np.array([22, 24, 26]), **draw)
    cut = in_volume(moved, SHAPE)[:50, :50, :50]
    whole = whole[22:72, 24:74, 26:76]
    near = np.abs(whole) < 60
    assert near[0].any() and near[:, 0].any() and near[:, :, 0].any()
    # nodes lie on other voxels: twice the error of one
    assert np.percentile(np.abs(cut - whole)[near], 99.8) < 0.5
    assert np.abs(cut - whole)[near].max() < 3


def test_an_undulating_sheet_goes_through_its_centre():
    undulation = random_undulation(np.random.default_rng(3), wavelength=700, amplitude=40)
    centre = np.array([40, 45, 50])
    surface = sheet_surface(centre_px=centre, rotation=TURN, frame=FRAME, undulation=undulation)
    assert abs(surface.distance[tuple(centre - surface.corner_px)]) < 0.5
    assert not surface.closed


def test_the_random_field_is_isotropic_with_unit_variance_and_the_stated_wavelength():
    lags = np.array([0, 100.0, 200, 400])
    products = np.zeros((3, 4))
    n = 1500
    for seed in range(n):
        field = random_field(np.random.default_rng(seed), wavelength=400)
        for axis in range(3):
            points = np.zeros((4, 3))
            points[:, axis] = lags
            values = field.at(points)
            products[axis] += values * values[0] / n
    k = 2 * np.pi / 400 * np.linspace(0.8, 1.2, 201)
    expected = np.sinc(np.outer(lags, k) / np.pi).mean(1)  # sin(kr)/(kr), the law for waves of any direction
    # The standard error of a mean product of 1500 pairs of unit variance is at most sqrt(2/1500) = 0.037.
    np.testing.assert_allclose(products, np.tile(expected, (3, 1)), atol=0.13)


def test_the_random_field_is_the_same_at_points_and_on_a_grid():
    field = random_field(np.random.default_rng(0), wavelength=300)
    axes = [np.arange(n) * 17.0 + 5 for n in (6, 7, 8)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    np.testing.assert_allclose(field.on_grid(axes).reshape(-1), field.at(points), atol=1e-5)


@pytest.mark.parametrize("spacing", [10.0, 20.0])
def test_redistancing_restores_the_distance_from_a_field_of_another_scale(spacing):
    axis = (np.arange(int(560 / spacing)) + 0.37) * spacing - 280
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    field = np.tanh((r - 130) / 130) + 0.4 * ((r - 130) / 130) ** 2
    found = redistance(field.astype(np.float32), spacing=spacing, within=130)
    near = np.abs(r - 130) < 60
    # the error is of third order in spacing over radius: 130 Å (20/130)³ = 0.5 Å
    assert np.abs(found - (r - 130))[near].max() < 0.5 * (spacing / 20) ** 2
    assert (np.sign(found) == np.sign(r - 130))[np.abs(r - 130) > 2].all()


def test_islands_are_dropped_on_either_side_and_large_parts_stay():
    field = np.ones((12, 12, 12), dtype=np.float32)
    field[2:4, 2:4, 2:4] = -1  # 8 nodes
    field[5:11, 5:11, 5:11] = -1
    field[8, 8, 8] = 1
    drop_islands(field, 9)
    assert (field[:5] > 0).all()
    assert (field[5:11, 5:11, 5:11] < 0).all()
    assert (np.abs(field) == 1).all()


@pytest.fixture(scope="module")
def labyrinths() -> list[Surface]:
    frame = Frame((100, 100, 100), 14.0, 50.0)
    return [
        branched_surface(np.random.default_rng(seed), wavelength=450, frame=frame, level=level)
        for level in (0.0, -0.6)
        for seed in range(6)
    ]


def test_branched_surfaces_have_the_area_and_the_inside_of_a_gaussian_field(labyrinths):
    volume = (100 * 14.0) ** 3
    k = 2 * np.pi / 450 * np.sqrt(np.mean(np.linspace(0.8, 1.2, 201) ** 2))
    for level, surfaces in ((0.0, labyrinths[:6]), (-0.6, labyrinths[6:])):
        inside = np.mean([(in_volume(s, (100, 100, 100)) < 0).mean() for s in surfaces])
        area = np.mean([surface_area(s) for s in surfaces]) / volume
        # Kac-Rice: the level set of a Gaussian field has 2/π k/√3 exp(-level²/2) of area per volume.
        expected = 2 / np.pi * k / np.sqrt(3) * np.exp(-(level**2) / 2)
        # Each volume holds about 30 cells of the field: 3 to 4 % scatter for the mean of six.
        assert inside == pytest.approx(norm.cdf(level), abs=0.06)
        assert area == pytest.approx(expected, rel=0.08)


def test_branched_surfaces_are_connected_and_their_distances_have_unit_slope(labyrinths):
    slopes = []
    for surface in labyrinths:
        near = np.abs(surface.distance) < 30
        gradient = np.gradient(surface.distance, 14.0)
        slopes.append(np.sqrt(sum(g**2 for g in gradient))[near])
        sizes = np.bincount(label(surface.distance < 0)[0].reshape(-1))[1:]
        assert sizes.max() > 0.8 * sizes.sum()
        assert surface.closed
    # The kinks where two sheets meet within 30 Å are what is left.
    assert np.mean(np.abs(np.concatenate(slopes) - 1) < 0.05) > 0.93


def test_a_branched_surface_in_a_ball_closes_inside_it():
    frame = Frame((90, 90, 90), 10.0, 60.0)
    for seed in range(4):
        surface = branched_surface(np.random.default_rng(seed), wavelength=500, frame=frame, radius=300)
        points, _ = surface_points(np.random.default_rng(0), surface, 1000)
        assert len(points) == 1000
        assert np.linalg.norm((points - 45) * 10, axis=1).max() < 300 + 500 / 4


@pytest.mark.parametrize("amplitude", [0.0, 15.0])
def test_a_stack_has_its_sheets_at_the_stated_gap_with_alternating_sides(amplitude):
    frame = Frame((100, 40, 40), 10.0, 60.0)
    undulation = random_undulation(np.random.default_rng(0), wavelength=900, amplitude=amplitude)
    surface = stack_surface(
        4, 150.0, centre_px=np.array([50, 20, 20]), rotation=np.eye(3), frame=frame, undulation=undulation
    )
    full = in_volume(surface, (100, 40, 40))
    for y in (5, 20, 33):
        line = full[:, y, 12]
        here = np.flatnonzero(line[1:] * line[:-1] < 0)
        crossings = 10 * (here + line[here] / (line[here] - line[here + 1]))
        np.testing.assert_allclose(np.diff(crossings), 150, atol=1)
    assert surface.distance[-1].min() > 0
    if amplitude == 0:
        expected = 10.0 * (np.arange(100) - 50)[:, None] - 150 * (np.arange(4) - 1.5)
        nearest = np.abs(expected).min(1)
        inside = np.isfinite(full[:, 0, 0]) & (nearest < 60)
        np.testing.assert_allclose(np.abs(full[inside, 0, 0]), nearest[inside], atol=2)


def test_a_double_membrane_has_the_second_one_inside_a_closed_one_and_is_negative_between():
    outer = ellipsoid_surface(np.full(3, 300.0), frame=Frame(SHAPE, 10.0, 180.0), **POSE)
    both = double(outer, 110.0)
    r = np.linalg.norm(local_points(both.distance.shape, both.corner_px, 10.0), axis=-1)
    expected = np.maximum(r - 300, 190 - r)
    near = np.abs(expected) < 60
    np.testing.assert_allclose(both.distance[near], expected[near], atol=0.1)
    assert both.closed
    assert both.reach == pytest.approx(70)
    assert surface_area(both) == pytest.approx(4 * np.pi * (300**2 + 190**2), rel=0.01)


def test_a_double_membrane_lies_on_either_side_of_an_open_one():
    both = double(sheet_surface(frame=Frame(SHAPE, 10.0, 180.0), **POSE), 120.0)
    height = local_points(both.distance.shape, both.corner_px, 10.0)[..., 0]
    near = np.abs(height) < 120
    np.testing.assert_allclose(both.distance[near], (np.abs(height) - 60)[near], atol=0.1)


@pytest.mark.parametrize("voxel_size", [6.0, 12.0])
def test_area_is_that_of_sphere_torus_and_plane(voxel_size):
    frame = Frame((120, 120, 120), voxel_size, 60.0)
    pose = {"centre_px": np.array([60.3, 59.6, 60.1]), "rotation": TURN}
    sphere = ellipsoid_surface(np.full(3, 200.0), frame=frame, **pose)
    assert surface_area(sphere) == pytest.approx(4 * np.pi * 200**2, rel=0.005)
    assert surface_area(sphere, level=30) == pytest.approx(4 * np.pi * 230**2, rel=0.005)
    ring = torus_surface(180, 90, frame=frame, **pose)
    assert surface_area(ring) == pytest.approx(4 * np.pi**2 * 180 * 90, rel=0.005)
    sheet = sheet_surface(centre_px=np.array([60.3, 0, 0]), rotation=np.eye(3), frame=frame)
    assert surface_area(sheet) == pytest.approx((120 * voxel_size) ** 2, rel=0.005)


def test_points_are_uniform_on_a_sphere_and_normals_point_outwards():
    surface = ellipsoid_surface(np.full(3, 240.0), frame=FRAME, **POSE)
    points, normals = surface_points(np.random.default_rng(0), surface, 8000)
    local = (points - CENTRE) * 10
    radius = np.linalg.norm(local, axis=1)
    assert points.shape == normals.shape == (8000, 3)
    np.testing.assert_allclose(radius, 240, atol=0.5)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert ((normals * local).sum(1) / radius).min() > np.cos(np.radians(2))
    for axis in range(3):  # Archimedes: every coordinate of a uniform point is uniform
        assert kstest(local[:, axis] / 240, "uniform", args=(-1, 2)).pvalue > 1e-3


def test_points_are_uniform_on_a_torus_at_any_level():
    surface = torus_surface(250, 120, frame=FRAME, **POSE)
    for level in (-40.0, 0.0, 50.0):
        points, normals = surface_points(np.random.default_rng(1), surface, 8000, level=level)
        local, tube = (points - CENTRE) * 10 @ TURN, 120 + level
        ring = np.hypot(local[:, 1], local[:, 2])
        np.testing.assert_allclose(np.hypot(ring - 250, local[:, 0]), tube, atol=0.5)
        # The inner half of a torus has 1/2 - r/(πR) of its area; three standard errors are 1.7 %.
        assert np.mean(ring < 250) == pytest.approx(0.5 - tube / (np.pi * 250), abs=0.017)
        expected = np.stack([local[:, 0], *(local[:, 1:] * (1 - 250 / ring)[:, None]).T], axis=1)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert ((normals @ TURN) * expected).sum(1).min() > np.cos(np.radians(3))


def test_points_cut_by_the_volume_stay_in_it_and_a_surface_outside_has_none():
    cut = ellipsoid_surface(np.full(3, 300.0), centre_px=np.zeros(3), rotation=np.eye(3), frame=FRAME)
    points, _ = surface_points(np.random.default_rng(0), cut, 500)
    assert len(points) == 500
    assert (points >= 0).all() and (points <= np.array(SHAPE) - 1).all()
    outside = sheet_surface(centre_px=np.array([-4, 0, 0]), rotation=np.eye(3), frame=FRAME)
    points, normals = surface_points(np.random.default_rng(0), outside, 500)
    assert points.shape == normals.shape == (0, 3)
    assert len(surface_spread(np.random.default_rng(0), outside, 50)[0]) == 0


def test_a_spread_keeps_its_spacing_and_leaves_no_gap():
    surface = ellipsoid_surface(np.full(3, 250.0), frame=FRAME, **POSE)
    rng = np.random.default_rng(0)
    points, normals = surface_spread(rng, surface, 60.0, level=-40.0)
    np.testing.assert_allclose(np.linalg.norm(points - CENTRE, axis=1) * 10, 210, atol=0.5)
    assert len(normals) == len(points)
    tree = cKDTree(points * 10)
    assert tree.query(points * 10, k=2)[0][:, 1].min() >= 60
    gaps = tree.query(surface_points(rng, surface, 4000, level=-40.0)[0] * 10)[0]
    assert np.mean(gaps < 60) > 0.98
    # Saturated random discs cover 0.547 of a plane: 0.697 of them per square of the spacing.
    assert 0.55 < len(points) * 60**2 / (4 * np.pi * 210**2) < 0.70


def digitised_sphere(radius: float, voxel_size: float) -> np.ndarray:
    axis = (np.arange(80) - 40) * voxel_size
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return (np.abs(r - radius) < voxel_size / 2).astype(np.uint8)


@pytest.mark.parametrize("voxel_size", [7.0, 10.0, 14.0])
def test_the_steps_of_labels_are_smoothed_away_at_any_voxel_size(voxel_size):
    n = int(1050 / voxel_size)
    surface = labelled_surface(digitised_sphere(400, 14.08), 14.08, frame=Frame((n, n, n), voxel_size, 60.0))
    axes = [np.arange(k) + c for k, c in zip(surface.distance.shape, surface.corner_px, strict=True)]
    local = (np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - n // 2) * voxel_size
    expected = np.abs(np.linalg.norm(local, axis=-1) - 400)
    near = expected < 60
    error = (surface.distance - expected)[near]
    # The labels alone are off by 14.08/√12 = 4.1 Å; planes over 56 Å sink 56²/8/400 = 1 Å.
    assert np.sqrt(np.mean(error**2)) < 1.6
    assert surface.distance.min() >= 0
    assert surface.distance[~near].min() > 50
    assert not surface.closed
    points, normals = surface_points(np.random.default_rng(0), surface, 3000)
    outward = (points - n // 2) * voxel_size
    radius = np.linalg.norm(outward, axis=1)
    cosines = (normals * outward).sum(1) / radius
    assert np.std(radius) < 1
    assert np.percentile(np.abs(cosines), 5) > np.cos(np.radians(6))
    assert 0.4 < np.mean(cosines > 0) < 0.75  # to either side, more of them to the larger
    assert surface_area(surface) == pytest.approx(4 * np.pi * 400**2, rel=0.02)


def test_an_open_edge_of_labels_ends_round():
    labels = np.zeros((40, 40, 40), dtype=np.uint16)
    labels[20, :20] = 7
    surface = labelled_surface(labels, 10.0, frame=Frame((40, 40, 40), 10.0, 60.0))
    full = in_volume(surface, (40, 40, 40))
    np.testing.assert_allclose(full[15:26, 10, 20], 10.0 * np.abs(np.arange(-5, 6)), atol=1e-3)
    beyond = full[20, 19:26, 20]  # the last label is at 19, the edge up to 15 Å and half a cell after it
    assert (np.diff(beyond) > -1e-6).all()
    assert beyond[1] < 1e-6 and beyond[6] > 30


@pytest.mark.skipif(not LABELS.is_file(), reason="no shared data here")
def test_a_real_label_volume_becomes_a_smooth_surface():
    labels, _ = read_labels(LABELS)
    frame = Frame((120, 200, 200), 10.0, 50.0)
    surface = labelled_surface(labels, 14.08, frame=frame, rng=np.random.default_rng(1))
    points, normals = surface_points(np.random.default_rng(0), surface, 4000)
    near = cKDTree(points * 10).query_pairs(40, output_type="ndarray")
    angles = np.degrees(np.arccos(np.abs((normals[near[:, 0]] * normals[near[:, 1]]).sum(1)).clip(0, 1)))
    # The steps of one-voxel sheets would turn the normal by up to 20° over 40 Å.
    assert len(near) > 1000
    assert np.percentile(angles, 90) < 4


def test_labels_are_posed_at_random_but_always_in_view_and_the_same_for_equal_seeds():
    labels = np.zeros((30, 60, 90), dtype=np.uint8)
    labels[4:26, 50, 5:30] = 1
    frame = Frame((30, 40, 40), 10.0, 50.0)
    seen = []
    for seed in range(8):
        surface = labelled_surface(labels, 14.08, frame=frame, rng=np.random.default_rng(seed))
        again = labelled_surface(labels, 14.08, frame=frame, rng=np.random.default_rng(seed))
        np.testing.assert_array_equal(surface.distance, again.distance)
        assert surface_area(surface) > 2e4
        # 22 planes of labels reach through the whole depth of the volume
        assert surface.corner_px[0] == 0 and surface.distance.shape[0] == 30
        seen.append(np.abs(surface_points(np.random.default_rng(0), surface, 50)[1]).mean(0).argmax())
    assert set(seen) == {1, 2}  # turned about Z, never tipped over


def test_equal_seeds_give_equal_surfaces():
    frame = Frame((40, 40, 40), 10.0, 50.0)

    def draw(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        undulation = random_undulation(rng, wavelength=300, amplitude=10)
        centre = {"centre_px": np.full(3, 20), "rotation": np.eye(3)}
        round_one = ellipsoid_surface(
            np.array([120.0, 130, 140]), frame=frame, undulation=undulation, **centre
        )
        labyrinth = branched_surface(rng, wavelength=250, frame=frame)
        return [round_one.distance, labyrinth.distance, *surface_spread(rng, labyrinth, 40)]

    for one, two in zip(draw(5), draw(5), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(draw(5)[1], draw(6)[1])


def test_impossible_surfaces_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="shape"):
        Frame((10, 0, 10), 10.0, 50.0)
    with pytest.raises(ValueError, match="reach"):
        Frame(SHAPE, 10.0, 0.0)
    with pytest.raises(ValueError, match="semi_axes"):
        ellipsoid_surface(np.array([100.0, -1, 100]), frame=FRAME, **POSE)
    with pytest.raises(ValueError, match="does not come within"):
        ellipsoid_surface(np.full(3, 100.0), centre_px=np.full(3, 500), rotation=np.eye(3), frame=FRAME)
    with pytest.raises(ValueError, match="ring_radius"):
        torus_surface(100, 120, frame=FRAME, **POSE)
    with pytest.raises(ValueError, match="bend_radius"):
        tubule_surface(100, bend_radius=90, frame=FRAME, **POSE)
    with pytest.raises(ValueError, match="length"):
        tubule_surface(100, length=-5, frame=FRAME, **POSE)
    with pytest.raises(ValueError, match="stack"):
        stack_surface(0, 100, frame=FRAME, **POSE)
    with pytest.raises(ValueError, match="wavelength"):
        random_undulation(rng, wavelength=0, amplitude=10)
    with pytest.raises(ValueError, match="amplitude"):
        random_undulation(rng, wavelength=100, amplitude=-1)
    with pytest.raises(ValueError, match="radius"):
        branched_surface(rng, wavelength=300, frame=FRAME, radius=-1)
    with pytest.raises(ValueError, match="level"):
        branched_surface(rng, wavelength=300, frame=FRAME, level=50)
    with pytest.raises(ValueError, match="gap"):
        double(sheet_surface(frame=FRAME, **POSE), 100)
    with pytest.raises(ValueError, match="spacing"):
        surface_spread(rng, sheet_surface(frame=FRAME, **POSE), 0)
    with pytest.raises(ValueError, match="nodes"):
        redistance(np.zeros((2, 5, 5), dtype=np.float32), spacing=10, within=50)
    with pytest.raises(ValueError, match="zero nowhere"):
        redistance(np.ones((5, 5, 5), dtype=np.float32), spacing=10, within=50)
    with pytest.raises(ValueError, match="labels that are not zero"):
        labelled_surface(np.zeros((5, 5, 5), dtype=np.uint8), 10.0, frame=FRAME)
    with pytest.raises(ValueError, match="label_voxel_size"):
        labelled_surface(np.ones((5, 5, 5), dtype=np.uint8), 0.0, frame=FRAME)
