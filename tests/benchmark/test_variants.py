"""The tables noise and lambda: rows that differ in one thing, trained with the same effort."""

from __future__ import annotations

import pytest

from cryomend.benchmark import BenchmarkOptions, run_benchmark
from cryomend.benchmark.variants import Variant, lambda_variants, noise_variants, vary_recipe
from cryomend.config import AblationConfig, Recipe

ABLATION = """
[ablation]
pairs = 2
gaussian_db = [5.0]
lambdas = [0.0, 1.0]
noise_model = "spectral"
patch = 16
[ablation.recipe.training]
channels = [2, 2]
crop = 16
steps = 2
rotation_share = 0.0
[ablation.recipe.simulation]
processing = { methods = { wbp = 1.0 }, binning = { none = 1.0 } }
[ablation.recipe.simulation.acquisition]
tilt_step = [12.0, 12.0]
[ablation.recipe.simulation.specimens.ball]
shape = [20, 24, 24]
membranes = [{ kind = "ellipsoid", radius = [50.0, 60.0], proteins = [0.0, 0.0] }]
occupancy = [0.0, 0.0]
slab_margin = [20.0, 30.0]
"""


def test_rows_are_those_of_the_paper():
    config = AblationConfig()
    assert list(noise_variants(config)) == [
        "learned (wgan)", "Gaussian, 0 dB", "Gaussian, 2 dB", "Gaussian, 5 dB", "Gaussian, 10 dB",
    ]  # fmt: skip
    assert list(lambda_variants(config)) == ["λ_recon 0", "λ_recon 0.1", "λ_recon 0.2", "λ_recon 1"]


def test_rows_differ_in_what_their_name_says():
    base = vary_recipe(Recipe(), Variant(), {"steps": 7})
    assert base.training.steps == 7
    assert (base.training.lambda_recon, base.simulation.acquisition.snr_db) == (0.1, None)
    for variant in noise_variants(AblationConfig()).values():
        recipe = vary_recipe(Recipe(), variant, {"steps": 7})
        assert recipe.training == base.training
        assert recipe.simulation.acquisition.snr_db == variant.snr_db
    for value, variant in zip((0.0, 0.1, 0.2, 1.0), lambda_variants(AblationConfig()).values(), strict=True):
        recipe = vary_recipe(Recipe(), variant, {"steps": 7})
        assert recipe.simulation == base.simulation
        assert recipe.training == base.training.model_copy(update={"lambda_recon": value})


def test_rows_of_the_lambda_table_share_their_pairs_and_those_of_the_noise_table_do_not():
    assert len({variant.pairs for variant in lambda_variants(AblationConfig()).values()}) == 1
    assert len({variant.pairs for variant in noise_variants(AblationConfig()).values()}) == 5


@pytest.mark.parametrize(
    ("table", "labels"),
    [
        ("noise", ["learned (spectral)", "Gaussian, 5 dB"]),
        ("lambda", ["λ_recon 0", "λ_recon 1"]),
    ],
)
def test_the_tables_are_trained_and_restored(recipe, tmp_path, in_process, table, labels):
    options = BenchmarkOptions(table=table, device="cpu", command="c")
    lines = run_benchmark(str(recipe(ABLATION)), tmp_path / "out", options)
    assert not any("failed" in line for line in lines), lines
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[4:6]] == labels
    assert in_process.count("noise") == 1
    assert sum(name.startswith("train--") for name in in_process) == 2
    assert len(list((tmp_path / "out" / "ablation").iterdir())) == (2 if table == "noise" else 1)
    assert (tmp_path / "out" / f"{table}_ball.png").is_file()
    done = len(in_process)
    run_benchmark(str(recipe(ABLATION)), tmp_path / "out", options)
    assert len(in_process) == done


def test_the_row_of_the_usual_lambda_is_the_learned_row_of_the_noise_table():
    config = AblationConfig()
    assert lambda_variants(config)["λ_recon 0.1"] == noise_variants(config)["learned (wgan)"]
    names = [v.name for table in (lambda_variants, noise_variants) for v in table(config).values()]
    assert len(set(names)) == len(names) - 1
