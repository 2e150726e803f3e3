"""Pictures show all rows and their areas, told apart by colour and by dashes; the page stands alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cryomend.benchmark import figures
from cryomend.benchmark.figures import draw_rows, write_page
from cryomend.evaluation import Area, Areas

FRONT = Area("s1", ((2, 6), (4, 14), (4, 14)))
BACK = Area("b1", ((2, 6), (4, 14), (18, 28)))
AREAS = Areas("x", (FRONT,), (BACK,))


def picture(path, areas, **how) -> np.ndarray:
    volumes = {name: np.zeros((8, 32, 32), np.float32) for name in ("one", "two")}
    draw_rows(path, volumes, areas=areas, title="t", voxel_size=10.0, **how)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def share(pixels, colour) -> int:
    return int((np.abs(pixels - np.array(colour)).sum(axis=2) < 30).sum())


def test_foreground_is_red_and_background_blue(tmp_path):
    with_areas, without = (picture(tmp_path / f"{bool(a)}.png", a) for a in (AREAS, None))
    red, blue = (215, 25, 28), (43, 108, 255)
    assert share(with_areas, red) > 200
    assert share(with_areas, blue) > 100
    assert share(without, red) == share(without, blue) == 0


def test_frames_differ_without_colour(tmp_path):
    """The dashes leave gaps: along its frame the background has fewer dark pixels than the foreground."""
    grey = picture(tmp_path / "a.png", AREAS)
    red = np.abs(grey - np.array((215, 25, 28))).sum(axis=2) < 60
    blue = np.abs(grey - np.array((43, 108, 255))).sum(axis=2) < 60
    assert red.sum() > 1.2 * blue.sum()


def test_areas_are_drawn_on_the_three_sections(tmp_path, monkeypatch):
    """Each frame on the axes of its section: x or z across, z or y up, thick where the section cuts it."""
    seen = {}

    def record(self, panel, section):
        axes = add(self, panel, section)
        seen.setdefault(section, axes)
        return axes

    add = figures._Sheet.add_axes
    monkeypatch.setattr(figures._Sheet, "add_axes", record)
    picture(tmp_path / "a.png", Areas("x", (Area("s1", ((2, 6), (4, 14), (10, 16))),), (BACK,)))
    expected = {"xz": (9.5, 1.5, 6, 4), "xy": (9.5, 3.5, 6, 10), "yz": (1.5, 3.5, 4, 10)}
    for section, (x, y, width, height) in expected.items():
        frame = seen[section].patches[1]  # over its white ground
        assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (x, y, width, height)
        assert frame.get_linewidth() == 1.3
    assert [seen[section].patches[3].get_linewidth() for section in ("xy", "xz", "yz")] == [1.3, 1.3, 0.6]


def test_names_are_drawn_as_they_are(tmp_path):
    volume = {"a$x^^$b": np.zeros((8, 32, 32), np.float32)}
    areas = Areas("x", (Area("$s^^$", FRONT.ranges),), (BACK,))
    draw_rows(tmp_path / "a.png", volume, areas=areas, title="$x^^$", voxel_size=10.0)
    assert (tmp_path / "a.png").is_file()


def test_xz_panels_are_flat(tmp_path):
    full, flat = (picture(tmp_path / f"{x}.png", AREAS, only_xz=x) for x in (False, True))
    assert flat.shape[1] == full.shape[1]
    assert flat.shape[0] < 0.6 * full.shape[0]
    assert share(flat, (215, 25, 28)) == 0


def test_the_page_holds_tables_and_pictures_itself(tmp_path):
    picture(tmp_path / "methods_a.png", AREAS)
    table = {"title": "t & u", "heads": ["methods", "SSIM"], "rows": [["a<b", "0.1"]], "notes": ["n"],
             "best": [[True]]}  # fmt: skip
    (tmp_path / "table_methods.json").write_text(json.dumps(table))
    page = write_page(tmp_path, ("methods", "noise")).read_text()
    assert "data:image/png;base64," in page
    assert "a&lt;b" in page and "t &amp; u" in page
    assert "class='best'>0.1" in page
    assert not any(word in page for word in ("http:", "https:", "src='methods", "<script", "<link"))


@pytest.mark.parametrize("missing", ["methods", "noise"])
def test_a_page_has_the_tables_that_stand(tmp_path, missing):
    for name in {"methods", "noise"} - {missing}:
        table = {"title": f"of {name}", "heads": [name, "SSIM"], "rows": [], "notes": [], "best": []}
        (tmp_path / f"table_{name}.json").write_text(json.dumps(table))
    page = write_page(tmp_path, ("methods", "noise")).read_text()
    there = "noise" if missing == "methods" else "methods"
    assert page.count(f"<h2>of {there}: {there}</h2>") == page.count("<h2>") == 1
