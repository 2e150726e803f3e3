"""Noise at a stated signal-to-noise ratio, as CONVENTIONS.md defines it, and at another pixel size.

Powers are taken tilt by tilt about the mean over the specimen area, inside a band of frequencies. What
lies outside the area is set to zero before the Fourier transform, so that nothing there leaks into the band.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cryomend.fourier import radial_frequency, resample_fourier

__all__ = [
    "blend_noise",
    "measure_mixed_snr",
    "measure_power",
    "measure_snr",
    "mix_noise",
    "sample_rescaled",
    "scale_noise",
    "snr_from_db",
]

Band = tuple[float, float]
"""Lowest (left out) and highest (kept) frequency, cycles per pixel."""


def mix_noise(
    tilt_series: Tensor,
    noise: Tensor,
    *,
    snr: float | Tensor,
    band: Band | None = None,
    area: Tensor | None = None,
) -> Tensor:
    """Add noise to a tilt series at a given signal-to-noise ratio, tilt by tilt.

    Parameters
    ----------
    tilt_series : Tensor, shape (tilt, Y, X)
        Signal without noise, any units and offset.
    noise : Tensor, shape (tilt, Y, X)
        Noise of any scale and offset; its offset is taken away.
    snr : float or Tensor, shape (tilt,)
        Linear power ratio, signal over noise; from decibels by `snr_from_db`.
    band : tuple of float, optional
        Frequencies (low, high] in cycles per pixel that count; all but the mean if None.
    area : Tensor of bool, optional, shape (tilt or 1, Y, X)
        Where the specimen is; the whole image if None. Noise is added everywhere.

    Returns
    -------
    Tensor, shape (tilt, Y, X)

    Raises
    ------
    ValueError
        If shapes differ, ``snr`` is not positive, or a tilt of either has no power in band and area.
    """
    if tilt_series.shape != noise.shape:
        raise ValueError(
            f"tilt series {tuple(tilt_series.shape)} and noise {tuple(noise.shape)} differ in shape"
        )
    ratio = torch.as_tensor(snr, dtype=tilt_series.dtype, device=tilt_series.device)
    if not bool((ratio > 0).all()):
        raise ValueError("snr must be positive: it is a linear power ratio, not decibels")
    power = measure_power(tilt_series, band=band, area=area)
    if not bool((power > 0).all()):
        raise ValueError(_POWERLESS)
    return tilt_series + scale_noise(noise, power=power / ratio, band=band, area=area)


_POWERLESS = "a constant tilt, or one without power in band and area: signal-to-noise is undefined"


def scale_noise(
    noise: Tensor, *, power: float | Tensor, band: Band | None = None, area: Tensor | None = None
) -> Tensor:
    """Centre noise about its mean over the area and scale it to a given power, tilt by tilt.

    Parameters
    ----------
    noise : Tensor, shape (tilt, Y, X)
        Any scale and offset.
    power : float or Tensor, shape (tilt,)
        Wanted, in the squared unit of the result, at least 0.
    band, area : optional
        As in `mix_noise`.

    Returns
    -------
    Tensor, shape (tilt, Y, X)

    Raises
    ------
    ValueError
        If a tilt has no power in band and area.
    """
    present = measure_power(noise, band=band, area=area)
    if not bool((present > 0).all()):
        raise ValueError(_POWERLESS)
    wanted = torch.as_tensor(power, dtype=noise.dtype, device=noise.device)
    inside = _areas(noise, area)
    centred = torch.stack([_centred(image, here) for image, here in zip(noise, inside, strict=True)])
    return centred.to(noise) * (wanted / present).sqrt().reshape(-1, 1, 1)


def blend_noise(
    first: Tensor,
    second: Tensor,
    *,
    share: float,
    keep_total: bool = True,
    band: Band | None = None,
    area: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scale two kinds of noise so that the second makes a stated share of the power of their sum.

    Parameters
    ----------
    first : Tensor, shape (tilt, Y, X)
        What is there, counting noise say; its power is the measure.
    second : Tensor, shape (tilt, Y, X)
        What is mixed in, independent of the first, any scale and offset.
    share : float
        Of the second in the power of the sum, 0 to 1.
    keep_total : bool
        The sum has the power of ``first``, which becomes ``1 - share`` of it; if False all of ``first``
        stays and the power of the sum grows by ``1 / (1 - share)``.
    band, area : optional
        As in `mix_noise`.

    Returns
    -------
    first, second : Tensor, shape (tilt, Y, X)
        To be added to each other.

    Raises
    ------
    ValueError
        If ``share`` lies outside 0 to 1, is 1 and the total grows, or a tilt of ``second`` has no power.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of the noise lies within 0 to 1, got {share:g}")
    if share == 1 and not keep_total:
        raise ValueError("a share of 1 on top of other noise has no end; let the total be kept")
    kept = 1 - share if keep_total else 1.0
    total = measure_power(first, band=band, area=area) * (kept / (1 - share) if share < 1 else 1)
    return first * kept**0.5, scale_noise(second, power=share * total, band=band, area=area)


def measure_power(images: Tensor, *, band: Band | None = None, area: Tensor | None = None) -> Tensor:
    """Power of each tilt inside a band of frequencies and over an area.

    Parameters
    ----------
    images : Tensor, shape (tilt, Y, X)
        Any unit and offset.
    band, area : optional
        As in `mix_noise`.

    Returns
    -------
    Tensor, shape (tilt,)
        Mean over the area of the squared deviation from the mean there, in the squared unit of ``images``.

    Raises
    ------
    ValueError
        If the band is empty, or the area has another shape or fewer than two pixels in a tilt.
    """
    return _covariance(images, images, band, area)


def measure_snr(
    signal: Tensor, noise: Tensor, *, band: Band | None = None, area: Tensor | None = None
) -> Tensor:
    """Signal-to-noise ratio of each tilt where signal and noise are known apart.

    Parameters
    ----------
    signal, noise : Tensor, shape (tilt, Y, X)
        In the same unit, with any offsets.
    band, area : optional
        As in `mix_noise`.

    Returns
    -------
    Tensor, shape (tilt,)
        Linear power ratio.

    Raises
    ------
    ValueError
        If a tilt of the noise has no power, or as in `measure_power`.
    """
    power = measure_power(noise, band=band, area=area)
    if not bool((power > 0).all()):
        raise ValueError(_POWERLESS)
    return measure_power(signal, band=band, area=area) / power


def measure_mixed_snr(
    first: Tensor, second: Tensor, *, band: Band | None = None, area: Tensor | None = None
) -> Tensor:
    """Signal-to-noise ratio of each tilt from two stacks with the same signal and independent noise.

    Parameters
    ----------
    first, second : Tensor, shape (tilt, Y, X)
        Even and odd frames say, or one signal mixed twice; any offsets.
    band, area : optional
        As in `mix_noise`.

    Returns
    -------
    Tensor, shape (tilt,)
        Linear power ratio of one of the two, about the mean of both; that of their sum is twice it.

    Raises
    ------
    ValueError
        If the shapes differ or the two are the same, or as in `measure_power`.

    Notes
    -----
    Their covariance is the signal's power, half the power of their difference the noise's. Over ``n``
    pixels the covariance is known to about ``noise power / sqrt(n)``, so it may come out negative.
    """
    if first.shape != second.shape:
        raise ValueError(f"stacks {tuple(first.shape)} and {tuple(second.shape)} differ in shape")
    noise = measure_power(first - second, band=band, area=area) / 2
    if not bool((noise > 0).all()):
        raise ValueError("the two stacks do not differ: they hold no independent noise")
    return _covariance(first, second, band, area) / noise


def snr_from_db(snr_db: float) -> float:
    """Linear power ratio of so many decibels, ``10 ** (snr_db / 10)``."""
    return float(10 ** (snr_db / 10))


def sample_rescaled(
    draw: Callable[[tuple[int, int]], Tensor], shape: tuple[int, int], *, factor: float
) -> Tensor:
    """Draw noise known at one pixel size and resample it to another by Fourier cropping or padding.

    Parameters
    ----------
    draw : callable
        Makes noise (tilt, Y, X) of the pixel shape (Y, X) that it is given.
    shape : tuple of int
        (Y, X) in pixels of the result.
    factor : float
        Pixel size of the result over that of ``draw``. Below 1 the frequencies beyond the Nyquist of
        ``draw`` stay empty: nobody measured them.

    Returns
    -------
    Tensor, shape (tilt, *shape)
        Spectral density of every physical frequency and mean as drawn; grey levels are means, not sums.

    Raises
    ------
    ValueError
        If ``factor`` is not positive.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"pixels are rescaled by a positive factor, got {factor:g}")
    # A wider field whose side is almost a whole number of pixels before and after; its rim, where the
    # transform wraps round what is not periodic, is cut away.
    wide = [min(range(n + 16, n + 48), key=lambda t: abs(t * factor - round(t * factor)) / t) for n in shape]
    drawn = draw((max(round(wide[0] * factor), 1), max(round(wide[1] * factor), 1)))
    resampled = resample_fourier(drawn, (wide[0], wide[1]))
    y, x = ((w - n) // 2 for w, n in zip(wide, shape, strict=True))
    return resampled[..., y : y + shape[0], x : x + shape[1]].contiguous()


def _covariance(first: Tensor, second: Tensor, band: Band | None, area: Tensor | None) -> Tensor:
    """Covariance of two stacks inside band and area, tilt by tilt."""
    inside = _areas(first, area)
    passed = None if band is None else _pass_band(first, band)
    values = []
    for one, other, here in zip(first, second, inside, strict=True):
        a, b = (_centred(image, here) * here for image in (one, other))
        count = here.sum()
        if passed is not None:
            a, b = (torch.fft.fft2(image, norm="ortho")[passed] for image in (a, b))
            b = b.conj()
        values.append((a * b).real.sum() / count)
    return torch.stack(values).to(first)


def _centred(image: Tensor, here: Tensor) -> Tensor:
    """An image about its mean over the area, in double precision: offsets may be large."""
    exact = image.to(here.device, torch.float64)
    return exact - exact[here].mean()


def _areas(images: Tensor, area: Tensor | None) -> Tensor:
    """The area of every tilt, on a device that knows double precision."""
    device = torch.device("cpu") if images.device.type == "mps" else images.device
    if area is None:
        return torch.ones(1, 1, 1, dtype=torch.bool, device=device).expand(images.shape)
    if area.dtype != torch.bool or area.ndim != 3 or area.shape not in (images.shape, (1, *images.shape[1:])):
        raise ValueError(
            f"the area is a mask of bool (tilt or 1, Y, X) over images {tuple(images.shape)}, "
            f"got {tuple(area.shape)} of {area.dtype}"
        )
    small = (area.sum(dim=(1, 2)) < 2).nonzero().flatten().tolist()
    if small:
        raise ValueError(f"the area of tilt {small[0] + 1} has fewer than two pixels")
    return area.to(device).expand(images.shape)


def _pass_band(images: Tensor, band: Band) -> Tensor:
    """Fourier pixels in the band, (Y, X) bool."""
    low, high = band
    if not 0 <= low < high:
        raise ValueError(f"a band is 0 <= low < high in cycles per pixel, got {low:g} to {high:g}")
    k = radial_frequency((images.shape[1], images.shape[2]), device=_areas(images, None).device)
    passed = (k > low) & (k <= high)
    if not bool(passed.any()):
        raise ValueError(
            f"the band of {low:g} to {high:g} cycles per pixel holds no frequency of images of "
            f"{images.shape[1]} x {images.shape[2]} pixels; widen it"
        )
    return passed
