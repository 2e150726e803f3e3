"""Specimens that no preset makes, imaged by the package's own microscope.

Does a model restore what is there, or what it was trained on? Periodic lattices and surfaces, sheets that
cross, solids with sharp edges; and empty ice, where nothing is to be seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from scores import SIRT_ITERATIONS, Case

from cryomend.acquisition.acquire import acquire_tilt_series
from cryomend.acquisition.exposure import draw_exposure, draw_tilt_angles
from cryomend.config import AcquisitionConfig
from cryomend.reconstruction.iterate import reconstruct_sirt
from cryomend.reconstruction.wbp import reconstruct_wbp

TEST = "out of class"
VOXEL = 10.0  # Å
SHAPE = (96, 160, 160)
MARGIN = (8, 16)  # voxels of free ice above and below
BLUR = 0.7  # voxels; the presets have 0.5 to 0.9
SHAPES = ("lattice", "gyroid", "Schwarz P", "crossing sheets", "sharp corners")
FIRST_SEED = 700_000


def draw_density(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Potential in V of one shape in a slab of ice; zeros for ``empty ice``."""
    if kind == "empty ice":
        return np.zeros(SHAPE, np.float32)
    solid = {
        "lattice": _lattice,
        "gyroid": _gyroid,
        "Schwarz P": _schwarz_p,
        "crossing sheets": _sheets,
        "sharp corners": _corners,
    }[kind](rng)
    low, high = rng.integers(*MARGIN), SHAPE[0] - rng.integers(*MARGIN)
    solid[:low] = solid[high:] = 0
    return gaussian_filter(rng.uniform(1.5, 3.5) * solid, BLUR).astype(np.float32)


def _turned_grid(rng: np.random.Generator) -> np.ndarray:
    """Coordinates (Z, Y, X, 3) in voxels in a frame that is turned at random."""
    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in SHAPE], indexing="ij"), -1)
    return grid @ Rotation.random(random_state=rng).as_matrix() + rng.uniform(0, 100, 3)


def _lattice(rng: np.random.Generator) -> np.ndarray:
    """A simple cubic lattice of balls, turned at random."""
    period, radius = rng.uniform(12, 22), rng.uniform(3, 5)
    off = (_turned_grid(rng) + period / 2) % period - period / 2
    return (np.linalg.norm(off, axis=-1) < radius).astype(np.float32)


def _gyroid(rng: np.random.Generator) -> np.ndarray:
    """A wall along the gyroid ``sin x cos y + sin y cos z + sin z cos x = 0``."""
    period, half = rng.uniform(25, 45), rng.uniform(1.5, 2.5)  # voxels
    p = _turned_grid(rng) * (2 * np.pi / period)
    value = (np.sin(p) * np.cos(np.roll(p, -1, axis=-1))).sum(-1)
    return (np.abs(value) < 1.5 * half * 2 * np.pi / period).astype(np.float32)  # 1.5: mean slope


def _schwarz_p(rng: np.random.Generator) -> np.ndarray:
    """A wall along ``cos x + cos y + cos z = 0``."""
    period, half = rng.uniform(22, 40), rng.uniform(1.5, 2.5)
    value = np.cos(_turned_grid(rng) * (2 * np.pi / period)).sum(-1)
    return (np.abs(value) < 1.5 * half * 2 * np.pi / period).astype(np.float32)


def _sheets(rng: np.random.Generator) -> np.ndarray:
    """Seven flat sheets in random directions that pass through each other."""
    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in SHAPE], indexing="ij"), -1)
    solid = np.zeros(SHAPE, bool)
    for normal in Rotation.random(7, random_state=rng).as_matrix()[:, 0]:
        solid |= np.abs(grid @ normal - rng.uniform(-30, 30)) < rng.uniform(1.2, 2.5)
    return solid.astype(np.float32)


def _corners(rng: np.random.Generator) -> np.ndarray:
    """Where three smooth random fields are all above a level: their faces meet in edges and corners."""
    fields = [gaussian_filter(rng.standard_normal(SHAPE), rng.uniform(5, 9), mode="wrap") for _ in range(3)]
    lowest = np.min([f / f.std() for f in fields], axis=0)
    return (lowest > np.quantile(lowest, rng.uniform(0.75, 0.9))).astype(np.float32)


def out_of_class_cases(config: AcquisitionConfig, *, repeats: int) -> Iterator[tuple[Case, Case]]:
    """Every shape, and empty ice recorded in the same way."""
    for i, kind in enumerate(SHAPES):
        for repeat in range(repeats):
            seed = FIRST_SEED + 100 * i + repeat
            shape, ice = (draw_density(k, np.random.default_rng(seed)) for k in (kind, "empty ice"))
            yield _record(shape, kind, seed, config), _record(ice, "empty ice", seed, config)


def _record(density: np.ndarray, kind: str, seed: int, config: AcquisitionConfig) -> Case:
    """Image a shape and reconstruct it by WBP and SIRT."""
    rng = np.random.default_rng([seed, 1])
    generator = torch.Generator().manual_seed(seed)
    angles = draw_tilt_angles(config, rng)
    exposure = draw_exposure(
        config, rng, thickness=(SHAPE[0] - 24) * VOXEL, tilts=len(angles), pixel_size=VOXEL
    )
    truth = torch.from_numpy(density)
    series = acquire_tilt_series(truth, angles, pixel_size=VOXEL, exposure=exposure, generator=generator)
    mean = series.mean(dim=(1, 2), keepdim=True)  # and not the deviation, which is another without a specimen
    series = series / mean - 1
    wbp = reconstruct_wbp(series, angles, thickness=SHAPE[0])
    return Case(
        test=TEST,
        kind=kind,
        tomogram=wbp,
        plain=wbp,
        sirt=reconstruct_sirt(series, angles, depth=SHAPE[0], iterations=SIRT_ITERATIONS),
        density=truth,
        tilt_range=(float(angles.min()), float(angles.max())),
        voxel_size=VOXEL,
        defocus_um=exposure.defocus_um,
        optics=exposure.optics,
        record={"seed": seed, "exposure": exposure.record()},
    )
