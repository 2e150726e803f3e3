"""What tiles and the sampling of a network leave in its result: seams, a lattice, a dependence on position.

    python benchmarks/restoration_borders.py [--model fast] [--kind crowded] [--shape 64 208 208]

On a simulated tomogram of configs/held-out.yaml, which has a truth: correlation with it and seams for several
tiles; the difference when the tomogram is shifted; and the lattice in restored noise.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from cryomend.config import SimulationConfig, load_config
from cryomend.restoration.engine import Engine
from cryomend.restoration.model import load_model
from cryomend.restoration.predict import restore_mapped, restore_tomogram
from cryomend.restoration.standardise import robust_mean_std
from cryomend.specimen import find_structures
from cryomend.training.pairs import simulate_pair

HERE = Path(__file__).resolve().parent
SEED = 965_000  # of no training and of no other benchmark
FACE = 48  # voxels at the faces where shifted results are not compared
TILES = ((64, 16), (64, 32), (96, 32), (128, 32), (192, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--kind", default="crowded")
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 208, 208))
    options = parser.parse_args()
    network, _ = load_model(options.model)
    noise = torch.randn(64, 96, 96, generator=torch.Generator().manual_seed(1))
    excess = nyquist_excess(restore_tomogram(noise, network))
    print(
        "restored noise, Nyquist planes over those beside them:", *(f"{k} {v:.2f}" for k, v in excess.items())
    )
    config = load_config(SimulationConfig, HERE.parent / "configs" / "held-out.yaml")
    specimen = config.specimens[options.kind].model_copy(update={"shape": tuple(options.shape)})
    one = config.model_copy(update={"specimens": {options.kind: specimen}})
    pair = simulate_pair(one, seed=SEED, structures=find_structures([], only=config.structures))
    tomogram, truth = pair.tomogram.float(), pair.density.float()
    print("| tile | overlap | correlation with the truth | seams |\n|---|---|---|---|")
    for side, overlap in TILES:
        restored = -restore_tomogram(tomogram, network, tile=side, overlap=overlap)
        correlation = float(torch.corrcoef(torch.stack([restored.flatten(), truth.flatten()]))[0, 1])
        seams = seam_ratio(tomogram, network, side=side, overlap=overlap)
        print(f"| {side} | {overlap} | {correlation:.4f} | {seams:.3f} |", flush=True)
    print("| shift | difference |\n|---|---|")
    for shift in (1, 2, 3, 4, 8, 13, 16):
        print(f"| {shift} | {shift_difference(tomogram, network, shift):.3f} |", flush=True)


def nyquist_excess(volume: torch.Tensor) -> dict[str, float]:
    """Power of the outermost Fourier planes of every axis over that of the three beside them."""
    power = torch.fft.fftn(volume - volume.mean()).abs().square()
    excess = {}
    for axis, name in enumerate("zyx"):
        planes = power.mean([a for a in range(3) if a != axis])
        half = len(planes) // 2
        excess[name] = float(planes[half] / planes[half - 3 : half].mean())
    return excess


def seam_ratio(volume: torch.Tensor, network: torch.nn.Module, *, side: int, overlap: int) -> float:
    """Gradients where tiles meet over those at the same places where other tiles have their inside.

    The tiles stand on a grid of ``side - overlap`` voxels; the second restoration is of the volume without
    its first third of such a step, so that what is a border in one is the inside of a tile in the other.
    NaN where the volume has no room for two tiles.
    """
    step = side - overlap
    shift = max(step // 3 // 16, 1) * 16
    count = (min(volume.shape[1:]) - side - shift) // step
    length = side + count * step
    first, second = (
        restore_from_corner(volume[:, s : s + length, s : s + length], network, side=side, overlap=overlap)
        for s in (0, shift)
    )
    ratios = []
    for axis, i in itertools.product((1, 2), range(1, count + 1)):
        seam = np.arange(i * step + overlap // 4, i * step + overlap - overlap // 4)
        for one, other, offset in ((first, second, -shift), (second, first, shift)):
            if seam.min() + offset >= side // 4 and seam.max() + offset < length - side // 4:
                here, there = (v.diff(dim=axis).abs().mean([0, 3 - axis]) for v in (one, other))
                ratios.append(float(here[seam].mean() / there[seam + offset].mean()))
    return float(np.mean(ratios)) if ratios else float("nan")


def restore_from_corner(
    volume: torch.Tensor, network: torch.nn.Module, *, side: int, overlap: int
) -> torch.Tensor:
    """Restore with tiles that are counted from the first voxel, wherever the content lies."""
    there = volume.numpy()
    restored = np.empty_like(there, order="C")
    restore_mapped(
        restored, there, Engine(network), mean_std=robust_mean_std(volume), tile=side, overlap=overlap,
        origin=(0, 0, 0),
    )  # fmt: skip
    return torch.from_numpy(restored)


def shift_difference(volume: torch.Tensor, network: torch.nn.Module, shift: int) -> float:
    """How far the result of a shifted tomogram is from the shifted result, away from the faces.

    Nearer to a face than most of a tile both have not seen the same: what lies beyond the face.
    """
    volume = volume[:, :, : (volume.shape[2] - shift) // 16 * 16 + shift]
    whole, moved = (restore_tomogram(part, network) for part in (volume, volume[:, :, shift:]))
    there = whole[:, :, shift:][..., FACE:-FACE]
    return float((moved[..., FACE:-FACE] - there).norm() / (there - there.mean()).norm())


if __name__ == "__main__":
    main()
