"""Stage 2: from a density to the tilt series that a microscope records."""

from cryomend.acquisition.acquire import TiltSeries, acquire_halves, acquire_tilt_series
from cryomend.acquisition.defocus_gradient import transfer_specimen
from cryomend.acquisition.exposure import Exposure
from cryomend.acquisition.files import acquire_file, choose_angles
from cryomend.acquisition.placement import Placement, backproject_placed, project_placed

__all__ = [
    "Exposure",
    "Placement",
    "TiltSeries",
    "acquire_file",
    "acquire_halves",
    "acquire_tilt_series",
    "backproject_placed",
    "choose_angles",
    "project_placed",
    "transfer_specimen",
]
