"""Train the same small network in several ways, at equal effort, and score them on the same tomograms.

    python benchmarks/ablation.py --work DIR --structures DIR --membrane-structures DIR
        [--steps 2000] [--pairs 60] [--only "λ = 0" ...] [--json FILE] [--markdown FILE]

One thing differs at a time from the recipe (λ_recon 0.1, no rotation, no weights of wedge or specimens, not
residual, counting noise): one of these, or nothing but the seed of weights and crops, which tells how large a
difference is chance. All networks see as many steps of as many crops from specimens and tilt series of the
same seeds; nothing is binned, which takes ten times the time. Noise is learned from empty tilt series of the
other simulator (other_simulator.py), so in its test the learned models know the user's noise and the others
do not. What stands in the work folder is not made again: take another folder for other options.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import other_simulator as other
import torch
from held_out import HERE, held_out_cases, load_restorer, other_cases, ring_scores, write_tables
from scores import PARTS, Case, score_volume

from cryomend.benchmark.variants import Variant, vary_recipe
from cryomend.config import Recipe, SimulationConfig, dump_config, load_config, load_recipe
from cryomend.io import write_volume

NOISE_SEED = 600_000
STACKS = 9  # empty tilt series from which noise is learned, 2,000 patches


VARIANTS = {
    "λ = 0": Variant({"lambda_recon": 0.0}),
    "λ = 0.1 (the recipe)": Variant(),
    "the recipe, second seed": Variant(seed=1),
    "the recipe, third seed": Variant(seed=2),
    "λ = 0.2": Variant({"lambda_recon": 0.2}),
    "λ = 1": Variant({"lambda_recon": 1.0}),
    "rotated crops": Variant({"rotation_share": 1.0}),
    "error in the wedge three times": Variant({"wedge_weight": 2.0}),
    "specimens balanced": Variant({"balance": 1.0}),
    "residual": Variant({"residual": True}),
    **{f"Gaussian noise, {db} dB": Variant(snr_db=float(db)) for db in (0, 2, 5, 10)},
    "spectral noise": Variant(learned="spectral"),
    "WGAN-GP noise": Variant(learned="wgan"),
}


def main() -> None:
    options = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    names = options.only or list(VARIANTS)
    cases = list(test_cases(options))
    rows = []
    for name in names:
        model, minutes = train_variant(name, VARIANTS[name], options)
        rows.append({"variant": name, "minutes": minutes, **score_model(model, cases, options)})
        print(f"{name}: trained and scored", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    text = table(rows)
    print(text)
    if options.markdown:
        write_tables(options.markdown, text)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for noise, pairs and models")
    parser.add_argument("--structures", type=Path, action="append", default=[])
    parser.add_argument("--membrane-structures", type=Path, action="append", default=[])
    recipe, test = (HERE.parent / "configs" / f"{name}.yaml" for name in ("default-model", "held-out"))
    parser.add_argument("--recipe", type=Path, default=recipe, help="what all variants start from")
    parser.add_argument("--test-config", type=Path, default=test)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="these variants")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=60, help="for each kind of noise")
    parser.add_argument("--crop", type=int, default=48, help="rotated ones are cut √3 as wide")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--recon-share", type=float, help="of steps with the second task; the recipe's if not"
    )
    parser.add_argument("--noise-minutes", type=float, default=10.0, help="for the WGAN-GP")
    parser.add_argument("--workers", type=int, default=1, help="for the pairs")
    parser.add_argument("--repeats", type=int, default=1, help="test tomograms per kind")
    parser.add_argument("--tests", nargs="+", choices=("held-out", "other-simulator"))
    parser.add_argument("--microtubule", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def test_cases(options: argparse.Namespace) -> list[Case]:
    """The tomograms on which every variant is scored."""
    config = load_config(SimulationConfig, options.test_config)
    tests = options.tests or ("held-out", "other-simulator")
    cases = list(held_out_cases(options, config)) if "held-out" in tests else []
    return cases + (list(other_cases(options, config)) if "other-simulator" in tests else [])


def run_stage(*arguments: object) -> None:
    """Run a command of the package, as its users do."""
    program = Path(sys.executable).with_name("cryomend")
    subprocess.run([program, *map(str, arguments)], check=True)


def fit_noise(kind: str, options: argparse.Namespace) -> Path:
    """A noise model of the other simulator's empty ice."""
    model, patches = options.work / f"{kind}.safetensors", options.work / "noise.h5"
    if not patches.exists():
        stacks, angles = zip(*(record_empty(options.work, i) for i in range(STACKS)), strict=True)
        files = [a for path in angles for a in ("--tilt-angles", path)]
        run_stage("noise", "extract", *stacks, *files, "--patch", 64, "-o", patches, "--no-picture")
    if not model.exists():
        limit = ["--max-minutes", options.noise_minutes] if kind == "wgan" else []
        run_stage("noise", "fit", patches, "--model", kind, "-o", model, "--device", options.device, *limit)
    return model


def record_empty(work: Path, number: int) -> tuple[Path, Path]:
    """Write an empty tilt series of the other simulator and its angles."""
    rng = np.random.default_rng(NOISE_SEED + number)
    recording = other.draw_recording(rng)
    images = other.record_series(np.zeros(other.FIELD, np.float32), recording, rng)
    stack, angles = work / f"empty_{number}.mrc", work / f"empty_{number}.tlt"
    write_volume(stack, images, voxel_size=other.VOXEL)
    angles.write_text("".join(f"{angle:.3f}\n" for angle in recording.tilt_angles))
    return stack, angles


def train_variant(name: str, variant: Variant, options: argparse.Namespace) -> tuple[Path, float]:
    """Train one variant unless its model stands; the file, and its minutes of processor time."""
    stem = options.work / f"model-{list(VARIANTS).index(name):02d}"
    model, config = stem.with_suffix(".safetensors"), stem.with_suffix(".yaml")
    clock = stem.with_suffix(".minutes")
    recipe = make_recipe(variant, options)
    config.write_text(dump_config(recipe, comment=f"{name}, of benchmarks/ablation.py"))
    if not model.exists():
        pairs = make_pairs(variant, config, options)
        start = children_seconds()
        run_stage(
            "train",
            pairs,
            "-o",
            model,
            "--config",
            config,
            "--seed",
            options.seed + variant.seed,
            "--device",
            options.device,
        )
        clock.write_text(f"{(children_seconds() - start) / 60:.2f}\n")
    return model, float(clock.read_text())


def children_seconds() -> float:
    """Processor time of the commands that have run, which other work on the machine hardly changes."""
    times = os.times()
    return times.children_user + times.children_system


def make_recipe(variant: Variant, options: argparse.Namespace) -> Recipe:
    """The recipe of a variant: equal steps, crops and 10 Å voxels; the weights of the last step are kept."""
    recipe = load_recipe(options.recipe)
    effort = {"steps": options.steps, "crop": options.crop, "batch": options.batch}
    effort["validate_every"] = options.steps
    effort["warm_up"] = min(recipe.training.warm_up, options.steps // 10)
    if options.recon_share is not None:
        effort["recon_share"] = options.recon_share
    return vary_recipe(recipe, variant, effort)


def make_pairs(variant: Variant, config: Path, options: argparse.Namespace) -> Path:
    """Simulate the pairs of a variant; those that stand are left alone."""
    folder = options.work / f"pairs-{variant.pairs}"
    arguments: list[object] = ["simulate", "-o", folder, "--config", config, "--count", options.pairs]
    arguments += ["--seed", options.seed, "--workers", options.workers, "--device", options.device]
    for flag, paths in (
        ("--structures", options.structures),
        ("--membrane-structures", options.membrane_structures),
    ):
        arguments += [part for path in paths for part in (flag, path)]
    if variant.learned:
        arguments += ["--noise", fit_noise(variant.learned, options)]
    run_stage(*arguments)
    return folder


def score_model(model: Path, cases: Sequence[Case], options: argparse.Namespace) -> dict[str, Any]:
    """Mean scores of a model in every test, and the ring of the real microtubule."""
    run = load_restorer(str(model), options.device)
    scores: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        scores.setdefault(case.test, []).append(score_volume(-run(case.tomogram), case))
    tests = {
        test: {key: float(np.mean([s[key] for s in found])) for key in found[0]}
        for test, found in scores.items()
    }
    rings = ring_scores(options.microtubule, {"model": run}) if options.microtubule else ()
    return {"tests": tests, "ring": [ring for _, ring in rings]}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one line per variant, correlation all / wedge / measured in every test."""
    tests = list(rows[0]["tests"])
    rings = ["weakest wall"] if rows[0]["ring"] else []
    columns = ["trained in one way", *tests, *rings, "processor minutes"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [
            " / ".join(f"{row['tests'][test][f'correlation {part}']:.3f}" for part in PARTS) for test in tests
        ]
        cells += [f"{ring['after']['weakest']:.2f}" for ring in row["ring"]]
        lines.append(f"| {row['variant']} | " + " | ".join([*cells, f"{row['minutes']:.1f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
