import gzip

import gemmi
import numpy as np
import pytest

from cryomend.io import InputError, write_volume
from cryomend.specimen import structure
from cryomend.specimen.structure import find_structures, load_structure

ATOM = "ATOM      {i}  C   ALA A   {i}    {x:8.3f}{x:8.3f}{x:8.3f}  1.00 10.00           C\n"


@pytest.fixture
def pdb_file(tmp_path):
    path = tmp_path / "three.pdb"
    path.write_text("".join(ATOM.format(i=i, x=5.0 * i) for i in (1, 2, 3)) + "END\n")
    return path


@pytest.fixture
def map_file(tmp_path):
    z, y, x = np.indices((24, 26, 28))
    density = np.exp(-((z - 12) ** 2 + (y - 13) ** 2 + (x - 17) ** 2) / 30)
    write_volume(tmp_path / "blob.mrc", density, voxel_size=4.0)
    return tmp_path / "blob.mrc"


@pytest.fixture
def archive(monkeypatch, pdb_file, map_file):
    """What would be fetched, without a network."""
    folder = pdb_file.parent / "cache"
    folder.mkdir()
    document = gemmi.read_structure(str(pdb_file)).make_mmcif_document().as_string()
    (folder / "4v6x.cif.gz").write_bytes(gzip.compress(document.encode()))
    (folder / "emd_11999.map.gz").write_bytes(gzip.compress(map_file.read_bytes()))
    files = {"4V6X": folder / "4v6x.cif.gz", "EMD-11999": folder / "emd_11999.map.gz"}
    monkeypatch.setattr(structure, "fetch_structure", lambda name, cache: files[name.split("@")[0]])
    monkeypatch.setattr(structure, "fetch_contour_level", lambda name, cache: 0.6)


def test_mmcif_and_pdb_files_give_the_same_points(pdb_file):
    document = gemmi.read_structure(str(pdb_file)).make_mmcif_document()
    document.write_file(str(pdb_file.with_suffix(".cif")))
    ours, theirs = load_structure(pdb_file), load_structure(pdb_file.with_suffix(".cif"))
    np.testing.assert_allclose(ours.positions_zyx, theirs.positions_zyx, atol=1e-3)
    np.testing.assert_array_equal(ours.weights, theirs.weights)
    assert ours.name == "three"


@pytest.mark.parametrize("ending", [".mrc", ".map", ".ccp4", ".map.gz", ".MRC"])
def test_maps_are_read_under_all_their_endings(map_file, ending):
    expected = load_structure(map_file)
    path = map_file.with_name("other" + ending)
    raw = map_file.read_bytes()
    path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
    molecule = load_structure(path)
    np.testing.assert_array_equal(molecule.weights, expected.weights)
    centre = np.average(molecule.positions_zyx, axis=0, weights=molecule.weights)
    np.testing.assert_allclose(centre, [0, 0, 12], atol=0.1)  # 3 voxels of 4 Å from voxel 28 // 2
    assert molecule.name == "other"


def test_identifiers_are_fetched_and_maps_cut_at_their_contour_level(archive, map_file):
    model = load_structure("4V6X")
    assert model.name == "4V6X" and len(model.weights) == 3
    cut, whole = load_structure("EMD-11999"), load_structure(map_file)
    assert cut.name == "EMD-11999"
    # exp(-r²/30) = 0.6 at 3.91 voxels of 4 Å
    assert (
        cut.volume == pytest.approx(4 / 3 * np.pi * (3.91 * 4) ** 3, rel=0.05) and cut.volume < whole.volume
    )
    assert load_structure("4V6X@sha256:" + 64 * "0").name == "4V6X"


def test_a_file_is_preferred_to_an_identifier_of_its_name(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "4V6X").write_text("mine")
    with pytest.raises(InputError, match="4V6X is no structure"):
        load_structure("4V6X")


def test_folders_and_identifiers_are_found_in_order(archive, pdb_file, map_file):
    (pdb_file.parent / "notes.txt").write_text("no structure")
    assert [m.name for m in find_structures([pdb_file.parent, "4V6X"])] == ["blob", "three", "4V6X"]
    assert [m.name for m in find_structures([pdb_file.parent], only=["three"])] == ["three"]
    with pytest.raises(InputError, match="no structure file"):
        find_structures([pdb_file.parent], only=["absent"])
    with pytest.raises(InputError, match="no such file or folder"):
        find_structures(["absent.pdb"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"words", "is no structure; give a .pdb"),
        ("gone.mrc", None, "does not exist"),
        ("gone.map.gz", None, "does not exist"),
        ("gone.cif", None, "does not exist"),
        ("cut.map.gz", gzip.compress(np.random.default_rng(0).bytes(4000))[:900], "damaged gzip file"),
        ("plain.map.gz", b"not gzip at all", "damaged gzip file"),
        ("words.map.gz", gzip.compress(b"words" * 500), "is not an MRC file"),
        ("words.mrc", b"words" * 500, "is not an MRC file"),
    ],
)
def test_what_is_no_structure_is_refused_in_one_line_that_names_it(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_structure(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_map_with_nothing_above_the_contour_level_is_refused_with_its_name(archive, monkeypatch):
    monkeypatch.setattr(structure, "fetch_contour_level", lambda name, cache: 7.0)
    with pytest.raises(InputError, match=r"emd_11999\.map\.gz: EMD-11999: no voxel of the map lies above"):
        load_structure("EMD-11999")
