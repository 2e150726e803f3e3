"""Level sets: the distance to where a smooth field is zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from cryomend.specimen.surface_grid import Frame, Grid, Surface

__all__ = ["drop_islands", "measure_anew", "redistance"]


def drop_islands(field: NDArray[np.float32], smallest: float) -> None:
    """Flip, in place, the sign of connected parts of either side that have fewer than ``smallest`` nodes.

    Parts cut by the border count by what is seen of them.
    """
    for side in (1, -1):
        parts, n = label(field * side < 0)
        small = np.bincount(parts.reshape(-1), minlength=n + 1) < smallest
        small[0] = False
        field[small[parts]] *= -1


def redistance(field: NDArray[np.float32], *, spacing: float, within: float) -> NDArray[np.float32]:
    """Turn any smooth field into the signed distance to the surface where it is zero.

    Each node beside the surface gets a facet: the foot of its perpendicular, the normal and the
    curvatures, from second differences of the field. Every other node takes the facet of the
    nearest such node (an exact Euclidean transform, linear in the number of nodes) and measures the
    distance to the sphere that osculates it in the direction of the node.

    Parameters
    ----------
    field : array of float32, shape (Z, Y, X)
        Negative on one side, positive on the other; its scale does not matter.
    spacing : float
        Between nodes, Å.
    within : float
        How far from the surface facets are used, Å; beyond, distances are to the nearest node.

    Returns
    -------
    array of float32, shape of ``field``
        Å.

    Raises
    ------
    ValueError
        If the field has no zero or fewer than three nodes along an axis.

    Notes
    -----
    With the offset ``a`` along the normal, ``t`` across it and the curvature ``k`` along ``t``::

        d = (sqrt((1 + a k)² + t² k²) - 1) / k

    which is exact for spheres; else the error is of the order of the spacing cubed over the square
    of the radius of curvature.

    References
    ----------
    Maurer et al. 2003, doi:10.1109/TPAMI.2003.1177156 (the transform).
    """
    if min(field.shape) < 3:
        raise ValueError(f"need at least three nodes along each axis, got {field.shape}")
    beside = _beside_zero(field)
    facets = _facets(field, np.argwhere(beside))
    if len(facets) == 0:
        raise ValueError("the field is zero nowhere; there is no surface")
    number = np.zeros(field.shape, dtype=np.int32)
    number[beside] = np.arange(len(facets))
    nearest = distance_transform_edt(~beside, return_distances=False, return_indices=True)
    distance = np.empty(field.shape, dtype=np.float32)
    points = np.empty((*field.shape[1:], 3), dtype=np.float32)
    points[..., 1], points[..., 2] = np.meshgrid(*map(np.arange, field.shape[1:]), indexing="ij")
    for z, plane in enumerate(field):
        points[..., 0] = z
        chosen = number[nearest[0, z], nearest[1, z], nearest[2, z]].reshape(-1)
        found = _distance_to_facets(points.reshape(-1, 3), facets, chosen, within / spacing)
        found = found.reshape(plane.shape)
        # close by, a facet knows the side better than the node does
        distance[z] = np.where(np.abs(found) < 1, found, np.copysign(found, plane))
    distance *= np.float32(spacing)
    return distance


def measure_anew(grid: Grid, values: NDArray[np.float32], frame: Frame, *, closed: bool) -> Surface:
    """Redistance a field on the nodes and refine it to the voxels."""
    distance = redistance(values, spacing=grid.spacing, within=frame.reach + 3.5 * grid.spacing)
    return grid.surface(distance, closed=closed, reach=frame.reach)


def _beside_zero(field: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mark the nodes that have a neighbour of the other sign."""
    positive = field > 0
    beside = np.zeros(field.shape, dtype=bool)
    for axis in range(3):
        ahead, here = (np.moveaxis(a, axis, 0) for a in (positive, beside))
        changes = ahead[1:] != ahead[:-1]
        here[1:] |= changes
        here[:-1] |= changes
    return beside


def _facets(field: NDArray[np.float32], nodes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Node, foot, normal and shape operator (zz, yy, xx, zy, zx, yx), (n, 15) in units of the spacing."""
    value, slope, bend = _second_order(field, middle := np.clip(nodes, 1, np.array(field.shape) - 2))
    offset = (nodes - middle).astype(np.float32)
    for _ in range(4):  # Newton's method along the gradient of the second-order model
        steep = slope + np.einsum("nij,nj->ni", bend, offset)
        height = value + ((slope + steep) * offset).sum(1) / 2
        squared = np.maximum((steep**2).sum(1), 1e-12)
        offset = offset - (height / squared)[:, None] * steep
    away = offset - (nodes - middle)
    # where the gradient vanishes the model has no zero nearby; the surface is within a node all the same
    away *= np.minimum(1, 1 / np.maximum(np.linalg.norm(away, axis=1), 1e-6))[:, None]
    foot = nodes + away
    length = np.sqrt(squared)[:, None]
    normal = steep / length
    across = np.eye(3, dtype=np.float32) - normal[:, :, None] * normal[:, None, :]
    shape = across @ bend @ across / length[..., None]
    shape /= np.maximum(1, np.linalg.norm(shape, axis=(1, 2)))[:, None, None]  # no radius below a node
    i, j = [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]
    return np.concatenate([nodes, foot, normal, shape[:, i, j]], axis=1).astype(np.float32)


def _second_order(
    field: NDArray[np.float32], nodes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Value (n,), gradient (n, 3) and Hessian (n, 3, 3) at nodes that have neighbours all around."""
    strides = [field.shape[1] * field.shape[2], field.shape[2], 1]
    flat, here = field.reshape(-1), nodes @ np.array(strides)
    value = flat[here]
    slope = np.empty((len(here), 3), dtype=np.float32)
    bend = np.empty((len(here), 3, 3), dtype=np.float32)
    for i, p in enumerate(strides):
        ahead, behind = flat[here + p], flat[here - p]
        slope[:, i] = (ahead - behind) / 2
        bend[:, i, i] = ahead + behind - 2 * value
        for j, q in enumerate(strides[:i]):
            same = flat[here + p + q] + flat[here - p - q]
            bend[:, i, j] = bend[:, j, i] = (same - flat[here + p - q] - flat[here - p + q]) / 4
    return value, slope, bend


def _distance_to_facets(
    points: NDArray[np.float32], facets: NDArray[np.float32], chosen: NDArray[np.int32], within: float
) -> NDArray[np.float32]:
    """Signed distance of each point to its chosen facet; beyond ``within``, to that facet's node."""
    reach = np.linalg.norm(points - facets[:, :3][chosen], axis=1)
    near = np.flatnonzero(reach <= within)
    facet = facets[chosen[near]]
    offset = points[near] - facet[:, 3:6]
    normal = facet[:, 6:9]
    a = np.einsum("ni,ni->n", offset, normal)
    across = offset - a[:, None] * normal
    squared = np.einsum("ni,ni->n", across, across)
    z, y, x = across.T
    zz, yy, xx, zy, zx, yx = facet[:, 9:].T
    bending = z * (zz * z + 2 * (zy * y + zx * x)) + y * (yy * y + 2 * yx * x) + xx * x * x
    k = bending / np.maximum(squared, 1e-6)
    # the sphere's formula of the Notes without its division by k
    turned = 1 + a * k
    exact = (2 * a + k * (a * a + squared)) / (np.sqrt(turned**2 + squared * k * k) + 1)
    # near the centre of that sphere all feet are equally far and k no longer helps; beyond, it misleads
    reach[near] = np.where(turned < 0.1, np.sqrt(a * a + squared), exact)
    return reach
