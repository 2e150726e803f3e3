"""The best Gaussian filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryomend.evaluation.baseline import best_gaussian
from cryomend.evaluation.metrics import correlation
from cryomend.fourier import gaussian_lowpass


def noise(shape: tuple[int, ...] = (24, 26, 28), seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_sigma_of_a_truth_that_is_the_blurred_volume_is_found(device: torch.device) -> None:
    volume = noise().to(device)
    filtered, sigma = best_gaussian(volume, gaussian_lowpass(volume, 1.37))
    # the search stops within 0.01 voxel
    assert sigma == pytest.approx(1.37, abs=0.02)
    assert correlation(filtered, gaussian_lowpass(volume, 1.37)) > 0.9999


def test_no_other_sigma_of_scipys_filter_does_better() -> None:
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.standard_normal((24, 26, 28)), 2.0, mode="wrap")
    volume = truth / truth.std() + 2 * rng.standard_normal(truth.shape)
    filtered, sigma = best_gaussian(torch.tensor(volume).float(), torch.tensor(truth).float())
    reached = np.corrcoef(filtered.flatten(), truth.flatten())[0, 1]
    for other in np.arange(0.6, 5, 0.1):
        independent = gaussian_filter(volume, other, mode="wrap", truncate=6)
        # SciPy samples the Gaussian in real space, ours in Fourier space: they differ below one voxel
        assert reached > np.corrcoef(independent.ravel(), truth.ravel())[0, 1] - 2e-4
    assert 1 < sigma < 4


def test_the_sigma_stays_inside_the_range_that_is_tried() -> None:
    volume = noise()
    assert best_gaussian(volume, volume, sigmas=[1.0, 1.5, 2.0])[1] == pytest.approx(1.0, abs=0.02)
    assert best_gaussian(volume, noise(seed=1), sigmas=[1.5])[1] == 1.5


def test_a_search_without_sigmas_or_with_different_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="no sigma"):
        best_gaussian(noise(), noise(), sigmas=[])
    with pytest.raises(ValueError, match="shapes differ"):
        best_gaussian(noise(), noise((24, 26, 29)))
