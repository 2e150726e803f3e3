"""A specimen on disk: density, labels, poses in RELION's words, a preview, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import cryomend
from cryomend.config import SpecimenConfig, dump_config
from cryomend.io import InputError, atomic_path, check_folder, write_json, write_text, write_volume
from cryomend.specimen.build import Placement, Specimen, build_specimen
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.structure import find_structures

__all__ = ["build_to_folder", "write_particles", "write_specimen"]

_SHORTFALL = 0.01  # of the slab, below what was asked, that is worth an error


def build_to_folder(
    config: SpecimenConfig,
    directory: Path,
    *,
    seed: int,
    structures: Sequence[str] = (),
    membrane_structures: Sequence[str] = (),
    device: torch.device | str | None = None,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
) -> str:
    """Build one specimen, write it and its resolved configuration; return a line that says what it holds.

    Parameters
    ----------
    config : SpecimenConfig
        Ranges to draw from.
    directory : Path
        Where density.mrc, instances.mrc, classes.json, particles.star, preview.png, config.yaml go.
    seed : int
        Equal seeds give equal files on one device.
    structures, membrane_structures : sequence of str
        Files, folders or identifiers, see `find_structures`.
    device : torch.device or str, optional
        Where it is built.
    on_progress : callable
        Told the share done and what is being done.

    Raises
    ------
    cryomend.io.InputError
        If a structure cannot be used, is larger than the volume, or the folder cannot be written; also,
        after everything has been written, if less than the least occupancy asked for found a place.
    """
    check_folder(directory)
    given, in_membranes = find_structures(structures), find_structures(membrane_structures, in_membrane=True)
    for one in [*given, *in_membranes]:
        _refuse_if_too_large(one, config)
    specimen = build_specimen(
        config,
        rng=np.random.default_rng(seed),
        structures=given,
        membrane_structures=in_membranes,
        device=device,
        on_progress=on_progress,
    )
    write_specimen(directory, specimen)
    files = " ".join([*map(str, structures), *map(str, membrane_structures)]) or "none"
    comment = f"cryomend {cryomend.__version__}, seed {seed}, structure files: {files}"
    write_text(directory / "config.yaml", dump_config(config, comment=comment))
    if specimen.occupancy < min(specimen.occupancy_asked, config.occupancy[0]) - _SHORTFALL:
        raise InputError(
            f"{directory}: nothing more fits at an occupancy of {specimen.occupancy:.3f} of the "
            f"{config.occupancy[0]:.3f} asked for; the specimen is written as far as it was packed, ask "
            "for less, for smaller species (mass_kda) or for a higher volume (--shape)"
        )
    share = float((specimen.instances > 0).mean())
    return (
        f"wrote {directory}: {len(specimen.placements)} molecules, {100 * specimen.occupancy:.1f} % of the "
        f"slab; {100 * share:.1f} % of the volume is taken"
    )


def _refuse_if_too_large(molecule: Macromolecule, config: SpecimenConfig) -> None:
    smallest = min(config.shape) * config.voxel_size
    if 2 * molecule.radius > smallest:
        raise InputError(
            f"{molecule.name}: {2 * molecule.radius:.0f} Å across, larger than the volume's "
            f"{smallest:.0f} Å; make the volume (--shape) larger or leave the structure out"
        )


def write_specimen(directory: Path, specimen: Specimen) -> None:
    """Write density.mrc, instances.mrc, classes.json, particles.star and preview.png into a folder."""
    directory.mkdir(parents=True, exist_ok=True)
    write_volume(directory / "density.mrc", specimen.density.cpu().numpy(), voxel_size=specimen.voxel_size)
    write_volume(
        directory / "instances.mrc", specimen.instances.astype(np.float32), voxel_size=specimen.voxel_size
    )
    write_json(directory / "classes.json", {str(k): v for k, v in sorted(specimen.classes.items())})
    write_particles(directory / "particles.star", specimen.placements)
    _draw_preview(directory / "preview.png", specimen)


def write_particles(path: Path, placements: Sequence[Placement]) -> None:
    """Write poses with RELION-5's names: coordinates from the tomogram centre in Å, Euler angles ZYZ.

    RELION's matrix A(rot, tilt, psi) carries the reference onto the particle and is the inverse of the
    intrinsic ZYZ rotation by its angles; it acts on XYZ columns.
    """
    import pandas
    import starfile
    from scipy.spatial.transform import Rotation

    matrices = np.array([p.rotation_matrix[::-1, ::-1] for p in placements]).reshape(-1, 3, 3)
    angles = np.zeros((0, 3))
    if len(matrices):
        angles = Rotation.from_matrix(matrices.transpose(0, 2, 1)).as_euler("ZYZ", degrees=True)
    positions = np.array([p.position_zyx for p in placements]).reshape(-1, 3)
    table = pandas.DataFrame(
        {
            "rlnTomoName": ["specimen"] * len(placements),
            "rlnCenteredCoordinateXAngst": positions[:, 2],
            "rlnCenteredCoordinateYAngst": positions[:, 1],
            "rlnCenteredCoordinateZAngst": positions[:, 0],
            "rlnAngleRot": angles[:, 0],
            "rlnAngleTilt": angles[:, 1],
            "rlnAnglePsi": angles[:, 2],
            "rlnTomoParticleName": [
                f"{p.species.name}/{p.instance}/{row}" for row, p in enumerate(placements, start=1)
            ],
        }
    )
    text = "".join(starfile.to_string({"particles": table}))
    body = text[text.index("data_particles") :]  # without the time of day: equal seeds give equal bytes
    write_text(path, f"# cryomend {cryomend.__version__}\n\n{body}")


def _draw_preview(path: Path, specimen: Specimen) -> None:
    """The central x-y slice above the central x-z slice, protein dark."""
    from matplotlib.figure import Figure

    density = specimen.density.cpu().numpy()
    depth, height, width = density.shape
    figure = Figure(figsize=(6, 6 * (height + depth) / width), dpi=120)
    top = max(float(np.percentile(density, 99.5)), 1e-3)
    axes = figure.subplots(2, 1, height_ratios=[height, depth])
    for ax, image, name in zip(axes, (density[depth // 2], density[:, height // 2]), ("y", "z"), strict=True):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=top, origin="lower")
        ax.set(xlabel="x (voxels)", ylabel=f"{name} (voxels)")
    figure.tight_layout()
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png")
