"""What users do before they restore: from a recorded tilt series to a tomogram, drawn for each pair.

Every step changes the spectrum, some by tens of decibels; a network that has seen one of them only fails
on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cryomend.acquisition.exposure import Exposure, Lens
from cryomend.config import ProcessingConfig
from cryomend.ctf import Optics, contrast_transfer
from cryomend.fourier import filter_fourier, radial_frequency, resample_fourier, shift_phase
from cryomend.reconstruction.align import dose_weight
from cryomend.reconstruction.ctf_correction import correct_phase
from cryomend.reconstruction.deconvolve import deconvolve_tomogram
from cryomend.reconstruction.iterate import reconstruct_sart, reconstruct_sirt
from cryomend.reconstruction.wbp import reconstruct_wbp

__all__ = [
    "Processing",
    "average_images",
    "bin_density",
    "draw_processing",
    "filter_highpass",
    "multiply_ctf",
    "quantise",
    "tomogram_of",
]

_GREY_LEVELS = 256
_SAMPLE = 2**22  # voxels from which percentiles are taken


@dataclass(frozen=True)
class Processing:
    """What was drawn for one pair; as it stands, a WBP with the CTF left in and nothing else.

    ``iterations`` are those of the method: imitated by the filter, of SIRT, sweeps of SART;
    ``deconvolution`` is (SNR fall-off, strength), ``highpass_period`` in Å, ``clip_percent`` what 8 bits cut
    off at the dark and the bright end; None where nothing of the kind is done.
    """

    method: str = "wbp"
    cutoff: float = 0.5
    falloff: float = 0.0
    exact: bool = False
    iterations: int = 0
    relaxation: float = 1.0
    normalised_by: str = "standard deviation"
    ctf: str = "left"
    defocus_misfit_um: float = 0.0
    dose_weighted: bool = False
    binning: str = "none"
    deconvolution: tuple[float, float] | None = None
    highpass_period: float | None = None
    clip_percent: tuple[float, float] | None = None

    @property
    def factor(self) -> int:
        """By which the series is recorded finer than the pair."""
        return 1 if self.binning == "none" else 2

    def record(self) -> dict[str, Any]:
        """Everything that was drawn, for the file beside the pair."""
        return asdict(self)


def draw_processing(config: ProcessingConfig | None, rng: np.random.Generator) -> Processing:
    """Draw what is done to one pair from the ranges of a configuration; a plain WBP if None."""
    if config is None:
        return Processing()

    def draw(bounds: tuple[float, float]) -> float:
        return float(rng.uniform(*bounds))

    def whole(bounds: tuple[int, int]) -> int:
        return int(rng.integers(bounds[0], bounds[1] + 1))

    method, ctf = _choose(config.methods, rng), _choose(config.ctf, rng)
    iterations = {
        "sirt-like": whole(config.sirt_like_iterations),
        "sirt": whole(config.sirt_iterations),
        "sart": whole(config.sart_sweeps),
    }
    relaxation = draw(config.sart_relaxation)
    deconvolution = draw(config.snr_falloff), draw(config.deconvolution_strength)
    period = math.exp(draw((math.log(config.highpass_period[0]), math.log(config.highpass_period[1]))))
    clips = draw(config.clip_percent), draw(config.clip_percent)
    return Processing(
        method=method,
        cutoff=draw(config.cutoff),
        falloff=draw(config.falloff),
        exact=bool(rng.random() < config.exact_share) and method in ("wbp", "sirt-like"),
        iterations=iterations.get(method, 0),
        relaxation=relaxation if method == "sart" else 1.0,
        normalised_by="mean" if rng.random() < config.mean_normalised_share else "standard deviation",
        ctf=ctf,
        defocus_misfit_um=float(rng.normal()) * draw(config.defocus_misfit),
        dose_weighted=bool(rng.random() < config.dose_weight_share),
        binning=_choose(config.binning, rng),
        # of images multiplied by the CTF nobody divides it out again
        deconvolution=deconvolution
        if rng.random() < config.deconvolve_share and ctf != "multiplied"
        else None,
        highpass_period=period if rng.random() < config.highpass_share else None,
        clip_percent=clips if rng.random() < config.eight_bit_share else None,
    )


def _choose(weights: Mapping[Any, float], rng: np.random.Generator) -> str:
    """One of the names, in proportion to their weights; their order in the file plays no part."""
    names = sorted(weights)
    shares = np.array([weights[name] for name in names])
    return str(names[int(rng.choice(len(names), p=shares / shares.sum()))])


def tomogram_of(
    tilt_series: Tensor,
    tilt_angles: NDArray[Any],
    *,
    thickness: int,
    pixel_size: float,
    exposure: Exposure,
    processing: Processing,
) -> Tensor:
    """Process and reconstruct a series as one of the users would.

    In this order: levels of the tilts, dose weight, binning of the images, CTF, reconstruction, binning of
    the tomogram, deconvolution, high-pass, 8 bits.

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Electrons per pixel, protein dark.
    tilt_angles : array, shape (tilt,)
        Degrees.
    thickness : int
        Of the specimen, in pixels of the series.
    pixel_size : float
        Of the series, Å.
    exposure : Exposure
        How it was recorded; its defocus is known up to ``processing.defocus_misfit_um``.
    processing : Processing
        What is done.

    Returns
    -------
    Tensor of float32, shape (thickness, Y, X)
        Each side divided by ``processing.factor``; protein dark.
    """
    images = _level(tilt_series, processing.normalised_by)
    if processing.dose_weighted:
        doses = exposure.timing(tilt_angles)[1]
        images = dose_weight(
            images,
            exposure.prior_doses(tilt_angles),
            doses,
            pixel_size=pixel_size,
            voltage_kv=exposure.optics.voltage_kv,
        )
    if processing.binning in ("fourier", "average"):
        thickness, pixel_size = thickness // 2, 2 * pixel_size
        shape = (images.shape[1] // 2, images.shape[2] // 2)
        images = (
            average_images(images) if processing.binning == "average" else resample_fourier(images, shape)
        )
    lenses = _known_lenses(exposure, tilt_angles, processing.defocus_misfit_um)
    images = _correct(images, tilt_angles, lenses, pixel_size, exposure, processing.ctf)
    tomogram = _reconstruct(images, tilt_angles, thickness, processing)
    if processing.binning == "volume":
        tomogram, pixel_size = average_volume(tomogram), 2 * pixel_size
    lowest = lenses[int(np.argmin(np.abs(tilt_angles)))]
    return _finish(tomogram, pixel_size, lowest, exposure, processing)


def _level(tilt_series: Tensor, normalised_by: str) -> Tensor:
    """Tilts of zero mean, divided by what their mean was or by their deviation."""
    images = tilt_series - tilt_series.mean(dim=(1, 2), keepdim=True)
    scale = tilt_series.mean(dim=(1, 2)) if normalised_by == "mean" else images.std(dim=(1, 2))
    return images / scale.clamp(min=1e-6)[:, None, None]


def _known_lenses(exposure: Exposure, tilt_angles: NDArray[Any], misfit_um: float) -> list[Lens]:
    """What the user's fit of the CTF says of each tilt."""
    return [
        Lens(lens.defocus_um + misfit_um, lens.astigmatism_um, lens.astigmatism_angle, lens.phase_shift)
        for lens in exposure.lenses(tilt_angles)
    ]


def _correct(
    images: Tensor,
    tilt_angles: NDArray[Any],
    lenses: list[Lens],
    pixel_size: float,
    exposure: Exposure,
    ctf: str,
) -> Tensor:
    """Leave the CTF in, flip its phases or multiply by it."""
    if ctf == "left":
        return images
    if ctf == "multiplied":
        return multiply_ctf(images, lenses, pixel_size=pixel_size, optics=exposure.optics)
    return correct_phase(
        images,
        tilt_angles,
        pixel_size=pixel_size,
        defocus_um=np.array([lens.defocus_um for lens in lenses]),
        optics=exposure.optics,
        astigmatism_um=np.array([lens.astigmatism_um for lens in lenses]),
        astigmatism_angle=np.array([lens.astigmatism_angle for lens in lenses]),
        phase_shift=np.array([lens.phase_shift for lens in lenses]),
        defocus_hand=exposure.defocus_hand,
    )


def multiply_ctf(images: Tensor, lenses: list[Lens], *, pixel_size: float, optics: Optics) -> Tensor:
    """Multiply images by ``sin γ``, the CTF with the sign that keeps protein dark, without its envelopes.

    One CTF for each image, that of the tilt axis, as programs that cut out particles do.

    Parameters
    ----------
    images : Tensor, shape (tilt, Y, X)
        Protein dark.
    lenses : list of Lens
        One for each image.
    pixel_size : float
        Å.
    optics : Optics
        Voltage, aberration, amplitude contrast.

    Returns
    -------
    Tensor of float32, shape of ``images``
        The signal's CTF is now that of the microscope squared, without its zeros' change of sign.
    """
    multiplied = torch.empty_like(images)
    shape = (images.shape[1], images.shape[2])
    for i, (image, lens) in enumerate(zip(images, lenses, strict=True)):
        transfer = contrast_transfer(
            shape,
            pixel_size=pixel_size,
            defocus_um=lens.defocus_um,
            optics=Optics(
                optics.voltage_kv, optics.spherical_aberration_mm, optics.amplitude_contrast, lens.phase_shift
            ),
            astigmatism_um=lens.astigmatism_um,
            astigmatism_angle=lens.astigmatism_angle,
            device=images.device,
        )
        multiplied[i] = filter_fourier(image, -transfer)
    return multiplied


def _reconstruct(images: Tensor, tilt_angles: NDArray[Any], thickness: int, processing: Processing) -> Tensor:
    """The tomogram by the method that was drawn."""
    if processing.method == "sirt":
        return reconstruct_sirt(images, tilt_angles, depth=thickness, iterations=processing.iterations)
    if processing.method == "sart":
        return reconstruct_sart(
            images,
            tilt_angles,
            depth=thickness,
            iterations=processing.iterations,
            relaxation=processing.relaxation,
        )
    return reconstruct_wbp(
        images,
        tilt_angles,
        thickness=thickness,
        cutoff=processing.cutoff,
        falloff=processing.falloff,
        sirt_iterations=processing.iterations,
        weighting="exact" if processing.exact else "ramp",
    )


def _finish(
    tomogram: Tensor, voxel_size: float, lens: Lens, exposure: Exposure, processing: Processing
) -> Tensor:
    """What is done to the tomogram itself."""
    if processing.deconvolution is not None:
        falloff, strength = processing.deconvolution
        optics = Optics(
            exposure.optics.voltage_kv,
            exposure.optics.spherical_aberration_mm,
            exposure.optics.amplitude_contrast,
            lens.phase_shift,
        )
        tomogram = deconvolve_tomogram(
            tomogram,
            voxel_size=voxel_size,
            defocus_um=lens.defocus_um,
            optics=optics,
            snr_falloff=falloff,
            strength=strength,
            phase_flipped=processing.ctf == "flipped",
        )
    if processing.highpass_period is not None:
        tomogram = filter_highpass(tomogram, processing.highpass_period / voxel_size)
    if processing.clip_percent is not None:
        tomogram = quantise(tomogram, *processing.clip_percent)
    return tomogram


def filter_highpass(tomogram: Tensor, period: float) -> Tensor:
    """Filter a volume by ``1 - 2^(-(k P)²)``: half the amplitude is left of the period P, in voxels."""
    k = radial_frequency(tomogram.shape, half=True, device=tomogram.device)
    return filter_fourier(tomogram, 1 - torch.exp2(-((k * period) ** 2)))


def quantise(tomogram: Tensor, low_percent: float, high_percent: float) -> Tensor:
    """Bring a volume to the integers 0 to 255 and clip so many percent of the voxels at either end.

    Returns
    -------
    Tensor of float32, shape of ``tomogram``
        As it is where all voxels are equal.
    """
    flat = tomogram.flatten()
    sample = flat[:: -(-flat.numel() // _SAMPLE)]
    ends = torch.tensor([low_percent / 100, 1 - high_percent / 100], device=flat.device)
    low, high = torch.quantile(sample, ends).tolist()
    if high <= low:
        return tomogram
    return ((tomogram - low) * ((_GREY_LEVELS - 1) / (high - low))).round().clamp(0, _GREY_LEVELS - 1)


def average_images(images: Tensor) -> Tensor:
    """Bin images by 2 with the mean of four pixels; their centre stays on pixel ``n // 2``.

    The images are moved by half a pixel before, as the interpolation of an alignment does: else the
    middle of the four pixels would lie beside the tilt axis.

    Parameters
    ----------
    images : Tensor, shape (tilt, Y, X)
        Even sides.
    """
    height, width = images.shape[1:]
    # block i holds the pixels 2 i and 2 i + 1; the old centre n is to lie in the middle of the block n // 2
    y, x = (0.5 if n // 2 % 2 == 0 else -0.5 for n in (height, width))
    moved = filter_fourier(images, shift_phase((height, width), (x, y), images.device))
    return F.avg_pool2d(moved, 2)


def average_volume(volume: Tensor) -> Tensor:
    """Bin a volume by 2 with the mean of eight voxels."""
    return F.avg_pool3d(volume[None, None], 2)[0, 0]


def bin_density(density: Tensor, binning: str) -> Tensor:
    """The truth at twice the voxel size, where the binned tomogram has it.

    A tomogram that was averaged has each voxel in the middle of eight; of binned images the centre stays on
    voxel ``n // 2``, so there each voxel is a mean over its place and half of what is beside it.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        Even sides unless ``binning`` is ``none``.
    binning : str
        ``none``, ``fourier``, ``average`` or ``volume``.
    """
    if binning == "none":
        return density
    if binning == "volume":
        return average_volume(density)
    for axis in range(3):
        n = density.shape[axis]
        start = n // 2 % 2  # so that voxel n // 2 becomes voxel (n // 2) // 2
        padded = torch.cat([density.narrow(axis, 0, 1), density, density.narrow(axis, n - 1, 1)], dim=axis)
        parts = [
            padded.narrow(axis, start + offset, n - 1 - start)
            .index_select(axis, torch.arange(0, n - 1 - start, 2, device=density.device))
            .mul(share)
            for offset, share in ((0, 0.25), (1, 0.5), (2, 0.25))
        ]
        density = parts[0] + parts[1] + parts[2]
    return density
