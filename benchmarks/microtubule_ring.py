"""Measure how closed the ring of a microtubule is in the x-z section averaged along it.

Run ``python benchmarks/microtubule_ring.py RAW RESTORED [--picture OUT.png]``.

Both are MRC tomograms with protein bright and one microtubule near Y. The direction is found on
the raw volume and used for both. The wall is the maximum between 7 and 17 nm from the centre in
each of twelve sectors of 30 degrees; the weakest of them is given in units of the mean of
the sides (within 45 degrees of the x axis), and the elongation is the wall's diameter along z over
that along x.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from cryomend.evaluation.straighten import find_slopes, mean_along_slopes
from cryomend.io import read_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("restored", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    raw, restored = read_volume(arguments.raw), read_volume(arguments.restored)
    slopes = find_slopes(raw.data)
    sections = [mean_along_slopes(v.data, *slopes) for v in (raw, restored)]
    centre = ring_centre(sections[1], raw.voxel_size)
    print(f"ring centre (z, x) = ({centre[0]:.1f}, {centre[1]:.1f}) voxels")
    for name, section in zip(("raw", "restored"), sections, strict=True):
        weakest, elongation = measure(section, centre, raw.voxel_size)
        print(f"{name}: weakest wall {weakest:.2f} of the sides, elongation along z {elongation:.2f}")
    if arguments.picture:
        draw(sections, arguments.picture)


def polar(section, centre, voxel_size):
    """Grey levels on 360 rays from 7 to 17 nm around a centre, and the radii in nm."""
    radii = np.arange(7, 17, 0.1)
    angle = np.radians(np.arange(360))
    z = centre[0] + np.sin(angle)[:, None] * radii * 10 / voxel_size
    x = centre[1] + np.cos(angle)[:, None] * radii * 10 / voxel_size
    return map_coordinates(section, [z, x], order=1, mode="nearest"), radii


def ring_centre(section, voxel_size):
    """Centre about which a ring of 8 to 15 nm radius is brightest against its inside."""
    depth, width = section.shape
    best, where = -np.inf, (depth / 2, width / 2)
    for z in np.arange(depth * 0.3, depth * 0.7, 0.5):
        for x in np.arange(width * 0.3, width * 0.7, 0.5):
            rays, _ = polar(section, (z, x), voxel_size)
            score = rays.mean(0).max() - rays.mean(0)[0]
            if score > best:
                best, where = score, (z, x)
    return where


def measure(section, centre, voxel_size):
    """Weakest wall in units of the sides, and elongation along z."""
    rays, radii = polar(section, centre, voxel_size)
    background = np.median(section)
    sectors = (rays - background).reshape(12, 30, -1).mean(1)
    wall = sectors.max(1)
    middle = (np.arange(12) * 30 + 15) % 180
    sides = wall[(middle <= 45) | (middle >= 135)].mean()
    radius = radii[sectors.argmax(1)]
    top = radius[(middle > 60) & (middle < 120)].mean()
    return wall.min() / sides, top / radius[(middle <= 30) | (middle >= 150)].mean()


def draw(sections, path):
    """The two averaged sections side by side, raw first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.2), dpi=150)
    for ax, section, name in zip(figure.subplots(1, 2), sections, ("before", "after"), strict=True):
        low, high = np.percentile(section, [1, 99.8])
        ax.imshow(section, cmap="gray", vmin=low, vmax=high, origin="lower")
        ax.set(title=name, xlabel="x (voxels)", ylabel="z (voxels)")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
