import numpy as np
import pytest

from cryomend.acquisition.detector import detector_mtf, read_mtf
from cryomend.io import InputError

CURVE = "data_mtf\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1.0\n0.25 0.8\n0.5 0.4\n"


def test_a_gaussian_mtf_has_its_value_at_nyquist():
    assert detector_mtf((1, 64), at_nyquist=0.4)[0, -1].item() == pytest.approx(0.4)
    with pytest.raises(ValueError, match="MTF"):
        detector_mtf((4, 4), at_nyquist=0.0)


def test_a_measured_mtf_is_read_and_stretched_by_the_binning(tmp_path):
    (tmp_path / "mtf.star").write_text(CURVE)
    curve = read_mtf(tmp_path / "mtf.star")
    full = detector_mtf((1, 64), curve=curve)[0]
    np.testing.assert_allclose(full[[0, 16, 32]], [1, 0.8, 0.4], atol=1e-6)
    binned = detector_mtf((1, 64), curve=curve, binning=2.0)[0]
    np.testing.assert_allclose(binned[[0, 16, 32]], [1, 0.9, 0.8], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "no table with _rlnResolutionInversePixel"),
        (CURVE.replace("0.4", "x"), "column _rlnMtfValue holds values that are not numbers"),
        (CURVE.replace("0.4", "4"), "holds no MTF"),
    ],
)
def test_another_file_is_refused(tmp_path, text, says):
    (tmp_path / "mtf.star").write_text(text)
    with pytest.raises(InputError, match=says):
        read_mtf(tmp_path / "mtf.star")
