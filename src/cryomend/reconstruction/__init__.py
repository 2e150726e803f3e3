"""Stage 4: from an aligned tilt series to a tomogram."""

from cryomend.reconstruction.files import reconstruct_file
from cryomend.reconstruction.wbp import ramp_filter, reconstruct_wbp

__all__ = ["ramp_filter", "reconstruct_file", "reconstruct_wbp"]
