import json

import numpy as np
import pytest
import torch

from cryomend.config import SpecimenConfig
from cryomend.specimen import build_specimen, procedural_macromolecule, write_specimen
from cryomend.specimen.packing import Packing

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


def test_no_two_footprints_overlap_and_labels_are_theirs():
    specimen = build(occupancy=(0.2, 0.2))
    packing = Packing(specimen.density.shape, 10.0, (0, 40))
    owner = np.zeros(specimen.density.shape, dtype=np.int32)
    for p in specimen.placements:
        centre = p.position_zyx / 10 + np.array(owner.shape) // 2
        cells = packing.footprint(p.species, p.rotation_matrix, centre)
        cells = cells[((cells >= 0) & (cells < owner.shape)).all(1)]
        z, y, x = cells.T
        assert (owner[z, y, x] == 0).all()
        owner[z, y, x] = p.instance
    np.testing.assert_array_equal(owner, specimen.instances)


def test_occupancy_is_reached_when_there_is_room():
    specimen = build(occupancy=(0.12, 0.12), species=(4, 4), slab_margin=(0.0, 0.0))
    # Each species stops after its share, rounded to whole molecules.
    assert (specimen.instances > 0).mean() == pytest.approx(0.12, abs=0.03)


def test_margins_stay_free():
    specimen = build(
        occupancy=(0.2, 0.2), slab_margin=(80.0, 80.0), vesicles=(1, 1), vesicle_radius=(100.0, 150.0)
    )
    assert (specimen.instances[:8] == 0).all()
    assert (specimen.instances[-8:] == 0).all()


def test_vesicle_is_a_membrane_with_proteins_on_it():
    specimen = build(
        3,
        shape=(64, 64, 64),
        vesicles=(1, 1),
        vesicle_radius=(150.0, 160.0),
        membrane_proteins=(4.0, 4.0),
        occupancy=(0, 0),
        species=(0, 0),
    )
    assert list(specimen.classes.values()).count("membrane") == 1
    assert any(name.startswith("membrane-protein") for name in specimen.classes.values())


def test_filaments_and_shells_and_gold_are_placed():
    names = set()
    for seed in range(4):
        specimen = build(
            seed,
            shape=(64, 64, 64),
            filaments=(2, 2),
            shells=(1, 1),
            gold=(1, 1),
            occupancy=(0, 0),
            species=(0, 0),
        )
        names |= {name.split(" ")[0] for name in specimen.classes.values()}
    assert {"gold", "shell-unit"} <= names
    assert names & {"rod", "helix-unit", "procedural"}


def test_a_slab_that_the_margins_eat_up_is_refused():
    with pytest.raises(ValueError, match="slab"):
        build(slab_margin=(300.0, 300.0))


def test_a_species_larger_than_the_slab_is_not_placed():
    packing = Packing((8, 32, 32), 10.0, (0, 8))
    giant = procedural_macromolecule(np.random.default_rng(0), mass_kda=5000)
    assert not packing.place_at_random(np.random.default_rng(0), giant)
    assert packing.occupancy == 0


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
