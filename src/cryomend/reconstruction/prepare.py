"""From a raw tilt series to images that can be back-projected: weighted, aligned, corrected, binned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.config import ReconstructionConfig
from cryomend.ctf import Optics
from cryomend.fourier import filter_fourier, shift_phase
from cryomend.io import (
    Alignment,
    InputError,
    TiltDefocus,
    Volume,
    find_tilt_angles,
    read_alignment,
    read_defocus,
    read_doses,
    read_image,
    read_tilt_angles,
)
from cryomend.io.angles import read_row_angles
from cryomend.reconstruction.align import align_images, bin_images, binned_shape, dose_weight
from cryomend.reconstruction.ctf_correction import correct_phase

__all__ = ["Preparation", "plan_preparation"]

_SAME = 1.0  # degrees by which two lists of the same images differ at most, but for one offset


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of a stack; arrays have one entry per image that is used.

    ``sections`` are the images' places in the stack, ``shape`` (Y, X) and ``pixel_size`` in Å those
    of the prepared images; ``notes`` say what the user should know, one line each.
    """

    sections: NDArray[np.int64]
    tilt_angles: NDArray[np.float64]
    shape: tuple[int, int]
    pixel_size: float
    raw_pixel_size: float
    bin: float
    alignment: Alignment | None
    doses: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    defocus: TiltDefocus | None
    optics: Optics
    defocus_hand: int
    axis_shift: float
    notes: tuple[str, ...] = ()

    def prepare(self, stack: Volume, like: Volume, device: torch.device | str) -> Iterator[Tensor]:
        """Yield the prepared images (Y, X), scaled by mean and deviation of the same image of ``like``.

        A half of a series is scaled like the whole, so that the halves' tomograms add up to it.
        """
        for place, section in enumerate(self.sections):
            image = torch.from_numpy(read_image(stack, int(section))).to(device)
            reference = image if like is stack else torch.from_numpy(read_image(like, int(section)))
            yield self._prepare_one(_standardise(image, reference), place)

    def _prepare_one(self, image: Tensor, place: int) -> Tensor:
        one = slice(place, place + 1)
        images = image[None]
        if self.doses is not None:
            images = dose_weight(
                images,
                self.doses[0][one],
                self.doses[1][one],
                pixel_size=self.raw_pixel_size,
                voltage_kv=self.optics.voltage_kv,
            )
        if self.alignment is not None:
            images = align_images(
                images,
                self.alignment.matrices[one],
                self.alignment.shifts_xy[one],
                output_shape=_aligned_shape((image.shape[0], image.shape[1]), self.alignment),
            )
        if self.axis_shift:  # now that the axis runs along Y
            shape = (images.shape[1], images.shape[2])
            images = filter_fourier(images, shift_phase(shape, (-self.axis_shift, 0.0), images.device))
        if self.bin != 1:
            images, _ = bin_images(images, self.bin)
        if self.defocus is not None:
            images = correct_phase(
                images,
                self.tilt_angles[one],
                pixel_size=self.pixel_size,
                defocus_um=self.defocus.defocus_um[one],
                optics=self.optics,
                astigmatism_um=self.defocus.astigmatism_um[one],
                astigmatism_angle=self.defocus.astigmatism_angle[one] + self._turn(place),
                phase_shift=self.defocus.phase_shift[one],
                defocus_hand=self.defocus_hand,
            )
        return images[0]

    def _turn(self, place: int) -> float:
        """Degrees by which the alignment turned an image, from X towards Y."""
        if self.alignment is None:
            return 0.0
        matrix = self.alignment.matrices[place]
        return math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))


def _standardise(image: Tensor, reference: Tensor) -> Tensor:
    """Zero mean, and the deviation of ``reference`` as the unit; a constant image becomes zero."""
    mean, std = reference.mean(), reference.std()
    if std <= 1e-6 * mean.abs():  # it says nothing; dividing would blow up its rounding
        return torch.zeros_like(image)
    return (image - image.mean()) / std.to(image.device)


def _aligned_shape(shape: tuple[int, int], alignment: Alignment) -> tuple[int, int]:
    """Aligned images keep the size, on its side when the axis lies nearer to X than to Y."""
    turned = abs(alignment.matrices[:, 0, 1]).mean() > abs(alignment.matrices[:, 0, 0]).mean()
    return (shape[1], shape[0]) if turned else shape


def plan_preparation(
    stack: Volume,
    *,
    config: ReconstructionConfig,
    angles_path: Path | None,
    alignment_path: Path | None,
    ctf_path: Path | None,
    dose_path: Path | None,
) -> Preparation:
    """Read the side files of a stack and make sure that they belong to it.

    Raises
    ------
    cryomend.io.InputError
        If a file cannot be read or speaks of other images, or no tilt angles are known.
    """
    alignment = None
    if alignment_path is not None:
        alignment = read_alignment(alignment_path, pixel_size=stack.voxel_size)
    sections = np.arange(len(stack.data))
    if alignment is not None:
        sections = _sections_of(alignment, alignment_path, stack)
    notes: list[str] = []
    if angles_path is None and (alignment is None or alignment.tilt_angles is None) and stack.path:
        angles_path = find_tilt_angles(stack.path)
        notes += [f"tilt angles from {angles_path}, which lies beside the stack"] if angles_path else []
    angles = _angles_of(angles_path, alignment, alignment_path, sections, stack)
    stage = angles  # without the offset that AreTomo has added
    if angles_path is None and alignment is not None:
        stage = angles - alignment.tilt_offset
    doses = None if dose_path is None else _doses_of(dose_path, stack, sections, stage, notes)
    defocus = None if ctf_path is None else _defocus_of(ctf_path, stack, sections, stage, notes)
    shape = (stack.data.shape[1], stack.data.shape[2])
    if alignment is not None:
        shape = _aligned_shape(shape, alignment)
    pixel_size = stack.voxel_size
    if config.bin != 1:
        kept, shape = binned_shape(shape, config.bin)
        pixel_size *= kept[1] / shape[1]
    return Preparation(
        sections=sections,
        tilt_angles=angles + config.tilt_offset,
        shape=shape,
        pixel_size=pixel_size,
        raw_pixel_size=stack.voxel_size,
        bin=config.bin,
        alignment=alignment,
        doses=doses,
        defocus=defocus,
        optics=_optics_of(defocus, config),
        defocus_hand=config.defocus_hand,
        axis_shift=config.axis_shift,
        notes=tuple(notes),
    )


def _sections_of(alignment: Alignment, path: Path | None, stack: Volume) -> NDArray[np.int64]:
    """The images that an alignment speaks of; it must fit the stack."""
    images = len(stack.data)
    sections = np.asarray(alignment.sections, dtype=np.int64)
    # an .aln says which images of the raw stack it speaks of; the others have a row for every image
    raw = alignment.raw_shape
    if raw is not None and raw != stack.data.shape:
        raise InputError(
            f"{path} aligns a stack of {_times(raw)} (images, Y, X) but {stack.path} has "
            f"{_times(stack.data.shape)}; give the raw stack that was aligned, with its dark images"
        )
    named = raw is not None or not np.array_equal(sections, np.arange(len(sections)))
    if not named and len(sections) != images:
        raise InputError(
            f"{path} aligns {len(sections)} images but {stack.path} has {images}; give the one of this stack"
        )
    if sections.max() >= images:
        raise InputError(
            f"{path} speaks of image {int(sections.max()) + 1} but {stack.path} has {images}; "
            "give the raw stack that was aligned, with its dark images"
        )
    return sections


def _angles_of(
    path: Path | None,
    alignment: Alignment | None,
    alignment_path: Path | None,
    sections: NDArray[np.int64],
    stack: Volume,
) -> NDArray[np.float64]:
    """Angles of the images that are used: those of the list, else those of the alignment."""
    aligned = None if alignment is None else alignment.tilt_angles
    if path is None:
        if aligned is None:
            raise InputError(f"no tilt angles for {stack.path}; pass --tilt-angles FILE")
        return aligned
    listed, images = read_tilt_angles(path), len(stack.data)
    if len(listed) not in (images, len(sections)):
        raise InputError(
            f"{path} has {len(listed)} angles but {stack.path} has {images} images; "
            "give the list of this stack"
        )
    used = listed[sections] if len(listed) == images else listed
    # AreTomo adds one offset to all angles; more than that means another stack, or another order
    if aligned is not None and np.ptp(used - aligned) > _SAME:
        raise InputError(
            f"the angles of {path} and {alignment_path} do not belong together: they differ by "
            f"{np.min(used - aligned):.1f} to {np.max(used - aligned):.1f} degrees; give the list of the "
            "raw stack"
        )
    return used


def _doses_of(
    path: Path, stack: Volume, sections: NDArray[np.int64], stage: NDArray[np.float64], notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exposures before and of the images in use, whose stage had the angles ``stage``."""
    prior, exposure = read_doses(path)
    _require_rows(len(prior), path, stack)
    told = read_row_angles(path, ("rlnMicrographPreExposure",))
    rows = _rows_by_angle(told, sections, stage, path, stack, notes)
    return prior[rows], exposure[rows]


def _defocus_of(
    path: Path, stack: Volume, sections: NDArray[np.int64], stage: NDArray[np.float64], notes: list[str]
) -> TiltDefocus:
    """Defocus of the images in use; files without a row for the dark images fit as well."""
    images = len(stack.data)
    defocus = read_defocus(path, views=images)
    if defocus.last_view is not None and defocus.last_view <= len(sections) < images:
        raise InputError(
            f"{path} ends with view {defocus.last_view}, so it may count the dark images of {stack.path} or "
            f"not; number the views as in that stack and add a line for view {images}"
        )
    if defocus.last_view is not None and defocus.last_view < images:
        notes.append(
            f"{path.name} ends with view {defocus.last_view} of {images}; those behind it have its defocus"
        )
    rows = np.arange(len(sections))
    if len(defocus.defocus_um) != len(sections) or len(sections) == images:
        _require_rows(len(defocus.defocus_um), path, stack)
        rows = sections
    told = read_row_angles(path, ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"))
    rows = _rows_by_angle(told, rows, stage, path, stack, notes)
    return replace(
        defocus,
        defocus_um=defocus.defocus_um[rows],
        astigmatism_um=defocus.astigmatism_um[rows],
        astigmatism_angle=defocus.astigmatism_angle[rows],
        phase_shift=defocus.phase_shift[rows],
    )


def _optics_of(defocus: TiltDefocus | None, config: ReconstructionConfig) -> Optics:
    """What the CTF file says, else the configuration."""
    aberration, contrast = config.spherical_aberration_mm, config.amplitude_contrast
    if defocus is None:
        return Optics(config.voltage_kv, aberration, contrast)
    return Optics(
        defocus.voltage_kv or config.voltage_kv,
        # a corrected microscope has an aberration of 0
        aberration if defocus.spherical_aberration_mm is None else defocus.spherical_aberration_mm,
        contrast if defocus.amplitude_contrast is None else defocus.amplitude_contrast,
    )


def _require_rows(rows: int, path: Path, stack: Volume) -> None:
    """Refuse a file that has not one row per image."""
    if rows != len(stack.data):
        raise InputError(
            f"{path} has {rows} rows but {stack.path} has {len(stack.data)} images; "
            "give the file of this stack"
        )


def _rows_by_angle(
    told: NDArray[np.float64] | None,
    rows: NDArray[np.int64],
    stage: NDArray[np.float64],
    path: Path,
    stack: Volume,
    notes: list[str],
) -> NDArray[np.int64]:
    """Rows of a file that belong to the images in use: ``rows``, unless the angles ``told`` there differ.

    A stack sorted by tilt often has an .mdoc in the order of recording. Angles with the other sign, as some
    programs have them, are no other order; where it may be either, nothing is guessed.
    """
    if told is None or np.ptp(told[rows] - stage) <= _SAME:
        return rows
    nearest = _nearest_rows(told, stage)
    mirrored = np.abs(told[rows] + stage).max() <= 2 * _SAME  # neither list need be symmetric to a hair
    worst = int(np.abs(told[rows] - stage).argmax())
    where = (
        f"{stack.path}, whose image in use {worst + 1} has {stage[worst]:.1f} and not {told[rows][worst]:.1f}"
    )
    if nearest is None:
        if mirrored:
            return rows
        raise InputError(
            f"{path} lists other tilt angles than {where} degrees; "
            "give a file with one row per image in the order of this stack"
        )
    if mirrored:
        raise InputError(
            f"{path} lists in reverse, or with the other sign, the tilt angles of {where} degrees; "
            "give a file with the order and the signs of this stack"
        )
    if not np.array_equal(nearest, rows):
        notes.append(f"{path.name} lists the images in another order; its rows are matched by tilt angle")
    return nearest


def _nearest_rows(told: NDArray[np.float64], stage: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """The row of each image by its angle, or None where that does not tell the rows apart."""
    apart = np.abs(stage[:, None] - told)
    rows = apart.argmin(axis=1)
    far = apart.min(axis=1).max()
    step = np.diff(np.sort(told)).min(initial=np.inf)
    unsure = far > _SAME or 4 * far >= step  # an offset of half a step could be of either neighbour
    return None if unsure or len(np.unique(rows)) < len(rows) else rows


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
