"""Where the image of the specimen falls on the detector, and the projection of a specimen in any pose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.acquisition.defocus_gradient import depth_nodes, parallax, project_slabs
from cryomend.fourier import shift_phase
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


def alignment_of(placements: Sequence[Placement], shape: tuple[int, int]) -> NDArray[np.float64]:
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
    density: Tensor,
    tilt_angles: NDArray[Any],
    placements: Sequence[Placement],
    *,
    x_tilt: float = 0.0,
    beam_tilt_mrad_xy: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Project a specimen tilted about X and Y, with a tilted beam, onto a detector that is turned and moved.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        Any unit.
    tilt_angles : array, shape (tilt,)
        Degrees.
    placements : sequence of Placement
        One per tilt.
    x_tilt : float
        Degrees; before the tilt about Y.
    beam_tilt_mrad_xy : pair of float
        β along X and Y: what lies at the depth z' appears displaced by ``z' tan β``.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)
        Line integrals in voxels; periodic where the beam's tilt displaces over the border.

    Raises
    ------
    ValueError
        If an angle lies outside ±90 degrees or the numbers of tilts and placements differ.
    """
    if len(placements) != len(tilt_angles):
        raise ValueError(f"{len(placements)} placements but {len(tilt_angles)} tilt angles")
    turned = rotate_about_x(density, x_tilt) if x_tilt else density
    if any(beam_tilt_mrad_xy):
        images = torch.stack([_project_slanted(turned, float(t), beam_tilt_mrad_xy) for t in tilt_angles])
    else:
        images = project_density(turned, tilt_angles)
    return torch.stack([place_image(i, p) for i, p in zip(images, placements, strict=True)])


def _project_slanted(density: Tensor, tilt_angle: float, beam_tilt_mrad_xy: tuple[float, float]) -> Tensor:
    """Projection of one tilt along a tilted beam, depth by depth."""
    volume = (density.shape[0], density.shape[1], density.shape[2])
    nodes = depth_nodes(volume, tilt_angle, pixel_size=1.0, beam_tilt_mrad_xy=beam_tilt_mrad_xy)
    parts = torch.fft.rfft2(project_slabs(density, tilt_angle, nodes_px=nodes))
    shifts = [shift_phase(volume[1:], parallax(node, beam_tilt_mrad_xy), density.device) for node in nodes]
    return torch.fft.irfft2((parts * torch.stack(shifts)).sum(dim=0), s=volume[1:])


def backproject_placed(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    placements: Sequence[Placement],
    *,
    depth: int,
    x_tilt: float = 0.0,
    beam_tilt_mrad_xy: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Smear images back along their beams: the exact adjoint of `project_placed`.

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Images.
    tilt_angles, placements, x_tilt, beam_tilt_mrad_xy
        As in `project_placed`.
    depth : int
        Z extent of the volume in voxels.

    Returns
    -------
    Tensor of float32, shape (depth, Y, X)

    Raises
    ------
    ValueError
        As `project_placed`, or if the numbers of tilts and images differ.

    Notes
    -----
    Every step is linear, so the adjoint is its derivative carried backwards (automatic differentiation);
    those of the projectors are `backproject` and `smear_slabs`.
    """
    if len(tilt_series) != len(tilt_angles):
        raise ValueError(f"{len(tilt_series)} images but {len(tilt_angles)} tilt angles")
    start = torch.zeros(depth, *tilt_series.shape[1:], device=tilt_series.device, requires_grad=True)
    images = project_placed(
        start, tilt_angles, placements, x_tilt=x_tilt, beam_tilt_mrad_xy=beam_tilt_mrad_xy
    )
    (adjoint,) = torch.autograd.grad(images, start, tilt_series)
    return adjoint
