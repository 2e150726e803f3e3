"""From the numbers of a check to one word; the limits and their reasons stand in docs/checks.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cryomend.evaluation.halves import HalfBand

__all__ = [
    "LIMITS",
    "Check",
    "check_rows",
    "judge_halves",
    "judge_held_out",
    "judge_noise",
    "judge_reprojection",
    "judge_support",
    "rate",
]

# check: good at least, bad below; for noise good at most, bad above
LIMITS = {
    "reprojection": (1.0, 0.8),
    "support": (0.75, 0.6),
    "held-out": (1.0, 0.9),
    "halves": (-0.05, -0.12),
    "noise": (0.5, 0.75),
    "noise of halves": (0.15, 0.5),
}
_SIGNAL = 0.05  # correlation below which tilts or halves have nothing in common


@dataclass(frozen=True)
class Check:
    """Outcome of one check: ``verdict`` is good, doubtful or bad; ``meaning`` says what ``number`` is."""

    name: str
    verdict: str
    number: float
    meaning: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All of it, for the file of the results."""
        return asdict(self)


def rate(name: str, number: float) -> str:
    """Put the number of a check into a word.

    Parameters
    ----------
    name : str
        One of ``LIMITS``.
    number : float

    Returns
    -------
    str
        ``good``, ``doubtful`` or ``bad``; what is not a number is bad.
    """
    good, bad = LIMITS[name]
    sign = -1.0 if bad > good else 1.0
    if math.isnan(number) or sign * number < sign * bad:
        return "bad"
    return "good" if sign * number >= sign * good else "doubtful"


def judge_reprojection(*, seen: float, seen_of_held_out: float, unseen: float, mirrored: float) -> Check:
    """Judge how well a volume's re-projections agree with the tilts.

    Parameters
    ----------
    seen : float
        Mean correlation with all tilts.
    seen_of_held_out, unseen : float
        With the tilts kept apart: of the volume, which may have seen them, and of a raw tomogram without.
    mirrored : float
        Mean correlation with the angles of the other sign.

    Returns
    -------
    Check
        Its number is ``seen_of_held_out / unseen``.
    """
    detail = {"correlation": seen, "other_hand": mirrored, "unseen": unseen}
    if unseen < _SIGNAL:
        return _without_measure("reprojection", seen, unseen, detail)
    number = seen_of_held_out / unseen
    verdict = rate("reprojection", number)
    meaning = (
        f"correlation with the tilts {seen:.2f}; number: over that of a raw tomogram that has not seen them"
    )
    if verdict == "bad" and seen < -_SIGNAL:
        meaning = f"correlation {seen:.2f}: the contrast is inverted; see --protein"
    elif verdict == "bad" and mirrored > max(2 * seen, _SIGNAL):
        other = f"{mirrored:.2f} with angles of the other sign"
        meaning = (
            f"correlation {seen:.2f}, but {other}: the volume is mirrored, or the list of angles negated"
        )
    return Check("reprojection", verdict, number, meaning, detail)


def _without_measure(name: str, number: float, raw: float, detail: dict[str, Any]) -> Check:
    """Call bad what has nothing to be compared with: a raw tomogram knows nothing of tilts apart from it."""
    meaning = f"the tilts do not foretell one another (correlation {raw:.2f}): wrong angles, or only noise"
    return Check(name, "bad", number, meaning, detail)


def judge_support(share: float, centre_zyx_px: tuple[int, int, int]) -> Check:
    """Judge the place that the tilts confirm least, of `least_supported`.

    Parameters
    ----------
    share : float
        Its upper limit there.
    centre_zyx_px : (int, int, int)
        Voxel in its middle.

    Returns
    -------
    Check
    """
    place = ", ".join(map(str, centre_zyx_px))
    meaning = f"share that the tilts confirm where they confirm least, at voxel (z, y, x) = ({place})"
    return Check("support", rate("support", share), share, meaning, {"centre_zyx_px": list(centre_zyx_px)})


def judge_held_out(restored: float, raw: float, *, tilts: int) -> Check:
    """Judge how well tilts are foretold that neither the reconstruction nor the network has seen.

    Parameters
    ----------
    restored, raw : float
        Mean correlation with them, of the restored and of the raw tomogram of the other tilts.
    tilts : int
        How many were kept apart.

    Returns
    -------
    Check
        Its number is ``restored / raw``.
    """
    detail = {"restored": restored, "raw": raw, "tilts": tilts}
    if raw < _SIGNAL:
        return _without_measure("held-out", restored, raw, detail)
    meaning = (
        f"correlation with {tilts} unseen tilts: restored {restored:.2f}, raw {raw:.2f}; number: their ratio"
    )
    return Check("held-out", rate("held-out", restored / raw), restored / raw, meaning, detail)


def judge_halves(bands: Sequence[HalfBand]) -> Check:
    """Judge whether restoring a half has taken it away from the other, raw half.

    Parameters
    ----------
    bands : sequence of HalfBand
        Of `compare_halves`.

    Returns
    -------
    Check
        Its number is the change of the correlation in the band where it is least.
    """
    detail = {"bands": [asdict(band) | {"fidelity": band.fidelity} for band in bands]}
    telling = [band for band in bands if band.raw > max(_SIGNAL, 4 / math.sqrt(band.voxels))]
    if not telling:  # what two halves of noise have in common by chance
        best = max(band.raw for band in bands)
        meaning = f"the raw halves have no more in common than noise has by chance (correlation {best:.2f})"
        return Check("halves", "bad", best, meaning, detail)
    worst = min(bands, key=lambda band: band.restored - band.raw)
    number = worst.restored - worst.raw
    meaning = (
        f"change of the correlation with the other half, worst at {worst.longest:g} to {worst.shortest:g} Å: "
        f"from {worst.raw:.2f} to {worst.restored:.2f}"
    )
    return Check("halves", rate("halves", number), number, meaning, detail)


def judge_noise(left: float, *, of_halves: bool = False) -> Check:
    """Judge what a network makes of something without structure.

    Parameters
    ----------
    left : float
        Energy that the restoration leaves of it, over that of the restored tomogram.
    of_halves : bool
        It is the difference of two halves, not a phase-randomised copy.

    Returns
    -------
    Check
    """
    name = "noise of halves" if of_halves else "noise"
    what = "the difference of the halves" if of_halves else "a phase-randomised copy"
    return Check(name, rate(name, left), left, f"energy left of {what}, over that of the restoration")


def check_rows(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    """Lay checks out as the rows of a table, the first being its head.

    Parameters
    ----------
    checks : sequence of Check

    Returns
    -------
    list of tuple of str
    """
    rows = [(c.name, c.verdict, f"{c.number:.2f}", c.meaning) for c in checks]
    return [("check", "verdict", "number", "what the number is"), *rows]
