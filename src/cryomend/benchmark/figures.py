"""Pictures of a benchmark: sections of all rows side by side, and everything in one page."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cryomend.evaluation import Area, Areas
from cryomend.io import atomic_path, write_text

__all__ = ["draw_rows", "write_page"]

Volume = NDArray[np.float32]
_COLOURS = {"foreground": ("#d7191c", "solid"), "background": ("#2b6cff", "dashed")}
_SECTION_AXES = {"xz": (2, 0, 1), "xy": (2, 1, 0), "yz": (0, 1, 2)}  # across, up, through; of Z, Y, X
_ACROSS = 5  # panels in a line at most
_WIDTH = 2.9  # of a panel, inches, as all these
_GAP, _LINE, _MARGIN, _TITLE = 0.2, 0.04, 0.2, 0.25


def draw_rows(
    path: Path,
    volumes: dict[str, Volume],
    *,
    areas: Areas | None,
    title: str,
    voxel_size: float,
    only_xz: bool = False,
) -> None:
    """Draw an x-y section of every volume with its x-z section above and its y-z section at the right.

    The sections go through the middle of the first foreground area; areas are drawn on them: foreground red
    and solid, background blue and dashed, thin where they lie in other planes.

    Parameters
    ----------
    path : Path
        PNG to write.
    volumes : dict of array, shape (Z, Y, X)
        By label, protein dark; each in its own grey levels, from the 0.5th to the 99.5th percentile of what
        is shown.
    areas : Areas or None
        To be drawn.
    title : str
        Above all.
    voxel_size : float
        Å, for the scale bar.
    only_xz : bool
        Draw the x-z sections alone.
    """
    shape = next(iter(volumes.values())).shape
    planes = _planes(areas, shape)
    sheet = _Sheet(shape, len(volumes), only_xz)
    sheet.figure.suptitle(
        title, fontsize=11, y=1 - 0.12 / sheet.figure.get_figheight(), va="top", parse_math=False
    )
    for i, (label, volume) in enumerate(volumes.items()):
        z, y, x = planes
        sections = (
            {"xz": volume[:, y]}
            if only_xz
            else {"xz": volume[:, y], "xy": volume[z], "yz": volume[:, :, x].T}
        )
        limits = _limits(*sections.values())
        axes = {name: sheet.add_axes(i, name) for name in sections}
        for name, section in sections.items():
            _show(axes[name], section, limits)
        axes["xz"].set_title(label, fontsize=9, pad=3, parse_math=False)
        if areas is not None and not only_xz:
            for name in sections:
                _draw_areas(axes[name], areas, name, planes)
        if i == 0:
            _scale_bar(axes["xz" if only_xz else "xy"], shape[2], voxel_size)
    with atomic_path(path) as partial:
        sheet.figure.savefig(partial, format="png")


class _Sheet:
    """A figure whose sections all have the same scale, in panels side by side; lengths in inches."""

    def __init__(self, shape: Sequence[int], panels: int, only_xz: bool) -> None:
        self.shape, self.only_xz = shape, only_xz
        nz, ny, nx = shape
        down = math.ceil(panels / _ACROSS)
        self.across = math.ceil(panels / down)  # lines of equal length
        self.scale = (_WIDTH - _GAP) / (nx if only_xz else nx + nz)
        self.panel_height = self.scale * (nz if only_xz else nz + ny) + _GAP + _TITLE
        height = self.panel_height * down + _MARGIN
        self.figure = Figure(figsize=(_WIDTH * self.across + _MARGIN, height + _TITLE), dpi=130)
        FigureCanvasAgg(self.figure)

    def add_axes(self, panel: int, section: str) -> Axes:
        """Axes of a section of a panel: ``xz`` above ``xy``, ``yz`` at its right."""
        nz, ny, nx = (n * self.scale for n in self.shape)
        row, column = divmod(panel, self.across)
        width, height = {"xz": (nx, nz), "xy": (nx, ny), "yz": (nz, ny)}[section]
        left = _MARGIN / 2 + column * _WIDTH + (nx + _LINE if section == "yz" else 0)
        full = self.figure.get_figwidth(), self.figure.get_figheight()
        top = full[1] - 2 * _TITLE - row * self.panel_height - (0 if section == "xz" else nz + _LINE)
        return self.figure.add_axes(
            (left / full[0], (top - height) / full[1], width / full[0], height / full[1])
        )


def _planes(areas: Areas | None, shape: Sequence[int]) -> tuple[int, int, int]:
    """Where the sections go through: (z, y, x)."""
    if areas is None:
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    z, y, x = ((start + stop) // 2 for start, stop in areas.foreground[0].ranges)
    return z, y, x


def _limits(*pictures: Volume) -> tuple[float, float]:
    values = np.concatenate([picture.ravel() for picture in pictures])
    low, high = np.percentile(values, [0.5, 99.5])
    return float(low), float(high) if high > low else float(low) + 1


def _show(axes: Axes, picture: Volume, limits: tuple[float, float]) -> None:
    axes.imshow(
        picture, cmap="gray", vmin=limits[0], vmax=limits[1], origin="lower", aspect="equal",
        interpolation="nearest",
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_areas(axes: Axes, areas: Areas, section: str, planes: tuple[int, int, int]) -> None:
    for kind in ("foreground", "background"):
        for area in getattr(areas, kind):
            _draw_area(axes, area, kind, section, planes)


def _draw_area(axes: Axes, area: Area, kind: str, section: str, planes: tuple[int, int, int]) -> None:
    """A frame, with its name where it is cut or seen from above; colour and dashes both tell its kind."""
    across, up, through = _SECTION_AXES[section]
    (u0, u1), (v0, v1) = area.ranges[across], area.ranges[up]
    colour, style = _COLOURS[kind]
    start, stop = area.ranges[through]
    is_cut = start <= planes[through] < stop
    width = 1.3 if is_cut else 0.6
    corner = (u0 - 0.5, v0 - 0.5)
    # white beneath, so that it stands out on any grey level
    axes.add_patch(Rectangle(corner, u1 - u0, v1 - v0, fill=False, edgecolor="white", linewidth=width + 1))
    axes.add_patch(
        Rectangle(corner, u1 - u0, v1 - v0, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    )
    if is_cut or section == "xy":
        axes.text(
            u0, v1, area.name, color="white", fontsize=5.5, va="bottom", parse_math=False,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def _scale_bar(axes: Axes, width: int, voxel_size: float) -> None:
    """A round length of about a quarter of the picture, in nm."""
    rough = 0.25 * width * voxel_size / 10
    step = 10 ** math.floor(math.log10(rough))
    length = max(n * step for n in (1, 2, 5) if n * step <= rough)
    pixels = 10 * length / voxel_size
    axes.plot([3, 3 + pixels], [3, 3], color="white", linewidth=3.5, solid_capstyle="butt")
    axes.plot([3, 3 + pixels], [3, 3], color="black", linewidth=2, solid_capstyle="butt")
    axes.text(
        3 + pixels + 2, 3, f"{length:g} nm", fontsize=6, va="center", color="black",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 92rem; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #444 }
.best { font-weight: 700; text-decoration: underline }
img { max-width: 100%; height: auto; border: 1px solid #ddd }
figure { margin: 1.5rem 0 } figcaption, li { color: #444 } .wide { overflow-x: auto }
"""


def write_page(folder: Path, names: Sequence[str]) -> Path:
    """Write ``benchmark.html``, which needs no other file: every table that stands, with its pictures.

    Parameters
    ----------
    folder : Path
        Of the benchmark, with ``table_NAME.json`` and ``NAME_*.png``.
    names : sequence of str
        Tables, in their order.

    Returns
    -------
    Path
    """
    parts = []
    titles: dict[str, None] = {}
    for name in names:
        path = folder / f"table_{name}.json"
        if not path.is_file():
            continue
        table = json.loads(path.read_text(encoding="utf-8"))
        titles[table["title"]] = None
        heading = html.escape(f"{table['title']}: {name}")
        pictures = sorted(folder.glob(f"{name}_*.png"))
        parts += [f"<h2>{heading}</h2>", _html_table(table), _html_notes(table["notes"])]
        parts += [_html_picture(picture, name) for picture in pictures]
    title = ", ".join(titles) or "benchmark"
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
    page = folder / "benchmark.html"
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    write_text(page, f"{head}<style>{_STYLE}</style><body>\n{body}\n</body></html>\n")
    return page


def _html_table(table: dict[str, Any]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(text)}</th>" for text in table["heads"])
    lines = []
    for cells, best in zip(table["rows"], table["best"], strict=True):
        label, *numbers = (html.escape(cell) for cell in cells)
        marked = (
            f"<td class='best'>{n}</td>" if mark else f"<td>{n}</td>"
            for n, mark in zip(numbers, best, strict=True)
        )
        lines.append(f"<tr><th scope='row'>{label}</th>{''.join(marked)}</tr>")
    body = "".join(lines)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _html_notes(notes: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>"


def _html_picture(path: Path, table: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    case = path.stem.removeprefix(f"{table}_")
    caption = (
        f"{case}: foreground areas red and solid, background areas blue and dashed; thin frames lie in other "
        "planes. Each volume in its own grey levels, protein dark."
    )
    alt = html.escape(f"sections of {case}, all rows of the table {table}")
    return (
        f"<figure><img alt='{alt}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
