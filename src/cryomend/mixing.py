"""Noise added at a stated signal-to-noise ratio, as CONVENTIONS.md defines it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mix_noise"]


def mix_noise(tilt_series: Tensor, noise: Tensor, *, snr: float | Tensor) -> Tensor:
    """Add noise to a tilt series at a given signal-to-noise ratio, tilt by tilt.

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Signal without noise, any units and offset.
    noise : Tensor, shape (tilt, Y, X)
        Noise of any scale and offset; its offset is taken away.
    snr : float or Tensor, shape (tilt,)
        Linear power ratio: variance of the signal over variance of the noise, both about the tilt's mean.

    Returns
    -------
    Tensor, shape (tilt, Y, X)

    Raises
    ------
    ValueError
        If shapes differ, ``snr`` is not positive, or a tilt of either is constant.
    """
    if tilt_series.shape != noise.shape:
        raise ValueError(
            f"tilt series {tuple(tilt_series.shape)} and noise {tuple(noise.shape)} differ in shape"
        )
    ratio = torch.as_tensor(snr, dtype=tilt_series.dtype, device=tilt_series.device).reshape(-1, 1, 1)
    if not bool((ratio > 0).all()):
        raise ValueError("snr must be positive: it is a linear power ratio, not decibels")
    signal_power = tilt_series.var(dim=(1, 2), keepdim=True)
    noise_power = noise.var(dim=(1, 2), keepdim=True)
    if not bool((signal_power > 0).all() and (noise_power > 0).all()):
        raise ValueError("a constant tilt has no power: signal-to-noise is undefined")
    centred = noise - noise.mean(dim=(1, 2), keepdim=True)
    return tilt_series + centred * (signal_power / (ratio * noise_power)).sqrt()
