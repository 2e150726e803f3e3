"""How far sampled noise is from real noise, in numbers and in one figure.

Every measure is also taken between two halves of the real noise: that floor is the best anyone can reach.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cryomend.fourier import radial_mean, shell_index
from cryomend.io import InputError, atomic_path, read_stack
from cryomend.noise.patches import read_patches
from cryomend.noise.spectral import estimate_power_spectrum

__all__ = [
    "NoiseSet",
    "check_noise",
    "classify",
    "compare_noise",
    "draw_fidelity",
    "radial_spectrum_db",
    "summarise_fidelity",
]

_BAND = (0.02, 0.45)  # cycles per pixel
_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))


@dataclass
class NoiseSet:
    """Patches (n, P, P) standardised per tilt, the tilt of each, each tilt's deviation and its label."""

    patches: Tensor
    tilt: NDArray[np.int64]
    std: NDArray[np.float64]
    label: NDArray[np.int64]

    def halves(self) -> tuple[NoiseSet, NoiseSet]:
        """First and second half of the patches of every tilt, which lie in different areas of it."""
        late = np.zeros(len(self.tilt), dtype=bool)
        for tilt in np.unique(self.tilt):
            members = np.flatnonzero(self.tilt == tilt)
            # An odd patch out goes to either half in turn.
            late[members[(len(members) + tilt % 2) // 2 :]] = True
        return self._subset(~late), self._subset(late)

    def _subset(self, keep: NDArray[np.bool_]) -> NoiseSet:
        patches = self.patches[torch.from_numpy(keep)]
        tilts = np.unique(self.tilt[keep])
        std = [self.std[t] * float(patches[torch.from_numpy(self.tilt[keep] == t)].std()) for t in tilts]
        return NoiseSet(patches, np.searchsorted(tilts, self.tilt[keep]), np.array(std), self.label[tilts])


def compare_noise(
    real: NoiseSet, sampled: NoiseSet, *, seed: int = 0, seconds: float = 20.0
) -> dict[str, Any]:
    """Measure the distance of two sets of noise patches.

    Parameters
    ----------
    real, sampled : NoiseSet
        Patches of the same side.
    seed : int
        Of the classifier.
    seconds : float
        Time limit of the classifier.

    Returns
    -------
    dict
        ``spectrum_db_max``, ``spectrum_db_mean``: absolute difference of the radial log power spectra, 0.02
        to 0.45 cycles/pixel; ``spectrum``: the frequencies and both spectra in dB.
        ``wasserstein``: distance of the marginal laws, in standard deviations.
        ``skewness``, ``kurtosis`` (excess): [real, sampled].
        ``autocorrelation_max``: largest difference at lags up to two pixels.
        ``repetition``: [real, sampled] mean squared correlation of two patches, which is one over their
        degrees of freedom, and larger where patches repeat.
        ``std_ratio``: sampled over real, rms over all tilts; ``std_ratio_worst``: of the worst tilt, among
        those with the same label (number in their stack).
        ``classifier``: share of held-out patches that a small network tells apart; 0.5 is perfect.

    Raises
    ------
    ValueError
        If the patches differ in side.
    """
    if real.patches.shape[-1] != sampled.patches.shape[-1]:
        raise ValueError(
            f"patches of {real.patches.shape[-1]} and {sampled.patches.shape[-1]} pixels cannot be compared"
        )
    frequency, real_db = radial_spectrum_db(real.patches)
    _, sampled_db = radial_spectrum_db(sampled.patches)
    difference = (sampled_db - real_db).abs()
    lags = (_autocorrelation(sampled.patches) - _autocorrelation(real.patches)).abs()
    return {
        "spectrum_db_max": float(difference.max()),
        "spectrum_db_mean": float(difference.mean()),
        "wasserstein": _wasserstein(real.patches, sampled.patches),
        "skewness": [_standard_moment(s.patches, 3) for s in (real, sampled)],
        "kurtosis": [_standard_moment(s.patches, 4) - 3 for s in (real, sampled)],
        "autocorrelation_max": float(lags.max()),
        "repetition": [_repetition(s.patches) for s in (real, sampled)],
        **_std_ratios(real, sampled),
        "classifier": classify(real.patches, sampled.patches, seed=seed, seconds=seconds),
        "spectrum": {
            "frequency": frequency.tolist(),
            "real_db": real_db.tolist(),
            "sampled_db": sampled_db.tolist(),
        },
    }


def radial_spectrum_db(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Radially averaged power spectrum inside 0.02 to 0.45 cycles per pixel.

    Returns
    -------
    frequency : Tensor, shape (k,)
        Cycles per pixel.
    power : Tensor, shape (k,)
        10 log10 of the power; white noise of unit variance gives 0.
    """
    side = patches.shape[-1]
    power = estimate_power_spectrum(patches)
    # The halved layout holds every conjugate pair once; weighting is even inside a shell, so the mean stands.
    radial = radial_mean(power, shell_index((side, side), half=True), side // 2 + 1)
    frequency = torch.arange(side // 2 + 1) / side
    inside = (frequency >= _BAND[0]) & (frequency <= _BAND[1])
    return frequency[inside], 10 * torch.log10(radial[inside].clamp(min=1e-12))


def _wasserstein(first: Tensor, second: Tensor) -> float:
    """Mean distance of the quantiles of two sets of pixels."""
    levels = (np.arange(2000) + 0.5) / 2000
    quantiles = [np.quantile(t.numpy(), levels) for t in (first, second)]
    return float(np.abs(quantiles[0] - quantiles[1]).mean())


def _standard_moment(patches: Tensor, order: int) -> float:
    """Mean of the standardised pixels to a power."""
    values = patches.double()
    return float((((values - values.mean()) / values.std()) ** order).mean())


def _autocorrelation(patches: Tensor) -> Tensor:
    """Correlation of pixels (dy, dx) apart, for short lags."""
    n = patches.shape[-1]
    values = [(patches[:, dy:, dx:] * patches[:, : n - dy, : n - dx]).mean() for dy, dx in _LAGS]
    return torch.stack(values) / patches.square().mean()


def _repetition(patches: Tensor, most: int = 512) -> float:
    """Mean squared correlation of all pairs of (at most 512) patches."""
    step = -(-len(patches) // most)
    flat = patches[::step].flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    flat = flat / flat.norm(dim=1, keepdim=True)
    pairs = len(flat) * (len(flat) - 1)
    return float(((flat @ flat.T).square().sum() - len(flat)) / pairs)


def _std_ratios(real: NoiseSet, sampled: NoiseSet) -> dict[str, float]:
    """Deviation of sampled over real noise, over all tilts and for the worst of those in both sets."""
    ratios = {"std_ratio": float(np.sqrt(np.mean(sampled.std**2) / np.mean(real.std**2)))}
    _, left, right = np.intersect1d(real.label, sampled.label, return_indices=True)
    if len(left):
        each = sampled.std[right] / real.std[left]
        ratios["std_ratio_worst"] = float(each[np.argmax(np.abs(np.log(each)))])
    return ratios


# ---- two-sample classifier ------------------------------------------------------------------------


def classify(
    real: Tensor, sampled: Tensor, *, seed: int = 0, seconds: float = 20.0, steps: int = 200
) -> float:
    """Train a small network to tell two sets of patches apart; return its accuracy on held-out patches.

    The first half of each set trains, the second half tests: overlapping patches are neighbours in
    the list, so a random split would show the network its own test.

    Parameters
    ----------
    real, sampled : Tensor, shape (n, P, P)
    seed : int
        Equal seeds give equal scores while the time limit is not met.
    seconds : float
        Time limit of the training.
    steps : int
        Steps of 24 crops of each set.

    Returns
    -------
    float
        Balanced accuracy; 0.5 cannot be told apart, 1 is told apart always.
    """
    rng = torch.Generator().manual_seed(seed)
    train, test = zip(*((t[: len(t) // 2], t[len(t) // 2 :]) for t in (real, sampled)), strict=True)
    network = _small_classifier(rng)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    end = time.monotonic() + seconds
    for _ in range(steps):
        if time.monotonic() > end:
            break
        crops = torch.cat([_random_crops(t, 24, rng) for t in train])
        target = torch.arange(2).repeat_interleave(24).float()
        loss = nn.functional.binary_cross_entropy_with_logits(network(crops[:, None]).flatten(), target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
    return _balanced_accuracy(network, test, rng)


def _small_classifier(rng: torch.Generator) -> nn.Module:
    """Three convolutions and a mean over the patch: sees texture and marginal law, not position."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ELU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=rng)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return network


def _random_crops(patches: Tensor, count: int, rng: torch.Generator, side: int = 32) -> Tensor:
    """Crops of at most 32 pixels at random places of random patches."""
    room = patches.shape[-1] - side
    if room < 0:
        return patches[torch.randint(len(patches), (count,), generator=rng)]
    index = torch.randint(len(patches), (count,), generator=rng).tolist()
    corners = torch.randint(room + 1, (count, 2), generator=rng).tolist()
    return torch.stack(
        [patches[i, y : y + side, x : x + side] for i, (y, x) in zip(index, corners, strict=True)]
    )


@torch.no_grad()
def _balanced_accuracy(network: nn.Module, test: Sequence[Tensor], rng: torch.Generator) -> float:
    """Mean of the two shares of crops put on the right side."""
    crops = [_random_crops(t, 512, rng) for t in test]
    right = [
        ((network(c[:, None]).flatten() > 0).float() - label).abs()
        for c, label in zip(crops, (1.0, 0.0), strict=True)
    ]
    return float(torch.stack([r.mean() for r in right]).mean())


# ---- files ----------------------------------------------------------------------------------------


def check_noise(
    real: Path, sampled: Sequence[Path], *, seed: int = 0, seconds: float = 20.0
) -> dict[str, Any]:
    """Compare sampled noise files with a real one; the floor compares two halves of the real one.

    Parameters
    ----------
    real : Path
        Patches (HDF5), or a stack (MRC) of nothing but noise.
    sampled : sequence of Path
        Likewise; stacks are cut into patches of the real side.
    seed, seconds
        See `compare_noise`.

    Returns
    -------
    dict
        ``floor`` and ``sampled`` (by file name), each as from `compare_noise`; ``real`` and ``patch``.

    Raises
    ------
    InputError
        If a file cannot be read, is too small for a patch, or holds too few patches.
    """
    truth = load_noise_set(real, None)
    side = truth.patches.shape[-1]
    if len(truth.patches) < 8:
        raise InputError(f"{real}: {len(truth.patches)} patches are too few to halve; extract more")
    first, second = truth.halves()
    result: dict[str, Any] = {"real": str(real), "patch": side, "patches": len(truth.patches)}
    result["floor"] = compare_noise(first, second, seed=seed, seconds=seconds)
    result["sampled"] = {
        str(path): compare_noise(truth, load_noise_set(path, side), seed=seed, seconds=seconds)
        for path in sampled
    }
    return result


def load_noise_set(path: Path, side: int | None) -> NoiseSet:
    """Read noise patches, or cut a noise stack into patches of ``side`` (at most 128) without overlap."""
    if h5py.is_hdf5(path) if Path(path).is_file() else False:
        noise = read_patches(path)
        key = np.stack([noise.source_index, noise.tilt_index], axis=1)
        _, first, tilt = np.unique(key, axis=0, return_index=True, return_inverse=True)
        label = 1_000_000 * noise.source_index[first] + noise.tilt_index[first]
        found = NoiseSet(torch.from_numpy(noise.patches), tilt.reshape(-1), noise.tilt_std[first], label)
        return found if side is None or side == noise.patches.shape[-1] else _recut(found, side, path)
    stack = read_stack(path).data
    return cut_stack(stack, side or min(128, 2 * (min(stack.shape[1:]) // 4)), path)


def cut_stack(stack: NDArray[np.floating[Any]], side: int, path: Path) -> NoiseSet:
    """Cut a stack of pure noise into regular tiles, standardised as by `cut_noise_patches`."""
    count, height, width = stack.shape
    rows, columns = height // side, width // side
    if rows * columns == 0:
        raise InputError(f"{path}: images of {height} x {width} are smaller than the {side} x {side} patches")
    tiles = stack[:, : rows * side, : columns * side].reshape(count, rows, side, columns, side)
    tiles = tiles.swapaxes(2, 3).astype(np.float64)
    tiles -= tiles.mean(axis=(3, 4), keepdims=True)
    std = tiles.std(axis=(1, 2, 3, 4))
    if not (std > 0).all():
        raise InputError(f"{path}: tilt {int(np.argmin(std))} is constant, no noise in it")
    level = (tiles / std[:, None, None, None, None]).astype(np.float32).reshape(-1, side, side)
    tilt = np.repeat(np.arange(count), rows * columns)
    return NoiseSet(torch.from_numpy(level), tilt, std, np.arange(count))


def _recut(noise: NoiseSet, side: int, path: Path) -> NoiseSet:
    """Cut patches down to a smaller side."""
    cut = cut_stack(noise.patches.numpy(), side, path)
    per_patch = len(cut.patches) // len(noise.patches)
    scale = torch.from_numpy(cut.std.astype(np.float32)).repeat_interleave(per_patch)
    return NoiseSet(
        cut.patches * scale[:, None, None], np.repeat(noise.tilt, per_patch), noise.std, noise.label
    )


def draw_fidelity(path: Path, result: dict[str, Any]) -> None:
    """Draw the radial spectra, their difference, and the scores of all samples beside the floor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    spectra, differences, scores = figure.subplots(1, 3)
    rows = {"floor (two halves of real)": result["floor"]} | {
        Path(k).name: v for k, v in result["sampled"].items()
    }
    for name, row in rows.items():
        frequency, real, sampled = (
            np.array(row["spectrum"][k]) for k in ("frequency", "real_db", "sampled_db")
        )
        spectra.plot(frequency, sampled, label=name)
        differences.plot(frequency, sampled - real)
    spectra.plot(frequency, real, "k--", label="real")
    spectra.set(xlabel="cycles / pixel", ylabel="power (dB)", title="radial power spectrum")
    spectra.legend(fontsize="small")
    differences.axhspan(-1, 1, color="0.9")
    differences.set(xlabel="cycles / pixel", ylabel="dB", title="difference from real")
    scores.barh(list(rows), [row["classifier"] for row in rows.values()])
    scores.axvline(0.5, color="k")
    scores.set(xlim=(0.4, 1), title="told apart by a classifier (0.5 = never)")
    with atomic_path(path) as partial:
        FigureCanvasAgg(figure)
        figure.savefig(partial, format="png", dpi=150)


def summarise_fidelity(result: dict[str, Any]) -> list[str]:
    """One line per comparison, for the terminal."""
    rows = {"floor": result["floor"]} | result["sampled"]
    return [
        f"{name}: spectrum {row['spectrum_db_max']:.2f} dB max, {row['spectrum_db_mean']:.2f} mean; marginal "
        f"{row['wasserstein']:.3f} sigma; std x {row['std_ratio']:.3f}; classifier {row['classifier']:.2f}"
        for name, row in rows.items()
    ]
