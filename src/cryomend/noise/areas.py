"""Find the areas of a tilt image that hold no structure, by the image's own statistics.

Called by ``search`` for every tilt; areas that the user gives are checked for gold and hot pixels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage, special

__all__ = ["EmptyAreas", "cut_windows", "find_empty_areas", "place_windows", "refuse_patch"]

Float = NDArray[np.floating[Any]]
_BAD = "gold, hot or filled pixels"


@dataclass(frozen=True)
class EmptyAreas:
    """Where one image holds no structure, and why the other windows fell out.

    Attributes
    ----------
    corners : array, shape (n, 2)
        First pixel (Y, X) of each window, row by row.
    candidates : int
        Windows looked at.
    rejected : dict
        Windows lost to each reason, the first that applied.
    suspect : int
        Windows with gold, hot or filled pixels that are kept because the user gave the area.
    """

    corners: NDArray[np.int64]
    candidates: int
    rejected: dict[str, int]
    suspect: int = 0


def find_empty_areas(
    image: Float,
    *,
    patch: int,
    stride: int | None = None,
    edge: int | None = None,
    tolerance: float = 1.5,
) -> EmptyAreas:
    """Find windows of an image that hold nothing but noise, by the image's own statistics.

    A window falls out if it touches gold, a hot pixel or a filled-in border, if its mean leaves the smooth
    trend of the image, if its variance is far above the others', if it holds a feature that noise would
    show once in 500 windows, or if a band of its spectrum (features of about 4 to ``patch / 2`` pixels)
    holds more energy than noise would. The noise of a band is measured where the image is quietest, on
    tiles that may be smaller than the window, and relative to the energy of the finest detail around, so
    that thick ice or uneven light alone costs nothing.

    Pure noise stays nearly unselected: keeping only the quietest windows would make noise look weaker
    than it is. Where the windows differ by more than sampling allows there is structure, and only those
    below the mean energy of noise are kept.

    Parameters
    ----------
    image : array, shape (Y, X)
        One tilt, any grey levels.
    patch : int
        Window side in pixels, even.
    stride : int, optional
        Distance of windows; half a patch if None.
    edge : int, optional
        Border never used; a sixteenth of a patch if None, less if the image is too small for it.
    tolerance : float
        Standard deviations allowed to the band energies of an image without structure; twice as many to
        mean and variance; above 1.5 features may be higher in proportion.

    Returns
    -------
    EmptyAreas

    Raises
    ------
    ValueError
        If the patch is odd, smaller than 16 or larger than the image, or the image is constant or not finite.
    """
    _validate_image(image, patch)
    image = _centred(image)
    corners = _window_corners(image.shape, patch, stride or patch // 2, patch // 16 if edge is None else edge)
    mean, log_variance = _window_moments(image, corners, patch)
    level = mean - _smooth_surface(corners, mean)
    allowed = 2 * tolerance * max(_robust_std(level), 0.02 * _robust_std(image))
    reasons: dict[str, NDArray[np.bool_]] = {
        _BAD: _window_means(_bad_pixels(image), corners, patch) > 0,
        "mean": np.greater(np.abs(level - np.median(level)), allowed),
        "variance": log_variance > _upper_limit(log_variance, 2 * tolerance, 2 / patch),
    }
    return _select(corners, reasons | _judge_bands(image, corners, patch, tolerance))


def place_windows(
    image: Float, boxes: Sequence[tuple[int, int, int, int]], *, patch: int, stride: int | None = None
) -> EmptyAreas:
    """Cover areas that the user chose with windows, and count those with gold, hot or filled pixels.

    Parameters
    ----------
    image : array, shape (Y, X)
        One tilt, any grey levels.
    boxes : sequence of tuple
        Half-open pixel ranges ``(y_first, y_last, x_first, x_last)``, each inside the image and no smaller
        than a patch.
    patch, stride : int
        See `find_empty_areas`.

    Returns
    -------
    EmptyAreas
        Nothing is rejected; ``suspect`` says how many windows the search would have left out as damaged.

    Raises
    ------
    ValueError
        As `find_empty_areas`.
    """
    _validate_image(image, patch)
    grids = [
        _window_corners((y1 - y0, x1 - x0), patch, stride or patch // 2, 0) + np.array([y0, x0])
        for y0, y1, x0, x1 in boxes
    ]
    # Row by row, and once only where areas overlap on the same grid.
    corners = np.unique(np.concatenate([*grids, np.zeros((0, 2), dtype=np.int64)]), axis=0)
    suspect = (
        _window_means(_bad_pixels(_centred(image)), corners, patch) > 0 if len(corners) else np.zeros(0, bool)
    )
    return EmptyAreas(corners, len(corners), {}, int(suspect.sum()))


def refuse_patch(patch: int) -> None:
    """Refuse a patch side that no image could be cut into.

    Raises
    ------
    ValueError
        If it is odd or smaller than 16.
    """
    if patch < 16 or patch % 2:
        raise ValueError(f"patch must be even and at least 16 pixels, got {patch}")


def _judge_bands(
    image: Float, corners: NDArray[np.int64], patch: int, tolerance: float
) -> dict[str, NDArray[np.bool_]]:
    """Windows with a single feature, or with more energy than noise, at any scale from 2 to patch / 8."""
    side = max(min(32, patch), patch // 2)  # small tiles find quiet places between the particles of a crowd
    tiles = _window_corners(image.shape, side, side // 2, patch // 16)
    feature, energy = np.zeros((2, len(corners)), dtype=bool)
    scale = 2.0
    background, gain = _blur(image, patch / 2), _local_detail(image, patch / 2)
    while scale <= max(2.0, patch / 8):
        band = (_blur(image, scale) - background) / gain
        centre, width = _core(band)
        band -= centre
        # White noise keeps P² / (4 π scale²) degrees of freedom behind a Gaussian; correlated noise fewer.
        white = 1.25 * np.sqrt(4 * np.pi) * scale / side
        noise, spread, tight = _quiet_energy(_log_energy(band, tiles, side), white)
        # One pixel this high in 500 windows, of so many that are independent behind the Gaussian.
        rare = float(special.ndtri(1 - 0.001 * 2 * scale**2 / patch**2)) * max(1.0, tolerance / 1.5)
        height = rare * min(width, float(np.exp(noise / 2)))
        feature |= _window_means(_outline_features(np.abs(band), height), corners, patch) > 0
        limit = noise + (0.0 if tight else tolerance) * spread * side / patch
        energy |= _log_energy(band, corners, patch) > limit
        scale *= 2
    return {"single features": feature, "band energy": energy}


def _outline_features(strength: Float, height: float) -> NDArray[np.bool_]:
    """Pixels above the height, and all joined to them above 0.6 of it: a wall, not only its peaks."""
    labels, _ = ndimage.label(strength > 0.6 * height)
    chosen = np.zeros(int(labels.max()) + 1, dtype=bool)
    chosen[labels[strength > height]] = True
    return np.asarray(chosen[labels])


def _quiet_energy(energy: Float, white: float) -> tuple[float, float, bool]:
    """Log energy of noise from the quietest tiles, its spread, and whether the tiles hold structure too."""
    low, tenth, quarter, upper = (float(q) for q in np.quantile(energy, [0.05, 0.1, 0.25, 0.75]))
    # The lower tail of the tiles themselves, but structure widens that too.
    spread = min(max((quarter - low) / 0.971, white), 1.5 * white)
    return tenth + 1.28 * spread, spread, upper - tenth > 1.3 * 1.956 * spread


def _log_energy(band: Float, corners: NDArray[np.int64], side: int) -> Float:
    """Log of the mean square of every window."""
    return np.asarray(np.log(_window_means(band**2, corners, side) + 1e-30))


def _core(band: Float) -> tuple[float, float]:
    """Centre and deviation of the noise: the shortest interval with half of the pixels, of any tail free."""
    values = np.sort(band.ravel()[:: max(1, band.size // 200_000)])
    half = len(values) // 2
    lengths = values[half:] - values[: len(values) - half]
    first = int(lengths.argmin())
    return float(values[first : first + half].mean()), float(lengths[first] / 1.349) or 1e-30


def _local_detail(image: Float, width: float) -> Float:
    """Deviation of the finest detail around every pixel: it follows thickness and light, not structure."""
    detail = np.sqrt(np.maximum(_blur((image - _blur(image, 1.0)) ** 2, width), 0))
    return np.maximum(detail, 0.2 * float(np.median(detail)) + 1e-30)  # filled borders have none


def _blur(image: Float, width: float) -> Float:
    """Gaussian blur; above 6 pixels two running means, whose time does not grow with the width."""
    if width <= 6:
        return np.asarray(ndimage.gaussian_filter(image, width))
    size = 2 * round((np.sqrt(6 * width**2 + 1) - 1) / 2) + 1  # 2 (size² - 1) / 12 = width²
    return np.asarray(ndimage.uniform_filter(ndimage.uniform_filter(image, size), size))


def _smooth_surface(corners: NDArray[np.int64], mean: Float) -> Float:
    """Quadratic surface through the window means: the ice gets thicker slowly, structure does not."""
    if len(mean) < 12:  # too few windows to tell the surface from structure
        return np.full(len(mean), np.median(mean))
    y, x = (corners - corners.mean(axis=0)).T / max(float(np.ptp(corners)), 1.0)
    terms = np.stack([np.ones_like(y), y, x, y * x, y**2, x**2], axis=1)
    return np.asarray(terms @ np.linalg.lstsq(terms, mean, rcond=None)[0])


def _select(corners: NDArray[np.int64], reasons: dict[str, NDArray[np.bool_]]) -> EmptyAreas:
    """Keep windows without any reason against them; count each lost window under its first reason."""
    kept = np.ones(len(corners), dtype=bool)
    rejected = {}
    for name, is_bad in reasons.items():
        rejected[name] = int((kept & is_bad).sum())
        kept &= ~is_bad
    return EmptyAreas(corners=corners[kept], candidates=len(corners), rejected=rejected)


def _validate_image(image: Float, patch: int) -> None:
    """Refuse what cannot be searched."""
    refuse_patch(patch)
    if min(image.shape) < patch:
        raise ValueError(f"patch of {patch} is larger than the image of {image.shape[0]} x {image.shape[1]}")
    finite = np.isfinite(image)
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), image.shape))
        raise ValueError(
            f"{int((~finite).sum())} pixels that are NaN or infinite, the first at (Y, X) = {first}; "
            "repair it or leave it out first"
        )
    if image.min() == image.max():
        raise ValueError("constant image, no noise in it; leave it out first")


def _centred(image: Float) -> Float:
    """The image as float32 about zero, so that sums of squares keep their digits."""
    return (image - np.float64(image.mean(dtype=np.float64))).astype(np.float32)


def _window_corners(shape: tuple[int, ...], patch: int, stride: int, edge: int) -> NDArray[np.int64]:
    """Window corners on a regular grid centred in the image, clear of the edge."""
    axes = []
    for n in shape:
        first = min(edge, (n - patch) // 2)
        room = n - 2 * first - patch
        start = first + (room % stride) // 2
        axes.append(np.arange(start, first + room + 1, stride))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def cut_windows(image: NDArray[Any], corners: NDArray[np.int64], patch: int) -> NDArray[Any]:
    """Cut windows, shape (n, patch, patch)."""
    return sliding_window_view(image, (patch, patch))[corners[:, 0], corners[:, 1]]


def _window_means(image: NDArray[Any], corners: NDArray[np.int64], patch: int) -> Float:
    """Mean of every window, summed between all edges first: the windows themselves would be gigabytes."""
    (y0, x0), (y1, x1) = corners.T, (corners + patch).T
    y, x = np.unique([y0, y1]), np.unique([x0, x1])
    rows = np.add.reduceat(image[: y[-1]], y[:-1], axis=0, dtype=np.float64)
    blocks = np.add.reduceat(rows[:, : x[-1]], x[:-1], axis=1)
    sums = np.pad(blocks.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    (i0, i1), (j0, j1) = (np.searchsorted(y, (y0, y1)), np.searchsorted(x, (x0, x1)))
    return np.asarray(sums[i1, j1] - sums[i0, j1] - sums[i1, j0] + sums[i0, j0]) / patch**2


def _window_moments(image: Float, corners: NDArray[np.int64], patch: int) -> tuple[Float, Float]:
    """Mean and log variance of every window."""
    mean = _window_means(image, corners, patch)
    variance = _window_means(image.astype(np.float64) ** 2, corners, patch) - mean**2
    return mean, np.log(np.maximum(variance, 0) + 1e-30)


def _robust_std(values: Float) -> float:
    """Estimate the standard deviation from the median absolute deviation of at most two million values."""
    values = values.ravel()[:: 1 + values.size // 2_000_000]
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _upper_limit(values: Float, tolerance: float, least_spread: float) -> float:
    """Where the upper tail should end, judged by the lower tail of a normal law (5 % and 25 % points)."""
    low, quarter = np.quantile(values, [0.05, 0.25])
    spread = max((quarter - low) / 0.971, least_spread)
    return float(quarter + (0.674 + tolerance) * spread)


def _bad_pixels(image: Float) -> NDArray[np.bool_]:
    """Mark hot pixels, gold and filled-in areas."""
    deviation = np.abs(image - np.median(image[::2, ::2])) / (_robust_std(image) or image.std())
    # Skewed noise reaches far; a hot pixel lies well beyond the image's own one-in-ten-thousand value.
    hot = deviation > max(8.0, 1.5 * float(np.quantile(deviation[::2, ::2], 0.9999)))
    # Gold is a few pixels of strong contrast; the ice gradient must not widen the law it is judged by.
    smooth = _blur(image, 2.0) - _blur(image, 16.0)
    gold = np.abs(smooth - np.median(smooth[::2, ::2])) > 6 * (_robust_std(smooth) or smooth.std())
    flat = ndimage.maximum_filter(image, 5) == ndimage.minimum_filter(image, 5)
    return np.asarray(hot | flat | ndimage.binary_dilation(gold, iterations=3))
