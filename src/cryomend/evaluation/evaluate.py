"""Score a restored volume: against a truth, in and outside the wedge, and over areas; half against half.

``evaluate_volume`` and ``evaluate_halves`` work on tensors; ``evaluate_files`` reads the files and is
what the command calls.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cryomend.evaluation.areas import Areas, require_apart, require_inside
from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.fsc import (
    AXES,
    CONE_DEGREES,
    ShellSums,
    cone_mask,
    fsc_crossing,
    mean_fsc,
    shell_resolution,
    spectral_snr,
    sum_shells,
)
from cryomend.evaluation.halves import require_different
from cryomend.evaluation.metrics import (
    contrast_to_noise,
    correlation,
    equivalent_number_of_looks,
    grey_limits,
    psnr,
    ssim,
)
from cryomend.geometry import missing_wedge_mask
from cryomend.io import InputError, read_volume

__all__ = ["evaluate_files", "evaluate_halves", "evaluate_volume", "fourier_rows", "summary_rows"]

SCALING = {
    "psnr_and_ssim": "volume and truth each scaled to [0, 1] by its own minimum and maximum; MAX = 1, L = 1",
    "ssim_window": "uniform 7 x 7 x 7 voxels, sample covariance, K1 = 0.01, K2 = 0.03",
    "enl": "volume scaled to [0, 1] by its own minimum and maximum; mean^2 / variance over a background area",
    "enl_stored": "the same on the grey levels as stored: it changes with any offset",
    "cnr": "pooled: |mf - mb| / sqrt((vf + vb) / 2); sum: |mf - mb| / sqrt(vf + vb); free of scaling",
    "cones": f"about each axis, half-angle {CONE_DEGREES:g} degrees; z is the beam, y the tilt axis",
    "spectral_snr": "against a truth F^2 / (1 - F^2); between halves 2 F / (1 - F), of both together",
}
PARTS = ("overall", "inside_wedge", "inside_measured_region")
CONES = tuple(f"cone_{axis}" for axis in AXES)
SNR_ONE = {"truth": math.sqrt(0.5), "half": 1 / 3}  # FSC at which the spectral signal-to-noise ratio is 1
FOURIER_ROWS = {  # key of a part: its name in the table, digits
    "correlation": ("correlation", 3),
    "mean_fsc_400_to_40_angstrom": ("mean FSC, 400 to 40 Å", 3),
    "resolution_at_0.5_angstrom": ("FSC 0.5 at (Å)", 1),
    "resolution_at_0.143_angstrom": ("FSC 0.143 at (Å)", 1),
    "resolution_at_snr_1_angstrom": ("SNR 1 at (Å)", 1),
}


def _parts_of_fourier_space(
    shape: torch.Size, tilt_range: tuple[float, float] | None, device: torch.device
) -> dict[str, Tensor | None]:
    """Masks of all that is scored apart: the wedge and what was measured, if known, and the cones."""
    size = (shape[0], shape[1], shape[2])
    parts: dict[str, Tensor | None] = {"overall": None}
    if tilt_range is not None:
        measured = missing_wedge_mask(size, tilt_min=tilt_range[0], tilt_max=tilt_range[1], device=device)
        parts |= {"inside_wedge": ~measured, "inside_measured_region": measured}
    return parts | {f"cone_{axis}": cone_mask(size, axis=axis, device=device) for axis in AXES}


def _fourier_scores(
    sums: ShellSums, resolution: Tensor, total: float, against: Literal["truth", "half"]
) -> dict[str, Any]:
    """Correlation, mean FSC, crossings and curves in one part of Fourier space."""
    curve = sums.curve()
    levels = {"0.5": 0.5, "0.143": 0.143, "snr_1": SNR_ONE[against]}
    smallest_axis_angstrom = resolution[1].item()
    return {
        "correlation": sums.correlation(),
        "mean_fsc_400_to_40_angstrom": mean_fsc(curve, resolution),
        **{
            f"resolution_at_{name}_angstrom": smallest_axis_angstrom / fsc_crossing(curve, level)
            for name, level in levels.items()
        },
        "share_of_fourier_space": sums.voxels.sum().item() / total,
        "fsc": curve.tolist(),
        "spectral_snr": spectral_snr(curve, against=against).tolist(),
    }


def _score_in_parts(
    volume: Tensor,
    other: Tensor,
    tilt_range: tuple[float, float] | None,
    voxel_size: float,
    against: Literal["truth", "half"],
) -> dict[str, Any]:
    """Scores in each part of Fourier space, and the resolution that their shells stand for."""
    parts = _parts_of_fourier_space(volume.shape, tilt_range, volume.device)
    all_sums = sum_shells(volume, other, list(parts.values()))
    n = min(volume.shape)
    resolution = shell_resolution(n // 2 + 1, smallest_axis=n, voxel_size=voxel_size)
    total = all_sums[0].voxels.sum().item()
    scores = {
        part: _fourier_scores(sums, resolution, total, against)
        for part, sums in zip(parts, all_sums, strict=True)
    }
    return scores | {"fsc_resolution_angstrom": resolution.tolist()}


def _score_against_truth(
    volume: Tensor, truth: Tensor, tilt_range: tuple[float, float] | None, voxel_size: float
) -> dict[str, Any]:
    """Scores in real space, then in each part of Fourier space."""
    return {
        "correlation": correlation(volume, truth),
        "psnr_db": psnr(volume, truth),
        "ssim": ssim(volume, truth),
        **_score_in_parts(volume, truth, tilt_range, voxel_size, "truth"),
    }


def evaluate_halves(
    half: Tensor,
    other: Tensor,
    *,
    voxel_size: float,
    tilt_range: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Compare two independent half-tomograms in parts of Fourier space.

    At least one of them must be raw: two outputs of one network share its prior, and their correlation is
    too high.

    Parameters
    ----------
    half, other : Tensor, shape (Z, Y, X)
        Half-tomograms of one tilt series.
    voxel_size : float
        Å.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees: the missing wedge and the measured region are then given apart.

    Returns
    -------
    dict
        Per part of Fourier space the correlation, the FSC curve with its crossings, and the spectral
        signal-to-noise ratio of both halves together.

    Raises
    ------
    ValueError
        If the shapes differ, the halves are the same voxels or a tilt is outside ±90 degrees.
    """
    require_different(half, other)
    return _score_in_parts(half, other, tilt_range, voxel_size, "half")


def _score_areas(volume: Tensor, areas: Areas) -> dict[str, Any]:
    """CNR of every pair of areas, ENL of every background area, and their means."""
    require_apart(areas)
    require_inside(areas, volume.shape)
    low, high = grey_limits(volume)
    pairs = []
    for f, b in zip(areas.foreground, areas.background, strict=True):
        pairs.append(
            {
                "foreground": f.name,
                "background": b.name,
                "cnr_pooled": contrast_to_noise(volume, f.region, b.region, "pooled"),
                "cnr_sum": contrast_to_noise(volume, f.region, b.region, "sum"),
                "enl": equivalent_number_of_looks(volume, b.region, "unit"),
                "enl_stored": equivalent_number_of_looks(volume, b.region, "stored"),
            }
        )
    names = ("cnr_pooled", "cnr_sum", "enl", "enl_stored")
    mean = {name: float(np.mean([pair[name] for pair in pairs])) for name in names}
    scaling = {"offset": low, "scale": high - low}  # (grey level - offset) / scale
    return {"name": areas.name, "scaled_to_unit": scaling, "pairs": pairs, "mean": mean}


def evaluate_volume(
    volume: Tensor,
    *,
    truth: Tensor | None = None,
    tilt_range: tuple[float, float] | None = None,
    areas: Areas | None = None,
    voxel_size: float,
) -> dict[str, Any]:
    """Score a volume against a truth, over areas, or both.

    Parameters
    ----------
    volume : Tensor, shape (Z, Y, X)
        Protein of the same sign as in ``truth``.
    truth : Tensor, shape (Z, Y, X), optional
        What the volume should be; any grey-level unit.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees: scores inside the missing wedge and inside the
        measured region are then given apart.
    areas : Areas, optional
        Foreground and background areas for CNR and ENL.
    voxel_size : float
        Å.

    Returns
    -------
    dict
        ``truth`` (correlation, PSNR, SSIM, and per part of Fourier space the correlation, the
        FSC curve with its crossings, its mean over shells of 400 to 40 Å and the spectral
        signal-to-noise ratio), ``areas`` and ``scaling``. What is not defined is NaN.

    Raises
    ------
    ValueError
        If there is neither truth nor areas, shapes differ, a tilt is outside ±90 degrees,
        areas overlap or an area leaves the volume.
    """
    if truth is None and areas is None:
        raise ValueError(
            "nothing to evaluate against; give a truth (--truth) or areas (--areas or --areas-of)"
        )
    result: dict[str, Any] = {"scaling": SCALING}
    if truth is not None:
        result["truth"] = _score_against_truth(volume, truth, tilt_range, voxel_size)
    if areas is not None:
        result["areas"] = _score_areas(volume, areas)
    return result


def evaluate_files(
    volume_path: str | Path,
    *,
    truth_path: str | Path | None = None,
    tilt_range: tuple[float, float] | None = None,
    areas: Areas | None = None,
    negate: bool = False,
    voxel_size: float | None = None,
    alone: bool = True,
) -> dict[str, Any]:
    """Read a volume, and a truth if there is one, and score them.

    Parameters
    ----------
    volume_path, truth_path : path
        MRC files.
    tilt_range : (float, float), optional
        Extreme tilt angles in degrees.
    areas : Areas, optional
        Foreground and background areas.
    negate : bool
        Turn the sign of the volume before it meets the truth: protein is dark in one and
        bright in the other. Areas are scored on the volume as stored.
    voxel_size : float, optional
        Å; replaces what both headers say.
    alone : bool
        These are all the scores that there will be, so that nothing to evaluate against is an error.

    Returns
    -------
    dict
        That of :func:`evaluate_volume`, after what was evaluated and how.

    Raises
    ------
    InputError
        If there is nothing to evaluate against, a file cannot be used, or shapes or voxel
        sizes differ.
    """
    if alone and truth_path is None and areas is None:
        raise InputError(
            f"{volume_path}: nothing to evaluate against; give --truth TRUTH, --areas FILE, --areas-of NAME, "
            "--half OTHER or --template MAP, or the data that it came from: --raw, --tilts, --even and --odd"
        )
    require_tilt_range(tilt_range)
    volume = read_volume(volume_path, voxel_size=voxel_size)
    data, scores = torch.from_numpy(volume.data), dict[str, Any]()
    about = {
        "volume": str(volume_path),
        "shape_zyx": list(data.shape),
        "voxel_size_angstrom": volume.voxel_size,
    }
    try:
        if areas is not None:
            scores |= evaluate_volume(data, areas=areas, voxel_size=volume.voxel_size)
    except ValueError as error:
        raise InputError(f"{volume_path}: {error}") from None
    if truth_path is not None:
        truth = read_volume(truth_path, voxel_size=voxel_size)
        require_matching(volume, truth)
        about |= {"truth_file": str(truth_path), "volume_negated": negate, "tilt_range_degrees": tilt_range}
        compared = -data if negate else data
        scores |= evaluate_volume(
            compared, truth=torch.from_numpy(truth.data), tilt_range=tilt_range, voxel_size=volume.voxel_size
        )
    return {**about, **scores}


def _cell(value: float, digits: int = 3) -> str:
    """Format a number for the table, a dash where it is not defined."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def fourier_rows(scores: dict[str, Any], head: str = "score") -> list[tuple[str, ...]]:
    """Lay out what was scored in parts of Fourier space as the rows of a table, the first being its head.

    Parameters
    ----------
    scores : dict
        Of `evaluate_halves`, or ``truth`` of `evaluate_volume`.
    head : str
        Of the first column.

    Returns
    -------
    list of tuple of str
        Equally long rows; the columns after the first are the parts of Fourier space.
    """
    parts = [part for part in PARTS if part in scores] or ["overall"]
    rows = [(head, *(part.replace("_", " ") for part in parts))]
    for key, (name, digits) in FOURIER_ROWS.items():
        rows.append((name, *(_cell(scores[part][key], digits) for part in parts)))
    for axis, cone in zip(AXES, CONES, strict=True):
        values = [_cell(scores[cone][f"resolution_at_{level}_angstrom"], 1) for level in ("0.5", "0.143")]
        name = f"cone {axis.upper()}: 0.5, 0.143 (Å)"
        rows.append((name, ", ".join(values), *[""] * (len(parts) - 1)))
    return rows


def summary_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lay out the main figures of a result as the rows of a table, the first being its head.

    Parameters
    ----------
    result : dict
        Of :func:`evaluate_volume`.

    Returns
    -------
    list of tuple of str
        Equally long rows; the columns after the first two are the parts of Fourier space.
    """
    rows: list[tuple[str, ...]] = [("score", "overall")]
    if "truth" in result:
        scores = result["truth"]
        rows = fourier_rows(scores)
        rows += [("PSNR (dB)", _cell(scores["psnr_db"], 2)), ("SSIM", _cell(scores["ssim"]))]
    if "areas" in result:
        mean = result["areas"]["mean"]
        rows += [("CNR, pooled", _cell(mean["cnr_pooled"])), ("CNR, sum", _cell(mean["cnr_sum"]))]
        rows += [("ENL", _cell(mean["enl"], 2)), ("ENL, as stored", _cell(mean["enl_stored"], 2))]
    return [row + ("",) * (len(rows[0]) - len(row)) for row in rows]
