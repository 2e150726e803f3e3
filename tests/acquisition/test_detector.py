import numpy as np
import pytest
import torch

from cryomend.acquisition.detector import (
    count_electrons,
    counting_filters,
    detector_mtf,
    draw_defects,
    read_mtf,
)
from cryomend.fourier import filter_fourier
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


@pytest.mark.parametrize(
    ("kwargs", "dqe_nyquist"),
    [({}, 1.0), ({"noise_power": "white"}, 0.5**2), ({"dqe_nyquist": 0.3}, 0.3)],
)
def test_counted_signal_and_noise_measure_back_as_mtf_and_dqe(kwargs, dqe_nyquist):
    """DQE(k) / DQE(0) = MTF² / NPS, with the NPS of counted noise over the mean."""
    shape, mean = (256, 256), 50.0
    mtf = detector_mtf(shape, at_nyquist=0.5)
    before, after = counting_filters(mtf, shape, **kwargs)
    torch.testing.assert_close(before * after, mtf)
    generator = torch.Generator().manual_seed(0)
    counts = filter_fourier(count_electrons(torch.full(shape, mean), generator), after)
    power = torch.fft.rfft2(counts - mean).abs().square() / (mean * shape[0] * shape[1])
    k = torch.fft.fftfreq(256)[:, None] ** 2 + torch.fft.rfftfreq(256)[None] ** 2
    ring = (k.sqrt() - 0.5).abs() < 0.02
    assert ((mtf**2)[ring].mean() / power[ring].mean()).item() == pytest.approx(dqe_nyquist, rel=0.05)
    assert counts.mean().item() == pytest.approx(mean, rel=0.01)


def test_unknown_noise_power_is_refused():
    with pytest.raises(ValueError, match="noise_power is mtf or white, got 'pink'"):
        counting_filters(torch.ones(4, 3), (4, 4), noise_power="pink")


def test_defects_have_their_stated_spread_and_number():
    gain, hot = draw_defects(
        (500, 500), gain_error=0.03, hot_per_million=2000, generator=torch.Generator().manual_seed(0)
    )
    assert gain.mean().item() == pytest.approx(1, abs=1e-3)
    assert gain.std().item() == pytest.approx(0.03, rel=0.02)
    assert hot.sum().item() == pytest.approx(500, abs=100)  # 250,000 pixels
