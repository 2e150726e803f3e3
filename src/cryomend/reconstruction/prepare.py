"""From a raw tilt series to images that can be back-projected: weighted, aligned, corrected, binned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    read_alignment,
    read_defocus,
    read_doses,
    read_image,
    read_tilt_angles,
)
from cryomend.reconstruction.align import align_images, bin_images, binned_shape, dose_weight
from cryomend.reconstruction.ctf_correction import correct_phase

__all__ = ["Preparation", "plan_preparation"]


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of a stack; arrays have one entry per image that is used.

    ``sections`` are the images' places in the stack, ``shape`` (Y, X) and ``pixel_size`` in Å those
    of the prepared images.
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
        if self.axis_shift:
            shape = (image.shape[0], image.shape[1])
            image = filter_fourier(image, shift_phase(shape, (-self.axis_shift, 0.0), image.device))
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
        If a file cannot be read or speaks of another number of images, or no tilt angles are known.
    """
    images = len(stack.data)
    alignment = None if alignment_path is None else read_alignment(alignment_path)
    sections = np.arange(images)
    if alignment is not None:
        sections = _sections_of(alignment, alignment_path, stack)
    angles = _angles_of(angles_path, alignment, alignment_path, sections, stack)
    doses = None if dose_path is None else read_doses(dose_path)
    if doses is not None:
        doses = (
            _rows_of(doses[0], dose_path, images, stack)[sections],
            _rows_of(doses[1], dose_path, images, stack)[sections],
        )
    defocus = None if ctf_path is None else read_defocus(ctf_path)
    optics = Optics(config.voltage_kv, config.spherical_aberration_mm, config.amplitude_contrast)
    if defocus is not None:
        optics = Optics(
            defocus.voltage_kv or config.voltage_kv,
            defocus.spherical_aberration_mm or config.spherical_aberration_mm,
            config.amplitude_contrast if defocus.amplitude_contrast is None else defocus.amplitude_contrast,
        )
        defocus = _defocus_of(defocus, ctf_path, images, stack, sections)
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
        optics=optics,
        defocus_hand=config.defocus_hand,
        axis_shift=config.axis_shift,
    )


def _sections_of(alignment: Alignment, path: Path | None, stack: Volume) -> NDArray[np.int64]:
    """The images that an alignment speaks of; it must fit the stack."""
    images = len(stack.data)
    sections = np.asarray(alignment.sections, dtype=np.int64)
    # an .aln says which images of the raw stack it speaks of; the others have a row for every image
    named = alignment.raw_shape is not None or not np.array_equal(sections, np.arange(len(sections)))
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
    if len(listed) == images:
        used = listed[sections]
        # AreTomo adds one offset to all angles; more than that means another stack, or another order
        if aligned is not None and np.ptp(used - aligned) > 1:
            raise InputError(
                f"the angles of {path} and {alignment_path} do not belong together: they differ by "
                f"{np.min(used - aligned):.1f} to {np.max(used - aligned):.1f} degrees; give the list of the "
                "raw stack"
            )
        return used
    if len(listed) == len(sections):
        return listed
    raise InputError(
        f"{path} has {len(listed)} angles but {stack.path} has {images} images; give the list of this stack"
    )


def _rows_of(values: NDArray[Any], path: Path | None, images: int, stack: Volume) -> NDArray[np.float64]:
    if len(values) != images:
        raise InputError(
            f"{path} has {len(values)} rows but {stack.path} has {images} images; give the file of this stack"
        )
    return np.asarray(values, dtype=np.float64)


def _defocus_of(
    defocus: TiltDefocus, path: Path | None, images: int, stack: Volume, sections: NDArray[np.int64]
) -> TiltDefocus:
    """The rows of a CTF file that belong to the images in use; files without dark images fit as well."""
    rows = len(defocus.defocus_um)
    if rows == len(sections) != images:
        return defocus
    _rows_of(defocus.defocus_um, path, images, stack)
    return replace(
        defocus,
        defocus_um=defocus.defocus_um[sections],
        astigmatism_um=defocus.astigmatism_um[sections],
        astigmatism_angle=defocus.astigmatism_angle[sections],
        phase_shift=defocus.phase_shift[sections],
    )
