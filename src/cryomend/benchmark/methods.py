"""The methods that a benchmark compares, under one interface: a case in, a volume with protein dark out.

What a method must choose it chooses with the truth in hand where there is one, which favours the rivals, and
takes as the recipe says where there is none. What was chosen stands in the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from cryomend.benchmark.case import Case
from cryomend.benchmark.deep_dewedge import restore_deep_dewedge
from cryomend.benchmark.digest import digest_of_content
from cryomend.benchmark.two_stage import denoise_tilts, denoise_tilts_alone
from cryomend.config import BenchmarkConfig
from cryomend.evaluation import best_gaussian, correlation
from cryomend.fourier import gaussian_lowpass
from cryomend.io import InputError
from cryomend.reconstruction import (
    deconvolve_tomogram,
    reconstruct_sart,
    reconstruct_sirt,
    reconstruct_wbp,
)
from cryomend.restoration.model import load_model, resolve_model
from cryomend.restoration.predict import restore_tomogram

__all__ = ["METHODS", "Method", "Result", "Run", "restore_with"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Run:
    """How a method runs: its settings, seed and device, and whom it tells how far it is."""

    settings: Mapping[str, Any]
    seed: int
    device: torch.device
    progress: Progress = lambda share, text: None


@dataclass(frozen=True)
class Result:
    """A volume (Z, Y, X) with protein dark, and what was chosen on the way to it."""

    volume: Tensor
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A row of the table: what it does to a case, and which settings of a recipe it depends on."""

    restore: Callable[[Case, Run], Result]
    settings: Callable[[BenchmarkConfig], dict[str, Any]] = lambda config: {}


def _tilts(case: Case, run: Run) -> Tensor:
    return case.read("tilts").to(run.device)


def _wbp(case: Case, run: Run) -> Result:
    """Weighted back-projection, the tomogram that all others start from."""
    tilts = _tilts(case, run)
    return Result(reconstruct_wbp(tilts, case.tilt_angles, thickness=case.shape[0]))


def _sirt(case: Case, run: Run) -> Result:
    """Simultaneous iterative reconstruction of the tilts."""
    tilts, count = _tilts(case, run), int(run.settings["iterations"])
    told = _by_sweep(run, count)
    return Result(
        reconstruct_sirt(tilts, case.tilt_angles, depth=case.shape[0], iterations=count, on_sweep=told)
    )


def _sart(case: Case, run: Run) -> Result:
    """Simultaneous algebraic reconstruction of the tilts."""
    tilts, count = _tilts(case, run), int(run.settings["sweeps"])
    told = _by_sweep(run, count)
    return Result(
        reconstruct_sart(tilts, case.tilt_angles, depth=case.shape[0], iterations=count, on_sweep=told)
    )


def _by_sweep(run: Run, count: int) -> Callable[[int, float], None]:
    return lambda sweep, residual: run.progress((sweep + 1) / count, f"sweep {sweep + 1} of {count}")


def _gaussian(case: Case, run: Run) -> Result:
    """Gaussian blur of the WBP; its width is the best there is where the truth is known."""
    whole, truth = case.read("whole").to(run.device), case.truth()
    if truth is None:
        sigma = float(run.settings["sigma"])
        return Result(gaussian_lowpass(whole, sigma), {"sigma_voxels": sigma})
    blurred, sigma = best_gaussian(-whole, truth.to(run.device))
    return Result(-blurred, {"sigma_voxels": round(sigma, 3), "chosen_with_truth": True})


def _wiener(case: Case, run: Run) -> Result:
    """Wiener-like deconvolution of the WBP; fall-off and strength are the best where the truth is known."""
    if case.defocus_um is None or case.optics is None:
        raise InputError("no defocus is known; set reconstruction.defocus_um or ctf in the recipe")
    whole, truth = case.read("whole").to(run.device), case.truth()
    defocus, optics = case.defocus_um, case.optics

    def deconvolve(setting: tuple[float, float]) -> Tensor:
        return deconvolve_tomogram(
            whole, voxel_size=case.voxel_size, defocus_um=defocus, optics=optics,
            snr_falloff=setting[0], strength=setting[1],
        )  # fmt: skip

    falloffs, strengths = run.settings["falloffs"], run.settings["strengths"]
    if truth is None:
        best = (min(falloffs, key=lambda f: abs(f - 1)), min(strengths, key=lambda s: abs(s - 1)))
    else:
        known = truth.to(run.device)
        best = max(product(falloffs, strengths), key=lambda s: correlation(-deconvolve(s), known))
    chosen = {"snr_falloff": best[0], "strength": best[1], "chosen_with_truth": truth is not None}
    return Result(deconvolve(best), chosen)


def _two_stage(case: Case, run: Run) -> Result:
    """The tilts denoised by a 2D network that learned from their halves or neighbours, then WBP."""
    how: dict[str, Any] = {"seed": run.seed, "device": run.device, "progress": run.progress, **run.settings}
    if case.has("first"):
        denoised = denoise_tilts(case.read("first"), case.read("second"), **how)
    else:
        denoised = denoise_tilts_alone(case.read("tilts"), case.tilt_angles, **how)
    return Result(
        reconstruct_wbp(denoised.to(run.device), case.tilt_angles, thickness=case.shape[0]),
        {"halves": "frames" if case.has("first") else "neighbouring tilts"},
    )


def _deepdewedge(case: Case, run: Run) -> Result:
    """The self-supervised restoration of two half tomograms, wedge and all."""
    volume = restore_deep_dewedge(
        case.read("even"), case.read("odd"), tilt_range=case.tilt_range, seed=run.seed, device=run.device,
        progress=run.progress, **run.settings,
    )  # fmt: skip
    return Result(volume, {"halves": "frames" if case.has("first") else "tilts"})


def restore_with(model: str, case: Case, run: Run) -> Result:
    """The tomogram of a case restored by a model, given by name or file."""
    network, metadata = load_model(model)
    told = _by_tile(run)
    volume = restore_tomogram(case.read("whole"), network, device=run.device, progress=told)
    return Result(volume, {"model": metadata["name"]})


def _by_tile(run: Run) -> Callable[[int, int], None]:
    return lambda done, total: run.progress(done / total, f"tile {done} of {total}")


def _released(name: str) -> Method:
    """A model of the package; its row depends on its weights, which may change within a version."""
    return Method(
        lambda case, run: restore_with(name, case, run),
        lambda config: {"weights": digest_of_content(resolve_model(name))},
    )


METHODS = {
    "wbp": Method(_wbp),
    "sirt": Method(_sirt, lambda config: {"iterations": config.sirt_iterations}),
    "sart": Method(_sart, lambda config: {"sweeps": config.sart_sweeps}),
    "gaussian": Method(_gaussian, lambda config: {"sigma": config.gaussian_sigma}),
    "wiener": Method(
        _wiener,
        lambda config: {"falloffs": config.snr_falloffs, "strengths": config.deconvolution_strengths},
    ),
    "two-stage": Method(_two_stage, lambda config: config.two_stage.model_dump()),
    "deepdewedge": Method(_deepdewedge, lambda config: config.deepdewedge.model_dump()),
    "fast": _released("fast"),
    "best": _released("best"),
}
"""Methods of the package by name; per-data-set and external programs are jobs of their own."""
