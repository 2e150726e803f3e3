"""Build one specimen: membranes, shells, filaments, clutter and macromolecules packed into a slab of ice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cryomend.config import ClutterConfig, FilamentConfig, MembraneConfig, SpecimenConfig
from cryomend.fourier import gaussian_lowpass
from cryomend.io import InputError
from cryomend.specimen.clutter import (
    Blob,
    carbon_edge,
    dense_granule,
    gold_fiducial,
    ice_crystal,
    lipid_debris,
)
from cryomend.specimen.draw import (
    Slab,
    draw_filaments,
    draw_membrane_protein,
    draw_shell,
    draw_species,
    draw_subunits,
    draw_surface,
    rotations_along,
)
from cryomend.specimen.filament import Filament
from cryomend.specimen.macromolecule import PROTEIN_CONTRAST, Macromolecule
from cryomend.specimen.membrane import bilayer_profile
from cryomend.specimen.packing import Packing, Poses
from cryomend.specimen.procedural import procedural_macromolecule
from cryomend.specimen.surface import Surface, surface_area, surface_points, surface_spread
from cryomend.specimen.template import BLUR_PER_VOXEL, Template, make_template, paste_potential

__all__ = ["Placement", "Specimen", "build_specimen"]

_TRIES = 12  # places tried for a membrane, a shell or a filament before it is left out
_HALF_BILAYER = 28.0  # Å taken on either side of a mid-surface
_DENSE = 0.36  # share of the free room above which a species is packed snugly: random throws jam at 0.38
_CLUTTER: dict[str, Callable[..., Blob]] = {
    "gold": gold_fiducial,
    "carbon": carbon_edge,
    "ice": ice_crystal,
    "lipid": lipid_debris,
    "granule": dense_granule,
}
_ROUNDS = 3
_WORTH_A_ROUND = 0.002  # of the slab, what a round must have placed to be followed by another
_LARGE_CLUTTER = ("carbon", "ice")  # placed before anything can stand in its way
_LINING_REACH = 120.0  # Å from a mid-surface, as far as the middle of the coat under it may lie


@dataclass(frozen=True)
class Placement:
    """One copy in the specimen: its species, centre (Å from the volume's centre) and orientation.

    Units of a filament or shell share their instance.
    """

    species: Macromolecule
    position_zyx: NDArray[np.float64]
    rotation_matrix: NDArray[np.float64]
    instance: int
    in_membrane: bool = False


@dataclass(frozen=True)
class Specimen:
    """One specimen.

    ``density`` (Z, Y, X) in V above ice; ``instances`` (Z, Y, X) number of the object that stands
    in a voxel, 0 for ice; ``classes`` name of each instance; ``placements`` the poses; ``slab`` first and
    one-past-last plane of the ice; ``occupancy`` share of the slab that macromolecules take,
    ``occupancy_asked`` what was drawn for it.
    """

    density: Tensor
    instances: NDArray[np.int32]
    classes: dict[int, str]
    placements: list[Placement]
    voxel_size: float
    slab: tuple[int, int]
    occupancy: float
    occupancy_asked: float

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; class label ``i + 1`` is the i-th, 0 is ice."""
        return sorted(set(self.classes.values()))

    def class_labels(self) -> NDArray[np.int32]:
        """Label of the class that stands in each voxel (Z, Y, X)."""
        number = {name: i + 1 for i, name in enumerate(self.class_names)}
        table = np.zeros(max(self.classes, default=0) + 1, dtype=np.int32)
        for instance, name in self.classes.items():
            table[instance] = number[name]
        return table[self.instances]


def build_specimen(
    config: SpecimenConfig,
    *,
    rng: np.random.Generator,
    structures: Sequence[Macromolecule] = (),
    membrane_structures: Sequence[Macromolecule] = (),
    device: torch.device | str | None = None,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
) -> Specimen:
    """Draw one specimen from the ranges of a configuration.

    Order: membranes with their proteins, protein shells, filaments, clutter, then macromolecules, the
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
        Where specimens are packed and rendered.
    on_progress : callable
        Told the share done and what is being done.

    Raises
    ------
    ValueError
        If the margins leave no slab, or a label volume cannot be read.
    """
    builder = _Builder(config, rng, device)
    for clutter in config.clutter:
        if clutter.kind in _LARGE_CLUTTER:
            builder.add_clutter(clutter)
    for membrane in config.membranes:
        for _ in range(_count(rng, membrane.count)):
            builder.add_membrane(membrane, membrane_structures)
    for _ in range(_count(rng, config.shells)):
        builder.add_assembly("shell", lambda: [draw_shell(rng, builder.slab)])
    for filament in config.filaments:
        units = draw_subunits(rng, filament.kind, structures, config.file_share)
        for _ in range(_count(rng, filament.count)):
            builder.add_filament(filament, units)
    for clutter in config.clutter:
        if clutter.kind not in _LARGE_CLUTTER:
            builder.add_clutter(clutter)
    reached, asked = builder.fill(structures, on_progress)
    return builder.finish(reached, asked)


def _count(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


@dataclass(frozen=True)
class _Lipid:
    """A membrane that has found its place, and how its bilayer looks."""

    surface: Surface
    head_distance: float
    contrast: float


class _Builder:
    """What has been placed so far; used by `build_specimen` only."""

    def __init__(
        self, config: SpecimenConfig, rng: np.random.Generator, device: torch.device | str | None
    ) -> None:
        margins = rng.uniform(*config.slab_margin, size=2) / config.voxel_size
        planes = (int(margins[0]), config.shape[0] - int(margins[1]))
        self.config, self.rng, self.device = config, rng, device
        self.packing = Packing(config.shape, planes, config.border == "periodic", device)
        self.slab = Slab(config.shape, config.voxel_size, planes)
        self.templates: dict[int, Template] = {}
        self.contrast: dict[int, float] = {}
        self.classes: dict[int, str] = {}
        self.in_membranes: set[int] = set()  # species that stand in lipid
        self.lipids: list[_Lipid] = []
        self.blobs: list[Blob] = []

    def template(self, molecule: Macromolecule) -> Template:
        """The template of a species, made once."""
        if id(molecule) not in self.templates:
            self.templates[id(molecule)] = make_template(
                molecule, voxel_size=self.config.voxel_size, device=self.device
            )
            self.contrast[id(molecule)] = float(self.rng.uniform(*self.config.contrast))
        return self.templates[id(molecule)]

    def add_membrane(self, config: MembraneConfig, structures: Sequence[Macromolecule]) -> None:
        """Claim a membrane, cut by the slab like in a lamella, and stand proteins in it."""
        is_lined = self.rng.random() < config.lining_share
        if is_lined:
            config = config.model_copy(update={"double_share": 0.0})
        for _ in range(_TRIES):
            try:
                reach = _LINING_REACH if is_lined else _HALF_BILAYER + 12
                surface = draw_surface(self.rng, config, self.slab, reach=reach)
            except InputError:
                raise
            except ValueError:  # what was drawn misses the volume, or cannot be in so small a one
                continue
            wall = np.abs(surface.distance) < _HALF_BILAYER
            instance = self.packing.claim_region(wall, surface.corner_px, clip_slab=True)
            if instance:
                break
        else:
            return
        self.classes[instance] = "membrane"
        contrast = float(self.rng.uniform(*self.config.contrast))
        self.lipids.append(_Lipid(surface, float(self.rng.uniform(*config.head_distance)), contrast))
        if is_lined:
            self._line(surface)
        self._stand_proteins(surface, instance, config, structures)

    def _stand_proteins(
        self,
        surface: Surface,
        instance: int,
        config: MembraneConfig,
        structures: Sequence[Macromolecule],
    ) -> None:
        """Stand membrane proteins on a surface, axis along the normal, on either side."""
        surface = self._in_slab(surface)
        wanted = int(surface_area(surface) / 1e4 * self.rng.uniform(*config.proteins))
        share = self.config.file_share
        species = [
            draw_membrane_protein(self.rng, structures, share) for _ in range(_count(self.rng, (1, 3)))
        ]
        self.in_membranes |= {id(one) for one in species}
        inward = float(self.rng.uniform(*config.inward))
        for _ in range(8):  # what overlapped is drawn again
            if wanted <= 0:
                break
            points, normals = surface_points(self.rng, surface, wanted)
            side = np.where(self.rng.random(len(points)) < inward, -1.0, 1.0)
            rotations = rotations_along(self.rng, side[:, None] * normals)
            kind = self.rng.integers(len(species), size=len(points))
            for i, one in enumerate(species):
                placed = self.packing.place(
                    self.template(one), rotations[kind == i], points[kind == i], allowed=instance
                )
                wanted -= int(placed.sum())

    def _in_slab(self, surface: Surface) -> Surface:
        """The part of a surface that the slab holds."""
        first = max(surface.corner_px[0], self.slab.planes[0])
        last = min(surface.corner_px[0] + len(surface.distance), self.slab.planes[1])
        planes = slice(first - surface.corner_px[0], max(first, last) - surface.corner_px[0])
        corner = (first, *surface.corner_px[1:])
        return replace(surface, distance=surface.distance[planes], corner_px=corner)

    def _line(self, surface: Surface) -> None:
        """Coat the inner side of a membrane with one protein, as matrix and capsid proteins do."""
        unit = procedural_macromolecule(self.rng, mass_kda=float(self.rng.uniform(25, 60)), name="lining")
        spacing = 1.15 * unit.volume ** (1 / 3)
        level = -(_HALF_BILAYER + unit.radius)  # clear of the bilayer in any orientation
        points, normals = surface_spread(self.rng, self._in_slab(surface), spacing, level=level)
        self.packing.place(self.template(unit), rotations_along(self.rng, normals), points)

    def add_filament(self, config: FilamentConfig, units: Sequence[Macromolecule]) -> None:
        """Claim a filament, a bundle or a network."""
        self.add_assembly(
            config.kind, lambda: draw_filaments(self.rng, config, self.slab, units, self._is_free)
        )

    def add_assembly(self, name: str, draw: Callable[[], list[Filament]]) -> None:
        """Claim filaments or a shell, each as one instance; nothing if no place is found."""
        for _ in range(_TRIES):
            try:
                drawn = draw()
            except InputError:
                raise
            except ValueError:  # a shape that cannot be
                continue
            instances = [self._place_filament(filament) for filament in drawn]
            self.classes |= {instance: name for instance in instances if instance}
            if any(instances):
                return

    def _is_free(self, points_zyx: NDArray[np.float64]) -> bool:
        return self.packing.is_free(self._to_px(points_zyx))

    def _place_filament(self, filament: Filament) -> int:
        for strand in filament:  # one contrast for all of a filament: subunits differ by structure only
            self.template(strand.unit)
            self.contrast[id(strand.unit)] = self.contrast[id(filament[0].unit)]
        parts = [(self.template(s.unit), s.rotations, self._to_px(s.positions_zyx)) for s in filament]
        return self.packing.place_assembly(parts)

    def _to_px(self, positions_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
        return positions_zyx / self.config.voxel_size + np.array(self.config.shape) // 2

    def add_clutter(self, config: ClutterConfig) -> None:
        """Claim pieces of clutter."""
        for _ in range(_count(self.rng, config.count)):
            for _ in range(_TRIES):
                place = {"voxel_size": self.slab.voxel_size, "slab": self.slab.planes}
                radius = {} if config.radius is None else {"radius": config.radius}
                try:
                    blob = _CLUTTER[config.kind](self.rng, self.slab.shape, **place, **radius)
                except ValueError:  # no room for it in this slab
                    continue
                instance = self.packing.claim_region(blob.occupied, blob.corner_px, anywhere=True)
                if instance:
                    self.classes[instance] = blob.name
                    self.blobs.append(blob)
                    break

    def fill(
        self, structures: Sequence[Macromolecule], on_progress: Callable[[float, str], None]
    ) -> tuple[float, float]:
        """Place species, large before small, up to the drawn occupancy; return what was reached and asked."""
        rng, packing = self.rng, self.packing
        species = draw_species(rng, self.config, structures, _count(rng, self.config.species))
        asked = float(rng.uniform(*self.config.occupancy)) if species else 0.0
        start = packing.taken
        target = asked * packing.slab_voxels
        species = sorted(species, key=lambda item: -item[0].radius)
        for _ in range(_ROUNDS):  # again for what found no room in its turn
            before, left = packing.taken, sum(share for _, share in species)
            for molecule, share in species:
                budget = (start + target - packing.taken) * share / max(left, 1e-12)
                left -= share
                self._place_species(molecule, budget)
                done = (packing.taken - start) / max(target, 1.0)
                on_progress(0.9 * min(1.0, done), f"placing {molecule.name}")
            if (
                packing.taken - before < _WORTH_A_ROUND * packing.slab_voxels
                or packing.taken >= start + target
            ):
                break
        if species and packing.taken == start and target > 0:  # less than half a copy of each
            self._place_species(species[-1][0], self.template(species[-1][0]).n_voxels)
        return (packing.taken - start) / packing.slab_voxels, asked

    def _place_species(self, molecule: Macromolecule, budget: float) -> None:
        """Place copies worth ``budget`` voxels, a share of the species in clusters."""
        template, rng = self.template(molecule), self.rng
        count = max(0, round(budget / template.n_voxels))
        if rng.random() < self.config.cluster_share:
            radius = float(rng.uniform(*self.config.cluster_radius)) / self.config.voxel_size
            in_cluster = max(1.0, 0.2 * 4 / 3 * np.pi * radius**3 / template.n_voxels)
            middles = self._anywhere(int(np.ceil(count / in_cluster)))
            count -= self.packing.place_at_random(
                rng, template, count, draw_places=lambda n: self._around(middles, radius, n)
            )
        if count > 0:
            room = self.packing.slab_voxels - self.packing.taken
            self.packing.place_at_random(rng, template, count, compact=budget > _DENSE * room)

    def _anywhere(self, n: int) -> NDArray[np.float64]:
        low, high = (self.slab.planes[0], 0, 0), (self.slab.planes[1], *self.config.shape[1:])
        return self.rng.uniform(low, high, (n, 3))

    def _around(self, middles: NDArray[np.float64], radius: float, n: int) -> NDArray[np.float64]:
        chosen = middles[self.rng.integers(len(middles), size=n)]
        return chosen + self.rng.normal(0, radius / 2, (n, 3))

    def finish(self, reached: float, asked: float) -> Specimen:
        """Render everything and gather the poses."""
        density = torch.zeros(self.config.shape, device=self.device)
        species = self.packing.poses_by_species()
        for poses in species:
            key = id(poses.template.molecule)
            paste_potential(
                density, poses.template, poses.rotations, poses.positions_px,
                contrast=self.contrast[key], periodic=self.packing.periodic,
            )  # fmt: skip
        covered = self._covered(species) if self.lipids else density
        for lipid in self.lipids:
            self._add_bilayer(density, covered, lipid)
        for blob in self.blobs:
            box = _box(density, blob.corner_px, blob.potential.shape)
            box.add_(torch.as_tensor(_blurred(blob.potential), device=self.device))
        blur = float(self.rng.uniform(*self.config.blur)) / self.config.voxel_size
        density = gaussian_lowpass(density, max(blur**2 - BLUR_PER_VOXEL**2, 0.0) ** 0.5)
        placements = self._placements(species)
        classes = {p.instance: p.species.name for p in placements} | self.classes
        instances = self.packing.instances.cpu().numpy()
        return Specimen(
            density, instances, classes, placements, self.config.voxel_size, self.slab.planes, reached, asked
        )

    def _covered(self, species: Sequence[Poses]) -> Tensor:
        """Potential of all membrane proteins, each at its own contrast of 1."""
        plain = torch.zeros(self.config.shape, device=self.device)
        for poses in species:
            if id(poses.template.molecule) in self.in_membranes:
                paste_potential(
                    plain, poses.template, poses.rotations, poses.positions_px, periodic=self.packing.periodic
                )
        return plain

    def _add_bilayer(self, density: Tensor, covered: Tensor, lipid: _Lipid) -> None:
        """Add a bilayer where no protein stands in place of it, inside the slab."""
        surface = lipid.surface
        profile = lipid.contrast * bilayer_profile(
            surface.distance, head_distance=lipid.head_distance, voxel_size=surface.voxel_size
        )
        planes = np.arange(len(profile)) + surface.corner_px[0]
        profile[(planes < self.slab.planes[0]) | (planes >= self.slab.planes[1])] = 0
        free = 1 - (_box(covered, surface.corner_px, profile.shape) / PROTEIN_CONTRAST).clamp(0, 1)
        lipids = torch.as_tensor(_blurred(profile), device=self.device) * free
        _box(density, surface.corner_px, profile.shape).add_(lipids)

    def _placements(self, species: Sequence[Poses]) -> list[Placement]:
        centre = np.array(self.config.shape) // 2
        placements = []
        for poses in species:
            positions = (
                poses.positions_px.cpu().numpy().astype(np.float64) - centre
            ) * self.config.voxel_size
            rotations = poses.rotations.cpu().numpy().astype(np.float64)
            molecule = poses.template.molecule
            in_membrane = id(molecule) in self.in_membranes
            for position, rotation, instance in zip(
                positions, rotations, poses.instances.tolist(), strict=True
            ):
                placements.append(Placement(molecule, position, rotation, instance, in_membrane))
        return placements


def _blurred(potential: NDArray[np.float32]) -> NDArray[np.float32]:
    """Potential on voxels with the blur that templates have."""
    blurred: NDArray[np.float32] = gaussian_filter(potential, BLUR_PER_VOXEL, mode="nearest", truncate=6)
    return blurred


def _box(volume: Tensor, corner: tuple[int, int, int], shape: tuple[int, ...]) -> Tensor:
    """The part of a volume that a box covers, as a view."""
    (z, y, x), (depth, height, width) = corner, shape
    return volume[z : z + depth, y : y + height, x : x + width]
