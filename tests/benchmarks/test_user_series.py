"""The benchmark of `train --for`: what the simulated user has, knows and types."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cryomend.config import load_recipe
from cryomend.io import write_volume
from cryomend.training.maker import Ingredients
from cryomend.training.series import UserSeries, make_recipe, read_series

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import user_series

    monkeypatch.setattr(
        user_series.other, "FIELD", (64, 128, 160)
    )  # of the microscope only what an image sees
    yield user_series
    for name in ("user_series", "held_out", "scores", "other_simulator", "microtubule_ring", "out_of_class"):
        sys.modules.pop(name, None)


@pytest.fixture
def options(tmp_path):
    grid = np.indices((24, 24, 24)) - 12
    for name in ("2cg9", "3cf3", "4cr2"):
        write_volume(tmp_path / f"{name}.mrc", np.exp(-(grid**2).sum(0) / 18.0), voxel_size=10.0)
    return argparse.Namespace(
        work=tmp_path, structures=tmp_path, membrane_structures=tmp_path, minutes=1.0, seed=0, device="cpu",
        extra=[],
    )  # fmt: skip


def test_the_specimen_leaves_a_part_of_the_field_bare(bench, options) -> None:
    user = bench.USERS["complexes"]
    maps = bench.other.read_maps(options.structures, user.complexes)
    density = bench.build_specimen(user, maps, {}, np.random.default_rng(0))
    assert density.shape == (64, 128, 160)
    assert np.abs(density[:, : bench.BARE]).max() < 0.1 * density.max()  # soft borders reach a little over
    assert (density[:, bench.BARE :] > 1).any(axis=(0, 2)).mean() > 0.9


def test_train_understands_what_the_user_writes_and_knows(bench, options, monkeypatch) -> None:
    made = []

    def draw(density, recording, rng, *, ice):
        made.append(recording)
        return rng.normal(size=(len(recording.tilt_angles), 16, 16)).astype(np.float32)

    monkeypatch.setattr(bench.other, "record_series", draw)
    user = bench.USERS["complexes"]
    stacks = [bench.write_series(user, n, options) for n in (0, 1)]
    assert bench.write_series(user, 0, options) == stacks[0] and len(made) == 2
    assert made[0].defocus_um != made[1].defocus_um
    found = read_series(UserSeries(stacks), 1.0)
    assert [len(facts.angles) for facts in found] == [37, 37] and found[0].pixel_size == pytest.approx(10)
    known = options.work / "known.yaml"
    known.write_text(yaml.safe_dump(bench.what_the_user_knows(user)))
    recipe = make_recipe(known, found, 1.0, Ingredients(structures=["x.mrc"]), None)
    assert recipe.simulation.acquisition.voltage_kv == 200
    low, high = recipe.simulation.acquisition.defocus_um
    assert all(low < recording.defocus_um < high for recording in made)
    assert recipe.simulation.processing.methods == {"wbp": 1.0}
    assert (
        recipe.simulation.noise_share
        == load_recipe(None, {"simulation": {"noise_share": 1.0}}).simulation.noise_share
    )
    command = bench.train_command(user, stacks, options)
    assert command[1:5] == ["train", "--for", *map(str, stacks)]
    assert command.count("--structures") == 1 and "--membrane-structures" not in command


@pytest.mark.parametrize("name", ["complexes", "vesicles", "vesicles-plain"])
def test_test_series_have_other_seeds_and_structures_are_those_of_no_training(bench, name) -> None:
    user = bench.USERS[name]
    held_out = load_recipe(None, {"simulation": yaml.safe_load(
        (BENCHMARKS.parent / "configs" / "held-out.yaml").read_text()
    )}).simulation.structures  # fmt: skip
    assert {*user.complexes, *user.membrane_proteins} <= set(held_out)
    seeds = {bench._seed(bench.USERS[u], n) for u in bench.USERS for n in (*range(10), *range(50, 60))}
    assert len(seeds) == 20 * len(bench.USERS)


def test_tables_go_between_the_marks(bench, tmp_path) -> None:
    path = tmp_path / "page.md"
    path.write_text("before\n")
    bench.write_between(path, "one")
    path.write_text(path.read_text() + "after\n")
    bench.write_between(path, "two")
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "two" in text and "one" not in text
