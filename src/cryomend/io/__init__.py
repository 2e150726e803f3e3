"""Files: the only place that knows MRC, tilt-angle lists, mdoc, JSON and TOML.

Entries of the PDB and EMDB are fetched here, the only place that reaches the network. Everything a
user can get wrong about a file is raised here as :class:`InputError`, one line that names the file
and the next step. Outputs appear under their name only when complete.
"""

from cryomend.io.alignment import Alignment, read_alignment
from cryomend.io.angles import find_tilt_angles, read_tilt_angles, write_tilt_angles
from cryomend.io.ctf import TiltDefocus, read_defocus
from cryomend.io.description import describe_file
from cryomend.io.dose import read_doses
from cryomend.io.fetch import fetch_contour_level, fetch_structure, is_identifier
from cryomend.io.labels import read_labels
from cryomend.io.mapped import mapped_volume, read_sections, release_pages, require_room, scratch_array
from cryomend.io.mdoc import write_mdoc
from cryomend.io.mrc import (
    Volume,
    open_stack,
    open_volume,
    read_image,
    read_stack,
    read_volume,
    write_volume,
)
from cryomend.io.path import (
    InputError,
    atomic_path,
    check_folder,
    check_writable,
    existing_file,
    refuse_overwriting,
)
from cryomend.io.text import (
    read_lines,
    read_star_columns,
    read_star_texts,
    read_toml,
    write_json,
    write_text,
)

__all__ = [
    "Alignment",
    "InputError",
    "TiltDefocus",
    "Volume",
    "atomic_path",
    "check_folder",
    "check_writable",
    "describe_file",
    "existing_file",
    "fetch_contour_level",
    "fetch_structure",
    "find_tilt_angles",
    "is_identifier",
    "mapped_volume",
    "open_stack",
    "open_volume",
    "read_alignment",
    "read_defocus",
    "read_doses",
    "read_image",
    "read_labels",
    "read_lines",
    "read_sections",
    "read_stack",
    "read_star_columns",
    "read_star_texts",
    "read_tilt_angles",
    "read_toml",
    "read_volume",
    "refuse_overwriting",
    "release_pages",
    "require_room",
    "scratch_array",
    "write_json",
    "write_mdoc",
    "write_text",
    "write_tilt_angles",
    "write_volume",
]
