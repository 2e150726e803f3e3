"""Score restoration models on simulated tomograms that they never saw, and beside them what users do today.

    python benchmarks/held_out.py --structures DIR --membrane-structures DIR [--models NAME=PATH ...]
        [--microtubule FILE] [--json scores.json] [--markdown docs/validation.md]

Three tests, each with the same scores (docs/validation.md):

``held-out``         the package's simulator and WBP, structures of no training (configs/held-out.yaml);
``other-simulator``  other physics, other reconstruction, other processing (other_simulator.py);
``out-of-class``     shapes that no preset makes, and empty ice (out_of_class.py).

Without structure files the species of the first test are procedural ones of seeds that no training used,
and the second leaves out its complexes; what is printed says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import other_simulator as other
import torch
from microtubule_ring import measure, ring_centre
from out_of_class import out_of_class_cases
from scores import (
    SIRT_ITERATIONS,
    Case,
    Restore,
    ice_table,
    kind_table,
    left_in_ice,
    mean_table,
    score_case,
)

from cryomend.config import ProcessingConfig, SimulationConfig, load_config
from cryomend.ctf import Optics
from cryomend.evaluation.straighten import find_slopes, mean_along_slopes
from cryomend.io import read_volume
from cryomend.reconstruction.iterate import reconstruct_sirt
from cryomend.restoration.model import bundled_models, load_model
from cryomend.restoration.predict import choose_device, restore_tomogram
from cryomend.specimen import find_structures
from cryomend.training.pairs import simulate_pair

HERE = Path(__file__).resolve().parent
FIRST_SEED = 900_000  # training seeds count from 0
OTHER_SEED = 800_000
TESTS = ("held-out", "other-simulator", "out-of-class")
MARKS = ("<!-- tables of benchmarks/held_out.py -->", "<!-- end of the tables -->")
# What gives SIRT instead of WBP of the same tilt series, and nothing else.
ONLY_SIRT = ProcessingConfig(
    methods={"sirt": 1.0},
    sirt_iterations=(SIRT_ITERATIONS, SIRT_ITERATIONS),
    ctf={"left": 1.0},
    binning={"none": 1.0},
    exact_share=0.0,
    dose_weight_share=0.0,
    mean_normalised_share=0.0,
    deconvolve_share=0.0,
    highpass_share=0.0,
    eight_bit_share=0.0,
)


def main() -> None:
    options = parse_options()
    config = load_config(SimulationConfig, options.config)
    models = [name.partition("=")[::2] for name in options.models]
    restore = {name: load_restorer(path or name, options.device) for name, path in models}
    rows = []
    for row in score_all(options, config, restore):
        rows.append(row)
        print(f"{row['test']}, {row['kind']}", flush=True)
        if options.json:  # as it grows, so that an interrupted run is not lost
            options.json.write_text(json.dumps(rows, indent=1))
    text = tables(rows)
    if options.microtubule:
        rings = [
            {"test": "microtubule", "model": n, **v} for n, v in ring_scores(options.microtubule, restore)
        ]
        text += "\n\n" + "\n".join(ring_table(rings))
        rows += rings
    print(text)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.markdown:
        write_tables(options.markdown, text)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--structures", type=Path, action="append", default=[])
    parser.add_argument("--membrane-structures", type=Path, action="append", default=[])
    parser.add_argument("--config", type=Path, default=HERE.parent / "configs" / "held-out.yaml")
    parser.add_argument(
        "--models", nargs="+", default=list(bundled_models()), help="bundled names, or NAME=PATH; all bundled"
    )
    parser.add_argument("--tests", nargs="+", choices=TESTS, default=TESTS)
    parser.add_argument("--repeats", type=int, default=2, help="tomograms per kind")
    parser.add_argument("--microtubule", type=Path, help="the real one, see docs/real-microtubule.md")
    parser.add_argument("--device", default="auto", help="where the models run")
    parser.add_argument("--json", type=Path, help="all scores, and all that was drawn")
    parser.add_argument(
        "--markdown", type=Path, help="the tables; into the marked place of a file that has one"
    )
    return parser.parse_args()


def load_restorer(name: str, device: str, *, protein: str = "dark") -> Restore:
    """A model as a function of a tomogram."""
    network, _ = load_model(name)
    return partial(restore_tomogram, network=network, protein=protein, device=choose_device(device))


def score_all(
    options: argparse.Namespace, config: SimulationConfig, restore: Mapping[str, Restore]
) -> Iterator[dict[str, Any]]:
    """Rows of the tests that were asked for, one after another."""
    if "held-out" in options.tests:
        for case in held_out_cases(options, config):
            yield score_case(case, restore)
    if "other-simulator" in options.tests:
        for case in other_cases(options, config):
            yield score_case(case, restore)
    if "out-of-class" in options.tests:
        for case, ice in out_of_class_cases(config.acquisition, repeats=options.repeats):
            row = score_case(case, restore)
            yield row
            yield left_in_ice(ice, row, restore)


def held_out_cases(options: argparse.Namespace, config: SimulationConfig) -> Iterator[Case]:
    """The package's own simulator; the specimen and its recording are made twice, for WBP and for SIRT."""
    how: dict[str, Any] = {
        "structures": find_structures(options.structures, only=config.structures),
        "membrane_structures": find_structures(
            options.membrane_structures, only=config.structures, in_membrane=True
        ),
    }
    names = [s.name for s in [*how["structures"], *how["membrane_structures"]]]
    print(f"species: {', '.join(names) or 'procedural'}", flush=True)
    for i, kind in enumerate(sorted(config.specimens)):
        for repeat in range(options.repeats):
            seed = FIRST_SEED + 100 * i + repeat
            one = config.model_copy(update={"specimens": {kind: config.specimens[kind]}})
            pair = simulate_pair(one, seed=seed, **how)
            sirt = simulate_pair(one.model_copy(update={"processing": ONLY_SIRT}), seed=seed, **how)
            exposure = pair.record["exposure"]
            yield Case(
                test="held-out structures",
                kind=kind,
                tomogram=pair.tomogram,
                plain=pair.tomogram,
                sirt=sirt.tomogram,
                density=pair.density,
                tilt_range=tuple(pair.record["tilt_range"]),
                voxel_size=pair.voxel_size,
                defocus_um=exposure["defocus_um"],
                optics=Optics(**exposure["optics"]),
                record=pair.record,
            )


def other_cases(options: argparse.Namespace, config: SimulationConfig) -> Iterator[Case]:
    """The other simulator: each series as its users process it, and plain, to tell the two apart."""
    maps = read_held_out(options.structures, config)
    membrane_maps = read_held_out(options.membrane_structures, config)
    kinds = other.KINDS if maps else other.KINDS[1:]
    print(f"maps: {', '.join([*maps, *membrane_maps]) or 'none, so no complexes'}", flush=True)
    for i, kind in enumerate(kinds):
        for repeat in range(options.repeats):
            seed = OTHER_SEED + 100 * i + repeat
            rng = np.random.default_rng(seed)
            density = other.build_specimen(kind, maps, membrane_maps, rng)
            recording = other.draw_recording(rng)
            images = other.record_series(density, recording, rng)
            method = "fbp" if (i + repeat) % 2 == 0 else "sart"
            facts = {"seed": seed, "method": method, "recording": recording.record()}
            yield from other_pair(kind, images, other.crop_density(density), recording, facts)


def read_held_out(folders: Sequence[Path], config: SimulationConfig) -> dict[str, np.ndarray]:
    """Maps of the held-out structures in some folders."""
    return {k: v for f in folders for k, v in other.read_maps(f, config.structures or ()).items()}


def other_pair(kind, images, density, recording, facts) -> Iterator[Case]:
    """One series of the other simulator, multiplied by the CTF and high-passed, and plain."""
    angles = recording.tilt_angles
    period = float(np.random.default_rng(facts["seed"] + 1).uniform(300, 800))
    plain = other.reconstruct(images, angles, facts["method"])
    multiplied = other.reconstruct(other.multiply_ctf(images, recording), angles, facts["method"])
    centred = torch.from_numpy(images / images.mean(axis=(1, 2), keepdims=True) - 1)
    sirt = reconstruct_sirt(centred, np.array(angles), depth=other.SHAPE[0], iterations=SIRT_ITERATIONS)
    left = (images.shape[2] - other.SHAPE[2]) // 2
    inputs = {"other simulator": other.highpass(multiplied, period), "other simulator, plain": plain}
    for test, tomogram in inputs.items():
        yield Case(
            test=test,
            kind=f"{kind}, {facts['method'].upper()}",
            tomogram=torch.from_numpy(tomogram),
            plain=torch.from_numpy(plain),
            sirt=sirt[:, :, left : left + other.SHAPE[2]],
            density=torch.from_numpy(density),
            tilt_range=(angles[0], angles[-1]),
            voxel_size=other.VOXEL,
            defocus_um=recording.reported_defocus_um,
            optics=Optics(recording.kilovolts, recording.cs_mm, recording.absorption),
            record=facts | {"highpass_period": period},
        )


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of all tests: the mean of each method, then the correlations by kind; then empty ice."""
    parts = []
    scored = [row for row in rows if "scores" in row]
    for test in dict.fromkeys(row["test"] for row in scored):
        chosen = [row for row in scored if row["test"] == test]
        parts += [f"### {test[0].upper()}{test[1:]}", "", *mean_table(chosen), ""]
        parts += ["Correlation all / wedge / measured:", "", *kind_table(chosen), ""]
    if ice := [row for row in rows if "left" in row]:
        parts += [
            "### Empty ice: deviation left, over that of the specimen recorded alike",
            "",
            *ice_table(ice),
        ]
    return "\n".join(parts).rstrip()


def ring_scores(path: Path, restore: Mapping[str, Restore]) -> Iterator[tuple[str, dict[str, float]]]:
    """How closed the ring of the real microtubule is before and after each model (microtubule_ring.py)."""
    raw = read_volume(path)
    slopes = find_slopes(raw.data)
    before = mean_along_slopes(raw.data, *slopes)
    for name, run in restore.items():
        restored = run(torch.from_numpy(raw.data), protein="bright")
        after = mean_along_slopes(restored.numpy(), *slopes)
        centre = ring_centre(after, raw.voxel_size)
        names = ("weakest", "elongation")
        values = [
            dict(zip(names, map(float, measure(section, centre, raw.voxel_size)), strict=True))
            for section in (before, after)
        ]
        yield name, {"before": values[0], "after": values[1]}


def ring_table(rings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: before and after each model."""
    lines = [
        "### Real microtubule",
        "",
        "| | weakest wall over the sides | diameter along z over x |",
        "|---" * 3 + "|",
    ]
    for ring in rings:
        for when, name in (("before", f"raw (centre of {ring['model']})"), ("after", ring["model"])):
            lines.append(f"| {name} | {ring[when]['weakest']:.2f} | {ring[when]['elongation']:.2f} |")
    return lines


def write_tables(path: Path, text: str) -> None:
    """Put the tables between the marks of a file, or into a file of their own."""
    old = path.read_text() if path.exists() else ""
    if all(mark in old for mark in MARKS):
        before, rest = old.split(MARKS[0], 1)
        after = rest.split(MARKS[1], 1)[1]
        text = f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}"
    path.write_text(text if text.endswith("\n") else text + "\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
