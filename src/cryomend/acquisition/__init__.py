"""Stage 2: from a density to the tilt series that a microscope records."""

from cryomend.acquisition.acquire import Exposure, acquire_tilt_series
from cryomend.acquisition.files import acquire_file, choose_angles
from cryomend.ctf import Optics, contrast_transfer

__all__ = [
    "Exposure",
    "Optics",
    "acquire_file",
    "acquire_tilt_series",
    "choose_angles",
    "contrast_transfer",
]
