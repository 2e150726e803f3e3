"""How well few slabs of depth stand for the defocus gradient: error against their number.

A slab of random scatterers, tilted; the transform of its image against that of 257 slabs, over all
frequencies up to Nyquist and in the last tenth of them. One slab is the usual one CTF per image.
"""

from __future__ import annotations

import numpy as np
import torch

from cryomend.acquisition.defocus_gradient import depth_nodes, transfer_specimen
from cryomend.ctf import Optics
from cryomend.fourier import radial_frequency

PIXEL, ANGLE, SHAPE = 8.0, 60.0, (48, 96, 512)


def main() -> None:
    density = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    options = {"pixel_size": PIXEL, "defocus_um": 4.0, "optics": Optics(300, 2.7, 0.07)}
    chosen = depth_nodes(SHAPE, ANGLE, pixel_size=PIXEL, voltage_kv=300.0)
    dense = transfer_specimen(density, ANGLE, nodes=np.linspace(chosen[0], chosen[-1], 257), **options)
    k = radial_frequency(SHAPE[1:], half=True)
    print(f"{SHAPE} voxels of {PIXEL:g} Å at {ANGLE:g} degrees: {chosen[-1] - chosen[0]:.0f} Å of depth")
    print("slabs   error   error near Nyquist")
    for count in (1, 2, 3, 4, 6, 8, 12, 16, 32, len(chosen)):
        nodes = np.zeros(1) if count == 1 else np.linspace(chosen[0], chosen[-1], count)
        difference = transfer_specimen(density, ANGLE, nodes=nodes, **options) - dense
        errors = [float(difference[b].norm() / dense[b].norm()) for b in (k <= 0.5, (k > 0.45) & (k <= 0.5))]
        mark = "   chosen" if count == len(chosen) else ""
        print(f"{count:5d}   {errors[0]:.4f}  {errors[1]:.4f}{mark}")


if __name__ == "__main__":
    main()
