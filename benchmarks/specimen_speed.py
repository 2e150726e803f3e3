"""Time, memory and density of packing.

Run ``python benchmarks/specimen_speed.py [--full] [--repeats N]`` (``make bench-specimen``). Prints

1. one specimen of 512 x 512 x 200 voxels of 10 Å at an occupancy of 0.25 with 24 species, the whole command
   with its files: medians of wall time and peak memory, over the time of one Fourier transform of that volume
   there and back (only with ``--full``; a quarter of the volume without);
2. how packing time grows with the number of copies, as the exponent of a power law and as a table;
3. the volume fraction at which equal spheres jam, thrown at random and packed snugly;
4. the rate on the accelerator over that of the CPU, if there is one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cryomend.config import SpecimenConfig
from cryomend.specimen import build_specimen
from cryomend.specimen.macromolecule import PROTEIN_CONTRAST, Macromolecule
from cryomend.specimen.packing import Packing
from cryomend.specimen.procedural import procedural_macromolecule
from cryomend.specimen.template import make_template

CROWDED = {
    "species": (24, 24),
    "occupancy": (0.25, 0.25),
    "mass_kda": (50.0, 4000.0),
    "slab_margin": (80.0, 80.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the whole 512 x 512 x 200")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    shape = (200, 512, 512) if arguments.full else (100, 256, 512)
    time_command(shape, arguments.repeats)
    grow()
    jam_spheres()
    if torch.cuda.is_available():
        compare_devices(shape, arguments.repeats)


def time_command(shape: tuple[int, int, int], repeats: int) -> None:
    """The whole command in a process of its own, over one Fourier transform of the volume."""
    seconds, gibibytes = [], []
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "crowded.yaml"
            config.write_text("".join(f"{key}: {list(value)}\n" for key, value in CROWDED.items()))
            command = [
                sys.executable,
                "-c",
                "from cryomend.cli import main; main()",
                "specimen",
                "--config",
                config,
            ]
            command += [
                "--shape",
                *shape,
                "--voxel-size",
                10,
                "--seed",
                seed,
                "--device",
                "cpu",
                "-o",
                folder + "/out",
            ]
            timed = ["/usr/bin/env", "python3", "-c", _MEASURE, *map(str, command)]
            start = time.perf_counter()
            result = subprocess.run(timed, capture_output=True, text=True, check=True)
            seconds.append(time.perf_counter() - start)
            gibibytes.append(int(result.stdout.split()[-1]) / 2**20)
            print(result.stderr.strip().splitlines()[-1].replace(folder, ""))
    yardstick = statistics.median(_fourier_seconds(shape) for _ in range(3))
    median = statistics.median(seconds)
    print(
        f"{shape}: median {median:.1f} s of {repeats}, {median / yardstick:.1f} x a Fourier transform there "
        f"and back ({yardstick:.2f} s); peak {max(gibibytes):.2f} GiB"
    )


_MEASURE = (
    "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
)


def _fourier_seconds(shape: tuple[int, int, int]) -> float:
    volume = torch.rand(shape)
    start = time.perf_counter()
    torch.fft.irfftn(torch.fft.rfftn(volume), s=shape)
    return time.perf_counter() - start


def grow() -> None:
    """Time of packing and rendering against the number of copies, at one occupancy."""
    rows = []
    species = _species()
    for width in (96, 136, 192, 272, 384, 544):
        config = SpecimenConfig(shape=(100, width, width), file_share=1.0, **CROWDED)
        start = time.perf_counter()
        specimen = build_specimen(config, rng=np.random.default_rng(1), structures=species)
        rows.append((len(specimen.placements), time.perf_counter() - start))
        print(f"{rows[-1][0]:7d} copies {rows[-1][1]:6.2f} s {1e3 * rows[-1][1] / rows[-1][0]:.3f} ms each")
    counts, seconds = np.log(np.array(rows)).T
    print(f"time grows as copies to the power {np.polyfit(counts, seconds, 1)[0]:.2f} (1 is linear)")


def _species() -> list[Macromolecule]:
    rng = np.random.default_rng(0)
    masses = np.geomspace(50, 4000, 24)
    return [procedural_macromolecule(rng, mass_kda=float(m), name=f"{m:.0f} kDa") for m in masses]


def jam_spheres() -> None:
    """Volume fraction of equal spheres when nothing more fits; random addition jams at 0.384 in theory."""
    for radius in (50.0, 70.0):
        template = make_template(_sphere(radius), voxel_size=10.0)
        for compact in (False, True):
            packing = Packing((96, 128, 128), (0, 96), periodic=True)
            count = packing.place_at_random(np.random.default_rng(0), template, 10**6, compact=compact)
            fraction = count * 4 / 3 * np.pi * (radius / 10) ** 3 / packing.slab_voxels
            print(
                f"spheres of {radius:.0f} Å, {'snug' if compact else 'at random'}: {fraction:.3f} ({count})"
            )


def _sphere(radius: float, step: float = 5.0) -> Macromolecule:
    axis = np.arange(-radius, radius + step, step)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[np.linalg.norm(grid, axis=1) <= radius].astype(np.float32)
    weight = PROTEIN_CONTRAST * 4 / 3 * np.pi * radius**3 / len(grid)
    return Macromolecule(f"sphere of {radius:.0f} Å", grid, np.full(len(grid), weight, dtype=np.float32))


def compare_devices(shape: tuple[int, int, int], repeats: int) -> None:
    """Voxels per second of packing and rendering the same specimen on both devices."""
    species = _species()
    config = SpecimenConfig(shape=shape, file_share=1.0, **CROWDED)
    medians = {}
    for device in ("cpu", "cuda"):
        seconds = []
        for _ in range(repeats + 1):  # the first warms up
            start = time.perf_counter()
            build_specimen(config, rng=np.random.default_rng(1), structures=species, device=device)
            seconds.append(time.perf_counter() - start)
        medians[device] = statistics.median(seconds[1:])
    print(f"accelerator: {medians['cpu'] / medians['cuda']:.1f} times the rate of the CPU")


if __name__ == "__main__":
    main()
