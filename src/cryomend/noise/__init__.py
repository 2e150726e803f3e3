"""Stage 3: learn the noise of real tilt series and make more of it.

``areas`` and ``patches`` cut empty areas, ``fit`` learns a model of them, ``sample`` makes noise tilts
of any size, ``fidelity`` measures how far they are from real noise.
"""

from cryomend.noise.areas import find_empty_areas
from cryomend.noise.fidelity import check_noise, compare_noise, summarise_fidelity
from cryomend.noise.fidelity_figure import draw_fidelity
from cryomend.noise.fit import fit_noise, fit_noise_file
from cryomend.noise.model import NoiseModel, load_noise_model, save_noise_model
from cryomend.noise.networks import NoiseCritic, NoiseGenerator, gradient_penalty
from cryomend.noise.patches import (
    NoisePatches,
    cut_noise_patches,
    extract_noise,
    read_patches,
    write_patches,
)
from cryomend.noise.sample import SampleOptions, sample_noise, sample_noise_file, stream_noise
from cryomend.noise.spectral import estimate_power_spectrum
from cryomend.noise.wgan import train_wgan

__all__ = [
    "NoiseCritic",
    "NoiseGenerator",
    "NoiseModel",
    "NoisePatches",
    "SampleOptions",
    "check_noise",
    "compare_noise",
    "cut_noise_patches",
    "draw_fidelity",
    "estimate_power_spectrum",
    "extract_noise",
    "find_empty_areas",
    "fit_noise",
    "fit_noise_file",
    "gradient_penalty",
    "load_noise_model",
    "read_patches",
    "sample_noise",
    "sample_noise_file",
    "save_noise_model",
    "stream_noise",
    "summarise_fidelity",
    "train_wgan",
    "write_patches",
]
