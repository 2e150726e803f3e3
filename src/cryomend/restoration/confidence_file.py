"""The confidence of one restored file: measured, calibrated and written where it lies on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cryomend import __version__
from cryomend.io import InputError, Volume, mapped_volume, release_pages, scratch_array
from cryomend.restoration.confidence import (
    N_PASSES,
    Curve,
    Standard,
    calibrate_disagreement,
    confidence_curve,
    measure_contrast,
    measure_disagreement_mapped,
    standardise_voxels,
)
from cryomend.restoration.engine import Engine
from cryomend.restoration.resample import resample_mapped

__all__ = ["write_confidence"]

Model = tuple[nn.Module, dict[str, Any]]
Say = Callable[[str], None]


def write_confidence(
    path: Path,
    opened: Volume,
    restored: NDArray[np.float32],
    model: Model,
    make_engine: Callable[[nn.Module], Engine],
    *,
    halves: Sequence[Volume] = (),
    protein: str,
    overlap: int | None = None,
    network_shape: tuple[int, int, int] | None = None,
    progress: Callable[[int, int], None],
    say: Say,
) -> None:
    """Write the uncertainty of a restoration over its contrast, the standard deviation of all its voxels.

    Parameters
    ----------
    path : Path
        Where; temporary volumes lie beside it.
    opened : Volume
        The tomogram, memory-mapped or not.
    restored : array of float32, shape (Z, Y, X)
        The answer of the network, memory-mapped or not.
    model : (Module, dict)
        The network and what its file says.
    make_engine : callable
        Puts a network on its devices.
    halves : (Volume, Volume) or nothing
        Tomograms of the two halves of the data, of the shape of the whole.
    protein : {"dark", "bright"}
        Contrast of the tomogram and of the halves.
    overlap : int, optional
        Voxels that neighbouring tiles share, as `cryomend.restoration.predict.restore_mapped` takes it.
    network_shape : tuple of int, optional
        Of `cryomend.restoration.resample.shape_for_network`, where the network wants another sampling.
    progress : callable
        Called as ``progress(done, total)``.
    say : callable
        Called with lines of text.

    Raises
    ------
    InputError
        If the restoration has no contrast or the place cannot be written.
    """
    contrast = measure_contrast(restored)
    if contrast == 0:
        raise InputError(f"{opened.path}: the restoration is flat, so there is no confidence to tell")
    curve, halves = _choose_curve(model, halves, say)
    with_halves = ", two of them for the halves" if halves else ""
    say(f"{opened.path}: confidence, {N_PASSES + len(halves)} more passes of the network{with_halves}")
    label = f"cryomend {__version__} {model[1]['name']} 1 sigma / contrast"
    with mapped_volume(
        path, opened.data.shape, voxel_size=opened.voxel_size, like=opened, label=label
    ) as sigma:

        def measure(disagreement: NDArray[np.float32], data: Sequence[NDArray[Any]]) -> None:
            given = [standardise_voxels(voxels) for voxels in data]
            measure_disagreement_mapped(
                disagreement, given[0], model[0], make_engine, halves=_pair(given[1:]), scratch=path.parent,
                protein=protein, overlap=overlap, progress=progress,
            )  # fmt: skip

        _measure_at(sigma, [volume.data for volume in (opened, *halves)], measure, network_shape, path.parent)
        _divide(sigma, contrast)
        if curve is not None:
            calibrate_disagreement(sigma, curve)
    say(f"wrote {path}")


def _choose_curve(model: Model, halves: Sequence[Volume], say: Say) -> tuple[Curve | None, Sequence[Volume]]:
    """Find the calibration of a model, and the halves if it was made for them; warn where there is none."""
    plain, name = confidence_curve(*model), model[1]["name"]
    curve = confidence_curve(*model, halves=True) if halves else plain
    if curve is None and plain is not None:
        say(f"warning: the confidence of {name} is calibrated without halves; --even and --odd have no part")
        return plain, ()
    if curve is None:
        say(f"warning: nobody has calibrated the confidence of {name}; it is the bare disagreement")
    return curve, halves


def _pair(given: Sequence[Standard]) -> tuple[Standard, Standard] | None:
    """Two halves, or None of nothing."""
    return (given[0], given[1]) if given else None


def _measure_at(
    sigma: NDArray[np.float32],
    data: Sequence[NDArray[Any]],
    measure: Callable[[NDArray[np.float32], Sequence[NDArray[Any]]], None],
    shape: tuple[int, int, int] | None,
    directory: Path,
) -> None:
    """Measure on the voxels as they are, or on others and bring the result back."""
    if shape is None:
        measure(sigma, data)
        return
    with ExitStack() as stack:
        resampled = [stack.enter_context(scratch_array(directory, shape, np.float32)) for _ in data]
        for target, voxels in zip(resampled, data, strict=True):
            resample_mapped(target, voxels, directory=directory)
        disagreement = stack.enter_context(scratch_array(directory, shape, np.float32))
        measure(disagreement, resampled)
        resample_mapped(sigma, disagreement, directory=directory)


def _divide(sigma: NDArray[np.float32], contrast: float) -> None:
    """Bring a disagreement to units of the contrast; what resampling made negative is none."""
    for section in sigma:
        section[...] = np.maximum(section, 0) / np.float32(contrast)
        release_pages(sigma)
