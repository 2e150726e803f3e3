"""Volumes that travel inside a page."""

from __future__ import annotations

import base64
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cryomend.evaluation import slices
from cryomend.evaluation.report import write_restoration_report
from cryomend.evaluation.slices import bin_sections, grey_range, pack_volumes, to_bytes


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unpack(pictures: list[str]) -> np.ndarray:
    images = [Image.open(io.BytesIO(base64.b64decode(text))).convert("L") for text in pictures]
    return np.stack([np.asarray(image, dtype=float) for image in images])


@pytest.mark.parametrize("bins", [(1, 1, 1), (2, 3, 3), (5, 2, 7), (9, 10, 11)])
def test_binning_averages_whole_blocks_and_leaves_the_rest_out(bins: tuple[int, int, int]) -> None:
    volume = noise((9, 10, 11))
    found = np.stack(list(bin_sections(volume, bins)))
    nz, ny, nx = (n // b for n, b in zip(volume.shape, bins, strict=True))
    assert found.shape == (nz, ny, nx)
    for z, y, x in [(0, 0, 0), (nz - 1, ny - 1, nx - 1)]:
        block = volume[tuple(slice(i * b, (i + 1) * b) for i, b in zip((z, y, x), bins, strict=True))]
        assert found[z, y, x] == pytest.approx(block.mean(), abs=1e-5)


def test_files_of_any_number_format_are_binned_alike(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(-100, 100, (6, 8, 10))
    wanted = np.stack(list(bin_sections(whole.astype(np.float32), (2, 2, 2))))
    for number_format in (">i2", "<i2", "i1", ">f4", "<f2"):
        path = tmp_path / "voxels"
        whole.astype(number_format).tofile(path)
        stored = np.memmap(path, number_format, "r", shape=whole.shape)
        np.testing.assert_allclose(np.stack(list(bin_sections(stored, (2, 2, 2)))), wanted, atol=1e-5)
        assert np.array_equal(stored, whole)  # its memory was let go of, not its voxels


def test_grey_levels_run_from_black_to_white_and_no_further() -> None:
    assert to_bytes(np.array([-9.0, 1.0, 2.0, 3.0, 9.0]), (1.0, 3.0)).tolist() == [0, 0, 128, 255, 255]


def test_pictures_hold_the_voxels_with_y_downwards() -> None:
    volume = np.zeros((3, 40, 60), dtype=np.float32)
    volume[1, :10, 30:] = 1.0  # y from 0 to 9 and the upper half of x, in the middle section only
    packed = pack_volumes({"after": volume}, budget=100_000)
    assert packed.bins == (1, 1, 1) and packed.shape == volume.shape
    shown = unpack(packed.grey["after"])
    np.testing.assert_allclose(shown, to_bytes(volume, grey_range(volume)), atol=12)


def test_all_together_keeps_to_the_budget_and_what_has_less_to_spend_is_binned_more() -> None:
    volumes = {"before": noise((24, 96, 96)), "after": noise((24, 96, 96), 1)}
    sigma = noise((24, 96, 96), 2) + 1
    sizes, voxels = [], []
    for budget in (400_000, 100_000, 20_000):
        packed = pack_volumes(volumes, budget=budget, sigma=sigma)
        pictures = [*packed.grey["before"], *packed.grey["after"], *(packed.doubtful or [])]
        sizes.append(sum(map(len, pictures)))
        voxels.append(np.prod(packed.shape))
        assert budget / 6 < sizes[-1] <= budget
        assert len(packed.grey["before"]) == packed.shape[0]
    assert voxels[0] > voxels[1] > voxels[2]


def test_smooth_volumes_are_binned_less_than_noise() -> None:
    smooth = np.zeros((24, 96, 96), dtype=np.float32) + np.linspace(0, 1, 96, dtype=np.float32)
    packed = {name: pack_volumes({"after": v}, budget=40_000) for name, v in
              {"smooth": smooth, "noise": noise((24, 96, 96))}.items()}  # fmt: skip
    assert packed["smooth"].bins == (1, 1, 1)
    assert packed["noise"].bins > (1, 1, 1)


def test_what_is_doubtful_is_kept_exactly() -> None:
    sigma = np.abs(noise((5, 33, 47))) + 0.4
    packed = pack_volumes({"after": noise((5, 33, 47), 1)}, budget=200_000, sigma=sigma, largest_sigma=1.0)
    assert packed.bins == (1, 1, 1) and packed.doubtful is not None
    np.testing.assert_array_equal(unpack(packed.doubtful) > 127, sigma > 1)
    assert packed.doubtful_share == pytest.approx((sigma > 1).mean())


def test_where_pillow_has_no_webp_the_pictures_are_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    packed = pack_volumes({"after": noise((3, 20, 20))}, budget=50_000)
    assert packed.media_type == "image/jpeg"
    assert base64.b64decode(packed.grey["after"][0])[:3] == b"\xff\xd8\xff"


def test_a_budget_for_not_even_one_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="too few for any picture"):
        pack_volumes({"after": noise((4, 8, 8))}, budget=20)


@pytest.mark.slow
def test_a_page_of_three_hundred_sections_of_1024_pixels_stays_small_and_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (300, 1024, 1024)
    rng = np.random.default_rng(0)
    pool = (30 * rng.standard_normal((1024, 2400))).clip(-127, 127).astype(np.int8)
    names = {"before": 0, "after": 500, "confidence": 1000}
    stored = {name: np.memmap(tmp_path / name, np.int8, "w+", shape=shape) for name in names}
    for name, start in names.items():
        for z in range(shape[0]):
            stored[name][z] = pool[:, start + z : start + z + 1024] // (30 if name == "confidence" else 1)
    page = tmp_path / "page.html"
    monkeypatch.setattr(slices, "QUALITIES", (60, 40))  # fewer trials
    tracemalloc.start()
    try:
        write_restoration_report(page, **stored, voxel_size=10.0, tilt_range=(-60.0, 60.0), provenance={})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert page.stat().st_size < 15e6
    assert peak < 300e6  # one volume as float32 has 1258 MB
