"""Make the sample tomogram that comes with the package, from nothing but code.

Run ``python examples/make_sample.py sample.mrc``.

Vesicles with proteins, a microtubule and made-up macromolecules in 80 nm of ice, recorded with 100 e⁻/Å²
from -60 to +60 degrees and reconstructed by WBP, stored as 16-bit integers (3.7 MB). Its
macromolecules come from a seed that no training uses, so none of them was trained on.
"""

import sys

import mrcfile
import numpy as np

from cryomend.config import (
    AcquisitionConfig,
    FilamentConfig,
    MembraneConfig,
    SimulationConfig,
    SpecimenConfig,
)
from cryomend.training.pairs import simulate_pair

SEED = 800_016  # training seeds count from 0, those of the tests from 900,000


def main(path: str) -> None:
    """Simulate and write the sample."""
    specimen = SpecimenConfig(
        shape=(72, 160, 160),
        slab_margin=(30.0, 50.0),
        membranes=(MembraneConfig(count=(2, 2), radius=(160.0, 260.0)),),
        filaments=(FilamentConfig(kind="microtubule"),),
        occupancy=(0.05, 0.05),
        species=(6, 6),
        mass_kda=(200.0, 3000.0),
        voxel_size=10.0,
    )
    microscope = AcquisitionConfig(
        tilt_min=(-60, -60),
        tilt_max=(60, 60),
        tilt_step=(3, 3),
        fluence=(100, 100),
        dqe=(0.6, 0.6),
        defocus_um=(4, 4),
    )
    config = SimulationConfig(specimens={"sample": specimen}, acquisition=microscope, processing=None)
    pair = simulate_pair(config, seed=SEED)
    tomogram = pair.tomogram.numpy()
    scaled = np.rint(1000 * tomogram / tomogram.std()).clip(-32767, 32767).astype(np.int16)
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(scaled)
        mrc.voxel_size = pair.voxel_size
        mrc.add_label("cryomend simulated sample, tilts -60 to 60, protein dark")


if __name__ == "__main__":
    main(sys.argv[1])
