"""Fit the three noise models to noise of known laws and to real stacks; compare them with held-out noise.

Run ``make bench-noise ARGS="--work DIR [--real DIR] [--minutes 30] [--sets skewed gaussian]"``.

The known laws are made here, pixel by pixel and by no code of the package: *gaussian* is white noise through
two anisotropic blurs; *skewed* is the same of a gamma law that gets more skewed with the tilt, its strength
modulated over some thirty pixels. Both are stronger at high tilt. 2,000 patches of 128 pixels train,
1,024 x 1,024 pixels per tilt of another seed are held out. With ``--real`` (a folder with
ribosome_particle_tilts.mrcs and .star and hiv_vlp_4_tilts.mrc) patches of 32 pixels are cut from some tilts
and compared with those of the others. Finished fits and samples in the working folder are kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from cryomend.io import read_stack, write_tilt_angles, write_volume

ANGLES = np.arange(-60, 61, 3.0)
MODELS = ("gaussian", "spectral", "wgan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--sets", nargs="+", default=["skewed", "gaussian"])
    parser.add_argument("--config", type=Path, help="YAML for `cryomend noise fit`")
    arguments = parser.parse_args()
    lines = []
    for name in arguments.sets:
        folder = arguments.work / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "train.h5").exists():
            prepare(name, folder, arguments.real)
        seconds = {m: fit_and_sample(m, folder, arguments.minutes, arguments.config) for m in MODELS}
        lines += table(name, check(folder), seconds)
    text = "\n".join(lines)
    (arguments.work / "table.md").write_text(text + "\n")
    print(text)


# ---- data -----------------------------------------------------------------------------------------


def tilt_of_known_law(rng, angle, size, *, skewed):
    """One tilt of a known law; the blurs are direct sums, not Fourier filters."""
    wide, cosine = size + 64, np.cos(np.radians(angle))
    if skewed:
        order = 4 * cosine
        white = (rng.gamma(order, size=(wide, wide)) - order) / np.sqrt(order)
    else:
        white = rng.standard_normal((wide, wide))
    noise = ndimage.gaussian_filter(white, (0.55, 0.75)) + 1.4 * ndimage.gaussian_filter(white, (2.0, 2.5))
    noise /= noise.std()
    if skewed:
        strength = ndimage.gaussian_filter(rng.standard_normal((wide, wide)), 10)
        noise = noise * np.exp(0.25 * strength / strength.std())
    noise = noise[32:-32, 32:-32]
    return (noise / noise.std() * 10 / np.sqrt(cosine)).astype(np.float32)


def prepare(name, folder, real):
    """Write train.h5, held (patches or a stack of noise only) and the angles a.tlt of a data set."""
    if name in ("skewed", "gaussian"):
        for part, seed, size in (("train", 1, 896), ("held", 2, 1024)):
            rng = np.random.default_rng(seed)
            stack = np.stack([tilt_of_known_law(rng, a, size, skewed=name == "skewed") for a in ANGLES])
            write_volume(folder / f"{part}.mrc", stack, voxel_size=10.0, stack=True)
        write_tilt_angles(folder / "a.tlt", ANGLES)
        # All of it is noise: the search, which keeps quiet places, is not what is measured here.
        (folder / "areas.txt").write_text("* 0 896 0 896\n")
        extract(folder, "train", 128, "--areas", folder / "areas.txt", "--max-patches", 2000)
        return
    stack, angles, first, whole = read_real(name, real)
    boxes = folder / "areas.txt"
    boxes.write_text(f"* 0 {stack.shape[1]} 0 {stack.shape[2]}\n")
    for part, rows in (("train", slice(None, first)), ("held", slice(first, None))):
        write_volume(folder / f"{part}.mrc", stack[rows], voxel_size=10.0, stack=True)
        write_tilt_angles(folder / f"{part}.tlt", angles[rows])
        extract(folder, part, 32, *(("--areas", boxes) if whole else ()))
    write_tilt_angles(folder / "a.tlt", np.unique(angles[first:]))


def read_real(name, real):
    """A real stack, its angles, the first held-out image and whether its boxes are used whole."""
    if name == "ribosomes":
        stack = read_stack(real / "ribosome_particle_tilts.mrcs").data
        rows = [line.split() for line in (real / "ribosome_particle_tilts.star").read_text().splitlines()]
        cosines = [float(row[17]) for row in rows if len(row) > 17]  # the last row is cut short
        return stack[: len(cosines)], np.degrees(np.arccos(cosines)).round(), 156, True
    stack = read_stack(real / "hiv_vlp_4_tilts.mrc").data
    return stack, np.arange(len(stack), dtype=float), 2, False


def extract(folder, part, patch, *options):
    angles = folder / (f"{part}.tlt" if (folder / f"{part}.tlt").exists() else "a.tlt")
    run("noise", "extract", folder / f"{part}.mrc", "--tilt-angles", angles, "--patch", patch, *options,
        "-o", folder / f"{part}.h5")  # fmt: skip


# ---- models ---------------------------------------------------------------------------------------


def run(*arguments):
    """The command line, as a user would call it."""
    subprocess.run(["cryomend", *map(str, arguments)], check=True)


def fit_and_sample(model, folder, minutes, config):
    """Fit and sample unless done before; seconds of both."""
    record, fitted = folder / f"{model}.json", folder / f"{model}.safetensors"
    seconds = json.loads(record.read_text()) if record.exists() else {}
    if not fitted.exists():
        options = ("--max-minutes", minutes, *(("--config", config) if config else ()))
        begin = time.monotonic()
        run("noise", "fit", folder / "train.h5", "--model", model, *options, "-o", fitted)
        seconds["fit"] = time.monotonic() - begin
    sampled = folder / f"{model}.mrc"
    if not sampled.exists():
        begin = time.monotonic()
        run("noise", "sample", fitted, "--tilt-angles", folder / "a.tlt", "--size", 1024, 1024, "--seed", 5,
            "-o", sampled)  # fmt: skip
        seconds["sample"] = time.monotonic() - begin
    record.write_text(json.dumps(seconds))
    return seconds


def check(folder):
    held = folder / "held.h5" if (folder / "held.h5").exists() else folder / "held.mrc"
    run("noise", "check", held, *(folder / f"{m}.mrc" for m in MODELS), "--tilt-angles", folder / "a.tlt",
        "--json", folder / "check.json", "--figure", folder / "check.png")  # fmt: skip
    return json.loads((folder / "check.json").read_text())


def table(name, result, seconds):
    """Markdown: the floor and one row per model."""
    lines = [
        f"\n**{name}**, {result['patches']} held-out patches of {result['patch']} x {result['patch']}\n",
        "| | spectrum max / mean, dB | sectors max, dB | marginal | skewness, kurtosis | autocorrelation "
        "| std per tilt rms / worst, % | classifier | fit, min | 1024² tilt, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {"floor: two halves": result["floor"]} | {Path(k).stem: v for k, v in result["sampled"].items()}
    count = len(next(iter(result["sampled"].values())).get("std_tilts", [])) or 1
    for label, row in rows.items():
        worst, rms = (row.get(k, float("nan")) for k in ("std_ratio_worst", "std_ratio_rms"))
        spent = seconds.get(label, {})
        lines.append(
            f"| {label} | {row['spectrum_db_max']:.2f} / {row['spectrum_db_mean']:.2f} "
            f"| {row['sector_db_max']:.2f} | {row['wasserstein']:.3f} "
            f"| {row['skewness'][1]:.2f}, {row['kurtosis'][1]:.2f} | {row['autocorrelation_max']:.3f} "
            f"| {100 * rms:.1f} / {100 * (worst - 1):+.1f} | {row['classifier']:.2f} "
            f"| {spent.get('fit', 0) / 60:.1f} | {spent.get('sample', 0) / count:.2f} |"
        )
    real = next(iter(rows.values()))
    lines.append(f"\nThe real noise: skewness {real['skewness'][0]:.2f}, kurtosis {real['kurtosis'][0]:.2f}.")
    return lines


if __name__ == "__main__":
    main()
