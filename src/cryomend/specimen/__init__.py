"""Stage 1: specimens as potential in V, with labels and poses."""

from cryomend.specimen.build import Placement, Specimen, build_specimen
from cryomend.specimen.files import build_to_folder, write_specimen
from cryomend.specimen.macromolecule import Macromolecule
from cryomend.specimen.procedural import procedural_macromolecule
from cryomend.specimen.structure import find_structures, load_structure

__all__ = [
    "Macromolecule",
    "Placement",
    "Specimen",
    "build_specimen",
    "build_to_folder",
    "find_structures",
    "load_structure",
    "procedural_macromolecule",
    "write_specimen",
]
