"""A case on disk: halves that add up to the whole, and facts that come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomend.benchmark.case import Particles, read_case, standardise_tilts, write_case
from cryomend.ctf import Optics
from cryomend.evaluation import Template
from cryomend.io import InputError
from cryomend.reconstruction import reconstruct_wbp

ANGLES = np.arange(-40.0, 41.0, 10.0)
FACTS = {
    "voxel_size": 10.0,
    "defocus_um": 3.0,
    "optics": Optics(200.0),
    "source": {"bin": 1.0},
    "digest": "d",
}


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 50 + 5 * torch.randn(2, len(ANGLES), 20, 24, generator=generator)


def test_standardised_tilts_have_zero_mean_and_unit_deviation(images):
    tilts = standardise_tilts(images[0])
    torch.testing.assert_close(tilts.mean(dim=(1, 2)), torch.zeros(len(ANGLES)), atol=1e-5, rtol=0)
    torch.testing.assert_close(tilts.std(dim=(1, 2)), torch.ones(len(ANGLES)))


def test_tomograms_of_frame_halves_add_up_to_the_whole(tmp_path, images):
    whole = images.sum(dim=0)
    halves = tuple(standardise_tilts(half, whole) for half in images)
    case = write_case(
        tmp_path / "a", tilts=standardise_tilts(whole), halves=halves, tilt_angles=ANGLES, thickness=16,
        facts=FACTS,
    )  # fmt: skip
    torch.testing.assert_close(case.read("even") + case.read("odd"), case.read("whole"), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(case.read("first") + case.read("second"), case.read("tilts"))


def test_without_frames_the_halves_are_every_other_tilt(tmp_path, images):
    tilts = standardise_tilts(images[0])
    case = write_case(tmp_path / "a", tilts=tilts, halves=None, tilt_angles=ANGLES, thickness=16, facts=FACTS)
    assert not case.has("first")
    expected = reconstruct_wbp(tilts[1::2], ANGLES[1::2], thickness=16)
    torch.testing.assert_close(case.read("odd"), expected)


def test_facts_come_back(tmp_path, images):
    tilts = standardise_tilts(images[0])
    write_case(tmp_path / "a", tilts=tilts, halves=None, tilt_angles=ANGLES, thickness=16, facts=FACTS)
    case = read_case(tmp_path / "a")
    assert (case.name, case.shape, case.voxel_size, case.defocus_um) == ("a", (16, 20, 24), 10.0, 3.0)
    assert case.optics == Optics(200.0)
    assert case.tilt_range == (-40.0, 40.0)
    assert case.truth() is None
    assert case.areas() is None


def test_particles_come_back_and_those_of_an_earlier_case_do_not(tmp_path, images):
    density = torch.arange(27.0).reshape(3, 3, 3)
    particles = Particles(Template("thing", density, 5.0, 40.0), np.array([[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]]))
    tilts = standardise_tilts(images[0])
    make = {"tilts": tilts, "halves": None, "tilt_angles": ANGLES, "thickness": 16, "facts": FACTS}
    again = write_case(tmp_path / "a", particles=particles, **make).particles()
    assert torch.equal(again.template.density, density)
    assert (again.template.name, again.template.voxel_size, again.template.diameter) == ("thing", 5.0, 40.0)
    np.testing.assert_array_equal(again.voxels, particles.voxels)
    assert write_case(tmp_path / "a", **make).particles() is None
    assert not (tmp_path / "a" / "template.mrc").exists()


def test_an_incomplete_case_is_refused(tmp_path):
    with pytest.raises(InputError, match="no complete case of a benchmark; delete it and run again"):
        read_case(tmp_path)
