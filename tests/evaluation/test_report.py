"""The HTML page and its command."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.evaluation.evaluate import evaluate_volume
from cryomend.evaluation.report import SLICES_BUDGET, report_files, write_restoration_report
from cryomend.evaluation.verdict import Check
from cryomend.io import InputError, write_volume

VOID = {"img", "meta", "line", "input"}


class Page(HTMLParser):
    """What the tests look at: the images, the text, the lines, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.lines: list[dict[str, str | None]] = []
        self.inputs: list[dict[str, str | None]] = []
        self.labels: list[str | None] = []
        self.identities: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "line":
            self.lines.append(dict(attrs))
        if tag == "input":
            self.inputs.append(dict(attrs))
        if tag == "label":
            self.labels.append(dict(attrs)["for"])
        self.identities += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data


def volumes(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    before = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return before, before / 2


def write(tmp_path: Path, shape: tuple[int, int, int] = (16, 30, 40), **options: object) -> str:
    before, after = volumes(shape)
    arguments = {"voxel_size": 10.0, "tilt_range": (-60.0, 50.0), "provenance": {"Device": "cpu"}, **options}
    path = tmp_path / "report.html"
    write_restoration_report(path, before=before, after=after, **arguments)  # type: ignore[arg-type]
    return path.read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_closes_what_it_opens(tmp_path: Path) -> None:
    text = write(tmp_path, average_along_y=True)
    page = Page(text)
    assert page.open == []
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.images)
    own = text.replace(page.scripts[0], "")  # but for the slices, whose letters may spell anything
    own = re.sub(r"base64,[A-Za-z0-9+/=]+", "", own)
    assert not re.search(
        r"(href=|https?:|url\(|@import|src=\"(?!data:)|fetch\(|XMLHttpRequest|import\()", own
    )


def test_only_the_script_of_the_page_may_run_and_nothing_may_be_fetched(tmp_path: Path) -> None:
    text = write(tmp_path)
    policy = re.search(r'content="(default-src [^"]*)"', text.replace("\n", " "))
    assert policy
    slices, script = Page(text).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    assert policy[1].startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "unsafe-eval" not in policy[1] and "connect-src" not in policy[1]
    assert set(json.loads(slices)) >= {"shape", "bins", "before", "after"}


def test_every_control_has_a_label_and_every_name_is_used_once(tmp_path: Path) -> None:
    page = Page(write(tmp_path, confidence=np.ones((16, 30, 40))))
    assert {i["type"] for i in page.inputs} == {"range", "radio", "checkbox"}
    assert sorted(str(i["id"]) for i in page.inputs) == sorted(map(str, page.labels))
    assert len(page.identities) == len(set(page.identities))
    wanted = {i["id"]: (i["min"], i["max"], i["step"]) for i in page.inputs if i["type"] == "range"}
    assert wanted == {
        "slider-z": ("0", "15", "1"), "slider-y": ("0", "29", "1"), "slider-x": ("0", "39", "1"),
        "wipe": ("0", "100", "1"),
    }  # fmt: skip


def test_the_page_says_how_its_slices_were_binned(tmp_path: Path) -> None:
    assert "All 16 x-y, 30 x-z and 40 y-z slices, one voxel thick" in Page(write(tmp_path)).text
    text = write(tmp_path, (16, 30, 41), slices_budget=4000)
    found = re.search(r"the mean of (\d+) × (\d+) × (\d+) voxels", Page(text).text)
    assert found
    bx, by, bz = map(int, found.groups())
    data = json.loads(Page(text).scripts[0])
    assert data["bins"] == [bz, by, bx] != [1, 1, 1]
    assert data["shape"] == [16 // bz, 30 // by, 41 // bx]
    assert f"The last {41 % bx}, {30 % by} and {16 % bz} voxels of x, y and z" in Page(text).text
    sliders = {i["id"]: i.get("step") for i in Page(text).inputs}
    assert sliders["slider-x"] == str(bx)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_its_ground_in_light_in_darkness_and_on_paper(tmp_path: Path) -> None:
    schemes = re.findall(r":root\{([^}]*--ground[^}]*)\}", write(tmp_path))
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+):(#\w+)", scheme))
        for text in ("ink", "soft", "accent"):
            for ground in ("paper", "ground"):
                bright, dark = sorted((luminance(colours[text]), luminance(colours[ground])))[::-1]
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, ground, scheme)


def test_a_restored_volume_can_be_shown_alone(tmp_path: Path) -> None:
    _, after = volumes((16, 30, 40))
    path = tmp_path / "alone.html"
    write_restoration_report(
        path, before=None, after=after, voxel_size=10.0, tilt_range=None, provenance={}, average_along_y=True
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert "wipe" not in page.identities
    assert not any("Before" in (image["alt"] or "") for image in page.images)
    assert json.loads(page.scripts[0])["before"] is None


def scores_of(volume: np.ndarray, truth: np.ndarray) -> dict:
    a, b = torch.from_numpy(volume), torch.from_numpy(truth)
    return evaluate_volume(a, truth=b, tilt_range=(-60.0, 60.0), voxel_size=10.0)


def test_curves_and_scores_against_a_truth_are_shown_for_both_volumes(tmp_path: Path) -> None:
    truth, noise = volumes((16, 16, 16))[0], np.random.default_rng(1).standard_normal((16, 16, 16))
    near = (truth + 0.3 * noise).astype(np.float32)
    scores = {"Before": scores_of(truth + near, truth), "After": scores_of(near, truth)}
    text = write(tmp_path, (16, 16, 16), scores=scores)
    page = Page(text)
    assert page.open == []
    assert text.count('<svg class="curves"') == 2
    assert text.count("Fourier shell correlation, after restoration, with the truth") == 1
    for words in ("missing wedge", "measured region", "PSNR (dB)", "FSC 0.143 at (Å)"):
        assert words in page.text
    assert 'class="curves"' not in write(tmp_path)


def test_a_volume_that_was_scored_against_the_other_half_has_its_curve(tmp_path: Path) -> None:
    scores = {"After": {"halves": scores_of(*volumes((16, 16, 16)))["truth"]}}
    text = write(tmp_path, (16, 16, 16), scores=scores)
    assert text.count('<svg class="curves"') == 1
    assert "Against the other half" in Page(text).text


def test_every_picture_has_a_text_for_those_who_cannot_see_it(tmp_path: Path) -> None:
    alternatives = [image["alt"] for image in Page(write(tmp_path, average_along_y=True)).images]
    assert all(alternatives)
    for state in ("Before", "After"):
        for what in ("x-y section", "x-z section", "y-z section", "averaged", "Fourier amplitude"):
            assert any(state in alt and what in alt for alt in alternatives if alt)


def test_the_wedge_is_drawn_along_the_extreme_tilts(tmp_path: Path) -> None:
    lines = Page(write(tmp_path)).lines
    tangents = set()
    for line in lines:
        x1, y1, x2, y2 = (float(line[k] or "nan") for k in ("x1", "y1", "x2", "y2"))
        assert (x1 + x2) / 2 == pytest.approx(50, abs=0.01)  # through the origin of Fourier space
        assert (y1 + y2) / 2 == pytest.approx(50, abs=0.01)
        tangents.add(round((y1 - y2) / (x2 - x1), 2))  # rows of a picture count downwards
    assert tangents == {-1.73, 1.19}


def test_the_page_says_what_was_not_measured(tmp_path: Path) -> None:
    text = " ".join(Page(write(tmp_path)).text.split())
    assert "was inferred by the network" in text
    assert "not measured" in text
    assert "−60° to +50°: 39% of Fourier space" in text


def test_without_a_tilt_range_no_wedge_is_drawn_and_the_page_says_so(tmp_path: Path) -> None:
    page = Page(write(tmp_path, tilt_range=None))
    assert not page.lines
    assert "The tilt range was not given" in page.text


def test_provenance_is_shown_in_order_and_escaped(tmp_path: Path) -> None:
    text = write(tmp_path, provenance={"Model": "a<b>&c", "Time": "3 s"})
    assert "a&lt;b&gt;&amp;c" in text
    assert text.index("Model") < text.index("3 s")


def test_checks_are_listed_with_a_word_and_a_number(tmp_path: Path) -> None:
    checks = [Check("noise", "doubtful", 0.6, "energy <left>"), Check("halves", "bad", -0.25, "change")]
    text = write(tmp_path, checks=checks)
    page = Page(text)
    assert page.open == []
    assert all(word in page.text for word in ("noise", "doubtful", "0.60", "halves", "bad", "−0.25"))
    assert "energy &lt;left&gt;" in text
    assert "Checks on the data" not in Page(write(tmp_path)).text


def test_what_is_doubtful_is_hatched_on_the_restored_sections_only(tmp_path: Path) -> None:
    confidence = np.full((16, 30, 40), 0.5, dtype=np.float32)
    confidence[:, :15] = 2.0
    page = Page(write(tmp_path, confidence=confidence))
    hatched = [image for image in page.images if image.get("class") == "hatch"]
    assert len(hatched) == 2  # the x-z section is that of y = 15, where nothing is doubtful
    assert all("hatched where" in (image["alt"] or "") for image in hatched)
    assert "Hatched: 50.0% of all voxels" in page.text
    assert "sigma above 1" in page.text


def test_confidence_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the confidence"):
        write(tmp_path, confidence=np.ones((16, 30, 41)))


@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 200, 20), (40, 17, 90)])
def test_thin_and_odd_volumes_make_a_page(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    # three sections, the average, and the Fourier plane with its colours, each before and after
    assert len(Page(write(tmp_path, shape, average_along_y=True)).images) == 12


def test_columns_of_slices_may_become_as_narrow_as_their_scale_asks(tmp_path: Path) -> None:
    """A plain ``fr`` is never narrower than what stands in it, a label that does not wrap."""
    text = write(tmp_path, (16, 16, 300))
    assert (
        re.findall(r"grid-template-columns:([^;]*);max-width", text) == ["minmax(0,300fr) minmax(0,16fr)"] * 3
    )


def test_beside_its_slices_the_page_of_a_wide_noisy_volume_needs_less_than_three_megabytes(
    tmp_path: Path,
) -> None:
    # noise compresses worst; with the 11 million characters that slices may have the page stays below 15 MB
    assert SLICES_BUDGET <= 11e6
    assert len(write(tmp_path, (16, 1280, 1280), slices_budget=100_000)) < 3.1e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voxel_size": 0.0}, "voxel size must be positive"),
        ({"tilt_range": (60.0, -60.0)}, "tilt_min < tilt_max"),
    ],
)
def test_wrong_geometry_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_volumes_of_different_shape_are_refused(tmp_path: Path) -> None:
    before, _ = volumes((16, 16, 16))
    with pytest.raises(ValueError, match="shapes differ"):
        write_restoration_report(
            tmp_path / "r.html",
            before=before,
            after=before[:, :, 1:],
            voxel_size=10.0,
            tilt_range=None,
            provenance={},
        )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    before, after = volumes((16, 30, 40))
    paths = tmp_path / "restored.mrc", tmp_path / "raw.mrc"
    write_volume(paths[0], after, voxel_size=10.0, label="restored by a test")
    write_volume(paths[1], before, voxel_size=10.0)
    return paths


def test_report_needs_only_two_files_and_an_output(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path]
) -> None:
    out = tmp_path / "page.html"
    result = run_cli("report", files[0], "--raw", files[1], "-o", out)
    assert result.code == 0, result.err
    assert "restored by a test" in out.read_text(encoding="utf-8")


def test_report_draws_the_wedge_and_the_average_when_asked(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path]
) -> None:
    out = tmp_path / "page.html"
    options = ["--tilt-range", "-60", "60", "--average-along-y", "-o", out]
    assert run_cli("report", files[0], "--raw", files[1], *options).code == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert page.lines
    assert len(page.images) == 12


def test_report_of_different_shapes_ends_in_one_line_and_code_two(
    run_cli: Callable, tmp_path: Path, files: tuple[Path, Path]
) -> None:
    write_volume(files[1], np.random.default_rng(0).random((16, 30, 41)), voxel_size=10.0)
    result = run_cli("report", files[0], "--raw", files[1], "-o", tmp_path / "page.html")
    assert result.code == 2
    assert "(16, 30, 40)" in result.err
    assert "(16, 30, 41)" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("page*"))


def test_report_refuses_a_tilt_range_before_reading_anything(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tilt-range needs"):
        report_files(tmp_path / "a.mrc", tmp_path / "b.mrc", tmp_path / "c.html", tilt_range=(10.0, 10.0))
