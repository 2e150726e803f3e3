"""Programs of the user: filled in without a shell, and whatever goes wrong is one line."""

from __future__ import annotations

import shlex
import sys

import numpy as np
import pytest
import torch

from cryomend.benchmark.case import standardise_tilts, write_case
from cryomend.benchmark.external import check_template, fill_template, run_external
from cryomend.benchmark.methods import Run
from cryomend.io import InputError

PYTHON = shlex.quote(sys.executable)
COPY = f"{PYTHON} -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{tomogram}} {{output}}"
ANGLES = np.arange(-40.0, 41.0, 5.0)
RUN = Run({}, 0, torch.device("cpu"))


@pytest.fixture
def case(tmp_path):
    images = torch.randn(len(ANGLES), 16, 16, generator=torch.Generator().manual_seed(0))
    facts = {"voxel_size": 10.0, "defocus_um": None, "optics": None, "source": {}, "digest": "d"}
    return write_case(
        tmp_path / "with space", tilts=standardise_tilts(images), halves=None, tilt_angles=ANGLES,
        thickness=16, facts=facts,
    )  # fmt: skip


def test_a_program_gets_the_files_and_its_volume_is_taken(case, tmp_path):
    result = run_external(COPY, None, case, RUN, tmp_path / "work")
    assert torch.equal(result.volume, case.read("whole"))
    assert str(case.path("whole")) in shlex.split(result.chosen["command"])


def test_values_stay_one_word_and_reach_no_shell():
    words = fill_template("run {tomogram} --range {tilt_min}", {"tomogram": "a b; rm c", "tilt_min": "-60"})
    assert words == ["run", "a b; rm c", "--range", "-60"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "external.x.command is empty"),
        ("run {tomogramm}", "unknown placeholder {tomogramm}; there are tomogram, even"),
        ("run {tomogram.parent}", "unknown placeholder {tomogram.parent}"),
        ("run 'a", "no closing quotation"),
        ("run {output", "expected '}' before end of string"),
    ],
)
def test_templates_that_cannot_be_filled_in_are_refused(command, message):
    with pytest.raises(InputError) as error:
        check_template("x", command)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("command", "minutes", "message"),
    [
        ("no-such-program {output}", None, "no-such-program cannot be run: no such file or directory"),
        (f"{PYTHON} -c 'import sys; print(7); sys.exit(\"sorry\")'", None, "exit code 1: 7 | sorry"),
        (f"{PYTHON} -c 'print(\"done\")'", None, "left no output.mrc; its command must write {output}: done"),
        (f"{PYTHON} -c 'import time; time.sleep(60)'", 0.005, "was ended after 0.005 minutes"),
        (COPY.replace("{tomogram}", "{tilts}"), None, "wrote a volume of (17, 16, 16); the tomogram is (16,"),
    ],
)
def test_what_a_program_does_wrong_is_one_line(case, tmp_path, command, minutes, message):
    with pytest.raises(InputError) as error:
        run_external(command, minutes, case, RUN, tmp_path / "work")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
