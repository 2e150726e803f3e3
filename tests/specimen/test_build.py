import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.spatial import cKDTree

import cryomend
from cryomend.config import SpecimenConfig, dump_config, load_config
from cryomend.specimen import build_specimen, procedural_macromolecule, write_specimen

PRESETS = Path(cryomend.__file__).parent / "presets"
VESICLE = {"radius": (100.0, 150.0)}
SMALL = {"shape": (40, 64, 64), "slab_margin": (40.0, 60.0), "mass_kda": (60.0, 400.0)}


def build(seed=0, **changes):
    return build_specimen(SpecimenConfig(**{**SMALL, **changes}), rng=np.random.default_rng(seed))


def relion_matrix(rot, tilt, psi):
    """RELION's A, written out (Heymann et al. 2005, doi:10.1016/j.jsb.2005.06.001); acts on XYZ."""
    (ca, cb, cg), (sa, sb, sg) = (f(np.radians([rot, tilt, psi])) for f in (np.cos, np.sin))
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    a, b, c = build(1), build(1), build(2)
    assert torch.equal(a.density, b.density)
    assert a.instances.tobytes() == b.instances.tobytes()
    assert not torch.equal(a.density, c.density)


@pytest.mark.parametrize("occupancy", [0.05, 0.2, 0.35])
def test_occupancy_is_reached_and_is_what_the_labels_say(occupancy):
    specimen = build(occupancy=(occupancy, occupancy), species=(6, 6), slab_margin=(0.0, 0.0))
    assert specimen.occupancy_asked == occupancy
    assert specimen.occupancy == pytest.approx((specimen.instances > 0).mean(), abs=1e-9)
    assert specimen.occupancy == pytest.approx(occupancy, abs=0.01)  # within one molecule of 400 kDa


def test_packing_that_stalls_stops_and_says_what_it_reached():
    specimen = build(occupancy=(0.95, 0.95), species=(2, 2))
    assert specimen.occupancy_asked == 0.95
    assert 0.3 < specimen.occupancy < 0.8


def test_one_contrast_holds_for_all_of_a_filament():
    specimen = build(
        1, shape=(64, 96, 96), species=(0, 0), contrast=(0.5, 2.0), blur=(5.0, 5.0),
        filaments=[{"kind": "microtubule", "length": (900.0, 900.0)}],
    )  # fmt: skip
    potential = {"tubulin-alpha": [], "tubulin-beta": []}
    for p in specimen.placements:
        z, y, x = np.rint(p.position_zyx / 10).astype(int) + np.array(specimen.instances.shape) // 2
        if 0 <= y < 96 and 0 <= x < 96:
            potential[p.species.name].append(float(specimen.density[z, y, x]))
    alpha, beta = (np.mean(values) for values in potential.values())
    assert alpha == pytest.approx(beta, rel=0.1)  # textures differ, contrasts do not


def test_abundances_of_no_structure_are_refused():
    with pytest.raises(ValueError, match="abundance: no structure file is called ribosom; there are none"):
        build(abundance={"ribosom": 1.0})


def test_class_labels_are_the_numbers_of_the_class_names():
    specimen = build(occupancy=(0.1, 0.1), membranes=[VESICLE])
    labels = specimen.class_labels()
    for number, name in enumerate(specimen.class_names, start=1):
        members = [i for i, one in specimen.classes.items() if one == name]
        np.testing.assert_array_equal(labels == number, np.isin(specimen.instances, members))
    assert ((labels == 0) == (specimen.instances == 0)).all()


def test_a_species_worth_less_than_a_copy_is_placed_once():
    specimen = build(occupancy=(0.001, 0.001), species=(1, 1), mass_kda=(400.0, 400.0))
    assert len(specimen.placements) == 1


def test_every_instance_has_a_class_and_every_copy_its_voxels():
    specimen = build(occupancy=(0.15, 0.15), membranes=[VESICLE])
    present = set(np.unique(specimen.instances)) - {0}
    assert present == set(specimen.classes)
    assert {p.instance for p in specimen.placements} <= present


def test_margins_stay_free():
    specimen = build(occupancy=(0.2, 0.2), slab_margin=(80.0, 80.0), membranes=[VESICLE])
    assert (specimen.instances[:8] == 0).all()
    assert (specimen.instances[-8:] == 0).all()
    # what is left there is the tail of the blur
    assert float(specimen.density[:4].abs().max()) < 0.05


def build_whole_vesicle(**changes):
    """A specimen whose only vesicle lies inside the volume, and its centre in voxels."""
    for seed in range(40):
        specimen = build(seed, slab_margin=(0.0, 0.0), species=(0, 0), **changes)
        wall = specimen.instances == next(i for i, name in specimen.classes.items() if name == "membrane")
        if not any(wall.take(edge, axis).any() for axis in range(3) for edge in (0, -1)):
            return specimen, np.argwhere(wall).mean(0)
    raise AssertionError("no vesicle lies inside")


def radial_profile(specimen, centre, radius):
    """Mean density against the distance in Å from a centre in voxels."""
    grid = np.argwhere(np.ones(specimen.instances.shape)) - centre
    distance = np.linalg.norm(grid, axis=1) * specimen.voxel_size
    edges = np.arange(radius - 50, radius + 52, 2.0)
    values = specimen.density.numpy().ravel()
    sums = np.histogram(distance, edges, weights=values)[0]
    return (edges[1:] + edges[:-1]) / 2, sums / np.histogram(distance, edges)[0]


def test_a_rendered_vesicle_has_two_leaflets_the_stated_distance_apart():
    specimen, centre = build_whole_vesicle(
        shape=(112, 112, 112), voxel_size=3.0, blur=(1.5, 1.5),
        membranes=[{"radius": (60.0, 60.0), "proteins": (0.0, 0.0), "head_distance": (40.0, 40.0)}],
    )  # fmt: skip
    radii, profile = radial_profile(specimen, centre, 60)
    inner, outer = radii < 60, radii >= 60
    apart = radii[outer][profile[outer].argmax()] - radii[inner][profile[inner].argmax()]
    assert apart == pytest.approx(40, abs=4)  # bins of 2 Å; the blur draws the peaks together a little
    assert profile[np.abs(radii - 60).argmin()] < 0.5 * profile.max()


def test_membrane_proteins_stand_along_the_normal_on_either_side_at_the_stated_density():
    specimen, centre = build_whole_vesicle(
        shape=(96, 96, 96),
        membranes=[{"radius": (180.0, 180.0), "proteins": (0.2, 0.2), "inward": (0.5, 0.5)}],
    )
    outward = np.array([p.position_zyx for p in specimen.placements]) - (centre - 48) * 10
    lengths = np.linalg.norm(outward, axis=1)
    axes = np.array([p.rotation_matrix[:, 0] for p in specimen.placements])
    cosines = (axes * outward).sum(1) / lengths
    np.testing.assert_allclose(lengths, 180, atol=10)  # what they cover pulls at the centre: known to a voxel
    assert (np.abs(cosines) > 0.995).all()
    assert len(set(np.sign(cosines))) == 2
    assert abs(len(lengths) - 0.2 * 4 * np.pi * 180**2 / 1e4) <= 1


def test_filaments_shells_and_clutter_are_single_instances_of_their_kind():
    kinds = ("microtubule", "actin", "helix", "nucleosomes")
    specimen = build(
        1, shape=(64, 96, 96), species=(0, 0), shells=(1, 1),
        filaments=[{"kind": kind, "length": (800.0, 1000.0)} for kind in kinds],
        clutter=[{"kind": kind} for kind in ("gold", "granule", "lipid")],
    )  # fmt: skip
    names = list(specimen.classes.values())
    assert set(kinds) | {"shell"} <= set(names)
    assert len(names) == len(set(names)) + names.count("actin") - 1
    assert float(specimen.density.max()) > 10  # gold


def test_a_species_stands_in_clusters_if_told_so():
    nearest = {}
    for share in (0.0, 1.0):
        specimen = build(
            shape=(64, 160, 160), occupancy=(0.02, 0.02), species=(1, 1), cluster_share=share,
            cluster_radius=(150.0, 150.0), mass_kda=(100.0, 100.0), symmetries=["C1"],
        )  # fmt: skip
        positions = np.array([p.position_zyx for p in specimen.placements])
        nearest[share] = np.median(cKDTree(positions).query(positions, k=2)[0][:, 1])
    assert nearest[1.0] < 0.8 * nearest[0.0]


def test_named_structures_come_in_the_stated_proportion():
    rng = np.random.default_rng(0)
    ours = [procedural_macromolecule(rng, mass_kda=150, name=name) for name in ("a", "b")]
    config = SpecimenConfig(
        **SMALL, occupancy=(0.1, 0.1), species=(2, 2), file_share=1.0, abundance={"a": 3.0, "b": 1.0}
    )
    specimen = build_specimen(config, rng=rng, structures=ours)
    counts = Counter(p.species.name for p in specimen.placements)
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.15)  # whole molecules, some cut at the border


def test_every_structure_comes_once_before_one_comes_twice():
    rng = np.random.default_rng(0)
    ours = [procedural_macromolecule(rng, mass_kda=100, name=name) for name in "abcd"]
    config = SpecimenConfig(**SMALL, occupancy=(0.1, 0.1), species=(4, 4), file_share=1.0)
    specimen = build_specimen(config, rng=rng, structures=ours)
    assert {p.species.name for p in specimen.placements} == set("abcd")


def test_a_periodic_specimen_goes_on_at_the_other_side():
    config = {
        "occupancy": (0.15, 0.15),
        "species": (1, 1),
        "mass_kda": (400.0, 400.0),
        "contrast": (1.0, 1.0),
    }
    periodic, clipped = build(3, border="periodic", **config), build(3, border="clip", **config)
    totals = []
    for specimen in (periodic, clipped):
        weights = sum(float(p.species.weights.sum()) for p in specimen.placements)
        totals.append(float(specimen.density.double().sum()) * 1000 / weights)
    assert totals[0] == pytest.approx(1, abs=0.01)  # to what a template leaves out
    assert totals[1] < 0.95  # what sticks out of the clipped one is lost
    beside = np.array([p.position_zyx[1:] for p in periodic.placements])
    assert (np.abs(beside) <= 32 * 10 + 5).all()


@pytest.mark.parametrize("name", [file.stem for file in sorted(PRESETS.glob("*.yaml"))])
def test_every_preset_builds_and_its_resolved_configuration_reads_back(name):
    config = load_config(
        SpecimenConfig,
        None,
        preset=name,
        shape=(40, 64, 64),
        slab_margin=(20.0, 40.0),
        occupancy=(0.05, 0.05),
    )
    assert load_config(SpecimenConfig, None, **yaml.safe_load(dump_config(config))) == config
    specimen = build_specimen(config, rng=np.random.default_rng(0))
    assert torch.isfinite(specimen.density).all()
    assert specimen.placements


def test_a_slab_that_the_margins_eat_up_is_refused():
    with pytest.raises(ValueError, match="slab"):
        build(slab_margin=(300.0, 300.0))


def test_files_hold_density_labels_and_poses_that_rebuild_the_specimen(tmp_path):
    starfile = pytest.importorskip("starfile")
    import mrcfile

    specimen = build(occupancy=(0.1, 0.1))
    write_specimen(tmp_path / "out", specimen)
    with mrcfile.open(tmp_path / "out" / "density.mrc") as mrc:
        assert float(mrc.voxel_size.x) == pytest.approx(10)
        np.testing.assert_array_equal(mrc.data, specimen.density.numpy())
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert len(classes) == len(specimen.classes)
    table = starfile.read(tmp_path / "out" / "particles.star")
    first = specimen.placements[0]
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()[0]
    np.testing.assert_allclose(relion_matrix(*angles)[::-1, ::-1], first.rotation_matrix, atol=1e-4)
    assert table["rlnCenteredCoordinateZAngst"][0] == pytest.approx(first.position_zyx[0], abs=1e-3)
    assert (tmp_path / "out" / "preview.png").stat().st_size > 1000
