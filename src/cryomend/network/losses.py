"""The multi-task loss: denoise, and fill a wedge that was removed on purpose."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cryomend.fourier import filter_fourier

__all__ = ["multi_task_loss", "remove_wedge"]


def remove_wedge(tomogram: Tensor, measured: Tensor) -> Tensor:
    """Remove from a crop what a further missing wedge would take.

    Parameters
    ----------
    tomogram : Tensor, shape (B, 1, Z, Y, X)
        Standardised crops.
    measured : Tensor of bool, shape (Z, Y, X) or (B, 1, Z, Y, X)
        True where the wedge leaves the data; layout of ``fftn``, Friedel-symmetric.

    Returns
    -------
    Tensor, shape of ``tomogram``
    """
    half = measured[..., : tomogram.shape[-1] // 2 + 1].to(tomogram.dtype)
    if half.ndim == 3:
        return filter_fourier(tomogram, half)
    return torch.stack([filter_fourier(x, m[0]) for x, m in zip(tomogram, half, strict=True)])


def multi_task_loss(
    network: nn.Module, tomogram: Tensor, density: Tensor, *, measured: Tensor | None, weight: float
) -> Tensor:
    """``||f(x) - y||² + λ ||f(M x) - y||²``, means over voxels.

    Parameters
    ----------
    network : Module
        f, from (B, 1, Z, Y, X) to the same shape.
    tomogram, density : Tensor, shape (B, 1, Z, Y, X)
        x and y.
    measured : Tensor of bool or None
        M, as in `remove_wedge`; None leaves the second task out of this step.
    weight : float
        λ of this step.

    Returns
    -------
    Tensor, scalar
    """
    loss = F.mse_loss(network(tomogram), density)
    if measured is not None and weight > 0:
        loss = loss + weight * F.mse_loss(network(remove_wedge(tomogram, measured)), density)
    return loss
