"""DeepDeWedge, a rival: one network is fitted to the two half tomograms that it then restores.

Our own code after the objective that Wiedemann and Heckel published; docs/rivals.md says what differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import spline_filter
from torch import Tensor

from cryomend.benchmark.fitting import Progress, build_seeded, fit_network, run_as_fitted
from cryomend.fourier import filter_fourier, radial_frequency
from cryomend.geometry import missing_wedge_mask, random_rotation
from cryomend.network.losses import remove_wedge
from cryomend.network.unet import RestorationUNet
from cryomend.restoration.standardise import robust_mean_std
from cryomend.restoration.tile import restore_tiles
from cryomend.training.rotate import rotated_side, rotated_wedge_mask
from cryomend.training.spline_kernel import sample_spline

__all__ = ["DeWedgeBatch", "DeWedgeFit", "HalfTomograms", "dewedge_loss", "restore_deep_dewedge"]

_MARGIN = 4  # voxels that the taps of a cubic spline reach beyond a turned cube, both sides together
_TILE = 96  # voxels a side at most, where the network is applied
_KEPT = (0.4, 0.5)  # cycles per voxel; a turned grid loses what lies beyond, so the network never sees it


@dataclass(frozen=True)
class DeWedgeFit:
    """How the network is fitted.

    ``crop`` voxels a side; ``batch`` crops a step; ``channels`` of each level of the `RestorationUNet`;
    ``residual`` as it takes it; ``learning_rate`` of Adam at its highest; ``wedge_weight`` of the error
    inside the wedge that was removed on purpose; ``refills``, how often the wedge of the inputs is filled
    by the network as it is then, evenly over the fit.
    """

    crop: int = 48
    batch: int = 2
    channels: tuple[int, ...] = (32, 48, 64)
    residual: bool = False
    learning_rate: float = 1.5e-3
    wedge_weight: float = 2.0
    refills: int = 4


@dataclass(frozen=True)
class DeWedgeBatch:
    """What one step is fitted to.

    ``given`` and ``target`` are (B, 1, S, S, S): crops of one half with the wedge removed, and of the other
    as they are, turned alike. Masks are True where data are left, in the layout of ``fftn``: ``kept``
    (S, S, S) by the wedge that was removed, ``measured`` (B, 1, S, S, S) by that of the turned tomogram.
    """

    given: Tensor
    target: Tensor
    kept: Tensor
    measured: Tensor


def restore_deep_dewedge(
    even: Tensor,
    odd: Tensor,
    *,
    tilt_range: tuple[float, float],
    steps: int | None = None,
    seconds: float | None = None,
    fit: DeWedgeFit | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Denoise a tomogram and fill its wedge by a network that saw nothing but the two halves of it.

    Crops of both halves are turned alike at random. From the one, with the wedge removed once more where it
    is in every tomogram, the network predicts the other; so it learns to denoise and, because the wedge of
    the target is elsewhere, to fill. Now and then it fills the wedges of its own inputs. At the end it is
    applied to both halves, and the answers are averaged.

    Parameters
    ----------
    even, odd : Tensor, shape (Z, Y, X)
        Tomograms of two halves of the tilts, or better of the frames; any grey levels, the same in both.
    tilt_range : (float, float)
        Extreme tilt angles, degrees.
    steps : int, optional
        Steps of the fit; equal seeds and steps give equal results on one device.
    seconds : float, optional
        Wall clock of the fit at most; one of the two must be given.
    fit : DeWedgeFit, optional
        Network and fit.
    seed : int
        Of weights, crops and rotations.
    device : torch.device or str
        Where the network runs; crops are turned on the CPU.
    progress : callable, optional
        Told the share done and a text after every step.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)
        In the grey levels and the contrast of the halves, on the device of ``even``.

    Raises
    ------
    ValueError
        If the halves differ in shape or are identical, they are constant, a tilt is outside ±90 degrees, the
        crop does not fit the network, or neither steps nor seconds are given.
    FloatingPointError
        If the loss is not finite.

    References
    ----------
    Wiedemann and Heckel 2024, doi:10.1038/s41467-024-51438-y.
    """
    _require_halves(even, odd)
    fit = fit or DeWedgeFit()
    both = torch.stack([even, odd]).detach().float().cpu()
    mean, std = robust_mean_std(both)
    halves = HalfTomograms((both - mean) / std, tilt_range)
    network = build_seeded(
        lambda: RestorationUNet(fit.channels, residual=fit.residual), seed=seed, device=device
    )
    rng = np.random.default_rng(seed)

    def draw_loss(share: float) -> Tensor:
        if int(share * (fit.refills + 1)) > halves.refilled:
            halves.refill(lambda volume: _apply(network, volume, device))
        batch = halves.draw(fit, rng)
        with run_as_fitted(device):
            restored = network(batch.given.to(device))
        return dewedge_loss(restored, batch, wedge_weight=fit.wedge_weight)

    fit_network(
        network, draw_loss, steps=steps, seconds=seconds, learning_rate=fit.learning_rate, progress=progress
    )
    restored = torch.stack([_apply(network, half, device) for half in halves.wedged]).mean(dim=0)
    return (restored * std + mean).to(even.device)


def dewedge_loss(restored: Tensor, batch: DeWedgeBatch, *, wedge_weight: float) -> Tensor:
    """Mean squared error where the target was measured; more weight where the input was not.

    Parameters
    ----------
    restored : Tensor, shape (B, 1, S, S, S)
        The network's answer to ``batch.given``, of any precision and on any device.
    batch : DeWedgeBatch
        Target and masks.
    wedge_weight : float
        Of the squared error inside the wedge that was removed from the input.

    Returns
    -------
    Tensor, scalar

    Notes
    -----
    With the error e, the kept part M and the measured part M_φ of Fourier space:
    ``mean |F⁻¹ M_φ M F e|² + w mean |F⁻¹ M_φ (1 - M) F e|²``. The two parts do not overlap, so that by
    Parseval's theorem one filter of weights 1 and √w does both.
    """
    error = restored.float() - batch.target.to(restored.device)
    weights = torch.where(batch.kept, 1.0, math.sqrt(wedge_weight)) * batch.measured
    half = weights[..., : error.shape[-1] // 2 + 1].to(error)
    filtered = [filter_fourier(e, w[0]) for e, w in zip(error, half, strict=True)]
    return torch.stack(filtered).square().mean()


class HalfTomograms:
    """Two halves of a tomogram from which crops are drawn, and what the wedges of the inputs hold by now.

    They are taken as periodic: crops may reach over a face. So every voxel is seen equally often, thin
    tomograms can be turned, and the wedge is where the mask says.

    Parameters
    ----------
    halves : Tensor, shape (2, Z, Y, X)
        Standardised, on the CPU.
    tilt_range : (float, float)
        Extreme tilt angles, degrees.

    Attributes
    ----------
    wedged : Tensor, shape (2, Z, Y, X)
        The halves without anything inside the wedge or beyond the band that a turned grid can hold.
    refilled : int
        How often the inputs were filled.
    """

    def __init__(self, halves: Tensor, tilt_range: tuple[float, float]) -> None:
        self._tilts: dict[str, Any] = {"tilt_min": tilt_range[0], "tilt_max": tilt_range[1]}
        depth, height, width = halves.shape[1:]
        self._measured = missing_wedge_mask((depth, height, width), **self._tilts)
        limited = filter_fourier(halves, _band(halves.shape[1:]))
        self.wedged = self._cut(limited)
        self.refilled = 0
        self._targets = [_spline_of(half) for half in limited]
        self._inputs = [_spline_of(half) for half in self.wedged]

    def refill(self, restore: Callable[[Tensor], Tensor]) -> None:
        """Fill the wedges of the inputs by what a function of (Z, Y, X) gives there."""
        answers = torch.stack([restore(half) for half in self.wedged])
        self._inputs = [_spline_of(half) for half in self.wedged + answers - self._cut(answers)]
        self.refilled += 1

    def draw(self, fit: DeWedgeFit, rng: np.random.Generator) -> DeWedgeBatch:
        """Draw crops at random places in random rotations; either half is the input as often."""
        shape = (fit.crop,) * 3
        given, target, measured = [], [], []
        for _ in range(fit.batch):
            which, rotation = int(rng.integers(2)), random_rotation(rng)
            window = _periodic_window(self.wedged.shape[1:], rotated_side(fit.crop) + _MARGIN, rng)
            given.append(_turn(self._inputs[which][window], rotation, fit.crop))
            target.append(_turn(self._targets[1 - which][window], rotation, fit.crop))
            measured.append(rotated_wedge_mask(shape, rotation, **self._tilts))
        kept = rotated_wedge_mask(shape, None, **self._tilts)
        given_crops = remove_wedge(torch.stack(given)[:, None], kept)
        return DeWedgeBatch(given_crops, torch.stack(target)[:, None], kept, torch.stack(measured)[:, None])

    def _cut(self, volumes: Tensor) -> Tensor:
        """Remove the wedge of whole volumes (2, Z, Y, X)."""
        return remove_wedge(volumes[:, None], self._measured)[:, 0]


def _require_halves(even: Tensor, odd: Tensor) -> None:
    """Refuse what the network could not learn from."""
    if even.shape != odd.shape or even.ndim != 3:
        raise ValueError(f"need two halves (Z, Y, X), got {tuple(even.shape)} and {tuple(odd.shape)}")
    if torch.equal(even, odd):
        raise ValueError("the two halves are identical, so nothing tells noise from signal; give two halves")


def _band(shape: torch.Size) -> Tensor:
    """Radial filter on the ``rfftn`` grid that takes out the corners of the Fourier cube."""
    radius = radial_frequency(shape, half=True)
    ramp = ((radius - _KEPT[0]) / (_KEPT[1] - _KEPT[0])).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(math.pi * ramp)


def _spline_of(volume: Tensor) -> NDArray[np.float32]:
    """Coefficients of the periodic cubic spline through the voxels."""
    coefficients: NDArray[np.float32] = spline_filter(volume.numpy(), 3, output=np.float32, mode="grid-wrap")
    return coefficients


def _periodic_window(shape: torch.Size, side: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    """Indices of a cube at a random place, going round at the faces."""
    return np.ix_(*[(int(rng.integers(n)) + np.arange(side)) % n for n in shape])


def _turn(coefficients: NDArray[np.float32], rotation_zyx: NDArray[Any], side: int) -> Tensor:
    """The inner cube (side, side, side) of a spline, turned about its centre as by `rotate_crop`."""
    turned = np.empty((side, side, side), dtype=np.float32)
    sample_spline(np.ascontiguousarray(coefficients), rotation_zyx.astype(np.float32), turned)
    return torch.from_numpy(turned)


def _apply(network: RestorationUNet, volume: Tensor, device: torch.device | str) -> Tensor:
    """The network's answer to a volume (Z, Y, X), in overlapping tiles."""

    def run(tile: Tensor) -> Tensor:
        with torch.no_grad(), run_as_fitted(device):
            restored: Tensor = network(tile.to(device)).float().cpu()
            return restored

    tile = _TILE // network.multiple * network.multiple
    return restore_tiles(volume, run, tile=tile, overlap=tile // 4, multiple=network.multiple)
