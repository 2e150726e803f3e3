"""CTF correction of aligned images by phase flipping in strips along the tilt axis."""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from cryomend.ctf import Optics, contrast_transfer, electron_wavelength
from cryomend.fourier import filter_fourier

__all__ = ["correct_phase"]

_PHASE_STEP = 0.35  # rad at Nyquist between strips: half of it is off at most, 1.5 % of the amplitude
_MARGIN = 2  # times the distance over which the defocus spreads a point, on either side of a strip


def correct_phase(
    images: Tensor,
    tilt_angles: NDArray[Any],
    *,
    pixel_size: float,
    defocus_um: NDArray[Any],
    optics: Optics,
    astigmatism_um: NDArray[Any],
    astigmatism_angle: NDArray[Any],
    phase_shift: NDArray[Any],
    defocus_hand: int = 1,
) -> Tensor:
    """Flip the phases that the CTF has reversed; protein stays dark.

    On a flat specimen tilted by ``t`` the underfocus is ``Δf0 + hand x' tan t``. A strip parallel to the
    axis, over which it changes by 0.35 rad of phase at Nyquist, is flipped with the defocus of its
    centre, together with margins of twice the ``λ Δf k`` over which a point is spread; neighbouring
    strips are blended linearly (strips as in IMOD's ctfphaseflip, Xiong et al. 2009,
    doi:10.1016/j.jsb.2009.08.016). Images are periodic to the Fourier transform.

    Parameters
    ----------
    images : Tensor, shape (tilt, Y, X)
        Aligned, tilt axis along Y through pixel ``X // 2``.
    tilt_angles : array, shape (tilt,)
        Degrees.
    pixel_size : float
        Å.
    defocus_um : array, shape (tilt,)
        At the tilt axis, positive = underfocus.
    optics : Optics
        Voltage, aberration, amplitude contrast.
    astigmatism_um, astigmatism_angle : array, shape (tilt,)
        Half difference of the defoci, and direction of the larger, degrees from X towards Y.
    phase_shift : array, shape (tilt,)
        Of a phase plate, degrees.
    defocus_hand : int
        1 as IMOD has it by default: the right side is more underfocused at positive tilt; or -1.

    Returns
    -------
    Tensor of float32, shape of ``images``

    Raises
    ------
    ValueError
        If the counts differ.
    """
    if not len(images) == len(tilt_angles) == len(defocus_um):
        raise ValueError(f"{len(images)} images, {len(tilt_angles)} tilt angles and {len(defocus_um)} defoci")
    height, width = images.shape[1:]
    corrected = torch.zeros_like(images)
    for i, image in enumerate(images):
        slope = defocus_hand * math.tan(math.radians(float(tilt_angles[i])))
        lens = Optics(
            optics.voltage_kv,
            optics.spherical_aberration_mm,
            optics.amplitude_contrast,
            float(phase_shift[i]),
        )
        for place, share in _strips(width, slope, pixel_size, optics.voltage_kv):
            defocus = float(defocus_um[i]) + 1e-4 * slope * place * pixel_size
            used = share.nonzero()[[0, -1], 0]
            first, last = _window(int(used[0]), int(used[1]) + 1, width, _spread(defocus, lens, pixel_size))
            ctf = contrast_transfer(
                (height, last - first),
                pixel_size=pixel_size,
                defocus_um=defocus,
                optics=lens,
                astigmatism_um=float(astigmatism_um[i]),
                astigmatism_angle=float(astigmatism_angle[i]),
                device=images.device,
            )
            flipped = filter_fourier(image[:, first:last], torch.where(ctf > 0, -1.0, 1.0))
            corrected[i, :, first:last] += flipped * share[first:last].to(images.device)
    return corrected


def _spread(defocus_um: float, optics: Optics, pixel_size: float) -> float:
    """Pixels by which defocus and aberration move what has the frequency of Nyquist."""
    k, wavelength = 0.5 / pixel_size, electron_wavelength(optics.voltage_kv)
    aberration = 1e7 * optics.spherical_aberration_mm * wavelength**3 * k**3
    return (1e4 * abs(defocus_um) * wavelength * k + aberration) / pixel_size


def _window(first: int, last: int, width: int, spread: float) -> tuple[int, int]:
    """Columns to transform for the strip from ``first`` to ``last - 1``, of a size that is quick."""
    margin = math.ceil(_MARGIN * spread) + 8
    size = next_fast_len(last - first + 2 * min(margin, width))
    if size >= width:
        return 0, width
    start = min(max(0, (first + last - size) // 2), width - size)
    return start, start + size


def _strips(width: int, slope: float, pixel_size: float, voltage_kv: float) -> list[tuple[float, Tensor]]:
    """Centres of strips from the axis, and the share that each has in every column (they add up to 1)."""
    per_angstrom = math.pi * electron_wavelength(voltage_kv) / (2 * pixel_size) ** 2  # rad per Å of defocus
    change = abs(slope) * width * pixel_size * per_angstrom
    count = min(max(1, math.ceil(change / _PHASE_STEP)), width)  # near 90 degrees one column is not enough
    columns = torch.arange(width, dtype=torch.float32) - width // 2
    if count == 1:
        return [(0.0, torch.ones(width))]
    step = width / count
    centres = [(n + 0.5) * step - width / 2 for n in range(count)]
    shares = []
    for n, centre in enumerate(centres):
        share = (1 - (columns - centre).abs() / step).clamp(min=0)
        if n == 0:
            share = torch.where(columns <= centre, 1.0, share)
        if n == count - 1:
            share = torch.where(columns >= centre, 1.0, share)
        shares.append((centre, share))
    return shares
