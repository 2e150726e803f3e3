"""Electrons that each image of a tilt series had received, for dose weighting."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryomend.io.mdoc import read_mdoc_exposures
from cryomend.io.path import InputError
from cryomend.io.text import read_lines, read_numbers, read_star_columns

__all__ = ["read_doses"]

_log = logging.getLogger(__name__)

Doses = tuple[NDArray[np.float64], NDArray[np.float64]]


def read_doses(path: str | os.PathLike[str]) -> Doses:
    """Read what was delivered before each image, and with it.

    - A list of one column: what had accumulated before each image, which never repeats; each image's own is
      the smallest step between two of them. (IMOD's ``-dtype 1``, the exposure of each image alone, does
      not say in which order they were taken, and is refused.)
    - A list of two columns: the exposure before, and that of the image (IMOD's mtffilter ``-dtype 2``); or
      before and after (``-dtype 3``) where the second number is larger in every line of three or more.
    - SerialEM's .mdoc (``-dtype 4``): see :func:`cryomend.io.mdoc.read_mdoc_exposures`.
    - A RELION 5 tilt-series .star: ``_rlnMicrographPreExposure``, with the smallest step.

    Parameters
    ----------
    path : path-like
        The file; .mdoc and .star are told by their extension.

    Returns
    -------
    prior, exposure : arrays, shape (tilt,)
        e⁻/Å², in the order of the stack.

    Raises
    ------
    InputError
        If the file is missing, none of these, or holds negative numbers or no dose.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".mdoc":
        prior, exposure = read_mdoc_exposures(path)
    elif suffix == ".star":
        prior = read_star_columns(path, ("rlnMicrographPreExposure",))["rlnMicrographPreExposure"]
        exposure = _smallest_step(prior)
    else:
        name, lines = read_lines(path)
        expected = "the exposure before each image [and its own]"
        prior, exposure = _listed_doses(name, read_numbers(name, lines, columns=[1, 2], expected=expected))
    if prior.min() < 0 or exposure.min() < 0:
        raise InputError(f"{path} holds negative exposures; they are counted in e⁻/Å² from 0")
    if exposure.max() <= 0:
        raise InputError(f"{path} holds no exposure: all are 0; give a list of e⁻/Å² before each image")
    return prior, exposure


def _listed_doses(name: Path, rows: NDArray[np.float64]) -> Doses:
    """Prior and own exposure from a list of one or two columns."""
    prior = rows[:, 0]
    if rows.shape[1] == 2:
        after = len(rows) > 2 and (rows[:, 1] > prior).all()  # an own exposure is less than all before it
        return prior, rows[:, 1] - prior if after else rows[:, 1]
    if len(np.unique(prior)) < len(prior):
        raise InputError(
            f"{name} repeats an exposure; one column is what had accumulated before each image: "
            "give two, before and of each image"
        )
    if prior.min() > 0:
        _log.warning("%s: %g e⁻/Å² are taken as received before the first image", name, prior.min())
    return prior, _smallest_step(prior)


def _smallest_step(prior: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.diff(np.unique(prior))
    return np.full(len(prior), steps.min() if len(steps) else 0.0)
