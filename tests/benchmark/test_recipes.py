"""Recipes: those of the package, and what is refused in a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryomend.benchmark.methods import METHODS
from cryomend.benchmark.recipes import check_methods, known_methods, named_recipes, read_recipe
from cryomend.config import SimulationConfig, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ["empiar-10045", "empiar-10499", "empiar-10643", "empiar-10678", "full", "small", "tiny"]


def test_the_package_has_seven_recipes_and_all_can_be_read():
    assert list(named_recipes()) == NAMES
    assert [read_recipe(name).title.lower() for name in NAMES] == NAMES


def test_the_simulated_recipes_have_the_physics_of_the_held_out_tests():
    held_out = load_config(SimulationConfig, CONFIGS / "held-out.yaml")
    simulated = read_recipe("full").simulated
    assert simulated is not None
    assert simulated.simulation.acquisition == held_out.acquisition
    assert simulated.simulation.specimens == held_out.specimens


def test_seeds_of_simulated_recipes_are_no_seeds_of_training():
    for name in ("tiny", "small", "full"):
        simulated = read_recipe(name).simulated
        assert simulated is not None
        assert simulated.seed >= 700_000


def test_the_lambda_and_noise_rows_are_those_of_the_paper():
    for name in ("tiny", "small", "full"):
        ablation = read_recipe(name).ablation
        assert ablation.lambdas == (0.0, 0.1, 0.2, 1.0)
        assert ablation.gaussian_db == (0.0, 2.0, 5.0, 10.0)
        assert ablation.noise_model == "wgan"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[two_stage]\nstep = 3\n", "two_stage.step: no such option; did you mean steps"),
        ("[deepdewedge]\nseconds = 0\n", "deepdewedge.seconds: Input should be greater than 0"),
        ('[external.isonet]\ncomand = "x"\n', "external.isonet.comand"),
        ('[external.isonet]\ncommand = "isonet {outptu}"\n', "unknown placeholder {outptu}"),
        ('[external.wbp]\ncommand = "x {output}"\n', "external.wbp: a method of the package has that name"),
        ('[[tomograms]]\nname = "a"\n', "has either [simulated] or [[tomograms]]"),
        ("[broken\n", "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_its_place(recipe, run_cli, tmp_path, more, message):
    path = recipe(more)
    result = run_cli("benchmark", path, "-o", tmp_path / "out")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_unknown_methods_are_refused_with_those_there_are(recipe):
    config = read_recipe(str(recipe('[external.isonet2]\ncommand = "isonet {output}"\n')))
    assert known_methods(config) == [*METHODS, "per-data-set", "isonet2"]
    check_methods(config, ("wbp", "isonet2"))
    with pytest.raises(ValueError, match=r"unknown method 'wpb'; choose from wbp, sirt, .*, isonet2"):
        check_methods(config, ("wpb",))
    with pytest.raises(ValueError, match="a method is named twice"):
        check_methods(config, ("wbp", "wbp"))


def test_tomograms_need_names_of_their_own(tmp_path):
    (tmp_path / "a.toml").write_text('[[tomograms]]\nname = "a"\n' * 2)
    with pytest.raises(ValueError, match="each tomogram needs a name of its own"):
        read_recipe(str(tmp_path / "a.toml"))


def test_an_unknown_recipe_is_refused_with_the_names():
    with pytest.raises(
        ValueError, match=r"no recipe 'tinny'; there are empiar-10045, .*, tiny; or give a TOML"
    ):
        read_recipe("tinny")


def test_a_base_that_leads_back_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('base = "b.toml"')
    (tmp_path / "b.toml").write_text('base = "a.toml"')
    with pytest.raises(ValueError, match=r"b.toml: base a.toml leads back to itself"):
        read_recipe(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("base", ["small", "small.toml"])
def test_a_recipe_of_the_package_can_be_the_base_of_ones_own(tmp_path, base):
    (tmp_path / "a.toml").write_text(f'base = "{base}"\n[external.isonet2]\ncommand = "isonet {{output}}"\n')
    mine, theirs = read_recipe(str(tmp_path / "a.toml")), read_recipe("small")
    assert mine.external.keys() == {"isonet2", *theirs.external}
    assert mine.simulated == theirs.simulated
