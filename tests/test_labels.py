"""Label volumes: TIFF and MRC give the same labels, and what is no label volume is named."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PIL import Image

from cryomend.io import InputError, read_labels

SHAPE = (5, 17, 19)


@pytest.fixture
def labels() -> np.ndarray:
    volume = np.zeros(SHAPE, dtype=np.uint8)
    volume[1:4, 5, 3:12] = 1
    volume[2, 9:14, 7] = 200
    return volume


def write_tiff(path: Path, planes: list[np.ndarray], **options: object) -> Path:
    images = [Image.fromarray(plane) for plane in planes]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


def write_mrc(path: Path, data: np.ndarray, voxel_size: float | tuple[float, ...] = 14.08) -> Path:
    with mrcfile.new(path, data=data, overwrite=True) as file:
        file.voxel_size = voxel_size
    return path


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_stack_is_read_whatever_its_compression(tmp_path, labels, compression):
    found, voxel_size = read_labels(write_tiff(tmp_path / "a.tif", list(labels), compression=compression))
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8
    assert voxel_size == 0.0


def test_indices_of_a_palette_are_the_labels(tmp_path, labels):
    images = [Image.fromarray(plane) for plane in labels]
    for image in images:
        image.putpalette(list(range(255, -1, -1)) * 3)
    images[0].save(tmp_path / "a.tiff", save_all=True, append_images=images[1:], compression="tiff_lzw")
    with Image.open(tmp_path / "a.tiff") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tiff")[0], labels)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_many_labels_are_read_from_wider_types(tmp_path, labels, dtype):
    wide = labels.astype(dtype) * 300
    found, _ = read_labels(write_tiff(tmp_path / "a.tif", list(wide)))
    np.testing.assert_array_equal(found, wide)
    assert found.dtype == np.uint16


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32])
def test_an_mrc_gives_the_same_labels_with_its_voxel_size(tmp_path, labels, dtype):
    small = np.minimum(labels, 100)
    found, voxel_size = read_labels(write_mrc(tmp_path / "a.mrc", small.astype(dtype)))
    np.testing.assert_array_equal(found, small)
    assert found.dtype == (np.uint8 if dtype == np.int8 else np.uint16)
    assert voxel_size == pytest.approx(14.08, rel=1e-5)


def test_a_voxel_size_that_is_missing_or_not_cubic_is_unknown(tmp_path, labels):
    assert read_labels(write_mrc(tmp_path / "a.mrc", labels.astype(np.int16), 0.0))[1] == 0
    assert read_labels(write_mrc(tmp_path / "a.mrc", labels.astype(np.int16), (10.0, 10.0, 12.0)))[1] == 0


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("ImageJ=1.53t\nimages=5\nunit=nm\nspacing=1.408\n", 14.08),
        ("ImageJ=1.53t\nimages=5\nunit=nm\nspacing=2.0\n", 0.0),
        ("ImageJ=1.53t\nimages=5\nunit=pixel\nspacing=1.408\n", 0.0),
        ("ImageJ=1.53t\nimages=5\nunit=nm\nspacing=wide\n", 0.0),
    ],
)
def test_the_voxel_size_of_imagej_is_read_if_it_is_cubic(tmp_path, labels, note, expected):
    path = write_tiff(tmp_path / "a.tif", list(labels), description=note, x_resolution=1 / 1.408)
    assert read_labels(path)[1] == pytest.approx(expected, rel=1e-3)


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        read_labels(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_stack_of_labels_is_refused_in_one_line(tmp_path, labels):
    refused(tmp_path / "none.tif", "does not exist")
    refused(write_tiff(tmp_path / "zero.tif", list(labels * 0)), "no labels")
    refused(write_tiff(tmp_path / "flat.tif", [labels[2]]), "single image")
    refused(write_mrc(tmp_path / "flat.mrc", labels[2:3].astype(np.int16)), "single image")
    refused(write_tiff(tmp_path / "colour.tif", [np.stack([plane] * 3, -1) for plane in labels]), "colour")
    refused(write_tiff(tmp_path / "ragged.tif", [labels[0], labels[1, :9]]), "another size")
    refused(write_mrc(tmp_path / "grey.mrc", labels.astype(np.float32) / 7), "no labels")
    refused(write_mrc(tmp_path / "negative.mrc", -labels.astype(np.int16)), "no labels")
    refused(write_mrc(tmp_path / "huge.mrc", labels.astype(np.float32) * 1000), "no labels")
    with pytest.warns(RuntimeWarning, match="NaN"):
        path = write_mrc(tmp_path / "nan.mrc", np.full(SHAPE, np.nan, dtype=np.float32))
    refused(path, "no labels")


def test_a_damaged_tiff_is_refused_in_one_line(tmp_path, labels):
    (tmp_path / "text.tif").write_text("no image at all")
    refused(tmp_path / "text.tif", "not a readable TIFF")
    whole = write_tiff(tmp_path / "whole.tif", list(labels), compression="tiff_lzw").read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "short.tif").write_bytes(whole[: int(share * len(whole))])
        refused(tmp_path / "short.tif", "not a readable TIFF")
    Image.fromarray(labels[2]).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "png.tif")
    refused(tmp_path / "png.tif", "not a readable TIFF")
