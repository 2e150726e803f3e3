"""A volume against the tilts that it came from: re-projection, place by place, and tilts kept apart.

No truth is needed. Tilts lack what the CTF took, so images are compared ring by ring in Fourier space, where
a gain that depends on tilt and frequency alone drops out, and in a band below the first zero of the CTF.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cryomend.evaluation.fsc import half_weights
from cryomend.evaluation.metrics import wide_dtype
from cryomend.fourier import shell_index
from cryomend.projection import interpolate_rays, project_density

__all__ = ["BAND", "Support", "compare_projections", "hold_out_tilts", "least_supported", "local_support"]

BAND = (
    400.0,
    40.0,
)  # Å: above, thickness and background; below 40 Å the CTF of 8 µm at 300 kV changes its sign
_SIDE = 16  # voxels of a place
_SHIFTS = 4  # along Y and along X, for the noise of the support
_PATH = (
    0.4,
    0.8,
)  # of the longest way through the volume: rays that leave it early see what it does not hold
_TAPER = 0.1  # of height and width at each end: a sharp edge would spread strong frequencies over weak ones
_FEWEST_TILTS = 5
_CONTRADICTED = (
    0.1  # share in the middle below which a volume is not that of the tilts, so nothing is confirmed
)


def hold_out_tilts(
    tilt_angles: NDArray[Any], *, every: int | None = None, outermost: int | None = None
) -> NDArray[np.bool_]:
    """Choose the tilts that a reconstruction is not to see.

    Parameters
    ----------
    tilt_angles : array, shape (tilt,)
        Degrees, any order. Images of one angle go together.
    every : int, optional
        Every so many-th angle in rising order, never the first or the last.
    outermost : int, optional
        So many angles at each end, instead of ``every``.

    Returns
    -------
    array of bool, shape (tilt,)
        True where the tilt is kept apart.

    Raises
    ------
    ValueError
        If not exactly one of the two is given, ``every`` is below 2 or ``outermost`` below 1, none is kept
        apart, or fewer than 5 angles are left.
    """
    if (every is None) == (outermost is None):
        raise ValueError("give every or outermost, one of them")
    if (every is not None and every < 2) or (outermost is not None and outermost < 1):
        raise ValueError(f"every must be at least 2 and outermost at least 1, got {every or outermost}")
    angles, place = np.unique(np.asarray(tilt_angles, dtype=np.float64), return_inverse=True)
    apart = np.zeros(len(angles), dtype=bool)
    if every is not None:
        apart[every // 2 : -1 : every] = True
    else:
        apart[:outermost] = apart[-(outermost or 1) :] = True
    if not apart.any() or (~apart).sum() < _FEWEST_TILTS:
        raise ValueError(
            f"of {len(angles)} tilt angles {int((~apart).sum())} would be left; "
            f"at least {_FEWEST_TILTS} are needed, and one to keep apart"
        )
    return apart[place]


@dataclass(frozen=True)
class _Rings:
    """Windowed transforms (tilt, Y, X // 2 + 1) of tilts and re-projections; sums over rings (tilt, ring)."""

    images: Tensor
    projections: Tensor
    index: Tensor
    count: Tensor
    cross: Tensor
    power_images: Tensor
    power_projections: Tensor
    inside: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """Values (tilt, ring) at every pixel of the transforms; nothing outside the band."""
        return (values * self.inside).float()[:, self.index]


def compare_projections(
    volume: Tensor,
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    voxel_size: float,
    band: tuple[float, float] = BAND,
    centre_z: float | None = None,
) -> Tensor:
    """Correlate the re-projections of a volume with the tilts, image by image, inside a band of frequencies.

    Only where rays run through the volume for at least half of the longest way, with a soft edge.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Contrast of the tilts (protein dark in both).
    tilt_series : Tensor, shape (tilt, Y, X)
        Aligned images of the volume's sampling, tilt axis along Y through pixel ``X // 2``.
    tilt_angles : array, shape (tilt,)
        Degrees.
    voxel_size : float
        Å.
    band : (float, float)
        Longest and shortest period that count, Å.
    centre_z : float, optional
        Plane of the rotation centre; ``Z // 2`` if None.

    Returns
    -------
    Tensor of float32, shape (tilt,)
        In [-1, 1]. A true volume reaches ``sqrt(S / (S + N))`` for signal S and noise N, an unrelated one
        0, one of the other contrast less.

    Raises
    ------
    ValueError
        If shapes or counts differ, or the band holds no ring of the images.

    Notes
    -----
    ``r = sum_s n_s FRC(s) / sum_s n_s`` over rings s of ``n_s`` pixels, with
    ``FRC(s) = sum Re(P conj T) / sqrt(sum |P|² sum |T|²)`` of re-projection P and tilt T. A radial gain of
    either, such as the CTF below its first zero, changes nothing.
    """
    rings = _sum_rings(volume, tilt_series, tilt_angles, voxel_size, band, centre_z)
    energy = (rings.power_images * rings.power_projections).sqrt()
    ratio = torch.where(energy > 0, rings.cross / energy.clamp(min=torch.finfo(energy.dtype).tiny), 0.0)
    weight = rings.count * rings.inside
    return (ratio * weight).sum(dim=1).div(weight.sum()).clamp(-1, 1).float()


@dataclass(frozen=True)
class Support:
    """How much of a volume the tilts confirm, place by place; arrays of one shape (z, y, x) of places.

    ``share`` is 1 where they confirm all, 0 where nothing; ``deviation`` its standard deviation by the noise;
    ``energy`` the energy of the volume there. Places are cubes of ``side`` voxels, ``side // 2`` apart.
    """

    share: Tensor
    deviation: Tensor
    energy: Tensor
    side: int


def local_support(
    volume: Tensor,
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    voxel_size: float,
    band: tuple[float, float] = BAND,
    centre_z: float | None = None,
) -> Support:
    """Ask place by place how much of what a volume shows is in the tilts.

    Tilts and re-projections, the latter times the gain that fits them best, are band-limited, flattened in
    their spectrum and smeared back; where the volume shows what no tilt has, their regression falls to 0.

    Parameters
    ----------
    volume, tilt_series, tilt_angles, voxel_size, band, centre_z
        As in `compare_projections`.

    Returns
    -------
    Support
        All 0 where the tilts contradict the volume as a whole.

    Raises
    ------
    ValueError
        As `compare_projections`.

    Notes
    -----
    With T the tilts, P the re-projections, ``g = sum Re(P conj T) / sum |P|²`` in every ring (not below 0),
    ``B`` the back-projection with weights ``|kx| / sqrt(sum |T|² / n)``: ``a = B T``, ``b = B g P``, and in
    each place ``share = <a, b> / <b, b>`` over its median in all places of energy. Its deviation is that of
    ``<a - b, b> / <b, b>`` with the residual moved along Y and X to where it has nothing to do with b.
    """
    rings = _sum_rings(volume, tilt_series, tilt_angles, voxel_size, band, centre_z)
    tiny = torch.finfo(rings.cross.dtype).tiny
    gain = (rings.cross / rings.power_projections.clamp(min=tiny)).clamp(min=0)
    level = (rings.count / rings.power_images.clamp(min=tiny)).sqrt() * (rings.power_images > 0)
    height, width = tilt_series.shape[1:]
    ramp = torch.fft.rfftfreq(width, device=volume.device)

    def smear(spectra: Tensor, factor: Tensor) -> Tensor:
        images = torch.fft.irfft2(spectra * ramp * rings.spread(factor), s=(height, width))
        return interpolate_rays(images, tilt_angles, depth=volume.shape[0], centre_z=centre_z)

    measured, shown = smear(rings.images, level), smear(rings.projections, level * gain)
    side = min(_SIDE, *volume.shape)
    energy = _place_sums(shown * shown, side)
    share = _place_sums(measured * shown, side) / energy.clamp(min=1e-30)
    residual = measured.sub_(shown)
    squares = torch.zeros_like(share)
    moves = [(axis, step) for axis in (1, 2) for step in _steps(volume.shape[axis], side)]
    for axis, step in moves:
        squares += _place_sums(torch.roll(residual, step, axis) * shown, side) ** 2
    deviation = (squares / len(moves)).sqrt() / energy.clamp(min=1e-30)
    middle = share[energy >= 0.5 * energy.mean()].median()
    scale = 1 / middle if middle > _CONTRADICTED else torch.zeros_like(middle)
    return Support(share * scale, deviation * scale, energy, side)


def least_supported(support: Support) -> tuple[float, tuple[int, int, int]]:
    """Find the place where the tilts confirm least of a volume, with the benefit of the doubt.

    Parameters
    ----------
    support : Support
        Places with less than half of the mean energy do not count: little is shown there.

    Returns
    -------
    share : float
        Three standard deviations above the measured one.
    centre_zyx_px : (int, int, int)
        Voxel in the middle of the place.
    """
    upper = support.share + 3 * support.deviation
    telling = (support.energy >= 0.5 * support.energy.mean()) & (support.energy > 0)
    if not telling.any():
        return 0.0, (0, 0, 0)
    flat = int(torch.where(telling, upper, torch.inf).argmin())
    z, y, x = (int(i) * (support.side // 2) + support.side // 2 for i in np.unravel_index(flat, upper.shape))
    return float(upper.flatten()[flat]), (z, y, x)


def _steps(length: int, side: int) -> list[int]:
    """Give a few distances, at least a place long, by which the residual is moved along an axis."""
    distances = list(range(side, length - side + 1, side)) or [length // 2]
    picked = np.linspace(0, len(distances) - 1, min(_SHIFTS, len(distances)))
    return [distances[round(float(i))] for i in picked]


def _place_sums(values: Tensor, side: int) -> Tensor:
    """Mean over each of the overlapping places."""
    return F.avg_pool3d(values[None, None], side, stride=max(1, side // 2))[0, 0]


def _sum_rings(
    volume: Tensor,
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    voxel_size: float,
    band: tuple[float, float],
    centre_z: float | None,
) -> _Rings:
    """Project, window and transform, and sum over rings."""
    if tilt_series.shape[0] != len(tilt_angles):
        raise ValueError(f"{tilt_series.shape[0]} images but {len(tilt_angles)} tilt angles")
    if tilt_series.shape[1:] != volume.shape[1:]:
        found, wanted = (" x ".join(map(str, t.shape[1:])) for t in (tilt_series, volume))
        raise ValueError(f"the tilts have {found} pixels (Y, X), the volume {wanted}")
    height, width = volume.shape[1:]
    device, wide = volume.device, wide_dtype(volume.device)
    window = _window(volume, tilt_angles, centre_z)
    projections = project_density(volume.float() - volume.float().mean(), tilt_angles, centre_z=centre_z)
    images, projections = (_transform(x, window) for x in (tilt_series.float(), projections))
    shells = shell_index((height, width), half=True, device=device)
    last = min(height, width) // 2 + 1
    index, columns = shells.clamp(max=last), half_weights(width, device)

    def total(values: Tensor) -> Tensor:
        sums = torch.zeros(len(values), last + 1, dtype=wide, device=device)
        return sums.index_add_(1, index.flatten(), (values * columns).flatten(1).to(wide))

    period = min(height, width) * voxel_size / torch.arange(last + 1, dtype=torch.float64)
    inside = (period <= band[0] * (1 + 1e-6)) & (period >= band[1] * (1 - 1e-6))
    inside[-1] = False  # the corners beyond the last whole ring
    if not inside.any():
        raise ValueError(
            f"no period of {band[0]:g} to {band[1]:g} Å in {height} x {width} pixels of {voxel_size:g} Å"
        )
    return _Rings(
        images=images,
        projections=projections,
        index=index,
        count=total(torch.ones_like(images[:1].real))[0],
        cross=total(images.real * projections.real + images.imag * projections.imag),
        power_images=total(images.abs() ** 2),
        power_projections=total(projections.abs() ** 2),
        inside=inside.to(device),
    )


def _transform(images: Tensor, window: Tensor) -> Tensor:
    """Fourier transform of images without their mean, under a window."""
    mean = (images * window).sum(dim=(1, 2), keepdim=True) / window.sum(dim=(1, 2), keepdim=True)
    return torch.fft.rfft2((images - mean) * window)


def _window(volume: Tensor, tilt_angles: NDArray[Any], centre_z: float | None) -> Tensor:
    """Weight of pixels (tilt, Y, X): 1 where rays run through the volume, falling to 0 where they do not."""
    depth, height, width = volume.shape
    solid = torch.ones(depth, 1, width, device=volume.device)
    path = project_density(solid, tilt_angles, centre_z=centre_z)
    share = (path / path.amax(dim=2, keepdim=True) - _PATH[0]) / (_PATH[1] - _PATH[0])
    window = _soft_step(share) * _soft_step(_edge_distance(width, volume.device))
    return window * _soft_step(_edge_distance(height, volume.device))[None, :, None]


def _soft_step(position: Tensor) -> Tensor:
    """Rise from 0 to 1 where the position does."""
    return torch.sin(position.clamp(0, 1) * (math.pi / 2)) ** 2


def _edge_distance(length: int, device: torch.device) -> Tensor:
    """Distance of pixels from the nearer end, over the length of the taper."""
    place = torch.arange(length, device=device)
    return torch.minimum(place, length - 1 - place).add(1) / max(1.0, _TAPER * length)
