"""What the checks without a truth say of restorations whose fault is known (docs/checks.md).

    python benchmarks/checks.py [--structures DIR ...] [--model fast] [--fluence-share 1.0]

One tilt series of each kind of configs/held-out.yaml, its halves counted apart. The restoration is that of
the model, the truth, or one of them with a fault put in on purpose.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.acquisition.acquire import acquire_halves
from cryomend.acquisition.exposure import draw_exposure, draw_tilt_angles
from cryomend.config import SimulationConfig, load_config
from cryomend.evaluation.fsc import fourier_correlation
from cryomend.evaluation.projections import hold_out_tilts
from cryomend.evaluation.verdict import Check
from cryomend.fourier import gaussian_lowpass
from cryomend.reconstruction import reconstruct_wbp
from cryomend.restoration.check import (
    TiltData,
    check_halves,
    check_held_out,
    check_noise,
    check_reprojection,
)
from cryomend.restoration.model import load_model
from cryomend.restoration.predict import restore_tomogram
from cryomend.specimen import find_structures
from cryomend.specimen.build import build_specimen

HERE = Path(__file__).resolve().parent
SHAPE, VOXEL = (64, 128, 128), 10.0

Restore = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Simulated data: images of the whole and of the halves (tilt, Y, X), their angles, and the truth."""

    density: Tensor
    angles: NDArray[np.float64]
    whole: Tensor
    halves: tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--structures", type=Path, action="append", default=[], help="else procedural ones")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--fluence-share", type=float, default=1.0, help="of that of configs/held-out.yaml")
    parser.add_argument("--first-seed", type=int, default=940_000)
    options = parser.parse_args()
    network, _ = load_model(options.model)

    def restore(tomogram: Tensor) -> Tensor:
        return restore_tomogram(tomogram, network)

    config = load_config(SimulationConfig, HERE.parent / "configs" / "held-out.yaml")
    for n, kind in enumerate(sorted(config.specimens)):
        case = simulate(config, kind, options.first_seed + n, options.structures, options.fluence_share)
        print(f"\n{kind}\n")
        print(
            "| case | reprojection | support | held-out | outermost | halves, fidelity "
            "| noise, of halves | correlation |"
        )
        print("|---" * 8 + "|")
        for name, cells in rows(case, restore):
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def simulate(
    config: SimulationConfig, kind: str, seed: int, folders: list[Path], fluence_share: float
) -> Case:
    """Record one specimen; each image of the whole has unit deviation, and the halves its scale."""
    rng = np.random.default_rng(seed)
    structures = find_structures(folders, only=config.structures)
    chosen = config.specimens[kind].model_copy(update={"shape": SHAPE})
    specimen = build_specimen(chosen, rng=rng, structures=structures)
    angles = draw_tilt_angles(config.acquisition, rng)
    fluence = tuple(fluence_share * value for value in config.acquisition.fluence)
    microscope = config.acquisition.model_copy(update={"fluence": fluence})
    slab = (specimen.slab[1] - specimen.slab[0]) * VOXEL
    exposure = draw_exposure(microscope, rng, thickness=slab, tilts=len(angles), pixel_size=VOXEL)
    generator = torch.Generator().manual_seed(seed)
    series = acquire_halves(
        specimen.density, angles, pixel_size=VOXEL, exposure=exposure, generator=generator
    )
    scale = series.images.std(dim=(1, 2), keepdim=True)
    whole, even, odd = (
        (images - images.mean(dim=(1, 2), keepdim=True)) / scale
        for images in (series.images, series.even, series.odd)
    )
    return Case(specimen.density, angles, whole, (even, odd))


def rows(case: Case, restore: Restore):
    """Every fault and what the checks say of it."""
    tomogram = reconstruct_wbp(case.whole, case.angles, thickness=SHAPE[0])
    restored = restore(tomogram)
    faults = {
        "correct": restored,
        "the truth": -case.density,
        "the tomogram itself": tomogram,
        "a particle pasted in": paste_particle(restored),
        "a ball pasted in": paste_ball(restored),
        "shifted by 1 voxel": torch.roll(restored, 1, 2),
        "shifted by 2 voxels": torch.roll(restored, 2, 2),
        "contrast inverted": -restored,
        "mirrored along z": restored.flip(0),
        "mirrored along x": restored.flip(2),
    }
    for name, volume in faults.items():
        yield name, cells(case, restored=volume)
    picture = fixed_picture(restored)
    networks = {
        "correct": restore,
        "identity": lambda t: t,
        "Gaussian, 2 voxels": lambda t: gaussian_lowpass(t, 2.0),
        "the truth": lambda t: -case.density,
        "the same picture in all": lambda t: picture,
        "correct + half a picture": lambda t: restore(t) + 0.5 * picture,
    }
    for name, network in networks.items():
        yield f"network: {name}", cells(case, network=network)
    noise = torch.randn(case.whole.shape, generator=torch.Generator().manual_seed(1))
    halves = tuple(torch.randn(noise.shape, generator=torch.Generator().manual_seed(n)) for n in (2, 3))
    empty = Case(case.density, case.angles, noise, (halves[0], halves[1]))
    out = restore(reconstruct_wbp(noise, case.angles, thickness=SHAPE[0]))
    yield "pure noise", cells(empty, restored=out, network=restore)


def cells(case: Case, *, restored: Tensor | None = None, network: Restore | None = None) -> list[str]:
    """One line of the table; a dash where a check does not ask for what is given."""
    every, outermost = (
        TiltData(case.whole, case.angles, hold_out_tilts(case.angles, **how), VOXEL)
        for how in ({"every": 5}, {"outermost": 3})
    )
    line = ["-"] * 7
    if restored is not None:
        line[:2] = map(in_words, check_reprojection(restored, every))
        line[6] = f"{fourier_correlation(-restored, case.density):.2f}"
    if network is None:
        return line
    line[2:4] = [in_words(check_held_out(d, network, thickness=SHAPE[0])) for d in (every, outermost)]
    tomogram, even, odd = (
        reconstruct_wbp(images, case.angles, thickness=SHAPE[0]) for images in (case.whole, *case.halves)
    )
    tilt_range = (float(case.angles.min()), float(case.angles.max()))
    check = check_halves(even, odd, network(even), network(odd), voxel_size=VOXEL, tilt_range=tilt_range)
    line[4] = in_words(check) + "".join(f" {b['fidelity']:.2f}" for b in check.detail.get("bands", []))
    generator = torch.Generator().manual_seed(0)
    found = check_noise(tomogram, network(tomogram), network, generator=generator, halves=(even, odd))
    line[5] = ", ".join(map(in_words, found))
    return line


def in_words(check: Check) -> str:
    return f"{check.verdict} {check.number:.2f}"


def paste_particle(volume: Tensor) -> Tensor:
    """A cube of the volume itself, 24 voxels a side, added where it does not belong."""
    invented, level = volume.clone(), volume.median()
    invented[20:44, 80:104, 60:84] += volume[20:44, 30:54, 30:54] - level
    return invented


def paste_ball(volume: Tensor) -> Tensor:
    """A ball of 16 voxels, as dark as the darkest half percent."""
    z, y, x = torch.meshgrid(*(torch.arange(n) for n in volume.shape), indexing="ij")
    radius = ((z - 32) ** 2 + (y - 80) ** 2 + (x - 50) ** 2).float().sqrt()
    dark = torch.quantile(volume.flatten()[::7], 0.005) - volume.median()
    return volume + dark * torch.sigmoid((8 - radius) * 1.5)


def fixed_picture(like: Tensor) -> Tensor:
    """Smooth random structure of the deviation of a restoration."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
    picture = gaussian_lowpass(noise, 2.0)
    return picture * (like.std() / picture.std())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
