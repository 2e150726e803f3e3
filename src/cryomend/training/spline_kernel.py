"""Compiled inner loop of turning a training crop on a CPU; `rotate_crop` has the mathematics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.compilation import compile_kernel

__all__ = ["sample_spline"]


@compile_kernel
def _weights(a: Any) -> Any:
    """Cubic B-spline at distances 1 + a, a, 1 - a, 2 - a, in single precision."""
    b = np.float32(1) - a
    half, sixth, two_thirds = np.float32(1 / 2), np.float32(1 / 6), np.float32(2 / 3)
    two = np.float32(2)
    inner = two_thirds - a * a * (two - a) * half, two_thirds - b * b * (two - b) * half
    return b * b * b * sixth, inner[0], inner[1], a * a * a * sixth


@compile_kernel
def sample_spline(
    coefficients: NDArray[np.float32], matrix: NDArray[np.float32], turned: NDArray[np.float32]
) -> None:
    """Sample a cubic B-spline (N, N, N) on a turned cube (side, side, side) about the common centre.

    The turned cube with a margin of two voxels must lie inside.
    """
    side = turned.shape[0]
    half, middle = (side - 1) / 2, (coefficients.shape[0] - 1) / 2
    for z in range(side):
        for y in range(side):
            for x in range(side):
                p, q, r = z - half, y - half, x - half
                at_z = middle + matrix[0, 0] * p + matrix[0, 1] * q + matrix[0, 2] * r
                at_y = middle + matrix[1, 0] * p + matrix[1, 1] * q + matrix[1, 2] * r
                at_x = middle + matrix[2, 0] * p + matrix[2, 1] * q + matrix[2, 2] * r
                i, j, k = int(at_z), int(at_y), int(at_x)
                w0, w1, w2, w3 = _weights(np.float32(at_x - k))
                along_z, along_y = _weights(np.float32(at_z - i)), _weights(np.float32(at_y - j))
                total = np.float32(0)
                for a in range(4):
                    for b in range(4):
                        row = coefficients[i - 1 + a, j - 1 + b]
                        line = w0 * row[k - 1] + w1 * row[k] + w2 * row[k + 1] + w3 * row[k + 2]
                        total += along_z[a] * along_y[b] * line
                turned[z, y, x] = total
