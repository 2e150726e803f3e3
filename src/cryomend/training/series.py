"""A user's tilt series as training sees them: headers, angles and .mdoc in, facts and a recipe out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cryomend.acquisition.detector import detector_mtf
from cryomend.acquisition.exposure import thickness_transmission
from cryomend.config import AcquisitionConfig, Recipe, load_recipe
from cryomend.io import InputError, find_tilt_angles, open_stack, read_image, read_tilt_angles
from cryomend.io.mdoc import read_mdoc_table
from cryomend.restoration.model import load_model
from cryomend.training.maker import Ingredients

__all__ = [
    "SeriesFacts",
    "UserSeries",
    "describe_series",
    "find_dqe",
    "make_recipe",
    "read_series",
    "say_series",
]

_BASE = Path(__file__).with_name("user.yaml")
_ICE = 1000.0  # Å, of which the transmission is reckoned
_DQE_FACTOR = 1.5  # either way, for the ice, the detector's MTF and what the electrons say


@dataclass(frozen=True)
class UserSeries:
    """Tilt series as a user names them.

    ``tilt_angles`` are none (they are looked for beside each stack), one for all, or one for each;
    ``pixel_size`` in Å replaces the headers'; ``bin`` is the voxel size of the tomograms that the model is
    for over the pixel size of the stacks, 1 if None.
    """

    stacks: Sequence[Path]
    tilt_angles: Sequence[Path] = ()
    pixel_size: float | None = None
    bin: float | None = None


@dataclass(frozen=True)
class SeriesFacts:
    """What is known of one series; ``optics`` are options of the acquisition that its .mdoc says."""

    stack: Path
    angle_file: Path
    angles: NDArray[np.float64]
    pixel_size: float
    optics: dict[str, float]


def read_series(series: UserSeries, bin: float) -> list[SeriesFacts]:
    """Look at the headers and lists of all series, and refuse what does not fit together.

    Parameters
    ----------
    series : UserSeries
        As the user names them.
    bin : float
        Factor by which their pixels will grow, 1 to 64.

    Returns
    -------
    list of SeriesFacts
        One for each.

    Raises
    ------
    cryomend.io.InputError
        If a file cannot be used, angles and tilts differ in number, or pixel sizes are unknown or differ.
    """
    if not 1 <= bin < 64:
        raise InputError(f"--bin must be a factor from 1 to 64, got {bin:g}")
    files = list(series.tilt_angles)
    if len(files) not in (0, 1, len(series.stacks)):
        raise InputError(
            f"{len(files)} files of --tilt-angles for {len(series.stacks)} tilt series: "
            "give one, or one for each"
        )
    given = [*files] * len(series.stacks) if files else [None] * len(series.stacks)
    found = [_look_at(Path(s), f, series.pixel_size) for s, f in zip(series.stacks, given, strict=False)]
    sizes = [facts.pixel_size for facts in found]
    if max(sizes) > 1.01 * min(sizes):
        listed = ", ".join(f"{f.stack.name} {f.pixel_size:g}" for f in found)
        raise InputError(f"tilt series of different pixel size need a model each: {listed} (Å)")
    return found


def _look_at(stack: Path, angle_file: Path | None, pixel_size: float | None) -> SeriesFacts:
    """What is known of one series."""
    volume = open_stack(stack, pixel_size=pixel_size)
    if volume.voxel_size <= 0:
        raise InputError(f"{stack} has no pixel size in its header; pass --pixel-size")
    mdoc = _find_mdoc(stack, angle_file)
    angle_file = angle_file or find_tilt_angles(stack) or mdoc
    if angle_file is None:
        raise InputError(f"{stack}: no .tlt, .rawtlt or .mdoc beside it; give --tilt-angles FILE")
    angles = read_tilt_angles(angle_file)
    if len(angles) != len(volume.data):
        raise InputError(
            f"{stack}: {len(angles)} tilt angles for {len(volume.data)} tilts; "
            f"is {angle_file} the right file?"
        )
    if np.ptp(angles) < 1:
        raise InputError(f"{angle_file}: all tilt angles are the same; a tilt series has several")
    return SeriesFacts(
        stack, angle_file, angles, volume.voxel_size, {} if mdoc is None else _read_optics(mdoc)
    )


def _find_mdoc(stack: Path, angle_file: Path | None) -> Path | None:
    """The .mdoc of a series: given as its angles, or beside it."""
    beside = [stack.with_name(stack.name + ".mdoc"), stack.with_suffix(".mdoc")]
    if angle_file is not None and angle_file.suffix.lower() == ".mdoc":
        beside.insert(0, angle_file)
    return next((path for path in beside if path.is_file()), None)


def _read_optics(mdoc: Path) -> dict[str, float]:
    """Fluence of the series in e⁻/Å² and defocus in µm, as far as an .mdoc has them."""
    rows = read_mdoc_table(mdoc, needs=("TiltAngle",))
    columns = {
        name: np.array([float(row.get(name) or "nan") for row in rows])
        for name in ("ExposureDose", "TargetDefocus")
    }
    optics = {"fluence": float(columns["ExposureDose"].sum())}
    # SerialEM writes underfocus as a negative number
    optics["defocus_um"] = -float(np.median(columns["TargetDefocus"]))
    return {name: value for name, value in optics.items() if np.isfinite(value) and value > 0}


def make_recipe(
    config: Path | None,
    found: Sequence[SeriesFacts],
    bin: float,
    ingredients: Ingredients,
    start_from: str | None,
    *,
    dqe: tuple[float, float] | None = None,
) -> Recipe:
    """The recipe of `user.yaml`, with what the series and the model to start from say, under the user's.

    Parameters
    ----------
    config : Path, optional
        The user's recipe, which wins.
    found : sequence of SeriesFacts
        Their tilts (regular between the extremes, at the median step), pixel size and optics.
    bin : float
        Voxel size of the simulation over that pixel size.
    ingredients : Ingredients
        For which kinds of specimens there are structures.
    start_from : str, optional
        Model whose network is to be trained on.
    dqe : tuple of float, optional
        Of `find_dqe`.

    Returns
    -------
    Recipe
    """
    base = yaml.safe_load(_BASE.read_text(encoding="utf-8"))
    kinds = base["simulation"]["specimens"]
    given = {False: bool(ingredients.structures), True: bool(ingredients.membrane_structures)}
    base["simulation"]["specimens"] = {n: k for n, k in kinds.items() if given["membranes" in k]}
    size = found[0].pixel_size * bin
    lows, highs = ([f(facts.angles) for facts in found] for f in (np.min, np.max))
    steps = [float(np.median(np.diff(np.unique(facts.angles)))) for facts in found]
    acquisition: dict[str, Any] = {
        name: [float(min(values)), float(max(values))]
        for name, values in (("tilt_min", lows), ("tilt_max", highs), ("tilt_step", steps))
    }
    for name, spread in (("fluence", 0.1), ("defocus_um", 0.3)):  # what is set is not quite what comes
        if values := [facts.optics[name] for facts in found if name in facts.optics]:
            acquisition[name] = [(1 - spread) * min(values), (1 + spread) * max(values)]
    if dqe is not None:
        acquisition["dqe"] = list(dqe)
    said: dict[str, Any] = {"simulation": {"voxel_size": [size, size], "acquisition": acquisition}}
    if start_from is not None:
        said["training"] = load_model(start_from)[1]["network"]
    return load_recipe(config, base, said)


def find_dqe(
    found: Sequence[SeriesFacts], std_table: NDArray[np.float64], bin: float, config: AcquisitionConfig
) -> tuple[float, float] | None:
    """DQE at which simulated series are as noisy as the user's, judged by their noise over their mean.

    Parameters
    ----------
    found : sequence of SeriesFacts
        The series.
    std_table : array, shape (k, 2)
        Tilt angle and deviation of the noise in pixels of the final size, from the model fitted to them.
    bin : float
        Those pixels over the series' own.
    config : AcquisitionConfig
        Electrons, MTF and free path that the simulation draws.

    Returns
    -------
    tuple of float, or None
        Lowest and highest; None where the grey levels have lost their zero: means that are not positive or
        the same in all tilts, or far from what electrons can do.
    """
    ratios, means = [], []
    for facts in found:
        levels = _mean_levels(facts)
        means.append(levels / np.abs(levels).max())
        std = np.array([std_table[np.argmin(np.abs(std_table[:, 0] - a)), 1] for a in facts.angles])
        passed = thickness_transmission(
            facts.angles, thickness=_ICE, mean_free_path=float(np.mean(config.mean_free_path))
        )
        electrons = np.sqrt(config.fluence[0] * config.fluence[1]) / len(levels) * passed
        ratios.append((levels / std) ** 2 / (electrons * (facts.pixel_size * bin) ** 2))
    level, ratio = np.concatenate(means), float(np.median(np.concatenate(ratios)))
    mtf = detector_mtf((64, 64), at_nyquist=float(np.mean(config.mtf_nyquist)))
    dqe = ratio * float(mtf.square().mean())  # the detector blurs counting noise, which makes it weaker
    if level.min() <= 0 or np.ptp(level) < 0.01 or not 0.02 < dqe < _DQE_FACTOR:
        return None
    return min(dqe / _DQE_FACTOR, 1 / _DQE_FACTOR), min(dqe * _DQE_FACTOR, 1.0)


def _mean_levels(facts: SeriesFacts) -> NDArray[np.float64]:
    """Mean grey level of every tilt."""
    stack = open_stack(facts.stack, pixel_size=facts.pixel_size)
    return np.array([float(np.mean(read_image(stack, n), dtype=np.float64)) for n in range(len(stack.data))])


def describe_series(found: Sequence[SeriesFacts], bin: float) -> dict[str, Any]:
    """What was understood of the series, ready for JSON."""
    return {
        "series": [
            {
                "file": facts.stack.name,
                "bytes": facts.stack.stat().st_size,
                "tilt_angles": facts.angle_file.name,
                "tilts": len(facts.angles),
                "tilt_range": [float(facts.angles.min()), float(facts.angles.max())],
                "pixel_size": facts.pixel_size,
                **facts.optics,
            }
            for facts in found
        ],
        "bin": bin,
        "voxel_size": found[0].pixel_size * bin,
    }


def say_series(record: dict[str, Any]) -> list[str]:
    """One line on each series."""
    lines = []
    for series in record["series"]:
        low, high = series["tilt_range"]
        optics = [f"{series['fluence']:.3g} e⁻/Å²"] if "fluence" in series else []
        optics += [f"defocus {series['defocus_um']:.2g} µm"] if "defocus_um" in series else []
        said = ", ".join([f"{series['tilts']} tilts from {low:g} to {high:g}°", *optics])
        lines.append(f"{series['file']}: {said}, simulated at {record['voxel_size']:.4g} Å")
    return lines
