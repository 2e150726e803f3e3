"""Stage 1: specimens as potential in V, with labels and poses."""

from cryomend.specimen.build import Specimen, build_specimen, load_structure
from cryomend.specimen.files import write_specimen
from cryomend.specimen.macromolecule import Macromolecule, procedural_macromolecule

__all__ = [
    "Macromolecule",
    "Specimen",
    "build_specimen",
    "load_structure",
    "procedural_macromolecule",
    "write_specimen",
]
