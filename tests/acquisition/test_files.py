"""`cryomend acquire` as a user runs it."""

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryomend.io import read_defocus, read_doses, read_tilt_angles, write_volume

VOXEL = 8.0
MICROSCOPE = """
misalignment: [16, 16]
rotation_error: [0.5, 0.5]
magnification_error: [0.3, 0.3]
tilt_axis_angle: [85, 85]
astigmatism_error: [0.05, 0.05]
defocus_error: [0.1, 0.1]
motion: [10, 10]
gain_error: [1, 1]
hot_pixels: [100, 100]
x_tilt: [2, 2]
beam_tilt_mrad: [1, 1]
mtf: mtf.star
detector_pixel: 4
noise_power: white
"""


@pytest.fixture
def acquire(run_cli, tmp_path, monkeypatch):
    """Run the command in a folder with a density."""
    monkeypatch.chdir(tmp_path)
    density = np.random.default_rng(0).normal(0, 1, (16, 32, 40)).astype(np.float32)
    write_volume(Path("density.mrc"), density, voxel_size=VOXEL)
    Path("microscope.yaml").write_text(MICROSCOPE)
    rows = "".join(f"{k} {1 - k}\n" for k in (0.0, 0.25, 0.5))
    Path("mtf.star").write_text(f"data_mtf\n\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n{rows}")
    return lambda line: run_cli("acquire", "density.mrc", "--device", "cpu", *line.split())


def stack(path):
    with mrcfile.open(path) as file:
        assert file.is_image_stack()
        assert float(file.voxel_size.x) == pytest.approx(VOXEL)
        return file.data.copy()


def test_everything_a_user_has_is_written_and_agrees(acquire):
    result = acquire("-o t --tilt-range -60 60 30 --config microscope.yaml --seed 3 --fluence 100")
    assert result.code == 0, result.err
    whole, even, odd = (stack(f"t/tilt_series{half}.mrc") for half in ("", "_EVN", "_ODD"))
    assert whole.shape == (5, 32, 40)
    np.testing.assert_allclose(even + odd, whole, rtol=1e-5)
    for name in ("tilt_series.tlt", "tilt_series.rawtlt", "tilt_series.mdoc"):
        np.testing.assert_allclose(read_tilt_angles(f"t/{name}"), [-60, -30, 0, 30, 60])
    prior, doses = read_doses("t/tilt_series.mdoc")
    np.testing.assert_allclose(doses, 20)
    np.testing.assert_allclose(prior, [80, 40, 0, 20, 60])
    drawn = json.loads(Path("t/acquisition.json").read_text())["exposure"]
    assert len(drawn["placements"]) == len(drawn["lens_errors"]) == 5
    assert drawn["mtf"] == "measured" and drawn["motion"] == 10
    lens = read_defocus("t/tilt_series_CTF.txt")
    errors = np.array(drawn["lens_errors"])
    np.testing.assert_allclose(lens.defocus_um, drawn["defocus_um"] + errors[:, 0], atol=1e-5)
    assert lens.voltage_kv == 300 and lens.spherical_aberration_mm == 2.7
    assert np.loadtxt("t/tilt_series.xf").shape == (5, 6)


def test_equal_seeds_give_equal_stacks(acquire):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        acquire(f"-o {folder} --tilt-range -40 40 40 --seed {seed}")
    a, b, c = (stack(f"{folder}/tilt_series.mrc") for folder in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_an_mdoc_gives_angles_exposures_and_order(acquire):
    acquire("-o t --tilt-range -40 40 20 --scheme bidirectional --fluence 50")
    assert acquire("-o u --mdoc t/tilt_series.mdoc").code == 0
    for one, other in zip(read_doses("t/tilt_series.mdoc"), read_doses("u/tilt_series.mdoc"), strict=True):
        np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(read_doses("u/tilt_series.mdoc")[0], [40, 30, 0, 10, 20])
    assert json.loads(Path("u/acquisition.json").read_text())["exposure"]["fluence"] == pytest.approx(50)


def test_halves_are_left_out_on_request_and_with_a_given_snr(acquire):
    acquire("-o t --tilt-range -40 40 40")
    result = acquire("-o t --tilt-range -40 40 40 --snr 0.5")
    assert "no even and odd frames" in result.err
    assert not list(Path("t").glob("*_EVN.mrc"))  # nor those of the first recording
    acquire("-o u --tilt-range -40 40 40 --no-halves")
    assert sorted(p.name for p in Path("u").glob("*.mrc")) == ["tilt_series.mrc"]


def test_a_signal_to_noise_in_decibels_is_recorded_as_a_ratio(acquire):
    result = acquire("-o t --tilt-range -40 40 40 --snr-db 5")
    assert result.code == 0 and "no electrons are counted" in result.err
    drawn = json.loads(Path("t/acquisition.json").read_text())
    assert drawn["exposure"]["snr"] == pytest.approx(10**0.5)
    assert drawn["config"]["snr_db"] == 5


def test_repeated_angles_and_disorder_are_recorded_and_said(acquire):
    Path("odd.tlt").write_text("0\n30\n-30\n0\n")
    result = acquire("-o t --tilt-angles odd.tlt")
    assert result.code == 0
    assert "1 tilt angles are repeated" in result.err and "not in order" in result.err
    assert len(stack("t/tilt_series.mrc")) == 4


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--scheme spiral", "scheme: Input should be 'dose-symmetric', 'bidirectional' or 'continuous'"),
        ("--mdoc no.mdoc", "no.mdoc does not exist"),
        ("--mdoc density.mrc", "density.mrc"),
        ("--mdoc seven.mdoc --tilt-range -40 40 40", "seven.mdoc has 7 images but there are 3 tilt angles"),
        ("--mdoc seven.mdoc --scheme continuous", "leave out --scheme"),
        ("--config bad.yaml", "holds no MTF"),
        ("--config absent.yaml", "no.star does not exist"),
        ("--config rising.yaml", "dqe_nyquist"),
        ("--snr 1 --snr-db 0", "snr and snr_db exclude each other; give one"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_and_nothing_is_written(acquire, line, says):
    sections = "".join(f"\n[ZValue = {z}]\nTiltAngle = {z}\nExposureDose = 3\nPriorRecordDose = {3 * z}\n"
                       for z in range(7))  # fmt: skip
    Path("seven.mdoc").write_text("PixelSpacing = 8\n" + sections)
    Path("bad.star").write_text("data_\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.5 9\n")
    Path("bad.yaml").write_text("mtf: bad.star")
    Path("absent.yaml").write_text("mtf: no.star")
    Path("rising.yaml").write_text("dqe_nyquist: [0.9, 1.0]\ndqe: [0.8, 0.8]")
    result = acquire(f"-o t {line}")
    assert result.code == 2
    assert says in result.err and len(result.err.strip().splitlines()) == 1
    assert not Path("t").exists()


@pytest.mark.parametrize(
    ("label", "least", "why"), [("", -1.0, "voxels are negative"), ("restored", 0.0, "labels")]
)
def test_a_tomogram_in_place_of_a_density_is_doubted(run_cli, tmp_path, monkeypatch, label, least, why):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).uniform(least, 1, (16, 24, 24)).astype(np.float32)
    write_volume(Path("a.mrc"), values, voxel_size=VOXEL, label=label or None)
    write_volume(Path("b.mrc"), np.abs(values), voxel_size=VOXEL)
    doubted, fine = (
        run_cli("acquire", name, "-o", name[0], "--device", "cpu", "--tilt-range", "-20", "20", "20").err
        for name in ("a.mrc", "b.mrc")
    )
    assert "a.mrc looks like a tomogram" in doubted and why in doubted
    assert "looks like" not in fine
