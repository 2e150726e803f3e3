"""How much restoration suffers from other programs, with threads that spin while they wait and that sleep.

    python benchmarks/shared_cores.py [--runs 3]

`cryomend` lets the threads of its libraries sleep after some microseconds (`GOMP_SPINCOUNT=1000`); their own
default is to spin for milliseconds (300000). Both restore the packaged sample, alone and beside as many busy
processes as there are cores; printed are the median wall-clock seconds that the record of a restoration says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SPINS = {"spinning (300000)": "300000", "sleeping (1000)": "1000"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    sample = _cryomend("sample").strip()
    print("| threads that wait | alone | beside busy processes |\n|---|---:|---:|")
    for name, count in SPINS.items():
        alone = _median(sample, count, runs)
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
        ]
        try:
            beside = _median(sample, count, runs)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        print(f"| {name} | {alone:.2f} s | {beside:.2f} s |", flush=True)


def _median(sample: str, count: str, runs: int) -> float:
    return statistics.median(_restore(sample, count) for _ in range(runs))


def _restore(sample: str, count: str) -> float:
    """Seconds from the first look at the tomogram to the finished file."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        _cryomend(
            "restore",
            sample,
            "-o",
            f"{folder}/restored.mrc",
            "--batch-report",
            str(record),
            GOMP_SPINCOUNT=count,
        )
        return float(json.loads(record.read_text())[0]["seconds"])


def _cryomend(*arguments: str, **environment: str) -> str:
    program = "import sys; from cryomend.cli import main; sys.argv[0] = 'cryomend'; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


if __name__ == "__main__":
    main()
