"""Build one specimen: membranes, shells, filaments, gold and macromolecules packed into a slab of ice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import SpecimenConfig
from cryomend.fourier import gaussian_lowpass
from cryomend.geometry import random_rotation
from cryomend.io import read_volume
from cryomend.specimen.filament import (
    HelicalLattice,
    actin_lattice,
    helical_poses,
    microtubule_lattice,
    worm_like_chain,
)
from cryomend.specimen.macromolecule import (
    PROTEIN_CONTRAST,
    Macromolecule,
    beads_from_atoms,
    beads_from_map,
    procedural_macromolecule,
    render_beads,
)
from cryomend.specimen.membrane import bilayer_profile, ellipsoid_distance, ellipsoid_surface
from cryomend.specimen.packing import Packing, Placement

__all__ = ["Specimen", "build_specimen", "load_structure"]

_SYMMETRIES = ("C1",) * 8 + (
    "C2",
    "C2",
    "C3",
    "C4",
    "C5",
    "C6",
    "C7",
    "C12",
    "D2",
    "D3",
    "D4",
    "D7",
    "T",
    "O",
    "I",
)
_GOLD_CONTRAST = 20.0  # V above ice; bulk gold has a mean inner potential of about 25 V
_BEADS_AT_ONCE = 2_000_000  # bounds the memory of rendering


@dataclass(frozen=True)
class Specimen:
    """One specimen.

    ``density`` (Z, Y, X) in V above ice; ``instances`` (Z, Y, X) number of the object that stands
    in a voxel, 0 for ice; ``classes`` name of each instance; ``placements`` the poses.
    """

    density: Tensor
    instances: NDArray[np.int32]
    classes: dict[int, str]
    placements: list[Placement]
    voxel_size: float


def load_structure(path: str | Path) -> Macromolecule:
    """Read a macromolecule from PDB, mmCIF (also .gz) or an MRC map at any grey scale.

    Raises
    ------
    ValueError
        If the file is neither, cannot be read or holds nothing.
    """
    name = Path(path).name.lower()
    if name.endswith((".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz")):
        return beads_from_atoms(path)
    if name.endswith((".mrc", ".map", ".ccp4")):
        volume = read_volume(path)
        return beads_from_map(volume.data, voxel_size=volume.voxel_size, name=Path(path).stem)
    raise ValueError(f"{path}: a structure is a .pdb, .cif or .mrc file")


def build_specimen(
    config: SpecimenConfig,
    *,
    rng: np.random.Generator,
    structures: Sequence[Macromolecule] = (),
    membrane_structures: Sequence[Macromolecule] = (),
    device: torch.device | str | None = None,
) -> Specimen:
    """Draw one specimen from the ranges of a configuration.

    Order: membranes with their proteins, protein shells, filaments, gold, then macromolecules, the
    largest first, until the drawn occupancy is reached or nothing fits any more.

    Parameters
    ----------
    config : SpecimenConfig
        Ranges to draw from.
    rng : numpy.random.Generator
        Source of all randomness.
    structures, membrane_structures : sequence of Macromolecule
        Species to use beside procedural ones; membrane proteins stand with Z along the normal.
    device : torch.device or str, optional
        Where the density is rendered.

    Raises
    ------
    ValueError
        If the margins leave no slab.
    """
    margins = rng.uniform(*config.slab_margin, size=2) / config.voxel_size
    slab = (int(margins[0]), config.shape[0] - int(margins[1]))
    packing = Packing(config.shape, config.voxel_size, slab)
    classes: dict[int, str] = {}
    density = np.zeros(config.shape, dtype=np.float32)
    for _ in range(_count(rng, config.vesicles)):
        density += _add_vesicle(packing, classes, config, rng, membrane_structures)
    for _ in range(_count(rng, config.shells)):
        _add_shell(packing, config, rng)
    for _ in range(_count(rng, config.filaments)):
        _add_filament(packing, config, rng, structures)
    for _ in range(_count(rng, config.gold)):
        packing.place_at_random(rng, _gold_bead(rng, config.voxel_size))
    _fill_with_macromolecules(packing, config, rng, structures)
    classes |= {p.instance: p.species.name for p in packing.placements}
    rendered = _render(packing, config, rng, device)
    coverage = (rendered / PROTEIN_CONTRAST).clamp(0, 1)  # protein stands in place of lipid
    total = torch.as_tensor(density, device=rendered.device) * (1 - coverage) + rendered
    blurred = gaussian_lowpass(total, rng.uniform(*config.blur) / config.voxel_size)
    return Specimen(blurred, packing.instances, classes, packing.placements, config.voxel_size)


def _count(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def _render(
    packing: Packing, config: SpecimenConfig, rng: np.random.Generator, device: torch.device | str | None
) -> Tensor:
    """All placed beads splatted into one volume, in bounded batches."""
    contrast = {id(p.species): 1.0 for p in packing.placements}
    contrast = {key: float(rng.uniform(*config.contrast)) for key in contrast}
    centre = np.array(config.shape) // 2
    density = torch.zeros(config.shape, device=device)
    counts = np.array([len(p.species.weights) for p in packing.placements])
    batches = np.cumsum(counts) // _BEADS_AT_ONCE
    for number in np.unique(batches):
        chosen = [p for p, b in zip(packing.placements, batches, strict=True) if b == number]
        beads = [
            p.species.positions_zyx @ p.rotation_matrix.T.astype(np.float32)
            + p.position_zyx.astype(np.float32)
            for p in chosen
        ]
        weights = np.concatenate([p.species.weights * contrast[id(p.species)] for p in chosen])
        positions = (np.concatenate(beads) / config.voxel_size + centre).astype(np.float32)
        density += render_beads(
            torch.as_tensor(positions, device=device),
            torch.as_tensor(weights, device=device),
            shape=config.shape,
            voxel_size=config.voxel_size,
        )
    return density


def _procedural(rng: np.random.Generator, config: SpecimenConfig) -> Macromolecule:
    """A made-up species with a mass drawn evenly on a logarithmic scale."""
    mass = float(np.exp(rng.uniform(*np.log(config.mass_kda))))
    symmetry = str(rng.choice(_SYMMETRIES))
    return procedural_macromolecule(
        rng, mass_kda=mass, symmetry=symmetry, name=f"procedural-{mass:.0f}kDa-{symmetry}"
    )


def _pick_species(
    rng: np.random.Generator, config: SpecimenConfig, structures: Sequence[Macromolecule]
) -> Macromolecule:
    if structures and rng.random() < config.file_share:
        return structures[int(rng.integers(len(structures)))]
    return _procedural(rng, config)


def _fill_with_macromolecules(
    packing: Packing, config: SpecimenConfig, rng: np.random.Generator, structures: Sequence[Macromolecule]
) -> None:
    """Place species in random proportions, large before small, up to the drawn occupancy."""
    target = packing.occupancy + float(rng.uniform(*config.occupancy))
    species = [_pick_species(rng, config, structures) for _ in range(_count(rng, config.species))]
    shares = rng.dirichlet(np.ones(len(species))) if species else np.zeros(0)
    budget = (target - packing.occupancy) * packing.instances[packing.slab[0] : packing.slab[1]].size
    for share, one in sorted(zip(shares, species, strict=True), key=lambda item: -item[1].radius):
        cost = len(packing.footprint(one, np.eye(3)))
        for _ in range(max(1, round(share * budget / cost))):
            if packing.occupancy >= target or not packing.place_at_random(rng, one):
                break


def _add_vesicle(
    packing: Packing,
    classes: dict[int, str],
    config: SpecimenConfig,
    rng: np.random.Generator,
    membrane_structures: Sequence[Macromolecule],
) -> NDArray[np.float32] | float:
    """Claim a closed membrane, stand proteins in it, return its density; 0 if it does not fit."""
    for _ in range(20):
        radius = float(rng.uniform(*config.vesicle_radius))
        ratio = float(rng.uniform(*config.vesicle_axis_ratio)) ** rng.uniform(0, 1, 3)
        semi_axes = radius * ratio / ratio.prod() ** (1 / 3)
        orientation = random_rotation(rng) if np.ptp(semi_axes) > 1e-6 else np.eye(3)
        centre = np.array(
            [rng.uniform(*packing.slab), rng.uniform(0, config.shape[1]), rng.uniform(0, config.shape[2])]
        )
        grid = np.stack(np.meshgrid(*map(np.arange, config.shape), indexing="ij"), axis=-1)
        local = ((grid - centre) * config.voxel_size).astype(np.float32) @ orientation.astype(np.float32)
        distance = ellipsoid_distance(local, semi_axes.astype(np.float32))
        in_slab = (grid[..., 0] >= packing.slab[0]) & (grid[..., 0] < packing.slab[1])
        instance = packing.claim(
            np.argwhere((np.abs(distance) < 28) & in_slab)
        )  # cut by the slab, as in a lamella
        if instance:
            break
    else:
        return 0.0
    classes[instance] = "membrane"
    _stand_proteins(packing, config, rng, membrane_structures, (centre, orientation, semi_axes, instance))
    profile = bilayer_profile(
        distance, head_distance=rng.uniform(33, 41), amplitude=2.6 * rng.uniform(*config.contrast)
    )
    return profile * in_slab


def _stand_proteins(
    packing: Packing,
    config: SpecimenConfig,
    rng: np.random.Generator,
    structures: Sequence[Macromolecule],
    membrane: tuple[NDArray[Any], NDArray[Any], NDArray[Any], int],
) -> None:
    """Stand membrane proteins on a vesicle, axis along the normal, on either side."""
    centre, orientation, semi_axes, instance = membrane
    species = [_membrane_protein(rng, config, structures) for _ in range(int(rng.integers(1, 4)))]
    area = 4 * np.pi * float(np.mean(semi_axes)) ** 2
    n = int(area / 1e4 * rng.uniform(*config.membrane_proteins))
    if n == 0:
        return
    points, normals = ellipsoid_surface(rng, semi_axes, n)
    outward = 1.0 if rng.random() < 0.7 else -1.0
    for point, normal in zip(points @ orientation.T, normals @ orientation.T, strict=True):
        side = outward if rng.random() < 0.9 else -outward
        packing.place(
            species[int(rng.integers(len(species)))],
            position_px=centre + point / config.voxel_size,
            rotation=_axis_along(rng, side * normal),
            allowed=instance,
        )


def _membrane_protein(
    rng: np.random.Generator, config: SpecimenConfig, structures: Sequence[Macromolecule]
) -> Macromolecule:
    """A membrane protein with the bilayer at its origin."""
    if structures and rng.random() < config.file_share:
        return structures[int(rng.integers(len(structures)))]
    symmetry = str(rng.choice(["C1", "C1", "C2", "C3", "C4", "C5"]))
    mass = float(rng.uniform(80, 700))
    body = procedural_macromolecule(rng, mass_kda=mass, symmetry=symmetry)
    shift = body.positions_zyx[:, 0].min() + rng.uniform(10, 30)
    beads = body.positions_zyx - np.array([shift, 0, 0], dtype=np.float32)
    return Macromolecule(f"membrane-protein-{mass:.0f}kDa-{symmetry}", beads, body.weights)


def _axis_along(rng: np.random.Generator, direction_zyx: NDArray[Any]) -> NDArray[np.float64]:
    """Rotation that carries Z onto a direction, with a random turn about it."""
    q, _ = np.linalg.qr(np.stack([direction_zyx, *rng.standard_normal((2, 3))], axis=1))
    if q[:, 0] @ direction_zyx < 0:
        q[:, 0] *= -1
    if np.linalg.det(q) < 0:
        q[:, 2] *= -1
    rotation: NDArray[np.float64] = q
    return rotation


def _add_shell(packing: Packing, config: SpecimenConfig, rng: np.random.Generator) -> None:
    """A closed shell of one protein, evenly spread, like a capsid or a coat."""
    unit = procedural_macromolecule(rng, mass_kda=float(rng.uniform(40, 250)), name="shell-unit")
    thickness = float(np.ptp(unit.positions_zyx[:, 0]))
    room = (packing.slab[1] - packing.slab[0]) * config.voxel_size / 2 - thickness
    if room < 120:
        return
    radius = float(rng.uniform(120, min(room, 500)))
    spacing = 2 * (3 * len(unit.weights) * 125 / (4 * np.pi)) ** (1 / 3) * rng.uniform(0.85, 1.2)
    reach = (radius + thickness) / config.voxel_size
    middle = rng.uniform(packing.slab[0] + reach, max(packing.slab[0] + reach, packing.slab[1] - reach))
    centre = np.array([middle, *(rng.uniform(0, n) for n in config.shape[1:])])
    points, normals = ellipsoid_surface(
        rng, np.full(3, radius), max(12, int(4 * np.pi * radius**2 / spacing**2))
    )
    turn = _axis_along(rng, np.array([1.0, 0, 0]))
    rotations = np.stack([_axis_along(rng, normal) @ turn for normal in normals])
    _place_assembly(packing, unit, centre + points / config.voxel_size, rotations)


def _add_filament(
    packing: Packing, config: SpecimenConfig, rng: np.random.Generator, structures: Sequence[Macromolecule]
) -> None:
    """A microtubule, an actin filament or a made-up helix across the volume."""
    lattice, unit, persistence = _draw_filament(rng, config, structures)
    span = float(np.linalg.norm(config.shape[1:])) * config.voxel_size
    for _ in range(12):
        azimuth, climb = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.12)
        direction = np.array([climb, np.sin(azimuth), np.cos(azimuth)])
        middle = np.array([rng.uniform(*packing.slab), *(rng.uniform(0, n) for n in config.shape[1:])])
        length = float(rng.uniform(0.4, 2.0)) * span
        points, frames = worm_like_chain(
            rng,
            start_zyx=middle * config.voxel_size - direction * length / 2,
            direction_zyx=direction,
            length=length,
            step=lattice.rise,
            persistence_length=persistence,
        )
        positions, rotations = helical_poses(lattice, points, frames)
        if _place_assembly(packing, unit, positions / config.voxel_size, rotations):
            return


def _draw_filament(
    rng: np.random.Generator, config: SpecimenConfig, structures: Sequence[Macromolecule]
) -> tuple[HelicalLattice, Macromolecule, float]:
    """Lattice, subunit and persistence length in Å of one filament."""
    small = [s for s in structures if s.radius < 60]
    from_file = bool(small) and rng.random() < config.file_share
    if from_file:
        unit = small[int(rng.integers(len(small)))]
    if rng.random() < config.microtubule_share:
        unit = unit if from_file else procedural_macromolecule(rng, mass_kda=50)
        return microtubule_lattice(int(rng.integers(11, 17))), _rod(unit, height=42), 1e7
    if rng.random() < 0.4:
        unit = unit if from_file else procedural_macromolecule(rng, mass_kda=42)
        return actin_lattice(), unit, 1.5e5
    if not from_file:
        unit = procedural_macromolecule(rng, mass_kda=float(rng.uniform(20, 150)), name="helix-unit")
    radius = float(rng.uniform(0.3, 2.0)) * unit.radius
    starts = max(1, int(2 * np.pi * radius / (1.6 * unit.radius) * rng.uniform(0.4, 1.0)))
    twist = float(rng.uniform(20, 180))
    return (
        HelicalLattice(radius, unit.radius * rng.uniform(0.7, 1.4), twist, starts),
        unit,
        float(10 ** rng.uniform(4, 6)),
    )


def _rod(unit: Macromolecule, *, height: float) -> Macromolecule:
    """The unit scaled along Z to a height in Å at constant volume."""
    factor = height / max(float(np.ptp(unit.positions_zyx[:, 0])), 1.0)
    scale = np.array([factor, factor**-0.5, factor**-0.5], dtype=np.float32)
    return Macromolecule(f"rod of {unit.name}", unit.positions_zyx * scale, unit.weights)


def _place_assembly(
    packing: Packing, unit: Macromolecule, positions_px: NDArray[Any], rotations: NDArray[Any]
) -> bool:
    """Claim all subunits inside the volume as one instance, or nothing."""
    reach = unit.radius / packing.voxel_size
    near = ((positions_px > -reach) & (positions_px < np.array(packing.shape) + reach)).all(1)
    if near.sum() < 4:
        return False
    chosen = np.flatnonzero(near)
    cells = np.concatenate([packing.footprint(unit, rotations[i], positions_px[i]) for i in chosen])
    instance = packing.claim(np.unique(cells, axis=0))
    if not instance:
        return False
    for i in chosen:
        packing.remember(unit, positions_px[i], rotations[i], instance)
    return True


def _gold_bead(rng: np.random.Generator, voxel_size: float) -> Macromolecule:
    """A gold sphere of 5 to 15 nm diameter."""
    radius, step = float(rng.uniform(25, 75)), min(8.0, voxel_size)
    axis = np.arange(-radius, radius + step, step)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    beads = grid[np.linalg.norm(grid, axis=1) <= radius].astype(np.float32)
    return Macromolecule("gold", beads, np.full(len(beads), _GOLD_CONTRAST * step**3, dtype=np.float32))
