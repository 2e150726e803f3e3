import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from cryomend.specimen import clutter
from cryomend.specimen.clutter import (
    CARBON_POTENTIAL,
    CRYSTAL_POTENTIAL,
    GOLD_POTENTIAL,
    carbon_edge,
    dense_granule,
    gold_fiducial,
    ice_crystal,
    lipid_debris,
)

ALL = [gold_fiducial, carbon_edge, ice_crystal, lipid_debris, dense_granule]
HUGE = (1 << 40, 1 << 40, 1 << 40)  # voxels: only the object's box may be made


def draw(make, seed=0, shape=(60, 90, 110), slab=(10, 50), voxel_size=10.0, **options):
    return make(np.random.default_rng(seed), shape, voxel_size=voxel_size, slab=slab, **options)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("voxel_size", [4.0, 10.0, 25.0])
def test_every_blob_lies_inside_the_volume_and_repeats_from_its_seed(make, voxel_size):
    for seed in range(6):
        shape = (40, 37, 50)
        blob = draw(make, seed, shape, (6, 33), voxel_size)
        again = draw(make, seed, shape, (6, 33), voxel_size)
        assert blob.potential.dtype == np.float32 and blob.occupied.dtype == np.bool_
        assert blob.potential.shape == blob.occupied.shape
        assert all(
            0 <= c and c + n <= s for c, n, s in zip(blob.corner_px, blob.occupied.shape, shape, strict=True)
        )
        assert np.isfinite(blob.potential).all() and blob.occupied.any()
        assert blob.potential.tobytes() == again.potential.tobytes() and blob.corner_px == again.corner_px


@pytest.mark.parametrize("make", ALL)
def test_bad_ranges_and_slabs_are_refused(make):
    with pytest.raises(ValueError, match="range of radii"):
        draw(make, radius=(30.0, 20.0))
    with pytest.raises(ValueError, match="is empty or leaves the 60 planes"):
        draw(make, slab=(20, 70))


@pytest.mark.parametrize("voxel_size", [5.0, 10.0, 14.0])
def test_gold_holds_the_potential_of_its_volume_whatever_its_shape(voxel_size):
    spheres = 0
    for seed in range(8):
        blob = draw(gold_fiducial, seed, HUGE, (100, 1 << 30), voxel_size, radius=(60.0, 60.0))
        total = blob.potential.sum(dtype=np.float64) * voxel_size**3
        # 0.1 % by the splitting of voxels on round faces, flat ones are exact but for the corners
        assert total == pytest.approx(25.23 * 4 / 3 * np.pi * 60**3, rel=3e-3)
        weights = blob.potential.astype(float)
        points = np.stack(np.indices(weights.shape), axis=-1) * voxel_size
        centre = np.average(points.reshape(-1, 3), axis=0, weights=weights.ravel())
        square = np.average(((points - centre) ** 2).sum(-1), weights=weights) - voxel_size**2 / 4
        # 3/5 R² of a ball (the voxels themselves add 3 v²/12); 2.5 % more for a truncated octahedron.
        ball, octahedron = abs(square / 2160 - 1) < 0.004, abs(square / 2160 - 1.025) < 0.006
        assert ball or octahedron
        spheres += ball
        assert blob.potential.max() == pytest.approx(25.23, abs=0.01)
        assert blob.occupied[blob.potential > 0].all()
    assert 0 < spheres < 8


def test_potentials_are_those_of_the_form_factors():
    gemmi = pytest.importorskip("gemmi")
    weight = {e: 47.878 * sum(gemmi.Element(e).c4322.a) for e in ("Au", "O", "H", "Ca", "P", "K")}
    assert weight["Au"] / (4.0782**3 / 4) == pytest.approx(GOLD_POTENTIAL, abs=0.1)  # f.c.c., 4.0782 Å
    water = (weight["O"] + 2 * weight["H"]) / (18.015 * 1.6605)
    assert 0.93 * water == pytest.approx(CRYSTAL_POTENTIAL, abs=0.03)
    phosphate = (3 * weight["Ca"] + 2 * weight["P"] + 8 * weight["O"]) / (310.18 * 1.6605)
    assert 1.4 * phosphate - 4.57 == pytest.approx(2.8, abs=0.1)
    assert 1.75 * phosphate - 4.57 == pytest.approx(4.6, abs=0.1)
    polyphosphate = (weight["K"] + weight["P"] + 3 * weight["O"]) / (118.07 * 1.6605)
    assert 1.5 * polyphosphate - 4.57 == pytest.approx(2.9, abs=0.1)


def test_gold_and_granules_stand_inside_the_slab():
    for seed in range(10):
        for make, most in ((gold_fiducial, 75), (dense_granule, 160)):
            blob = draw(make, seed, slab=(12, 50), radius=(most, most))
            z = np.flatnonzero(blob.occupied.any((1, 2))) + blob.corner_px[0]
            assert z.min() >= 12 - 2 and z.max() < 50 + 2  # facets and roughness stick out a little
    flat = draw(gold_fiducial, slab=(30, 32), radius=(70.0, 70.0))  # thicker than the ice: in its middle
    z = np.flatnonzero(flat.occupied.any((1, 2))) + flat.corner_px[0]
    assert (z.min() + z.max()) / 2 == pytest.approx(30.5, abs=1)


def test_carbon_has_its_mean_potential_and_the_grain_of_its_atoms():
    blob = draw(carbon_edge, 1, (80, 200, 200), (10, 70), radius=(6000.0, 6000.0))
    film = binary_erosion(blob.occupied[1], iterations=4)  # away from the rim and its half-covered voxels
    full = blob.potential[1:-1][:, film]
    assert full.size > 10_000
    assert full.mean() == pytest.approx(CARBON_POTENTIAL - 4.57, rel=0.01)
    # N atoms in 1000 Å³ of 1.75 g/cm³, each 9.09 / n V Å³, with 0.2 of Poisson's variance
    n = 1.75 / 12.011 * 0.60221
    assert full.std() == pytest.approx(CARBON_POTENTIAL * np.sqrt(0.2 / (1000 * n)), rel=0.03)


def test_carbon_lies_at_a_face_of_the_slab_and_ends_in_the_rim_of_its_hole():
    faces, voxel_size = set(), 10.0
    for seed in range(8):
        blob = draw(carbon_edge, seed, (80, 300, 300), (10, 70), voxel_size, radius=(5000.0, 5000.0))
        first, last = blob.corner_px[0], blob.corner_px[0] + len(blob.occupied)
        faces.add("lower" if first == 10 else "upper")
        assert first == 10 or last == 70
        assert 15 <= len(blob.occupied) <= 30
        film = np.zeros((300, 300))
        box = tuple(slice(c, c + n) for c, n in zip(blob.corner_px[1:], blob.occupied.shape[1:], strict=True))
        film[box] = blob.occupied[len(blob.occupied) // 2]
        assert 0.03 < film.mean() < 0.97
        rows, columns = np.nonzero(np.abs(np.gradient(film)).sum(0) > 0)
        rim = np.stack([rows, columns], axis=1) * voxel_size
        guess = 1500 + 5000 * np.array([[c, s] for c in (-1, 0, 1) for s in (-1, 0, 1) if c or s])
        fits = [least_squares(lambda p, r=rim: np.hypot(*(r - p[:2]).T) - p[2], [*g, 5000.0]) for g in guess]
        best = min(fits, key=lambda f: f.cost)
        # 15 Å of roughness over an arc of some 3000 Å; its sagitta of 225 Å gives the radius to 15 %.
        assert np.sqrt(2 * best.cost / len(rim)) < 25
        assert best.x[2] == pytest.approx(5000, rel=0.3)
        assert np.hypot(*(best.x[:2] - 1500)) > 3000
    assert faces == {"lower", "upper"}


def test_ice_crystals_sit_on_the_slab_with_a_flat_face_and_are_convex():
    sides = set()
    for seed in range(10):
        blob = draw(ice_crystal, seed, (120, 200, 200), (50, 70), radius=(250.0, 400.0))
        z = np.flatnonzero(blob.occupied.any((1, 2))) + blob.corner_px[0]
        below = z.max() < 50
        assert below or z.min() >= 70
        assert z.max() == 49 if below else z.min() == 70  # touches the surface
        sides.add(below)
        contact = blob.potential[-1 if below else 0]
        assert contact.max() == pytest.approx(CRYSTAL_POTENTIAL, rel=1e-5)  # whole voxels: the face is flat
        full = np.argwhere(blob.potential > 0.999 * CRYSTAL_POTENTIAL)
        pairs = full[np.random.default_rng(0).integers(len(full), size=(2000, 2))]
        middle = np.floor(pairs.mean(1)).astype(int)
        assert (blob.potential[tuple(middle.T)] > 0).all()
        assert blob.potential.max() <= CRYSTAL_POTENTIAL * (1 + 1e-6)
    assert sides == {True, False}
    with pytest.raises(ValueError, match="leave free ice"):
        draw(ice_crystal, slab=(0, 60))


def test_lipid_debris_is_made_of_bilayer_and_cut_by_the_slab():
    sizes = []
    for seed in range(20):
        blob = draw(lipid_debris, seed, slab=(20, 40), radius=(150.0, 250.0))
        z = np.flatnonzero(blob.potential.any((1, 2))) + blob.corner_px[0]
        assert z.min() >= 20 and z.max() < 40
        assert 1.0 < blob.potential.max() < 2.6  # V above ice, heads of a bilayer in voxels of 10 Å
        sizes.append(blob.occupied.sum())
    assert max(sizes) > 20 * min(sizes)  # micelles, fragments and droplets


def test_fragment_of_a_bilayer_carries_the_integral_over_its_area():
    curvature, radius, voxel_size = 200.0, 150.0, 3.0
    axis = (np.arange(-70, 71) * voxel_size).astype(np.float32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    distance = clutter._cap_distance(z, np.hypot(y, x), radius, curvature)
    angle = np.linspace(0, radius / curvature, 400)
    arc = np.stack([curvature * np.sin(angle), curvature * np.cos(angle) - curvature], axis=1)
    probe = np.random.default_rng(0).integers(141, size=(500, 3))
    z, y, x = axis[probe].T
    brute = cKDTree(arc).query(np.stack([np.hypot(y, x), z], axis=1))[0]
    np.testing.assert_allclose(distance[tuple(probe.T)], brute, atol=0.2)
    total = clutter.bilayer_profile(distance, voxel_size=voxel_size).sum(dtype=np.float64) * voxel_size**3
    across = clutter.bilayer_profile(np.arange(-60, 60, 0.1)).sum() * 0.1
    area = 2 * np.pi * curvature**2 * (1 - np.cos(radius / curvature))
    rim = 2 * np.pi * curvature * np.sin(radius / curvature)
    half = np.arange(0, 60, 0.1)  # the closed rim: half a cylinder of bilayer around it
    closing = rim * (clutter.bilayer_profile(half) * np.pi * half).sum() * 0.1
    # Pappus for the two leaflets of a cap is exact; the rim's half cylinder is bent, a few per cent of it.
    assert total == pytest.approx(area * across + closing, rel=0.03)


def test_granules_have_their_radius_roughness_texture_and_potential():
    levels = []
    for seed in range(6):
        blob = draw(dense_granule, seed, HUGE, (100, 1 << 30), radius=(250.0, 250.0))
        inside = blob.potential[blob.potential > 0.5 * np.median(blob.potential[blob.occupied])]
        levels.append(np.median(inside))
        volume = blob.potential.sum(dtype=np.float64) / np.mean(inside[inside > 0.7 * levels[-1]]) * 1000
        assert (volume / (4 / 3 * np.pi)) ** (1 / 3) == pytest.approx(250, rel=0.08)
        points = np.argwhere(blob.occupied) * 10.0
        centre = points.mean(0)
        edge = np.argwhere(blob.occupied & ~binary_erosion(blob.occupied)) * 10.0
        distances = np.linalg.norm(edge - centre, axis=1)
        assert 0.03 < distances.std() / 250 < 0.15  # a ball in voxels of 10 Å has 0.01
        middle = tuple(slice(n // 2 - 8, n // 2 + 8) for n in blob.potential.shape)
        assert 0.05 < blob.potential[middle].std() / blob.potential[middle].mean() < 0.2
    assert 2.7 < min(levels) and max(levels) < 8.8 and np.ptp(levels) > 1
