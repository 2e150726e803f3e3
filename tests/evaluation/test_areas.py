"""Areas files and published entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryomend.evaluation.areas import (
    Area,
    Areas,
    choose_areas,
    named_areas,
    read_areas,
    require_apart,
    require_inside,
    write_areas,
)
from cryomend.io import InputError

GOOD = """
name = "mine"
[foreground.s1]
z = [1, 3]
y = [0, 5]
x = [2, 9]
[background.b1]
z = [4, 6]
y = [0, 5]
x = [2, 9]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "areas.toml"
    path.write_text(text)
    return path


def test_an_areas_file_gives_half_open_boxes(tmp_path: Path) -> None:
    areas = read_areas(write(tmp_path, GOOD))
    assert areas.name == "mine"
    assert areas.foreground[0].region == (slice(1, 3), slice(0, 5), slice(2, 9))
    assert areas.background[0].name == "b1"


@pytest.mark.parametrize(
    ("name", "area", "ranges"),
    [
        ("empiar-10045", "s2", ((50, 60), (390, 430), (590, 630))),
        ("empiar-10499", "b3", ((190, 200), (800, 900), (800, 900))),
        ("empiar-10678", "s3", ((70, 75), (560, 610), (1450, 1500))),
        ("EMPIAR-10643", "b2", ((285, 295), (880, 930), (270, 320))),
    ],
)
def test_published_entries_hold_three_pairs_with_the_published_ranges(
    name: str, area: str, ranges: tuple[tuple[int, int], ...]
) -> None:
    areas = named_areas(name)
    assert areas.name == name.upper()
    assert len(areas.foreground) == len(areas.background) == 3
    by_name = {a.name: a.ranges for a in (*areas.foreground, *areas.background)}
    assert by_name[area] == ranges


def test_an_unknown_entry_is_refused_with_the_list_of_those_there_are() -> None:
    with pytest.raises(InputError, match="empiar-10045, empiar-10499, empiar-10643, empiar-10678"):
        named_areas("empiar-1")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("z = [1, 3]", "z = [3, 3]", r"s1 has an empty or reversed range z = \[3, 3\]"),
        ("z = [1, 3]", "z = [3, 1]", r"s1 has an empty or reversed range z = \[3, 1\]"),
        ("z = [1, 3]", "z = [-2, 1]", "s1 has an empty or reversed range"),
        ("z = [1, 3]", "z = [1.0, 3]", "s1 needs z"),
        ("z = [1, 3]", "z = [1]", "s1 needs z"),
        ("z = [1, 3]", "", "s1 needs the ranges z, y and x"),
        ("foreground.s1", "front.s1", "unknown key 'front'"),
        ("foreground.s1", "background.b2", "no foreground area"),
        ("background.b1", "foreground.s2", "no background area"),
        (
            'name = "mine"',
            "[foreground.s0]\nz = [1, 2]\ny = [1, 2]\nx = [1, 2]",
            "2 foreground and 1 background",
        ),
    ],
)
def test_a_wrong_areas_file_is_refused_with_its_name_and_what_is_wrong(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read_areas(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_areas_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        read_areas(tmp_path / "nowhere.toml")


def test_areas_that_end_at_the_faces_are_inside_and_one_voxel_more_is_not(tmp_path: Path) -> None:
    areas = read_areas(write(tmp_path, GOOD))
    require_inside(areas, (6, 5, 9))
    with pytest.raises(ValueError, match="b1 of mine asks for z 4 to 6, but the volume has 5 voxels along z"):
        require_inside(areas, (5, 5, 9))


def test_areas_come_from_a_file_or_an_entry_but_not_both(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert choose_areas(None, None) is None
    assert choose_areas(path, None) == read_areas(path)
    assert choose_areas(None, "empiar-10045") == named_areas("empiar-10045")
    with pytest.raises(InputError, match="not both"):
        choose_areas(path, "empiar-10045")


PUBLISHED = {
    "empiar-10045": """50-60 50-60 50-60 50-60 50-60 50-60
        400-440 390-430 830-870 800-840 460-500 480-520
        400-430 590-630 270-300 330-370 280-320 620-660""",
    "empiar-10499": """190-200 190-200 190-200 190-200 190-200 190-200
        420-520 110-210 580-680 50-150 400-500 800-900
        460-560 550-650 560-660 120-220 30-130 800-900""",
    "empiar-10678": """70-75 70-75 70-75 130-135 130-135 130-135
        1040-1090 920-970 560-610 1040-1090 920-970 560-610
        1400-1450 1360-1410 1450-1500 1400-1450 1360-1410 1450-1500""",
    "empiar-10643": """285-295 285-295 285-295 285-295 285-295 285-295
        710-760 670-720 730-780 400-450 880-930 500-550
        430-450 170-200 750-800 750-800 270-320 180-230""",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_entries_are_the_published_table_and_lie_apart(name: str) -> None:
    areas = named_areas(name)
    z, y, x = ([tuple(map(int, r.split("-"))) for r in row.split()] for row in PUBLISHED[name].splitlines())
    found = [*areas.foreground, *areas.background]
    assert [a.name for a in found] == ["s1", "s2", "s3", "b1", "b2", "b3"]
    assert [a.ranges for a in found] == list(zip(z, y, x, strict=True))
    require_apart(areas)


@pytest.mark.parametrize("kind", ["foreground.s2", "background.b2"])
def test_areas_that_share_a_voxel_are_refused_with_both_names_and_ranges(tmp_path: Path, kind: str) -> None:
    corner = f"[{kind}]\nz = [2, 4]\ny = [4, 6]\nx = [8, 10]\n"  # shares voxel (2, 4, 8) with s1
    other = "[{}.far]\nz = [8, 9]\ny = [0, 5]\nx = [2, 9]\n".format(
        "background" if kind.startswith("fore") else "foreground"
    )
    path = write(tmp_path, GOOD + corner + other)
    with pytest.raises(InputError, match=r"areas s1 .* and \w2 .* of mine overlap") as error:
        read_areas(path)
    for words in (str(path), "s1 (z 1-3, y 0-5, x 2-9)", f"{kind.split('.')[1]} (z 2-4, y 4-6, x 8-10)"):
        assert words in str(error.value)


def test_areas_that_only_touch_do_not_overlap() -> None:
    one, two = (Area(n, ((0, 2), (0, 2), x)) for n, x in (("a", (0, 2)), ("b", (2, 4))))
    require_apart(Areas("mine", (one,), (two,)))
    assert not one.overlaps(two)
    assert one.overlaps(one)


def test_written_areas_are_read_back_whatever_their_names(tmp_path: Path) -> None:
    boxes = [Area(n, ((i, i + 1), (0, 5), (2, 9))) for i, n in enumerate(['a "b"', "s1", "Vesikel ä", "x.y"])]
    areas = Areas("TS 01 [µ]", tuple(boxes[:2]), tuple(boxes[2:]))
    write_areas(tmp_path / "out.toml", areas, comment="made by hand")
    assert read_areas(tmp_path / "out.toml") == areas
