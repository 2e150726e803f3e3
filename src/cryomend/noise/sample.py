"""Make noise tilts of any size from a noise model.

Last step of the noise stage; simulation takes its learned noise from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.io import InputError, Volume, check_writable, mapped_volume, read_tilt_angles
from cryomend.io.mrc import open_stack, read_image
from cryomend.mixing import measure_power, sample_rescaled, scale_noise, snr_from_db
from cryomend.noise.fidelity import NoiseSet
from cryomend.noise.model import NoiseModel, load_noise_model

__all__ = ["SampleOptions", "sample_noise", "sample_noise_file", "sample_noise_set", "stream_noise"]

PIXEL_TOLERANCE = 0.02
"""Pixel sizes that differ by less count as equal: headers round them, and textures do not tell."""


def sample_noise(
    model: NoiseModel,
    *,
    tilt_angles: NDArray[Any],
    shape: tuple[int, int],
    generator: torch.Generator,
    calibrated: bool = True,
) -> Tensor:
    """Draw noise tilts of any size, without seams or repetition.

    Every tilt is one stationary field (`NoiseModel.sample_field`) with the deviation of its angle.

    Parameters
    ----------
    model : NoiseModel
    tilt_angles : array, shape (tilt,)
        Degrees.
    shape : tuple of int
        (Y, X) of a tilt in pixels.
    generator : torch.Generator
        Equal seeds give equal noise on one device.
    calibrated : bool
        False leaves out the calibration of a learned model.

    Returns
    -------
    Tensor of float32, shape (tilt, Y, X)
        In the grey levels of the stacks that the model was fitted to, around 0; on the model's device.

    Raises
    ------
    ValueError
        If the shape is not positive or there are no angles.
    """
    tilts = stream_noise(
        model, tilt_angles=tilt_angles, shape=shape, generator=generator, calibrated=calibrated
    )
    return torch.stack(list(tilts))


def stream_noise(
    model: NoiseModel,
    *,
    tilt_angles: NDArray[Any],
    shape: tuple[int, int],
    generator: torch.Generator,
    calibrated: bool = True,
) -> Iterator[Tensor]:
    """Draw the tilts of `sample_noise` one by one, each (Y, X) and on the model's device."""
    if min(shape) < 1 or len(tilt_angles) == 0:
        raise ValueError(
            f"need a positive shape and at least one angle, got {shape} and {len(tilt_angles)} angles"
        )
    angles = np.asarray(tilt_angles, dtype=np.float64)
    for angle, std in zip(angles.tolist(), model.interpolate_std(angles).tolist(), strict=True):
        field = model.sample_field(shape, generator, tilt_angle=angle, calibrated=calibrated)
        yield std * field.float()


def sample_noise_set(model: NoiseModel, *, like: NoiseSet, seed: int) -> NoiseSet:
    """Draw as many patches per tilt as ``like`` has, to be compared with it.

    Parameters
    ----------
    model : NoiseModel
        On any device.
    like : NoiseSet
        Real noise.
    seed : int

    Returns
    -------
    NoiseSet, on the CPU
    """
    rng = torch.Generator(device=model.device).manual_seed(seed)
    side = like.patches.shape[-1]
    parts = []
    for number in range(len(like.std)):
        count = int((like.tilt == number).sum())
        rows = int(np.ceil(np.sqrt(count)))
        field = model.sample_field(
            (rows * side, rows * side), rng, tilt_angle=float(like.angle[number])
        ).cpu()
        tiles = field.reshape(rows, side, rows, side).transpose(1, 2).reshape(-1, side, side)[:count]
        parts.append(tiles - tiles.mean(dim=(1, 2), keepdim=True))
    std = model.interpolate_std(like.angle)
    return NoiseSet(torch.cat(parts), np.sort(like.tilt), std, like.label, like.angle)


@dataclass(frozen=True)
class SampleOptions:
    """How a file of noise is made.

    Attributes
    ----------
    seed : int
    calibrated : bool
        See `sample_noise`.
    pixel_size : float, optional
        Å wanted; the model's own, or that of ``signal``, if None.
    rescale : bool
        Resample noise of another pixel size (by Fourier cropping or padding) instead of a mere warning.
    signal : Path, optional
        Stack whose power the noise is matched to, tilt by tilt.
    snr_db : float, optional
        Power of ``signal`` over that of the noise, in decibels.
    """

    seed: int = 0
    calibrated: bool = True
    pixel_size: float | None = None
    rescale: bool = False
    signal: Path | None = None
    snr_db: float | None = None


def sample_noise_file(
    model: Path,
    output: Path,
    *,
    tilt_angles: Path,
    shape: tuple[int, int] | None,
    options: SampleOptions | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[float, str], None] = lambda share, text: None,
) -> list[str]:
    """Write noise tilts (MRC) drawn from a model file, one per angle of an angle file.

    Parameters
    ----------
    model, output, tilt_angles : Path
    shape : tuple of int, optional
        (Y, X) in pixels; that of the signal if None.
    options : SampleOptions, optional
    device : torch.device or str
        Where the noise is made.
    on_progress : callable
        Told the share done and a text.

    Returns
    -------
    list of str
        What the user should know: pixel sizes that differ.

    Raises
    ------
    InputError
        If a file cannot be used, the size is not positive, or only one of signal and SNR is given.
    """
    options = options or SampleOptions()
    check_writable(output)
    fitted = load_noise_model(model, device=device)
    angles = read_tilt_angles(tilt_angles)
    signal = _open_signal(options, len(angles))
    shape = _choose_shape(shape, signal)
    wanted = options.pixel_size or (signal.voxel_size if signal is not None else 0.0)
    notes, factor = _compare_pixels(model, fitted, wanted, rescale=options.rescale)
    generator = torch.Generator(device=fitted.device).manual_seed(options.seed)
    label = f"{fitted.kind} noise, seed {options.seed}"
    size = wanted if factor != 1 else fitted.pixel_size
    with mapped_volume(output, (len(angles), *shape), voxel_size=size, label=label, stack=True) as stack:
        for index, angle in enumerate(angles):
            noise = _draw_tilt(fitted, angle, shape, generator, factor=factor, calibrated=options.calibrated)
            if signal is not None and options.snr_db is not None:
                power = measure_power(torch.from_numpy(read_image(signal, index))[None])
                noise = scale_noise(noise, power=power / snr_from_db(options.snr_db))
            stack[index] = noise[0].numpy()
            on_progress((index + 1) / len(angles), f"tilt {index + 1} of {len(angles)}")
    return notes


def _draw_tilt(
    model: NoiseModel,
    angle: float,
    shape: tuple[int, int],
    generator: torch.Generator,
    *,
    factor: float,
    calibrated: bool,
) -> Tensor:
    """One tilt (1, Y, X) on the CPU, its pixels rescaled by ``factor``."""

    def draw(field: tuple[int, int]) -> Tensor:
        angles = np.array([angle])
        return sample_noise(
            model, tilt_angles=angles, shape=field, generator=generator, calibrated=calibrated
        ).cpu()

    return draw(shape) if factor == 1 else sample_rescaled(draw, shape, factor=factor)


def _choose_shape(shape: tuple[int, int] | None, signal: Volume | None) -> tuple[int, int]:
    """The size asked for, which must be that of the signal if there is one."""
    if shape is None and signal is not None:
        shape = (signal.data.shape[1], signal.data.shape[2])
    if shape is None or min(shape) < 1:
        found = "nothing" if shape is None else f"{shape[0]} {shape[1]}"
        raise InputError(f"--size must be two positive numbers of pixels, got {found}")
    if signal is not None and shape != signal.data.shape[1:]:
        raise InputError(
            f"{signal.path}: images of {signal.data.shape[1]} x {signal.data.shape[2]} pixels for --size "
            f"{shape[0]} {shape[1]}; leave --size out"
        )
    return shape


def _open_signal(options: SampleOptions, tilts: int) -> Volume | None:
    """The stack that the noise is matched to, if any."""
    if (options.signal is None) != (options.snr_db is None):
        raise InputError("--snr-db says the power of --signal over that of the noise: give both or neither")
    if options.signal is None:
        return None
    signal = open_stack(options.signal)
    if len(signal.data) != tilts:
        raise InputError(f"{options.signal}: {len(signal.data)} images for {tilts} tilt angles")
    return signal


def _compare_pixels(
    path: Path, model: NoiseModel, wanted: float, *, rescale: bool
) -> tuple[list[str], float]:
    """What to say of pixel sizes that differ, and the factor to rescale by (1 for none)."""
    if wanted <= 0:
        if rescale:
            raise InputError("--rescale needs the pixel size to rescale to; give --pixel-size")
        return [], 1.0
    if model.pixel_size <= 0:
        if rescale:
            raise InputError(
                f"{path} does not know its pixel size, so its noise cannot be rescaled; extract the patches "
                "again with --pixel-size"
            )
        return [f"{path} does not know its pixel size; its noise is used pixel by pixel at {wanted:g} Å"], 1.0
    factor = wanted / model.pixel_size
    if abs(factor - 1) <= PIXEL_TOLERANCE:
        return [], 1.0
    if rescale:
        return [f"noise of {model.pixel_size:g} Å rescaled to {wanted:g} Å"], factor
    return [
        f"{path} was fitted at {model.pixel_size:g} Å, not {wanted:g} Å: its noise is used pixel by pixel, "
        "with the wrong grain; --rescale resamples it"
    ], 1.0
