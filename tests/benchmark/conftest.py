"""A recipe small enough to be run often, and jobs without processes of their own."""

from __future__ import annotations

import json

import pytest

from cryomend.benchmark import run as benchmark_run
from cryomend.benchmark.job import read_record
from cryomend.benchmark.row import do_job
from cryomend.config import SimulatedDataConfig

SMALL = {
    "specimens": {
        "ball": {
            "shape": [24, 32, 32],
            "membranes": [{"kind": "ellipsoid", "radius": [70.0, 80.0], "proteins": [0.0, 0.0]}],
            "occupancy": [0.0, 0.0],
            "slab_margin": [20.0, 30.0],
        }
    },
    "acquisition": {"tilt_step": [10.0, 10.0], "fluence": [200.0, 200.0]},
}
RECIPE = """
title = "smallest"
methods = ["wbp", "gaussian"]
[simulated]
blanks = 1
[simulated.simulation.acquisition]
tilt_step = [10.0, 10.0]
fluence = [200.0, 200.0]
[simulated.simulation.specimens.ball]
shape = [24, 32, 32]
membranes = [{ kind = "ellipsoid", radius = [70.0, 80.0], proteins = [0.0, 0.0] }]
occupancy = [0.0, 0.0]
slab_margin = [20.0, 30.0]
"""


@pytest.fixture
def simulated() -> SimulatedDataConfig:
    """One tomogram with one vesicle."""
    return SimulatedDataConfig.model_validate({"simulation": SMALL, "blanks": 1})


@pytest.fixture
def recipe(tmp_path):
    """Write the recipe, with more at its end; gives its file."""

    def write(more: str = "", *, before: str = ""):
        path = tmp_path / "recipe.toml"
        path.write_text(before + RECIPE + more)
        return path

    return write


@pytest.fixture
def in_process(monkeypatch) -> list[str]:
    """Do jobs in this process; gives the names of those that were done and not taken as they stood."""
    done: list[str] = []

    def run_job(job, on_progress):
        if (record := read_record(job)) is not None:
            return record
        done.append(job.name)
        do_job(job)
        return json.loads(job.record.read_text())

    monkeypatch.setattr(benchmark_run, "_run_job", run_job)
    return done
