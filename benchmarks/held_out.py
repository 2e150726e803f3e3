"""Score the default model on simulated tomograms whose structures it never saw.

Run ``python benchmarks/held_out.py --structures DIR --membrane-structures DIR``.

Each kind of specimen of configs/held-out.yaml is simulated, reconstructed by WBP and restored; the
table compares WBP, the best Gaussian filter (its width chosen with the truth in hand) and the
network: correlation with the truth, over everything, inside the missing wedge and inside the
measured region. Without structure files the species are procedural ones of seeds that no training
used; the table says which.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from cryomend.config import SimulationConfig, load_config
from cryomend.evaluation.baseline import best_gaussian
from cryomend.evaluation.evaluate import evaluate_volume
from cryomend.restoration.model import load_model
from cryomend.restoration.predict import restore_tomogram
from cryomend.specimen import find_structures
from cryomend.training.pairs import simulate_pair

HERE = Path(__file__).resolve().parent
FIRST_SEED = 900_000  # training seeds count from 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, action="append", default=[])
    parser.add_argument("--membrane-structures", type=Path, action="append", default=[])
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "held-out.yaml")
    parser.add_argument("--model", default="default")
    parser.add_argument("--repeats", type=int, default=2, help="tomograms per kind")
    parser.add_argument("--json", type=Path, help="all scores")
    arguments = parser.parse_args()
    config = load_config(SimulationConfig, arguments.config)
    structures = find_structures(arguments.structures, only=config.structures)
    membrane_structures = find_structures(
        arguments.membrane_structures, only=config.structures, in_membrane=True
    )
    network, _ = load_model(arguments.model)
    rows = []
    for i, kind in enumerate(sorted(config.specimens)):
        for repeat in range(arguments.repeats):
            one = config.model_copy(update={"specimens": {kind: config.specimens[kind]}})
            pair = simulate_pair(
                one,
                seed=FIRST_SEED + 100 * i + repeat,
                structures=structures,
                membrane_structures=membrane_structures,
            )
            rows.append(score(kind, pair, network))
            print(f"{kind}: {rows[-1]['seconds']:.1f} s to restore", flush=True)
    print(table(rows))
    names = ", ".join(s.name for s in [*structures, *membrane_structures]) or "procedural"
    print(f"\nspecies: {names}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


def score(kind, pair, network) -> dict:
    """Scores of the three methods on one pair, all protein bright against the density."""
    start = time.perf_counter()
    restored = -restore_tomogram(pair.tomogram, network, protein="dark")
    seconds = time.perf_counter() - start
    bright = -pair.tomogram
    filtered, sigma = best_gaussian(bright, pair.density)
    tilt_range = tuple(pair.record["tilt_range"])
    scores = {
        name: evaluate_volume(volume, truth=pair.density, tilt_range=tilt_range, voxel_size=pair.voxel_size)[
            "truth"
        ]
        for name, volume in (("wbp", bright), ("gaussian", filtered), ("restored", restored))
    }
    return {
        "kind": kind,
        "seconds": seconds,
        "sigma": sigma,
        "tilt_range": tilt_range,
        "record": pair.record,
        **scores,
    }


def table(rows) -> str:
    """Markdown: one line per kind, then the mean."""
    regions = ("overall", "inside_wedge", "inside_measured_region")

    def numbers(chosen, method):
        return " / ".join(f"{np.mean([r[method][g]['correlation'] for r in chosen]):.2f}" for g in regions)

    def line(name, chosen):
        gain = np.mean(
            [
                r["restored"]["overall"]["correlation"] - r["gaussian"]["overall"]["correlation"]
                for r in chosen
            ]
        )
        cells = " | ".join(numbers(chosen, m) for m in ("wbp", "gaussian", "restored"))
        return f"| {name} | {cells} | {gain:+.2f} |"

    kinds = sorted({r["kind"] for r in rows})
    body = [
        line(f"{k} ({sum(r['kind'] == k for r in rows)})", [r for r in rows if r["kind"] == k]) for k in kinds
    ]
    fsc = " | ".join(
        f"{m} "
        + " / ".join(
            f"{np.mean([r[m][g]['mean_fsc_400_to_40_angstrom'] for r in rows]):.2f}" for g in regions
        )
        for m in ("wbp", "gaussian", "restored")
    )
    return "\n".join(
        [
            "correlation with the truth: all / inside the wedge / inside the measured region",
            "",
            "| specimens | WBP | best Gaussian | restored | gain |",
            "|---|---|---|---|---|",
            *body,
            line("**mean**", rows),
            "",
            f"mean FSC, 400 to 40 Å, same regions: {fsc}",
        ]
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
