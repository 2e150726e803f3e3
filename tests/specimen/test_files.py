"""`cryomend specimen`: what it writes, that it can be made again, and what it refuses."""

import mrcfile
import numpy as np
import pytest
import starfile
import yaml

from cryomend.io import write_volume

FILES = {"density.mrc", "instances.mrc", "classes.json", "particles.star", "preview.png", "config.yaml"}
SMALL = ("--shape", 32, 48, 48, "--voxel-size", 10)


@pytest.fixture
def two_maps(tmp_path):
    """Two little density maps, a ball and a bar."""
    z, y, x = np.mgrid[-8:8, -8:8, -8:8]
    write_volume(tmp_path / "ball.mrc", (z**2 + y**2 + x**2 < 16).astype(np.float32), voxel_size=10)
    write_volume(tmp_path / "bar.mrc", ((abs(z) < 5) & (y**2 + x**2 < 5)).astype(np.float32), voxel_size=10)
    return tmp_path / "ball.mrc", tmp_path / "bar.mrc"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("preset", ["purified", "virus", "membranes"])
def test_a_preset_writes_all_files_and_equal_seeds_equal_bytes(run_cli, tmp_path, preset):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        options = ("--preset", preset, "--shape", 56, 64, 64, "--seed", seed)
        assert run_cli("specimen", *options, "-o", tmp_path / name).code == 0
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert set(a) == FILES
    assert a == b
    assert a["density.mrc"] != c["density.mrc"]


def test_the_resolved_configuration_makes_the_same_specimen_again(run_cli, tmp_path):
    assert run_cli("specimen", "--preset", "filaments", *SMALL, "--seed", 1, "-o", tmp_path / "a").code == 0
    config = tmp_path / "a" / "config.yaml"
    assert run_cli("specimen", "--config", config, "--seed", 1, "-o", tmp_path / "b").code == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_several_structures_follow_one_option(run_cli, tmp_path, two_maps):
    result = run_cli(
        "specimen",
        "--preset",
        "purified",
        *SMALL,
        "--structures",
        *two_maps,
        "--seed",
        2,
        "-o",
        tmp_path / "s",
    )
    assert result.code == 0, result.err
    names = set(starfile.read(tmp_path / "s" / "particles.star")["rlnTomoParticleName"].str.split("/").str[0])
    assert names <= {"ball", "bar"}
    assert "procedural" not in (tmp_path / "s" / "classes.json").read_text()


def test_positions_in_the_table_are_where_the_labels_are(run_cli, tmp_path, two_maps):
    """Half-voxel offsets: the mean of a ball's voxels is its centre, the volume's is voxel n // 2."""
    config = tmp_path / "balls.yaml"
    config.write_text("{species: [1, 1], file_share: 1, occupancy: [0.1, 0.1], slab_margin: [10, 10]}")
    options = ("--config", config, *SMALL, "--structures", two_maps[0], "--seed", 5)
    assert run_cli("specimen", *options, "-o", tmp_path / "s").code == 0
    table = starfile.read(tmp_path / "s" / "particles.star")
    with mrcfile.open(tmp_path / "s" / "instances.mrc") as mrc:
        labels = mrc.data
    axes = [f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX"]
    # the map's own middle: its ball is centred on voxel n // 2 of an even box
    offsets = []
    for name, position in zip(table["rlnTomoParticleName"], table[axes].to_numpy(), strict=True):
        where = np.argwhere(labels == int(name.split("/")[1]))
        at = position / 10 + np.array(labels.shape) // 2
        if (at > 5).all() and (at < np.array(labels.shape) - 6).all():
            offsets.append(where.mean(0) - at)
    assert len(offsets) >= 3
    np.testing.assert_allclose(np.mean(offsets, axis=0), 0, atol=0.1)
    assert np.abs(offsets).max() < 0.35  # of a ball of 256 voxels


def test_an_occupancy_that_cannot_be_is_reported_with_what_was_reached(run_cli, tmp_path):
    result = run_cli("specimen", *SMALL, "--occupancy", 0.9, "-o", tmp_path / "s")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "of the 0.900 asked for" in result.err
    reached = float(result.err.split("occupancy of ")[1].split()[0])
    assert 0.3 < reached < 0.8
    assert set(files(tmp_path / "s")) == FILES  # nothing of the work is lost
    with mrcfile.open(tmp_path / "s" / "instances.mrc") as mrc:
        planes = np.flatnonzero((mrc.data > 0).any((1, 2)))
        assert (mrc.data[planes[0] : planes[-1] + 1] > 0).mean() == pytest.approx(reached, abs=0.05)


def test_the_comment_of_the_configuration_says_how_it_was_made(run_cli, tmp_path, two_maps):
    options = ("--preset", "purified", *SMALL, "--structures", two_maps[1], "--seed", 7)
    assert run_cli("specimen", *options, "-o", tmp_path / "s").code == 0
    text = (tmp_path / "s" / "config.yaml").read_text()
    assert "seed 7" in text.splitlines()[0]
    assert "bar.mrc" in text.splitlines()[0]
    assert yaml.safe_load(text)["file_share"] == 1.0
