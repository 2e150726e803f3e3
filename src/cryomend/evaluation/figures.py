"""Pictures of the report as HTML: still sections, the average along y, Fourier amplitudes with the wedge.

Lines and scale bars are drawn by the browser on top of the pictures, so that they stay sharp at any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.evaluation import pictures
from cryomend.evaluation.slices import bin_sections
from cryomend.evaluation.straighten import LONGEST_SIDE, find_slopes, mean_along_slopes
from cryomend.io import release_pages

__all__ = [
    "DOUBTFUL_SIGMA",
    "average_section",
    "central_sections",
    "fourier_section",
    "make_figure",
    "make_pair",
    "make_section",
    "scale_bar",
    "signed",
]

DOUBTFUL_SIGMA = 1.0  # of the contrast: an error as large as the structures


def signed(value: float, digits: int = 4, *, plus: str = "+") -> str:
    """Print a number with a true minus sign."""
    return f"{'−' if value < 0 else plus}{abs(value):.{digits}g}"


def make_section(title: str, hint: str, body: str) -> str:
    """Frame a part of the page under a heading; everything is HTML already."""
    return f'<section><h2>{title}</h2><p class="hint">{hint}</p>{body}</section>'


def make_pair(figures: Sequence[str]) -> str:
    """Put figures side by side where there is room."""
    return f'<div class="pair">{"".join(figures)}</div>'


def make_figure(state: str, body: str, caption: str) -> str:
    """Frame a picture between a heading and a caption."""
    return f'<figure><div class="state">{state}</div>{body}<figcaption>{caption}</figcaption></figure>'


def _image(picture: pictures.Picture, limits: tuple[float, float], alt: str, *, over: str = "") -> str:
    """Draw a grey picture with something over it."""
    source = pictures.encode_png(pictures.bin_picture(picture), limits)
    return f'<div class="picture"><img src="{source}" alt="{escape(alt)}">{over}</div>'


def scale_bar(pixels: int, voxel_size: float) -> str:
    """Draw a bar of a round number of nanometres over a picture so many voxels wide."""
    width = pixels * voxel_size / 10
    length = pictures.scale_bar_nm(width)
    return f'<div class="bar" style="width:{100 * length / width:.2f}%">{length:g} nm</div>'


def _levels(limits: tuple[float, float]) -> str:
    """Say which grey levels are drawn as black and white."""
    return "Black {}, white {}.".format(*(signed(level, 3, plus="") for level in limits))


def central_sections(
    states: Mapping[str, NDArray[Any]],
    limits: Mapping[str, tuple[float, float]],
    voxel_size: float,
    *,
    confidence: NDArray[Any] | None = None,
    doubtful_share: float = 0.0,
) -> str:
    """Three central sections of each volume, on one scale; what is doubtful of the last is hatched."""
    figures = []
    for state, volume in states.items():
        sigma = confidence if state == "After" else None
        caption = _levels(limits[state])
        if sigma is not None:
            caption += f" Hatched: {doubtful_share:.1%} of all voxels."
        figures.append(make_figure(state, _views(state, volume, limits[state], voxel_size, sigma), caption))
    hint = (
        "Central x-y section with the x-z section above it and the y-z section at its right, one voxel "
        "thick; z points upwards and to the right. Grey levels are as stored, one scale for each volume."
    )
    if confidence is not None:
        hint += (
            " Hatched is where the standard deviation of the restoration exceeds its contrast (sigma above "
            f"{DOUBTFUL_SIGMA:g}): what is seen there may be an error as large as the structures."
        )
    return make_section("Sections through the centre", hint, make_pair(figures))


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
            + (scale_bar(nx, voxel_size) if name == "xy" else ""),
        )
        for name, section in pictures.central_sections(volume).items()
    }
    width = min(520, round(620 * (nx + nz) / (ny + nz)))  # at most about 620 pixels high
    style = f"grid-template-columns:minmax(0,{nx}fr) minmax(0,{nz}fr);max-width:{width}px"
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


def average_section(states: Mapping[str, NDArray[Any]], voxel_size: float) -> str:
    """Average the x-z sections along what runs near Y; the direction is found on the first volume."""
    searched = next(iter(states.values()))
    side = math.ceil(max(searched.shape) / LONGEST_SIDE)
    nz, ny, nx = searched.shape
    slopes = find_slopes(
        np.stack(list(bin_sections(searched, (min(side, nz), min(side, ny), min(side, nx)))))
    )
    figures = []
    for state, volume in states.items():
        picture = mean_along_slopes(volume, *slopes)
        release_pages(volume)
        limits = pictures.grey_range(picture, percent=0.2)
        alt = f"{state} restoration: x-z section averaged along the whole y axis"
        image = _image(picture, limits, alt, over=scale_bar(picture.shape[1], voxel_size))
        figures.append(make_figure(state, image, _levels(limits)))
    angle = math.degrees(math.atan(math.hypot(*slopes)))
    which, same = ("raw", "; the same shifts before and after") if len(states) > 1 else ("restored", "")
    hint = (
        f"The x-z sections averaged along all of y, each shifted so that what runs at {angle:.0f}° to y "
        f"stands still (the direction in which the {which} volume averages best{same}). Averaging removes "
        "the noise from a filament but not the missing wedge, which thins its walls at the top and bottom."
    )
    wider = math.hypot(1, *slopes) - 1
    if wider >= 0.01:  # 1 / cos - 1: the section is not perpendicular to the filament
        hint += f" Cut at this angle, its section is {wider:.0%} wider than across it."
    return make_section("Cross-section averaged along y", hint, make_pair(figures))


def fourier_section(
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
        low, high = (signed(tilt) for tilt in tilt_range)
        hint += (
            "A tilt by t measures the line k<sub>z</sub> = k<sub>x</sub> tan t. Between the lines of the "
            f"extreme tilts ({low}° dashed, {high}° solid), around k<sub>z</sub>, nothing was measured."
        )
    return make_section("Fourier amplitude in the x-z plane", hint, make_pair(figures))


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
    return make_figure(state, body, _colour_scale(limits))


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
