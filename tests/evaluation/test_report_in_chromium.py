"""The page in a real browser: headless Chromium over its debugging pipe, one at a time."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from cryomend.evaluation.report import write_restoration_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")

SHAPE = (24, 60, 80)  # Z, Y, X
LAUNCH = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 3); os.dup2(w, 4);"
    "os.execv(sys.argv[3], sys.argv[3:])"
)
VIEWS = ("xy", "xz", "yz")


class Chromium:
    """A browser with one page, driven by messages of the DevTools protocol that end in a zero byte."""

    def __init__(self, folder: str) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # numbers above those that the browser wants its ends to have
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        flags = "headless no-sandbox disable-gpu hide-scrollbars remote-debugging-pipe disable-dev-shm-usage"
        flags = [f"--{flag}" for flag in flags.split()] + [f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, ends), str(CHROMIUM), *flags, "about:blank"],
            pass_fds=ends, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self.reading, self.writing = ours_in, ours_out
        self.rest, self.count, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self, limit: float = 60.0) -> dict[str, Any]:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reading], [], [], limit)
            assert ready, "Chromium does not answer"
            piece = os.read(self.reading, 1 << 20)
            assert piece, "Chromium has ended"
            self.rest += piece
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str, limit: float = 30.0) -> None:
        end = time.monotonic() + limit
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def open(self, page: Path, place: str = "", *, size: tuple[int, int] = (1280, 800)) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1,
                  mobile=False)  # fmt: skip
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        self.events.clear()
        self.call("Page.navigate", url=f"file://{page}{place}")
        self.wait("document.readyState === 'complete'")

    def show(self, page: Path, place: str = "", **options: Any) -> None:
        self.open(page, place, **options)
        self.wait("document.querySelector('#browser[data-ready][data-drawn]')")
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked for has been drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def picture(self, selector: str | None = None) -> np.ndarray:
        """Grey levels of what is seen of an element, or of the whole page."""
        clip = {}
        if selector is not None:
            box = self.run(
                f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
                "return [b.x + scrollX, b.y + scrollY, b.width, b.height] })()"
            )
            clip = {"clip": {**dict(zip(("x", "y", "width", "height"), box, strict=True)), "scale": 1}}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **clip)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("L"), dtype=float)

    def press(self, key: str, times: int = 1) -> None:
        codes = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "PageUp": 33, "Tab": 9}
        code = codes.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 else {}
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                          **(text if kind == "keyDown" else {}))  # fmt: skip
        self.settle()

    def value(self, identity: str) -> int:
        return int(self.run(f"document.getElementById({identity!r}).value"))

    def close(self) -> None:
        self.session = ""
        try:
            self.call("Browser.close")
        finally:
            self.process.wait(30)
            os.close(self.reading)
            os.close(self.writing)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Chromium(folder)
        yield browser
        browser.close()


def smooth(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return gaussian_filter(noise, 1.5).astype(np.float32)


@pytest.fixture(scope="module")
def volumes() -> dict[str, np.ndarray]:
    sigma = np.full(SHAPE, 0.5, dtype=np.float32)
    sigma[:, :, 48:] = 1.5  # doubtful at the right
    return {"before": smooth(0), "after": smooth(1), "confidence": sigma}


@pytest.fixture(scope="module")
def page(volumes: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_restoration_report(
        path, **volumes, voxel_size=10.0, tilt_range=(-60.0, 60.0), provenance={"Device": "cpu"}
    )
    return path


PLAIN = "hatch=0&cross=0"


def expected(volume: np.ndarray, view: str, at: tuple[int, int, int]) -> np.ndarray:
    """The slice as it should look, made without the package: percentiles, and y or z upwards."""
    low, high = np.percentile(volume, [0.5, 99.5])
    margin = 0.05 * (high - low)
    grey = 255 * np.clip((volume - low + margin) / (high - low + 2 * margin), 0, 1)
    z, y, x = at
    return {"xy": grey[z], "xz": grey[:, y], "yz": grey[:, :, x].T}[view][::-1]


def seen(chromium: Chromium, view: str, like: np.ndarray) -> np.ndarray:
    """What the screen shows of a view, brought to one pixel a voxel."""
    shot = Image.fromarray(chromium.picture(f"#canvas-{view}").astype(np.uint8))
    return np.asarray(shot.resize(like.shape[::-1], Image.Resampling.BOX), dtype=float)


def difference(chromium: Chromium, volume: np.ndarray, view: str, at: tuple[int, int, int]) -> float:
    """Mean difference in grey levels, off the corners with the names and the scale bar."""
    wanted = expected(volume, view, at)
    rows = slice(len(wanted) // 4, 3 * len(wanted) // 4)
    return float(np.abs(seen(chromium, view, wanted) - wanted)[rows].mean())


@pytest.mark.parametrize("at", [(7, 11, 70), (23, 59, 0)])
def test_the_address_leads_to_the_slices_it_names(chromium, page, volumes, at):
    z, y, x = at
    chromium.show(page, f"#z={z}&y={y}&x={x}&wipe=0&{PLAIN}")
    for view in VIEWS:
        assert difference(chromium, volumes["after"], view, at) < 8
        assert difference(chromium, volumes["after"], view, (z // 2, y // 2, 40)) > 25


def test_the_wipe_shows_before_left_of_the_border_and_after_right_of_it(chromium, page, volumes):
    at = (12, 30, 40)
    before, after = (expected(volumes[name], "xy", at) for name in ("before", "after"))
    for share in (0, 30, 100):
        chromium.show(page, f"#wipe={share}&{PLAIN}")
        column = round(80 * share / 100)
        shown = seen(chromium, "xy", after)[15:45]
        wanted = np.hstack([before[15:45, :column], after[15:45, column:]])
        beside = np.abs(np.arange(80) - column) > 1  # but for the border itself
        assert np.abs(shown - wanted)[:, beside].mean() < 8
        labels = "['before', 'after'].map((n) => !document.querySelector(`.tag.${n}`).hidden)"
        assert chromium.run(labels) == [share > 0, share < 100]


def test_a_slider_is_moved_by_the_keyboard(chromium, page, volumes):
    chromium.show(page, f"#z=4&wipe=0&{PLAIN}")
    chromium.run("document.getElementById('slider-z').focus()")
    chromium.press("ArrowRight", 3)
    assert chromium.value("slider-z") == 7
    assert difference(chromium, volumes["after"], "xy", (7, 30, 40)) < 8
    assert "voxel 7 of 0 to 23, −50.0 Å" in chromium.run("document.getElementById('place-z').textContent")
    for key, value in (("End", 23), ("Home", 0)):
        chromium.press(key)
        assert chromium.value("slider-z") == value
        assert difference(chromium, volumes["after"], "xy", (value, 30, 40)) < 8
    chromium.press("PageUp")
    assert chromium.value("slider-z") > 1


def test_a_slider_is_moved_by_a_script_as_by_a_hand(chromium, page, volumes):
    chromium.show(page, f"#wipe=0&{PLAIN}")
    for name, value in (("z", 3), ("y", 50), ("x", 9)):
        chromium.run(
            f"(() => {{ const s = document.getElementById('slider-{name}'); s.value = {value};"
            "s.dispatchEvent(new Event('input', { bubbles: true })) })()"
        )
    chromium.settle()
    for view in VIEWS:
        assert difference(chromium, volumes["after"], view, (3, 50, 9)) < 8
    chromium.wait("location.hash.startsWith('#z=3&y=50&x=9&wipe=0')")


def test_letters_show_either_volume_alone(chromium, page, volumes):
    """From every control, that of the border too, which they must not take the focus from."""
    for control in ("cross", "wipe"):
        chromium.show(page, f"#{PLAIN}")
        chromium.run(f"document.getElementById('{control}').focus()")
        for key, name in (("b", "before"), ("a", "after")):
            chromium.press(key)
            assert chromium.run("document.activeElement.id") == control
            assert chromium.run(f"document.getElementById('show-{name}').checked")
            for view in VIEWS:
                assert difference(chromium, volumes[name], view, (12, 30, 40)) < 8
        chromium.press("w")
        assert chromium.run("document.getElementById('show-wipe').checked")


def test_moving_the_border_shows_both_volumes_again(chromium, page):
    chromium.show(page, "#wipe=40&show=before")
    said = "document.getElementById('place-wipe').textContent"
    assert chromium.run(said) == "before alone; move it to show both"
    chromium.run("document.getElementById('wipe').focus()")
    chromium.press("ArrowRight")
    assert chromium.run("document.getElementById('show-wipe').checked")
    assert not chromium.run("document.querySelector('#look-xy .border').hidden")
    assert chromium.run(said) == "41 % before at the left, 59 % after at the right"


def test_stripes_stand_on_what_is_doubtful_of_the_restored_volume_only(chromium, page):
    shots = []
    for hatch in (0, 1):
        chromium.show(page, f"#wipe=80&cross=0&hatch={hatch}")
        shots.append(chromium.picture("#canvas-xy"))
    changed = np.abs(shots[1] - shots[0]) > 20
    share = changed.shape[1] / 80
    assert not changed[:, : int(63.5 * share)].any()  # certain, or before restoration
    assert 0.2 < changed[:, int(64.5 * share) :].mean() < 0.6
    chromium.run("document.getElementById('hatch').focus()")
    chromium.press("h")
    np.testing.assert_array_equal(chromium.picture("#canvas-xy"), shots[0])


def test_a_click_moves_the_other_two_slices_and_the_cross_hair(chromium, page, volumes):
    chromium.show(page, "#wipe=0&hatch=0&cross=1")
    box = chromium.run(
        "(() => { document.getElementById('look-xy').scrollIntoView(); const b = document.getElementById("
        "'look-xy').getBoundingClientRect(); return [b.x, b.y, b.width, b.height] })()"
    )
    place = {"x": box[0] + box[2] * 20.5 / 80, "y": box[1] + box[3] * (1 - 10.5 / 60)}
    for kind in ("mousePressed", "mouseReleased"):
        chromium.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    chromium.settle()
    assert [chromium.value(f"slider-{axis}") for axis in "zyx"] == [12, 10, 20]
    left = chromium.run("parseFloat(document.querySelector('#look-xz .hair.along').style.left)")
    assert left == pytest.approx(100 * 20.5 / 80)
    chromium.run("document.getElementById('cross').click()")
    chromium.settle()
    assert difference(chromium, volumes["after"], "xz", (12, 10, 20)) < 8


def test_the_page_asks_for_nothing_and_complains_of_nothing(chromium, page):
    chromium.show(page)
    asked = [
        e["params"]["request"]["url"] for e in chromium.events if e["method"] == "Network.requestWillBeSent"
    ]
    outside = [url for url in asked if not url.startswith(("data:", "blob:")) and "report.html" not in url]
    assert outside == []
    troubles = [e for e in chromium.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert troubles == []


def test_nothing_from_elsewhere_would_be_let_in(chromium, page):
    chromium.show(page)
    assert chromium.run("fetch('data:text/plain,x').then(() => 'loaded', () => 'refused')") == "refused"


def test_without_scripts_the_central_slices_are_still_there(chromium, page, volumes):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(page)
        assert chromium.run("getComputedStyle(document.getElementById('browser')).display") == "none"
        assert "Browsing needs JavaScript" in chromium.run("document.body.innerText")
        wanted = expected(volumes["before"], "xy", (12, 30, 40))
        selector = "img[alt='Before restoration: central x-y section']"
        shot = Image.fromarray(chromium.picture(selector).astype(np.uint8))
        shown = np.asarray(shot.resize(wanted.shape[::-1], Image.Resampling.BOX), dtype=float)
        assert np.abs(shown - wanted)[15:45].mean() < 8
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("size", [(1280, 800), (375, 700)])
def test_the_page_fits_wide_and_narrow_screens(chromium, page, size):
    chromium.show(page, size=size)
    assert chromium.run("document.documentElement.scrollWidth") <= size[0]
    beside = (
        "[...document.querySelectorAll('input, canvas, svg, img, label')].filter((e) => "
        "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.id || e.tagName)"
    )
    assert chromium.run(beside) == []


@pytest.mark.parametrize("size", [(1280, 800), (375, 700)])
@pytest.mark.parametrize("shape", [(16, 16, 700), (16, 700, 16), (700, 16, 16)])
def test_slices_of_long_volumes_share_one_scale_and_fill_their_boxes(chromium, tmp_path, shape, size):
    """Clicks and cross-hairs go by the box; a voxel has one size in all three, and in the still sections."""
    path = tmp_path / "long.html"
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    write_restoration_report(
        path, before=volume, after=volume, voxel_size=10.0, tilt_range=None, provenance={}
    )
    chromium.show(path, size=size)
    boxes = "((e) => [e.width, e.height])(document.getElementById('{}-{}').getBoundingClientRect())"
    nz, ny, nx = shape
    scales = []
    for view, (columns, rows) in {"xy": (nx, ny), "xz": (nx, nz), "yz": (nz, ny)}.items():
        canvas, look = (chromium.run(boxes.format(kind, view)) for kind in ("canvas", "look"))
        assert look == pytest.approx(canvas, abs=0.1)
        scales += [canvas[0] / columns, canvas[1] / rows]
    assert scales == pytest.approx([scales[0]] * 6, rel=0.01)
    still = (
        "[...document.querySelectorAll('.pair img[alt*=central]')].flatMap((e) => [e.clientWidth, "
        "e.parentElement.clientWidth, e.clientHeight, e.parentElement.clientHeight])"
    )
    sides = np.array(chromium.run(still)).reshape(-1, 2)
    assert len(sides) == 12
    np.testing.assert_array_equal(*sides.T)
    assert chromium.run("document.documentElement.scrollWidth") <= size[0]


def test_tab_reaches_every_control_and_shows_where_it_is(chromium, page):
    chromium.show(page)
    wanted = ["slider-z", "slider-y", "slider-x", "show-wipe", "wipe", "cross", "hatch"]
    reached = []
    for _ in wanted:
        chromium.press("Tab")
        reached.append(chromium.run("document.activeElement.id"))
        assert chromium.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == wanted
