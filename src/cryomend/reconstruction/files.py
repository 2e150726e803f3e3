"""From a stack on disk to a tomogram on disk, in slabs that bound the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import ReconstructionConfig
from cryomend.io import (
    InputError,
    Volume,
    check_writable,
    mapped_volume,
    open_stack,
    refuse_overwriting,
    release_pages,
    scratch_array,
)
from cryomend.projection import interpolate_rays
from cryomend.ray_kernels import BLOCK
from cryomend.reconstruction.deconvolve import deconvolve_tomogram
from cryomend.reconstruction.iterate import reconstruct_sart, reconstruct_sirt
from cryomend.reconstruction.prepare import Preparation, plan_preparation
from cryomend.reconstruction.slabs import SlabPlan, plan_slabs
from cryomend.reconstruction.wbp import radial_weights, weight_rows
from cryomend.reconstruction.x_tilt import cut_tilted_slab, resample_tilted

__all__ = ["name_halves", "reconstruct_file"]

Progress = Callable[[float, str], None]


def reconstruct_file(
    stack: Path,
    output: Path,
    *,
    thickness: int,
    config: ReconstructionConfig,
    tilt_angles: Path | None = None,
    alignment: Path | None = None,
    ctf: Path | None = None,
    doses: Path | None = None,
    even: Path | None = None,
    odd: Path | None = None,
    deconvolve: bool = False,
    device: torch.device | str = "cpu",
    on_progress: Progress = lambda share, text: None,
) -> list[str]:
    """Reconstruct a tilt series.

    Each image is brought to zero mean and unit standard deviation, so that exposures of different
    strength weigh alike; then dose-weighted, aligned, binned and phase-flipped as asked; the tomogram
    keeps the images' contrast sign. The volume is written slab by slab where it lies on disk.

    Parameters
    ----------
    stack : Path
        MRC tilt series, aligned (axis along Y through pixel ``n // 2``) unless ``alignment`` says how.
    output : Path
        MRC tomogram (Z, Y, X), float32.
    thickness : int
        Voxels along Z, after binning.
    config : ReconstructionConfig
        Method and options.
    tilt_angles : Path, optional
        List of angles; that of ``alignment`` if None.
    alignment, ctf, doses : Path, optional
        .xf or .aln; defocus of every tilt, to flip phases; exposures, to weight by.
    even, odd : Path, optional
        Stacks of even and odd frames, reconstructed alike into ``OUTPUT_EVN`` and ``OUTPUT_ODD``;
        scaled like the whole, they add up to it where their stacks do.
    deconvolve : bool
        Filter the tomogram by its CTF in the end (it is then held in memory).
    device : torch.device or str
        Where it runs.
    on_progress : callable
        Told the share that is done and what is being done.

    Returns
    -------
    list of str
        What the user should know, one line each.

    Raises
    ------
    cryomend.io.InputError
        If a file cannot be read or does not fit the stack, the pixel size is missing, an output would
        overwrite an input, or the memory limit is too small.
    """
    if thickness < 1:
        raise InputError(f"--thickness must be at least 1 voxel, got {thickness}")
    if (even is None) != (odd is None):
        raise InputError("--even and --odd belong together; give both stacks")
    sources = [stack] if even is None or odd is None else [stack, even, odd]
    outputs = _outputs_of(output, halves=len(sources) > 1)
    refuse_overwriting(outputs, [*sources, tilt_angles, alignment, ctf, doses])
    stacks = [open_stack(path, pixel_size=config.pixel_size) for path in sources]
    _check_stacks(stacks)
    plan = plan_preparation(
        stacks[0],
        config=config,
        angles_path=tilt_angles,
        alignment_path=alignment,
        ctf_path=ctf,
        dose_path=doses,
    )
    if np.abs(plan.tilt_angles).max() > 90:
        raise InputError(f"--tilt-offset {config.tilt_offset:g} moves tilt angles beyond ±90 degrees")
    defocus = _defocus_to_deconvolve(plan, config) if deconvolve else None
    slabs = plan_slabs(
        (_depth_in_work(thickness, plan.shape[0], config), *plan.shape),
        tilts=len(plan.sections),
        iterative=config.method != "wbp",
        memory_limit=config.memory_limit,
    )
    for number, (one, place) in enumerate(zip(stacks, outputs, strict=True)):
        label = f"cryomend reconstruct {config.method}, {len(plan.sections)} tilts"
        shape = (thickness, *plan.shape)
        with (
            mapped_volume(place, shape, voxel_size=plan.pixel_size, label=label) as volume,
            _prepared(one, stacks[0], plan, config, thickness, slabs, place, device) as images,
        ):
            for rows in slabs.slabs():
                on_progress((number + rows[0] / slabs.height) / len(stacks), f"rows {rows[0]} to {rows[1]}")
                _reconstruct_slab(images, rows, volume, plan.tilt_angles, config, device)
                release_pages(volume)
            if defocus is not None:
                on_progress((number + 1) / len(stacks), "deconvolution")
                volume[:] = deconvolve_tomogram(
                    torch.from_numpy(np.array(volume)),
                    voxel_size=plan.pixel_size,
                    defocus_um=defocus,
                    optics=plan.optics,
                    snr_falloff=config.snr_falloff,
                    strength=config.deconvolution_strength,
                    phase_flipped=plan.defocus is not None,
                ).numpy()
    on_progress(1.0, "written")
    return [*_notes(plan, len(stacks[0].data)), *_foreign_halves(output, outputs)]


def _foreign_halves(output: Path, outputs: list[Path]) -> list[str]:
    """What stands beside a tomogram under the names of its halves and is not of it."""
    there = [half for half in name_halves(output) if half not in outputs and half.exists()]
    return [f"{half} is of another reconstruction; delete it, or give --even and --odd" for half in there]


def _depth_in_work(thickness: int, height: int, config: ReconstructionConfig) -> int:
    """Planes that are held for each row: with a tilt about X, those of the untilted frame as well."""
    if config.x_tilt == 0:
        return thickness
    slab = cut_tilted_slab(
        (0, min(height, BLOCK)),
        height=height,
        thickness=thickness,
        centre_z=thickness // 2 + config.z_shift,
        x_tilt=config.x_tilt,
        whole_depth=config.method != "wbp",
    )
    return thickness + slab.depth


def name_halves(output: Path) -> list[Path]:
    """Name the tomograms of the even and the odd frames beside that of all."""
    return [output.with_name(f"{output.stem}_{half}{output.suffix}") for half in ("EVN", "ODD")]


def _outputs_of(output: Path, *, halves: bool) -> list[Path]:
    """The tomograms to write, checked now and not after an hour."""
    outputs = [output]
    if halves:
        outputs += name_halves(output)
    for place in outputs:
        check_writable(place)
    return outputs


def _check_stacks(stacks: list[Volume]) -> None:
    """Refuse stacks without a pixel size and halves of another shape."""
    first = stacks[0]
    if first.voxel_size <= 0:
        raise InputError(f"{first.path} has pixel size 0 in its header; pass --pixel-size with the size in Å")
    for one in stacks:
        if one.data.shape != first.data.shape:
            raise InputError(
                f"{one.path} has shape {one.data.shape} but {first.path} has {first.data.shape}; "
                "halves are of the same images"
            )


def _defocus_to_deconvolve(plan: Preparation, config: ReconstructionConfig) -> float:
    """Defocus for the whole tomogram: given, or that of the smallest tilt."""
    if config.defocus_um is not None:
        return config.defocus_um
    if plan.defocus is None:
        raise InputError("--deconvolve needs the defocus: pass --correct-ctf FILE or --defocus in µm")
    return float(plan.defocus.defocus_um[np.abs(plan.tilt_angles).argmin()])


@contextmanager
def _prepared(
    stack: Volume,
    like: Volume,
    plan: Preparation,
    config: ReconstructionConfig,
    thickness: int,
    slabs: SlabPlan,
    output: Path,
    device: torch.device | str,
) -> Iterator[NDArray[np.float32]]:
    """Yield the images (tilt, Y, X) that are back-projected; on disk beside the output if need be."""
    shape = (len(plan.sections), *plan.shape)
    with scratch_array(output.parent if slabs.images_on_disk else None, shape, np.float32) as images:
        weights = None
        if config.method == "wbp":
            weights = radial_weights(
                plan.tilt_angles,
                shape[2],
                cutoff=config.cutoff,
                falloff=config.falloff,
                hamming_from=config.hamming_from,
                sirt_iterations=config.sirt_like_iterations,
                thickness=thickness if config.weighting == "exact" else None,
                device=device,
            )
        for i, image in enumerate(plan.prepare(stack, like, device)):
            if weights is not None:
                image = weight_rows(image[None] - image.mean(), weights[i : i + 1])[0]
            images[i] = image.cpu().numpy()
            release_pages(stack.data)
        if not images.any():
            raise InputError(f"{stack.path} is constant in every image; is it the right file?")
        yield images


def _reconstruct_slab(
    images: NDArray[np.float32],
    rows: tuple[int, int],
    volume: NDArray[np.float32],
    tilt_angles: NDArray[Any],
    config: ReconstructionConfig,
    device: torch.device | str,
) -> None:
    """Fill the rows of the volume."""
    thickness, height, _ = volume.shape
    centre_z = thickness // 2 + config.z_shift
    slab_of_volume = torch.from_numpy(volume[:, rows[0] : rows[1]])
    if config.x_tilt == 0:
        part = torch.from_numpy(images[:, rows[0] : rows[1]]).to(device)
        if config.method == "wbp":  # straight to where the volume lies
            interpolate_rays(part, tilt_angles, depth=thickness, centre_z=centre_z, out=slab_of_volume)
        else:
            slab_of_volume.copy_(_solve(part, tilt_angles, thickness, centre_z, config))
        return
    place = {"height": height, "thickness": thickness, "centre_z": centre_z, "x_tilt": config.x_tilt}
    slab = cut_tilted_slab(rows, **place, whole_depth=config.method != "wbp")
    part = torch.from_numpy(images[:, slab.first_row : slab.last_row]).to(device)
    source = _solve(part, tilt_angles, slab.depth, slab.centre_z, config)
    slab_of_volume.copy_(resample_tilted(source, slab, rows=rows, **place))


def _solve(
    images: Tensor, tilt_angles: NDArray[Any], depth: int, centre_z: float, config: ReconstructionConfig
) -> Tensor:
    """Reconstruct some rows by the method that is asked for."""
    if config.method == "wbp":
        return interpolate_rays(images, tilt_angles, depth=depth, centre_z=centre_z)
    if config.method == "sirt":
        return reconstruct_sirt(
            images,
            tilt_angles,
            depth=depth,
            iterations=config.iterations or 10,
            relaxation=config.relaxation or 1.0,
            tolerance=config.tolerance,
            non_negative=config.non_negative,
            centre_z=centre_z,
        )
    return reconstruct_sart(
        images,
        tilt_angles,
        depth=depth,
        iterations=config.iterations or 2,
        relaxation=config.relaxation or 0.3,
        subsets=config.subsets,
        tolerance=config.tolerance,
        non_negative=config.non_negative,
        centre_z=centre_z,
    )


def _notes(plan: Preparation, images: int) -> list[str]:
    """What was understood and may surprise."""
    notes = list(plan.notes)
    angles = plan.tilt_angles
    if len(plan.sections) < images:
        notes.append(f"{images - len(plan.sections)} of {images} images are left out by the alignment")
    if len(np.unique(angles)) < len(angles):
        repeated = len(angles) - len(np.unique(angles))
        notes.append(f"{repeated} tilt angles are repeated; images of one angle share its weight")
    steps = np.diff(angles)
    if not (np.all(steps >= 0) or np.all(steps <= 0)):
        notes.append("the tilt angles are not in order; they are taken as they belong to the images")
    return notes
