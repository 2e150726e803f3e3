"""CTF correction of aligned images by phase flipping in strips along the tilt axis."""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.ctf import Optics, contrast_transfer, electron_wavelength

__all__ = ["correct_phase"]

_PHASE_STEP = 0.35  # rad at Nyquist between strips: half of it is off at most, 1.5 % of the amplitude


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

    On a flat specimen tilted by ``t`` the underfocus is ``Δf0 + hand x' tan t``: a strip at ``x'``, over
    which it changes little, is taken from the image flipped as a whole with the defocus of its centre,
    and neighbouring strips are blended linearly. (IMOD's ctfphaseflip, Xiong et al. 2009,
    doi:10.1016/j.jsb.2009.08.016, flips strips cut out of the image; whole images have no strip ends.)

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
    shape = (images.shape[1], images.shape[2])
    corrected = torch.zeros_like(images)
    for i, image in enumerate(images):
        slope = defocus_hand * math.tan(math.radians(float(tilt_angles[i])))
        spectrum = torch.fft.rfft2(image)
        lens = Optics(
            optics.voltage_kv,
            optics.spherical_aberration_mm,
            optics.amplitude_contrast,
            float(phase_shift[i]),
        )
        for place, weight in _strips(shape[1], slope, pixel_size, optics.voltage_kv):
            ctf = contrast_transfer(
                shape,
                pixel_size=pixel_size,
                defocus_um=float(defocus_um[i]) + 1e-4 * slope * place * pixel_size,
                optics=lens,
                astigmatism_um=float(astigmatism_um[i]),
                astigmatism_angle=float(astigmatism_angle[i]),
                device=images.device,
            )
            flipped = torch.fft.irfft2(spectrum * torch.where(ctf > 0, -1.0, 1.0), s=shape)
            corrected[i] += flipped * weight.to(images.device)
    return corrected


def _strips(width: int, slope: float, pixel_size: float, voltage_kv: float) -> list[tuple[float, Tensor]]:
    """Centres of strips from the axis, and the share that each has in every column (they add up to 1)."""
    per_angstrom = math.pi * electron_wavelength(voltage_kv) / (2 * pixel_size) ** 2  # rad per Å of defocus
    change = abs(slope) * width * pixel_size * per_angstrom
    count = max(1, math.ceil(change / _PHASE_STEP))
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
