"""Templates: a macromolecule on a fine grid, from which every pose of it is sampled.

A pose is looked up, not drawn: each voxel near it is carried into the template's frame. So a million
poses are a few gathers, the same on a CPU and on an accelerator, and the template never leaves its device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from cryomend.specimen.macromolecule import Macromolecule, potential_grid

__all__ = ["Template", "make_template", "occupied_cells", "paste_potential", "whole_balls"]

BLUR_PER_VOXEL = (
    0.5  # standard deviation of a template's blur over the voxel size: total potential within 1 %
)
_FINENESS = 2  # template grid points per voxel along an axis
_CORE_POINTS = 24
_NEGLIGIBLE = 0.01  # of its peak: potential that a pose leaves out
_SAMPLES_AT_ONCE = 1 << 21  # voxels sampled together; bounds the memory


@dataclass(frozen=True)
class Template:
    """What `make_template` makes of one macromolecule.

    ``potential`` (n, n, n) in V and ``occupied`` (n, n, n) bool share a grid of ``spacing`` Å with the
    molecule's origin at point ``n // 2``. ``core`` (m, 3) are points in Å so deep inside that the voxel
    around each is always occupied (the deepest there are if it is too thin for that). ``centre`` (3,) in Å
    is the middle of the balls of voxels ``near`` (k, 3), which hold every occupied voxel, and ``wide``
    (l, 3), which hold all potential above 1 % of its peak.
    """

    molecule: Macromolecule
    potential: Tensor
    occupied: Tensor
    core: Tensor
    centre: Tensor
    near: Tensor
    wide: Tensor
    spacing: float
    voxel_size: float

    @property
    def n_voxels(self) -> float:
        """Volume of the macromolecule in voxels."""
        return float(self.occupied.sum()) * (self.spacing / self.voxel_size) ** 3

    @property
    def reach_px(self) -> int:
        """Voxels from the origin within which all occupied ones lie, in any orientation."""
        return int(self.near.abs().max() + self.centre.norm() / self.voxel_size) + 1


def make_template(
    molecule: Macromolecule, *, voxel_size: float, device: torch.device | str | None = None
) -> Template:
    """Put a macromolecule on the grid from which `occupied_cells` and `paste_potential` sample.

    The potential is blurred by half a voxel (Gaussian standard deviation). Occupied is where it is
    highest, as much as the volume of the molecule.

    Parameters
    ----------
    molecule : Macromolecule
        The macromolecule.
    voxel_size : float
        Of the specimen, Å.
    device : torch.device or str, optional
        Where the template lives.

    Raises
    ------
    ValueError
        If the molecule has no volume.
    """
    spacing = voxel_size / _FINENESS
    # made on the CPU, where sums have one order: what is occupied must not differ between runs
    potential = potential_grid(molecule, spacing=spacing, sigma=BLUR_PER_VOXEL * voxel_size)
    count = round(molecule.volume / spacing**3)
    if count < 1:
        raise ValueError(f"{molecule.name}: too small for voxels of {voxel_size:g} Å")
    values = potential.flatten()
    level = torch.topk(values, min(count, len(values))).values[-1].clamp(min=1e-6)
    occupied = potential >= level
    for axis in range(3):  # `occupied_cells` counts on an empty rim
        occupied.select(axis, 0).fill_(False)
        occupied.select(axis, -1).fill_(False)
    points = _points(occupied, spacing)
    middle = (points.min(0) + points.max(0)) / 2
    reach = float(np.linalg.norm(points - middle, axis=1).max())
    tails = _points(potential.abs() > _NEGLIGIBLE * potential.max(), spacing)
    wide = float(np.linalg.norm(tails - middle, axis=1).max())
    return Template(
        molecule,
        potential.to(device),
        occupied.to(device),
        torch.as_tensor(_core_points(occupied.cpu().numpy(), spacing, voxel_size), device=device),
        torch.as_tensor(middle.astype(np.float32), device=device),
        _ball(reach / voxel_size + 0.9, device),  # 0.9: half the diagonal of a voxel and rounding
        _ball(max(wide, reach) / voxel_size + 0.9, device),
        spacing,
        voxel_size,
    )


def occupied_cells(template: Template, rotations: Tensor, positions_px: Tensor) -> tuple[Tensor, Tensor]:
    """Voxels that poses take.

    Parameters
    ----------
    template : Template
        The macromolecule.
    rotations : Tensor, shape (b, 3, 3)
        Act on ZYX columns.
    positions_px : Tensor, shape (b, 3)
        Voxel coordinates of the molecule's origin.

    Returns
    -------
    middles : Tensor of int64, shape (b, 3)
        Voxel in the middle of the ball around each pose.
    taken : Tensor of bool, shape (b, k)
        Which of the voxels ``middles + template.near`` the pose takes.
    """
    middles, shift = _middles(template, rotations, positions_px)
    n = template.occupied.shape[0]
    step = template.voxel_size / template.spacing
    exact = torch.float32 if n**3 < 1 << 24 else torch.int64  # the quicker one counts no further
    index = torch.zeros((), dtype=exact, device=middles.device)
    for axis in range(3):
        local = _along(template.near, rotations[:, :, axis] * step, shift, n // 2)
        index = index * n + local.round_().clamp_(0, n - 1).to(exact)  # the rim of the template is empty
    return middles, template.occupied.flatten()[index.long()]


def paste_potential(
    density: Tensor,
    template: Template,
    rotations: Tensor,
    positions_px: Tensor,
    *,
    contrast: float = 1.0,
    periodic: bool = False,
) -> None:
    """Add the potential of poses to a volume, in place and in bounded batches.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        In V, contiguous; on the device of the template.
    template : Template
        The macromolecule.
    rotations, positions_px : Tensor, shape (b, 3, 3), (b, 3)
        As in `occupied_cells`.
    contrast : float
        Factor on the potential.
    periodic : bool
        Wrap around in Y and X instead of cutting at the borders.
    """
    step = max(1, _SAMPLES_AT_ONCE // len(template.wide))
    for start in range(0, len(rotations), step):
        turns, places = rotations[start : start + step], positions_px[start : start + step]
        middles, shift = _middles(template, turns, places)
        values = contrast * _interpolate(template, turns, shift)
        for some, flat, inside in _flat_indices(middles, template.wide, density.shape, periodic=periodic):
            added = values[some] if inside is None else values[some] * inside
            density.view(-1).index_add_(0, flat.reshape(-1), added.reshape(-1))


def _flat_indices(
    middles: Tensor, offsets: Tensor, shape: Sequence[int], *, periodic: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Indices (m, k) into a flattened volume of the voxels of balls, and which balls (m,) they are of.

    First the balls inside the volume, by addition only; then those that pass a border, with which of their
    voxels are inside and index 0 for the others.
    """
    limit = torch.tensor(shape, device=middles.device)
    whole, flat = whole_balls(middles, offsets, shape, planes=(0, shape[0]))
    if len(flat):
        yield torch.nonzero(whole).flatten(), flat, None
    which = torch.nonzero(~whole).flatten()
    if len(which):
        cells = middles[which, None] + offsets.long()
        if periodic:
            cells[..., 1:] %= limit[1:]
        inside = ((cells >= 0) & (cells < limit)).all(-1)
        flat = (cells[..., 0] * shape[1] + cells[..., 1]) * shape[2] + cells[..., 2]
        yield which, flat * inside, inside


def whole_balls(
    middles: Tensor, offsets: Tensor, shape: Sequence[int], *, planes: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Which balls of voxels (b,) lie inside a volume's planes, and their indices (m, k) into it flattened."""
    steps = offsets.long()
    reach = steps.abs().amax(0)
    low = torch.tensor((planes[0], 0, 0), device=middles.device) + reach
    high = torch.tensor((planes[1], *shape[1:]), device=middles.device) - reach
    whole = ((middles >= low) & (middles < high)).all(1)
    strides = torch.tensor((shape[1] * shape[2], shape[2], 1), device=middles.device)
    return whole, (middles[whole] * strides).sum(1, keepdim=True) + (steps * strides).sum(1)


def _middles(template: Template, rotations: Tensor, positions_px: Tensor) -> tuple[Tensor, Tensor]:
    """Voxels (b, 3) in the middle of the ball around each pose, and how far they lie from its origin."""
    turned = (rotations * template.centre).sum(2)
    middles = torch.round(positions_px + turned / template.voxel_size)
    return middles.long(), middles - positions_px


def _along(offsets: Tensor, direction: Tensor, shift: Tensor, start: float) -> Tensor:
    """Coordinates (b, k) of voxels along one axis of each template; the same for any number of threads."""
    along = (shift * direction).sum(1, keepdim=True) + start
    for axis in range(3):
        along = torch.addcmul(along, direction[:, axis, None], offsets[:, axis])
    return along


def _interpolate(template: Template, rotations: Tensor, shift: Tensor) -> Tensor:
    """Trilinear values (b, k) of the potential in the voxels around each pose; zero outside the template."""
    n = template.potential.shape[0]
    scale = 2 / (n - 1)  # `grid_sample` counts from -1 to 1 between the outermost points
    step = scale * template.voxel_size / template.spacing
    start = scale * (n // 2) - 1
    axes = [_along(template.wide, rotations[:, :, axis] * step, shift, start) for axis in (2, 1, 0)]
    points = torch.stack(axes, dim=-1).reshape(1, 1, 1, -1, 3)
    values = torch.nn.functional.grid_sample(
        template.potential[None, None], points, align_corners=True, padding_mode="zeros"
    )
    return values.reshape(axes[0].shape)


def _points(chosen: Tensor, spacing: float) -> NDArray[np.float64]:
    """Positions (m, 3) in Å from the origin of the grid points that are chosen."""
    index = np.argwhere(chosen.cpu().numpy()) - chosen.shape[0] // 2
    return index.astype(np.float64) * spacing


def _ball(radius: float, device: torch.device | str | None) -> Tensor:
    """Offsets (k, 3) within a radius in voxels."""
    axis = torch.arange(-int(radius), int(radius) + 1, dtype=torch.float32, device=device)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    return grid[(grid**2).sum(1) <= radius**2]


def _core_points(occupied: NDArray[np.bool_], spacing: float, voxel_size: float) -> NDArray[np.float32]:
    """Well-spread points a voxel's half diagonal below the surface, or the deepest there are."""
    depth = distance_transform_edt(np.pad(occupied, 1))[1:-1, 1:-1, 1:-1] * spacing
    deep = np.argwhere(depth >= min(voxel_size, 0.8 * depth.max()))
    points = ((deep - occupied.shape[0] // 2) * spacing).astype(np.float32)
    chosen = [int(np.argmax(depth[tuple(deep.T)]))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < min(_CORE_POINTS, len(points)):  # farthest-point sampling
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(nearest)))
    return points[chosen]
