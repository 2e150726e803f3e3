"""Restore cryo-electron tomograms: denoise them and fill the missing wedge.

Stages, in order: specimen, acquisition, noise, reconstruction, network, training,
restoration, evaluation. Each is a folder; CONVENTIONS.md fixes axes, units and signs.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cryomend")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
