"""Template matching of files: the particle table, the command, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomend.evaluation.picking import read_particles
from cryomend.fourier import gaussian_lowpass
from cryomend.geometry import missing_wedge_mask
from cryomend.io import InputError, write_volume

SHAPE = (24, 36, 40)
PLACES = np.array([[11, 9, 10], [12, 26, 11], [11, 10, 29], [12, 27, 30]])
ASKED = ["--template", "thing.mrc", "--template-diameter", "120"]
HEAD = "data_particles\n\nloop_\n" + "".join(
    f"_rlnCenteredCoordinate{axis}Angst #{n}\n" for n, axis in enumerate("XYZ", start=1)
)


def particle(zyx: np.ndarray) -> np.ndarray:
    """Two unlike blobs, positions in voxels."""
    one = np.exp(-((zyx - [2.0, 0, -1.5]) ** 2).sum(-1) / 5)
    return one + 0.8 * np.exp(-((zyx - [-2.0, 1.5, 2.0]) ** 2).sum(-1) / 4)


def grid(shape: tuple[int, ...], centre: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1) - centre


def write_table(path: Path, places: np.ndarray, names: list[str] | None = None) -> Path:
    angstrom = (places - np.array([n // 2 for n in SHAPE])) * 10.0
    rows = [f"{x} {y} {z}" for z, y, x in angstrom]
    head = HEAD
    if names is not None:
        head += "_rlnTomoParticleName #4\n"
        rows = [f"{row} {name}/1/{n}" for n, (row, name) in enumerate(zip(rows, names, strict=True))]
    path.write_text(head + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw tomogram with dark particles and a wedge, one better than it, a template and tables."""
    monkeypatch.chdir(tmp_path)
    drawn = Rotation.random(len(PLACES), random_state=0).as_matrix()
    clean = sum(particle(grid(SHAPE, p) @ r) for p, r in zip(PLACES, drawn, strict=True))
    clean = torch.from_numpy(clean).float()
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    measured = missing_wedge_mask(SHAPE, tilt_min=-60, tilt_max=60)
    raw = torch.fft.ifftn(torch.fft.fftn(clean + 1.2 * noise) * measured).real
    write_volume(tmp_path / "raw.mrc", -raw.numpy(), voxel_size=10.0)
    better = clean + 0.3 * gaussian_lowpass(noise, 1.0)
    write_volume(tmp_path / "restored.mrc", -better.numpy(), voxel_size=10.0)
    write_volume(tmp_path / "thing.mrc", particle(grid((21,) * 3, np.full(3, 10))), voxel_size=10.0)
    write_table(tmp_path / "particles.star", PLACES, ["thing"] * 4)
    write_table(tmp_path / "mixed.star", PLACES, ["thing", "other", "thing", "other"])
    write_table(tmp_path / "nameless.star", PLACES)
    write_table(tmp_path / "far.star", PLACES + np.array([0, 0, 20]), ["thing"] * 4)
    (tmp_path / "text.star").write_text("data_particles\n\nloop_\n_rlnAngleRot #1\n1\n")
    return tmp_path


def test_positions_are_read_in_angstrom_from_the_centre_and_by_species(folder: Path) -> None:
    centre = np.array([n // 2 for n in SHAPE])
    positions, species = read_particles(folder / "particles.star")
    np.testing.assert_allclose(positions / 10 + centre, PLACES)
    assert species == "thing"
    np.testing.assert_allclose(read_particles("mixed.star", "other")[0] / 10 + centre, PLACES[1::2])
    assert read_particles("nameless.star")[1] is None


def test_of_a_table_of_several_tomograms_the_rows_of_one_are_taken(folder: Path) -> None:
    text = (folder / "nameless.star").read_text().splitlines()
    rows = [f"{row} TS_{n % 2}" for n, row in enumerate(text[-len(PLACES) :])]
    text[-len(PLACES) :] = ["_rlnTomoName #4", *rows]
    Path("project.star").write_text("\n".join(text) + "\n")
    centre = np.array([n // 2 for n in SHAPE])
    positions, _ = read_particles("project.star", tomogram="TS_1")
    np.testing.assert_allclose(positions / 10 + centre, PLACES[1::2])
    with pytest.raises(InputError, match=r"several tomograms \(TS_0, TS_1\), none called raw; give those of"):
        read_particles("project.star", tomogram="raw")


def test_the_table_of_a_specimen_is_read(tmp_path: Path) -> None:
    from cryomend.specimen import load_structure
    from cryomend.specimen.build import Placement, Specimen
    from cryomend.specimen.files import write_specimen

    write_volume(tmp_path / "thing.mrc", particle(grid((21,) * 3, np.full(3, 10))), voxel_size=10.0)
    molecule = load_structure(tmp_path / "thing.mrc")
    places = np.array([[-50.0, 20.5, 110.0], [30.0, -40.0, -70.25]])
    turned = Rotation.random(random_state=1).as_matrix()
    placements = [Placement(molecule, place, turned, n) for n, place in enumerate(places, start=1)]
    labels = np.zeros(SHAPE, np.int32)
    specimen = Specimen(torch.ones(SHAPE), labels, {1: "thing"}, placements, 10.0, (0, 24), 0.1, 0.1)
    write_specimen(tmp_path / "out", specimen)
    positions, species = read_particles(tmp_path / "out" / "particles.star")
    assert species == "thing"
    np.testing.assert_allclose(positions, places)


def test_the_command_scores_raw_and_restored_and_the_restored_one_is_better(
    run_cli: Callable, folder: Path, tiny_model: Path
) -> None:
    result = run_cli(
        "evaluate", "restored.mrc", "--raw", "raw.mrc", *ASKED, "--particles", "particles.star",
        "--tilt-range", "-60", "60", "--angular-step", "50",
        "--model", tiny_model, "--json", "scores.json",
    )  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads((folder / "scores.json").read_text())["template_matching"]
    assert list(found["searches"]) == ["volume, measured", "volume, all", "raw, measured"]
    assert (found["template"], found["species"], found["particles"]) == ("thing", "thing", 4)
    assert found["tolerance_angstrom"] == 30
    f1 = {name: search["best_threshold"]["f1"] for name, search in found["searches"].items()}
    assert f1["volume, measured"] == f1["volume, all"] == 1
    assert f1["raw, measured"] < 1
    assert "F1, best threshold" in result.out
    assert "thing, 4 particles" in result.out


def test_without_a_tilt_range_all_of_fourier_space_is_compared_and_no_check_is_made(
    run_cli: Callable, folder: Path
) -> None:
    write_volume("bright.mrc", -_read("restored.mrc"), voxel_size=10.0)
    result = run_cli(
        "evaluate", "bright.mrc", "--protein", "bright", *ASKED, "--particles", "mixed.star",
        "--species", "other", "--angular-step", "60", "--json", "scores.json",
    )  # fmt: skip
    assert result.code == 0, result.err
    scores = json.loads((folder / "scores.json").read_text())
    assert list(scores["template_matching"]["searches"]) == ["volume"]
    assert scores["template_matching"]["searches"]["volume"]["best_threshold"]["recall"] == 1
    assert "checks" not in scores


def _read(path: str) -> np.ndarray:
    from cryomend.io import read_volume

    return read_volume(path).data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template", "thing.mrc"], "--template and --particles belong together"),
        (["--particles", "particles.star"], "--template and --particles belong together"),
        (
            [*ASKED, "--particles", "mixed.star"],
            "several species (other, thing); name the template's: --species",
        ),
        (
            [*ASKED, "--particles", "mixed.star", "--species", "none"],
            "no particle of species none; there are",
        ),
        ([*ASKED, "--particles", "nameless.star", "--species", "a"], "no column _rlnTomoParticleName"),
        (
            [*ASKED, "--particles", "far.star"],
            "far.star: 2 of 4 particles lie outside restored.mrc of (24, 36",
        ),
        ([*ASKED, "--particles", "text.star"], "text.star has no table with _rlnCenteredCoordinateZAngst"),
        (
            [*ASKED, "--particles", "particles.star", "--angular-step", "0"],
            "--angular-step: the angular step",
        ),
        (
            ["--template", "thing.mrc", "--template-diameter", "900", "--particles", "particles.star"],
            "restored.mrc: a template of 90 voxels diameter",
        ),
        (["--template", "missing.pdb", "--particles", "particles.star"], "missing.pdb"),
    ],
)
def test_what_cannot_be_looked_for_ends_in_one_line_and_code_two(
    run_cli: Callable, folder: Path, options: list[str], message: str
) -> None:
    result = run_cli("evaluate", "restored.mrc", "--json", "scores.json", *options)
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert len(result.err.strip().splitlines()) == 1
    assert not (folder / "scores.json").exists()


def test_a_table_of_several_species_needs_one_named(folder: Path) -> None:
    with pytest.raises(InputError, match="several species"):
        read_particles(folder / "mixed.star")
