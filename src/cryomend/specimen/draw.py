"""Draw single objects from the ranges of a configuration: which, how large, where, in what pose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.config import FilamentConfig, MembraneConfig, SpecimenConfig
from cryomend.geometry import random_rotation
from cryomend.io import InputError, read_labels
from cryomend.specimen.chromatin import nucleosome, nucleosome_fibre
from cryomend.specimen.filament import (
    Filament,
    Strand,
    actin_filament,
    bundle,
    helical_filament,
    microtubule,
    network,
    worm_like_chain,
)
from cryomend.specimen.label_surface import labelled_surface
from cryomend.specimen.lattice import HelicalLattice
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.procedural import procedural_macromolecule
from cryomend.specimen.shell import TRIANGULATIONS, icosahedral_capsid, protein_shell
from cryomend.specimen.subunit import actin_monomer, tubulin_monomer
from cryomend.specimen.surface import (
    branched_surface,
    double,
    ellipsoid_surface,
    random_undulation,
    sheet_surface,
    stack_surface,
    torus_surface,
    tubule_surface,
)
from cryomend.specimen.surface_grid import Frame, Surface

__all__ = [
    "Slab",
    "draw_filaments",
    "draw_membrane_protein",
    "draw_shell",
    "draw_species",
    "draw_surface",
    "rotations_along",
]

# persistence lengths in Å: microtubules and F-actin (Gittes et al. 1993, doi:10.1083/jcb.120.4.923)
_PERSISTENCE = {"microtubule": 5e7, "actin": 1.8e5}
_NUCLEOSOME_SPACING = 60.0  # Å of fibre per nucleosome, what a length is worth

_SYMMETRIES = ("C1",) * 8 + tuple("C2 C2 C3 C4 C5 C6 C7 C12 D2 D3 D4 D7 T O I H".split())
_MEMBRANE_SYMMETRIES = ("C1", "C1", "C2", "C3", "C4", "C5")


@dataclass(frozen=True)
class Slab:
    """Volume shape (Z, Y, X), voxel size in Å, first and one-past-last plane that may be filled."""

    shape: tuple[int, int, int]
    voxel_size: float
    planes: tuple[int, int]


def draw_species(
    rng: np.random.Generator, config: SpecimenConfig, structures: Sequence[Macromolecule], count: int
) -> list[tuple[Macromolecule, float]]:
    """Draw ``count`` species, each with its share of the volume of all.

    Structure files come in a random order, none twice before all have come once; those that
    ``config.abundance`` names come first. Shares are drawn evenly over all splits (Dirichlet), then the
    copies of named species are set in proportion to their abundance, 1 being the mean of the drawn ones.
    """
    names = [s.name for s in structures]
    named = [i for i, name in enumerate(names) if name in config.abundance]
    others = [int(i) for i in rng.permutation(len(structures)) if i not in named]
    if unknown := set(config.abundance) - set(names):
        raise InputError(
            f"abundance: no structure file is called {', '.join(sorted(unknown))}; there are "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    n_files = max(int(rng.binomial(count, config.file_share)), len(named)) if structures else 0
    queue = (named + others) * (1 + n_files // max(1, len(structures)))
    species = [structures[i] for i in queue[:n_files]]
    species += [_draw_procedural(rng, config) for _ in range(count - n_files)]
    if not species:
        return []
    volumes = np.array([s.volume for s in species])
    copies = rng.dirichlet(np.ones(len(species))) / volumes
    copies /= copies.mean()
    times = Counter(s.name for s in species)  # one drawn twice shares its abundance
    copies = np.array(
        [
            config.abundance[s.name] / times[s.name] if s.name in config.abundance else drawn
            for s, drawn in zip(species, copies, strict=True)
        ]
    )
    shares = copies * volumes / max(float((copies * volumes).sum()), 1e-12)
    return list(zip(species, shares.tolist(), strict=True))


def _draw_procedural(rng: np.random.Generator, config: SpecimenConfig) -> Macromolecule:
    """A made-up species with a mass drawn evenly on a logarithmic scale."""
    mass = float(np.exp(rng.uniform(*np.log(config.mass_kda))))
    symmetry = str(rng.choice(config.symmetries or _SYMMETRIES))
    return procedural_macromolecule(
        rng, mass_kda=mass, symmetry=symmetry, name=f"procedural-{mass:.0f}kDa-{symmetry}"
    )


def draw_membrane_protein(
    rng: np.random.Generator, structures: Sequence[Macromolecule], file_share: float
) -> Macromolecule:
    """Draw a membrane protein with the bilayer at its origin and its axis along Z."""
    if structures and rng.random() < file_share:
        return structures[int(rng.integers(len(structures)))]
    symmetry = str(rng.choice(_MEMBRANE_SYMMETRIES))
    mass = float(rng.uniform(80, 700))
    body = procedural_macromolecule(rng, mass_kda=mass, symmetry=symmetry)
    inside = body.positions_zyx[:, 0].min() + rng.uniform(10, 30)
    beads = body.positions_zyx - np.array([inside, 0, 0], dtype=np.float32)
    name = f"membrane-protein-{mass:.0f}kDa-{symmetry}"
    return Macromolecule(name, beads, body.weights, body.kinds, body.form_factors)


def rotations_along(rng: np.random.Generator, directions_zyx: NDArray[Any]) -> NDArray[np.float64]:
    """Rotations (n, 3, 3) that carry Z onto unit directions (n, 3), each with a random turn about it."""
    z = np.asarray(directions_zyx, dtype=np.float64)
    side = np.cross(z, rng.standard_normal(z.shape))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    return np.stack([z, side, np.cross(z, side)], axis=2)  # columns: images of the Z, Y and X unit vectors


def draw_surface(rng: np.random.Generator, config: MembraneConfig, slab: Slab, *, reach: float) -> Surface:
    """Draw the mid-surface of a membrane, right within ``reach`` Å, somewhere in the slab.

    Raises
    ------
    cryomend.io.InputError
        If a label volume cannot be read or has no voxel size.
    """
    is_double = config.kind != "stack" and rng.random() < config.double_share
    gap = float(rng.uniform(*config.gap))
    frame = Frame(slab.shape, slab.voxel_size, reach + gap if is_double else reach)
    surface = _draw_single(rng, config, slab, frame)
    return double(surface, gap) if is_double else surface


def _draw_single(rng: np.random.Generator, config: MembraneConfig, slab: Slab, frame: Frame) -> Surface:
    if config.kind == "labels":
        return labelled_surface(*_labels(str(config.labels), config.labels_voxel_size), frame=frame, rng=rng)
    centre = _anywhere(rng, slab)
    radius, wavelength = float(rng.uniform(*config.radius)), float(rng.uniform(*config.wavelength))
    amplitude = float(rng.uniform(*config.amplitude))
    if config.kind == "branched":
        level = float(rng.uniform(-0.8, 0.8))
        return branched_surface(rng, wavelength=wavelength, frame=frame, level=level)
    place: dict[str, Any] = {"centre_px": centre, "rotation": random_rotation(rng), "frame": frame}
    if amplitude > 0:
        place["undulation"] = random_undulation(rng, wavelength=wavelength, amplitude=amplitude)
    if config.kind == "ellipsoid":
        ratio = float(rng.uniform(*config.axis_ratio)) ** rng.uniform(0, 1, 3)
        return ellipsoid_surface(radius * ratio / ratio.prod() ** (1 / 3), **place)
    if config.kind == "torus":
        tube = min(float(rng.uniform(*config.tube_radius)), 0.8 * radius)
        return torus_surface(radius, tube, **place)
    place["rotation"] = _mostly_lying(rng)
    if config.kind == "tubule":
        bend = radius * float(np.exp(rng.uniform(1, 4)))
        return tubule_surface(radius, bend_radius=bend, **place)
    place["rotation"] = _mostly_standing(rng)
    if config.kind == "sheet":
        return sheet_surface(**place)
    layers = int(rng.integers(config.layers[0], config.layers[1] + 1))
    return stack_surface(layers, float(rng.uniform(*config.gap)), **place)


@lru_cache(maxsize=2)
def _labels(path: str, voxel_size: float | None) -> tuple[NDArray[Any], float]:
    """A label volume and its voxel size; kept, because every draw of a training set needs it."""
    labels, own = read_labels(path)
    if not (voxel_size or own):
        raise InputError(f"{path}: no voxel size in the file; give it as labels_voxel_size")
    return labels, voxel_size or own


def _anywhere(rng: np.random.Generator, slab: Slab) -> NDArray[np.float64]:
    """A point of the slab in voxels."""
    return rng.uniform((slab.planes[0], 0, 0), (slab.planes[1], *slab.shape[1:]))


def _mostly_lying(rng: np.random.Generator) -> NDArray[np.float64]:
    """A rotation that carries Z to within some 15 degrees of the plane of the slab."""
    azimuth, climb = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.25)
    direction = np.array([[climb, np.sin(azimuth), np.cos(azimuth)]])
    return rotations_along(rng, direction / np.linalg.norm(direction))[0]


def _mostly_standing(rng: np.random.Generator) -> NDArray[np.float64]:
    """A rotation for sheets: their normal lies near the plane of the slab for most, anywhere for some."""
    return _mostly_lying(rng) if rng.random() < 0.7 else random_rotation(rng)


def draw_shell(rng: np.random.Generator, slab: Slab) -> Filament:
    """Draw a closed protein shell: an icosahedral capsid or an even coat; none if the slab is too thin."""
    room = (slab.planes[1] - slab.planes[0]) * slab.voxel_size / 2 - 40
    if room < 120:
        return []
    radius = float(rng.uniform(120, min(room, 450)))
    if rng.random() < 0.5:
        each = {t: 4 * np.pi * radius**2 / (60 * t) for t in TRIANGULATIONS}  # Å² of the shell per subunit
        fitting = [t for t in TRIANGULATIONS if 900 < each[t] < 4500]
        strand = icosahedral_capsid(rng, None, triangulation=int(rng.choice(fitting)), radius=radius)
    else:
        unit = procedural_macromolecule(rng, mass_kda=float(rng.uniform(40, 250)), name="shell-unit")
        strand = protein_shell(rng, unit, radius)
    planes = np.array([slab.planes[0], slab.planes[1]]) - slab.shape[0] // 2
    reach = (radius + 40) / slab.voxel_size
    height = rng.uniform(*(planes + np.array([reach, -reach])))
    centre = np.array([height, *(rng.uniform(-0.5, 0.5, 2) * slab.shape[1:])]) * slab.voxel_size
    return [Strand(strand.unit, strand.positions_zyx + centre, strand.rotations)]


def draw_filaments(
    rng: np.random.Generator,
    config: FilamentConfig,
    slab: Slab,
    units: Sequence[Macromolecule],
    is_free: Callable[[NDArray[np.float64]], bool],
) -> list[Filament]:
    """Draw a filament, a bundle or a network from its subunits, in Å from the volume's centre.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    config : FilamentConfig
        Ranges to draw from.
    slab : Slab
        Where it lies.
    units : sequence of Macromolecule
        From `draw_subunits`.
    is_free : callable
        Tells whether points (n, 3) in Å may all be taken; nucleosome fibres grow around what is not.
    """
    length = float(rng.uniform(*config.length))
    middle = (_anywhere(rng, slab) - np.array(slab.shape) // 2) * slab.voxel_size
    if config.kind == "nucleosomes":
        count, linker = max(1, round(length / _NUCLEOSOME_SPACING)), round(rng.uniform(*config.linker_bp))
        return [nucleosome_fibre(rng, middle, units[0], count=count, linker_bp=linker, is_free=is_free)]
    step, make = _maker(rng, config, units)
    persistence = _PERSISTENCE.get(config.kind, float(10 ** rng.uniform(4, 6)))
    if config.persistence_um is not None:
        persistence = 1e4 * float(rng.uniform(*config.persistence_um))
    direction = _mostly_lying(rng)[:, 0] * np.array([0.5, 1, 1])
    line = worm_like_chain(
        rng,
        start_zyx=middle - direction * length / 2,
        direction_zyx=direction,
        length=length,
        step=step,
        persistence_length=persistence,
    )
    branches = int(rng.integers(config.branches[0], config.branches[1] + 1))
    if branches:
        return network(
            rng, line, make, branches=branches, length=length * float(rng.uniform(0.3, 0.8)),
            persistence_length=persistence,
        )  # fmt: skip
    count = int(rng.integers(config.bundle[0], config.bundle[1] + 1))
    if count > 1:
        return bundle(rng, line, make, count=count, gap=float(rng.uniform(*config.bundle_gap)))
    return [make(*line)]


def draw_subunits(
    rng: np.random.Generator, kind: str, structures: Sequence[Macromolecule], file_share: float
) -> list[Macromolecule]:
    """Draw what a filament of that kind is made of, from files of that size if chance has it."""
    small = [s for s in structures if s.radius < 60]
    if kind == "nucleosomes":
        return [nucleosome(rng)]
    if kind == "microtubule":
        return [tubulin_monomer(rng, name="tubulin-alpha"), tubulin_monomer(rng, name="tubulin-beta")]
    if kind == "actin":
        return [actin_monomer(rng)]
    if small and rng.random() < file_share:
        return [small[int(rng.integers(len(small)))]]
    return [procedural_macromolecule(rng, mass_kda=float(rng.uniform(20, 150)), name="helix-unit")]


def _maker(
    rng: np.random.Generator, config: FilamentConfig, units: Sequence[Macromolecule]
) -> tuple[float, Callable[[NDArray[np.float64], NDArray[np.float64]], Filament]]:
    """Step of the centre line in Å, and what makes a filament of it."""
    if config.kind == "microtubule":
        low, high = config.protofilaments
        number = 13 if low <= 13 <= high and rng.random() < 0.5 else int(rng.integers(low, high + 1))
        return 40.0, lambda points, frames: microtubule(rng, points, frames, number, units[0], units[-1])
    if config.kind == "actin":
        return 27.5, lambda points, frames: actin_filament(rng, points, frames, units[0])
    unit = units[0]
    radius = float(rng.uniform(0.3, 2.0)) * unit.radius
    starts = max(1, int(2 * np.pi * radius / (1.6 * unit.radius) * rng.uniform(0.4, 1.0)))
    lattice = HelicalLattice(
        radius, unit.radius * float(rng.uniform(0.7, 1.4)), float(rng.uniform(-180, 180)), starts
    )
    return lattice.rise, lambda points, frames: helical_filament(rng, points, frames, lattice, unit)
