"""Calibrate the uncertainty of models (`cryomend restore --confidence`) on simulated truth.

    python benchmarks/confidence_calibration.py [--model fast --model best] [--structures DIR ...] --write
    python benchmarks/confidence_calibration.py [--model fast --model best] [--structures DIR ...]
        --first-seed 970000 --tomograms 12 --stored [--figure docs/reliability.png]

Two curves per model, without and with halves of the data, turn the network's disagreement into one standard
deviation: the 68.3 % quantile of |error| among voxels of like disagreement, both over the contrast (standard
deviation) of the restoration. With --write they go into the package's table, by the digest of the weights;
before, every tomogram is scored with the curve of the others.

With --stored the curves of the table are scored as they are, on tomograms of other seeds: the test that
counts, as the form of the curve was chosen on the tomograms of the default seeds. The figure shows how many
voxels lie within k sigma.

The truth is brought to the grey levels of the restoration by a line: its slope is that of least squares
(truth on restoration), its level that of most voxels (the median error is zero).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
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
MULTIPLES = np.arange(0.5, 3.01, 0.25)  # of sigma, in the figure

Voxels = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Voxels of one tomogram restored by one model, over the contrast; ``halves`` is with halves."""

    kind: str
    error: Voxels
    disagreement: dict[bool, Voxels]


def main() -> None:
    options = parse_options()
    context = multiprocessing.get_context("spawn")  # forking after torch has started threads can hang
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        scored = []
        for n, cases in enumerate(pool.map(partial(score, options), range(options.tomograms)), start=1):
            scored.append(cases)
            print(n, cases[0].kind, flush=True)
    reliability = {}
    for model, cases in zip(options.model, zip(*scored, strict=True), strict=True):
        for halves in (False, True):
            name = f"{model}, with halves" if halves else model
            print(f"\n{name}\n", flush=True)
            reliability[name] = calibrate(model, cases, halves, options)
    print_shares(reliability)
    if options.figure is not None:
        draw_reliability(options.figure, reliability)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", action="append", help="default: fast")
    parser.add_argument("--structures", type=Path, action="append", default=[], help="else procedural ones")
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "held-out.yaml")
    parser.add_argument("--tomograms", type=int, default=8, help="the kinds of the configuration in turn")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 96, 96), help="voxels (Z, Y, X)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="tomograms at a time")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--stored", action="store_true", help="score the curves of the package's table")
    parser.add_argument("--write", action="store_true", help="into the package's table")
    parser.add_argument("--figure", type=Path, help="PNG: share of voxels within k sigma")
    options = parser.parse_args()
    options.model = options.model or ["fast"]
    return options


def score(options: argparse.Namespace, n: int) -> list[Case]:
    """Errors and disagreements of the models on one tomogram."""
    torch.set_num_threads(max(1, torch.get_num_threads() // options.processes))
    config = load_config(SimulationConfig, options.config)
    kind = sorted(config.specimens)[n % len(config.specimens)]
    specimen = config.specimens[kind].model_copy(update={"shape": tuple(options.shape)})
    one = config.model_copy(update={"specimens": {kind: specimen}})
    structures = find_structures(options.structures, only=config.structures)
    pair = simulate_pair(one, seed=options.first_seed + n, structures=structures, halves=True)
    device = choose_device(options.device)
    cases, measured = [], {}
    for model in options.model:
        network = load_model(model)[0]
        inside = network_digest(getattr(network, "network", network))
        if inside not in measured:  # models that share a network share its passes
            measured[inside] = {
                use: inner(
                    measure_disagreement(
                        pair.tomogram, network, halves=pair.halves if use else None, device=device
                    )
                )
                for use in (False, True)
            }
        restored = restore_tomogram(pair.tomogram, network, device=device)
        contrast = float(restored.std())
        error = inner(restored - match(pair.density, restored)) / contrast
        cases.append(Case(kind, error, {use: found / contrast for use, found in measured[inside].items()}))
    return cases


def match(truth: Tensor, restored: Tensor) -> Tensor:
    """Bring a truth to the grey levels of a restoration.

    The line fits the truth to the restoration, not the other way round: what a denoiser cannot know it leaves
    out, and that must count as error, not as a smaller truth. Its level is that of most voxels: with the mean
    what is too faint in the structures would lift the empty ice off its truth.
    """
    x, y = restored.double(), truth.double()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return (y / slope + (x - y / slope).median()).float()


def inner(volume: Tensor) -> Voxels:
    """Voxels away from the faces."""
    return volume[MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN].numpy().ravel()


def calibrate(
    model: str, cases: Sequence[Case], halves: bool, options: argparse.Namespace
) -> NDArray[np.float64]:
    """Score the stored curve, or a new one and write it if asked; give the shares within `MULTIPLES`."""
    network, metadata = load_model(model)
    if options.stored:
        stored = confidence_curve(network, metadata, halves=halves)
        if stored is None:
            raise SystemExit(f"nobody has calibrated {model}; run with --write first")
        return print_reliability(cases, halves, stored)
    shares = print_reliability(cases, halves)
    curve = curve_of(cases, halves)
    key = network_digest(network) + "+halves" * halves
    print(f"\ncurve of all, {key}: {curve}")
    if options.write:
        table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        TABLE.write_text(json.dumps(table | {key: curve}) + "\n")
    return shares


def curve_of(cases: Sequence[Case], halves: bool) -> Curve:
    """68.3 % quantile of |error| in equally full bins of disagreement; tomograms of one size count alike."""
    error = np.abs(np.concatenate([case.error for case in cases]))
    found = np.concatenate([case.disagreement[halves] for case in cases])
    bins = np.digitize(found, np.quantile(found, np.arange(1, POINTS) / POINTS))
    x = [float(np.median(found[bins == i])) for i in range(POINTS)]
    y = [float(np.quantile(error[bins == i], ONE_SIGMA)) for i in range(POINTS)]
    return [round(v, 5) for v in x], [round(float(v), 5) for v in np.maximum.accumulate(y)]


def print_reliability(
    cases: Sequence[Case], halves: bool, stored: Curve | None = None
) -> NDArray[np.float64]:
    """Print, as Markdown, how sigma holds by a curve, else by that of the others; give the mean shares.

    r: correlation of |error| with sigma. Mean sigma: made as wide or narrow as one sigma needs to hold 68.3 %
    of that tomogram, so that it tells how sharp the estimate is and not how high it is set.
    """
    print(
        "| tomogram | in 1 sigma | in 2 sigma | in 1 sigma, by fifth of the disagreement | r | mean sigma |"
    )
    print("|---" * 6 + "|")
    rows, shares = [], []
    for n, case in enumerate(cases):
        others = [other for m, other in enumerate(cases) if m != n] or [case]
        sigma, error = case.disagreement[halves].copy()[None], np.abs(case.error)
        calibrate_disagreement(sigma, stored or curve_of(others, halves))
        ratio = error / sigma[0]
        found = case.disagreement[halves]
        fifth = np.digitize(found, np.quantile(found, [0.2, 0.4, 0.6, 0.8]))
        row = [(ratio <= 1).mean(), (ratio <= 2).mean(), *((ratio <= 1)[fifth == i].mean() for i in range(5))]
        row += [np.corrcoef(error, sigma[0])[0, 1], np.quantile(ratio, ONE_SIGMA) * sigma.mean()]
        rows.append(row)
        shares.append([(ratio <= k).mean() for k in MULTIPLES])
        print(table_row(f"{n + 1} {case.kind}", row), flush=True)
    print(table_row("**mean** (0.68 and 0.95 expected)", np.mean(rows, axis=0)))
    print(f"spread of the tomograms in 1 sigma: {np.std([row[0] for row in rows]):.3f}")
    return np.mean(shares, axis=0)


def table_row(name: str, values: Sequence[float]) -> str:
    """One line of the table."""
    text = [f"{value:.2f}" for value in values]
    return f"| {name} | {text[0]} | {text[1]} | {' '.join(text[2:7])} | {text[7]} | {text[8]} |"


def print_shares(reliability: dict[str, NDArray[np.float64]]) -> None:
    """Print, as Markdown, the share of voxels within k sigma and that of a Gaussian."""
    rows = {"expected": [math.erf(k / math.sqrt(2)) for k in MULTIPLES]} | reliability
    print("\n| within k sigma, k = | " + " | ".join(f"{k:g}" for k in MULTIPLES[::2]) + " |")
    print("|---" * (len(MULTIPLES[::2]) + 1) + "|")
    for name, shares in rows.items():
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares[::2]) + " |")


def draw_reliability(path: Path, reliability: dict[str, NDArray[np.float64]]) -> None:
    """Draw the share of voxels within k sigma against that of a Gaussian."""
    from matplotlib.figure import Figure

    expected = np.array([math.erf(k / math.sqrt(2)) for k in MULTIPLES])
    figure = Figure(figsize=(4.6, 4.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(expected, 0.9 * expected, np.minimum(1.1 * expected, 1), color="0.9", label="± 10 %")
    axes.plot(expected, expected, color="0.6", linewidth=1)
    styles = ("o-", "o--", "s-", "s--")
    for n, (name, shares) in enumerate(reliability.items()):
        colour = f"C{n // 2}"
        axes.plot(expected, shares, styles[n % 4], color=colour, markersize=4, linewidth=1, label=name)
    for k in (1, 2, 3):
        axes.axvline(math.erf(k / math.sqrt(2)), color="0.7", linewidth=0.5)
    axes.set(xlabel="share expected within k sigma, k = 0.5 to 3", ylabel="share found", xlim=(0.35, 1))
    axes.set_ylim(0.3, 1.02)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
