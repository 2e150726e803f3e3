"""Recorded data: the recipes of the EMPIAR entries on small simulated data laid out as those."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.benchmark.recipes import named_recipes, read_recipe
from cryomend.benchmark.recorded import prepare_cases, sum_frames
from cryomend.config import load_benchmark
from cryomend.io import InputError, read_stack, write_mdoc, write_tilt_angles, write_volume
from cryomend.projection import project_density

ANGLES = np.arange(-48.0, 49.0, 12.0)
SHAPE = (20, 32, 32)
ENTRIES = ["empiar-10045", "empiar-10499", "empiar-10643", "empiar-10678"]


def images(frames: int = 1) -> np.ndarray:
    """Tilts (tilt, frame, Y, X) of a dark ball, every frame with noise of its own."""
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in SHAPE), indexing="ij")
    ball = torch.from_numpy((z**2 + y**2 + x**2 < 36).astype(np.float32))
    clean = -project_density(ball, ANGLES).numpy()
    rng = np.random.default_rng(0)
    return (100 + clean[:, None] + rng.normal(size=(len(ANGLES), frames, *SHAPE[1:]))).astype(np.float32)


def lay_out_stack(folder, name="IS002_291013_005"):
    """As EMPIAR-10045: an aligned .mrcs with its .tlt."""
    place = folder / "data" / "ribosomes" / "Tomograms" / "05"
    place.mkdir(parents=True)
    write_volume(place / f"{name}.mrcs", images()[:, 0], voxel_size=2.17, stack=True)
    write_tilt_angles(place / f"{name}.tlt", ANGLES)


def lay_out_frames(folder, name="TS_05", ending=".mrc"):
    """As EMPIAR-10499: movies, the .mdoc that names them by the microscope's paths, and an alignment."""
    (folder / "data" / "frames").mkdir(parents=True)
    mdoc = folder / "data" / f"{name}.mrc.mdoc"
    write_mdoc(
        mdoc, stack=folder / f"{name}.mrc", shape=SHAPE[1:], pixel_size=1.701, voltage_kv=300,
        tilt_axis_angle=0, tilt_angles=ANGLES.tolist(), exposures=[3.0] * len(ANGLES),
        prior=[3.0 * i for i in range(len(ANGLES))], places=list(range(len(ANGLES))), defocus_um=3.0,
    )  # fmt: skip
    text = ""
    for i, section in enumerate(mdoc.read_text().split("[ZValue")):
        text += (
            section
            if i == 0
            else f"[ZValue{section.rstrip()}\nSubFramePath = X:\\run\\{name}_{i - 1}{ending}\n\n"
        )
    mdoc.write_text(text)
    for i, movie in enumerate(images(frames=5)):
        write_volume(folder / "data" / "frames" / f"{name}_{i}{ending}", movie, voxel_size=1.701, stack=True)
    (folder / f"{name}.xf").write_text("1 0 0 1 0 0\n" * len(ANGLES))
    return mdoc


def scaled_down(name: str, **changes):
    """A packaged recipe for the small data: thickness, binning and areas are those of the data."""
    config = load_benchmark(named_recipes()[name])
    (tomogram,) = config.tomograms
    reconstruction = tomogram.reconstruction.model_copy(update={"bin": 1.0})
    small = {"thickness": SHAPE[0], "areas": None, "reconstruction": reconstruction} | changes
    return config.model_copy(update={"tomograms": (tomogram.model_copy(update=small),)})


def ball_is_dark(case) -> bool:
    whole = case.read("whole")
    return bool(whole[8:13, 14:19, 14:19].mean() < whole.mean() - whole.std())


@pytest.mark.parametrize("name", ENTRIES)
def test_recipes_of_the_entries_name_their_page_and_areas(name):
    config = read_recipe(name)
    assert config.page.endswith(f"{name.upper()}/")
    assert [tomogram.areas for tomogram in config.tomograms] == [name]


def test_an_aligned_stack_becomes_a_case(tmp_path):
    lay_out_stack(tmp_path / "10045")
    (case,) = prepare_cases(scaled_down("empiar-10045"), tmp_path / "cases", tmp_path / "10045")
    assert case.name == "IS002_291013_005"
    assert case.shape == SHAPE
    assert case.voxel_size == pytest.approx(2.17)
    assert case.tilt_range == (-48.0, 48.0)
    assert not case.has("first")
    assert ball_is_dark(case)
    before = case.path("whole").stat().st_mtime_ns
    (again,) = prepare_cases(scaled_down("empiar-10045"), tmp_path / "cases", tmp_path / "10045")
    assert again.path("whole").stat().st_mtime_ns == before


def test_a_movie_that_changed_makes_the_case_anew(tmp_path):
    lay_out_frames(tmp_path / "raw", "TS_05")
    (case,) = prepare_cases(scaled_down("empiar-10499"), tmp_path / "cases", tmp_path / "raw")
    movie = tmp_path / "raw" / "data" / "frames" / "TS_05_4.mrc"
    write_volume(movie, images(frames=5)[4] + 1, voxel_size=1.701, stack=True)
    (again,) = prepare_cases(scaled_down("empiar-10499"), tmp_path / "cases", tmp_path / "raw")
    assert again.digest != case.digest


def write_particles(path, voxels) -> None:
    axes = "".join(f"_rlnCenteredCoordinate{axis}Angst #{n}\n" for n, axis in enumerate("XYZ", start=1))
    centred = (np.array(voxels) - np.array(SHAPE) // 2)[:, ::-1] * 2.17
    path.write_text(f"data_particles\n\nloop_\n{axes}" + "".join(f"{x} {y} {z}\n" for x, y, z in centred))


def test_particles_of_a_table_are_looked_for(tmp_path):
    lay_out_stack(tmp_path)
    ball = np.zeros((17, 17, 17), np.float32)
    ball[2:15, 2:15, 2:15] = 1
    write_volume(tmp_path / "ball.mrc", ball, voxel_size=2.17)
    write_particles(tmp_path / "ball.star", [[10, 16, 16], [12, 5.5, 30]])
    asked = {"particles": ("*.star",), "template": str(tmp_path / "ball.mrc")}
    (case,) = prepare_cases(scaled_down("empiar-10045", **asked), tmp_path / "cases", tmp_path)
    particles = case.particles()
    np.testing.assert_allclose(particles.voxels, [[10, 16, 16], [12, 5.5, 30]])
    assert particles.template.name == "ball"
    assert particles.template.voxel_size == pytest.approx(2.17 / 2)
    write_particles(tmp_path / "ball.star", [[10, 16, 16], [12, 5.5, 40]])
    with pytest.raises(
        InputError, match=r"ball.star: 1 of 2 particles lie outside IS002.* of \(20, 32, 32\)"
    ):
        prepare_cases(scaled_down("empiar-10045", **asked), tmp_path / "cases", tmp_path)
    with pytest.raises(InputError, match="particles and template belong together; write both or neither"):
        prepare_cases(scaled_down("empiar-10045", particles=("*.star",)), tmp_path / "cases", tmp_path)
    (tmp_path / "ball.star").unlink()
    with pytest.raises(InputError, match=r"no particles of IS002.*looked for \*.star"):
        prepare_cases(scaled_down("empiar-10045", **asked), tmp_path / "cases", tmp_path)


@pytest.mark.parametrize("name", ENTRIES[1:])
def test_movies_become_a_case_with_frame_halves(name, tmp_path):
    lay_out_frames(tmp_path / "raw", "TS_05")
    (case,) = prepare_cases(scaled_down(name), tmp_path / "cases", tmp_path / "raw")
    assert case.has("first")
    assert case.tilt_range == (-48.0, 48.0)
    assert ball_is_dark(case)
    torch.testing.assert_close(case.read("even") + case.read("odd"), case.read("whole"), atol=1e-4, rtol=1e-4)


def test_binning_makes_voxels_larger(tmp_path):
    lay_out_stack(tmp_path / "10045")
    config = scaled_down("empiar-10045", thickness=16)
    (tomogram,) = config.tomograms
    binned = tomogram.reconstruction.model_copy(update={"bin": 2.0})
    config = config.model_copy(
        update={"tomograms": (tomogram.model_copy(update={"reconstruction": binned}),)}
    )
    (case,) = prepare_cases(config, tmp_path / "cases", tmp_path / "10045")
    assert case.shape == (16, 16, 16)
    assert case.voxel_size == pytest.approx(4.34)


@pytest.mark.parametrize("ending", [".mrc", ".tif"])
def test_sums_of_even_and_odd_frames_add_up_to_the_movie(tmp_path, ending):
    mdoc = lay_out_frames(tmp_path, ending=".mrc")
    frames = [read_stack(p).data for p in sorted((tmp_path / "data" / "frames").glob("*.mrc"))]
    if ending == ".tif":
        frames = [rewrite_as_tiff(p) for p in sorted((tmp_path / "data" / "frames").glob("*.mrc"))]
        mdoc.write_text(mdoc.read_text().replace(".mrc\n", ".tif\n"))
    stacks = [read_stack(p).data for p in sum_frames(mdoc, tmp_path, None)]
    np.testing.assert_allclose(stacks[0], np.stack([f.sum(axis=0) for f in frames]), rtol=1e-5)
    np.testing.assert_allclose(stacks[1], np.stack([f[::2].sum(axis=0) for f in frames]), rtol=1e-5)
    np.testing.assert_allclose(stacks[1] + stacks[2], stacks[0], rtol=1e-5)


def rewrite_as_tiff(path) -> np.ndarray:
    from PIL import Image

    frames = read_stack(path).data.round().astype(np.uint8)
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(path.with_suffix(".tif"), save_all=True, append_images=pages[1:])
    path.unlink()
    return frames.astype(np.float32)


def test_what_is_missing_is_named_with_the_page(tmp_path):
    config = scaled_down("empiar-10499")
    with pytest.raises(InputError, match=r"say where the files are with --data DIR; the data are at https"):
        prepare_cases(config, tmp_path / "cases", None)
    with pytest.raises(InputError, match="no such folder; give it with --data DIR"):
        prepare_cases(config, tmp_path / "cases", tmp_path / "no")
    with pytest.raises(InputError, match=r"looked for \*\*/TS_05.st or .*TS_05.mrc.mdoc.*EMPIAR-10499/"):
        prepare_cases(config, tmp_path / "cases", tmp_path)
    lay_out_frames(tmp_path)
    (tmp_path / "TS_05.xf").unlink()
    with pytest.raises(InputError, match=r"no alignment of TS_05; looked for \*\*/TS_05.xf or"):
        prepare_cases(config, tmp_path / "cases", tmp_path)
    (tmp_path / "TS_05.xf").write_text("1 0 0 1 0 0\n" * len(ANGLES))
    (tmp_path / "data" / "frames" / "TS_05_3.mrc").unlink()
    with pytest.raises(InputError, match=r"names the movie TS_05_3.mrc, which is not beside it"):
        prepare_cases(config, tmp_path / "cases", tmp_path)
    assert not list((tmp_path / "cases").glob("*/case.json"))


def test_half_a_pair_of_halves_is_refused(tmp_path):
    lay_out_stack(tmp_path)
    place = tmp_path / "data" / "ribosomes" / "Tomograms" / "05"
    write_volume(place / "IS002_291013_005_EVN.mrcs", images()[:, 0], voxel_size=2.17, stack=True)
    with pytest.raises(InputError, match="only one half of IS002_291013_005; give both stacks or neither"):
        prepare_cases(scaled_down("empiar-10045"), tmp_path / "cases", tmp_path)


def test_areas_that_leave_the_tomogram_or_overlap_are_refused_before_it_is_made(tmp_path):
    lay_out_stack(tmp_path)
    with pytest.raises(
        InputError, match=r"area s1 .*or correct thickness and reconstruction.bin in the recipe"
    ):
        prepare_cases(scaled_down("empiar-10045", areas="empiar-10045"), tmp_path / "cases", tmp_path)
    box = "z = [0, 5]\ny = [0, 5]\nx = [0, 5]\n"
    (tmp_path / "a.toml").write_text(f"[foreground.s1]\n{box}[background.b1]\n{box}")
    with pytest.raises(InputError, match="overlap"):
        prepare_cases(
            scaled_down("empiar-10045", areas=str(tmp_path / "a.toml")), tmp_path / "cases", tmp_path
        )
    assert not (tmp_path / "cases" / "IS002_291013_005" / "whole.mrc").exists()


def test_halves_of_another_size_or_pixel_are_refused_with_both(tmp_path):
    lay_out_stack(tmp_path)
    place = tmp_path / "data" / "ribosomes" / "Tomograms" / "05"

    def halves(data, voxel_size):
        for end in ("EVN", "ODD"):
            write_volume(place / f"IS002_291013_005_{end}.mrcs", data, voxel_size=voxel_size, stack=True)

    halves(images()[:-1, 0], 2.17)
    with pytest.raises(InputError, match=r"_EVN.mrcs has \(8, 32, 32\).*005.mrcs \(9, 32, 32\)"):
        prepare_cases(scaled_down("empiar-10045"), tmp_path / "cases", tmp_path)
    halves(images()[:, 0], 3.0)
    with pytest.raises(InputError, match=r"_EVN.mrcs has pixels of 3 Å, .*005.mrcs of 2.17 Å"):
        prepare_cases(scaled_down("empiar-10045"), tmp_path / "cases", tmp_path)


def test_files_of_one_series_are_taken_and_not_mixed_with_another(tmp_path):
    for name in ("TS_01", "TS_02", "TS_010"):
        write_volume(tmp_path / f"{name}.st", images()[:, 0], voxel_size=5.0, stack=True)
        (tmp_path / f"{name}.xf").write_text("1 0 0 1 0 0\n" * len(ANGLES))
        write_tilt_angles(tmp_path / f"{name}.tlt", ANGLES)
    for end in ("EVN", "ODD"):
        write_volume(tmp_path / f"TS_02_{end}.st", images()[:, 0], voxel_size=5.0, stack=True)
    config = scaled_down("empiar-10643", tilts=("TS_02*.st",))
    (case,) = prepare_cases(config, tmp_path / "cases", tmp_path)
    files = json.loads((case.folder / "case.json").read_text())["files"]
    assert {key: Path(path).name for key, path in files.items()} == {
        "tilts": "TS_02.st", "even": "TS_02_EVN.st", "odd": "TS_02_ODD.st", "angles": "TS_02.tlt",
        "alignment": "TS_02.xf",
    }  # fmt: skip
    (tmp_path / "TS_02.xf").unlink()
    with pytest.raises(InputError, match=r"2 files may be the alignment of .*TS_02.st, such as .*TS_01.xf"):
        prepare_cases(config, tmp_path / "cases", tmp_path)


def test_what_a_benchmark_has_written_below_its_data_is_no_data(tmp_path):
    lay_out_frames(tmp_path)
    cases = tmp_path / "bench" / "cases"
    (first,) = prepare_cases(scaled_down("empiar-10643"), cases, tmp_path)
    assert (cases / "tomogram" / "recorded_EVN.mrc").is_file()
    (again,) = prepare_cases(scaled_down("empiar-10643"), cases, tmp_path)
    assert again.digest == first.digest


def test_whole_paths_may_be_patterns_and_empty_ones_not(tmp_path):
    lay_out_stack(tmp_path / "elsewhere")
    (stack,) = (tmp_path / "elsewhere").rglob("*.mrcs")
    config = scaled_down("empiar-10045", tilts=(str(stack),), angles=(str(stack.with_suffix(".tlt")),))
    assert prepare_cases(config, tmp_path / "cases", tmp_path)
    with pytest.raises(InputError, match="a pattern of the recipe is empty"):
        prepare_cases(scaled_down("empiar-10045", tilts=("",)), tmp_path / "cases", tmp_path)
