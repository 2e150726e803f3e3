"""Where not to trust a restoration: how much the network contradicts itself under what must not matter.

A network that knows what is there gives the same answer when the tomogram is mirrored, turned by 180 degrees
or shifted; where it guesses, it does not. How large an error goes with how much disagreement is measured on
simulated truth (``benchmarks/confidence_calibration.py``) and stands in a small table for each model.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cryomend.io import InputError
from cryomend.restoration.predict import restore_tomogram
from cryomend.restoration.standardise import robust_mean_std

__all__ = [
    "N_PASSES",
    "calibrate_disagreement",
    "confidence_curve",
    "measure_disagreement",
    "network_digest",
]

Curve = tuple[list[float], list[float]]

# Every combination of mirrors in Z, Y and X: among them are the 180 degree turns about the tilt axis (Z and
# X) and the beam (Y and X). Each goes with a shift (voxels) of its own: odd ones show the network's lattice.
_FLIPS = tuple(itertools.product((False, True), repeat=3))
_SHIFTS = ((0, 0, 0), (1, 2, 3), (3, 1, 2), (2, 3, 1), (-1, -2, -3), (-3, -1, -2), (-2, -3, -1), (3, -3, 1))
N_PASSES = len(_FLIPS)
_SMOOTHING = 5  # voxels a side: the deviation of eight numbers alone is uncertain by a quarter
_TABLE = "confidence.json"


def measure_disagreement(
    tomogram: Tensor,
    network: nn.Module,
    *,
    protein: str = "dark",
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Measure how far the answers of a network to one tomogram differ, voxel by voxel.

    Every tile goes through the network eight times, under all mirrors in Z, Y and X and small shifts, and
    back; mean and sum of squared deviations are accumulated (Welford), so the memory does not grow with the
    passes. The variance is averaged over 5 voxels a side, and tiles are blended as those of the restoration.

    Parameters
    ----------
    tomogram, network, protein, device, progress
        As `cryomend.restoration.restore_tomogram` takes them; the cost is eight times that of it.

    Returns
    -------
    Tensor of float32, shape (Z, Y, X)
        Standard deviation of the answers in the tomogram's grey levels, 0 or more.

    Raises
    ------
    ValueError
        As `cryomend.restoration.restore_tomogram`.
    """
    mean, _ = robust_mean_std(tomogram)
    # restored = mean + scale * network, but a deviation has neither offset nor sign
    centred = tomogram.float() - mean
    deviation = restore_tomogram(
        centred, _Disagreement(network), protein=protein, device=device, progress=progress
    )
    return deviation.abs_()


class _Disagreement(nn.Module):
    """The standard deviation of a network's answers under the symmetries, in place of an answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.multiple = int(getattr(network, "multiple", 16))

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, 1, z, y, x) to the deviation at every voxel."""
        mean, squares = torch.zeros_like(x), torch.zeros_like(x)
        for n, (flips, shift) in enumerate(zip(_FLIPS, _SHIFTS, strict=True), start=1):
            answer = self._answer(
                x, [axis for axis, flip in zip((2, 3, 4), flips, strict=True) if flip], shift
            )
            change = answer - mean
            mean += change / n
            squares += change * (answer - mean)
        return _local_mean(squares / (N_PASSES - 1)).clamp(min=0).sqrt()

    def _answer(self, x: Tensor, flips: list[int], shift: tuple[int, int, int]) -> Tensor:
        """Answer to the moved tile, moved back; what leaves it on one side comes in on the other."""
        # so only the outermost voxels see a wrong neighbour, which the blending of tiles leaves out
        moved = torch.roll(x.flip(flips), shift, dims=(2, 3, 4))
        answer: Tensor = self.network(moved)
        return torch.roll(answer, tuple(-s for s in shift), dims=(2, 3, 4)).flip(flips)


def _local_mean(x: Tensor) -> Tensor:
    """Average over a small cube; at the faces over what there is of it."""
    return F.avg_pool3d(x, _SMOOTHING, stride=1, padding=_SMOOTHING // 2, count_include_pad=False)


def network_digest(network: nn.Module) -> str:
    """Name a network by its weights: 16 hexadecimal digits that change with any of them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def confidence_curve(network: nn.Module, metadata: dict[str, Any]) -> Curve | None:
    """Look up what turns the disagreement of a model into one standard deviation.

    Parameters
    ----------
    network : Module
        The model.
    metadata : dict
        What its file says; ``confidence_curve`` wins over the package's own table, where models are found
        by `network_digest`.

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
    curve = metadata.get("confidence_curve") or _read_table().get(network_digest(network))
    if curve is None:
        return None
    try:
        points = np.array(curve, dtype=float)
    except (TypeError, ValueError):
        points = np.empty(0)
    rising = points.ndim == 2 and len(points) == 2 and points.shape[1] > 0 and bool((points > 0).all())
    if not (rising and (np.diff(points[0]) > 0).all() and (np.diff(points[1]) >= 0).all()):
        raise InputError(
            f"the confidence_curve of model {metadata.get('name')} is not two rising lists of positive "
            "numbers; calibrate it again (benchmarks/confidence_calibration.py)"
        )
    return points[0].tolist(), points[1].tolist()


def calibrate_disagreement(disagreement: Tensor, curve: Curve) -> Tensor:
    """Turn disagreement into one standard deviation, in place.

    Parameters
    ----------
    disagreement : Tensor of float32, shape (Z, Y, X)
        In units of the restored contrast, on the CPU.
    curve : (list of float, list of float)
        Of `confidence_curve`.

    Returns
    -------
    Tensor
        ``disagreement`` itself, changed. Straight lines in the logarithms lead from point to point; below the
        first, sigma stays as it is there (a network that is sure still errs); beyond the last it grows in
        proportion.
    """
    x, y = (np.log(np.array(values)) for values in curve)
    for section in disagreement:
        logarithm = np.log(np.maximum(section.numpy(), 1e-12))
        sigma = np.interp(logarithm, x, y) + np.maximum(logarithm - x[-1], 0)
        section.copy_(torch.from_numpy(np.exp(sigma)))
    return disagreement


def _read_table() -> dict[str, Any]:
    """Read the calibrations of the models that come with the package."""
    path = Path(str(resources.files("cryomend.restoration") / "models")) / _TABLE
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return table
