"""Train a model for one user's tilt series, as that user would, and score it beside the general one.

    python benchmarks/user_series.py --work DIR --structures DIR --membrane-structures DIR --minutes 15
        [--users complexes vesicles vesicles-plain] [--json FILE] [--markdown docs/validation.md]

A *user* has one kind of specimen, one microscope, one voxel size and one tilt scheme. The series are those
of the other simulator (other_simulator.py: multislice, gamma-Poisson counts, rows and a correlated readout),
which shares no code with the package, of structures of no training (configs/held-out.yaml). The specimen
leaves a part of the field bare. Some series go to `cryomend train --for`, with the structures and with what
the user knows of microscope and reconstruction; others, of other seeds, are reconstructed by scikit-image
and restored by the general models and by the one that was trained. What stands in the work folder is not made
again: take another folder for other options.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import other_simulator as other
import torch
import yaml
from held_out import load_restorer
from scores import SIRT_ITERATIONS, Case, kind_table, mean_table, score_case

from cryomend.ctf import Optics
from cryomend.io import write_tilt_angles, write_volume
from cryomend.reconstruction.iterate import reconstruct_sirt

USER_SEED = 500_000
BARE = 56  # rows of every image that the specimen does not reach
MARKS = ("<!-- tables of benchmarks/user_series.py -->", "<!-- end of the users' tables -->")
# scikit-image's FBP with a Hann filter, as the options of the package say it
HANN = {
    "methods": {"wbp": 1.0},
    "cutoff": [0.05, 0.05],
    "falloff": [0.17, 0.19],
    "exact_share": 0.0,
    "binning": {"none": 1.0},
    "mean_normalised_share": 0.0,
    "dose_weight_share": 0.0,
    "deconvolve_share": 0.0,
    "eight_bit_share": 0.0,
}


@dataclass(frozen=True)
class User:
    """One specimen, microscope, tilt scheme and processing.

    The defocus of each series is the target's up to 0.3 µm, and known to 0.1 µm. With ``highpass_period``
    images are multiplied by the CTF and tomograms high-passed; without, the reconstruction is all.
    """

    name: str
    complexes: tuple[str, ...]
    membrane_proteins: tuple[str, ...]
    copies: int
    vesicles: int
    target_defocus_um: float
    microscope: other.Recording
    ice: float = 0.3
    highpass_period: float | None = None


def _angles(low: float, high: float, step: float) -> tuple[float, ...]:
    return tuple(float(a) for a in np.arange(low, high + 1e-6, step))


USERS = {
    "complexes": User(
        name="complexes",
        complexes=("2cg9", "3cf3", "4cr2"),
        membrane_proteins=(),
        copies=90,
        vesicles=0,
        target_defocus_um=3.5,
        microscope=other.Recording(3.5, 100.0, _angles(-54, 54, 3)),
    ),
    "vesicles": User(
        name="vesicles",
        complexes=("1u6g", "3j9i"),
        membrane_proteins=("5kxi", "5tqq"),
        copies=40,
        vesicles=14,
        target_defocus_um=2.5,
        microscope=other.Recording(
            2.5, 120.0, _angles(-44, 60, 2), kilovolts=300.0, cs_mm=2.7, absorption=0.07,
            dqe=0.35, dispersion=80.0, readout=0.6, mean_free_path=3000.0,
        ),
        ice=0.4,
        highpass_period=500.0,
    ),
}  # fmt: skip
USERS["vesicles-plain"] = replace(USERS["vesicles"], name="vesicles-plain", highpass_period=None)


def main() -> None:
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.users:
        user = USERS[name]
        model = train_model(user, options)
        restore = {n: load_restorer(n, options.device) for n in options.models}
        restore[f"trained for {options.trained_on} series"] = load_restorer(str(model), options.device)
        for number in range(options.tested_on):
            rows.append(score_case(test_case(user, number, options), restore))
            print(f"{name}, tomogram {number + 1}", flush=True)
    text = tables(rows)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.markdown:
        write_between(options.markdown, text)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for series and models")
    parser.add_argument("--structures", type=Path, required=True, help="density maps NAME.mrc of complexes")
    parser.add_argument("--membrane-structures", type=Path, required=True)
    parser.add_argument("--users", nargs="+", choices=list(USERS), default=list(USERS))
    parser.add_argument("--models", nargs="+", default=["fast"], help="general ones: bundled names, files")
    parser.add_argument("--minutes", type=float, default=15.0, help="all that a user waits for the model")
    parser.add_argument("--trained-on", type=int, default=2, help="series that train --for gets")
    parser.add_argument("--tested-on", type=int, default=3, help="tomograms of other series")
    parser.add_argument("--extra", nargs="+", default=[], help="further words for cryomend train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--markdown", type=Path, help="file that gets the tables, at its marks if it has them"
    )
    return parser.parse_args()


def build_specimen(
    user: User,
    maps: Mapping[str, np.ndarray],
    membrane_maps: Mapping[str, np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Potential in V of a specimen that leaves the first rows bare."""
    density = np.zeros(other.FIELD, np.float32)
    taken = np.zeros(other.FIELD, bool)
    taken[:, :BARE] = True
    slab = (rng.integers(6, 11), other.FIELD[0] - rng.integers(6, 11))
    if user.vesicles:
        other.add_vesicles(density, taken, membrane_maps, rng, count=user.vesicles)
    other.add_complexes(density, taken, maps, rng, count=user.copies, slab=slab)
    density[: slab[0]] = 0
    density[slab[1] :] = 0
    return density


def record(
    user: User, seed: int, options: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, other.Recording]:
    """Specimen, images and what was drawn of the series of a seed."""
    rng = np.random.default_rng(seed)
    maps = other.read_maps(options.structures, user.complexes)
    membrane_maps = other.read_maps(options.membrane_structures, user.membrane_proteins)
    density = build_specimen(user, maps, membrane_maps, rng)
    defocus = user.target_defocus_um + rng.uniform(-0.3, 0.3)
    reported = defocus + 0.1 * rng.standard_normal()
    recording = replace(user.microscope, defocus_um=defocus, reported_defocus_um=reported)
    return density, other.record_series(density, recording, rng, ice=user.ice), recording


def write_series(user: User, number: int, options: argparse.Namespace) -> Path:
    """A series as its user has it: a stack with its pixel size, and a .tlt beside it."""
    stack = options.work / f"{user.name}_{number}.mrc"
    if not stack.exists():
        _, images, recording = record(user, _seed(user, number), options)
        write_tilt_angles(stack.with_suffix(".tlt"), np.array(recording.tilt_angles))
        write_volume(stack, images, voxel_size=other.VOXEL, stack=True)
    return stack


def _seed(user: User, number: int) -> int:
    return USER_SEED + 100 * list(USERS).index(user.name) + number


def what_the_user_knows(user: User) -> dict[str, Any]:
    """The recipe for `--config`: optics, electrons, target defocus, and how tomograms are reconstructed."""
    scope = user.microscope
    steps: dict[str, Any] = {"ctf": {"left": 1.0}, "highpass_share": 0.0}
    if user.highpass_period:
        period = 0.85 * user.highpass_period  # of half the amplitude
        steps = {"ctf": {"multiplied": 1.0}, "highpass_share": 1.0, "highpass_period": [period, period]}
    return {
        "simulation": {
            "processing": HANN | steps,
            "acquisition": {
                "voltage_kv": scope.kilovolts,
                "spherical_aberration_mm": scope.cs_mm,
                "defocus_um": [user.target_defocus_um - 0.5, user.target_defocus_um + 0.5],
                "fluence": [0.9 * scope.fluence, 1.1 * scope.fluence],
                "scheme": "continuous",
            },
        }
    }


def train_command(user: User, stacks: Sequence[Path], options: argparse.Namespace) -> list[str]:
    """What the user types."""
    program = Path(sys.executable).with_name("cryomend")
    words: list[object] = [program, "train", "--for", *stacks]
    words += ["--structures", *(options.structures / f"{name}.mrc" for name in user.complexes)]
    if user.membrane_proteins:
        files = (options.membrane_structures / f"{name}.mrc" for name in user.membrane_proteins)
        words += ["--membrane-structures", *files]
    words += ["--config", options.work / f"{user.name}.yaml", "--max-minutes", options.minutes]
    words += ["--seed", options.seed, "--device", options.device, *options.extra]
    return [str(word) for word in [*words, "-o", options.work / f"{user.name}.safetensors"]]


def train_model(user: User, options: argparse.Namespace) -> Path:
    """The user's model, trained unless it stands."""
    model = options.work / f"{user.name}.safetensors"
    if not model.exists():
        stacks = [write_series(user, number, options) for number in range(options.trained_on)]
        recipe = yaml.safe_dump(what_the_user_knows(user), sort_keys=False)
        (options.work / f"{user.name}.yaml").write_text(recipe)
        command = train_command(user, stacks, options)
        print(" ".join(command), flush=True)
        start = time.monotonic()
        subprocess.run(command, check=True)
        print(f"{user.name}: {(time.monotonic() - start) / 60:.1f} minutes in all", flush=True)
    return model


def test_case(user: User, number: int, options: argparse.Namespace) -> Case:
    """A tomogram of a series that no model was trained for."""
    seed = _seed(user, 50 + number)
    density, images, recording = record(user, seed, options)
    angles = recording.tilt_angles
    plain = torch.from_numpy(other.reconstruct(images, angles, "fbp"))
    tomogram = plain
    if user.highpass_period:
        multiplied = other.reconstruct(other.multiply_ctf(images, recording), angles, "fbp")
        tomogram = torch.from_numpy(other.highpass(multiplied, user.highpass_period))
    centred = torch.from_numpy(images / images.mean(axis=(1, 2), keepdims=True) - 1)
    sirt = reconstruct_sirt(centred, np.array(angles), depth=other.SHAPE[0], iterations=SIRT_ITERATIONS)
    left = (images.shape[2] - other.SHAPE[2]) // 2
    return Case(
        test="one user's series",
        kind=user.name,
        tomogram=tomogram,
        plain=plain,
        sirt=sirt[:, :, left : left + other.SHAPE[2]],
        density=torch.from_numpy(other.crop_density(density)),
        tilt_range=(angles[0], angles[-1]),
        voxel_size=other.VOXEL,
        defocus_um=recording.reported_defocus_um,
        optics=Optics(recording.kilovolts, recording.cs_mm, recording.absorption),
        record={"seed": seed, "recording": recording.record()},
    )


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the mean of each method for each user; then the correlations of all users."""
    parts = []
    for name in dict.fromkeys(row["kind"] for row in rows):
        parts += [f"### User: {name}", "", *mean_table([row for row in rows if row["kind"] == name]), ""]
    return "\n".join([*parts, "Correlation all / wedge / measured:", "", *kind_table(rows)])


def write_between(path: Path, text: str) -> None:
    """Put the tables between the marks of a file, or at its end with marks."""
    old = path.read_text() if path.exists() else ""
    if not all(mark in old for mark in MARKS):
        old += f"\n{MARKS[0]}\n{MARKS[1]}\n"
    before, rest = old.split(MARKS[0], 1)
    path.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{rest.split(MARKS[1], 1)[1]}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
