"""Simulated cases: made once, the same for equal seeds, with a truth and halves of electrons."""

from __future__ import annotations

import pytest
import torch

from cryomend.benchmark.simulated import record_blanks, simulate_cases
from cryomend.evaluation import correlation
from cryomend.io import InputError, read_stack


def changed(config, **values):
    return config.model_copy(update=values)


def test_equal_seeds_give_equal_cases_and_others_do_not(simulated, tmp_path):
    a, b = (simulate_cases(simulated, tmp_path / n)[0] for n in "ab")
    other = simulate_cases(changed(simulated, seed=1), tmp_path / "c")[0]
    assert torch.equal(a.read("whole"), b.read("whole"))
    assert a.digest == b.digest != other.digest
    assert not torch.equal(a.read("whole"), other.read("whole"))


def test_a_case_that_stands_is_left_alone_until_its_recipe_changes(simulated, tmp_path):
    case = simulate_cases(simulated, tmp_path)[0]
    before = case.path("whole").stat().st_mtime_ns
    assert simulate_cases(simulated, tmp_path)[0].path("whole").stat().st_mtime_ns == before
    other = simulate_cases(changed(simulated, halves="tilts"), tmp_path)[0]
    assert other.digest != case.digest and not other.has("first")
    assert case.path("whole").stat().st_mtime_ns != before


def test_halves_share_the_signal_and_the_tomogram_the_truth(simulated, tmp_path):
    case = simulate_cases(simulated, tmp_path)[0]
    truth = case.truth()
    assert truth is not None
    assert correlation(-case.read("whole"), truth) > 0.2
    assert 0.05 < correlation(case.read("even"), case.read("odd")) < 0.9
    assert case.areas() is not None
    assert case.defocus_um is not None


def test_repeats_and_kinds_name_the_cases(simulated, tmp_path):
    cases = simulate_cases(changed(simulated, repeats=2), tmp_path)
    assert [case.name for case in cases] == ["ball-1", "ball-2"]


def test_blanks_hold_noise_alone(simulated, tmp_path):
    ((stack, angles),) = record_blanks(simulated, tmp_path)
    images = torch.from_numpy(read_stack(stack).data)
    assert images.shape[0] == len(angles.read_text().split())
    noise = images / images.mean(dim=(1, 2), keepdim=True) - 1
    neighbours = (noise[:, :, 8:] * noise[:, :, :-8]).mean() / noise.square().mean()
    assert abs(neighbours) < 0.02
    assert record_blanks(simulated, tmp_path) == [(stack, angles)]


def test_unknown_kinds_and_noise_without_electrons_are_refused(simulated, tmp_path):
    with pytest.raises(InputError, match="no kind 'cube'; there are ball"):
        simulate_cases(changed(simulated, kinds=("cube",)), tmp_path)
    acquisition = simulated.simulation.acquisition.model_copy(update={"snr": 0.1})
    simulation = simulated.simulation.model_copy(update={"acquisition": acquisition})
    with pytest.raises(InputError, match="halves count electrons; set fluence instead"):
        simulate_cases(changed(simulated, simulation=simulation), tmp_path)
    empty = simulated.simulation.model_copy(update={"specimens": {}})
    with pytest.raises(InputError, match="no kind of specimen; write at least one"):
        simulate_cases(changed(simulated, simulation=empty), tmp_path)
