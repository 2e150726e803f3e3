"""How one tilt series is exposed: drawn from the ranges of a configuration, kept with the result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomend.acquisition.detector import Mtf, read_mtf
from cryomend.acquisition.placement import Placement
from cryomend.acquisition.scheme import recording_order, share_fluence
from cryomend.config import AcquisitionConfig
from cryomend.ctf import Optics
from cryomend.dose import exposure_before
from cryomend.geometry import tilt_angles_from_range
from cryomend.mixing import snr_from_db

__all__ = ["Exposure", "Lens", "draw_exposure", "draw_tilt_angles", "thickness_transmission"]


@dataclass(frozen=True)
class Lens:
    """What differs from tilt to tilt: defocus and half its difference in µm, angles in degrees."""

    defocus_um: float
    astigmatism_um: float
    astigmatism_angle: float
    phase_shift: float


@dataclass(frozen=True)
class Exposure:
    """How one tilt series is recorded; units as in CONVENTIONS.md.

    ``thickness`` of the ice in Å; ``dqe`` the share of the electrons that counts and
    ``dqe_nyquist`` what is left of it at Nyquist (`counting_filters`); ``snr`` replaces
    counting by white noise of that linear power ratio when given, ``snr_band`` are the shortest and the
    longest period in Å of the powers; ``scheme`` is (name, start, group, direction).
    ``phase_shift_drift`` in degrees comes on top until the end of the series. One entry per tilt have
    ``lens_errors`` (added to the defocus and to the astigmatism as a vector of twice its angle, µm),
    ``placements`` (where the images fall on the detector; in place if empty), ``doses`` in e⁻/Å² and
    ``places`` in time (shares of ``fluence`` and the scheme's order if empty). ``motion`` is the largest
    local displacement at the end in Å, ``motion_field`` the coefficients of its pattern.
    """

    optics: Optics
    defocus_um: float = 4.0
    astigmatism_um: float = 0.0
    astigmatism_angle: float = 0.0
    fluence: float = 100.0
    thickness: float = 1000.0
    mean_free_path: float = 3200.0
    mtf_nyquist: float = 0.6
    dqe: float = 1.0
    damage: bool = True
    snr: float | None = None
    snr_band: tuple[float, float] | None = None
    scheme: tuple[str, float, int, int] = ("dose-symmetric", 0.0, 1, 1)
    fluence_exponent: float = 0.0
    defocus_hand: int = 1
    phase_shift_drift: float = 0.0
    lens_errors: tuple[tuple[float, float, float], ...] = ()
    beam_tilt_mrad_xy: tuple[float, float] = (0.0, 0.0)
    x_tilt: float = 0.0
    tilt_axis_angle: float = 0.0
    placements: tuple[Placement, ...] = ()
    doses: tuple[float, ...] = ()
    places: tuple[int, ...] = ()
    motion: float = 0.0
    motion_field: tuple[float, ...] = ()
    mtf: Mtf | None = field(default=None, repr=False)
    detector_pixel: float | None = None
    noise_power: str = "mtf"
    dqe_nyquist: float | None = None
    gain_error: float = 0.0
    hot_pixels: float = 0.0

    def record(self) -> dict[str, Any]:
        """Everything that was drawn, for the file beside the result; of a measured MTF only that it was."""
        values = asdict(self)
        values["mtf"] = None if self.mtf is None else "measured"
        return values

    def band(self, pixel_size: float) -> tuple[float, float] | None:
        """Frequencies of ``snr_band``, cycles per pixel of ``pixel_size`` Å; all but the mean if None."""
        if self.snr_band is None:
            return None
        shortest, longest = self.snr_band
        return pixel_size / longest, pixel_size / shortest

    def timing(self, tilt_angles: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Place of every tilt in time, and its fluence in e⁻/Å²."""
        name, start, group, direction = self.scheme
        places = np.array(self.places, dtype=np.int64)
        if not len(places):
            places = recording_order(tilt_angles, scheme=name, start=start, group=group, direction=direction)
        doses = np.array(self.doses, dtype=np.float64)
        if not len(doses):
            doses = share_fluence(tilt_angles, fluence=self.fluence, exponent=self.fluence_exponent)
        return places, doses

    def prior_doses(self, tilt_angles: NDArray[Any]) -> NDArray[np.float64]:
        """Electrons that the specimen had received before each tilt, e⁻/Å²."""
        places, doses = self.timing(tilt_angles)
        return exposure_before(doses, np.argsort(places))

    def shares(self, tilt_angles: NDArray[Any]) -> NDArray[np.float64]:
        """Share of the fluence that the specimen had received by the middle of each tilt."""
        _, doses = self.timing(tilt_angles)
        received: NDArray[np.float64] = self.prior_doses(tilt_angles) + doses / 2
        return received / max(float(doses.sum()), 1e-12)

    def lenses(self, tilt_angles: NDArray[Any]) -> list[Lens]:
        """Defocus, astigmatism and phase shift of each tilt."""
        errors = self.lens_errors or ((0.0, 0.0, 0.0),) * len(tilt_angles)
        twice = 2 * math.radians(self.astigmatism_angle)
        lenses = []
        for share, (defocus, along, across) in zip(self.shares(tilt_angles), errors, strict=True):
            x = self.astigmatism_um * math.cos(twice) + along
            y = self.astigmatism_um * math.sin(twice) + across
            shift = self.optics.phase_shift + float(share) * self.phase_shift_drift
            angle = math.degrees(math.atan2(y, x)) / 2 % 180
            lenses.append(Lens(self.defocus_um + defocus, math.hypot(x, y), angle, shift))
        return lenses


def draw_tilt_angles(config: AcquisitionConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a regular tilt scheme from the ranges of a configuration, rounded to half degrees."""
    low, high, step = (
        round(2 * float(rng.uniform(*bounds))) / 2
        for bounds in (config.tilt_min, config.tilt_max, config.tilt_step)
    )
    return tilt_angles_from_range(low, high, max(step, 0.5))


def draw_exposure(
    config: AcquisitionConfig,
    rng: np.random.Generator,
    *,
    thickness: float,
    tilts: int,
    pixel_size: float,
) -> Exposure:
    """Draw one recording from the ranges of a configuration.

    Parameters
    ----------
    config : AcquisitionConfig
        Ranges.
    rng : numpy.random.Generator
        Source of the randomness.
    thickness : float
        Of the ice, Å.
    tilts : int
        Images.
    pixel_size : float
        Å.

    Returns
    -------
    Exposure

    Raises
    ------
    cryomend.io.InputError
        If the file of the MTF cannot be read.
    """

    def draw(bounds: tuple[float, float]) -> float:
        return float(rng.uniform(*bounds))

    optics = Optics(
        config.voltage_kv,
        config.spherical_aberration_mm,
        draw(config.amplitude_contrast),
        draw(config.phase_shift),
        draw(config.focal_spread),
        draw(config.source_angle_mrad),
    )
    dqe = draw(config.dqe)
    falloff = None if config.dqe_nyquist is None else draw(config.dqe_nyquist) / dqe
    beam_tilt, azimuth = draw(config.beam_tilt_mrad), float(rng.uniform(0, 2 * np.pi))
    axis = draw(config.tilt_axis_angle)
    wobble = [draw(config.defocus_error), *[draw(config.astigmatism_error)] * 2]
    lens_errors = (rng.standard_normal((tilts, 3)) * wobble).tolist()
    spreads = [draw(s) for s in (config.misalignment, config.rotation_error, config.magnification_error)]
    off = rng.standard_normal((tilts, 4)) * [
        spreads[0] / pixel_size, spreads[0] / pixel_size, spreads[1], spreads[2] / 100,
    ]  # fmt: skip
    return Exposure(
        optics=optics,
        defocus_um=draw(config.defocus_um),
        astigmatism_um=draw(config.astigmatism_um),
        astigmatism_angle=draw((0, 180)),
        fluence=draw(config.fluence),
        thickness=thickness,
        mean_free_path=draw(config.mean_free_path),
        mtf_nyquist=draw(config.mtf_nyquist),
        dqe=dqe,
        damage=config.radiation_damage,
        snr=config.snr if config.snr_db is None else snr_from_db(config.snr_db),
        snr_band=config.snr_band,
        scheme=(config.scheme, config.scheme_start, config.scheme_group, config.scheme_direction),
        fluence_exponent=config.fluence_exponent,
        defocus_hand=config.defocus_hand,
        phase_shift_drift=draw(config.phase_shift_drift),
        lens_errors=tuple((float(d), float(x), float(y)) for d, x, y in lens_errors),
        beam_tilt_mrad_xy=(beam_tilt * float(np.cos(azimuth)), beam_tilt * float(np.sin(azimuth))),
        x_tilt=draw(config.x_tilt),
        tilt_axis_angle=axis,
        placements=tuple(Placement(axis + r, 1 + m, (float(x), float(y))) for x, y, r, m in off.tolist()),
        motion=draw(config.motion),
        motion_field=tuple(rng.standard_normal(10).tolist()),
        mtf=None if config.mtf is None else read_mtf(config.mtf),
        detector_pixel=config.detector_pixel,
        noise_power=config.noise_power,
        dqe_nyquist=falloff,
        gain_error=draw(config.gain_error) / 100,
        hot_pixels=draw(config.hot_pixels),
    )


def thickness_transmission(
    tilt_angles: NDArray[Any], *, thickness: float, mean_free_path: float
) -> NDArray[np.float64]:
    """Share of the electrons that still reach the image through a tilted slab, ``exp(-t / (Λ cos θ))``.

    ``thickness`` and ``mean_free_path`` in Å; the path is capped at ten times the thickness.
    """
    path = thickness / np.maximum(np.cos(np.radians(np.asarray(tilt_angles, dtype=np.float64))), 0.1)
    transmission: NDArray[np.float64] = np.exp(-path / mean_free_path)
    return transmission
