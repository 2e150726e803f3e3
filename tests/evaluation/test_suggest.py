"""Proposed areas: on structure and off it, apart, inside, and drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter

from cryomend.evaluation import draw_areas, read_areas, suggest_areas
from cryomend.evaluation.areas import Area, Areas, require_apart, require_inside
from cryomend.io import InputError, write_volume

SHAPE = (32, 80, 96)
BLOBS = ((15, 20, 25), (16, 60, 30), (15, 35, 70))
REACH = 9  # voxels of a blob from its middle


def tomogram(
    *, noise: float = 1.0, gold: tuple[int, int, int] | None = None, offset: float = 0.0
) -> np.ndarray:
    """Dark granular blobs in noise: structure of middle frequencies."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    grains = gaussian_filter(rng.standard_normal(SHAPE), 2.0)
    volume = noise * rng.standard_normal(SHAPE)
    for blob in BLOBS:
        inside = np.linalg.norm(grid - np.array(blob), axis=-1) < REACH
        volume -= inside * (1 + 1.5 * grains / grains.std())
    if gold is not None:
        volume[np.linalg.norm(grid - np.array(gold), axis=-1) < 3] -= 60
    return (volume + offset).astype(np.float32)


def distance_to_blobs(area: Area) -> float:
    """Voxels in y and x from the middle of an area to the nearest middle of a blob."""
    middle = np.array([(a + b) / 2 for a, b in area.ranges[1:]])
    return min(float(np.linalg.norm(middle - np.array(blob[1:]))) for blob in BLOBS)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("offset", [0.0, 30000.0])
def test_foreground_areas_lie_on_structure_and_background_areas_off_it(sign: int, offset: float) -> None:
    areas, ratio = suggest_areas(sign * tomogram(offset=offset), size=(6, 9, 9))
    assert all(distance_to_blobs(a) < REACH for a in areas.foreground)
    assert all(distance_to_blobs(a) > REACH + 4 for a in areas.background)
    assert ratio > 3


def test_areas_are_inside_off_the_faces_apart_between_the_same_planes_and_as_large_as_asked() -> None:
    areas, _ = suggest_areas(tomogram(), count=4, size=(6, 9, 11), name="mine")
    require_inside(areas, SHAPE)
    require_apart(areas)
    everything = (*areas.foreground, *areas.background)
    assert [a.name for a in everything] == ["s1", "s2", "s3", "s4", "b1", "b2", "b3", "b4"]
    assert len({a.ranges[0] for a in everything}) == 1
    for area in everything:
        assert tuple(b - a for a, b in area.ranges) == (6, 9, 11)
        assert all(a >= n // 16 and b <= n - n // 16 for (a, b), n in zip(area.ranges, SHAPE, strict=True))
    assert areas.name == "mine"


def test_large_boxes_are_found_on_coarser_voxels_and_stay_inside() -> None:
    areas, ratio = suggest_areas(tomogram(), count=2, size=(11, 16, 17))  # looked for on cubes of 2 voxels
    require_inside(areas, SHAPE)
    require_apart(areas)
    assert all(distance_to_blobs(a) < REACH for a in areas.foreground)
    assert ratio > 3


def test_the_default_size_follows_the_volume() -> None:
    areas, _ = suggest_areas(tomogram())
    assert tuple(b - a for a, b in areas.foreground[0].ranges) == (4, 8, 9)


def test_gold_is_neither_structure_nor_background() -> None:
    gold = (15, 60, 75)
    plain, _ = suggest_areas(tomogram(), size=(6, 9, 9))
    areas, _ = suggest_areas(tomogram(gold=gold), size=(6, 9, 9))
    for area in (*areas.foreground, *areas.background):
        (y, y_end), (x, x_end) = area.ranges[1:]
        assert not (y - 3 < gold[1] < y_end + 3 and x - 3 < gold[2] < x_end + 3)
    assert all(distance_to_blobs(a) < REACH for a in areas.foreground)
    assert len(plain.foreground) == 3


def test_what_was_filled_in_is_no_background() -> None:
    volume = tomogram()
    volume[:, :, :18] = volume.mean()
    volume[:, :12] = volume.mean()
    areas, _ = suggest_areas(volume, size=(6, 9, 9))
    assert all(a.ranges[2][0] >= 14 and a.ranges[1][0] >= 8 for a in areas.background)


def test_noise_alone_has_nothing_to_tell_apart() -> None:
    sizes = {"size": (8, 20, 20), "count": 2}  # smaller boxes differ by chance
    _, ratio = suggest_areas(np.random.default_rng(0).standard_normal(SHAPE), **sizes)
    assert ratio < 2.5
    assert suggest_areas(tomogram(), **sizes)[1] > 4 * ratio


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (3, (40, 9, 9), "boxes of 40 x 9 x 9 voxels do not fit into 32 x 80 x 96"),
        (3, (0, 9, 9), "do not fit"),
        (50, (6, 20, 20), "only .* boxes of 6 x 20 x 20 voxels find a place"),
    ],
)
def test_boxes_that_find_no_place_are_refused(count: int, size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suggest_areas(tomogram(), count=count, size=size)


def test_foreground_is_drawn_red_and_background_blue(tmp_path: Path) -> None:
    boxes = [Area(name, ((4, 8), (y, y + 20), (10, 40))) for name, y in (("s1", 10), ("b1", 50))]
    draw_areas(tmp_path / "areas.png", {"raw": tomogram()}, Areas("a", (boxes[0],), (boxes[1],)))
    with Image.open(tmp_path / "areas.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red, blue = ((pixels[..., c] > 200) & (pixels.sum(-1) < 280) for c in (0, 2))
    assert red.sum() > 500
    assert blue.sum() > 300  # dashed
    assert np.argwhere(red)[:, 0].mean() > np.argwhere(blue)[:, 0].mean()  # y points upwards


def drawn(monkeypatch: pytest.MonkeyPatch, path: Path, areas: Areas) -> Axes:
    """Axes of the picture, before it becomes pixels."""
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, name, **how: (kept.append(figure), name.touch()))
    draw_areas(path, {"raw": tomogram()}, areas)
    return kept[0].axes[0]


def test_areas_of_other_planes_are_thin_keep_their_dashes_and_name_the_planes_that_they_hold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    near, far, flat = (((first, last), (10, 30), (10, 40)) for first, last in ((4, 8), (8, 20), (3, 4)))
    foreground = (Area("s1", near), Area("s2", far))
    axes = drawn(
        monkeypatch, tmp_path / "a.png", Areas("a", foreground, (Area("b1", flat), Area("b2", near)))
    )
    frames = axes.patches[1::2]  # each over its white ground
    assert [frame.get_linestyle() for frame in frames] == ["-", "-", "--", "--"]
    widths = [frame.get_linewidth() for frame in frames]
    assert widths[0] == widths[3] > 1.5 * widths[1] == 1.5 * widths[2]
    assert [text.get_text() for text in axes.texts] == ["s1", "s2, z 8-19", "b1, z 3", "b2"]


@pytest.mark.parametrize("name", ["raw$x^^$", "日本", "a\udcff$"])
def test_any_name_of_a_file_is_drawn_as_it_is(run_cli: Callable, tmp_path: Path, name: str) -> None:
    """Neither a formula nor, where the font lacks a letter, more than a box for it."""
    raw, areas, picture = tmp_path / f"{name}.mrc", tmp_path / "areas.toml", tmp_path / "areas.png"
    write_volume(tmp_path / "plain.mrc", tomogram(), voxel_size=10.0)
    try:
        (tmp_path / "plain.mrc").rename(raw)
    except OSError:
        pytest.skip("this file system has no such names")
    result = run_cli("areas", "suggest", raw, "-o", areas, "--picture", picture)
    assert result.code == 0, result.err
    assert len(result.err.strip().splitlines()) == 3
    assert read_areas(areas).name == name.replace("\udcff", "?")
    assert picture.exists()


def test_names_of_areas_are_drawn_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    box = ((4, 8), (10, 30), (10, 40))
    draw_areas(tmp_path / "a.png", {"$x^^$": tomogram()}, Areas("$^^$", (Area("$_$", box),), ()))
    axes = drawn(monkeypatch, tmp_path / "b.png", Areas("$^^$", (Area("$_$", box),), ()))
    assert not any(text.get_parse_math() for text in (axes.title, *axes.texts))


def test_a_picture_that_cannot_be_drawn_leaves_no_areas(
    run_cli: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object, **how: object) -> None:
        raise InputError("no picture")

    monkeypatch.setattr("cryomend.evaluation.suggest.draw_areas", refuse)
    write_volume(tmp_path / "raw.mrc", tomogram(), voxel_size=10.0)
    out = ("-o", tmp_path / "areas.toml", "--picture", tmp_path / "areas.png")
    result = run_cli("areas", "suggest", tmp_path / "raw.mrc", *out)
    assert result.code == 2 and "no picture" in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["raw.mrc"]


def test_the_command_writes_areas_that_evaluate_takes_and_a_picture(
    run_cli: Callable, tmp_path: Path
) -> None:
    raw, restored = tmp_path / "TS.1.mrc", tmp_path / "restored.mrc"
    write_volume(raw, tomogram(), voxel_size=10.0)
    write_volume(restored, tomogram(noise=0.2), voxel_size=10.0)
    areas, picture, scores = (tmp_path / name for name in ("areas.toml", "areas.png", "scores.json"))
    result = run_cli("areas", "suggest", raw, "-o", areas, "-n", 2, "--size", 6, 9, 9,
                     "--restored", restored, "--picture", picture)  # fmt: skip
    assert result.code == 0, result.err
    assert "a proposal; look at it" in result.err
    assert len(read_areas(areas).foreground) == 2
    assert read_areas(areas).name == "TS.1"
    with Image.open(picture) as image:
        assert image.width > 1000  # two pictures side by side
    assert run_cli("evaluate", restored, "--areas", areas, "--json", scores).code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "40", "9", "9"], "raw.mrc: 3 and 3 boxes of 40 x 9 x 9 voxels do not fit"),
        (["--restored", "raw.mrc"], "--restored raw.mrc is only drawn, not chosen on; give --picture"),
        (["--restored", "other.mrc", "--picture", "p.png"], "other.mrc has (16, 80, 96)"),
        (["--picture", "nowhere/p.png"], "nowhere is not a directory"),
    ],
)
def test_what_cannot_be_suggested_ends_in_one_line_and_leaves_nothing(
    run_cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume(tmp_path / "raw.mrc", tomogram(), voxel_size=10.0)
    write_volume(tmp_path / "other.mrc", tomogram()[:16], voxel_size=10.0)
    result = run_cli("areas", "suggest", "raw.mrc", "-o", "areas.toml", *options)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.mrc", "raw.mrc"]


def test_suggested_areas_never_replace_what_was_read_nor_each_other(
    run_cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume("raw.mrc", tomogram(), voxel_size=10.0)
    before = Path("raw.mrc").read_bytes()
    for given in (["-o", "raw.mrc"], ["-o", "a.toml", "--picture", "raw.mrc"]):
        result = run_cli("areas", "suggest", "raw.mrc", *given)
        assert result.code == 2
        assert "would overwrite the input raw.mrc" in result.err
    assert run_cli("areas", "suggest", "raw.mrc", "-o", "a.toml", "--picture", "a.toml").code == 2
    assert Path("raw.mrc").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["raw.mrc"]
