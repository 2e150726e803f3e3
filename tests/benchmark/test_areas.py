"""Areas of a known density lie where it is and where it is not, and never on each other."""

from __future__ import annotations

import pytest
import torch

from cryomend.benchmark.areas import find_areas
from cryomend.evaluation.areas import require_apart


def blobs() -> torch.Tensor:
    density = torch.zeros(24, 48, 48)
    for y, x in ((14, 14), (14, 32), (34, 14)):
        density[8:16, y - 5 : y + 5, x - 5 : x + 5] = 1.0
    return density


def test_the_foreground_is_full_and_the_background_empty():
    areas = find_areas(blobs())
    assert [a.name for a in areas.foreground] == ["s1", "s2", "s3"]
    assert [a.name for a in areas.background] == ["b1", "b2", "b3"]
    assert all(blobs()[a.region].min() == 1 for a in areas.foreground)
    assert all(blobs()[a.region].max() == 0 for a in areas.background)


def test_pairs_share_their_planes_and_no_two_boxes_overlap():
    areas = find_areas(blobs())
    for front, back in zip(areas.foreground, areas.background, strict=True):
        assert front.ranges[0] == back.ranges[0]
    require_apart(areas)
    filled = torch.zeros(24, 48, 48)
    for area in (*areas.foreground, *areas.background):
        filled[area.region] += 1
    assert filled.max() == 1


def test_a_volume_without_room_is_refused():
    with pytest.raises(ValueError, match="no room for areas in a volume of shape \\(16, 10, 10\\)"):
        find_areas(torch.zeros(16, 10, 10))
