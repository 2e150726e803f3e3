"""Find the areas of a tilt image that hold no structure, by the image's own statistics.

Called by ``patches`` for every tilt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["EmptyAreas", "cut_windows", "find_empty_areas"]

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class EmptyAreas:
    """Where one image holds no structure: corners (n, 2) YX in pixels, and why the other windows fell out."""

    corners: NDArray[np.int64]
    candidates: int
    rejected: dict[str, int]


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
    trend of the image, if its variance is far above the others', or if it holds more energy than noise
    would in one of two bands where structure shows (features of about 4 to ``patch / 2`` pixels). Band
    energies are taken relative to the energy of the finest detail, so that thick ice or uneven light alone
    costs nothing. The quietest tenth of the windows counts as empty, and so does whatever is as quiet within
    the spread that sampling alone gives: pure noise stays nearly unselected. Keeping only the quietest
    windows would make noise look weaker than it is.

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
        Standard deviations allowed to the band energies; twice as many to mean and variance.

    Returns
    -------
    EmptyAreas

    Raises
    ------
    ValueError
        If the patch is odd, smaller than 16 or larger than the image, or the image is constant or not finite.
    """
    _validate_image(image, patch)
    image = np.asarray(image, dtype=np.float64)
    corners = _window_corners(image.shape, patch, stride or patch // 2, patch // 16 if edge is None else edge)
    mean, log_variance = _window_moments(image, corners, patch)
    level = mean - _smooth_surface(corners, mean)
    allowed = 2 * tolerance * max(_robust_std(level), 0.02 * _robust_std(image))
    reasons: dict[str, NDArray[np.bool_]] = {
        "gold, hot or filled pixels": np.any(cut_windows(_bad_pixels(image), corners, patch), axis=(1, 2)),
        "mean": np.greater(np.abs(level - np.median(level)), allowed),
        "variance": log_variance > _upper_limit(log_variance, 2 * tolerance, 2 / patch),
    }
    for name, fine, coarse in (("band energy, fine", 2.0, 8.0), ("band energy, coarse", 3.0, patch / 4)):
        energy = _band_energy(image, corners, patch, fine=fine, coarse=coarse)
        # White noise keeps P² / (2 π fine²) degrees of freedom behind a Gaussian; correlated noise fewer.
        spread = 1.25 * np.sqrt(4 * np.pi) * fine / patch
        reasons[name] = energy > float(np.quantile(energy, 0.1)) + (1.28 + tolerance) * spread
    return _select(corners, reasons)


def _band_energy(
    image: Float, corners: NDArray[np.int64], patch: int, *, fine: float, coarse: float
) -> Float:
    """Log energy of every window between two Gaussian widths in pixels, over that of its finest detail."""
    band = ndimage.gaussian_filter(image, fine) - ndimage.gaussian_filter(image, coarse)
    detail = image - ndimage.gaussian_filter(image, 1.0)
    energy, reference = (cut_windows(part**2, corners, patch).mean(axis=(1, 2)) for part in (band, detail))
    return np.asarray(np.log((energy + 1e-30) / (reference + 1e-30)))


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
    if patch < 16 or patch % 2:
        raise ValueError(f"patch must be even and at least 16 pixels, got {patch}")
    if min(image.shape) < patch:
        raise ValueError(f"patch of {patch} is larger than the image of {image.shape[0]} x {image.shape[1]}")
    finite = np.isfinite(image)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{(~finite).sum()} non-finite pixels, the first at (y, x) = {first}")
    if image.min() == image.max():
        raise ValueError("constant image, no noise in it")


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


def _window_moments(image: Float, corners: NDArray[np.int64], patch: int) -> tuple[Float, Float]:
    """Mean and log variance of every window."""
    windows = cut_windows(image, corners, patch)
    return windows.mean(axis=(1, 2)), np.log(windows.var(axis=(1, 2)) + 1e-30)


def _robust_std(values: Float) -> float:
    """Estimate the standard deviation from the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _upper_limit(values: Float, tolerance: float, least_spread: float) -> float:
    """Where the upper tail should end, judged by the lower tail of a normal law (5 % and 25 % points)."""
    low, quarter = np.quantile(values, [0.05, 0.25])
    spread = max((quarter - low) / 0.971, least_spread)
    return float(quarter + (0.674 + tolerance) * spread)


def _bad_pixels(image: Float) -> NDArray[np.bool_]:
    """Mark hot pixels, gold and filled-in areas."""
    deviation = np.abs(image - np.median(image)) / (_robust_std(image) or image.std())
    # Skewed noise reaches far; a hot pixel lies well beyond the image's own one-in-ten-thousand value.
    hot = deviation > max(8.0, 1.5 * float(np.quantile(deviation, 0.9999)))
    # Gold is a few pixels of strong contrast; the ice gradient must not widen the law it is judged by.
    smooth = ndimage.gaussian_filter(image, 2.0) - ndimage.gaussian_filter(image, 16.0)
    gold = np.abs(smooth - np.median(smooth)) > 6 * (_robust_std(smooth) or smooth.std())
    flat = ndimage.maximum_filter(image, 5) == ndimage.minimum_filter(image, 5)
    return np.asarray(hot | flat | ndimage.binary_dilation(gold, iterations=3))
