"""Level sets: smooth random fields, and the distance to where any smooth field is zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from cryomend.specimen.surface_grid import Frame, Grid, Surface

__all__ = [
    "RandomField",
    "Undulation",
    "drop_islands",
    "measure_anew",
    "random_field",
    "random_undulation",
    "redistance",
]

_N_WAVES = 48  # enough for Gaussian statistics, few enough to be quick


@dataclass(frozen=True)
class RandomField:
    """A smooth, isotropic random field of mean 0 and variance 1: a sum of plane waves.

    ``wave_vectors`` (n, 3) in rad/Å along ZYX, ``phases`` (n,) in rad.
    """

    wave_vectors: NDArray[np.float64]
    phases: NDArray[np.float64]

    def at(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Values (m,) at points (m, 3) in Å."""
        # single precision is ten times faster and good to 1e-5 of a wave
        waves = points.astype(np.float32) @ self.wave_vectors.T.astype(np.float32)
        waves += self.phases.astype(np.float32)
        return np.cos(waves, out=waves).sum(1, dtype=np.float64) * math.sqrt(2 / len(self.phases))

    def on_grid(self, axes: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Values (Z, Y, X) on the grid spanned by three coordinates in Å.

        A plane wave is a product of one factor per axis, so that each plane is one matrix product.
        """
        z, y, x = (np.exp(1j * np.outer(axis, k)) for axis, k in zip(axes, self.wave_vectors.T, strict=True))
        z = z * np.exp(1j * self.phases) * math.sqrt(2 / len(self.phases))
        along_x = np.concatenate([x.real, -x.imag], axis=1).T.astype(np.float32)
        values = np.empty((len(z), len(y), len(x)), dtype=np.float32)
        for plane, factor in zip(values, z, strict=True):
            rows = y * factor
            np.matmul(np.concatenate([rows.real, rows.imag], axis=1).astype(np.float32), along_x, out=plane)
        return values


def random_field(rng: np.random.Generator, *, wavelength: float) -> RandomField:
    """Draw a `RandomField` whose waves have any direction and lengths within a fifth of ``wavelength`` Å.

    Raises
    ------
    ValueError
        If the wavelength is not positive.
    """
    if not 0 < wavelength < math.inf:
        raise ValueError(f"wavelength must be positive, got {wavelength:g} Å")
    directions = rng.standard_normal((_N_WAVES, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    wave_numbers = 2 * np.pi / wavelength * rng.uniform(0.8, 1.2, (_N_WAVES, 1))
    return RandomField(wave_numbers * directions, rng.uniform(0, 2 * np.pi, _N_WAVES))


@dataclass(frozen=True)
class Undulation:
    """Height over a base surface: a random field of given ``wavelength`` and standard deviation, Å."""

    field: RandomField
    wavelength: float
    amplitude: float

    def height(self, feet: NDArray[Any], limit: float = math.inf) -> NDArray[Any]:
        """Heights (n,) in Å over feet (n, 3); they level off below ``limit``, so that no shape closes up."""
        height = self.amplitude * self.field.at(feet)
        return height if math.isinf(limit) else limit * np.tanh(height / limit)


def random_undulation(rng: np.random.Generator, *, wavelength: float, amplitude: float) -> Undulation:
    """Draw a smooth random undulation.

    Raises
    ------
    ValueError
        If the wavelength is not positive or the amplitude negative.
    """
    if not 0 <= amplitude < math.inf:
        raise ValueError(f"amplitude must not be negative, got {amplitude:g} Å")
    return Undulation(random_field(rng, wavelength=wavelength), wavelength, amplitude)


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
