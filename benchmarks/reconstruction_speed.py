"""How fast projection, back-projection, WBP and SIRT are, against ASTRA's CPU code on the same data.

ASTRA (GPL) is no dependency: `pip install astra-toolbox` to compare. Its two-dimensional CPU algorithms
run slice by slice in as many Python threads as PyTorch uses; its 3-D calls need a GPU.
Kernels: medians of --repeat runs, all in one process, in turns. Whole processes: `cryomend reconstruct`
against this script as a process that reads the stack, reconstructs with ASTRA and writes the tomogram.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mrcfile
import numpy as np
import torch

from cryomend.projection import backproject, interpolate_rays, project_density
from cryomend.reconstruction import reconstruct_sirt, reconstruct_wbp


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _medians(functions: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Run all in turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeat + 1):
        for name, function in functions.items():
            seconds = _seconds(function)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def _astra_slices(
    images: np.ndarray, angles: np.ndarray, depth: int, method: str, iterations: int
) -> np.ndarray:
    """Reconstruct (tilt, Y, X) to (Y, Z, X) with ASTRA, slices shared among Python threads."""
    import astra

    _, height, width = images.shape
    volume = np.empty((height, depth, width), np.float32)
    projection = astra.create_proj_geom("parallel", 1.0, width, np.radians(angles))
    plane = astra.create_vol_geom(depth, width)

    def work(share: range) -> None:
        projector = astra.create_projector("linear", projection, plane)
        data = astra.data2d.create("-sino", projection)
        result = astra.data2d.create("-vol", plane)
        options = astra.astra_dict(method)
        options |= {"ProjectorId": projector, "ProjectionDataId": data, "ReconstructionDataId": result}
        algorithm = astra.algorithm.create(options)
        for y in share:
            astra.data2d.store(data, images[:, y])
            astra.data2d.store(result, 0)
            astra.algorithm.run(algorithm, iterations)
            volume[y] = astra.data2d.get(result)
        astra.algorithm.delete(algorithm)
        astra.data2d.delete([data, result])
        astra.projector.delete(projector)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [range(t, height, threads) for t in range(threads)]))
    return volume


def _kernels(tilts: int, size: int, depth: int, rows: int, repeat: int, iterations: int) -> None:
    angles = np.linspace(-60, 60, tilts)
    images = torch.randn(tilts, rows, size)
    volume = torch.randn(depth, rows, size)
    work = tilts * rows * size * depth
    out = torch.empty(depth, rows, size)
    functions: dict[str, Callable[[], object]] = {
        "back-projection": lambda: interpolate_rays(images, angles, depth=depth, out=out),
        "adjoint": lambda: backproject(images, angles, depth=depth),
        "projection": lambda: project_density(volume, angles),
        "WBP": lambda: reconstruct_wbp(images, angles, thickness=depth),
        f"SIRT x {iterations}": lambda: reconstruct_sirt(images, angles, depth=depth, iterations=iterations),
    }
    try:
        import astra  # noqa: F401

        functions |= {
            "ASTRA BP": lambda: _astra_slices(images.numpy(), angles, depth, "BP", 1),
            "ASTRA FBP": lambda: _astra_slices(images.numpy(), angles, depth, "FBP", 1),
            f"ASTRA SIRT x {iterations}": lambda: _astra_slices(
                images.numpy(), angles, depth, "SIRT", iterations
            ),
        }
    except ImportError:
        print("ASTRA is not installed; no peer to compare with")
    medians = _medians(functions, repeat)
    print(f"\n{tilts} tilts of {rows} x {size} to {depth} x {rows} x {size}")
    for name, seconds in medians.items():
        sweeps = 2 * iterations if "SIRT" in name else 1
        print(f"{name:18s} {seconds:8.3f} s  {sweeps * work / seconds / 1e9:6.2f} G voxel-tilts/s")
    for ours, theirs in (
        ("back-projection", "ASTRA BP"),
        ("WBP", "ASTRA FBP"),
        (f"SIRT x {iterations}", f"ASTRA SIRT x {iterations}"),
    ):
        if theirs in medians:
            print(f"{theirs} takes {medians[theirs] / medians[ours]:.1f} times as long as our {ours}")


def _curve(repeat: int) -> None:
    """Cost against tilts and voxels: the rate stays the same where it is linear."""
    print("\ntilts  depth  width   back-projection")
    for tilts, depth, size in ((11, 128, 512), (41, 128, 512), (121, 128, 512), (41, 64, 512), (41, 256, 512),
                               (41, 128, 256), (41, 128, 1024)):  # fmt: skip
        images, angles = torch.randn(tilts, 128, size), np.linspace(-60, 60, tilts)
        out = torch.empty(depth, 128, size)
        seconds = _medians(
            {"bp": lambda i=images, a=angles, d=depth, o=out: interpolate_rays(i, a, depth=d, out=o)}, repeat
        )["bp"]
        print(f"{tilts:5d}  {depth:5d}  {size:5d}   {tilts * depth * 128 * size / seconds / 1e9:.2f} G/s")


def _whole_process(tilts: int, size: int, depth: int, repeat: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack, list_of_angles = Path(folder) / "stack.mrc", Path(folder) / "stack.tlt"
        with mrcfile.new(stack) as mrc:
            mrc.set_data(np.random.default_rng(0).standard_normal((tilts, size, size), dtype=np.float32))
            mrc.voxel_size = 10.0
        np.savetxt(list_of_angles, np.linspace(-60, 60, tilts), fmt="%.2f")
        ours = [
            "cryomend", "reconstruct", str(stack), "--tilt-angles", str(list_of_angles),
            "--thickness", str(depth), "-o", f"{folder}/ours.mrc", "--device", "cpu",
        ]  # fmt: skip
        theirs = [sys.executable, __file__, "--astra-process", str(stack), str(list_of_angles), str(depth)]

        def run(command: list[str]) -> Callable[[], object]:
            return lambda: subprocess.run(command, check=True, capture_output=True)

        medians = {"ours": _medians({"ours": run(ours)}, repeat)["ours"]}
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        bound = 4 * size * size * (depth + tilts)
        print(f"\nwhole process, {tilts} x {size}² to {depth} x {size}²: {medians['ours']:.2f} s, peak "
              f"{peak / 2**30:.2f} GiB = {peak / bound:.2f} times the output plus the stack")  # fmt: skip
        seconds = _seconds(run(theirs))
        print(f"ASTRA FBP: {seconds:.1f} s, {seconds / medians['ours']:.1f} times as long")


def _astra_process(stack: str, list_of_angles: str, depth: str) -> None:
    images = mrcfile.read(stack)
    volume = _astra_slices(images, np.loadtxt(list_of_angles), int(depth), "FBP", 1)
    with mrcfile.new(Path(stack).with_name("astra.mrc"), overwrite=True) as mrc:
        mrc.set_data(np.ascontiguousarray(volume.transpose(1, 0, 2)))
        mrc.voxel_size = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=256)
    parser.add_argument("--rows", type=int, default=128, help="of Y in the comparison of kernels")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=3, help="of SIRT")
    parser.add_argument("--astra-process", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.astra_process:
        _astra_process(*options.astra_process)
        return
    print(f"{torch.get_num_threads()} threads")
    _kernels(options.tilts, options.size, options.depth, options.rows, options.repeat, options.iterations)
    _curve(options.repeat)
    _whole_process(options.tilts, options.size, options.depth, options.repeat)


if __name__ == "__main__":
    main()
