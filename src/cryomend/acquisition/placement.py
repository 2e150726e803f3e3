"""Where the image of the specimen falls on the detector, and the projection of a specimen in any pose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.projection import project_density

__all__ = [
    "Placement",
    "alignment_of",
    "backproject_placed",
    "place_image",
    "project_placed",
    "rotate_about_x",
]


@dataclass(frozen=True)
class Placement:
    """One recorded image: the point ``u`` of the specimen's image at ``magnification R(rotation) u + shift``.

    ``rotation`` in degrees from X towards Y (the tilt axis, along Y before, then stands at IMOD's tilt axis
    angle ``rotation``), ``shift_xy`` in pixels.
    """

    rotation: float = 0.0
    magnification: float = 1.0
    shift_xy: tuple[float, float] = (0.0, 0.0)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Of the linear part, on (x, y) columns."""
        c, s = math.cos(math.radians(self.rotation)), math.sin(math.radians(self.rotation))
        return self.magnification * np.array([[c, -s], [s, c]])


def place_image(image: Tensor, placement: Placement, *, displacement_xy: Tensor | None = None) -> Tensor:
    """Resample an image to where it falls on the detector (bicubic; zero beyond its edge).

    Parameters
    ----------
    image : Tensor, shape (Y, X)
        Of the specimen, centre at pixel ``n // 2``.
    placement : Placement
        Rotation, magnification, shift.
    displacement_xy : Tensor, optional, shape (Y, X, 2)
        Pixels by which every point of the detector's image has moved further.

    Returns
    -------
    Tensor of float32, shape (Y, X)
        Linear in ``image``.
    """
    height, width = image.shape
    y = torch.arange(height, dtype=torch.float64) - height // 2
    x = torch.arange(width, dtype=torch.float64) - width // 2
    points = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    if displacement_xy is not None:
        points = points - displacement_xy.cpu().double()
    inverse = torch.from_numpy(np.linalg.inv(placement.matrix))
    source = (points - torch.tensor(placement.shift_xy, dtype=torch.float64)) @ inverse.T
    # from our centre n // 2 to the middle of the image, the origin of grid_sample
    middle = torch.tensor([width // 2 - (width - 1) / 2, height // 2 - (height - 1) / 2], dtype=torch.float64)
    grid = (source + middle) * 2 / torch.tensor([width, height], dtype=torch.float64)
    grid = grid.float().to(image.device)
    sampled = torch.nn.functional.grid_sample(
        image[None, None], grid[None], mode="bicubic", align_corners=False
    )
    return sampled[0, 0]


def alignment_of(placements: list[Placement], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Rows of IMOD's .xf that undo placements, A11 A12 A21 A22 DX DY.

    Returns
    -------
    array, shape (tilt, 6)
    """
    half = np.array([n // 2 - (n - 1) / 2 for n in reversed(shape)])  # from IMOD's middle to our centre
    rows = []
    for placement in placements:
        inverse = np.linalg.inv(placement.matrix)
        rows.append([*inverse.ravel(), *(-inverse @ (np.array(placement.shift_xy) + half))])
    return np.array(rows)


def rotate_about_x(density: Tensor, angle: float) -> Tensor:
    """Turn a volume about X: the point (y, z) goes to ``(y cos a - z sin a, y sin a + z cos a)``.

    Linear interpolation in the (z, y) plane, zero beyond the volume.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        Any unit.
    angle : float
        Degrees; IMOD's XAXISTILT.

    Returns
    -------
    Tensor of float32, shape of ``density``
    """
    depth, height, _ = density.shape
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    z = torch.arange(depth, device=density.device)[:, None] - depth // 2
    y = torch.arange(height, device=density.device)[None] - height // 2
    source_y, source_z = y * c + z * s, -y * s + z * c
    grid = torch.stack(
        [
            (source_y + height // 2 - (height - 1) / 2) * 2 / height,
            (source_z + depth // 2 - (depth - 1) / 2) * 2 / depth,
        ],
        dim=-1,
    )
    planes = density.permute(2, 0, 1)[None]
    turned = torch.nn.functional.grid_sample(planes, grid[None].float(), mode="bilinear", align_corners=False)
    return turned[0].permute(1, 2, 0).contiguous()


def project_placed(
    density: Tensor, tilt_angles: NDArray[Any], placements: list[Placement], *, x_tilt: float = 0.0
) -> Tensor:
    """Project a specimen tilted about X and Y onto a detector that is turned, moved and magnified.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        Any unit.
    tilt_angles : array, shape (tilt,)
        Degrees.
    placements : list of Placement
        One per tilt.
    x_tilt : float
        Degrees; before the tilt about Y.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)
        Line integrals in voxels.
    """
    turned = rotate_about_x(density, x_tilt) if x_tilt else density
    images = project_density(turned, tilt_angles)
    return torch.stack([place_image(i, p) for i, p in zip(images, placements, strict=True)])


def backproject_placed(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    placements: list[Placement],
    *,
    depth: int,
    x_tilt: float = 0.0,
) -> Tensor:
    """Smear images back along their beams: the exact adjoint of `project_placed`.

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Images.
    tilt_angles, placements, x_tilt
        As in `project_placed`.
    depth : int
        Z extent of the volume in voxels.

    Returns
    -------
    Tensor of float32, shape (depth, Y, X)

    Notes
    -----
    Every step is linear, so the adjoint is its derivative carried backwards (automatic differentiation);
    that of the projector is `backproject`.
    """
    start = torch.zeros(depth, *tilt_series.shape[1:], device=tilt_series.device, requires_grad=True)
    images = project_placed(start, tilt_angles, placements, x_tilt=x_tilt)
    (adjoint,) = torch.autograd.grad(images, start, tilt_series)
    return adjoint
