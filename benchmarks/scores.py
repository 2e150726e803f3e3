"""What all tests of the models have in common: rivals, scores and tables.

Every method sees the same tilt series. The rivals are as strong as they can be: the width of the Gaussian
filter and the two numbers of the deconvolution are chosen for each tomogram with the truth in hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from torch import Tensor

from cryomend.ctf import Optics
from cryomend.evaluation import best_gaussian, correlation, evaluate_volume
from cryomend.fourier import gaussian_lowpass
from cryomend.reconstruction.deconvolve import deconvolve_tomogram

SIRT_ITERATIONS = 10
FALLOFFS, STRENGTHS = (0.3, 0.6, 1.0, 1.5), (0.33, 0.67, 1.0)  # of the deconvolution, as in tom_deconv
RIVALS = ("input", "SIRT", "deconvolution", "best Gaussian")
PARTS = {"all": "overall", "wedge": "inside_wedge", "measured": "inside_measured_region"}
Restore = Callable[[Tensor], Tensor]  # of one model: tomogram to restored, protein dark in both
FSC = "mean_fsc_400_to_40_angstrom"


@dataclass(frozen=True)
class Case:
    """One tomogram with its truth; volumes (Z, Y, X), protein dark but in ``density``.

    ``tomogram`` is what the models restore. ``plain``, from which the deconvolution starts, and ``sirt`` are
    reconstructed without CTF correction and filters. ``record`` is all that was drawn.
    """

    test: str
    kind: str
    tomogram: Tensor
    plain: Tensor
    sirt: Tensor
    density: Tensor
    tilt_range: tuple[float, float]
    voxel_size: float
    defocus_um: float
    optics: Optics
    record: Mapping[str, Any] = field(default_factory=dict)


def score_case(case: Case, restore: Mapping[str, Restore]) -> dict[str, Any]:
    """Scores of all rivals and models on one tomogram."""
    volumes, chosen = rival_volumes(case)
    seconds = {}
    for name, run in restore.items():
        start = time.perf_counter()
        volumes[name] = -run(case.tomogram)
        seconds[name] = time.perf_counter() - start
    return {
        "test": case.test,
        "kind": case.kind,
        "tilt_range": case.tilt_range,
        "chosen_with_truth": chosen,
        "seconds": seconds,
        "scores": {name: score_volume(volume, case) for name, volume in volumes.items()},
        "record": case.record,
    }


def rival_volumes(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The rivals' volumes, protein bright, and what was chosen for them with the truth in hand."""
    settings = list(product(FALLOFFS, STRENGTHS))
    setting = max(settings, key=lambda s: correlation(-deconvolve(case, s), case.density))
    filtered = {
        name: best_gaussian(-volume, case.density)
        for name, volume in (("input", case.tomogram), ("plain", case.plain))
    }
    start = max(filtered, key=lambda name: correlation(filtered[name][0], case.density))
    blurred, sigma = filtered[start]
    chosen = {"deconvolution": setting, "gaussian_sigma": sigma, "gaussian_of": start}
    volumes = (-case.tomogram, -case.sirt, -deconvolve(case, setting), blurred)
    return dict(zip(RIVALS, volumes, strict=True)), chosen


def deconvolve(case: Case, setting: tuple[float, float]) -> Tensor:
    """Deconvolution of the plain reconstruction at a (fall-off, strength), protein dark."""
    return deconvolve_tomogram(
        case.plain,
        voxel_size=case.voxel_size,
        defocus_um=case.defocus_um,
        optics=case.optics,
        snr_falloff=setting[0],
        strength=setting[1],
    )


def left_in_ice(ice: Case, row: Mapping[str, Any], restore: Mapping[str, Restore]) -> dict[str, Any]:
    """What every method leaves of empty ice, over its deviation on the specimen of the same recording.

    ``row`` is that specimen's; its choices are used again, as a user would.
    """
    chosen = row["chosen_with_truth"]
    start = ice.tomogram if chosen["gaussian_of"] == "input" else ice.plain
    volumes = (
        ice.tomogram,
        ice.sirt,
        deconvolve(ice, chosen["deconvolution"]),
        gaussian_lowpass(start, chosen["gaussian_sigma"]),
    )
    named = dict(zip(RIVALS, volumes, strict=True)) | {
        name: run(ice.tomogram) for name, run in restore.items()
    }
    left = {name: deviation(volume) / row["scores"][name]["deviation"] for name, volume in named.items()}
    return {"test": "empty ice", "kind": f"as {row['kind']}", "left": left, "record": ice.record}


def deviation(volume: Tensor) -> float:
    """Standard deviation of the middle of a volume, away from its faces."""
    return float(volume[16:-16, 16:-16, 16:-16].std())


def score_volume(volume: Tensor, case: Case) -> dict[str, float]:
    """Correlation and mean FSC of 400 to 40 Å, over everything, in the wedge and in the measured region."""
    truth = evaluate_volume(
        volume, truth=case.density, tilt_range=case.tilt_range, voxel_size=case.voxel_size
    )["truth"]
    values = {f"correlation {name}": truth[part]["correlation"] for name, part in PARTS.items()}
    values |= {f"FSC {name}": truth[part][FSC] for name, part in PARTS.items()}
    return values | {"psnr_db": truth["psnr_db"], "ssim": truth["ssim"], "deviation": deviation(volume)}


def mean_of(rows: Sequence[Mapping[str, Any]], method: str) -> dict[str, float]:
    """Mean of every score of one method."""
    return {
        key: float(np.mean([row["scores"][method][key] for row in rows])) for key in rows[0]["scores"][method]
    }


def mean_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: one line per method, the mean over all tomograms of a test."""
    columns = ("correlation all", "correlation wedge", "correlation measured", "FSC measured", "FSC wedge")
    lines = [f"| mean of {len(rows)} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in rows[0]["scores"]:
        mean = mean_of(rows, method)
        lines.append(f"| {method} | " + " | ".join(f"{mean[c]:.2f}" for c in columns) + " |")
    return lines


def kind_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: one line per kind, the correlation all / inside the wedge / in the measured region."""
    methods = list(rows[0]["scores"])
    lines = ["| kind | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        chosen = [row for row in rows if row["kind"] == kind]
        means = [mean_of(chosen, method) for method in methods]
        cells = (" / ".join(f"{m[f'correlation {part}']:.2f}" for part in PARTS) for m in means)
        lines.append(f"| {kind} ({len(chosen)}) | " + " | ".join(cells) + " |")
    return lines


def ice_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: what each method leaves of empty ice, by the specimen recorded alike, and the mean."""
    methods = list(rows[0]["left"])
    lines = ["| empty ice recorded | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for kind in (*dict.fromkeys(row["kind"] for row in rows), "**mean**"):
        chosen = [row for row in rows if kind in (row["kind"], "**mean**")]
        cells = (f"{np.mean([row['left'][m] for row in chosen]):.2f}" for m in methods)
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines
