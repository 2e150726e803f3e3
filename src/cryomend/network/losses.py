"""The multi-task loss: denoise, and fill a wedge that was removed on purpose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cryomend.fourier import filter_fourier

__all__ = ["CropBatch", "multi_task_loss", "remove_wedge", "restoration_error"]


@dataclass(frozen=True)
class CropBatch:
    """What one step trains on.

    ``tomogram`` x and ``density`` y are (B, 1, Z, Y, X). The masks, (B, 1, Z, Y, X) or (Z, Y, X), are True
    where data are left, in the layout of ``fftn`` and Friedel-symmetric: ``kept`` by the further wedge M of
    the second task (None leaves it out of this step), ``measured`` by the crop's own (None if no loss asks).
    ``importance`` (B,) weighs the crops' errors; None weighs all alike.
    """

    tomogram: Tensor
    density: Tensor
    kept: Tensor | None = None
    measured: Tensor | None = None
    importance: Tensor | None = None


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


def restoration_error(
    restored: Tensor,
    density: Tensor,
    *,
    measured: Tensor | None,
    wedge_weight: float,
    importance: Tensor | None = None,
) -> Tensor:
    """Mean squared error, in which the missing part of Fourier space may count more.

    Most of a density's power is where the data are, so that the plain error says little about the wedge.

    Parameters
    ----------
    restored, density : Tensor, shape (B, 1, Z, Y, X)
        Of any precision; compared in float32.
    measured : Tensor of bool or None
        As in `remove_wedge`; None gives the plain error.
    wedge_weight : float
        Extra weight of the error where ``measured`` is False; 0 gives the plain error.
    importance : Tensor, shape (B,), optional
        Factor on the squared error of each crop.

    Returns
    -------
    Tensor, scalar

    Notes
    -----
    ``mean |e|² + w mean |e - P e|²`` with the projection P onto what was measured; by Parseval's theorem the
    second mean is the power of the transform of e where it was not. The crop is not windowed, for the faces
    count too; what they smear over Fourier space is a few per cent of the error.
    """
    error = restored.float() - density.float()
    if importance is not None:
        error = error * importance.sqrt()[:, None, None, None, None]
    loss = error.square().mean()
    if measured is not None and wedge_weight > 0:
        loss = loss + wedge_weight * (error - remove_wedge(error, measured)).square().mean()
    return loss


def multi_task_loss(
    network: Callable[[Tensor], Tensor], batch: CropBatch, *, weight: float, wedge_weight: float = 0.0
) -> Tensor:
    """``||f(x) - y||² + λ ||f(M x) - y||²``, means over voxels.

    Parameters
    ----------
    network : callable
        f, from (B, 1, Z, Y, X) to the same shape.
    batch : CropBatch
        x, y and M. Without M, or with λ = 0, the network runs only once.
    weight : float
        λ of this step.
    wedge_weight : float
        See `restoration_error`; in the second term the wedge that was removed on purpose counts as well.

    Returns
    -------
    Tensor, scalar
    """
    x, y, own = batch.tomogram, batch.density, batch.measured
    error = functools.partial(restoration_error, wedge_weight=wedge_weight, importance=batch.importance)
    loss = error(network(x), y, measured=own)
    if batch.kept is not None and weight > 0:
        left = batch.kept if own is None else own & batch.kept
        again = network(remove_wedge(x, batch.kept))
        loss = loss + weight * error(again, y, measured=left)
    return loss
