"""Where not to trust a restoration: how much the network contradicts itself under what must not matter.

A network that knows what is there gives the same answer when the tomogram is mirrored, turned by 180 degrees
or shifted, and from either half of the data; where it guesses, it does not. How large an error goes with how
much disagreement is measured on simulated truth (``benchmarks/confidence_calibration.py``) and stands in a
small table for each model.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cryomend.io import InputError, release_pages, scratch_array
from cryomend.network.mirror import MIRRORS, MirroredNetwork
from cryomend.restoration.anchor import find_anchor
from cryomend.restoration.engine import Engine
from cryomend.restoration.predict import restore_mapped
from cryomend.restoration.spectrum import blocks
from cryomend.restoration.standardise import robust_mean_std, sample_rows

__all__ = [
    "N_PASSES",
    "Standard",
    "calibrate_disagreement",
    "confidence_curve",
    "measure_contrast",
    "measure_disagreement",
    "measure_disagreement_mapped",
    "network_digest",
    "standardise_voxels",
]

Curve = tuple[list[float], list[float]]
Progress = Callable[[int, int], None]

# All mirrors in Z, Y and X: among them are the 180 degree turns about the tilt axis (Z and X) and the beam
# (Y and X). Each goes with a shift (voxels) of its own: odd ones show the network's lattice.
_SHIFTS = ((0, 0, 0), (3, -3, 1), (-1, -2, -3), (2, 3, 1), (3, 1, 2), (-3, -1, -2), (1, 2, 3), (-2, -3, -1))
N_PASSES = len(MIRRORS)
_SMOOTHING = 5  # voxels a side: the deviation of eight numbers alone is uncertain by a quarter
_SECTIONS = 16  # at a time; a few tens of MiB
_TABLE = "confidence.json"
_WITH_HALVES = "+halves"  # behind a digest of the table


@dataclass(frozen=True)
class Standard:
    """Voxels (Z, Y, X), memory-mapped or not, and the mean and deviation by which they are standardised."""

    voxels: NDArray[Any]
    mean: float
    std: float


def standardise_voxels(voxels: NDArray[Any]) -> Standard:
    """Find mean and deviation by `robust_mean_std` from rows all over a volume.

    Parameters
    ----------
    voxels : array, shape (Z, Y, X)
        Any real number format, memory-mapped or not; of up to four million voxels all count.

    Returns
    -------
    Standard

    Raises
    ------
    ValueError
        If all voxels are equal.
    """
    return Standard(voxels, *robust_mean_std(torch.from_numpy(sample_rows(voxels))))


def measure_disagreement(
    tomogram: Tensor,
    network: nn.Module,
    *,
    halves: tuple[Tensor, Tensor] | None = None,
    protein: str = "dark",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Do as `measure_disagreement_mapped` in memory.

    Parameters
    ----------
    tomogram, network, protein, device, progress
        As `cryomend.restoration.restore_tomogram` takes them.
    halves : (Tensor, Tensor), optional
        Tomograms (Z, Y, X) of the two halves of the data, each in grey levels of its own.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)
        On the CPU, in the tomogram's grey levels, 0 or more.

    Raises
    ------
    ValueError
        As `cryomend.restoration.restore_tomogram`.
    """
    given = [standardise_voxels(v.detach().float().cpu().numpy()) for v in (tomogram, *(halves or ()))]
    disagreement = np.empty(tomogram.shape, dtype=np.float32)
    measure_disagreement_mapped(
        disagreement, given[0], network, lambda passes: Engine(passes, [device]),
        halves=(given[1], given[2]) if halves is not None else None, protein=protein, progress=progress,
    )  # fmt: skip
    return torch.from_numpy(disagreement)


def measure_disagreement_mapped(
    disagreement: NDArray[np.float32],
    tomogram: Standard,
    network: nn.Module,
    make_engine: Callable[[nn.Module], Engine],
    *,
    halves: tuple[Standard, Standard] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    protein: str = "dark",
    overlap: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Measure how far the answers of a network to one tomogram differ, voxel by voxel.

    Every tile goes through the network eight times, under all mirrors in Z, Y and X and small shifts, and
    back; mean and sum of squared deviations are accumulated (Welford), so the memory does not grow with the
    passes. The variance is averaged over 5 voxels a side, and tiles are blended as those of the restoration.
    With halves of the data each of them goes through the network once.

    Parameters
    ----------
    disagreement : array of float32, shape (Z, Y, X)
        Filled with the standard deviation of the answers in the tomogram's grey levels, 0 or more;
        memory-mapped or not, of either byte order.
    tomogram : Standard
        The data.
    network : Module
        As `Engine` takes it. Of a `MirroredNetwork` the one inside runs: the mirrors are among the passes, so
        the cost is that of `N_PASSES` restorations without mirrors.
    make_engine : callable
        Puts a network on its devices.
    halves : (Standard, Standard), optional
        The two halves of the data, of the shape of the whole and in any grey levels.
    scratch : path-like, optional
        Directory for two temporary volumes where halves are given; they are in memory if None.
    protein, overlap, progress
        As `cryomend.restoration.restore_tomogram` takes them; the progress counts the passes of every tile.

    Raises
    ------
    Exception
        As `restore_mapped`.

    Notes
    -----
    ``D = sqrt(var_passes + mean_5³((N(even) - N(odd))² / 4))``. The second term is the variance that noise
    gives the answer to the whole, if the answer is linear in the noise: the noise of the whole is the mean of
    that of the halves, and half the difference has its variance. Both terms are taken in the units of the
    network, whose answer has the contrast that training gave it whatever the noise, so the grey levels of the
    halves do not matter.
    """
    inside = network.network if isinstance(network, MirroredNetwork) else network
    total = N_PASSES + (0 if halves is None else 2)
    # tiles where the answer to the whole has them: then the halves differ by their noise alone
    origin = find_anchor(tomogram.voxels, mean=tomogram.mean)

    def restore(target: NDArray[np.float32], data: Standard, model: nn.Module, passes: range) -> None:
        def count(done: int, tiles: int) -> None:
            if progress is not None:
                progress(passes.start * tiles + done * len(passes), total * tiles)

        restore_mapped(
            target, data.voxels, make_engine(model), mean_std=(data.mean, data.std), protein=protein,
            overlap=overlap, origin=origin, progress=count,
        )  # fmt: skip

    restore(disagreement, tomogram, _Disagreement(inside), range(N_PASSES))
    with ExitStack() as stack:
        answers = []
        for n, half in enumerate(halves or (), start=N_PASSES):
            answer = stack.enter_context(scratch_array(scratch, disagreement.shape, np.float32))
            restore(answer, half, inside, range(n, n + 1))
            answers.append(Standard(answer, half.mean, half.std))
        _finish(disagreement, tomogram, answers)


def _finish(disagreement: NDArray[np.float32], tomogram: Standard, answers: list[Standard]) -> None:
    """Take the mean out that restoring puts in, and add what the answers to the halves say."""
    for window in blocks(len(disagreement), disagreement[0].nbytes):
        # restored = mean + sign * std * network, but a deviation has neither offset nor sign
        found = np.abs(disagreement[window].astype(np.float32) - np.float32(tomogram.mean))
        if answers:
            noise = np.float32(tomogram.std**2) * _noise_variance(answers[0], answers[1], window)
            found = np.sqrt(found**2 + noise)
        disagreement[window] = found
        for volume in (disagreement, *(answer.voxels for answer in answers)):
            release_pages(volume)


def _noise_variance(even: Standard, odd: Standard, window: slice) -> NDArray[np.float32]:
    """Variance of half the difference of two answers in some sections, in the units of the network."""
    reach = _SMOOTHING // 2
    around = slice(max(window.start - reach, 0), window.stop + reach)
    first, second = (
        (torch.from_numpy(np.array(v.voxels[around], dtype=np.float32)) - v.mean) / v.std for v in (even, odd)
    )
    variance = _local_mean(((first - second) / 2).square_()[None, None])[0, 0]
    skipped = window.start - around.start
    found: NDArray[np.float32] = variance[skipped : skipped + window.stop - window.start].numpy()
    return found


class _Disagreement(nn.Module):
    """The standard deviation of a network's answers under the symmetries, in place of an answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.multiple = int(getattr(network, "multiple", 16))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, z, y, x) to the deviation at every voxel."""
        mean, squares = (torch.zeros_like(x, dtype=torch.float32) for _ in range(2))
        for n, (axes, shift) in enumerate(zip(MIRRORS, _SHIFTS, strict=True), start=1):
            answer = self._answer(x, axes, shift)
            change = answer - mean
            mean += change / n
            squares += change * (answer - mean)
        return _local_mean(squares / (N_PASSES - 1)).clamp(min=0).sqrt()

    def _answer(self, x: Tensor, axes: tuple[int, ...], shift: tuple[int, int, int]) -> Tensor:
        """Answer to the moved tile, moved back; what leaves it on one side comes in on the other."""
        # so only the outermost voxels see a wrong neighbour, which the blending of tiles leaves out
        moved = torch.roll(x.flip(axes), shift, dims=(-3, -2, -1))
        answer: Tensor = self.network(moved)
        return torch.roll(answer, tuple(-s for s in shift), dims=(-3, -2, -1)).flip(axes).float()


def _local_mean(x: Tensor) -> Tensor:
    """Average over a small cube; at the faces over what there is of it."""
    return F.avg_pool3d(x, _SMOOTHING, stride=1, padding=_SMOOTHING // 2, count_include_pad=False)


def measure_contrast(restored: NDArray[np.float32]) -> float:
    """Find the standard deviation of a restoration, section by section.

    Parameters
    ----------
    restored : array, shape (Z, Y, X)
        Memory-mapped or not.

    Returns
    -------
    float
        In its grey levels; 0 if it is flat.
    """
    reference = float(restored[0, 0, 0])  # subtracted, so that a large offset costs no digits
    total = squares = 0.0
    for section in restored:
        values = section.astype(np.float64) - reference
        total, squares = total + float(values.sum()), squares + float((values**2).sum())
        release_pages(restored)
    mean = total / restored.size
    return math.sqrt(max(squares / restored.size - mean**2, 0.0))


def network_digest(network: nn.Module) -> str:
    """Name a network by its weights: 16 hexadecimal digits that change with any of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def confidence_curve(network: nn.Module, metadata: dict[str, Any], *, halves: bool = False) -> Curve | None:
    """Look up what turns the disagreement of a model into one standard deviation.

    Parameters
    ----------
    network : Module
        The model.
    metadata : dict
        What its file says; ``confidence_curve`` (``confidence_curve_halves``) wins over the package's own
        table, where models are found by `network_digest`.
    halves : bool
        Of the disagreement that halves have a part in, which has a curve of its own.

    Returns
    -------
    (disagreements, sigmas) or None
        Two equally long, rising lists in units of the restored contrast; None if nobody has calibrated this
        model.

    Raises
    ------
    InputError
        If the lists are not that.
    """
    name = "confidence_curve_halves" if halves else "confidence_curve"
    curve = metadata.get(name)
    if curve is None and "confidence_curve" not in metadata:
        curve = _read_table().get(network_digest(network) + _WITH_HALVES * halves)
    if curve is None:
        return None
    try:
        points = np.array(curve, dtype=float)
    except (TypeError, ValueError):
        points = np.empty(0)
    rising = points.ndim == 2 and len(points) == 2 and points.shape[1] > 0 and bool((points > 0).all())
    if not (rising and (np.diff(points[0]) > 0).all() and (np.diff(points[1]) >= 0).all()):
        raise InputError(
            f"the {name} of model {metadata.get('name')} is not two rising lists of positive "
            "numbers; calibrate it again (benchmarks/confidence_calibration.py)"
        )
    return points[0].tolist(), points[1].tolist()


def calibrate_disagreement(disagreement: NDArray[np.float32], curve: Curve) -> None:
    """Turn disagreement into one standard deviation, in place.

    Straight lines in the logarithms lead from point to point of the curve; below the first, sigma stays as it
    is there (a network that is sure still errs); beyond the last it grows in proportion.

    Parameters
    ----------
    disagreement : array of float32, shape (Z, Y, X)
        In units of the restored contrast; memory-mapped or not.
    curve : (list of float, list of float)
        Of `confidence_curve`.
    """
    x, y = (np.log(np.array(values)) for values in curve)
    for z, section in enumerate(disagreement):
        logarithm = np.log(np.maximum(section, 1e-12))
        section[...] = np.exp(np.interp(logarithm, x, y) + np.maximum(logarithm - x[-1], 0))
        if z % _SECTIONS == 0:
            release_pages(disagreement)


def _read_table() -> dict[str, Any]:
    """Read the calibrations of the models that come with the package."""
    path = Path(str(resources.files("cryomend.restoration") / "models")) / _TABLE
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return table
