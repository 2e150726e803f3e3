import math

import pytest
import torch

from cryomend.geometry import missing_wedge_mask
from cryomend.training.crops import prepare_pair
from cryomend.training.validate import SCORES, central_part, draw_sections, score_restored


def pair(tilt_range=(-60.0, 60.0)):
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    return prepare_pair(noise, noise, tilt_range=tilt_range, voxel_size=10.0)


def test_central_part_is_a_multiple_long_and_in_the_middle():
    assert central_part((96, 200, 37), multiple=16) == (slice(0, 96), slice(36, 164), slice(2, 34))


def test_the_truth_scores_one_and_its_measured_part_nothing_in_the_wedge():
    source = pair((-50.0, 65.0))
    truth = source.density.float()
    assert score_restored(truth, truth, source) == pytest.approx(dict.fromkeys(SCORES, 1.0), abs=1e-4)
    mask = missing_wedge_mask((32, 32, 32), tilt_min=-50, tilt_max=65)
    mask = mask & mask.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    filtered = torch.fft.ifftn(torch.fft.fftn(truth) * mask).real
    scores = score_restored(filtered, truth, source)
    assert scores["measured_fsc"] == pytest.approx(1, abs=1e-3)
    assert abs(scores["wedge_fsc"]) < 0.1
    # noise has its power everywhere alike: the root of the measured share is left of the correlation
    assert scores["correlation"] == pytest.approx(math.sqrt(mask.float().mean()), abs=0.02)


def test_picture_has_input_output_and_truth_from_left_to_right():
    volumes = [torch.zeros(8, 12, 16) for _ in range(3)]
    volumes[1][4, 3, 5] = 1  # x-y section: row 3, column 5
    volumes[2][6, 6, 2] = 1  # x-z section: row 6, column 2
    volumes[2][4, 0, 0] = 1
    picture = draw_sections(*volumes)
    assert picture.shape == (12 + 4 + 8, 3 * 16 + 2 * 4)
    assert picture[3, 20 + 5] == 255
    assert picture[16 + 6, 40 + 2] == 255
    assert (picture[:, 16:20] == 255).all()
