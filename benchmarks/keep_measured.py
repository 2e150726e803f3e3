"""Score --keep-measured, --fill-only and --denoise-only on held-out tomograms (docs/restoration.md).

    python benchmarks/keep_measured.py [--structures DIR ...] [--model fast]
    python benchmarks/keep_measured.py --large [--shape 400 1024 1024] [--work /tmp]

Correlation with the truth over everything, in the wedge and in the measured region, and the energy that the
network leaves of a phase-randomised copy. One tomogram of each kind of configs/held-out.yaml.
With ``--large``: time and peak memory of what follows the network, on files of noise; no network runs.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryomend.config import SimulationConfig, load_config
from cryomend.evaluation.fsc import fourier_correlation
from cryomend.geometry import missing_wedge_mask
from cryomend.io import release_pages, scratch_array
from cryomend.restoration.measured import (
    blend_mapped,
    blend_measured,
    weight_from_halves,
    weight_from_tomogram,
)
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
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--shape", type=int, nargs=3, default=(400, 1024, 1024))
    parser.add_argument("--work", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    if options.large:
        join_large(tuple(options.shape), options.work)
        return
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


def join_large(shape: tuple[int, int, int], work: Path) -> None:
    """Weigh and join two volumes that lie on disk: bytes and float32, as a tomogram and its restoration."""
    options: dict[str, Any] = {"tilt_range": (-60.0, 60.0), "directory": work}
    with scratch_array(work, shape, np.int8) as data, scratch_array(work, shape, np.float32) as restored:
        rng = np.random.default_rng(0)
        sections = rng.standard_normal((8, *shape[1:]), dtype=np.float32) * 10
        for z in range(shape[0]):
            data[z] = restored[z] = sections[z % 8]
            restored[z] += 5 * sections[(z + 1) % 8]
            release_pages(data)
            release_pages(restored)
        del sections
        say("before", lambda: None)
        say(
            "quiet places", lambda: weight_from_tomogram(data, tilt_range=(-60.0, 60.0), mean_std=(0.0, 10.0))
        )
        weight = say("halves", lambda: weight_from_halves(data, restored, **options))
        say("blend", lambda: blend_mapped(restored, data, restored, weight=weight, **options))


def say(name: str, work: Callable[[], Any]) -> Any:
    """Do something and print its time and the peak memory of the process up to its end."""
    started, cpu = time.monotonic(), time.process_time()
    result = work()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    threads = torch.get_num_threads()
    print(f"{name:12} {seconds:6.1f} s, {cpu:6.1f} s of processor time on {threads} threads "
          f"(load {os.getloadavg()[0]:.1f}), peak so far {peak:.2f} GiB", flush=True)  # fmt: skip
    return result


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
