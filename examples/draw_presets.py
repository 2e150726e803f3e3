"""Draw slices of each preset of specimens beside what a microscope and WBP make of it.

Run ``python examples/draw_presets.py -o docs/presets``; minutes on two cores. ``--help`` has the options.

Each preset is built, recorded at -60 to 60 degrees in steps of 3 with 120 e⁻/Å² at 4 µm underfocus, and
reconstructed by weighted back-projection, by the functions behind ``cryomend specimen``, ``acquire`` and
``reconstruct``. Shown are the x-y and the x-z plane that cross most of the membranes, filaments, fibres,
shells and gold particles, marked by ticks at the left, each the mean of three planes.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from cryomend.acquisition import acquire_file
from cryomend.config import AcquisitionConfig, SpecimenConfig, load_config
from cryomend.geometry import tilt_angles_from_range
from cryomend.io import read_volume
from cryomend.reconstruction import reconstruct_file
from cryomend.specimen import build_to_folder

PRESETS = ("cytosol", "membranes", "filaments", "virus", "nucleus", "purified", "anything")
SHOWN = ("membrane", "microtubule", "actin", "helix", "nucleosomes", "shell", "gold")
MICROSCOPE = AcquisitionConfig(fluence=(120, 120), dqe=(0.6, 0.6), defocus_um=(4, 4), misalignment=(1, 1))
BLACK = 4.0  # V, in all densities
BAR = 50.0  # nm
MEAN_OF = 3  # planes, in all pictures
GREYS = 40  # levels of grey in the picture: noise compresses badly


def main() -> None:
    """Make and draw the presets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=PRESETS, help=f"of {', '.join(PRESETS)}; all if none")
    parser.add_argument("-o", "--output", type=Path, default=Path("presets"), help="folder for NAME.png")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds give equal pictures")
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 320, 320), metavar=("NZ", "NY", "NX"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for preset in arguments.presets:
        with TemporaryDirectory() as folder:
            make(Path(folder), preset, tuple(arguments.shape), arguments.seed)
            draw(Path(folder), preset, arguments.output / f"{preset}.png")


def make(folder: Path, preset: str, shape: tuple[int, ...], seed: int) -> None:
    """Build a specimen, record it and reconstruct it, all in one folder."""
    config = load_config(SpecimenConfig, None, preset=preset, shape=shape)
    print(build_to_folder(config, folder, seed=seed).replace(str(folder), preset), flush=True)
    angles = tilt_angles_from_range(-60, 60, 3)
    stack = acquire_file(folder / "density.mrc", folder, config=MICROSCOPE, tilt_angles=angles, seed=seed)
    reconstruct_file(stack, folder / "wbp.mrc", tilt_angles=stack.with_suffix(".tlt"), thickness=shape[0])


def draw(folder: Path, preset: str, path: Path) -> None:
    """Density to the left, WBP to the right; x-y above x-z, protein dark in all."""
    density, tomogram = (read_volume(folder / name) for name in ("density.mrc", "wbp.mrc"))
    z, y = planes_to_show(folder)
    depth, height, width = density.data.shape
    low, high = (float(v) for v in np.percentile(tomogram.data, [0.5, 99.5]))
    columns = (
        (-density.data, (-BLACK, 0.0), f"{preset}: density, white 0 to black {BLACK:g} V"),
        (tomogram.data, (low, high), "WBP, black and white 0.5 % of voxels each"),
    )
    figure = Figure(figsize=(9.8, 9.8 / 2 * (height + depth) / width + 0.3), dpi=100)
    grid = figure.subplots(2, 2, height_ratios=[height, depth])
    for axes, (volume, limits, title) in zip(grid.T, columns, strict=True):
        for ax, image in zip(axes, (thick_slice(volume, 0, z), thick_slice(volume, 1, y)), strict=True):
            ax.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], origin="lower")
            ax.set_axis_off()
        axes[0].set_title(title, fontsize=11)
        axes[0].axhline(y, 0, 0.02, color="black")
        axes[1].axhline(z, 0, 0.02, color="black")
    add_scale_bar(grid[0, 0], width, density.voxel_size)
    figure.subplots_adjust(0.003, 0.003, 0.997, 0.96, wspace=0.01, hspace=0.015)
    save(figure, path)


def planes_to_show(folder: Path) -> tuple[int, int]:
    """Z of the x-y plane and Y of the x-z plane that cross most objects of `SHOWN` classes."""
    classes: dict[str, str] = json.loads((folder / "classes.json").read_text())
    instances: NDArray[Any] = read_volume(folder / "instances.mrc").data.astype(np.int32)
    kept = [int(i) for i, name in classes.items() if name in SHOWN]
    chosen = np.where(np.isin(instances, kept), instances, 0)
    z, y = (
        max(inner(n), key=lambda i: crossed(chosen.take(i, axis))) for axis, n in enumerate(chosen.shape[:2])
    )
    return z, y


def inner(n: int) -> range:
    """The middle three quarters of an axis."""
    return range(n // 8, n - n // 8)


def crossed(plane: NDArray[Any]) -> tuple[int, int]:
    """Objects that a plane crosses, and for a draw the voxels that they take of it."""
    return len(np.unique(plane)), int(np.count_nonzero(plane))


def thick_slice(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Mean of `MEAN_OF` planes about one."""
    first = index - MEAN_OF // 2
    return volume.take(range(first, first + MEAN_OF), axis).mean(axis)


def add_scale_bar(ax: Any, width: int, voxel_size: float) -> None:
    """A bar of `BAR` nm in the lower right corner."""
    length = 10 * BAR / voxel_size
    ax.add_patch(Rectangle((0.98 * width - length, 6), length, 4, color="black"))
    ax.text(0.98 * width - length / 2, 12, f"{BAR:g} nm", ha="center", va="bottom", fontsize=11,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of few greys."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("L").quantize(GREYS).save(path, optimize=True)
    print(f"wrote {path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
