"""Pictures of a volume for the report: sections, averages, the Fourier x-z plane, as PNG bytes."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.signal.windows import tukey

from cryomend.evaluation.slices import grey_range, read_planes

__all__ = [
    "bin_picture",
    "central_sections",
    "encode_png",
    "fourier_plane",
    "grey_range",
    "hatch_png",
    "plain_text",
    "scale_bar_nm",
]

LONGEST_SIDE = 640  # pixels; keeps the page of a 512 x 512 x 200 volume below 5 MB
HATCH_PERIOD = 16  # pixels from stripe to stripe
Picture = NDArray[np.float32]


def central_sections(volume: NDArray[Any]) -> dict[str, Picture]:
    """Sections through the rotation centre (voxel n // 2 of each axis).

    Parameters
    ----------
    volume : array, shape (Z, Y, X)

    Returns
    -------
    dict of array
        ``xy`` (Y, X), ``xz`` (Z, X) and ``yz`` (Y, Z).
    """
    z, y, x = (n // 2 for n in volume.shape)
    rows, columns = [], []
    for n, plane in enumerate(read_planes(volume)):  # it may lie in a file, where columns are far apart
        rows.append(plane[y].copy())
        columns.append(plane[:, x].copy())
        if n == z:
            middle = plane.copy()
    return {"xy": middle, "xz": np.stack(rows), "yz": np.stack(columns, axis=1)}


def bin_picture(picture: Picture, longest_side: int = LONGEST_SIDE) -> Picture:
    """Average square blocks of pixels until the longest side fits; what does not fill a block is cut."""
    factor = math.ceil(max(picture.shape) / longest_side)
    factor = min(factor, *picture.shape)
    rows, columns = (n // factor * factor for n in picture.shape)
    blocks = picture[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def fourier_plane(volume: NDArray[Any], *, n_ky: int = 2, side: int = 400) -> Picture:
    """Logarithm of the Fourier amplitude in the x-z plane.

    Parameters
    ----------
    volume : array, shape (Z, Y, X)
        Its mean is removed and its faces are tapered by a tenth of the side, lest they draw a cross.
    n_ky : int
        The power is averaged over the planes ky = -n_ky ... n_ky.
    side : int
        Pixels of the picture.

    Returns
    -------
    array, shape (side, side)
        ``log10`` of the amplitude over that of white noise of the same variance. Rows are kz,
        columns kx, from minus to plus Nyquist, so that angles are true whatever the shape.
    """
    nz, ny, nx = volume.shape
    wz, wy, wx = (tukey(n, 0.2).astype(np.float32) for n in volume.shape)
    ky = np.arange(-n_ky, n_ky + 1)[:, None] / ny
    phases = (np.exp(-2j * np.pi * ky * np.arange(ny)) * wy).astype(np.complex64)
    # one pass, for volumes that lie in a file: near the mean first, then to the mean
    near, total, squares, rows = float(np.mean(volume[nz // 2], dtype=np.float64)), 0.0, 0.0, []
    for plane in read_planes(volume):
        centred = plane - np.float32(near)
        total += float(centred.sum(dtype=np.float64))
        squares += float(np.square(centred, dtype=np.float64).sum())
        rows.append(phases @ centred)
    mean = total / volume.size
    deviation = math.sqrt(max(squares / volume.size - mean**2, 0.0))
    projected = np.stack(rows, axis=1) - np.complex64(mean) * phases.sum(axis=1)[:, None, None]
    transform = np.fft.fftshift(np.fft.fft2(projected * wz[:, None] * wx), axes=(1, 2))
    white = deviation**2 * np.prod([(w**2).sum() for w in (wz, wy, wx)])
    power = (np.abs(transform) ** 2).mean(axis=0) / max(white, np.finfo(np.float32).tiny)
    logarithm = 0.5 * np.log10(power + 1e-12)
    k = np.linspace(-0.5, 0.5, side)
    # the origin of the shifted transform is sample n // 2; what lies half a sample outside wraps round
    coordinates = np.meshgrid(k * nz + nz // 2, k * nx + nx // 2, indexing="ij")
    return np.asarray(map_coordinates(logarithm, coordinates, order=1, mode="grid-wrap"), dtype=np.float32)


def encode_png(picture: Picture, limits: tuple[float, float], *, colour_map: str = "gray") -> str:
    """Draw an array as a PNG, row 0 at the bottom, and give it as a data URI."""
    buffer = io.BytesIO()
    imsave(buffer, picture, vmin=limits[0], vmax=limits[1], cmap=colour_map, origin="lower", format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def hatch_png(mask: NDArray[np.bool_], *, side: int = 720) -> str:
    """Draw diagonal stripes where a mask is set, transparent elsewhere; row 0 at the bottom.

    Every stripe is black beside white, so that it stands out on any grey level and without colours.

    Parameters
    ----------
    mask : array of bool, shape (rows, columns)
    side : int
        The picture is enlarged by a whole number until its longest side has about so many pixels.

    Returns
    -------
    str
        A PNG as a data URI.
    """
    factor = max(1, round(side / max(mask.shape)))
    large = np.kron(mask, np.ones((factor, factor), dtype=bool))
    row, column = np.indices(large.shape)
    place = (row + column) % HATCH_PERIOD
    picture = np.zeros((*large.shape, 4), dtype=np.uint8)
    picture[large & (place < HATCH_PERIOD // 2)] = (255, 255, 255, 255)
    picture[large & (place < HATCH_PERIOD // 4)] = (0, 0, 0, 255)
    buffer = io.BytesIO()
    imsave(buffer, picture, origin="lower", format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def plain_text(name: str) -> str:
    """Make the name of a file fit to be drawn or written: bytes in it that are no UTF-8 become ``?``."""
    return name.encode("utf-8", "replace").decode("utf-8")


def scale_bar_nm(width_nm: float) -> float:
    """Longest of 1, 2, 5, 10, 20, 50 ... nm that spans at most a third of the width."""
    decade = 10.0 ** math.floor(math.log10(width_nm / 3))
    fitting = [step for step in (1.0, 2.0, 5.0) if step * decade <= width_nm / 3 * (1 + 1e-9)]
    return max(fitting) * decade
