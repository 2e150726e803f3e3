"""One tomogram of a benchmark as every method sees it: files in a folder, and the facts beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.ctf import Optics
from cryomend.evaluation import Areas, Template, read_areas
from cryomend.evaluation.areas import write_areas
from cryomend.io import (
    InputError,
    read_stack,
    read_volume,
    write_json,
    write_tilt_angles,
    write_volume,
)
from cryomend.reconstruction import reconstruct_wbp
from cryomend.specimen.macromolecule import Macromolecule, template_grid

__all__ = ["LAYOUT", "Case", "Particles", "open_case", "read_case", "standardise_tilts", "write_case"]

LAYOUT = 2  # of the files; a case of another is made anew
_FACTS = "case.json"
_STACKS = ("tilts", "first", "second")


@dataclass(frozen=True)
class Case:
    """Data of one tomogram; protein is dark in everything but ``truth.mrc``.

    The folder holds ``tilts.mrc`` (aligned tilts of zero mean and unit deviation), ``angles.tlt``,
    ``whole.mrc``, ``even.mrc`` and ``odd.mrc`` (their WBP, and that of the halves), and where there are
    any ``first.mrc`` and ``second.mrc`` (tilts of the even and odd frames, scaled like the whole),
    ``truth.mrc`` (potential in V), ``areas.toml`` and ``template.mrc`` (of the particle ``sought``: its
    ``species``, ``diameter`` in Å, and where its copies are, ``voxels_zyx``). ``source`` names the
    stack as recorded, its angles and the binning, for `cryomend train --for`; ``digest`` changes with
    whatever the case was made from.
    """

    name: str
    folder: Path
    shape: tuple[int, int, int]
    voxel_size: float
    tilt_angles: NDArray[np.float64]
    defocus_um: float | None
    optics: Optics | None
    source: Mapping[str, Any]
    digest: str
    sought: Mapping[str, Any] | None = None

    @property
    def tilt_range(self) -> tuple[float, float]:
        """Extreme tilts, degrees."""
        return float(self.tilt_angles.min()), float(self.tilt_angles.max())

    def path(self, name: str) -> Path:
        """File of a volume or stack."""
        return self.folder / f"{name}.mrc"

    def has(self, name: str) -> bool:
        """Whether the case has such a volume or stack."""
        return self.path(name).is_file()

    def read(self, name: str) -> Tensor:
        """Read a volume (Z, Y, X) or stack (tilt, Y, X)."""
        return torch.from_numpy((read_stack if name in _STACKS else read_volume)(self.path(name)).data)

    def truth(self) -> Tensor | None:
        """The potential in V, if it is known."""
        return self.read("truth") if self.has("truth") else None

    def areas(self) -> Areas | None:
        """Foreground and background areas, if there are any."""
        path = self.folder / "areas.toml"
        return read_areas(path) if path.is_file() else None

    def particles(self) -> Particles | None:
        """What is looked for and where it is, if that is known."""
        if self.sought is None:
            return None
        density = read_volume(self.path("template"), minimum_size=3)
        template = Template(
            self.sought["species"],
            torch.from_numpy(density.data),
            density.voxel_size,
            self.sought["diameter"],
        )
        return Particles(template, np.array(self.sought["voxels_zyx"]))


@dataclass(frozen=True)
class Particles:
    """A template and where its copies are: (n, 3), voxels ZYX."""

    template: Template
    voxels: NDArray[np.float64]

    @classmethod
    def of(cls, molecule: Macromolecule, voxels: NDArray[np.float64], voxel_size: float) -> Particles:
        """Copies of a macromolecule in a tomogram of ``voxel_size`` Å."""
        density, spacing = template_grid(molecule, voxel_size=voxel_size)
        return cls(Template(molecule.name, density, spacing, 2 * molecule.radius), voxels)


def standardise_tilts(images: Tensor, like: Tensor | None = None) -> Tensor:
    """Tilts (tilt, Y, X) of zero mean, over the deviation of each tilt of ``like`` (themselves if None)."""
    std = (images if like is None else like).std(dim=(1, 2), keepdim=True)
    return (images - images.mean(dim=(1, 2), keepdim=True)) / std.clamp(min=1e-12)


def open_case(folder: Path) -> None:
    """Make the folder of a case; one that stood there is complete no more."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FACTS).unlink(missing_ok=True)


def write_case(
    folder: Path,
    *,
    tilts: Tensor,
    halves: tuple[Tensor, Tensor] | None,
    tilt_angles: NDArray[np.float64],
    thickness: int,
    facts: Mapping[str, Any],
    truth: Tensor | None = None,
    areas: Areas | None = None,
    particles: Particles | None = None,
) -> Case:
    """Reconstruct and write a case; the facts come last, so that a case which has them is complete.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    tilts : Tensor, shape (tilt, Y, X)
        Aligned images of zero mean, protein dark.
    halves : tuple of two Tensor, or None
        The same of the even and odd frames; without, the halves are every other tilt.
    tilt_angles : array, shape (tilt,)
        Degrees.
    thickness : int
        Planes of the tomogram.
    facts : mapping
        ``voxel_size`` in Å, ``defocus_um``, ``optics``, ``source``, ``digest``, and what else is to be kept.
    truth : Tensor, shape (thickness, Y, X), optional
        Potential in V.
    areas : Areas, optional
        To be scored.
    particles : Particles, optional
        To be looked for.

    Returns
    -------
    Case

    Raises
    ------
    cryomend.io.InputError
        If the folder cannot be written.
    """
    open_case(folder)
    for name in ("first.mrc", "second.mrc", "truth.mrc", "areas.toml", "template.mrc"):
        (folder / name).unlink(missing_ok=True)
    size = float(facts["voxel_size"])
    _write(folder / "tilts.mrc", tilts, size, stack=True)
    write_tilt_angles(folder / "angles.tlt", tilt_angles)
    _write(folder / "whole.mrc", reconstruct_wbp(tilts, tilt_angles, thickness=thickness), size)
    if halves is None:
        order = np.argsort(
            tilt_angles, kind="stable"
        )  # stacks in the order of recording would give two sides
        parts = [(tilts[torch.from_numpy(order[i::2])], tilt_angles[order[i::2]]) for i in (0, 1)]
    else:
        parts = [(half, tilt_angles) for half in halves]
        for name, half in zip(("first", "second"), halves, strict=True):
            _write(folder / f"{name}.mrc", half, size, stack=True)
    for name, (images, angles) in zip(("even", "odd"), parts, strict=True):
        _write(folder / f"{name}.mrc", reconstruct_wbp(images, angles, thickness=thickness), size)
    if truth is not None:
        _write(folder / "truth.mrc", truth, size)
    if areas is not None:
        write_areas(folder / "areas.toml", areas)
    sought = None
    if particles is not None:
        template = particles.template
        _write(folder / "template.mrc", template.density, template.voxel_size)
        sought = {
            "species": template.name, "diameter": template.diameter, "voxels_zyx": particles.voxels.tolist()
        }  # fmt: skip
    optics = facts.get("optics")
    made = {
        "shape": (thickness, *tilts.shape[1:]),
        "optics": None if optics is None else asdict(optics),
        "sought": sought,
    }
    write_json(folder / _FACTS, {**facts, **made})
    return read_case(folder)


def _write(path: Path, volume: Tensor, voxel_size: float, *, stack: bool = False) -> None:
    write_volume(path, volume.cpu().numpy(), voxel_size=voxel_size, stack=stack)


def read_case(folder: Path) -> Case:
    """Read the facts of a case; its volumes are read when a method asks for them.

    Raises
    ------
    cryomend.io.InputError
        If the folder holds no complete case.
    """
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        angles = np.loadtxt(folder / "angles.tlt", ndmin=1)
        optics = facts["optics"]
        return Case(
            folder.name,
            folder,
            tuple(facts["shape"]),
            float(facts["voxel_size"]),
            angles,
            facts["defocus_um"],
            None if optics is None else Optics(**optics),
            facts["source"],
            facts["digest"],
            facts.get("sought"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no complete case of a benchmark; delete it and run again") from error
