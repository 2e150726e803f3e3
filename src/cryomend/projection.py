"""Projection of a volume along the tilted beam, its exact adjoint, and the back-projection of WBP.

Ray-driven (Joseph 1982, doi:10.1109/TMI.1982.4307572): along each ray the volume is sampled once per
voxel plane of the axis that the ray runs along most, with linear interpolation between the two
neighbours, times the path length between planes. Seen from a voxel at the place ``q`` of an image,
the two pixels beside ``q`` have the weights ``max(0, 1 - |x' - q| / m) / m`` with
``m = max(|cos|, |sin|)``; with ``m = 1`` that is linear interpolation, the back-projection of WBP.

On a CPU the compiled loops of `cryomend.ray_kernels` run on as many threads as PyTorch uses; other
devices gather with PyTorch. Both are given the same numbers and tested against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

__all__ = ["backproject", "interpolate_rays", "project_density", "ray_matrix"]

_PLANES = 16  # planes worked on together: what they touch stays in the second-level cache
_COLUMNS = 64


def ray_matrix(
    depth: int, width: int, tilt_angles: NDArray[Any], *, detector_width: int | None = None
) -> csr_matrix:
    """Matrix of line integrals through a (z, x) plane, in voxels.

    Parameters
    ----------
    depth, width : int
        Voxels of the plane along Z and X; its centre is ``(depth // 2, width // 2)``.
    tilt_angles : array, shape (tilt,)
        Degrees; sign of CONVENTIONS.md.
    detector_width : int, optional
        Detector pixels along X, centre at ``detector_width // 2``; ``width`` if None.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (tilt * detector_width, depth * width)
        float32; row ``i * detector_width + x'`` is the ray of tilt ``i`` through pixel ``x'``.

    Raises
    ------
    ValueError
        If an angle lies outside [-90, 90].
    """
    detector_width = detector_width or width
    _require_tilts(tilt_angles)
    rays = np.arange(detector_width) - detector_width // 2
    rows, columns, weights = [], [], []
    for i, angle in enumerate(np.radians(np.asarray(tilt_angles, dtype=np.float64))):
        c, s = math.cos(angle), math.sin(angle)
        along_z = abs(c) >= abs(s)  # the ray x' = x c + z s runs mostly along Z
        steps = np.arange(depth) - depth // 2 if along_z else np.arange(width) - width // 2
        across = (rays[:, None] - steps * s) / c if along_z else (rays[:, None] - steps * c) / s
        size = width if along_z else depth
        position = across + size // 2
        low = np.floor(position).astype(np.int64)
        fraction = position - low
        row = np.broadcast_to((i * detector_width + np.arange(detector_width))[:, None], low.shape)
        plane = np.broadcast_to(steps + (depth // 2 if along_z else width // 2), low.shape)
        for index, share in ((low, 1 - fraction), (low + 1, fraction)):
            keep = (index >= 0) & (index < size) & (share > 0)
            z, x = (plane[keep], index[keep]) if along_z else (index[keep], plane[keep])
            rows.append(row[keep])
            columns.append(z * width + x)
            weights.append((share[keep] / max(abs(c), abs(s))).astype(np.float32))
    shape = (len(tilt_angles) * detector_width, depth * width)
    return csr_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def _require_tilts(tilt_angles: NDArray[Any]) -> None:
    if np.any(np.abs(tilt_angles) > 90):
        raise ValueError(
            f"tilt angles must lie within ±90 degrees, got {float(np.max(np.abs(tilt_angles))):g}"
        )


def project_density(density: Tensor, tilt_angles: NDArray[Any], *, centre_z: float | None = None) -> Tensor:
    """Integrate a volume along the beam at each tilt about Y.

    Parameters
    ----------
    density : Tensor of float32, shape (Z, Y, X)
        Any unit.
    tilt_angles : array, shape (tilt,)
        Degrees.
    centre_z : float, optional
        Plane of the rotation centre; ``Z // 2`` if None.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)
        Line integrals, in the unit of ``density`` times voxels; times the voxel size in Å for V Å.

    Raises
    ------
    ValueError
        If an angle lies outside [-90, 90].
    """
    _require_tilts(tilt_angles)
    if density.requires_grad:
        return _Projection.apply(density, tilt_angles, centre_z)  # type: ignore[no-untyped-call]
    return _project(density, tilt_angles, centre_z)


class _Projection(torch.autograd.Function):
    """`project_density` whose derivative is its adjoint."""

    @staticmethod
    def forward(ctx: Any, density: Tensor, tilt_angles: NDArray[Any], centre_z: float | None) -> Tensor:
        ctx.pose = (tilt_angles, density.shape[0], centre_z)
        return _project(density, tilt_angles, centre_z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        tilt_angles, depth, centre_z = ctx.pose
        return backproject(gradient, tilt_angles, depth=depth, centre_z=centre_z), None, None


def _project(density: Tensor, tilt_angles: NDArray[Any], centre_z: float | None) -> Tensor:
    """Choose the compiled loops or the gathering."""
    depth, height, width = density.shape
    centre = (depth // 2 if centre_z is None else centre_z, width // 2, width // 2)
    if density.device.type == "cpu":
        images = torch.zeros(len(tilt_angles), height, width)
        _project_compiled(density.detach().float().numpy(), tilt_angles, centre, images.numpy())
        return images
    return _project_gathered(density, tilt_angles, centre)


def backproject(
    tilt_series: Tensor, tilt_angles: NDArray[Any], *, depth: int, centre_z: float | None = None
) -> Tensor:
    """Smear images back along their beams; the exact adjoint of `project_density`.

    Parameters
    ----------
    tilt_series : Tensor of float32, shape (tilt, Y, X)
        Images.
    tilt_angles : array, shape (tilt,)
        Degrees.
    depth : int
        Z extent of the volume in voxels.
    centre_z : float, optional
        Plane of the rotation centre; ``depth // 2`` if None.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)

    Raises
    ------
    ValueError
        If an angle lies outside [-90, 90] or the counts of angles and images differ.
    """
    radians = np.radians(np.asarray(tilt_angles, dtype=np.float64))
    return _smear(
        tilt_series, tilt_angles, depth, centre_z, np.maximum(abs(np.cos(radians)), abs(np.sin(radians)))
    )


def interpolate_rays(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    depth: int,
    centre_z: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Sum over all tilts what each voxel reads where it projects (linear interpolation).

    The back-projection of WBP. Its weights sum to one per tilt, so that a constant image smears into
    a constant; those of the adjoint `backproject` do not (0.8 to 1.4 at 45 degrees) and would
    imprint that on noise.

    Parameters
    ----------
    tilt_series, tilt_angles, depth, centre_z
        As in `backproject`.
    out : Tensor of float32, shape (Z, Y, X), optional
        Where to put the result, a slab of a larger volume say.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)

    Raises
    ------
    ValueError
        If an angle lies outside [-90, 90] or the counts of angles and images differ.
    """
    return _smear(tilt_series, tilt_angles, depth, centre_z, np.ones(len(tilt_angles)), out)


def _smear(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    depth: int,
    centre_z: float | None,
    reach: NDArray[np.float64],
    out: Tensor | None = None,
) -> Tensor:
    """Back-project with the weights that ``reach`` sets; see the module."""
    if len(tilt_series) != len(tilt_angles):
        raise ValueError(f"{len(tilt_series)} images but {len(tilt_angles)} tilt angles")
    _require_tilts(tilt_angles)
    _, height, width = tilt_series.shape
    centre = (depth // 2 if centre_z is None else centre_z, width // 2, width // 2)
    if tilt_series.device.type == "cpu":
        volume = torch.empty(depth, height, width) if out is None else out
        _smear_compiled(tilt_series.detach().float().numpy(), tilt_angles, reach, centre, volume.numpy())
        return volume
    gathered = _smear_gathered(tilt_series, tilt_angles, reach, centre, depth)
    return gathered if out is None else out.copy_(gathered)


@contextmanager
def _threads() -> Iterator[Callable[[Callable[[Any], None], Iterable[Any]], None]]:
    """Yield what runs a function on every item, on as many threads as PyTorch uses."""
    count = torch.get_num_threads()
    with ThreadPoolExecutor(count) if count > 1 else nullcontext() as pool:

        def run(work: Callable[[Any], None], items: Iterable[Any]) -> None:
            for _ in map(work, items) if pool is None else pool.map(work, items):
                pass

        yield run


def _smear_compiled(
    images: NDArray[np.float32],
    tilt_angles: NDArray[Any],
    reach: NDArray[np.float64],
    centre: tuple[float, float, float],
    volume: NDArray[np.float32],
) -> None:
    """`_smear` by the compiled kernel, into ``volume`` (Z, Y, X), any strides."""
    from cryomend.ray_kernels import BLOCK, block_rows, smear_block, unblock_rows

    tilts, height, width = images.shape
    depth = volume.shape[0]
    fours = -(-tilts // 4) * 4
    radians = np.zeros(fours)
    radians[:tilts] = np.radians(tilt_angles)
    cosine, sine, reaches = np.cos(radians), np.sin(radians), np.ones(fours)
    reaches[:tilts] = reach
    blocked = np.zeros((fours, width + 2, BLOCK), dtype=np.float32)

    with _threads() as run:
        for start in range(0, height, BLOCK):
            stop = min(start + BLOCK, height)

            def block(t: int, rows: slice = slice(start, stop)) -> None:
                block_rows(images[t : t + 1, rows], blocked[t : t + 1])

            def smear(z: int, rows: slice = slice(start, stop)) -> None:
                planes = slice(z, min(z + _PLANES, depth))
                for x in range(0, width, _COLUMNS):
                    columns = slice(x, min(x + _COLUMNS, width))
                    voxels = np.empty((planes.stop - z, columns.stop - x, BLOCK), dtype=np.float32)
                    shifted = (centre[0] - z, centre[1] - x, float(centre[2]))
                    smear_block(blocked, cosine, sine, reaches, shifted, voxels)
                    unblock_rows(voxels, volume[planes, rows, columns])

            run(block, range(tilts))
            run(smear, range(0, depth, _PLANES))


def _project_compiled(
    volume: NDArray[np.float32],
    tilt_angles: NDArray[Any],
    centre: tuple[float, float, float],
    images: NDArray[np.float32],
) -> None:
    """`project_density` by the compiled kernel, into ``images`` (tilt, Y, X)."""
    from cryomend.ray_kernels import BLOCK, block_rows, project_block, unblock_rows

    depth, height, width = volume.shape
    radians = np.radians(np.asarray(tilt_angles, dtype=np.float64))
    cosine, sine = np.cos(radians), np.sin(radians)
    centres = (float(centre[0]), float(centre[1]), float(centre[2]))
    voxels = np.zeros((depth, width, BLOCK), dtype=np.float32)
    rays = np.zeros((len(radians), width + 2, BLOCK), dtype=np.float32)
    parts = max(1, depth // _PLANES)
    with _threads() as run:
        for start in range(0, height, BLOCK):
            rows = slice(start, min(start + BLOCK, height))
            rays[:] = 0

            def block(z: int, rows: slice = rows) -> None:
                block_rows(volume[z : z + 1, rows], voxels[z : z + 1])

            run(block, range(depth))
            for part in range(parts):  # a few planes at a time for all tilts, while they are in the cache

                def project(t: int, part: int = part) -> None:
                    planes = depth if abs(cosine[t]) >= abs(sine[t]) else width
                    share = (part * planes // parts, (part + 1) * planes // parts)
                    project_block(voxels, cosine[t], sine[t], centres, share, rays[t])

                run(project, range(len(radians)))
            unblock_rows(rays, images[:, rows])


def _smear_gathered(
    images: Tensor,
    tilt_angles: NDArray[Any],
    reach: NDArray[np.float64],
    centre: tuple[float, float, float],
    depth: int,
) -> Tensor:
    """`_smear` with PyTorch on any device, a few planes at a time."""
    _, height, width = images.shape
    device = images.device
    volume = torch.empty(depth, height, width, device=device)
    radians = np.radians(np.asarray(tilt_angles, dtype=np.float64))
    for start in range(0, depth, _PLANES):
        z = torch.arange(start, min(start + _PLANES, depth), device=device)[:, None] - centre[0]
        x = torch.arange(width, device=device)[None] - centre[1]
        total = torch.zeros(height, z.numel() * width, device=device)
        for image, theta, m in zip(images, radians, reach, strict=True):
            q = (x * math.cos(theta) + z * math.sin(theta) + centre[2]).flatten()
            low = q.floor()
            for place, distance in ((low, q - low), (low + 1, low + 1 - q)):
                weight = (1 - distance / m).clamp(min=0) / m * ((place >= 0) & (place < width))
                total += image[:, place.clamp(0, width - 1).long()] * weight
        volume[start : start + z.numel()] = total.reshape(height, -1, width).permute(1, 0, 2)
    return volume


def _project_gathered(
    density: Tensor, tilt_angles: NDArray[Any], centre: tuple[float, float, float]
) -> Tensor:
    """`project_density` with PyTorch on any device, plane by plane."""
    depth, height, width = density.shape
    device = density.device
    images = torch.zeros(len(tilt_angles), height, width, device=device)
    rays = torch.arange(width, device=device) - centre[2]
    for image, theta in zip(images, np.radians(np.asarray(tilt_angles, dtype=np.float64)), strict=True):
        c, s = math.cos(theta), math.sin(theta)
        along_z = abs(c) >= abs(s)
        planes, size = (depth, width) if along_z else (width, depth)
        plane_centre, size_centre = (centre[0], centre[1]) if along_z else (centre[1], centre[0])
        main, other = (c, s) if along_z else (s, c)
        for plane in range(planes):
            section = density[plane] if along_z else density[:, :, plane].T
            q = (rays - (plane - plane_centre) * other) / main + size_centre
            low = q.floor()
            for place, share in ((low, low + 1 - q), (low + 1, q - low)):
                weight = share / abs(main) * ((place >= 0) & (place < size))
                image += section[:, place.clamp(0, size - 1).long()] * weight
    return images
