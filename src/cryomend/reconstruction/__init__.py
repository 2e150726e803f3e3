"""Stage 4: from a tilt series to a tomogram."""

from cryomend.reconstruction.deconvolve import deconvolve_tomogram
from cryomend.reconstruction.files import reconstruct_file
from cryomend.reconstruction.iterate import reconstruct_sart, reconstruct_sirt
from cryomend.reconstruction.wbp import reconstruct_wbp
from cryomend.reconstruction.weighting import exact_weights, ramp_filter

__all__ = [
    "deconvolve_tomogram",
    "exact_weights",
    "ramp_filter",
    "reconstruct_file",
    "reconstruct_sart",
    "reconstruct_sirt",
    "reconstruct_wbp",
]
