"""One self-contained HTML page that shows a tomogram before and after restoration.

Nothing is loaded from anywhere: pictures are in the page, lines and scale bars are drawn by
the browser on top of them, so that they stay sharp at any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend import __version__
from cryomend.evaluation import pictures
from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.straighten import find_slopes, mean_along_slopes
from cryomend.evaluation.verdict import Check
from cryomend.io import atomic_path, check_writable, read_volume

__all__ = ["report_files", "write_restoration_report"]

DOUBTFUL_SIGMA = 1.0  # of the contrast: an error as large as the structures
SIGNS = {"good": "●", "doubtful": "◐", "bad": "○"}

STYLE = """
:root{color-scheme:light;--ink:#18222b;--soft:#55626d;--line:#d5dce1;--paper:#fff;--ground:#f4f6f7;--accent:#0b5566}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.2rem 1.25rem 3rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:0 0 .2rem}
p{margin:0;max-width:92ch}
.lead,.hint,figcaption,.axis{color:var(--soft)}
.hint{font-size:.92rem;margin-bottom:1rem}
section,.note{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:1.3rem 1.4rem;
margin-top:1.25rem}
.note{border-left:6px solid var(--accent)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:1.4rem}
figure{margin:0;min-width:0}
figcaption{font-size:.86rem;margin-top:.5rem}
.state{font-weight:650;color:var(--ink);margin-bottom:.6rem;padding-bottom:.25rem;
border-bottom:2px solid var(--ink)}
.views{display:grid;column-gap:8px;margin:0 auto}
.axis{font-size:.78rem;white-space:nowrap;line-height:1.9}
.picture{position:relative;line-height:0}
.picture img{display:block;width:100%;height:auto;outline:1px solid var(--line)}
.picture img.hatch{position:absolute;inset:0;height:100%;outline:0}
.picture svg{position:absolute;inset:0;width:100%;height:100%}
.bar{position:absolute;left:10px;bottom:10px;border-bottom:5px solid #fff;filter:drop-shadow(0 0 1px #000)
drop-shadow(0 0 2px #000);color:#fff;font:600 .8rem/1.5 system-ui,sans-serif;text-align:center;
white-space:nowrap}
.square{max-width:460px;margin:0 auto}
.ends{display:flex;justify-content:space-between;font-size:.78rem;color:var(--soft)}
.legend{white-space:nowrap}
.legend img{width:110px;height:.8em;vertical-align:-.05em;margin:0 .2em}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{text-align:left;vertical-align:top;padding:.42rem .6rem .42rem 0;border-top:1px solid var(--line)}
tr:first-child>*{border-top:0}
th{font-weight:600;width:30%;min-width:8rem}
.checks th{width:auto;min-width:0}
.verdict{font-weight:650;white-space:nowrap}
td{overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
sub,sup{line-height:0}
@media print{body{background:#fff}section,.note{break-inside:avoid}}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Restoration report</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>Restoration report</h1><p class="lead">{lead}</p></header>
{body}
</main>
</body>
</html>
"""

NOTE = """<aside class="note"><h2>What was measured and what was not</h2>
<p>{range} What the restored volume shows inside the wedge was inferred by the network from the
structures it was trained on; it was not measured. Denoising infers as well. Take a feature that appears only
after restoration as a hypothesis: look for it in the raw volume, and average and measure on raw voxels.</p>
</aside>"""


def write_restoration_report(
    path: str | Path,
    *,
    before: NDArray[Any],
    after: NDArray[Any],
    voxel_size: float,
    tilt_range: tuple[float, float] | None,
    provenance: Mapping[str, str],
    average_along_y: bool = False,
    checks: Sequence[Check] = (),
    confidence: NDArray[Any] | None = None,
) -> None:
    """Write an HTML page that shows a volume before and after restoration.

    Parameters
    ----------
    path : path
        The page; replaced only when complete.
    before, after : array, shape (Z, Y, X)
        Raw and restored volume, grey levels as stored (low = black).
    voxel_size : float
        Å.
    tilt_range : (float, float) or None
        Extreme tilt angles in degrees, to draw the missing wedge; None if unknown.
    provenance : mapping of str to str
        What ran, on which device, for how long: the rows of a table, in order.
    average_along_y : bool
        Show the x-z section averaged along what runs near Y too, such as a microtubule; its slope
        is found on ``before``.
    checks : sequence of Check
        What was checked on the data, for a table near the top.
    confidence : array, shape (Z, Y, X), optional
        Standard deviation of the restoration over its contrast; where it exceeds 1 the sections are hatched.

    Raises
    ------
    ValueError
        If the shapes differ, the voxel size is not positive or the tilt range is not
        increasing inside ±90 degrees.
    InputError
        If the page cannot be written.
    """
    if before.shape != after.shape:
        raise ValueError(f"shapes differ: {before.shape} before and {after.shape} after")
    if confidence is not None and confidence.shape != after.shape:
        raise ValueError(f"shapes differ: {confidence.shape} of the confidence and {after.shape} after")
    if not voxel_size > 0:
        raise ValueError(f"the voxel size must be positive, got {voxel_size:g} Å")
    if tilt_range is not None and not -90 < tilt_range[0] < tilt_range[1] < 90:
        raise ValueError(f"need -90 < tilt_min < tilt_max < 90, got {tilt_range[0]:g}, {tilt_range[1]:g}")
    states = {"Before": before, "After": after}
    sections = [_note(tilt_range)]
    if checks:
        sections.append(_checks(checks))
    sections.append(_sections(states, voxel_size, confidence))
    if average_along_y:
        sections.append(_average(states, voxel_size))
    sections += [_fourier(states, tilt_range, voxel_size), _table(provenance)]
    nz, ny, nx = before.shape
    lead = (
        f"{nx} × {ny} × {nz} voxels (x, y, z) of {voxel_size:.4g} Å: the volume before and after restoration."
    )
    with atomic_path(path) as partial:
        partial.write_text(PAGE.format(style=STYLE, lead=lead, body="\n".join(sections)), encoding="utf-8")


def report_files(
    restored_path: str | Path,
    raw_path: str | Path,
    output: str | Path,
    *,
    tilt_range: tuple[float, float] | None = None,
    average_along_y: bool = False,
    voxel_size: float | None = None,
) -> None:
    """Read a volume before and after restoration and write the page that shows both.

    Parameters
    ----------
    restored_path, raw_path : path
        MRC files of equal shape and voxel size.
    output : path
        The page.
    tilt_range, average_along_y
        As in :func:`write_restoration_report`.
    voxel_size : float, optional
        Å; replaces what both headers say.

    Raises
    ------
    InputError
        If a file cannot be used, shapes or voxel sizes differ, the tilt range is not
        increasing inside ±90 degrees, or the page cannot be written.
    """
    require_tilt_range(tilt_range)
    check_writable(output)
    restored, raw = (read_volume(p, voxel_size=voxel_size) for p in (restored_path, raw_path))
    require_matching(restored, raw)
    provenance = {"Restored volume": str(restored_path), "Raw volume": str(raw_path)}
    if restored.labels:
        provenance["Labels of the restored file"] = " | ".join(restored.labels)
    provenance["Page written by"] = f"cryomend {__version__}"
    write_restoration_report(
        output,
        before=raw.data,
        after=restored.data,
        voxel_size=restored.voxel_size,
        tilt_range=tilt_range,
        provenance=provenance,
        average_along_y=average_along_y,
    )


def _note(tilt_range: tuple[float, float] | None) -> str:
    """Say what the network inferred, before anything is shown."""
    if tilt_range is None:
        return NOTE.format(range="The tilt range is not known here, so the missing wedge cannot be drawn.")
    low, high = tilt_range
    share = (180 - high + low) / 180
    tilted = f"The specimen was tilted from {_signed(low)}° to {_signed(high)}°"
    return NOTE.format(range=f"{tilted}: {share:.0%} of Fourier space, the missing wedge, was not measured.")


def _signed(value: float, digits: int = 4, *, plus: str = "+") -> str:
    """Print a number with a true minus sign."""
    return f"{'−' if value < 0 else plus}{abs(value):.{digits}g}"


def _section(title: str, hint: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p class="hint">{hint}</p>{body}</section>'


def _pair(figures: Sequence[str]) -> str:
    return f'<div class="pair">{"".join(figures)}</div>'


def _figure(state: str, body: str, caption: str) -> str:
    return f'<figure><div class="state">{state}</div>{body}<figcaption>{caption}</figcaption></figure>'


def _image(picture: pictures.Picture, limits: tuple[float, float], alt: str, *, over: str = "") -> str:
    """Draw a grey picture with something over it."""
    source = pictures.encode_png(pictures.bin_picture(picture), limits)
    return f'<div class="picture"><img src="{source}" alt="{escape(alt)}">{over}</div>'


def _scale_bar(pixels: int, voxel_size: float) -> str:
    """Draw a bar of a round number of nanometres over a picture so many voxels wide."""
    width = pixels * voxel_size / 10
    length = pictures.scale_bar_nm(width)
    return f'<div class="bar" style="width:{100 * length / width:.2f}%">{length:g} nm</div>'


def _levels(limits: tuple[float, float]) -> str:
    """Say which grey levels are drawn as black and white."""
    return "Black {}, white {}.".format(*(_signed(level, 3, plus="") for level in limits))


def _checks(checks: Sequence[Check]) -> str:
    """List the checks with a word and a number each; the shape before the word says the same."""
    rows = "".join(
        f'<tr><th scope="row">{escape(check.name)}</th>'
        f'<td class="verdict"><span aria-hidden="true">{SIGNS[check.verdict]}</span> {check.verdict}</td>'
        f"<td>{f'{check.number:.2f}'.replace('-', '−')}</td><td>{escape(check.meaning)}</td></tr>"
        for check in checks
    )
    head = '<tr><th scope="col">check</th><th scope="col">verdict</th><th scope="col">number</th>'
    hint = (
        "No truth is needed for these. They can show that a restoration contradicts the data; none can show "
        "that what it put into the missing wedge is right."
    )
    table = f'<table class="checks">{head}<th scope="col">what the number is</th></tr>{rows}</table>'
    return _section("Checks on the data", hint, table)


def _sections(
    states: Mapping[str, NDArray[Any]], voxel_size: float, confidence: NDArray[Any] | None = None
) -> str:
    """Three central sections of each volume, on one scale; what is doubtful of the last is hatched."""
    figures = []
    for state, volume in states.items():
        limits = pictures.grey_range(volume)
        sigma = confidence if state == "After" else None
        caption = _levels(limits)
        if sigma is not None:
            doubtful = float((sigma > DOUBTFUL_SIGMA).mean())
            caption += f" Hatched: {doubtful:.1%} of all voxels."
        figures.append(_figure(state, _views(state, volume, limits, voxel_size, sigma), caption))
    hint = (
        "Central x-y section with the x-z section above it and the y-z section at its right, one voxel "
        "thick; z points upwards and to the right. Grey levels are as stored, one scale for each volume."
    )
    if confidence is not None:
        hint += (
            " Hatched is where the standard deviation of the restoration exceeds its contrast (sigma above "
            f"{DOUBTFUL_SIGMA:g}): what is seen there may be an error as large as the structures."
        )
    return _section("Sections through the centre", hint, _pair(figures))


def _views(
    state: str,
    volume: NDArray[Any],
    limits: tuple[float, float],
    voxel_size: float,
    sigma: NDArray[Any] | None = None,
) -> str:
    """Arrange the three sections so that they share their axes."""
    nz, ny, nx = volume.shape
    doubt = {} if sigma is None else pictures.central_sections(sigma)
    images = {
        name: _image(
            section,
            limits,
            f"{state} restoration: central {name[0]}-{name[1]} section",
            over=(_hatching(doubt[name], f"{name[0]}-{name[1]}") if name in doubt else "")
            + (_scale_bar(nx, voxel_size) if name == "xy" else ""),
        )
        for name, section in pictures.central_sections(volume).items()
    }
    width = min(520, round(620 * (nx + nz) / (ny + nz)))  # at most about 620 pixels high
    style = f"grid-template-columns:{nx}fr {nz}fr;max-width:{width}px"
    cells = ['<div class="axis">x-z</div><div></div>', images["xz"], "<div></div>"]
    cells += ['<div class="axis">x-y</div><div class="axis">y-z</div>', images["xy"], images["yz"]]
    return f'<div class="views" style="{style}">{"".join(cells)}</div>'


def _hatching(sigma: pictures.Picture, axes: str) -> str:
    """Draw stripes over a section where its standard deviation is too large; nothing if it nowhere is."""
    doubtful = pictures.bin_picture(sigma) > DOUBTFUL_SIGMA
    if not doubtful.any():
        return ""
    alt = f"hatched where the standard deviation exceeds the contrast in the {axes} section"
    return f'<img class="hatch" src="{pictures.hatch_png(doubtful)}" alt="{alt}">'


def _average(states: Mapping[str, NDArray[Any]], voxel_size: float) -> str:
    """Average the x-z sections along what runs near Y; the direction is found on the raw volume."""
    slopes = find_slopes(states["Before"])
    figures = []
    for state, volume in states.items():
        picture = mean_along_slopes(volume, *slopes)
        limits = pictures.grey_range(picture, percent=0.2)
        alt = f"{state} restoration: x-z section averaged along the whole y axis"
        image = _image(picture, limits, alt, over=_scale_bar(picture.shape[1], voxel_size))
        figures.append(_figure(state, image, _levels(limits)))
    angle = math.degrees(math.atan(math.hypot(*slopes)))
    hint = (
        f"The x-z sections averaged along all of y, each shifted so that what runs at {angle:.0f}° to y "
        "stands still (the direction in which the raw volume averages best; the same shifts before and "
        "after). Averaging removes the noise from a filament but not the missing wedge, which thins its "
        "walls at the top and bottom."
    )
    wider = math.hypot(1, *slopes) - 1
    if wider >= 0.01:  # 1 / cos - 1: the section is not perpendicular to the filament
        hint += f" Cut at this angle, its section is {wider:.0%} wider than across it."
    return _section("Cross-section averaged along y", hint, _pair(figures))


def _fourier(
    states: Mapping[str, NDArray[Any]], tilt_range: tuple[float, float] | None, voxel_size: float
) -> str:
    """Fourier amplitude in the x-z plane of each volume, with the wedge."""
    planes = {state: pictures.fourier_plane(volume) for state, volume in states.items()}
    figures = [_spectrum(state, plane, tilt_range, voxel_size) for state, plane in planes.items()]
    hint = (
        "Amplitude averaged over the planes next to k<sub>y</sub> = 0, faces of the volume tapered; each "
        "picture has its own colours. "
    )
    if tilt_range is None:
        hint += "The tilt range was not given, so the wedge is not drawn."
    else:
        low, high = (_signed(tilt) for tilt in tilt_range)
        hint += (
            "A tilt by t measures the line k<sub>z</sub> = k<sub>x</sub> tan t. Between the lines of the "
            f"extreme tilts ({low}° dashed, {high}° solid), around k<sub>z</sub>, nothing was measured."
        )
    return _section("Fourier amplitude in the x-z plane", hint, _pair(figures))


def _spectrum(
    state: str, plane: pictures.Picture, tilt_range: tuple[float, float] | None, voxel_size: float
) -> str:
    """One Fourier picture with its axes and the wedge."""
    limits = _amplitude_range(plane)
    alt = f"{state} restoration: logarithm of the Fourier amplitude in the x-z plane"
    overlay = ""
    if tilt_range is not None:
        alt += ", the missing wedge outlined"
        overlay = _wedge_lines(tilt_range)
    source = pictures.encode_png(plane, limits, colour_map="cividis")
    nyquist = f"{5 / voxel_size:.3g}"
    axis = "k<sub>x</sub> in 1/nm, k<sub>z</sub> upwards"
    ends = f"<span>−{nyquist}</span><span>{axis}</span><span>+{nyquist}</span>"
    picture = f'<div class="picture"><img src="{source}" alt="{alt}">{overlay}</div>'
    body = f'<div class="square">{picture}<div class="ends">{ends}</div></div>'
    return _figure(state, body, _colour_scale(limits))


def _amplitude_range(plane: pictures.Picture) -> tuple[float, float]:
    """Range of log amplitude to draw, of at most four decades: an empty wedge has none to show."""
    low, high = pictures.grey_range(plane, percent=0.5)
    return max(low, high - 4), high


def _colour_scale(limits: tuple[float, float]) -> str:
    """Explain the colours of a Fourier picture."""
    ramp = np.linspace(*limits, 256, dtype=np.float32)[None]
    source = pictures.encode_png(ramp, limits, colour_map="cividis")
    low, high = (f"10<sup>{value:.1f}</sup>".replace("-", "−") for value in limits)
    image = f'<img src="{source}" alt="colour scale from dark to light">'
    return f'<span class="legend">{low} {image} {high}</span> (white noise of the same variance: 1)'


def _ray(tilt: float, reach: float = 50.0) -> tuple[float, float]:
    """Where the line of a tilt leaves a square of half side ``reach``: (x, z) with x > 0 or z > 0."""
    x, z = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    factor = reach / max(abs(x), abs(z))
    return x * factor, z * factor


def _wedge_lines(tilt_range: tuple[float, float]) -> str:
    """Lines of the two extreme tilts and labels, over a square Fourier picture."""
    shapes = []
    for tilt, dash in zip(tilt_range, ("3 2", "none"), strict=True):
        x, z = _ray(tilt)
        ends = f'x1="{50 - x:.2f}" y1="{50 + z:.2f}" x2="{50 + x:.2f}" y2="{50 - z:.2f}"'
        for colour in ('"#000" stroke-width="1.3" stroke-opacity=".55"', '"#fff" stroke-width=".6"'):
            shapes.append(f'<line {ends} stroke-dasharray="{dash}" stroke={colour}/>')
    middle = math.radians(sum(tilt_range) / 2 + 90)  # the axis of the wedge
    x, z = 37 * math.cos(middle), 37 * math.sin(middle)
    labels = [(50 + s * x, 50 - s * z, "not measured") for s in (1, -1)]
    labels += [(50 - s * z, 50 - s * x, "measured") for s in (1, -1)]
    texts = [f'<text x="{a:.1f}" y="{b:.1f}">{word}</text>' for a, b, word in labels]
    style = (
        'fill="#fff" stroke="#000" stroke-width=".8" stroke-opacity=".75" paint-order="stroke" '
        'font-family="system-ui,sans-serif" font-size="3.6" font-weight="600" text-anchor="middle" '
        'dominant-baseline="middle"'
    )
    content = f"{''.join(shapes)}<g {style}>{''.join(texts)}</g>"
    return f'<svg viewBox="0 0 100 100" aria-hidden="true">{content}</svg>'


def _table(provenance: Mapping[str, str]) -> str:
    """List what ran, on what, for how long."""
    rows = "".join(
        f'<tr><th scope="row">{escape(k)}</th><td>{escape(str(v))}</td></tr>' for k, v in provenance.items()
    )
    return _section(
        "How this was made", "What ran, on which device and for how long.", f"<table>{rows}</table>"
    )
