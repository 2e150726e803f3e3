"""Measure the two learned rivals of `cryomend benchmark` on a small simulated tomogram.

    python benchmarks/rivals.py [--kind membranes] [--method deep-dewedge two-stage ...] [--steps 900]
        [--minutes M] [--halves frames] [--json scores.json]

One specimen of configs/held-out.yaml with procedural structures, 64 x 96 x 96 voxels, is recorded as two
halves of the frames, and reconstructed by WBP. The correlation with the specimen is printed for WBP, for the
best Gaussian filter of it, and for every method that was asked for: overall, inside the missing wedge, and in
the measured region; and the CPU time of the method.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.acquisition import TiltSeries, acquire_halves
from cryomend.acquisition.exposure import draw_exposure, draw_tilt_angles
from cryomend.benchmark.deep_dewedge import DeWedgeFit, restore_deep_dewedge
from cryomend.benchmark.two_stage import denoise_tilts, denoise_tilts_alone
from cryomend.config import SimulationConfig, load_config
from cryomend.evaluation import best_gaussian, evaluate_volume
from cryomend.reconstruction import reconstruct_wbp
from cryomend.specimen import build_specimen

HERE = Path(__file__).resolve().parent
SHAPE = (64, 96, 96)
SEED = 950_000  # of no training
PARTS = {"overall": "overall", "wedge": "inside_wedge", "measured": "inside_measured_region"}


@dataclass(frozen=True)
class Recorded:
    """A specimen (Z, Y, X) in V, and its tilt series as contrast: counts over their mean, minus one."""

    density: Tensor
    voxel_size: float
    tilt_angles: NDArray[np.float64]
    series: TiltSeries

    def reconstruct(self, images: Tensor, which: slice = slice(None)) -> Tensor:
        """WBP of some tilts, protein dark."""
        return reconstruct_wbp(images[which], self.tilt_angles[which], thickness=self.density.shape[0])

    def halves(self, kind: str) -> tuple[Tensor, Tensor]:
        """WBP of two halves, of the frames or of the tilts."""
        if kind == "frames":
            return self.reconstruct(self.series.even), self.reconstruct(self.series.odd)
        return tuple(self.reconstruct(self.series.images, slice(i, None, 2)) for i in (0, 1))

    def score(self, volume: Tensor) -> dict[str, float]:
        """Correlation of a volume, protein dark, with the specimen."""
        limits = (float(self.tilt_angles.min()), float(self.tilt_angles.max()))
        truth = evaluate_volume(-volume, truth=self.density, tilt_range=limits, voxel_size=self.voxel_size)[
            "truth"
        ]
        return {name: truth[part]["correlation"] for name, part in PARTS.items()}


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    recorded = record(options.kind, options.seed)
    rows = []
    for row in score_all(options, recorded):
        rows.append({"kind": options.kind, **row})
        print(
            " ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--kind", default="membranes", help="of specimen, as configs/held-out.yaml names them"
    )
    parser.add_argument(
        "--method", nargs="*", default=["two-stage", "deep-dewedge"],
        choices=["two-stage", "two-stage-alone", "deep-dewedge"],
    )  # fmt: skip
    parser.add_argument("--steps", type=int, nargs="*", default=[900], help="a row for each")
    parser.add_argument("--minutes", type=float, help="wall clock of a fit at most")
    parser.add_argument("--halves", choices=["frames", "tilts"], default="frames", help="of deep-dewedge")
    parser.add_argument("--crop", type=int, default=DeWedgeFit.crop, help="of deep-dewedge")
    parser.add_argument("--batch", type=int, default=DeWedgeFit.batch, help="of deep-dewedge")
    parser.add_argument("--learning-rate", type=float, default=DeWedgeFit.learning_rate, help="the same")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def record(kind: str, seed: int) -> Recorded:
    """Draw a specimen and record it as `cryomend benchmark` does, but in a smaller volume."""
    config = load_config(SimulationConfig, HERE.parent / "configs" / "held-out.yaml")
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    specimen = build_specimen(config.specimens[kind].model_copy(update={"shape": SHAPE}), rng=rng)
    angles, size = draw_tilt_angles(config.acquisition, rng), specimen.voxel_size
    exposure = draw_exposure(
        config.acquisition, rng, thickness=(specimen.slab[1] - specimen.slab[0]) * size,
        tilts=len(angles), pixel_size=size,
    )  # fmt: skip
    counts = acquire_halves(specimen.density, angles, pixel_size=size, exposure=exposure, generator=generator)
    contrasts = [x / x.mean(dim=(1, 2), keepdim=True) - 1 for x in (counts.images, counts.even, counts.odd)]
    return Recorded(specimen.density, size, angles, TiltSeries(*contrasts))


def score_all(options: argparse.Namespace, recorded: Recorded) -> Iterator[dict[str, object]]:
    """Rows of WBP, the best Gaussian, and the methods."""
    whole = recorded.reconstruct(recorded.series.images)
    yield {"method": "WBP", **recorded.score(whole)}
    blurred, sigma = best_gaussian(-whole, recorded.density)
    yield {"method": "best Gaussian", "sigma": sigma, **recorded.score(-blurred)}
    for method in options.method:
        for steps in options.steps:
            begin = time.process_time()
            volume = run(method, recorded, options, steps)
            seconds = time.process_time() - begin
            yield {"method": method, "steps": steps, "cpu_seconds": seconds, **recorded.score(volume)}


def run(method: str, recorded: Recorded, options: argparse.Namespace, steps: int) -> Tensor:
    """Volume of a rival, protein dark."""
    series, angles = recorded.series, recorded.tilt_angles
    limits = {"steps": steps, "seconds": None if options.minutes is None else 60 * options.minutes}
    if method == "two-stage":
        return recorded.reconstruct(denoise_tilts(series.even, series.odd, **limits))
    if method == "two-stage-alone":
        return recorded.reconstruct(denoise_tilts_alone(series.images, angles, **limits))
    even, odd = recorded.halves(options.halves)
    fit = DeWedgeFit(crop=options.crop, batch=options.batch, learning_rate=options.learning_rate)
    tilts = (float(angles.min()), float(angles.max()))
    return restore_deep_dewedge(even, odd, tilt_range=tilts, fit=fit, **limits)


if __name__ == "__main__":
    main()
