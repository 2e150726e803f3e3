"""Calibrate the uncertainty of a model (`cryomend restore --confidence`) on simulated truth.

    python benchmarks/confidence_calibration.py [--model fast] [--tomograms 4] [--write]

One factor per model turns the network's disagreement into one standard deviation: the 68.3 % quantile of
|error| / disagreement. It is tested on tomograms that it was not taken from: every tomogram is left out
once. The truth is brought to the grey levels of the restoration by the straight line of least squares
(truth on restoration). With --write the factor of all tomograms goes into the package's table, by the
digest of the weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryomend.config import SimulationConfig, load_config
from cryomend.restoration.confidence import estimate_uncertainty, network_digest
from cryomend.restoration.model import load_model
from cryomend.restoration.predict import choose_device, restore_tomogram
from cryomend.specimen import find_structures
from cryomend.training.pairs import simulate_pair

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "src/cryomend/restoration/models/confidence.json"
FIRST_SEED = 950_000  # of no training and of no other benchmark
ONE_SIGMA = 0.6827
MARGIN = 8  # voxels at the faces, where the network lacks context


def main() -> None:
    options = parse_options()
    network, _ = load_model(options.model)
    config = load_config(SimulationConfig, options.config)
    cases = []
    for n in range(options.tomograms):
        kind, error, deviation = score(network, config, n, options)
        cases.append((kind, error, deviation))
        print(f"{kind}: factor of its own {factor_of([(kind, error, deviation)]):.2f}", flush=True)
    if options.voxels:
        np.savez(
            options.voxels, **{f"{q}{n}": c[i] for n, c in enumerate(cases) for i, q in ((1, "e"), (2, "d"))}
        )
    print_reliability(cases)
    factor = factor_of(cases)
    print(f"factor of all: {factor:.3f}, model {network_digest(network)}")
    if options.write:
        table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        TABLE.write_text(json.dumps(table | {network_digest(network): round(factor, 3)}, indent=1) + "\n")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--structures", type=Path, action="append", default=[], help="else procedural ones")
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "held-out.yaml")
    parser.add_argument("--tomograms", type=int, default=4, help="the kinds of the configuration in turn")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 96, 96), help="voxels (Z, Y, X)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--voxels", type=Path, help="errors and disagreements (NPZ)")
    parser.add_argument("--write", action="store_true", help="into the package's table")
    return parser.parse_args()


def score(
    network: torch.nn.Module, config: SimulationConfig, n: int, options: argparse.Namespace
) -> tuple[str, np.ndarray, np.ndarray]:
    """Kind of specimen, error and disagreement of the voxels of one tomogram."""
    kind = sorted(config.specimens)[n % len(config.specimens)]
    specimen = config.specimens[kind].model_copy(update={"shape": tuple(options.shape)})
    one = config.model_copy(update={"specimens": {kind: specimen}})
    structures = find_structures(options.structures, only=config.structures)
    pair = simulate_pair(one, seed=FIRST_SEED + n, structures=structures)
    device = choose_device(options.device)
    restored = restore_tomogram(pair.tomogram, network, device=device)
    deviation = estimate_uncertainty(pair.tomogram, network, device=device)
    error = restored - match(pair.density, restored)
    contrast = float(restored.std())
    return f"{n + 1} {kind}", inner(error) / contrast, inner(deviation) / contrast


def match(truth: Tensor, restored: Tensor) -> Tensor:
    """Bring a truth to the grey levels of a restoration.

    The line fits the truth to the restoration, not the other way round: what a denoiser cannot know it leaves
    out, and that must count as error, not as a smaller truth.
    """
    x, y = restored.double(), truth.double()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return ((y - y.mean()) / slope + x.mean()).float()


def inner(volume: Tensor) -> np.ndarray:
    """Voxels away from the faces."""
    return volume[MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN].numpy().ravel()


def factor_of(cases: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> float:
    """Quantile of |error| / disagreement that holds one standard deviation; every tomogram counts alike."""
    return float(np.mean([np.quantile(np.abs(e) / np.maximum(d, 1e-12), ONE_SIGMA) for _, e, d in cases]))


def print_reliability(cases: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Print, as Markdown, the share of voxels within 1 and 2 sigma with the factor of the other tomograms."""
    print("| left out | factor of the others | in 1 sigma | in 2 sigma | in 1 sigma, by fifth of sigma |")
    print("|---" * 5 + "|")
    shares = []
    for n, (kind, error, deviation) in enumerate(cases):
        others = [case for m, case in enumerate(cases) if m != n]
        factor = factor_of(others or [cases[n]])
        ratio = np.abs(error) / np.maximum(factor * deviation, 1e-12)
        edges = np.quantile(deviation, [0.2, 0.4, 0.6, 0.8])
        fifth = np.digitize(deviation, edges)
        by_fifth = " ".join(f"{(ratio[fifth == i] <= 1).mean():.2f}" for i in range(5))
        shares.append(((ratio <= 1).mean(), (ratio <= 2).mean()))
        print(f"| {kind} | {factor:.2f} | {shares[-1][0]:.2f} | {shares[-1][1]:.2f} | {by_fifth} |")
    mean = np.mean(shares, axis=0)
    print(f"| **mean** (68 and 95 expected) | | {mean[0]:.2f} | {mean[1]:.2f} | |")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
