"""Power spectrum and marginal law of noise, and Gaussian fields that reproduce both.

The honest rival of the learned noise model, and what calibrates that model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from cryomend.fourier import filter_fourier

__all__ = [
    "Whitening",
    "estimate_power_spectrum",
    "gaussian_power_spectrum",
    "map_marginal",
    "marginal_quantiles",
    "measure_whitening",
    "normal_levels",
    "refine_transfer",
    "sample_gaussian_field",
]

_LEVELS = 513  # from -4 to +4 sigma: one pixel in 30,000 lies beyond


def estimate_power_spectrum(patches: Tensor) -> Tensor:
    """Mean periodogram of patches under a Hann window, each patch's mean removed.

    The window keeps the jump between opposite edges from leaking into high frequencies; the mean, which
    the window would leak into the lowest ones, belongs to ice and light.

    Parameters
    ----------
    patches : Tensor, shape (n, P, P)

    Returns
    -------
    Tensor, shape (P, P // 2 + 1)
        Power in the layout of ``rfft2``; white noise of unit variance gives 1 everywhere. The value at the
        origin, unknown without the mean, is that of its neighbours.

    Notes
    -----
    With window w and weighted mean m, ``F[w (x - m)]`` of white noise has the power
    ``F[w²](0) - 2 Re(F[w²] F[w]*) / F[w](0) + |F[w]|² F[w²](0) / F[w](0)²``: the divisor of the periodogram.
    """
    side = patches.shape[-1]
    hann = torch.hann_window(side, periodic=True, dtype=patches.dtype, device=patches.device)
    window = hann[:, None] * hann[None, :]
    mean = (patches * window).sum(dim=(1, 2), keepdim=True) / window.sum()
    periodogram: Tensor = torch.fft.rfft2((patches - mean) * window).abs().square().mean(dim=0)
    first, second = torch.fft.rfft2(window), torch.fft.rfft2(window**2)
    share = (second * first.conj()).real / first[0, 0].abs()
    white = (
        second[0, 0].abs() - 2 * share + first.abs().square() * second[0, 0].abs() / first[0, 0].abs() ** 2
    )
    power: Tensor = periodogram / white.clamp(min=1e-3 * white.max())
    power[0, 0] = (power[0, 1] + power[1, 0]) / 2
    return power


def normal_levels(device: torch.device | str | None = None) -> Tensor:
    """Return the standard normal abscissae at which marginal laws are tabulated, from -4 to 4."""
    return torch.linspace(-4, 4, _LEVELS, device=device)


def marginal_quantiles(values: Tensor) -> Tensor:
    """Quantiles of ``values`` (any shape) at the probabilities of `normal_levels`; float32, increasing.

    Of very many values some millions in even steps are looked at: hundreds still lie beyond the last level.
    """
    ordered = thin_values(values).double().sort().values
    position = torch.special.ndtr(normal_levels().double()).to(values.device) * (len(ordered) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], position - low).float()


def thin_values(values: Tensor, most: int = 6_000_000) -> Tensor:
    """At most so many of ``values`` in even steps, flat; the step is odd, so that no column is favoured."""
    step = -(-values.numel() // most) // 2 * 2 + 1 if values.numel() > most else 1
    return values.flatten()[::step]


def map_marginal(values: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Carry values monotonically from the quantiles ``source`` to the quantiles ``target``.

    Linear between the tabulated quantiles; beyond the last one, shifted by as much as that one.
    """
    source, target = source.to(values.dtype), target.to(values.dtype)
    inside = values.clamp(source[0], source[-1]).contiguous()  # no number leaves the device
    index = torch.searchsorted(source, inside).clamp(1, len(source) - 1)
    low, high = source[index - 1], source[index]
    share = (inside - low) / (high - low).clamp(min=1e-12)
    return torch.lerp(target[index - 1], target[index], share) + (values - inside)


def gaussian_power_spectrum(power: Tensor, target: Tensor) -> Tensor:
    """Power spectrum of the Gaussian field that has ``power`` after its marginal is mapped.

    A monotone map of a Gaussian field bends its autocorrelation; here the bend is undone beforehand.

    Parameters
    ----------
    power : Tensor, shape (P, P // 2 + 1)
        Wanted spectrum.
    target : Tensor, shape (levels,)
        Wanted quantiles, from `marginal_quantiles`.

    Returns
    -------
    Tensor, shape of ``power``
        Never negative, scaled to unit variance.

    Notes
    -----
    With Hermite coefficients ``c_k = E[g(z) He_k(z)]`` of the map g, a Gaussian correlation ρ becomes
    ``Σ c_k² ρ^k / k!`` divided by its value at one (the Nataf transformation,
    doi:10.1016/0266-8920(86)90033-0); it is inverted by table.
    """
    z = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2)
    weight = weight / weight.sum()
    mapped = map_marginal(z, normal_levels(), target.cpu())
    rho = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    bent, hermite, previous = torch.zeros_like(rho), z, torch.ones_like(z)
    for k in range(1, 9):
        bent = bent + (weight * mapped * hermite).sum() ** 2 / math.factorial(k) * rho**k
        hermite, previous = z * hermite - k * previous, hermite
    side = power.shape[0]
    covariance = torch.fft.irfft2(power.cpu().double(), s=(side, side))
    straight = map_marginal(covariance / covariance[0, 0], (bent / bent[-1]).cummax(0).values, rho)
    spectrum = torch.fft.rfft2(straight.clamp(-1, 1)).real.clamp(min=0)
    variance: Tensor = torch.fft.irfft2(spectrum, s=(side, side))[0, 0]
    gaussian: Tensor = spectrum / variance
    return gaussian.to(power)


def refine_transfer(transfer: Tensor, shape: tuple[int, int]) -> Tensor:
    """Carry a transfer function measured on patches to the Fourier grid of a larger image.

    Parameters
    ----------
    transfer : Tensor, shape (P, P // 2 + 1)
        Real and even: a zero-phase filter.
    shape : tuple of int
        (Y, X) of the image, each at least P.

    Returns
    -------
    Tensor, shape (Y, X // 2 + 1)
        Of the same filter kernel, which reaches P / 2 pixels to each side.

    Raises
    ------
    ValueError
        If the image is smaller than the patches.
    """
    side = transfer.shape[0]
    if min(shape) < side:
        raise ValueError(f"an image of {shape[0]} x {shape[1]} is smaller than the {side} x {side} filter")
    kernel = torch.fft.fftshift(torch.fft.irfft2(transfer, s=(side, side)))
    padded = torch.zeros(shape, dtype=kernel.dtype, device=kernel.device)
    padded[:side, :side] = kernel
    refined: Tensor = torch.fft.rfft2(padded.roll((-(side // 2), -(side // 2)), dims=(0, 1))).real
    return refined


@dataclass(frozen=True)
class Whitening:
    """What a spectrum and a histogram can say of noise, taken out and put back.

    Attributes
    ----------
    amplitude : Tensor, shape (P, P // 2 + 1)
        Root of the power spectrum of the noise.
    quantiles : Tensor, shape (levels,)
        Marginal law of the whitened noise, at `normal_levels`.
    """

    amplitude: Tensor
    quantiles: Tensor

    def whiten(self, patches: Tensor) -> Tensor:
        """Flatten the spectrum of patches (n, P, P), as if they were periodic.

        Where the noise has next to no power (beyond a Fourier crop, say) it stays weak.
        """
        return filter_fourier(patches, 1 / self.amplitude.clamp(min=_WEAKEST * self.amplitude.max()))

    def colour(self, normal: Tensor, *, transfer: Tensor | None = None) -> Tensor:
        """Turn white normal noise on a torus (n, Y, X) into noise of this law and spectrum.

        ``transfer`` replaces the amplitude: `refine_transfer` of it, or of a corrected one.
        """
        level = map_marginal(normal, normal_levels(normal.device), self.quantiles)
        shape = (normal.shape[-2], normal.shape[-1])
        return filter_fourier(level, refine_transfer(self.amplitude, shape) if transfer is None else transfer)


_WEAKEST = 0.03  # of the largest amplitude: -30 dB


def measure_whitening(patches: Tensor, power: Tensor) -> Whitening:
    """Measure the whitening of patches (n, P, P) whose power spectrum is ``power``."""
    flat = Whitening(power.sqrt(), normal_levels(power.device))
    return replace(flat, quantiles=marginal_quantiles(flat.whiten(patches)))


def sample_gaussian_field(power: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a Gaussian field of any size with a power spectrum measured on patches, shape ``shape``.

    Cut from a torus larger by a patch, so that opposite borders are independent.
    """
    side = power.shape[0]
    torus = (next_fast_len(shape[0] + side), next_fast_len(shape[1] + side))
    white = torch.randn(torus, generator=generator, device=generator.device).to(power.device)
    return filter_fourier(white, refine_transfer(power.sqrt(), torus))[: shape[0], : shape[1]]
