"""A picture of the tilts with the chosen windows drawn, to look at before the patches are trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cryomend.noise.search import OpenedStack, SearchedImage

__all__ = ["draw_windows"]

_MOST_PANELS = 16
_LONGEST_SIDE = 512  # pixels of a panel before drawing
_COLOUR = "#E69F00"  # the orange of Okabe and Ito: stands out from grey without colour vision too


def draw_windows(path: Path, images: Sequence[tuple[OpenedStack, SearchedImage]], *, patch: int) -> None:
    """Draw up to 16 images, evenly chosen, with the windows found outlined; axes are pixels, Y upwards.

    Where windows are too small to be told apart, what they cover together is outlined.

    Parameters
    ----------
    path : Path
        PNG to write; the caller sees to it that no half of it is left.
    images : sequence of tuple
        What was looked at: the stack and the image.
    patch : int
        Window side in pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(images) - 1, _MOST_PANELS).round().astype(int))
    aspect = images[0][0].volume.data.shape[1] / images[0][0].volume.data.shape[2]
    columns = min(len(chosen), max(1, round(math.sqrt(len(chosen) * aspect))))
    rows = math.ceil(len(chosen) / columns)
    side = 4.2 / math.sqrt(aspect)  # inches, so that panels are of one area
    figure = Figure(figsize=(side * columns, (side * aspect + 0.4) * rows), layout="constrained")
    FigureCanvasAgg(figure)
    several = len({stack.path for stack, _ in images}) > 1
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, number in zip(panels, chosen, strict=False):
        stack, image = images[number]
        prefix = f"{stack.path.stem} " if several else ""
        _draw_panel(panel, stack.read(image.index), image, patch, prefix)
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    figure.savefig(path, format="png", dpi=100)


def _draw_panel(
    panel: Any, image: NDArray[np.float32], searched: SearchedImage, patch: int, prefix: str
) -> None:
    """One image, band-passed for the eye, and its windows."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    areas = searched.areas
    height, width = image.shape
    factor = math.ceil(max(image.shape) / _LONGEST_SIDE)
    shown = _stretch(image, factor)
    top, right = (factor * n - 0.5 for n in shown.shape)
    panel.imshow(shown, cmap="gray", vmin=0, vmax=1, origin="lower", extent=(-0.5, right, -0.5, top))
    panel.set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))
    if 30 * patch > max(image.shape) or not len(areas.corners):
        boxes = [Rectangle((x - 0.5, y - 0.5), patch, patch) for y, x in areas.corners]
        panel.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=_COLOUR, linewidth=0.9))
    else:  # windows this small would hide the image under their lines
        _draw_outline(panel, areas.corners // factor, shown.shape, math.ceil(patch / factor), factor)
    panel.set_title(f"{prefix}{searched.name}: {len(areas.corners)} of {areas.candidates}", fontsize="medium")
    panel.tick_params(labelsize="small")


def _draw_outline(
    panel: Any, corners: NDArray[np.int64], shape: tuple[int, ...], side: int, factor: int
) -> None:
    """The border of what the windows cover together, at the sampling of the panel."""
    covered = np.zeros((shape[0] + 2, shape[1] + 2))  # a margin, so that the border closes at the edge
    for y, x in corners + 1:
        covered[y : y + side, x : x + side] = 1
    covered[[0, -1]] = covered[:, [0, -1]] = 0
    y, x = (factor * (np.arange(n) - 0.5) - 0.5 for n in covered.shape)
    panel.contour(x, y, covered, levels=[0.5], colors=_COLOUR, linewidths=0.9)


def _stretch(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Bin to the size of a panel, keep what is larger than a pixel and smaller than a sixth, stretch it."""
    # Edges that fill no block are repeated, so that no pixel is lost.
    padded = np.pad(image, [(0, -n % factor) for n in image.shape], mode="edge")
    rows, columns = (n // factor for n in padded.shape)
    binned = padded.reshape(rows, factor, columns, factor).mean(axis=(1, 3))
    band = ndimage.gaussian_filter(binned, 1) - ndimage.gaussian_filter(binned, max(binned.shape) / 6)
    low, high = np.percentile(band, [1, 99])
    return np.clip((band - low) / ((high - low) or 1.0), 0, 1).astype(np.float32)
