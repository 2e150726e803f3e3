"""Score --keep-measured, --fill-only and --denoise-only on held-out tomograms (docs/restoration.md).

    python benchmarks/keep_measured.py [--structures DIR ...] [--model fast]

Correlation with the truth over everything, in the wedge and in the measured region, and the energy that the
network leaves of a phase-randomised copy. One tomogram of each kind of configs/held-out.yaml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cryomend.config import SimulationConfig, load_config
from cryomend.evaluation.fsc import fourier_correlation
from cryomend.geometry import missing_wedge_mask
from cryomend.restoration.measured import blend_measured, weight_from_tomogram
from cryomend.restoration.model import load_model
from cryomend.restoration.null import energy_left
from cryomend.restoration.predict import restore_tomogram
from cryomend.specimen import find_structures
from cryomend.training.pairs import Pair, simulate_pair

HERE = Path(__file__).resolve().parent
FIRST_SEED = 960_000  # of no training and of no other benchmark
SHAPE = (64, 96, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--structures", type=Path, action="append", default=[], help="else procedural ones")
    parser.add_argument("--model", default="fast")
    options = parser.parse_args()
    network, _ = load_model(options.model)
    config = load_config(SimulationConfig, HERE.parent / "configs" / "held-out.yaml")
    structures = find_structures(options.structures, only=config.structures)
    print("| | input | network | measured | fill | denoise | scale of fill | energy left |")
    print("|---" * 8 + "|")
    for n, kind in enumerate(sorted(config.specimens)):
        specimen = config.specimens[kind].model_copy(update={"shape": SHAPE})
        one = config.model_copy(update={"specimens": {kind: specimen}})
        cells = score(simulate_pair(one, seed=FIRST_SEED + n, structures=structures), network)
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def score(pair: Pair, network: torch.nn.Module) -> list[str]:
    """One line of the table."""
    low, high = pair.record["tilt_range"]
    measured = missing_wedge_mask(SHAPE, tilt_min=low, tilt_max=high)
    restored = restore_tomogram(pair.tomogram, network)
    weight = weight_from_tomogram(pair.tomogram, tilt_range=(low, high))
    blends = {
        keep: blend_measured(pair.tomogram, restored, tilt_range=(low, high), keep=keep, weight=weight)
        for keep in ("measured", "fill", "denoise")
    }
    volumes = [pair.tomogram, restored, *(blended for blended, _ in blends.values())]
    cells = [
        " / ".join(
            f"{fourier_correlation(-v, pair.density, part):.2f}" for part in (None, ~measured, measured)
        )
        for v in volumes
    ]
    left = energy_left(pair.tomogram, restored, network, generator=torch.Generator().manual_seed(0))
    return [*cells, f"{blends['fill'][1]:.2f}", f"{left:.2f}"]


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
