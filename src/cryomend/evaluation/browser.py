"""The slice browser of the report: controls and canvases as HTML, and what its script draws on them."""

from __future__ import annotations

from typing import Any

from cryomend.evaluation.figures import make_section, scale_bar
from cryomend.evaluation.slices import PackedVolumes

__all__ = ["browser_data", "browser_section"]

AXES = ("z", "y", "x")
VIEWS = {"xy": ("x", "y", "z"), "xz": ("x", "z", "y"), "yz": ("z", "y", "x")}  # across, down, through
NO_SCRIPT = (
    '<noscript><section><h2>Slices</h2><p class="hint">Browsing needs JavaScript, which is switched off; '
    "the central sections below need none.</p></section></noscript>"
)


def browser_data(packed: PackedVolumes, *, file_shape: tuple[int, ...], voxel_size: float) -> dict[str, Any]:
    """Give what the script of the page needs.

    Parameters
    ----------
    packed : PackedVolumes
        With the volumes ``after`` and perhaps ``before``.
    file_shape : tuple of int
        (Z, Y, X) of the files.
    voxel_size : float
        Å, of the files.
    """
    return {
        "shape": list(packed.shape),
        "bins": list(packed.bins),
        "file": list(file_shape),
        "voxel": voxel_size,
        "type": packed.media_type,
        "before": packed.grey.get("before"),
        "after": packed.grey["after"],
        "doubtful": packed.doubtful,
    }


def browser_section(packed: PackedVolumes, *, file_shape: tuple[int, ...], voxel_size: float) -> str:
    """Lay out the browser, hidden until its script runs; arguments as `browser_data`."""
    both = "before" in packed.grey
    hint = [_shown(packed, file_shape)]
    if both:
        hint.append("Left of the border is the volume before restoration, right of it the same place after.")
    hint.append("Click into a picture to move the other two there.")
    if packed.doubtful is not None:
        hint.append(
            "Striped is what the restored volume is not certain of: its standard deviation exceeds its "
            "contrast (sigma above 1)."
        )
    body = (
        f'<p id="loading" class="hint" role="status">Unpacking the slices …</p><div class="browser">'
        f"<div>{_views(packed, voxel_size)}</div>"
        f"{_controls(packed, file_shape, both=both)}</div>"
    )
    section = make_section("Slices", " ".join(hint), body)
    return section.replace("<section>", '<section id="browser" hidden>', 1) + NO_SCRIPT


def _shown(packed: PackedVolumes, file_shape: tuple[int, ...]) -> str:
    """Say which voxels the page holds."""
    bz, by, bx = packed.bins
    nz, ny, nx = packed.shape
    if packed.bins == (1, 1, 1):
        what = f"All {nz} x-y, {ny} x-z and {nx} y-z slices, one voxel thick."
    else:
        what = (
            f"{nz} x-y, {ny} x-z and {nx} y-z slices: what is shown as one voxel is the mean of "
            f"{bx} × {by} × {bz} voxels (x, y, z) of the file, and noise is less by as much as that."
        )
    left = [n - b * m for n, b, m in zip(file_shape, packed.bins, packed.shape, strict=True)]
    if any(left):
        what += f" The last {left[2]}, {left[1]} and {left[0]} voxels of x, y and z do not fill one."
    return f"{what} Grey levels are stored with 8 bits and some loss (quality {packed.quality} of 100)."


def _views(packed: PackedVolumes, voxel_size: float) -> str:
    """Three canvases that share their axes, as the still sections do."""
    nz, ny, nx = (n * b for n, b in zip(packed.shape, packed.bins, strict=True))
    names = "before and after restoration" if "before" in packed.grey else "restored"
    tags = '<span class="tag after">after</span>' if "before" in packed.grey else ""
    tags = (
        '<span class="tag before">before</span>' + tags if tags else '<span class="tag after">restored</span>'
    )
    cells = {}
    for name in VIEWS:
        label = f"{name[0]}-{name[1]} section, {names}"
        stripes = f'<canvas class="hatch" id="hatch-{name}" aria-hidden="true"></canvas>'
        cells[name] = (
            f'<div class="picture look" id="look-{name}"><canvas id="canvas-{name}" role="img" '
            f'aria-label="{label}"></canvas>{stripes if packed.doubtful is not None else ""}'
            '<div class="hair across"></div><div class="hair along"></div><div class="border"></div>'
            f"{tags + scale_bar(nx, voxel_size) if name == 'xy' else ''}</div>"
        )
    width = min(740, round(620 * (nx + nz) / (ny + nz)))  # at most about 620 pixels high
    style = f"grid-template-columns:minmax(0,{nx}fr) minmax(0,{nz}fr);max-width:{width}px"
    order = ['<div class="axis">x-z</div><div></div>', cells["xz"], "<div></div>"]
    order += ['<div class="axis">x-y</div><div class="axis">y-z</div>', cells["xy"], cells["yz"]]
    return f'<div class="views" style="{style}">{"".join(order)}</div>'


def _slider(identity: str, label: str, *, most: int, step: int = 1) -> str:
    return (
        f'<div class="control"><label for="{identity}">{label}</label>'
        f'<input type="range" id="{identity}" min="0" max="{most}" step="{step}" value="0">'
        f'<output id="place-{identity.removeprefix("slider-")}" for="{identity}"></output></div>'
    )


def _tick(kind: str, identity: str, label: str, *, name: str = "", checked: bool = True) -> str:
    group = f' name="{name}"' if name else ""
    box = f'<input type="{kind}" id="{identity}"{group}{" checked" if checked else ""}>'
    return f'<label for="{identity}">{box}<span>{label}</span></label>'


def _controls(packed: PackedVolumes, file_shape: tuple[int, ...], *, both: bool) -> str:
    """Sliders and boxes, each with a label; the keyboard reaches all of them."""
    parts = []
    through = {view[2]: f"{name[0]}-{name[1]}" for name, view in VIEWS.items()}
    for axis, name in enumerate(AXES):
        step, last = packed.bins[axis], packed.shape[axis] - 1
        label = f"{name} <small>(the {through[name]} slice)</small>"
        parts.append(_slider(f"slider-{name}", label, most=last * step, step=step))
    if both:
        shows = {"wipe": "both, with a border", "before": "before alone", "after": "after alone"}
        ticks = "".join(
            _tick("radio", f"show-{key}", f"{text} <kbd>{key[0]}</kbd>", name="show", checked=key == "wipe")
            for key, text in shows.items()
        )
        parts.append(f'<fieldset class="ticks"><legend>Show</legend>{ticks}</fieldset>')
        parts.append(_slider("wipe", "Border between before and after", most=100))
    ticks = _tick("checkbox", "cross", "cross-hair <kbd>c</kbd>")
    if packed.doubtful is not None:
        share = f"{packed.doubtful_share:.1%} of all voxels"
        ticks += _tick("checkbox", "hatch", f"stripes where doubtful: {share} <kbd>h</kbd>")
    parts.append(f'<div class="ticks">{ticks}</div>')
    keys = (
        "Tab moves between the controls, arrow keys, Page Up, Page Down, Home and End move a slider. The "
        "letters work while a control has the focus. The address of the page follows: a copy of it leads "
        "back to the place."
    )
    parts.append(f'<p class="keys">{keys}</p>')
    return f'<fieldset id="controls" class="controls" disabled>{"".join(parts)}</fieldset>'
