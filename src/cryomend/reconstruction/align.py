"""Images on their way in: alignment, binning, dose weighting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.dose import radiation_damage
from cryomend.fourier import filter_fourier, resample_fourier

__all__ = ["align_images", "bin_images", "binned_shape", "dose_weight"]


def align_images(
    images: Tensor,
    matrices: NDArray[Any],
    shifts_xy: NDArray[Any],
    *,
    output_shape: tuple[int, int],
) -> Tensor:
    """Resample images so that the tilt axis runs along Y through the centre of the output.

    ``(X', Y') = matrix (X, Y) + shift`` as in IMOD's .xf: input coordinates count from the middle of
    the image, pixel ``(n - 1) / 2``; the middle of the aligned image, where IMOD's tilt axis stands,
    becomes our centre, pixel ``n // 2``. Cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711) with
    PyTorch's a = -3/4, which keeps more of the high frequencies than -1/2: between two pixels 0.97
    against 0.88 of the amplitude at half of Nyquist.

    Parameters
    ----------
    images : Tensor, shape (tilt, Y, X)
        Raw images.
    matrices : array, shape (tilt, 2, 2)
        Act on (x, y) columns.
    shifts_xy : array, shape (tilt, 2)
        Pixels.
    output_shape : tuple of int
        (Y, X) of the aligned images.

    Returns
    -------
    Tensor of float32, shape (tilt, *output_shape)
        The image's mean where the raw image does not reach.

    Raises
    ------
    ValueError
        If the counts differ or a matrix cannot be inverted.
    """
    if not len(images) == len(matrices) == len(shifts_xy):
        raise ValueError(f"{len(images)} images but {len(matrices)} matrices and {len(shifts_xy)} shifts")
    height, width = images.shape[1:]
    y = torch.arange(output_shape[0], dtype=torch.float64) - output_shape[0] // 2
    x = torch.arange(output_shape[1], dtype=torch.float64) - output_shape[1] // 2
    aligned = torch.empty(len(images), *output_shape, device=images.device)
    for i, image in enumerate(images):
        if abs(np.linalg.det(matrices[i])) < 1e-6:
            raise ValueError(f"image {i + 1}: its alignment matrix cannot be inverted")
        inverse = np.linalg.inv(matrices[i])
        dx, dy = x - float(shifts_xy[i][0]), y - float(shifts_xy[i][1])
        raw_x = inverse[0, 0] * dx[None] + inverse[0, 1] * dy[:, None]
        raw_y = inverse[1, 0] * dx[None] + inverse[1, 1] * dy[:, None]
        # grid_sample without aligned corners: -1 and 1 are the outer edges of the image
        grid = torch.stack([raw_x * 2 / width, raw_y * 2 / height], dim=-1).float().to(images.device)
        mean = image.mean()
        sampled = torch.nn.functional.grid_sample(
            (image - mean)[None, None], grid[None], mode="bicubic", align_corners=False
        )
        aligned[i] = sampled[0, 0] + mean
    return aligned


def bin_images(images: Tensor, factor: float) -> tuple[Tensor, float]:
    """Make images smaller by cropping their Fourier transform; the centre stays on the centre.

    Parameters
    ----------
    images : Tensor, shape (tilt, Y, X)
        Images with their centre at pixel ``n // 2``.
    factor : float
        At least 1.

    Returns
    -------
    binned : Tensor of float32, shape (tilt, Y', X')
        Even sides of about ``n / factor``; grey levels keep their mean.
    factor : float
        By which the pixels really grew along X.

    Raises
    ------
    ValueError
        If the factor is below 1 or leaves fewer than 16 pixels along an axis.

    Notes
    -----
    The outermost pixels are cut away first, so that both axes shrink by ``factor``: exactly where it is
    whole, else to within a pixel over the image.
    """
    height, width = images.shape[1:]
    kept, new = binned_shape((height, width), factor)
    start = [n // 2 - m // 2 for n, m in zip((height, width), kept, strict=True)]
    images = images[:, start[0] : start[0] + kept[0], start[1] : start[1] + kept[1]]
    return resample_fourier(images, new), kept[1] / new[1]


def binned_shape(shape: tuple[int, int], factor: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels (Y, X) of an image that `bin_images` keeps, and how many they become.

    Raises
    ------
    ValueError
        If the factor is below 1 or leaves fewer than 16 pixels along an axis.
    """
    if factor < 1:
        raise ValueError(f"binning by {factor:g} would magnify; give at least 1")
    height, width = (2 * math.floor(n / factor / 2 + 1e-9) for n in shape)
    if min(height, width) < 16:
        raise ValueError(f"binning by {factor:g} leaves {min(height, width)} pixels; at least 16 are needed")
    kept = (min(shape[0], round(height * factor)), min(shape[1], round(width * factor)))
    return kept, (height, width)


def dose_weight(
    images: Tensor,
    prior: NDArray[Any],
    exposure: NDArray[Any],
    *,
    pixel_size: float,
    voltage_kv: float = 300.0,
) -> Tensor:
    """Filter each image by what its frequencies are worth after the exposure that they received.

    The amplitude left, ``exp(-N / (2 Nc(k)))`` with N the exposure at the end of the image: the filter of
    Grant & Grigorieff 2015 (doi:10.7554/eLife.06980) as unblur and IMOD's mtffilter apply it; like the
    latter, without a cut at the optimal exposure. It is not divided by the root of the sum of its squares
    over the images, as for frames that are added: tilts of different directions are not.

    Parameters
    ----------
    images : Tensor, shape (tilt, Y, X)
        Images.
    prior, exposure : array, shape (tilt,)
        e⁻/Å² before each image, and of it.
    pixel_size : float
        Å.
    voltage_kv : float
        Scales the critical exposure.

    Returns
    -------
    Tensor of float32, shape of ``images``

    Raises
    ------
    ValueError
        If the counts differ.
    """
    if not len(images) == len(prior) == len(exposure):
        raise ValueError(f"{len(images)} images but {len(prior)} and {len(exposure)} exposures")
    shape = (images.shape[1], images.shape[2])
    weighted = torch.empty_like(images)
    for i, image in enumerate(images):
        left = radiation_damage(
            shape,
            pixel_size=pixel_size,
            accumulated_fluence=float(prior[i] + exposure[i]),
            voltage_kv=voltage_kv,
            device=images.device,
        )
        weighted[i] = filter_fourier(image, left)
    return weighted
