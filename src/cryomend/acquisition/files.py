"""A recorded tilt series on disk: stacks, angles, mdoc, alignment and everything that was drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryomend.acquisition.acquire import acquire_halves, acquire_tilt_series
from cryomend.acquisition.exposure import Exposure, draw_exposure, draw_tilt_angles
from cryomend.acquisition.placement import alignment_of
from cryomend.config import AcquisitionConfig
from cryomend.geometry import tilt_angles_from_range
from cryomend.io import (
    InputError,
    Volume,
    check_folder,
    read_doses,
    read_tilt_angles,
    read_volume,
    write_json,
    write_mdoc,
    write_text,
    write_tilt_angles,
    write_volume,
)

__all__ = ["acquire_file", "choose_angles"]

_MOSTLY_NEGATIVE = 0.3  # share of voxels: little of a potential above ice is, half of a tomogram


def choose_angles(
    path: Path | None,
    tilt_range: tuple[float, float, float] | None,
    *,
    mdoc: Path | None = None,
    ordered_by: str | None = None,
) -> NDArray[np.float64] | None:
    """Angles from a list or from (min, max, step) in degrees; None if neither is given.

    ``ordered_by`` names the options that say what an ``mdoc`` says as well.

    Raises
    ------
    cryomend.io.InputError
        If both are given, the list cannot be read, or an mdoc is contradicted.
    ValueError
        If the range is empty or leaves ±90 degrees.
    """
    if path is not None and tilt_range is not None:
        raise InputError("--tilt-angles and --tilt-range exclude each other; give one")
    if mdoc is not None and ordered_by:
        raise InputError(f"{mdoc} says the order and the exposures already; leave out {ordered_by}")
    if path is not None:
        return read_tilt_angles(path)
    return None if tilt_range is None else tilt_angles_from_range(*tilt_range)


def acquire_file(
    density_path: Path,
    directory: Path,
    *,
    config: AcquisitionConfig,
    tilt_angles: NDArray[np.float64] | None,
    seed: int,
    mdoc: Path | None = None,
    halves: bool = True,
    voxel_size: float | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[float, str], None] = lambda share, text: None,
) -> list[str]:
    """Record a tilt series of a density in V and write what a microscope's user has.

    Written into ``directory``: ``tilt_series.mrc``, ``tilt_series_EVN.mrc`` and ``tilt_series_ODD.mrc``
    of the even and odd frames, ``tilt_series.rawtlt`` and ``.tlt``, ``tilt_series.mdoc``,
    ``tilt_series.xf`` (the alignment that undoes all shifts and rotations exactly),
    ``tilt_series_CTF.txt`` (the true defocus, as CTFFIND writes it) and, last, ``acquisition.json``.

    Parameters
    ----------
    density_path : Path
        MRC of the potential in V, protein positive.
    directory : Path
        Made if it is not there.
    config : AcquisitionConfig
        Ranges to draw the recording from.
    tilt_angles : array or None
        Degrees; those of ``mdoc``, or drawn from the configuration, if None.
    seed : int
        Equal seeds give equal stacks; with and without ``halves`` they differ.
    mdoc : Path, optional
        Take the exposure of each tilt and their order from this recording.
    halves : bool
        Write the even and odd frames too; without them when the configuration sets ``snr``.
    voxel_size : float, optional
        Å; replaces the header's.
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
        If a file cannot be read, the mdoc has another number of tilts, or the folder cannot be written.
    """
    check_folder(directory)
    volume = read_volume(density_path, voxel_size=voxel_size)
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    if tilt_angles is None and mdoc is not None:
        tilt_angles = read_tilt_angles(mdoc)
    angles = draw_tilt_angles(config, rng) if tilt_angles is None else tilt_angles
    thickness = volume.data.shape[0] * volume.voxel_size
    exposure = draw_exposure(
        config, rng, thickness=thickness, tilts=len(angles), pixel_size=volume.voxel_size
    )
    if mdoc is not None:
        exposure = _exposed_like(exposure, mdoc, len(angles))
    density = torch.from_numpy(volume.data).to(device)

    def on_tilt(tilt: int) -> None:
        on_progress((tilt + 1) / len(angles), f"recorded {tilt + 1} of {len(angles)} tilts")

    counted: dict[str, Any] = {"pixel_size": volume.voxel_size, "exposure": exposure, "generator": generator}
    if exposure.snr is None and halves:
        series = acquire_halves(density, angles, on_tilt=on_tilt, **counted)
        stacks = {"": series.images, "_EVN": series.even, "_ODD": series.odd}
    else:
        stacks = {"": acquire_tilt_series(density, angles, on_tilt=on_tilt, **counted)}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "acquisition.json").unlink(missing_ok=True)  # it stands only beside what it describes
    for half in ("_EVN", "_ODD"):
        (directory / f"tilt_series{half}.mrc").unlink(missing_ok=True)  # of an earlier series, maybe
    for half, images in stacks.items():
        place = directory / f"tilt_series{half}.mrc"
        write_volume(place, images.cpu().numpy(), voxel_size=volume.voxel_size, stack=True)
    _write_side_files(directory, angles, exposure, volume.data.shape[1:], volume.voxel_size)
    write_json(
        directory / "acquisition.json",
        {
            "density": density_path.name,
            "seed": seed,
            "exposure": exposure.record(),
            "config": config.model_dump(mode="json"),
        },
    )
    return [*_doubts(volume), *_notes(angles, halves and exposure.snr is not None)]


def _doubts(volume: Volume) -> list[str]:
    """Whether a volume looks like a tomogram and not like a potential."""
    made = any(word in label for label in volume.labels for word in ("cryomend reconstruct", "restored"))
    negative = float((volume.data < 0).mean())
    if not made and negative < _MOSTLY_NEGATIVE:
        return []
    why = "its labels say so" if made else f"{100 * negative:.0f} % of its voxels are negative"
    return [f"{volume.path} looks like a tomogram ({why}); a density is potential in V above ice"]


def _notes(angles: NDArray[np.float64], halves_missing: bool) -> list[str]:
    """What is allowed but may not be meant."""
    notes = []
    repeated = len(angles) - len(np.unique(angles))
    if repeated:
        notes.append(f"{repeated} tilt angles are repeated; each is recorded")
    if np.any(np.diff(angles) < 0) and np.any(np.diff(angles) > 0):
        notes.append("the tilt angles are not in order; the images are in the order given")
    if halves_missing:
        notes.append("no even and odd frames: with a given snr no electrons are counted")
    return notes


def _exposed_like(exposure: Exposure, mdoc: Path, tilts: int) -> Exposure:
    """The same recording with the exposures and the order of an mdoc."""
    prior, doses = read_doses(mdoc)
    if len(doses) != tilts:
        raise InputError(f"{mdoc} has {len(doses)} images but there are {tilts} tilt angles; leave out one")
    places = np.argsort(np.argsort(prior, kind="stable"), kind="stable")
    return replace(
        exposure,
        doses=tuple(doses.tolist()),
        places=tuple(places.tolist()),
        fluence=float(doses.sum()),
    )


def _write_side_files(
    directory: Path,
    angles: NDArray[np.float64],
    exposure: Exposure,
    shape: tuple[int, ...],
    pixel_size: float,
) -> None:
    """Angles, mdoc and the true alignment."""
    stem = directory / "tilt_series"
    for ending in (".rawtlt", ".tlt"):
        write_tilt_angles(stem.with_suffix(ending), angles)
    places, doses = exposure.timing(angles)
    write_mdoc(
        stem.with_suffix(".mdoc"),
        stack=stem.with_suffix(".mrc"),
        shape=(shape[0], shape[1]),
        pixel_size=pixel_size,
        voltage_kv=exposure.optics.voltage_kv,
        tilt_axis_angle=exposure.tilt_axis_angle,
        tilt_angles=angles.tolist(),
        exposures=doses.tolist(),
        prior=exposure.prior_doses(angles).tolist(),
        places=places.tolist(),
        defocus_um=exposure.defocus_um,
    )
    rows = alignment_of(list(exposure.placements), (shape[0], shape[1]))
    text = "".join(
        "".join(f"{v:12.7f}" for v in row[:4]) + "".join(f"{v:12.3f}" for v in row[4:]) + "\n" for row in rows
    )
    write_text(stem.with_suffix(".xf"), text)
    write_text(directory / "tilt_series_CTF.txt", _defocus_lines(angles, exposure))


def _defocus_lines(angles: NDArray[np.float64], exposure: Exposure) -> str:
    """The true defocus at the rotation centre as CTFFIND writes it, angles as in the recorded images."""
    optics = exposure.optics
    turns = [placement.rotation for placement in exposure.placements] or [0.0] * len(angles)
    lines = [
        f"# acceleration voltage: {optics.voltage_kv:g} keV; spherical aberration: "
        f"{optics.spherical_aberration_mm:g} mm; amplitude contrast: {optics.amplitude_contrast:.5f}",
        "# Columns: #1 - image; #2 - defocus 1 [A]; #3 - defocus 2; #4 - azimuth of 1 [degrees]; "
        "#5 - phase shift [radians]; #6 - correlation; #7 - spacing [A]",
    ]
    for i, (lens, turn) in enumerate(zip(exposure.lenses(angles), turns, strict=True), start=1):
        first, second = (1e4 * (lens.defocus_um + s * lens.astigmatism_um) for s in (1, -1))
        azimuth, shift = (lens.astigmatism_angle + turn) % 180, math.radians(lens.phase_shift)
        lines.append(f"{i} {first:.2f} {second:.2f} {azimuth:.3f} {shift:.6f} 1.0 0.0")
    return "\n".join(lines) + "\n"
