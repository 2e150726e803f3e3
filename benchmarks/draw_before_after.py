"""Draw central x-y and x-z slices of a tomogram before and after restoration.

python benchmarks/draw_before_after.py BEFORE AFTER OUT.png [--slices Z Y]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cryomend.io import read_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--slices", type=int, nargs=2, metavar=("Z", "Y"), help="instead of the central ones")
    arguments = parser.parse_args()
    volumes = [read_volume(p).data for p in (arguments.before, arguments.after)]
    depth, height, width = volumes[0].shape
    z, y = arguments.slices or (depth // 2, height // 2)
    figure = Figure(figsize=(9, 9 / 2 * (height + depth) / width + 0.4), dpi=110)
    axes = figure.subplots(2, 2, height_ratios=[height, depth])
    for column, volume, name in zip(axes.T, volumes, ("tomogram (WBP)", "restored"), strict=True):
        low, high = np.percentile(volume, [0.5, 99.5])
        for ax, image in zip(column, (volume[z], volume[:, y]), strict=True):
            ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower")
            ax.set_xticks([])
            ax.set_yticks([])
        column[0].set_title(name)
    axes[0, 0].set_ylabel("x-y")
    axes[1, 0].set_ylabel("x-z")
    figure.tight_layout()
    figure.savefig(arguments.output)


if __name__ == "__main__":
    main()
