"""How fast the restoration network trains: forward, backward and step, and how long the crops take.

    python benchmarks/training_throughput.py [--config configs/default-model.yaml] [--threads 1] [--steps 10]

Prints millions of voxels per second of crops that went through a whole step, in the mean over
the two tasks as the configuration has them, without and with the time for drawing the crops.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from cryomend.config import TrainingConfig, load_recipe
from cryomend.restoration.predict import choose_device
from cryomend.training.crops import prepare_pair
from cryomend.training.loop import Trainer
from cryomend.training.rotate import rotated_side

VARIANTS = {
    "as configured": {},
    "one task": {"lambda_recon": 0.0},
    "both tasks in every step": {"lambda_recon": 0.1, "recon_share": 1.0},
    "rotated crops": {"rotation_share": 1.0},
    "wedge counts": {"wedge_weight": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default=None, help="recipe (YAML)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="per line")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    device = choose_device(options.device)
    config = load_recipe(options.config).training
    if options.batch:
        config = config.model_copy(update={"batch": options.batch})
    volume = torch.randn(128, 160, 160, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    pair = prepare_pair(volume, volume.abs())
    print(f"{device}, {options.threads} threads, {config.batch} crops of {config.crop}³ per step")
    print(f"prepare a pair of 128 x 160 x 160: {time.perf_counter() - start:.2f} s")
    crop_voxels = config.batch * config.crop**3 / 1e6
    if rotated_side(config.crop) > 128:
        raise SystemExit("the rotated crops do not fit; make training.crop smaller")
    for name, change in VARIANTS.items():
        step, wait = measure(config.model_copy(update=change), pair, options.steps, device)
        rates = f"{crop_voxels / (step - wait):6.2f} Mvox/s of forward, backward and step"
        print(f"{name:26}{rates}, {crop_voxels / step:6.2f} with drawing ({wait / step:.0%} waiting)")


def measure(config: TrainingConfig, pair: object, steps: int, device: torch.device) -> tuple[float, float]:
    """Mean seconds of a step and of its drawing; the first two steps warm up."""
    trainer = Trainer(config, [pair], seed=0, device=device)  # type: ignore[list-item]
    times = []
    with trainer.drawing_ahead():
        for _ in range(steps + 2):
            start = time.perf_counter()
            trainer.take_step()
            times.append((time.perf_counter() - start, trainer.waited))
    return tuple(statistics.mean(column) for column in zip(*times[2:], strict=True))


if __name__ == "__main__":
    main()
