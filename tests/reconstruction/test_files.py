import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cryomend.config import ReconstructionConfig
from cryomend.io import InputError, mapped, mapped_volume, read_volume, write_tilt_angles, write_volume
from cryomend.projection import project_density
from cryomend.reconstruction import files, reconstruct_file, slabs

ANGLES = np.arange(-60.0, 61, 4)
SHAPE = (24, 40, 48)


def bead(z, y, x, sigma=1.5):
    places = [torch.arange(n) - n // 2 - p for n, p in zip(SHAPE, (z, y, x), strict=True)]
    squares = [p**2 for p in places]
    return torch.exp(-(squares[0][:, None, None] + squares[1][:, None] + squares[2]) / (2 * sigma**2))


@pytest.fixture
def series(tmp_path):
    images = project_density(bead(5, -9, 7), ANGLES).numpy()
    noise = np.random.default_rng(0).normal(0, 0.01, images.shape)
    write_volume(tmp_path / "stack.mrc", images + noise, voxel_size=10, stack=True)
    write_tilt_angles(tmp_path / "stack.tlt", ANGLES)
    return tmp_path


def reconstruct(folder, name="tomogram.mrc", **options):
    known = ("alignment", "ctf", "doses", "even", "odd", "deconvolve", "stack", "tilt_angles")
    paths = {key: options.pop(key) for key in known if key in options}
    notes = reconstruct_file(
        paths.pop("stack", folder / "stack.mrc"),
        folder / name,
        thickness=options.pop("thickness", SHAPE[0]),
        tilt_angles=paths.pop("tilt_angles", folder / "stack.tlt"),
        config=ReconstructionConfig(**options),
        **paths,
    )
    return read_volume(folder / name), notes


def peak(volume):
    return [
        int(i) - n // 2
        for i, n in zip(np.unravel_index(volume.argmax(), volume.shape), volume.shape, strict=True)
    ]


@pytest.mark.parametrize("method", ["wbp", "sirt", "sart"])
def test_every_method_puts_the_bead_in_its_place_and_keeps_the_voxel_size(series, method):
    tomogram, notes = reconstruct(series, method=method, iterations=3)
    assert peak(tomogram.data) == [5, -9, 7]
    assert tomogram.voxel_size == 10
    assert notes == []


@pytest.mark.parametrize("method", ["wbp", "sirt"])
@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("x_tilt", [0.0, 8.0])
def test_slabs_add_up_to_the_tomogram_made_at_once(series, monkeypatch, method, on_disk, x_tilt):
    whole, _ = reconstruct(series, method=method, iterations=2, x_tilt=x_tilt)
    plan = slabs.SlabPlan(SHAPE[1], 7, images_on_disk=on_disk)
    monkeypatch.setattr(files, "plan_slabs", lambda *args, **kwargs: plan)
    parts, _ = reconstruct(series, "parts.mrc", method=method, iterations=2, x_tilt=x_tilt)
    np.testing.assert_allclose(parts.data, whole.data, atol=1e-5)
    assert sorted(p.name for p in series.iterdir()) == [
        "parts.mrc", "stack.mrc", "stack.tlt", "tomogram.mrc",
    ]  # fmt: skip


def test_images_that_do_not_fit_lie_in_reserved_space_without_a_name(series, monkeypatch):
    plan = slabs.SlabPlan(SHAPE[1], 7, images_on_disk=True)
    monkeypatch.setattr(files, "plan_slabs", lambda *args, **kwargs: plan)
    before, seen, real = sorted(series.iterdir()), [], files._reconstruct_slab

    def look(*args):
        seen.append(sorted(series.iterdir()))
        real(*args)

    monkeypatch.setattr(files, "_reconstruct_slab", look)
    reconstruct(series, "made.mrc")
    assert len(seen[0]) == len(before) + 1  # the tomogram alone
    (series / "made.mrc").unlink()

    def fill(file, size):
        if size == 4 * len(ANGLES) * SHAPE[1] * SHAPE[2]:  # the images; the tomogram has fewer planes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mapped, "_reserve", fill)
    with pytest.raises(
        InputError, match=r"temporary file of .*: no space left on device; make room or choose"
    ):
        reconstruct(series, "made.mrc")
    assert sorted(series.iterdir()) == before


def test_the_memory_limit_sets_the_rows_of_a_slab(monkeypatch):
    monkeypatch.setattr(slabs, "resident_bytes", lambda: 2**29)
    shape, size = (256, 1024, 1024), {"tilts": 41, "iterative": False}
    free = slabs.plan_slabs(shape, memory_limit=None, **size)
    roomy = slabs.plan_slabs(shape, memory_limit=4.0, **size)
    tight = slabs.plan_slabs(shape, memory_limit=0.6, **size)
    assert (free.rows, free.images_on_disk) == (128, False)
    assert roomy.rows >= 128 and not roomy.images_on_disk
    assert tight.rows < 128 and tight.images_on_disk
    with pytest.raises(InputError, match="the least that works is") as refusal:
        slabs.plan_slabs(shape, memory_limit=0.51, **size)
    least = float(str(refusal.value).split()[-1])
    assert slabs.plan_slabs(shape, memory_limit=least, **size).rows >= 1


def test_halves_are_reconstructed_alike_and_add_up_to_the_whole(series):
    rng = np.random.default_rng(1)
    even, odd = rng.poisson(9.0, (2, len(ANGLES), *SHAPE[1:])).astype(np.float32)
    for name, data in (("whole", even + odd), ("even", even), ("odd", odd)):
        write_volume(series / f"{name}.mrc", data, voxel_size=10, stack=True)
    whole, _ = reconstruct(
        series, "t.rec.mrc", stack=series / "whole.mrc", even=series / "even.mrc", odd=series / "odd.mrc"
    )
    parts = [read_volume(series / f"t.rec_{half}.mrc").data for half in ("EVN", "ODD")]
    np.testing.assert_allclose(parts[0] + parts[1], whole.data, atol=1e-4)


def write_turned(folder, angle, shift):
    """A raw stack whose axis is turned by ``angle`` and moved, and the .xf that undoes it."""
    y, x = 9.0, -4.0  # of a bead at z = 0, from the aligned centre
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    images = []
    for tilt in np.radians(ANGLES):
        raw = np.linalg.inv(matrix) @ (np.array([x * math.cos(tilt), y]) - shift)
        rows, columns = np.arange(48) - 23.5 - raw[1], np.arange(48) - 23.5 - raw[0]
        images.append(np.exp(-(rows[:, None] ** 2 + columns**2) / 8))
    write_volume(folder / "raw.mrc", np.array(images), voxel_size=10, stack=True)
    return matrix, (0, round(y), round(x))


def test_the_list_beside_a_stack_is_taken_and_said_where_none_is_given(series):
    given, _ = reconstruct(series)
    beside, notes = reconstruct(series, "beside.mrc", tilt_angles=None)
    np.testing.assert_array_equal(beside.data, given.data)
    assert notes == [f"tilt angles from {series / 'stack.tlt'}, which lies beside the stack"]
    (series / "stack.tlt").unlink()
    with pytest.raises(InputError, match=r"no tilt angles for .*stack\.mrc; pass --tilt-angles FILE"):
        reconstruct(series, "none.mrc", tilt_angles=None)


def test_halves_of_another_reconstruction_that_stand_beside_are_said(series):
    write_volume(series / "tomogram_EVN.mrc", np.ones((16, 16, 16)), voxel_size=10)
    _, notes = reconstruct(series)
    assert notes == [
        f"{series / 'tomogram_EVN.mrc'} is of another reconstruction; delete it, or give --even and --odd"
    ]


def test_an_xf_file_is_applied_on_the_way_in(series):
    shift = np.array([3.0, -2.0])
    matrix, place = write_turned(series, math.radians(12), shift)
    line = " ".join(f"{v:.7f}" for v in (*matrix.ravel(), *shift))
    (series / "raw.xf").write_text(f"{line}\n" * len(ANGLES))
    tomogram, _ = reconstruct(series, stack=series / "raw.mrc", alignment=series / "raw.xf")
    assert tuple(peak(tomogram.data)) == place


def test_an_aln_file_brings_its_angles_and_leaves_dark_images_out(series):
    angle, shift = math.radians(-9), np.array([1.5, 4.0])
    matrix, place = write_turned(series, angle, shift)
    translation = -np.linalg.inv(matrix) @ shift
    rows = [
        f"{n} {-math.degrees(angle):.4f} 1.0 {translation[0]:.3f} {translation[1]:.3f} 1 1 1 0 {tilt:.2f}"
        for n, tilt in enumerate(ANGLES)
        if n not in (0, 30)
    ]
    head = f"# AreTomo Alignment\n# RawSize = 48 48 {len(ANGLES)}\n# SEC ROT GMAG TX TY ... TILT\n"
    (series / "raw.aln").write_text(head + "\n".join(rows) + "\n# Local Alignment\n 0 0 1 2 3 4 1\n")
    tomogram, notes = reconstruct(
        series, stack=series / "raw.mrc", alignment=series / "raw.aln", tilt_angles=None
    )
    assert tuple(peak(tomogram.data)) == place
    assert notes == ["2 of 31 images are left out by the alignment"]


def test_offsets_move_the_bead_as_they_say(series):
    assert peak(reconstruct(series, z_shift=3)[0].data) == [8, -9, 7]
    turned = peak(reconstruct(series, tilt_offset=20)[0].data)
    c, s = math.cos(math.radians(20)), math.sin(math.radians(20))
    # the point that stands at x' = x cos(t) + z sin(t) for all t seems to, with t + 20, turned back by 20
    assert turned == [round(5 * c + 7 * s), -9, round(7 * c - 5 * s)]
    moved = project_density(bead(5, -9, 7), ANGLES).numpy()
    write_volume(series / "moved.mrc", np.roll(moved, 2, 2), voxel_size=10, stack=True)
    assert peak(reconstruct(series, stack=series / "moved.mrc", axis_shift=2)[0].data) == [5, -9, 7]


def test_binning_doubles_the_voxel(series):
    tomogram, _ = reconstruct(series, bin=2, thickness=16)
    assert tomogram.data.shape == (16, 20, 24)
    assert tomogram.voxel_size == pytest.approx(20)
    assert np.abs(np.array(peak(tomogram.data)) - [2.5, -4.5, 3.5]).max() <= 0.5


def test_repeated_and_unordered_angles_are_allowed_and_said(series):
    angles = ANGLES.copy()
    angles[3], angles[10] = angles[4], 33.0
    write_tilt_angles(series / "odd.tlt", angles)
    _, notes = reconstruct(series, tilt_angles=series / "odd.tlt")
    assert notes[0].startswith("1 tilt angles are repeated") and "not in order" in notes[1]


def test_rows_that_were_matched_by_angle_are_said(series):
    head = "data_\n\nloop_\n_rlnTomoYTilt #1\n_rlnMicrographPreExposure #2\n"
    rows = [f"{angle} {3 * time}\n" for time, angle in enumerate(sorted(ANGLES, key=abs))]
    (series / "doses.star").write_text(head + "".join(rows))
    _, notes = reconstruct(series, doses=series / "doses.star")
    assert notes == ["doses.star lists the images in another order; its rows are matched by tilt angle"]


def test_ctf_correction_dose_weights_and_deconvolution_run_in_a_chain(series):
    (series / "ctf.txt").write_text(
        "# Columns: defocus\n" + "".join(f"{n + 1} 30000 29000 10 0 0.1 20\n" for n in range(len(ANGLES)))
    )
    (series / "doses.txt").write_text("".join(f"{3 * n} 3\n" for n in range(len(ANGLES))))
    plain, _ = reconstruct(series)
    full, _ = reconstruct(
        series, "full.mrc", ctf=series / "ctf.txt", doses=series / "doses.txt", deconvolve=True
    )
    assert full.data.shape == plain.data.shape
    assert not np.allclose(full.data, plain.data)


def test_a_failure_leaves_nothing_behind(series, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_reconstruct_slab", fail)
    before = sorted(series.iterdir())
    with pytest.raises(KeyboardInterrupt):
        reconstruct(series)
    assert sorted(series.iterdir()) == before


def test_a_mapped_volume_has_the_statistics_of_its_voxels(tmp_path):
    voxels = np.random.default_rng(2).normal(3, 2, (17, 18, 19)).astype(np.float32)
    with mapped_volume(tmp_path / "a.mrc", voxels.shape, voxel_size=4.0, label="made here") as volume:
        volume[:] = voxels
        assert not (tmp_path / "a.mrc").exists()
    read = read_volume(Path(tmp_path / "a.mrc"))
    np.testing.assert_array_equal(read.data, voxels)
    assert read.labels == ["made here"] and read.voxel_size == 4.0
    header = read.header
    assert [float(header[k]) for k in ("dmin", "dmax", "dmean", "rms")] == pytest.approx(
        [voxels.min(), voxels.max(), voxels.mean(), voxels.std()], rel=1e-5
    )
    with pytest.raises(InputError, match="is not finite"):
        with mapped_volume(tmp_path / "b.mrc", voxels.shape, voxel_size=4.0) as volume:
            volume[3] = np.nan
    assert not list(tmp_path.glob("b*"))
