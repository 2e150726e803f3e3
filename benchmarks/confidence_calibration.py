"""Calibrate the uncertainty of a model (`cryomend restore --confidence`) on simulated truth.

    python benchmarks/confidence_calibration.py [--model fast] [--tomograms 8] [--structures DIR ...]
        [--write | --first-seed 970000 --stored]

One curve per model turns the network's disagreement into one standard deviation: the 68.3 % quantile of
|error| among voxels of like disagreement, both over the contrast (standard deviation) of the restoration.
It is tested on tomograms that it was not taken from: every tomogram is left out once. The truth is brought
to the grey levels of the restoration by the straight line of least squares (truth on restoration). With
--write the curve of all tomograms goes into the package's table, by the digest of the weights.

With --stored the curve of the table is scored as it is, on tomograms of other seeds: the test that counts, as
the form of the curve was chosen on the tomograms of the default seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import SimulationConfig, load_config
from cryomend.restoration.confidence import (
    Curve,
    calibrate_disagreement,
    confidence_curve,
    measure_disagreement,
    network_digest,
)
from cryomend.restoration.model import load_model
from cryomend.restoration.predict import choose_device, restore_tomogram
from cryomend.specimen import find_structures
from cryomend.training.pairs import simulate_pair

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "src/cryomend/restoration/models/confidence.json"
FIRST_SEED = 950_000  # of no training and of no other benchmark
ONE_SIGMA = 0.6827
POINTS = 10  # of the curve
MARGIN = 8  # voxels at the faces, where the network lacks context

Case = tuple[str, NDArray[np.float32], NDArray[np.float32]]  # kind, error, disagreement, of voxels


def main() -> None:
    options = parse_options()
    network, metadata = load_model(options.model)
    stored = confidence_curve(network, metadata) if options.stored else None
    if options.stored and stored is None:
        raise SystemExit("nobody has calibrated this model; run with --write first")
    config = load_config(SimulationConfig, options.config)
    cases = []
    for n in range(options.tomograms):
        cases.append(score(network, config, n, options))
        print(cases[-1][0], flush=True)
    print_reliability(cases, stored)
    if stored is not None:
        return
    curve = curve_of(cases)
    print(f"curve of all, for the model {network_digest(network)}: {curve}")
    if options.write:
        table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        TABLE.write_text(json.dumps(table | {network_digest(network): curve}) + "\n")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--structures", type=Path, action="append", default=[], help="else procedural ones")
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "held-out.yaml")
    parser.add_argument("--tomograms", type=int, default=8, help="the kinds of the configuration in turn")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 96, 96), help="voxels (Z, Y, X)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--stored", action="store_true", help="score the curve of the package's table")
    parser.add_argument("--write", action="store_true", help="into the package's table")
    return parser.parse_args()


def score(network: torch.nn.Module, config: SimulationConfig, n: int, options: argparse.Namespace) -> Case:
    """Kind of specimen, error and disagreement of the voxels of one tomogram."""
    kind = sorted(config.specimens)[n % len(config.specimens)]
    specimen = config.specimens[kind].model_copy(update={"shape": tuple(options.shape)})
    one = config.model_copy(update={"specimens": {kind: specimen}})
    structures = find_structures(options.structures, only=config.structures)
    pair = simulate_pair(one, seed=options.first_seed + n, structures=structures)
    device = choose_device(options.device)
    restored = restore_tomogram(pair.tomogram, network, device=device)
    deviation = measure_disagreement(pair.tomogram, network, device=device)
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


def inner(volume: Tensor) -> NDArray[np.float32]:
    """Voxels away from the faces."""
    return volume[MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN].numpy().ravel()


def curve_of(cases: Sequence[Case]) -> Curve:
    """68.3 % quantile of |error| in equally full bins of disagreement; tomograms of one size count alike."""
    error, deviation = (np.concatenate([case[i] for case in cases]) for i in (1, 2))
    bins = np.digitize(deviation, np.quantile(deviation, np.arange(1, POINTS) / POINTS))
    x = [float(np.median(deviation[bins == i])) for i in range(POINTS)]
    y = [float(np.quantile(np.abs(error[bins == i]), ONE_SIGMA)) for i in range(POINTS)]
    return [round(v, 5) for v in x], [round(v, 5) for v in np.maximum.accumulate(y)]


def print_reliability(cases: Sequence[Case], stored: Curve | None = None) -> None:
    """Print, as Markdown, the share of voxels in 1 and 2 sigma by a curve, else by that of the others."""
    print("| tomogram | in 1 sigma | in 2 sigma | in 1 sigma, by fifth of the disagreement | one factor |")
    print("|---" * 5 + "|")
    rows = []
    for n, (kind, error, deviation) in enumerate(cases):
        others = [case for m, case in enumerate(cases) if m != n] or [cases[n]]
        sigma = calibrate_disagreement(torch.from_numpy(deviation.copy())[None], stored or curve_of(others))[
            0
        ].numpy()
        fifth = np.digitize(deviation, np.quantile(deviation, [0.2, 0.4, 0.6, 0.8]))
        inside = np.abs(error) <= sigma
        factor = np.mean([np.quantile(np.abs(e) / np.maximum(d, 1e-9), ONE_SIGMA) for _, e, d in others])
        row = [inside.mean(), (np.abs(error) <= 2 * sigma).mean()]
        rows.append([*row, *(inside[fifth == i].mean() for i in range(5))])
        rows[-1].append((np.abs(error) <= factor * deviation)[fifth == 4].mean())
        print(table_row(kind, rows[-1]), flush=True)
    print(table_row("**mean** (0.68 and 0.95 expected)", np.mean(rows, axis=0)))


def table_row(name: str, shares: Sequence[float]) -> str:
    """One line of the table; the last column is the uppermost fifth with one factor in place of a curve."""
    text = [f"{share:.2f}" for share in shares]
    return f"| {name} | {text[0]} | {text[1]} | {' '.join(text[2:7])} | {text[7]} |"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
