"""The checks without a truth, on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomend.evaluation.projections import hold_out_tilts
from cryomend.fourier import gaussian_lowpass
from cryomend.projection import project_density
from cryomend.reconstruction import reconstruct_wbp
from cryomend.restoration.check import (
    TiltData,
    check_halves,
    check_held_out,
    check_noise,
    check_reprojection,
)

SHAPE, VOXEL = (32, 64, 64), 10.0
ANGLES = np.arange(-60.0, 61.0, 4.0)


def balls(n: int, seed: int) -> torch.Tensor:
    """Smooth dark balls inside a slab."""
    rng = np.random.default_rng(seed)
    volume = torch.zeros(SHAPE)
    for _ in range(n):
        z, y, x = rng.integers((8, 6, 6), (24, 58, 58))
        volume[z, y, x] = -1
    return gaussian_lowpass(volume, 1.5)


def noise(shape, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return balls(80, 0)


@pytest.fixture(scope="module")
def data(truth) -> TiltData:
    clean = project_density(truth, ANGLES)
    return TiltData(
        clean + 0.7 * clean.std() * noise(clean.shape, 1), ANGLES, hold_out_tilts(ANGLES, every=5), VOXEL
    )


@pytest.fixture(scope="module")
def halves(truth) -> tuple[torch.Tensor, torch.Tensor]:
    clean = project_density(truth, ANGLES)
    even, odd = (
        reconstruct_wbp(clean + clean.std() * noise(clean.shape, n), ANGLES, thickness=32) for n in (2, 3)
    )
    return even, odd


def check_pair(even, odd, even_restored, odd_restored):
    return check_halves(even, odd, even_restored, odd_restored, voxel_size=VOXEL, tilt_range=(-60, 60))


def test_the_truth_agrees_with_the_tilts_everywhere(truth, data):
    reprojection, support = check_reprojection(truth, data)
    assert (reprojection.verdict, support.verdict) == ("good", "good")
    assert reprojection.number > 1.1
    assert [tilt["tilt_angle"] for tilt in reprojection.detail["per_tilt"]] == list(ANGLES)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda v: -v, "contrast is inverted"),
        (lambda v: torch.roll(v.flip(0), 1, 0), "other sign"),
        (lambda v: torch.roll(v, 3, 2), "correlation"),
        (lambda v: balls(80, 7), "correlation"),
    ],
)
def test_wrong_contrast_hand_place_and_specimen_are_bad(truth, data, fault, words):
    reprojection, _ = check_reprojection(fault(truth), data)
    assert reprojection.verdict == "bad"
    assert words in reprojection.meaning


def test_a_pasted_structure_fails_the_support_where_it_was_pasted(truth, data):
    invented = truth.clone()
    invented[10:22, 40:54, 10:24] += 1.5 * balls(500, 4)[10:22, 40:54, 10:24]
    _, support = check_reprojection(invented, data)
    assert support.verdict == "bad"
    _, y, x = support.detail["centre_zyx_px"]
    assert 32 <= y <= 62 and 2 <= x <= 32


def test_tilts_of_noise_are_bad(truth, data):
    empty = TiltData(noise(data.images.shape, 5), ANGLES, data.apart, VOXEL)
    assert check_reprojection(truth, empty)[0].verdict == "bad"
    assert check_held_out(empty, lambda tomogram: tomogram, thickness=32).verdict == "bad"


@pytest.mark.parametrize("how", [{"every": 5}, {"outermost": 2}])
def test_the_true_specimen_foretells_tilts_that_nobody_saw(truth, data, how):
    apart = TiltData(data.images, ANGLES, hold_out_tilts(ANGLES, **how), VOXEL)
    check = check_held_out(apart, lambda tomogram: truth, thickness=32)
    assert check.verdict == "good" and check.number > 1.1
    assert len(check.detail["per_tilt"]) == apart.apart.sum()


def test_a_restoration_that_changes_nothing_scores_one(data):
    assert check_held_out(data, lambda tomogram: tomogram, thickness=32).number == pytest.approx(1)


def test_the_held_out_tilts_are_not_in_what_is_restored(truth, data):
    """Else noise of the tilts would be counted as foretold."""
    seen = []
    check_held_out(data, lambda tomogram: seen.append(tomogram) or tomogram, thickness=32)
    kept = torch.from_numpy(~data.apart)
    expected = reconstruct_wbp(data.images[kept], ANGLES[~data.apart], thickness=32)
    torch.testing.assert_close(seen[0], expected)


def test_an_invention_lowers_the_score_of_the_held_out_tilts(truth, data):
    honest, invented = (
        check_held_out(data, lambda tomogram, v=v: v, thickness=32).number
        for v in (truth, truth + 2 * balls(20, 6))
    )
    assert invented < honest - 0.1


def test_halves_restored_to_the_truth_are_good_and_a_common_picture_is_bad(truth, halves):
    assert check_pair(*halves, truth, truth).verdict == "good"
    picture = truth + 3 * truth.std() * gaussian_lowpass(noise(SHAPE, 8), 1.0) / 0.1
    assert check_pair(*halves, picture, picture).verdict == "bad"


def test_the_worse_half_decides(truth, halves):
    assert check_pair(*halves, truth, -truth).verdict == "bad"
    assert check_pair(*halves, -truth, truth).verdict == "bad"


def test_noise_that_vanishes_is_good_and_noise_that_stays_is_bad(truth, halves):
    tomogram = halves[0] + halves[1]

    def check(restore):
        generator = torch.Generator().manual_seed(0)
        return check_noise(tomogram, truth, restore, generator=generator, halves=halves)

    assert [c.verdict for c in check(lambda v: 0.01 * v)] == ["good", "good"]
    checks = check(lambda v: v * (truth.std() / tomogram.std()))
    assert [c.verdict for c in checks] == ["bad", "bad"]
    assert [c.number for c in checks] == pytest.approx([1, 1], abs=0.02)


def test_equal_halves_have_no_noise(truth, halves):
    with pytest.raises(ValueError, match="are the halves equal"):
        check_noise(halves[0], truth, lambda v: v, generator=torch.Generator(), halves=(halves[0], halves[0]))
