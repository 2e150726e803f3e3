"""How long all metrics of a pair of volumes take, and in how much memory.

    python benchmarks/metrics_speed.py [--size 512] [--threads 2] [--limit-seconds 60] [--limit-gib 6]

Writes a volume and a truth of random voxels into a temporary folder (two float32 files) and runs
`cryomend evaluate` on them as its own process: correlation, PSNR, SSIM, the Fourier scores overall, in
the wedge, in the measured region and in three cones, CNR and ENL over three pairs of areas. Prints the
wall time, the processor time (user and system, all threads: on a busy machine the wall time says little)
and the peak of the resident memory. Leaves with code 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np

COMMAND = "import sys; from cryomend.cli import main; sys.argv[0] = 'cryomend'; main()"


def write_pair(folder: Path, size: int) -> None:
    """Write truth.mrc, volume.mrc (the truth and as much noise) and areas.toml."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((size, size, size), dtype=np.float32)
    noise = rng.standard_normal((size, size, size), dtype=np.float32)
    noise += truth
    for name, data in (("truth", truth), ("volume", noise)):
        with mrcfile.new(folder / f"{name}.mrc", data=data) as file:
            file.voxel_size = 10.0
    lines = []
    for n, kind in enumerate(("foreground", "background")):
        for i in range(3):
            first = (3 * n + i) * size // 8
            box = [first, first + max(size // 16, 2)]
            lines.append(f"[{kind}.{kind[0]}{i}]\nz = {box}\ny = {box}\nx = {box}\n")
    (folder / "areas.toml").write_text("\n".join(lines))


def main() -> None:
    """Time one evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="voxels along each axis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-seconds", type=float, default=60.0, help="of wall time")
    parser.add_argument("--limit-gib", type=float, default=6.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_pair(Path(folder), options.size)
        arguments = ["evaluate", "volume.mrc", "--truth", "truth.mrc", "--tilt-range", "-60", "60"]
        arguments += ["--areas", "areas.toml", "--json", "scores.json", "--protein", "bright"]
        threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=folder, env=os.environ | threads, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    gib = used.ru_maxrss / 2**20
    print(
        f"{options.size}³ pair, {options.threads} threads: {seconds:.1f} s, processor "
        f"{used.ru_utime:.1f} s user + {used.ru_stime:.1f} s system, peak {gib:.2f} GiB"
    )
    if seconds > options.limit_seconds or gib > options.limit_gib:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
