"""A figure of how far noise models are from real noise; draws what ``fidelity`` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cryomend.io import atomic_path
from cryomend.noise.fidelity import BAND, LAGS

__all__ = ["draw_fidelity"]


def draw_fidelity(path: Path, result: dict[str, Any]) -> None:
    """Draw spectra, their difference, autocorrelations, deviations and the classifier, beside the floor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    (spectra, differences, scores), (sectors, lags, deviations) = figure.subplots(2, 3)
    rows = {"floor (two halves of real)": result["floor"]}
    rows |= {Path(k).name: v for k, v in result["sampled"].items()}
    marks = "osD^vPX*"
    for i, (name, row) in enumerate(rows.items()):
        frequency, real, sampled = (
            np.array(row["spectrum"][k]) for k in ("frequency", "real_db", "sampled_db")
        )
        style: dict[str, Any] = {"marker": marks[i % len(marks)], "markevery": (i, 8), "label": name}
        spectra.plot(frequency, sampled, **style)
        differences.plot(frequency, sampled - real, **style)
        ring = np.abs(np.array(row["sectors"])).max(axis=1)
        sectors.plot(np.linspace(*BAND, len(ring) + 1)[:-1] + 0.0215, ring, **style | {"markevery": 1})
        lags.plot(np.subtract(*row["autocorrelation"][::-1]), **style | {"markevery": 1})
        if "std_tilts" in row:
            label, measured, made = np.array(row["std_tilts"]).T
            deviations.plot(label, made / measured, **style)
    spectra.plot(frequency, real, "k--", label="real")
    spectra.set(xlabel="cycles / pixel", ylabel="power (dB)", title="radial power spectrum")
    spectra.legend(fontsize="small")
    differences.axhspan(-1, 1, color="0.9")
    differences.set(xlabel="cycles / pixel", ylabel="dB", title="radial spectrum: difference from real")
    sectors.set(xlabel="cycles / pixel", ylabel="dB", title="largest difference of six sectors (anisotropy)")
    lags.set_xticks(range(len(LAGS)), [str(lag) for lag in LAGS])
    lags.set(xlabel="lag (dy, dx), pixels", title="autocorrelation: difference from real")
    deviations.axhspan(0.97, 1.03, color="0.9")
    deviations.set(xlabel="tilt angle (degrees) or number", title="deviation per tilt: sampled / real")
    scores.barh(list(rows), [row["classifier"] for row in rows.values()])
    scores.axvline(0.5, color="k")
    scores.set(xlim=(0.4, 1), title="told apart by a classifier (0.5 = never)")
    with atomic_path(path) as partial:
        FigureCanvasAgg(figure)
        figure.savefig(partial, format="png", dpi=110)
