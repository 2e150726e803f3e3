"""Side files on their way to the images: each row to its own image, each step with its own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomend.config import ReconstructionConfig
from cryomend.ctf import Optics
from cryomend.io import InputError, open_stack, write_mdoc, write_tilt_angles, write_volume
from cryomend.reconstruction.align import align_images, bin_images, dose_weight
from cryomend.reconstruction.ctf_correction import correct_phase
from cryomend.reconstruction.prepare import plan_preparation

ANGLES = np.arange(-60.0, 61, 20)
RECORDED = [0.0, 20, -20, 40, -40, 60, -60]  # dose-symmetric
BEFORE = {angle: 3.0 * time for time, angle in enumerate(RECORDED)}  # e⁻/Å² before the image of an angle
RELION = "data_\n\nloop_\n_rlnTomoNominalStageTiltAngle #1\n_rlnMicrographPreExposure #2\n"
RELION_CTF = (
    "data_\n\nloop_\n_rlnTomoYTilt #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n_rlnDefocusAngle #4\n"
    "_rlnSphericalAberration #5\n"
)


def write_stack(folder, data, pixel_size=4.0):
    write_volume(folder / "ts.mrc", data.astype(np.float32), voxel_size=pixel_size, stack=True)
    return open_stack(folder / "ts.mrc")


@pytest.fixture
def stack(tmp_path):
    """Seven images of 24 x 32 pixels, sorted by tilt."""
    write_tilt_angles(tmp_path / "ts.tlt", ANGLES)
    return write_stack(tmp_path, np.random.default_rng(0).normal(size=(7, 24, 32)))


def write(stack, name, text):
    (stack.path.parent / name).write_text(text)
    return name


def recorded(stack, angles, before=None):
    """An .mdoc whose sections have these angles, and what came before them."""
    before = [BEFORE[a] for a in angles] if before is None else before
    write_mdoc(
        stack.path.parent / "ts.mdoc", stack="ts.mrc", shape=(24, 32), pixel_size=4.0, voltage_kv=300,
        tilt_axis_angle=0, tilt_angles=list(angles), exposures=[3.0] * len(angles), prior=before,
        places=range(len(angles)), defocus_um=3.0,
    )  # fmt: skip
    return "ts.mdoc"


def aln(stack, sections, tilts, *, size=(32, 24, 7), rot=0.0, head=""):
    """An .aln that counts its sections from 0 and lists the images that it leaves out as dark."""
    dark = "".join(f"# DarkFrame = {n} {n} 0.0\n" for n in sorted({*range(size[2])} - {*sections}))
    rows = "".join(
        f"{n} {rot} 1.0 {1.5 * n} {-0.5 * n} 1 1 1 0 {t}\n" for n, t in zip(sections, tilts, strict=True)
    )
    raw = f"# AreTomo Alignment\n# RawSize = {' '.join(map(str, size))}\n"
    return write(stack, "ts.aln", raw + dark + head + "# SEC ROT GMAG TX TY ... TILT\n" + rows)


def plan(stack, *, angles="ts.tlt", alignment=None, ctf=None, dose=None, **options):
    paths = {"angles_path": angles, "alignment_path": alignment, "ctf_path": ctf, "dose_path": dose}
    return plan_preparation(
        stack,
        config=ReconstructionConfig(**options),
        **{key: name and stack.path.parent / name for key, name in paths.items()},
    )


def test_exposures_in_the_order_of_recording_go_to_their_tilts(stack):
    found = plan(stack, dose=recorded(stack, RECORDED))
    assert found.doses[0].tolist() == [BEFORE[angle] for angle in ANGLES]
    assert found.notes == ("ts.mdoc lists the images in another order; its rows are matched by tilt angle",)
    star = write(stack, "ts.star", RELION + "".join(f"{a + 0.3} {BEFORE[a]}\n" for a in RECORDED))
    assert plan(stack, dose=star).doses[0].tolist() == found.doses[0].tolist()


def test_exposures_in_the_order_of_the_stack_stay(stack):
    for angles in (ANGLES, ANGLES + 5, ANGLES * 0.995):  # an offset or a refinement is no other order
        found = plan(stack, dose=recorded(stack, angles, range(0, 21, 3)))
        assert found.doses[0].tolist() == [0, 3, 6, 9, 12, 15, 18]
        assert found.notes == ()


def test_exposures_are_matched_to_the_images_that_an_alignment_leaves(stack):
    sections = [0, 2, 3, 4, 5]
    aligned = aln(stack, sections, ANGLES[sections] + 4, head="# AlphaOffset = 4.0\n")
    found = plan(stack, angles=None, alignment=aligned, dose=recorded(stack, RECORDED))
    assert found.doses[0].tolist() == [BEFORE[angle] for angle in ANGLES[sections]]


def test_defoci_in_another_order_go_to_their_tilts(stack):
    rows = "".join(f"{a} {20000 + 100 * a} {20000 + 100 * a} 0 2.7\n" for a in RECORDED)
    found = plan(stack, ctf=write(stack, "ts.star", RELION_CTF + rows))
    np.testing.assert_allclose(found.defocus.defocus_um, 2 + ANGLES / 100)
    assert len(found.notes) == 1


def test_angles_with_the_other_sign_are_no_other_order(stack):
    write_tilt_angles(stack.path.parent / "ts.tlt", ANGLES + 20)
    found = plan(stack, dose=recorded(stack, -(ANGLES + 20), range(0, 21, 3)))
    assert found.doses[0].tolist() == [0, 3, 6, 9, 12, 15, 18] and found.notes == ()


@pytest.mark.parametrize(
    ("angles", "reason"),
    [
        (
            ANGLES[::-1],
            r"in reverse, or with the other sign, the tilt angles of .*ts\.mrc, .* 1 has -60\.0 and ",
        ),
        (
            [0, 20, -20, 30, -30, 60, -60],
            r"other tilt angles than .*ts\.mrc, .*image in use 7 has 60\.0 and not -60\.0",
        ),
        (
            [0, 20, -20, 0.1, -40, 60, -60],
            r"other tilt angles than .*give a file with one row per image in the",
        ),
    ],
)
def test_exposures_that_cannot_be_told_apart_by_angle_are_refused(stack, angles, reason):
    dose = recorded(stack, angles, range(0, 21, 3))
    with pytest.raises(InputError, match=r"ts\.mdoc lists " + reason) as caught:
        plan(stack, dose=dose)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("twice", ["in the stack", "in both"])
def test_images_of_one_angle_in_another_order_are_refused(stack, twice):
    repeated = np.array([-60.0, -40, -20, 0, 0, 20, 40])
    write_tilt_angles(stack.path.parent / "ts.tlt", repeated)
    angles = RECORDED if twice == "in the stack" else sorted(repeated, key=abs)
    with pytest.raises(InputError, match=r"ts\.mdoc lists other tilt angles than .*ts\.mrc"):
        plan(stack, dose=recorded(stack, angles, range(0, 21, 3)))


def test_angles_a_good_part_of_a_step_away_are_not_matched(stack):
    aligned = aln(stack, range(6), np.arange(0.4, 6))
    dose = recorded(stack, [3.0, 2, 4, 1, 5, 0, 6], range(0, 21, 3))
    with pytest.raises(InputError, match=r"ts\.mdoc lists other tilt angles than .*ts\.mrc"):
        plan(stack, angles=None, alignment=aligned, dose=dose)


def test_exposures_are_counted(stack):
    with pytest.raises(InputError, match=r"ts\.mdoc has 6 rows but .*ts\.mrc has 7 images"):
        plan(stack, dose=recorded(stack, RECORDED[:6]))


@pytest.mark.parametrize("size", [(64, 48, 7), (32, 24, 5), (32, 24, 9), (24, 32, 7)])
def test_an_alignment_of_a_stack_of_another_size_is_refused_with_both(stack, size):
    given = " x ".join(map(str, size[::-1]))
    with pytest.raises(
        InputError, match=rf"ts\.aln aligns a stack of {given} .*ts\.mrc has 7 x 24 x 32; give"
    ):
        plan(stack, alignment=aln(stack, range(5), ANGLES[:5], size=size))


def test_an_angle_list_without_dark_images_is_compared_with_the_alignment(stack):
    sections, tilts = [5, 3, 1, 0, 2, 4], np.arange(-60.0, 41, 20)
    aligned = aln(stack, sections, tilts + 1.5)
    write_tilt_angles(stack.path.parent / "ts.tlt", np.array([0.0, -20, 20, -40, 40, -60]))
    with pytest.raises(InputError, match=r"angles of .*ts\.tlt and .*ts\.aln do not belong together"):
        plan(stack, alignment=aligned)
    write_tilt_angles(stack.path.parent / "ts.tlt", tilts)
    found = plan(stack, alignment=aligned)
    assert found.tilt_angles.tolist() == tilts.tolist() and found.sections.tolist() == sections


@pytest.mark.parametrize("value", [0.0, 1.2])
def test_the_aberration_of_the_file_holds_even_if_it_is_0(stack, value):
    rows = "".join(f"{a} 20000 20000 0 {value}\n" for a in ANGLES)
    found = plan(stack, ctf=write(stack, "ts.star", RELION_CTF + rows), spherical_aberration_mm=2.7)
    assert found.optics.spherical_aberration_mm == value


def test_images_behind_the_last_view_of_a_defocus_file_have_its_defocus(stack):
    views = "".join(f"{n} {n} 0 0 {1000 * n}\n" for n in range(1, 6))
    found = plan(stack, ctf=write(stack, "end.defocus", views))
    assert found.defocus.defocus_um == pytest.approx([1, 2, 3, 4, 5, 5, 5])
    assert found.notes == ("end.defocus ends with view 5 of 7; those behind it have its defocus",)
    full = plan(stack, ctf=write(stack, "all.defocus", "1 7 0 0 4000\n"))
    assert full.defocus.defocus_um.tolist() == [4.0] * 7 and full.notes == ()
    more = write(stack, "more.defocus", "1 8 0 0 4000\n")
    with pytest.raises(InputError, match=r"more\.defocus has 8 rows but .*ts\.mrc has 7 images"):
        plan(stack, ctf=more)


def test_a_defocus_file_that_may_or_may_not_count_the_dark_images_is_refused(stack):
    sections = [0, 2, 3, 4, 6]
    aligned, views = (
        aln(stack, sections, ANGLES[sections]),
        [f"{n} {n} 0 0 {1000 * n}\n" for n in range(1, 8)],
    )
    for named in (4, 5):
        with pytest.raises(InputError, match=rf"ends with view {named}, .*ts\.mrc.*add a line for view 7"):
            plan(stack, alignment=aligned, ctf=write(stack, "end.defocus", "".join(views[:named])))
    for named, last in ((6, 6), (7, 7)):
        found = plan(stack, alignment=aligned, ctf=write(stack, "end.defocus", "".join(views[:named])))
        assert found.defocus.defocus_um == pytest.approx([1, 3, 4, 5, last])


def test_rows_of_a_ctf_file_follow_the_sections_with_and_without_dark_images(stack):
    columns = "# Columns: defocus\n"
    rows = [f"{n} {10000 * n} {10000 * n} 0 0 0 8\n" for n in range(1, 8)]
    write(stack, "all.txt", columns + "".join(rows))
    write(stack, "used.txt", columns + "".join(rows[:5]))
    turned = plan(stack, angles=None, alignment=aln(stack, range(6, -1, -1), ANGLES), ctf="all.txt")
    assert turned.defocus.defocus_um == pytest.approx([7, 6, 5, 4, 3, 2, 1])
    dark = aln(stack, [0, 2, 3, 4, 6], ANGLES[[0, 2, 3, 4, 6]])
    assert plan(stack, alignment=dark, ctf="all.txt").defocus.defocus_um == pytest.approx([1, 3, 4, 5, 7])
    assert plan(stack, alignment=dark, ctf="used.txt").defocus.defocus_um == pytest.approx([1, 2, 3, 4, 5])


def test_a_relion_alignment_takes_the_pixel_size_of_the_stack(stack):
    labels = ("rlnTomoZRot", "rlnTomoYTilt", "rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
    head = "data_\n\nloop_\n" + "".join(f"_{label} #{n}\n" for n, label in enumerate(labels, start=1))
    star = write(stack, "ts.star", head + "".join(f"0 {a} 8 -12\n" for a in ANGLES))
    found = plan(stack, angles=None, alignment=star)
    np.testing.assert_allclose(found.alignment.shifts_xy, np.tile([-2.0, 3.0], (7, 1)))
    assert found.tilt_angles.tolist() == ANGLES.tolist()


def test_the_axis_is_moved_across_itself_after_the_alignment(tmp_path):
    rows, columns = np.arange(64)[:, None] - 40.5, np.arange(64) - 31.5
    dot = np.exp(-(rows**2 + columns**2) / 8.0)
    stack = write_stack(tmp_path, np.stack([dot] * 3))
    write(stack, "ts.xf", "0 -1 1 0 0 0\n" * 3)
    write_tilt_angles(tmp_path / "ts.tlt", np.array([-10.0, 0, 10]))
    places = []
    for axis_shift in (0.0, 5.0):
        found = plan(stack, alignment="ts.xf", axis_shift=axis_shift)
        image = next(found.prepare(stack, stack, "cpu"))
        places.append(np.array(np.unravel_index(int(image.argmax()), image.shape)))
    assert (places[1] - places[0]).tolist() == [0, -5]


def test_every_image_is_prepared_with_the_numbers_of_its_own_rows(tmp_path):
    data = np.random.default_rng(5).normal(3, 2, (6, 64, 128))
    stack = write_stack(tmp_path, data, pixel_size=1.0)
    sections, tilts = [4, 2, 0, 1, 5], [-50.0, -25.0, 0.0, 25.0, 50.0]  # image 3 is dark
    alignment = aln(stack, sections, tilts, size=(128, 64, 6), rot=30.0)
    lens = "# acceleration voltage: 200.0 keV ; spherical aberration: 1.20 mm ; amplitude contrast: 0.10\n"
    rows = "".join(
        f"{n + 1} {20300 + 1700 * n} {20000 + 1000 * n} {10 * n} {0.2 * n} 0 8\n" for n in range(6)
    )
    ctf = write(stack, "ctf.txt", lens + "# Columns: defocus\n" + rows)
    dose = write(stack, "dose.txt", "".join(f"{4 * n} {1 + 0.5 * n}\n" for n in (3, 1, 2, 5, 0, 4)))
    found = plan(stack, angles=None, alignment=alignment, ctf=ctf, dose=dose, bin=2, defocus_hand=-1)
    assert (found.shape, found.pixel_size) == ((32, 64), 2.0)
    prior, own = {4: 0, 2: 8, 0: 12, 1: 4, 5: 16}, {4: 1, 2: 2, 0: 2.5, 1: 1.5, 5: 3}
    cosine, sine = np.sqrt(0.75), 0.5
    matrix = np.array([[cosine, sine], [-sine, cosine]])  # turns by -30 degrees, from X towards Y
    for section, tilt, image in zip(sections, tilts, found.prepare(stack, stack, "cpu"), strict=True):
        raw = torch.from_numpy(data[section].astype(np.float32))[None]
        weighted = dose_weight(
            (raw - raw.mean()) / raw.std(), np.array([prior[section]]), np.array([own[section]]),
            pixel_size=1.0, voltage_kv=200,
        )  # fmt: skip
        shift = -matrix @ [1.5 * section, -0.5 * section]
        aligned = align_images(weighted, matrix[None], shift[None], output_shape=(64, 128))
        expected = correct_phase(
            bin_images(aligned, 2)[0], np.array([tilt]), pixel_size=2.0, optics=Optics(200, 1.2, 0.1),
            defocus_um=np.array([2.015 + 0.135 * section]),
            astigmatism_um=np.array([0.015 + 0.035 * section]),
            astigmatism_angle=np.array([10.0 * section - 30]),
            phase_shift=np.degrees([0.2 * section]), defocus_hand=-1,
        )[0]  # fmt: skip
        torch.testing.assert_close(image, expected, atol=2e-4, rtol=2e-4)
