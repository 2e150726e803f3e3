"""How far sampled noise is from real noise, in numbers.

Every measure is also taken between two halves of the real noise: that floor is the best anyone can reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomend.fourier import radial_frequency, radial_mean, shell_index
from cryomend.io import InputError, read_stack, read_tilt_angles
from cryomend.noise.classifier import classify
from cryomend.noise.patches import NoisePatches, read_patches
from cryomend.noise.spectral import estimate_power_spectrum, thin_values

__all__ = [
    "NoiseSet",
    "check_noise",
    "compare_noise",
    "fidelity_score",
    "summarise_fidelity",
]

BAND = (0.02, 0.45)  # cycles per pixel
LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))


@dataclass
class NoiseSet:
    """Patches (n, P, P) standardised per tilt, the tilt of each; each tilt's deviation, label and angle.

    Tilts of two sets are the same where their angles (in degrees, to a tenth) are, or, if those are unknown,
    their labels.
    """

    patches: Tensor
    tilt: NDArray[np.int64]
    std: NDArray[np.float64]
    label: NDArray[np.int64]
    angle: NDArray[np.float64]

    @classmethod
    def of_patches(cls, noise: NoisePatches) -> NoiseSet:
        """Take the patches that were cut from stacks; tilts of several stacks stay apart."""
        key = np.stack([noise.source_index, noise.tilt_index], axis=1)
        _, first, tilt = np.unique(key, axis=0, return_index=True, return_inverse=True)
        label = 1_000_000 * noise.source_index[first] + noise.tilt_index[first]
        patches, tilt = torch.from_numpy(noise.patches), tilt.reshape(-1)
        # What was set apart need not have the deviation of its tilt as a whole.
        std = np.array(
            [
                noise.tilt_std[i] * float(patches[torch.from_numpy(tilt == t)].std())
                for t, i in enumerate(first)
            ]
        )
        return cls(patches, tilt, std, label, noise.tilt_angle[first])

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
        renumbered = np.searchsorted(tilts, self.tilt[keep])
        return NoiseSet(patches, renumbered, np.array(std), self.label[tilts], self.angle[tilts])


def compare_noise(real: NoiseSet, sampled: NoiseSet, *, seed: int = 0, steps: int = 400) -> dict[str, Any]:
    """Measure the distance of two sets of noise patches.

    Parameters
    ----------
    real, sampled : NoiseSet
        Patches of the same side.
    seed, steps : int
        Of the classifier; see `classify`.

    Returns
    -------
    dict
        ``spectrum_db_max``, ``spectrum_db_mean``: absolute difference of the radial log power spectra, 0.02
        to 0.45 cycles/pixel; ``spectrum``: the frequencies and both spectra in dB.
        ``sector_db_max``, ``sector_db_mean``: the same over sectors of the Fourier plane, 30 degrees by a
        tenth of the band, which sees anisotropy; ``sectors``: the differences, [ring][sector].
        ``wasserstein``: distance of the marginal laws, in standard deviations.
        ``skewness``, ``kurtosis`` (excess): [real, sampled].
        ``autocorrelation``: [real, sampled] at the lags (dy, dx) of one and two pixels;
        ``autocorrelation_max``: the largest difference.
        ``repetition``: [real, sampled] mean squared correlation of two patches, which is one over their
        degrees of freedom, and larger where patches repeat.
        ``std_ratio``: sampled over real, rms over all tilts; over the tilts that both have ``std_ratio_rms``
        (rms difference of the ratio from one), ``std_ratio_worst`` and ``std_tilts`` [label, real, sampled].
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
    power = [estimate_power_spectrum(s.patches) for s in (real, sampled)]
    frequency, (real_db, sampled_db) = _band_frequencies(power[0]), (_radial_db(p) for p in power)
    difference = (sampled_db - real_db).abs()
    sectors = _sector_db(power[1]) - _sector_db(power[0])
    lags = [_autocorrelation(s.patches) for s in (real, sampled)]
    (real_train, real_test), (train, test) = real.halves(), sampled.halves()
    return {
        "spectrum_db_max": float(difference.max()),
        "spectrum_db_mean": float(difference.mean()),
        "sector_db_max": float(sectors.abs().max()),
        "sector_db_mean": float(sectors.abs().mean()),
        "wasserstein": _wasserstein(real.patches, sampled.patches),
        "skewness": [_standard_moment(s.patches, 3) for s in (real, sampled)],
        "kurtosis": [_standard_moment(s.patches, 4) - 3 for s in (real, sampled)],
        "autocorrelation": [values.tolist() for values in lags],
        "autocorrelation_max": float((lags[1] - lags[0]).abs().max()),
        "repetition": [_repetition(s.patches) for s in (real, sampled)],
        **_std_ratios(real, sampled),
        "classifier": classify(
            (real_train.patches, train.patches), (real_test.patches, test.patches), seed=seed, steps=steps
        ),
        "spectrum": {
            "frequency": frequency.tolist(),
            "real_db": real_db.tolist(),
            "sampled_db": sampled_db.tolist(),
        },
        "sectors": sectors.tolist(),
    }


_LIMITS = {"spectrum_db_max": 1.0, "sector_db_mean": 0.5, "wasserstein": 0.02, "autocorrelation_max": 0.02}
_CLASSIFIER_LIMIT = 0.65


def fidelity_score(row: dict[str, Any]) -> float:
    """One number for a comparison by `compare_noise`: distances over their limits, averaged; lower is better.

    The limits are 1 dB of the radial spectrum, 0.5 dB of its sectors, 0.02 deviations of the marginal law,
    0.02 of the autocorrelation and a classifier that is right in 65 % of all cases, which counts twice.
    """
    told_apart = max(row["classifier"] - 0.5, 0.0) / (_CLASSIFIER_LIMIT - 0.5)
    shares = [row[name] / limit for name, limit in _LIMITS.items()]
    return (sum(shares) + 2 * told_apart) / (len(shares) + 2)


def _band_frequencies(power: Tensor) -> Tensor:
    """Frequencies of the Fourier shells inside the band, cycles per pixel."""
    frequency = torch.arange(power.shape[0] // 2 + 1) / power.shape[0]
    return frequency[(frequency >= BAND[0]) & (frequency <= BAND[1])]


def _radial_db(power: Tensor) -> Tensor:
    """Radial mean of a power spectrum (P, P // 2 + 1) inside the band, in dB of white unit noise."""
    side = power.shape[0]
    # The halved layout holds every conjugate pair once; weighting is even inside a shell, so the mean stands.
    radial = radial_mean(power, shell_index((side, side), half=True), side // 2 + 1)
    shells = (_band_frequencies(power) * side).round().long()
    return 10 * torch.log10(radial[shells].clamp(min=1e-12))


_RINGS, _SECTORS = 10, 6


def _sector_db(power: Tensor) -> Tensor:
    """Mean power of sectors of the half plane inside the band, in dB, shape (ring, sector)."""
    side = power.shape[0]
    ky, kx = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    k = radial_frequency((side, side), half=True)
    ring = ((k - BAND[0]) / (BAND[1] - BAND[0]) * _RINGS).floor().long()
    # Sectors are centred on the axes, where detectors differ.
    turn = (torch.atan2(ky, kx) / math.pi * _SECTORS).round().long() % _SECTORS
    inside = (ring >= 0) & (ring < _RINGS)
    mean = radial_mean(power[inside], (ring * _SECTORS + turn)[inside], _RINGS * _SECTORS)
    decibels: Tensor = 10 * torch.log10(mean.clamp(min=1e-12))
    return decibels.reshape(_RINGS, _SECTORS)


def _wasserstein(first: Tensor, second: Tensor) -> float:
    """Mean distance of the quantiles of two sets of pixels."""
    levels = (np.arange(2000) + 0.5) / 2000
    quantiles = [np.quantile(thin_values(t).numpy(), levels) for t in (first, second)]
    return float(np.abs(quantiles[0] - quantiles[1]).mean())


def _standard_moment(patches: Tensor, order: int) -> float:
    """Mean of the standardised pixels to a power."""
    values = patches.double()
    return float((((values - values.mean()) / values.std()) ** order).mean())


def _autocorrelation(patches: Tensor) -> Tensor:
    """Correlation of pixels (dy, dx) apart, for short lags."""
    n = patches.shape[-1]
    values = [(patches[:, dy:, dx:] * patches[:, : n - dy, : n - dx]).mean() for dy, dx in LAGS]
    return torch.stack(values) / patches.square().mean()


def _repetition(patches: Tensor, most: int = 512) -> float:
    """Mean squared correlation of all pairs of (at most 512) patches."""
    step = -(-len(patches) // most)
    flat = patches[::step].flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    flat = flat / flat.norm(dim=1, keepdim=True)
    pairs = len(flat) * (len(flat) - 1)
    return float(((flat @ flat.T).square().sum() - len(flat)) / pairs)


def _std_ratios(real: NoiseSet, sampled: NoiseSet) -> dict[str, Any]:
    """Deviation of sampled over real noise, over all tilts and over those that both sets have."""
    ratios: dict[str, Any] = {"std_ratio": float(np.sqrt(np.mean(sampled.std**2) / np.mean(real.std**2)))}
    by_angle = not (np.isnan(real.angle).any() or np.isnan(sampled.angle).any())
    tables = [_std_by((s.angle * 10).round() if by_angle else s.label, s.std) for s in (real, sampled)]
    shared = sorted(tables[0].keys() & tables[1].keys())
    if shared:
        pairs = np.array([[table[key] for table in tables] for key in shared])
        each = pairs[:, 1] / pairs[:, 0]
        ratios["std_ratio_rms"] = float(np.sqrt(np.mean((each - 1) ** 2)))
        ratios["std_ratio_worst"] = float(each[np.argmax(np.abs(np.log(each)))])
        names = [float(key / 10 if by_angle else key) for key in shared]
        ratios["std_tilts"] = [[n, *pair] for n, pair in zip(names, pairs.tolist(), strict=True)]
    return ratios


def _std_by(keys: NDArray[Any], std: NDArray[np.float64]) -> dict[float, float]:
    """Root of the mean variance of all tilts under one key."""
    return {float(key): float(np.sqrt(np.mean(std[keys == key] ** 2))) for key in np.unique(keys)}


# ---- files ----------------------------------------------------------------------------------------


def check_noise(
    real: Path,
    sampled: Sequence[Path],
    *,
    tilt_angles: Path | None = None,
    seed: int = 0,
    steps: int = 400,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
) -> dict[str, Any]:
    """Compare sampled noise files with a real one; the floor compares two halves of the real one.

    Parameters
    ----------
    real : Path
        Patches (HDF5), or a stack (MRC) of nothing but noise.
    sampled : sequence of Path
        Likewise; stacks are cut into patches of the real side.
    tilt_angles : Path, optional
        Angles of all stacks, so that their deviations are compared angle by angle; without, tilts of
        equal number are compared.
    seed, steps : int
        See `compare_noise`.
    on_progress : callable
        Told the share done and a text.

    Returns
    -------
    dict
        ``floor`` and ``sampled`` (by file name), each as from `compare_noise` with its ``score``
        (`fidelity_score`); ``real``, ``patch`` and ``patches``.

    Raises
    ------
    InputError
        If a file cannot be read, is too small for a patch, or holds too few patches.
    """
    angles = None if tilt_angles is None else read_tilt_angles(tilt_angles)
    truth = load_noise_set(real, None, angles)
    side = truth.patches.shape[-1]
    if len(truth.patches) < 8:
        raise InputError(f"{real}: {len(truth.patches)} patches are too few to halve; extract more")
    others = {str(path): load_noise_set(path, side, angles) for path in sampled}  # all read before any work
    first, second = truth.halves()
    rows = []
    for done, (name, one, other) in enumerate(
        [("floor", first, second), *((name, truth, other) for name, other in others.items())]
    ):
        on_progress(done / (len(others) + 1), Path(name).name)
        row = compare_noise(one, other, seed=seed, steps=steps)
        rows.append({"score": fidelity_score(row), **row})
    return {
        "real": str(real),
        "patch": side,
        "patches": len(truth.patches),
        "floor": rows[0],
        "sampled": dict(zip(others, rows[1:], strict=True)),
    }


def load_noise_set(path: Path, side: int | None, angles: NDArray[np.float64] | None = None) -> NoiseSet:
    """Read noise patches, or cut a noise stack into patches of ``side`` (at most 128) without overlap."""
    if h5py.is_hdf5(path) if Path(path).is_file() else False:
        found = NoiseSet.of_patches(read_patches(path))
        return found if side is None or side == found.patches.shape[-1] else _recut(found, side, path)
    stack = read_stack(path).data
    return cut_stack(stack, side or min(128, 2 * (min(stack.shape[1:]) // 4)), path, angles)


def cut_stack(
    stack: NDArray[np.floating[Any]], side: int, path: Path, angles: NDArray[np.float64] | None = None
) -> NoiseSet:
    """Cut a stack of pure noise into regular tiles, standardised as by `cut_noise_patches`."""
    count, height, width = stack.shape
    rows, columns = height // side, width // side
    if rows * columns == 0:
        raise InputError(f"{path}: images of {height} x {width} are smaller than the {side} x {side} patches")
    if angles is not None and len(angles) != count:
        raise InputError(
            f"{path}: {count} images for {len(angles)} tilt angles; give the angles of this stack"
        )
    tiles = stack[:, : rows * side, : columns * side].reshape(count, rows, side, columns, side)
    tiles = tiles.swapaxes(2, 3).astype(np.float64)
    tiles -= tiles.mean(axis=(3, 4), keepdims=True)
    std = tiles.std(axis=(1, 2, 3, 4))
    if not (std > 0).all():
        raise InputError(f"{path}: tilt {int(np.argmin(std))} is constant, no noise in it")
    level = (tiles / std[:, None, None, None, None]).astype(np.float32).reshape(-1, side, side)
    tilt = np.repeat(np.arange(count), rows * columns)
    angle = np.full(count, np.nan) if angles is None else np.asarray(angles, dtype=np.float64)
    return NoiseSet(torch.from_numpy(level), tilt, std, np.arange(count), angle)


def _recut(noise: NoiseSet, side: int, path: Path) -> NoiseSet:
    """Cut patches down to a smaller side."""
    cut = cut_stack(noise.patches.numpy(), side, path)
    per_patch = len(cut.patches) // len(noise.patches)
    scale = torch.from_numpy(cut.std.astype(np.float32)).repeat_interleave(per_patch)
    patches = cut.patches * scale[:, None, None]
    return NoiseSet(patches, np.repeat(noise.tilt, per_patch), noise.std, noise.label, noise.angle)


def summarise_fidelity(result: dict[str, Any]) -> list[str]:
    """One line per comparison, for the terminal."""
    rows = {"floor": result["floor"]} | result["sampled"]
    return [
        f"{name}: spectrum {row['spectrum_db_max']:.2f} dB max, {row['spectrum_db_mean']:.2f} mean, "
        f"{row['sector_db_max']:.2f} in sectors; marginal {row['wasserstein']:.3f} sigma; "
        f"std x {row['std_ratio']:.3f}{_per_tilt(row)}; classifier {row['classifier']:.2f}"
        for name, row in rows.items()
    ]


def _per_tilt(row: dict[str, Any]) -> str:
    """Deviation tilt by tilt, where both sets have the tilts."""
    return f", per tilt {100 * row['std_ratio_rms']:.1f} % rms" if "std_ratio_rms" in row else ""
