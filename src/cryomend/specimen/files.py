"""A specimen on disk: density, labels, poses in RELION's words, a preview."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryomend.io import atomic_path, write_json, write_volume
from cryomend.specimen.build import Specimen

__all__ = ["write_specimen"]


def write_specimen(directory: Path, specimen: Specimen) -> None:
    """Write density.mrc, instances.mrc, classes.json, particles.star and preview.png into a folder."""
    directory.mkdir(parents=True, exist_ok=True)
    write_volume(directory / "density.mrc", specimen.density.cpu().numpy(), voxel_size=specimen.voxel_size)
    write_volume(
        directory / "instances.mrc", specimen.instances.astype(np.float32), voxel_size=specimen.voxel_size
    )
    write_json(directory / "classes.json", {str(k): v for k, v in sorted(specimen.classes.items())})
    _write_particles(directory / "particles.star", specimen)
    _draw_preview(directory / "preview.png", specimen)


def _write_particles(path: Path, specimen: Specimen) -> None:
    """Poses with RELION-5's names: coordinates from the tomogram centre in Å, Euler angles ZYZ.

    RELION's matrix A(rot, tilt, psi) carries the reference onto the particle and is the inverse of the
    intrinsic ZYZ rotation by its angles; it acts on XYZ columns.
    """
    import pandas
    import starfile
    from scipy.spatial.transform import Rotation

    placements = specimen.placements
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
            "rlnTomoParticleName": [f"{p.species.name}/{p.instance}" for p in placements],
        }
    )
    with atomic_path(path) as partial:
        starfile.write({"particles": table}, partial)


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
