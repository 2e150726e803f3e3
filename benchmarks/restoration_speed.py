"""How fast `fast` restores, against the published network and tiling, and what a large tomogram needs.

    python benchmarks/restoration_speed.py [--threads 1] [--repeats 5] [--reference-side 80]
    python benchmarks/restoration_speed.py --large [--shape 400 1024 1024] [--work /tmp]

Without ``--large``: voxels of the tomogram per second of processor time, so that other work on the machine
counts little; this package with its own tiles and precision, and the network of configs/reference.yaml in
float32, of whose 160³ voxels 96³ are kept. The reference is timed on smaller cubes (its 160³ need 20 GiB); a
network's time goes with the voxels. With ``--large``: one restoration of a file of noise, in a process of its
own, with its wall-clock and processor time and peak memory.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from cryomend.config import load_recipe
from cryomend.io import mapped_volume
from cryomend.network.unet import RestorationUNet
from cryomend.restoration.anchor import find_anchor
from cryomend.restoration.engine import Engine
from cryomend.restoration.memory import hold_pages
from cryomend.restoration.model import load_model
from cryomend.restoration.predict import restore_tomogram
from cryomend.restoration.tile import count_tiles
from cryomend.training.loop import network_arguments

HERE = Path(__file__).resolve().parent
COMPUTED, KEPT = 160, 96  # voxels a side of the published tiling
START = "from cryomend.cli import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference-side", type=int, default=80)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--shape", type=int, nargs=3, default=(400, 1024, 1024))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("/tmp"))
    parser.add_argument(
        "options", nargs="*", help="with --large: more options of `cryomend restore`, after --"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.large:
        restore_large(tuple(options.shape), options.work, options.threads, options.options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Both networks by turns, in the same process and on the same cores."""
    network, _ = load_model(options.model)
    volume = torch.randn(96, 160, 160, generator=torch.Generator().manual_seed(0))
    arguments = network_arguments(load_recipe(HERE.parent / "configs" / "reference.yaml").training)
    reference = RestorationUNet(**arguments).eval()
    cube = torch.randn(1, 1, *[options.reference_side] * 3)
    side = network.tile_side
    tile = torch.randn(1, 1, side, side, side)
    engines = {precision: Engine(network, precision=precision) for precision in ("auto", "float32")}
    calls: dict[str, Callable[[], object]] = {
        "whole": lambda: restore_tomogram(volume, network),
        "auto": lambda: list(engines["auto"].run([tile])),
        "float32": lambda: list(engines["float32"].run([tile])),
        "reference": lambda: run(reference, cube),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(options.repeats + 1):
        for name, call in calls.items():
            with nullcontext() if name == "reference" else hold_pages():
                started = time.process_time()
                call()
                if repeat:  # the first warms up
                    seconds[name].append(time.process_time() - started)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    spread = {name: (max(values) - min(values)) / times[name] for name, values in seconds.items()}
    print(f"load {os.getloadavg()[0]:.1f}, {options.threads} threads; voxels per second of processor time, "
          f"medians of {options.repeats}")  # fmt: skip
    for name in ("auto", "float32"):
        rate = tile.numel() / times[name]
        print(f"one tile of {side}³, {name:8} {rate / 1e6:8.3f} Mvox/s computed (spread {spread[name]:.0%})")
    origin = find_anchor(volume.numpy(), mean=float(volume.mean()))
    again, placed = overhead(tuple(volume.shape), side, network.multiple, [origin])
    small = volume.numel() / times["whole"]
    print(f"96 x 160 x 160 {placed:>17} {small / 1e6:8.3f} Mvox/s kept, {again:.1f} times the volume "
          f"computed (spread {spread['whole']:.0%})")  # fmt: skip
    rate = cube.numel() / times["reference"] * (KEPT / COMPUTED) ** 3
    print(
        f"published network and tiling     {rate / 1e6:8.4f} Mvox/s kept (spread {spread['reference']:.0%})"
    )
    print(f"ratio, 96 x 160 x 160            {small / rate:8.0f}")
    # where the content of a tomogram puts the grid is chance: the mean over all places
    again_large, placed = overhead(
        tuple(options.shape), side, network.multiple, [(o,) * 3 for o in range(side)]
    )
    large = small * again / again_large
    print(f"ratio, {' x '.join(map(str, options.shape))} {placed:>11} {large / rate:8.0f} by rate, "
          f"{math.prod(options.shape) / large / 60:.1f} minutes of processor time")  # fmt: skip


@torch.no_grad()
def run(network: torch.nn.Module, cube: torch.Tensor) -> torch.Tensor:
    return network(cube)


def overhead(
    shape: tuple[int, ...], side: int, multiple: int, origins: Sequence[tuple[int, ...]]
) -> tuple[float, str]:
    """Voxels computed over those of the volume, mean over origins of the tiles, and the tiles of the last."""
    times = []
    for origin in origins:
        counts, sides = count_tiles(shape, tile=side, overlap=side // 4, multiple=multiple, origin=origin)
        times.append(math.prod(counts) * math.prod(sides) / math.prod(shape))
    return statistics.mean(times), f"{' x '.join(map(str, counts))} tiles"


def restore_large(shape: tuple[int, ...], work: Path, threads: int, more: list[str]) -> None:
    """Restore a file of noise in a process of its own."""
    source, target = work / "restoration_speed.mrc", work / "restoration_speed_restored.mrc"
    rng = np.random.default_rng(0)
    sections = rng.normal(0, 10, (16, *shape[1:])).astype(np.float32)
    with mapped_volume(source, shape, voxel_size=10.0) as voxels:
        for z in range(shape[0]):
            voxels[z] = sections[z % 16]
    command = [sys.executable, "-c", START, "restore", str(source), "-o", str(target), *more]
    started = time.monotonic()
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    wall = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{' x '.join(map(str, shape))}: {wall:.0f} s, {cpu:.0f} s of processor time on {threads} threads "
          f"(load {os.getloadavg()[0]:.1f}), peak {used.ru_maxrss / 2**20:.2f} GiB")  # fmt: skip
    source.unlink()
    target.unlink()


if __name__ == "__main__":
    main()
