"""Simulated cases: made once, the same for equal seeds, with a truth and halves of electrons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomend.benchmark.simulated import choose_particles, record_blanks, simulate_cases
from cryomend.config import SpecimenConfig
from cryomend.evaluation import correlation
from cryomend.evaluation.picking import score_picking
from cryomend.evaluation.rotation_grid import rotation_grid
from cryomend.io import InputError, read_stack, write_volume
from cryomend.specimen import Placement, build_specimen, procedural_macromolecule


def changed(config, **values):
    return config.model_copy(update=values)


def test_equal_seeds_give_equal_cases_and_others_do_not(simulated, tmp_path):
    a, b = (simulate_cases(simulated, tmp_path / n)[0] for n in "ab")
    other = simulate_cases(changed(simulated, seed=1), tmp_path / "c")[0]
    assert torch.equal(a.read("whole"), b.read("whole"))
    assert a.digest == b.digest != other.digest
    assert not torch.equal(a.read("whole"), other.read("whole"))


def test_a_case_that_stands_is_left_alone_until_its_recipe_changes(simulated, tmp_path):
    case = simulate_cases(simulated, tmp_path)[0]
    before = case.path("whole").stat().st_mtime_ns
    assert simulate_cases(simulated, tmp_path)[0].path("whole").stat().st_mtime_ns == before
    other = simulate_cases(changed(simulated, halves="tilts"), tmp_path)[0]
    assert other.digest != case.digest and not other.has("first")
    assert case.path("whole").stat().st_mtime_ns != before


def test_halves_share_the_signal_and_the_tomogram_the_truth(simulated, tmp_path):
    case = simulate_cases(simulated, tmp_path)[0]
    truth = case.truth()
    assert truth is not None
    assert correlation(-case.read("whole"), truth) > 0.2
    assert 0.05 < correlation(case.read("even"), case.read("odd")) < 0.9
    assert case.areas() is not None
    assert case.defocus_um is not None


def test_repeats_and_kinds_name_the_cases(simulated, tmp_path):
    cases = simulate_cases(changed(simulated, repeats=2), tmp_path)
    assert [case.name for case in cases] == ["ball-1", "ball-2"]


def test_blanks_hold_noise_alone(simulated, tmp_path):
    ((stack, angles),) = record_blanks(simulated, tmp_path)
    images = torch.from_numpy(read_stack(stack).data)
    assert images.shape[0] == len(angles.read_text().split())
    noise = images / images.mean(dim=(1, 2), keepdim=True) - 1
    neighbours = (noise[:, :, 8:] * noise[:, :, :-8]).mean() / noise.square().mean()
    assert abs(neighbours) < 0.02
    assert record_blanks(simulated, tmp_path) == [(stack, angles)]


def test_unknown_kinds_and_noise_without_electrons_are_refused(simulated, tmp_path):
    with pytest.raises(InputError, match="no kind 'cube'; there are ball"):
        simulate_cases(changed(simulated, kinds=("cube",)), tmp_path)
    with pytest.raises(InputError, match="a kind is named twice; name each once and set repeats"):
        simulate_cases(changed(simulated, kinds=("ball", "ball")), tmp_path)
    acquisition = simulated.simulation.acquisition.model_copy(update={"snr": 0.1})
    simulation = simulated.simulation.model_copy(update={"acquisition": acquisition})
    with pytest.raises(InputError, match="halves count electrons; set fluence instead"):
        simulate_cases(changed(simulated, simulation=simulation), tmp_path)
    empty = simulated.simulation.model_copy(update={"specimens": {}})
    with pytest.raises(InputError, match="no kind of specimen; write at least one"):
        simulate_cases(changed(simulated, simulation=empty), tmp_path)


SPECIES = {"slab_margin": [10.0, 20.0], "occupancy": [0.12, 0.12], "species": [2, 2], "file_share": 1.0}


def test_the_heaviest_of_the_free_species_is_found_again_in_the_truth(tmp_path):
    light, heavy = (
        procedural_macromolecule(np.random.default_rng(n), mass_kda=mass, symmetry="C1", name=name)
        for n, (mass, name) in enumerate([(60.0, "light"), (150.0, "heavy")])
    )
    config = SpecimenConfig.model_validate({"shape": [24, 64, 64], **SPECIES})
    specimen = build_specimen(config, rng=np.random.default_rng(3), structures=[light, heavy])
    particles = choose_particles(specimen)
    assert particles is not None and particles.template.name == "heavy"
    score = score_picking(
        specimen.density, particles.template, particles.voxels, rotation_grid(40), voxel_size=10.0
    )
    assert score["best_threshold"]["recall"] > 0.7
    moved = score_picking(  # half the tomogram away they are not
        specimen.density.roll((32, 32), (1, 2)), particles.template, particles.voxels, rotation_grid(40),
        voxel_size=10.0,
    )  # fmt: skip
    assert moved["best_threshold"]["f1"] < 0.5 * score["best_threshold"]["f1"]


def test_units_of_filaments_proteins_in_membranes_and_rare_ones_are_not_looked_for():
    molecule = procedural_macromolecule(np.random.default_rng(0), mass_kda=300.0, symmetry="C1", name="one")
    empty = build_specimen(
        SpecimenConfig.model_validate(
            {"shape": [24, 48, 48], "slab_margin": [10.0, 20.0], "occupancy": [0.0, 0.0]}
        ),
        rng=np.random.default_rng(0),
    )

    def chosen(count, **more):
        placements = [
            Placement(molecule, np.array([0.0, 0.0, 9.0 * n]), np.eye(3), more.get("instance", n + 1),
                      more.get("in_membrane", False))
            for n in range(count)
        ]  # fmt: skip
        return choose_particles(replace(empty, placements=placements))

    assert chosen(8) is not None
    assert chosen(7) is None
    assert chosen(8, instance=3) is None
    assert chosen(8, in_membrane=True) is None


def test_a_structure_that_changed_under_its_name_makes_the_case_anew(simulated, tmp_path):
    density = np.zeros((17, 17, 17), np.float32)
    density[6:11, 6:11, 6:11] = 1
    digests = []
    for change in range(2):
        density[8, 8, 4] = change
        write_volume(tmp_path / "thing.mrc", density, voxel_size=10.0)
        config = changed(simulated, structures=(str(tmp_path / "thing.mrc"),))
        digests.append(simulate_cases(config, tmp_path / "cases")[0].digest)
    assert digests[0] != digests[1]
