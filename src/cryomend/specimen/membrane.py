"""Membranes: the potential across a lipid bilayer, laid over the distance to a mid-surface."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = ["HEAD_POTENTIAL", "bilayer_profile"]

# DOPC at 30 °C (Kučerka et al. 2008, doi:10.1529/biophysj.108.132662): area and volumes per lipid.
_LIPID_AREA = 67.4  # Å²
_HEAD_VOLUME, _CHAIN_VOLUME = 331.0, 972.0  # Å³: C10H18NO8P, and C34H66 of the two chains
_METHYL_VOLUME = 54.0  # Å³ of each of the two CH3 that end them (Nagle & Tristram-Nagle 2000)
# Potential times volume above ice, V Å³: 47.878 times the sum of the form factors at zero angle
# (C 2.509, H 0.529, N 2.214, O 1.983, P 5.488 Å) less 4.57 V times the volume.
_HEAD_EXCESS, _CHAIN_EXCESS, _METHYL_EXCESS = 1272.6, 1312.9, -50.7

_HEAD_WIDTH = 3.5  # Å, standard deviations: of choline, phosphate and glycerol together,
_EDGE_WIDTH = 2.6  # of the boundary of the hydrocarbon,
_METHYL_WIDTH = 3.0  # and of the methyl groups about the mid-plane
_HEAD_DISTANCE = 37.0  # Å, of DOPC
_HEAD_SHIFT = 0.42  # Å: heads lie so much beyond the peak, which the edge of the hydrocarbon pulls inwards
HEAD_POTENTIAL = 2.233  # V above ice, the height of the peaks that these numbers make

_TABLE_STEP = 0.05  # Å
_AT_ONCE = 1_000_000  # voxels; bounds the memory


def bilayer_profile(
    distance: NDArray[Any],
    *,
    head_distance: float = _HEAD_DISTANCE,
    amplitude: float = HEAD_POTENTIAL,
    voxel_size: float = 0.0,
) -> NDArray[np.float32]:
    """Potential of a lipid bilayer above vitreous ice, from the distance to its mid-surface.

    Two head-group peaks, the hydrocarbon between them and the trough of the methyl groups in the
    middle. Area, volumes and thickness are those measured of DOPC, the widths close to what is found
    with them. The potentials follow from the composition: heads 3.84 V above ice (with the water
    between them 2.23 V at the peaks), CH and CH2 1.64 V above and CH3 0.94 V below it, so 0.54 V in
    the mid-plane; 76.7 V Å in all across the bilayer.

    Parameters
    ----------
    distance : array
        To the mid-surface in Å, of either sign.
    head_distance : float
        Between the peaks, Å; the hydrocarbon grows thicker with it.
    amplitude : float
        Potential of the peaks at full resolution, V; everything scales with it.
    voxel_size : float
        Å: the profile is averaged over so much across the bilayer, as a voxel does, so that its
        integral is kept wherever the surface lies between the voxels. 0 for values at points.

    Returns
    -------
    array of float32, shape of ``distance``
        V.

    Raises
    ------
    ValueError
        If ``head_distance`` is not above 10 Å or ``voxel_size`` is negative.

    Notes
    -----
    With the normal density ``g`` and distribution ``G``, each averaged over the voxel in closed form::

        h [g((d - c) / s) + g((d + c) / s)] + v [G((d + b) / e) - G((d - b) / e)] + m g(d / w)

    The potentials are those of independent atoms, as everywhere in the package. The dipole potential
    of the head groups, up to 0.5 V inside (Wang, Bose & Sigworth 2006), is left out.

    References
    ----------
    Kučerka et al. 2008, doi:10.1529/biophysj.108.132662 (volumes, area, thickness and widths).
    Nagle & Tristram-Nagle 2000, doi:10.1016/S0304-4157(00)00016-2 (volumes of CH2 and CH3).
    Peng et al. 1996, doi:10.1107/S0108767395014371 (form factors).
    Wang, Bose & Sigworth 2006, Proc. Natl. Acad. Sci. USA 103, 18528 (cryo-EM of vesicles).
    """
    if not head_distance > 10:
        raise ValueError(
            f"head_distance must be above 10 Å, the two heads themselves, got {head_distance:g} Å"
        )
    if not voxel_size >= 0:
        raise ValueError(f"voxel_size must not be negative, got {voxel_size:g} Å")
    outside = head_distance / 2 + 8 * _HEAD_WIDTH + voxel_size
    d = np.arange(0, outside, _TABLE_STEP)
    table = _averaged_profile(d, head_distance, max(voxel_size, _TABLE_STEP))
    scaled = (amplitude / HEAD_POTENTIAL * table).astype(np.float32)
    distance = np.asarray(distance)
    profile = np.empty(distance.shape, dtype=np.float32)
    flat, values = distance.reshape(-1), profile.reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):  # np.interp works in double precision
        part = slice(start, start + _AT_ONCE)
        values[part] = np.interp(np.abs(flat[part]), d, scaled, right=0.0)
    return profile


def _averaged_profile(d: NDArray[np.float64], head_distance: float, width: float) -> NDArray[np.float64]:
    """DOPC's profile at distances ``d``, averaged over ``width``; thinner or thicker by the hydrocarbon."""
    heads = head_distance / 2 + _HEAD_SHIFT
    edge = _CHAIN_VOLUME / _LIPID_AREA + (head_distance - _HEAD_DISTANCE) / 2
    chains = (_CHAIN_EXCESS - 2 * _METHYL_EXCESS) / (_CHAIN_VOLUME - 2 * _METHYL_VOLUME)
    missing = 4 * (_METHYL_EXCESS - chains * _METHYL_VOLUME) / _LIPID_AREA  # two chains, two leaflets
    low, high = d - width / 2, d + width / 2

    def layer(centre: float, sigma: float) -> NDArray[np.float64]:
        return (ndtr((high - centre) / sigma) - ndtr((low - centre) / sigma)) / width

    def slab(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ramp(x + edge) - _ramp(x - edge)

    return (
        _HEAD_EXCESS / _LIPID_AREA * (layer(heads, _HEAD_WIDTH) + layer(-heads, _HEAD_WIDTH))
        + chains * (slab(high) - slab(low)) / width
        + missing * layer(0, _METHYL_WIDTH)
    )


def _ramp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of the normal distribution function of standard deviation ``_EDGE_WIDTH``."""
    u = x / _EDGE_WIDTH
    return _EDGE_WIDTH * (u * ndtr(u) + np.exp(-u * u / 2) / np.sqrt(2 * np.pi))
