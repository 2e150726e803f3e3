"""`cryomend noise extract`: what it finds, what it says, what it draws, and every error in one line."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import ndimage

from cryomend.io import write_tilt_angles, write_volume
from cryomend.noise import read_patches

ANGLES = np.array([-40.0, 0.0, 40.0])


@pytest.fixture
def stack(tmp_path: Path):
    series = 50 + 3 * np.random.default_rng(0).standard_normal((3, 144, 160)).astype(np.float32)
    series[1, 30, 40] = 80  # a hot pixel
    write_volume(tmp_path / "ts.mrc", series, voxel_size=4.0, stack=True)
    write_tilt_angles(tmp_path / "ts.tlt", ANGLES)
    return tmp_path / "ts.mrc"


@pytest.fixture
def extract(run_cli, stack, tmp_path: Path):
    """Run the command on the stack (or on ``path``) with patches of 32."""

    def run(*options, path=stack, patch=32):
        return run_cli("noise", "extract", path, "--patch", patch, *options, "-o", tmp_path / "p.h5")

    return run


def overwrite(path: Path, change):
    """Change the pixels of a stack without the checks of the writer."""
    raw = path.read_bytes()
    data = np.frombuffer(raw[1024:], dtype=np.float32).reshape(3, 144, 160).copy()
    change(data)
    path.write_bytes(raw[:1024] + data.tobytes())


def assert_refused(result, folder: Path, *words):
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    for word in words:
        assert word in result.err
    assert not [f.name for f in folder.iterdir() if f.suffix in (".h5", ".png", ".partial")]


def test_patches_and_a_picture_are_written_and_every_tilt_is_told(extract, stack, tmp_path: Path):
    result = extract("--tilt-angles", stack.with_suffix(".tlt"))
    assert result.code == 0
    for words in (
        "3 images of 144 x 160, pixel 4 Å",
        "tilt 1 (+0.0 deg): ",
        "left out: ",
        "gold, hot or filled pixels",
        "in all ",
        "enough for --model spectral or gaussian; a learned model will train, but 2000 are better",
        "p.png",
    ):
        assert words in result.err
    assert len(read_patches(tmp_path / "p.h5").patches) > 150
    assert imread(tmp_path / "p.png").shape[2] == 4


def test_the_list_beside_a_stack_is_taken_if_it_fits(extract, stack, tmp_path: Path):
    assert "tilt 1 (+0.0 deg): " in extract().err
    np.testing.assert_array_equal(np.unique(read_patches(tmp_path / "p.h5").tilt_angle), ANGLES)
    write_tilt_angles(stack.with_suffix(".tlt"), ANGLES[:2])  # of what a tomogram was made from
    assert extract().code == 0
    assert np.isnan(read_patches(tmp_path / "p.h5").tilt_angle).all()


def test_the_picture_can_be_named_or_left_out(extract, tmp_path: Path):
    assert extract("--picture", tmp_path / "look.png").code == 0
    assert (tmp_path / "look.png").is_file()
    assert extract("--no-picture").code == 0
    assert not (tmp_path / "p.png").exists()


def test_the_picture_outlines_the_windows_in_one_colour(extract, tmp_path: Path):
    (tmp_path / "areas.txt").write_text("0 0 144 0 160\n")
    for name, options in (("few.png", ("--areas", tmp_path / "areas.txt")), ("many.png", ())):
        assert extract("--picture", tmp_path / name, *options).code == 0
    few, many = (imread(tmp_path / n)[..., :3] for n in ("few.png", "many.png"))
    orange = np.array([0xE6, 0x9F, 0x00]) / 255
    drawn = [(np.abs(picture - orange).max(axis=2) < 0.02).sum() for picture in (few, many)]
    assert 500 < drawn[0] < drawn[1]


def test_many_small_windows_are_outlined_together(extract, tmp_path: Path):
    series = np.random.default_rng(1).standard_normal((1, 512, 640)).astype(np.float32)
    series[:, 200:260, 300:360] -= 30
    write_volume(tmp_path / "wide.mrc", series, voxel_size=4.0, stack=True)
    assert extract(path=tmp_path / "wide.mrc", patch=16).code == 0
    picture = imread(tmp_path / "p.png")[..., :3]
    drawn = (np.abs(picture - np.array([0xE6, 0x9F, 0x00]) / 255).max(axis=2) < 0.02).sum()
    assert 100 < drawn < 0.05 * picture[..., 0].size


def test_areas_given_replace_the_search_and_damage_is_told(extract, stack, tmp_path: Path):
    stack.with_suffix(".tlt").unlink()
    (tmp_path / "areas.txt").write_text("# mine\n* 0 64 0 64  # the corner\n\n2 80 144 90 160\n")
    result = extract("--areas", tmp_path / "areas.txt")
    assert result.code == 0
    assert (
        "slice 1: 9 of 9 windows; warning: 4 in the areas given hold gold, hot or filled pixels" in result.err
    )
    noise = read_patches(tmp_path / "p.h5")
    assert np.bincount(noise.tilt_index).tolist() == [9, 9, 18]
    assert noise.corner_yx[noise.tilt_index == 0].max() == 32
    (tmp_path / "areas.txt").write_text("2 0 144 0 160")
    result = extract("--areas", tmp_path / "areas.txt")
    assert "slice 0: no area given" in result.err
    assert "none in slice 0, slice 1" in result.err


def test_a_tomogram_is_thinned_to_slices_whose_noise_is_nearly_independent(extract, tmp_path: Path):
    noise = np.random.default_rng(3).standard_normal((40, 128, 128))
    noise = ndimage.gaussian_filter(noise, (1.0, 0.7, 0.7))  # correlation exp(-d²/4): 0.78, 0.37, 0.11
    write_volume(tmp_path / "tomo.mrc", noise, voxel_size=10.0)
    result = extract(path=tmp_path / "tomo.mrc")
    assert result.code == 0
    assert "approximate: their noise is filtered by the reconstruction and has one deviation" in result.err
    assert "correlates by 0.78, 0.3" in result.err
    assert "at distances 1 to 3, so 14 of 40 count: used 0, 3, ... 39" in result.err
    used = np.unique(read_patches(tmp_path / "p.h5").tilt_index)
    assert np.array_equal(used, np.arange(0, 40, 3))
    (tmp_path / "areas.txt").write_text("* 0 64 0 64\n1 0 64 0 64\n")
    assert extract("--areas", tmp_path / "areas.txt", path=tmp_path / "tomo.mrc").code == 0
    assert read_patches(tmp_path / "p.h5").tilt_index[9] == 1


def test_a_limit_and_a_pixel_size_reach_the_patches(extract, tmp_path: Path):
    result = extract("--max-patches", 50, "--pixel-size", 2.5)
    assert "stopped by --max-patches" in result.err
    assert "a learned model needs 64, better 2000" in result.err
    noise = read_patches(tmp_path / "p.h5")
    assert len(noise.patches) == 50
    assert noise.pixel_size == 2.5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0 0 64 0\n", "line 1 does not fit; expected `tilt y_first y_last x_first x_last`"),
        ("# a\nzero 0 64 0 64\n", "line 2 does not fit"),
        ("0 0 64 0 6.5\n", "line 1 does not fit"),
        ("0 64 0 0 64\n", "line 1 has an empty or negative range y 64 to 0"),
        ("0 0 64 -1 64\n", "line 1 has an empty or negative range x -1 to 64"),
        ("3 0 64 0 64\n", "line 1 asks for tilt 3, but "),
        ("* 0 145 0 64\n", "line 1 reaches to y 145, but "),
        ("* 0 64 0 161\n", "has 160 pixels along x"),
        ("* 0 64 0 64\n0 0 31 0 64\n", "line 2 is 31 x 64 pixels, smaller than a patch of 32"),
        ("# nothing\n", "holds no areas; expected"),
        ("0 0 48 0 48\n", "only 4 areas of 32 x 32 in the areas given, need 8; give larger areas"),
    ],
)
def test_areas_that_do_not_fit_are_refused_with_their_line(extract, tmp_path: Path, content, words):
    (tmp_path / "areas.txt").write_text(content)
    result = extract("--areas", tmp_path / "areas.txt")
    assert_refused(result, tmp_path, words)
    assert "areas.txt" in result.err or "ts.mrc" in result.err


def test_too_few_too_small_too_odd_and_missing_are_refused(extract, stack, tmp_path: Path):
    assert_refused(
        extract(patch=96), tmp_path, "ts.mrc: only ", "need 8; try a smaller --patch or add stacks"
    )
    assert_refused(
        extract(patch=256), tmp_path, "ts.mrc: patch of 256 is larger than the image of 144 x 160", "--patch"
    )
    assert_refused(extract(patch=33), tmp_path, "--patch must be even and at least 16 pixels, got 33")
    assert_refused(extract(path=tmp_path / "no.mrc"), tmp_path, "no.mrc does not exist")
    assert_refused(extract("--areas", tmp_path / "no.txt"), tmp_path, "no.txt does not exist")
    assert_refused(extract("--pixel-size", -1), tmp_path, "--pixel-size must be a positive number")
    assert_refused(extract("--picture", tmp_path / "p.h5"), tmp_path, "two results go into")
    assert_refused(extract("--picture", tmp_path / "no" / "p.png"), tmp_path, "is not a directory")


def test_angles_that_do_not_fit_are_refused(extract, tmp_path: Path):
    write_tilt_angles(tmp_path / "two.tlt", ANGLES[:2])
    assert_refused(
        extract("--tilt-angles", tmp_path / "two.tlt"),
        tmp_path,
        "ts.mrc: 2 tilt angles for 3 tilts",
        "two.tlt",
    )


def test_tilts_without_contrast_or_with_broken_pixels_are_refused_by_number(extract, stack, tmp_path: Path):
    overwrite(stack, lambda data: data[2].fill(5))
    angles = ("--tilt-angles", stack.with_suffix(".tlt"))
    assert_refused(extract(*angles), tmp_path, "ts.mrc: slice or tilt 2: constant image")
    overwrite(stack, lambda data: data[1, 7].__setitem__(9, np.nan))
    words = "tilt 1: 1 pixels that are NaN or infinite, the first at (Y, X) = (7, 9)"
    assert_refused(extract(*angles), tmp_path, words)
    (tmp_path / "areas.txt").write_text("1 64 144 64 160\n")
    assert_refused(extract(*angles, "--areas", tmp_path / "areas.txt"), tmp_path, words)


def test_an_area_without_contrast_is_refused(extract, stack, tmp_path: Path):
    overwrite(stack, lambda data: data[0, 64:, 64:].fill(5))
    (tmp_path / "areas.txt").write_text("0 64 144 64 160\n")
    assert_refused(extract("--areas", tmp_path / "areas.txt"), tmp_path, "windows are constant; choose other")
