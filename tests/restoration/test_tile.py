"""Tiling: the identity comes back, seams do not, and every tile has a side that the network takes."""

from __future__ import annotations

import pytest
import torch

from cryomend.restoration.tile import restore_tiles

SHAPES = [(16, 16, 16), (17, 40, 33), (50, 31, 97), (64, 48, 20)]
SETTINGS = [(32, 8, 16), (32, 16, 16), (48, 0, 16), (48, 24, 8), (96, 32, 16), (20, 7, 4), (16, 8, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tile", "overlap", "multiple"), SETTINGS)
def test_tiling_the_identity_is_the_identity(device, shape, tile, overlap, multiple):
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    tiled = restore_tiles(volume, lambda x: x, tile=tile, overlap=overlap, multiple=multiple)
    assert tiled.device == volume.device and tiled.dtype == volume.dtype
    # up to 8 tiles meet, each product and each weight rounded once
    torch.testing.assert_close(tiled, volume, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("origin", [(0, 0, 0), (5, -3, 40), (16, 31, 1000), (-7, 8, 15)])
@pytest.mark.parametrize(("tile", "overlap", "multiple"), SETTINGS)
def test_tiling_the_identity_is_the_identity_from_any_origin(origin, tile, overlap, multiple):
    volume = torch.randn(33, 70, 97, generator=torch.Generator().manual_seed(0))
    tiled = restore_tiles(volume, lambda x: x, tile=tile, overlap=overlap, multiple=multiple, origin=origin)
    torch.testing.assert_close(tiled, volume, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [1, 7, 16, 45])
def test_tiles_inside_stand_on_the_content_that_the_origin_marks(shift):
    """Each tile answers with a lattice of its own: only the same tiles give the same answer."""

    def lattice(x):
        ramp = torch.arange(x.shape[-1]).remainder(16) / 16 + torch.arange(x.shape[-1]) / 100
        return ramp.expand_as(x) + 0 * x

    def tiled(n, origin):
        return restore_tiles(torch.zeros(16, 16, n), lattice, tile=64, overlap=16, origin=(0, 0, origin))[
            0, 0
        ]

    whole, cut = tiled(300, 137), tiled(300 - shift, 137 - shift)
    there = slice(64, 300 - shift - 64)  # the first and the last tile hold on to the faces
    torch.testing.assert_close(cut[there], whole[shift:][there], rtol=0, atol=1e-6)
    elsewhere = tiled(300 - shift, 137)
    assert (elsewhere[there] - whole[shift:][there]).abs().max() > 0.01


@pytest.mark.parametrize("origin", range(16))
def test_a_volume_of_one_tile_has_one_from_any_origin(origin):
    seen = []
    restore_tiles(
        torch.zeros(64, 16, 30), lambda x: seen.append(x.shape[2:]) or x, tile=64, overlap=16,
        origin=(origin,) * 3,
    )  # fmt: skip
    assert len(seen) == 1 and seen[0][0] == (64 if origin == 0 else 80)
    assert all(side % 16 == 0 for side in seen[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_are_multiples_and_no_larger_than_asked(shape):
    sides = set()

    def record(x):
        sides.update(x.shape[2:])
        assert x.shape[:2] == (1, 1)
        return x

    restore_tiles(torch.zeros(shape), record, tile=48, overlap=16)
    assert all(side % 16 == 0 and 16 <= side <= 48 for side in sides)


def test_small_volume_takes_one_tile_of_the_next_multiple():
    seen = []
    restore_tiles(torch.zeros(20, 33, 16), lambda x: seen.append(x.shape) or x, tile=96, overlap=32)
    assert seen == [(1, 1, 32, 48, 16)]


def test_constant_function_gives_exactly_that_constant_up_to_rounding():
    tiled = restore_tiles(torch.zeros(50, 60, 70), lambda x: torch.full_like(x, 3.0), tile=32, overlap=12)
    torch.testing.assert_close(tiled, torch.full((50, 60, 70), 3.0), rtol=1e-6, atol=0)


def test_outside_the_volume_is_its_mirror_image():
    volume = torch.randn(17, 20, 31, generator=torch.Generator().manual_seed(3))
    seen = []
    restore_tiles(volume, lambda x: seen.append(x[0, 0]) or x, tile=32, overlap=0, origin=(0, 3, 13))
    (tile,) = seen
    assert torch.equal(tile[:17, 13:33, 3:34], volume)
    assert torch.equal(tile[17:, 13:33, 3:34], volume.flip(0)[: len(tile) - 17])
    assert torch.equal(tile[:17, :13, 3:34], volume[:, :13].flip(1))
    assert torch.equal(tile[:17, 13:33, :3], volume[..., :3].flip(2))


def test_a_thin_volume_is_mirrored_more_than_once():
    seen = []
    restore_tiles(torch.arange(3.0).expand(16, 16, 3), lambda x: seen.append(x) or x, tile=16, overlap=0)
    assert seen[0][0, 0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 2]


def test_disagreeing_tiles_are_joined_by_a_ramp_without_a_step():
    count = iter(range(100))
    # every tile answers with its own number: the hardest case for a seam
    tiled = restore_tiles(
        torch.zeros(16, 16, 112), lambda x: torch.full_like(x, float(next(count))), tile=48, overlap=16
    )
    steps = tiled[8, 8].diff().abs()
    # neighbours differ by one, and the steepest step of a sin² ramp over n = 8 voxels is sin(pi / 2 n)
    assert steps.max() <= torch.sin(torch.tensor(torch.pi / 16)) * 1.001
    assert tiled[8, 8, 0] == 0 and tiled[8, 8, -1] == 2


def test_local_filter_leaves_no_trace_of_the_tiles():
    def blur(x):
        return torch.nn.functional.avg_pool3d(x, 5, stride=1, padding=2, count_include_pad=True)

    volume = torch.randn(40, 50, 100, generator=torch.Generator().manual_seed(1))
    whole = blur(volume[None, None])[0, 0]
    tiled = restore_tiles(volume, blur, tile=48, overlap=24)
    # two voxels of reach are less than the six that are dropped at every inner edge: only rounding is left
    inner = (slice(2, -2),) * 3  # beyond a face the tiles go on
    torch.testing.assert_close(tiled[inner], whole[inner], rtol=0, atol=1e-6)


def test_linear_in_the_volume():
    a, b = torch.randn(2, 20, 40, 30, generator=torch.Generator().manual_seed(2))

    def tiled(v):
        return restore_tiles(v, lambda x: x.roll(1, -1) - 2 * x, tile=32, overlap=8)

    torch.testing.assert_close(tiled(2 * a - 3 * b), 2 * tiled(a) - 3 * tiled(b), rtol=1e-5, atol=1e-5)


def test_progress_counts_every_tile_to_the_end():
    calls = []
    restore_tiles(
        torch.zeros(16, 40, 40), lambda x: x, tile=32, overlap=8, progress=lambda *c: calls.append(c)
    )
    assert calls == [(i, 4) for i in range(1, 5)]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (-16, 0), (40, 8)])
def test_tile_must_be_a_positive_multiple(tile, overlap):
    with pytest.raises(ValueError, match="tile must be a positive multiple of 16"):
        restore_tiles(torch.zeros(16, 16, 16), lambda x: x, tile=tile, overlap=overlap)


@pytest.mark.parametrize("overlap", [-1, 17])
def test_overlap_is_at_most_half_the_tile(overlap):
    with pytest.raises(ValueError, match=r"overlap must be from 0 to half the tile \(16\)"):
        restore_tiles(torch.zeros(16, 16, 16), lambda x: x, tile=32, overlap=overlap)


def test_volume_has_three_axes():
    with pytest.raises(ValueError, match=r"need a volume \(Z, Y, X\), got shape \(1, 1, 16, 16, 16\)"):
        restore_tiles(torch.zeros(1, 1, 16, 16, 16), lambda x: x, tile=16, overlap=0)
