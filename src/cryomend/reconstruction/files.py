"""From a stack on disk to a tomogram on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from cryomend.io import InputError, check_writable, read_stack, read_tilt_angles, write_volume
from cryomend.reconstruction.wbp import reconstruct_wbp

__all__ = ["reconstruct_file"]


def reconstruct_file(
    stack: Path,
    output: Path,
    *,
    tilt_angles: Path,
    thickness: int,
    method: str = "wbp",
    pixel_size: float | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Reconstruct an aligned tilt series (tilt axis along Y through the centre).

    Each image is divided by its standard deviation, so that exposures of different strength weigh
    alike; the tomogram keeps the images' contrast sign.

    Parameters
    ----------
    stack, tilt_angles : Path
        MRC stack and its list of angles.
    output : Path
        MRC tomogram (Z, Y, X), float32.
    thickness : int
        Voxels along Z.
    method : str
        Only ``wbp``.
    pixel_size : float, optional
        Å; replaces the header's.
    device : torch.device or str
        Where it runs.

    Raises
    ------
    cryomend.io.InputError
        If a file cannot be read, the number of angles differs from the stack, the header has no
        pixel size and none is given, the method is unknown, the thickness below 1, or the output is
        the stack.
    """
    if method != "wbp":
        raise InputError(f"unknown method {method!r}; this version reconstructs with wbp")
    if thickness < 1:
        raise InputError(f"--thickness must be at least 1 voxel, got {thickness}")
    check_writable(output)
    if output.resolve() == stack.resolve():
        raise InputError(f"the tomogram would overwrite the stack {stack}; choose another -o")
    angles = read_tilt_angles(tilt_angles)
    series = read_stack(stack, pixel_size=pixel_size)
    if len(angles) != len(series.data):
        raise InputError(
            f"{tilt_angles} has {len(angles)} angles but {stack} has {len(series.data)} images; "
            "give the list of this stack"
        )
    if series.voxel_size <= 0:
        raise InputError(f"{stack} has pixel size 0 in its header; pass --pixel-size with the size in Å")
    images = torch.from_numpy(series.data).to(device)
    mean = images.mean(dim=(1, 2), keepdim=True)
    std = images.std(dim=(1, 2), keepdim=True)
    blank = std <= 1e-6 * mean.abs()  # a constant image says nothing; dividing would blow up its rounding
    images = torch.where(blank, 0, (images - mean) / std.clamp(min=1e-30))
    tomogram = reconstruct_wbp(images, angles, thickness=thickness)
    write_volume(output, tomogram.cpu().numpy(), voxel_size=series.voxel_size)
