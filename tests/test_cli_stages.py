"""Bad input of the stages before restoration: one line on stderr, exit code 2, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryomend.config import TrainingConfig
from cryomend.io import read_volume, write_tilt_angles, write_volume
from cryomend.training.loop import Trainer

PAIR_SIDE = 24
TINY = "training: {channels: [2, 2], crop: 16, steps: 2, rotation_share: 0.0}"


@pytest.fixture
def given(tmp_path):
    """Good and bad files that the commands below name."""
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(PAIR_SIDE,) * 3)
    write_volume(tmp_path / "density.mrc", volume, voxel_size=10)
    write_volume(tmp_path / "stack.mrc", volume[:3], voxel_size=4, stack=True)
    write_volume(tmp_path / "wide.mrc", volume[:3].repeat(2, 2), voxel_size=4, stack=True)
    write_volume(tmp_path / "sizeless.mrc", volume, voxel_size=0)
    write_tilt_angles(tmp_path / "three.tlt", np.array([-40, 0, 40]))
    write_tilt_angles(tmp_path / "two.tlt", np.array([-40, 40]))
    for name in ("pairs", "lonely", "none", "halves"):
        (tmp_path / name).mkdir()
    write_pair(tmp_path / "pairs", volume, volume)
    write_pair(tmp_path / "halves", volume, volume[:16])
    write_volume(tmp_path / "lonely" / "sad_input.mrc", volume, voxel_size=10)
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def write_pair(folder, tomogram, density):
    write_volume(folder / "a_input.mrc", tomogram, voxel_size=10)
    write_volume(folder / "a_target.mrc", density, voxel_size=10)


ATOM = "ATOM      1 {:<4} ALA A   1      11.104   6.134  -6.504  1.00  0.00          {:>2}\n"
AREAS = "[foreground.s]\nz = [0, 5]\ny = [0, 5]\nx = [0, 5]\n" + (
    "[background.b]\nz = [{0}, {1}]\ny = [4, 9]\nx = [4, 9]\n"
)
TEXTS = {
    "steep.tlt": "-95\n0\n40\n",
    "text.mdoc": "nothing",
    "two.mdoc": "".join(
        f"[ZValue = {z}]\nTiltAngle = {z}\nExposureDose = 3\nPriorRecordDose = {3 * z}\n\n" for z in (0, 1)
    ),
    "no-mtf.yaml": "mtf: no.star",
    "text-mtf.yaml": "mtf: text.mrc",
    "two.xf": "1 0 0 1 0 0\n" * 2,
    "far.aln": "# SEC ROT\n" + "".join(f"{n} 0 1 0 0 1 1 1 0 {n}\n" for n in (0, 3, 7)),
    "other.aln": "# SEC ROT\n" + "".join(f"{n} 0 1 0 0 1 1 1 0 {n}\n" for n in (0, 1, 2)),
    "sized.aln": "# RawSize = 9 9 3\n# SEC ROT\n" + "".join(f"{n} 0 1 0 0 1 1 1 0 {n}\n" for n in (0, 1, 2)),
    "four.defocus": "1 1 0 0 3000 2\n4 4 0 0 3000\n",
    "two.dose": "0 3\n3 3\n",
    "zero.dose": "0\n0\n0\n",
    "text.mrc": "no volume",
    "empty.pdb": "",
    "empty.cif": "",
    "text.cif": "no structure",
    "dummy.pdb": ATOM.format(" CA", "C") + ATOM.format(" QQ", "X"),
    "protein.xyz": "C 0 0 0",
    "wide.pdb": ATOM.format(" CA", "C") + ATOM.format(" CB", "C").replace("  11.104", " 411.104"),
    "thin.yaml": "slab_margin: [-5, 3]\n",
    "odd.yaml": "membranes: [{kind: spere}]\n",
    "labels.yaml": "membranes: [{kind: labels, labels: no.tif}]\n",
    "list.yaml": "- 1\n- 2\n",
    "broken.yaml": "a: [1\nb: 2\n",
    "number.yaml": "1: 2\n",
    "misspelt-specimen.yaml": "ocupancy: [0, 1]",
    "misspelt-acquisition.yaml": "defocus: [2, 3]",
    "misspelt-recipe.yaml": "simulation: {specimens: {few: {spieces: [1, 2]}}}\ntraining: {stepz: 3}",
    "misspelt-noise.yaml": "step: 3",
    "margin.yaml": "slab_margin: [-10, 40]",
    "thick-margin.yaml": "{shape: [16, 32, 32], slab_margin: [80, 90]}",
    "thick-margins.yaml": "simulation: {specimens: {a: {shape: [16, 32, 32], slab_margin: [80, 90]}}}",
    "order.yaml": "blur: [9, 5]",
    "crop.yaml": "training: {crop: 32, rotation_share: 0.0}",
    "tiny.yaml": TINY,
    "odd-crop.yaml": TINY.replace("16", "18"),
    "a-file": "",
    "overlap.toml": AREAS.format(4, 9),
    "outside.toml": AREAS.format(20, 30),
    "text.toml": "no recipe",
    "misspelt.toml": "[simulated.simulation.acquisition]\nflunce = [1, 2]",
    "empty.toml": "",
}


@pytest.fixture
def refused(run_cli, given, monkeypatch):
    """Run a command (in the folder of the files) that must fail, and check how it fails."""
    monkeypatch.chdir(given)

    def run(command: str, *says: str) -> None:
        before = snapshot(given)
        result = run_cli(*command.split())
        lines = [line for line in result.err.splitlines() if line.strip()]
        assert len(lines) == 1, result.err
        assert lines[0].startswith("cryomend: ")
        assert all(words in lines[0] for words in says), lines[0]
        assert result.code == 2
        assert result.out == ""
        assert snapshot(given) == before  # no output, no .partial, no input replaced

    return run


def snapshot(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


RECONSTRUCT = "reconstruct stack.mrc --tilt-angles three.tlt --thickness 16"
SAMPLE = "sample no.safetensors --tilt-angles three.tlt --size 32 32"
REFUSED = {
    "specimen -o out": {
        "--structures no.pdb": ("no.pdb", "no such file"),
        "--structures none": ("none", "holds no structure file"),
        "--structures empty.pdb": ("empty.pdb", "holds no atoms"),
        "--structures empty.cif": ("empty.cif",),
        "--structures text.cif": ("text.cif", "not a readable PDB or mmCIF file"),
        "--structures dummy.pdb": ("dummy.pdb", "no electron scattering factor for element 'X'"),
        "--structures protein.xyz": ("protein.xyz", "is no structure"),
        "--structures text.mrc": ("text.mrc", "not an MRC file"),
        "--membrane-structures no.cif": ("no.cif", "no such file"),
        "--structures no.pdb empty.pdb": ("no.pdb", "no such file"),
        "--preset cytosole": ("unknown preset 'cytosole'", "cytosol"),
        "--config thin.yaml": ("thin.yaml", "slab_margin.0", "greater than or equal to 0"),
        "--config odd.yaml": ("odd.yaml", "membranes.0.kind"),
        "--config labels.yaml --shape 32 32 32": ("no.tif",),
        "--shape 16 16 16 --structures wide.pdb": ("wide", "larger than the volume's 160 Å"),
        "--shape 0 48 48": ("--shape: ", "16"),
        "--shape 48 48 -1": ("--shape: ", "16"),
        "--voxel-size 0": ("--voxel-size: ",),
        "--voxel-size -10": ("--voxel-size: ",),
        "--occupancy 1.5": ("--occupancy: ",),
        "--config margin.yaml": ("slab_margin.0",),
        "--config order.yaml": ("blur", "a range is (low, high)"),
        "--config thick-margin.yaml": ("slab", "slab_margin"),
        "--config misspelt-specimen.yaml": ("ocupancy",),
        "--config list.yaml": ("list.yaml", "mapping"),
        "--config broken.yaml": ("broken.yaml", "not a readable YAML file"),
        "--config number.yaml": ("1: ",),
        "--config no.yaml": ("no.yaml",),
        "--device tpu": ("unknown device 'tpu'",),
    },
    "acquire -o out": {
        "no.mrc": ("no.mrc", "does not exist"),
        "text.mrc": ("text.mrc", "not an MRC file"),
        "sizeless.mrc": ("sizeless.mrc", "pass --voxel-size"),
        "density.mrc --voxel-size 0": ("--voxel-size must be a positive number",),
        "density.mrc --tilt-angles steep.tlt": ("steep.tlt", "line 1", "outside ±90"),
        "density.mrc --tilt-angles no.tlt": ("no.tlt", "does not exist"),
        "density.mrc --tilt-range -95 60 3": ("-90 <= tilt_min",),
        "density.mrc --tilt-range 60 -60 3": ("-90 <= tilt_min",),
        "density.mrc --tilt-range -60 60 0": ("step must be positive",),
        "density.mrc --tilt-range -60 60 nan": ("step must be positive",),
        "density.mrc --tilt-range -60 60 3 --tilt-angles three.tlt": ("--tilt-angles and --tilt-range",),
        "density.mrc --snr -1": ("snr",),
        "density.mrc --scheme spiral": ("scheme", "'dose-symmetric', 'bidirectional' or 'continuous'"),
        "density.mrc --mdoc no.mdoc": ("no.mdoc", "does not exist"),
        "density.mrc --mdoc text.mdoc": ("text.mdoc", "not an mdoc file"),
        "density.mrc --mdoc two.mdoc --tilt-angles three.tlt": ("two.mdoc has 2 images", "3 tilt angles"),
        "density.mrc --config no-mtf.yaml": ("no.star", "does not exist"),
        "density.mrc --config text-mtf.yaml": ("text.mrc", "rlnMtfValue"),
        "density.mrc --fluence 0": ("--fluence: ",),
        "density.mrc --config misspelt-acquisition.yaml": ("defocus:",),
        "density.mrc --device tpu": ("unknown device 'tpu'",),
    },
    # of an option that is given twice the last counts
    f"{RECONSTRUCT} -o out.mrc": {
        "--tilt-angles two.tlt": ("two.tlt has 2 angles", "stack.mrc has 3 images"),
        "--tilt-angles steep.tlt": ("steep.tlt", "outside ±90"),
        "--tilt-angles no.tlt": ("no.tlt", "does not exist"),
        "--thickness 0": ("--thickness must be at least 1",),
        "--method art": ("method", "'wbp', 'sirt' or 'sart'"),
        "--pixel-size 0": ("--pixel-size: ", "greater than 0"),
        "--iterations 0 --method sirt": ("iterations", "greater than or equal to 1"),
        "--bin 0.5": ("bin", "greater than or equal to 1"),
        "--bin 4": ("binning by 4 leaves",),
        "--tilt-offset 60": ("--tilt-offset 60", "±90"),
        "--memory-limit 0.01": ("--memory-limit 0.01 GiB is too small", "the least that works is"),
        "--alignment no.xf": ("no.xf", "does not exist"),
        "--alignment two.xf": ("two.xf aligns 2 images", "stack.mrc has 3"),
        "--alignment three.tlt": ("three.tlt", "line 1 does not fit", "six numbers"),
        "--alignment far.aln": ("far.aln speaks of image 8", "stack.mrc has 3"),
        "--alignment other.aln": ("three.tlt and other.aln do not belong together",),
        "--alignment sized.aln": ("sized.aln aligns a stack of 3 x 9 x 9", "stack.mrc has 3"),
        "--correct-ctf four.defocus": ("four.defocus has 4 rows", "stack.mrc has 3"),
        "--correct-ctf three.tlt": ("three.tlt", "does not fit"),
        "--dose-weight two.tlt": ("two.tlt", "negative exposures"),
        "--dose-weight two.dose": ("two.dose has 2 rows", "stack.mrc has 3"),
        "--dose-weight zero.dose": ("zero.dose", "repeats an exposure"),
        "--deconvolve": ("--deconvolve needs the defocus",),
        "--even stack.mrc": ("--even and --odd belong together",),
        "--even wide.mrc --odd wide.mrc": ("wide.mrc has shape", "halves are of the same images"),
        "--config misspelt-acquisition.yaml": ("misspelt-acquisition.yaml", "defocus:"),
        "--device tpu": ("unknown device 'tpu'",),
    },
    "reconstruct --tilt-angles three.tlt --thickness 16 -o out.mrc": {
        "no.mrc": ("no.mrc", "does not exist"),
        "text.mrc": ("text.mrc", "not an MRC file"),
    },
    "simulate -o out": {
        "--structures no.pdb": ("no.pdb", "no such file"),
        "--noise no.safetensors": ("no.safetensors", "cryomend noise fit"),
        "--noise text.mrc": ("text.mrc", "not a noise model"),
        "--config misspelt-recipe.yaml": ("simulation.specimens.few.spieces", "training.stepz"),
        "--config list.yaml": ("list.yaml", "mapping"),
        "--config thick-margins.yaml": ("slab", "slab_margin"),
    },
    "train -o model": {
        "no": ("no", "no such folder", "cryomend simulate"),
        "none": ("none", "holds no pairs"),
        "lonely": ("lonely", "no partner for sad"),
        "halves --config tiny.yaml": ("a_input.mrc", "differs from"),
        "pairs lonely --config tiny.yaml": ("lonely", "no partner for sad"),
        "pairs --config odd-crop.yaml": ("multiples of 4",),
        "pairs --config tiny.yaml --start-from density.mrc": ("density.mrc", "not a safetensors file"),
        "pairs --config tiny.yaml --start-from no.safetensors": ("no.safetensors", "does not exist"),
        "pairs --config crop.yaml": ("a_input.mrc", "crop of 32"),
        "pairs": ("a_input.mrc", "crop of 64 voxels, 112 when rotated", "make the crop smaller"),
        "pairs --config misspelt-recipe.yaml": ("training.stepz",),
        "pairs --config tiny.yaml --device tpu": ("unknown device 'tpu'",),
        "pairs --config tiny.yaml --resume": ("model.checkpoint", "no checkpoint", "leave out --resume"),
    },
    "noise": {
        "extract stack.mrc --patch 16 --tilt-angles two.tlt -o out": (
            "stack.mrc",
            "2 tilt angles for 3 tilts",
        ),
        "extract no.mrc -o out": ("no.mrc", "does not exist"),
        "fit no.h5 -o out": ("no.h5", "no such file"),
        "fit no.h5 --config misspelt-noise.yaml -o out": ("step: ",),
        "fit no.h5 --config list.yaml -o out": ("list.yaml", "mapping"),
        f"{SAMPLE} -o out": ("no.safetensors", "no such file"),
        "check no.h5 stack.mrc --json out": ("no.h5",),
    },
    "areas suggest -o areas.toml": {
        "text.mrc": ("text.mrc", "not an MRC file"),
        "density.mrc --size 40 9 9": ("density.mrc", "40 x 9 x 9 voxels do not fit into 24 x 24 x 24"),
        "density.mrc --restored density.mrc": ("--restored density.mrc", "give --picture"),
    },
    "evaluate density.mrc --json scores.json": {
        "--half density.mrc": ("are one file, so their FSC would be 1 everywhere",),
        "--half stack.mrc": ("stack.mrc",),
        "--areas empty.toml": ("empty.toml", "no foreground area"),
        "--areas overlap.toml": ("overlap.toml", "areas s (z 0-5, y 0-5, x 0-5) and b (z 4-9", "overlap"),
        "--areas outside.toml": ("density.mrc", "asks for z 20 to 30, but the volume has 24 voxels along z"),
        "--template density.mrc": ("--template and --particles belong together",),
    },
    "benchmark": {
        "tinny -o out": ("no recipe 'tinny'", "tiny"),
        "text.toml -o out": ("text.toml", "not valid TOML"),
        "misspelt.toml -o out": ("misspelt.toml", "simulated.simulation.acquisition.flunce"),
        "empty.toml -o out": ("empty.toml", "either [simulated] or [[tomograms]]"),
        "tiny --methods wbp,srit -o out": ("unknown method 'srit'", "sirt"),
        "tiny --table figure -o out": ("unknown table 'figure'", "methods, noise, lambda"),
        "tiny --table noise --methods wbp -o out": ("--methods belongs to --table methods",),
        "tiny --data none -o out": ("leave out --data",),
        "tiny -o a-file": ("cannot write into a-file",),
        "tiny -o a-file/deeper": ("cannot write into a-file/deeper",),
        "tiny -o out --device tpu": ("unknown device 'tpu'",),
        "empiar-10045 -o out": ("--data DIR", "EMPIAR-10045/"),
        "empiar-10045 --data nowhere -o out": ("nowhere", "no such folder"),
        "empiar-10045 --data none -o out": ("no tilt series", "IS002_291013_005.mrcs", "EMPIAR-10045/"),
    },
}


@pytest.mark.parametrize(
    ("command", "says"),
    [(f"{stage} {options}", says) for stage, cases in REFUSED.items() for options, says in cases.items()],
)
def test_bad_input_is_refused_in_one_line(refused, command, says):
    refused(command, *says)


def test_reconstruct_asks_for_a_missing_pixel_size_and_takes_it(refused, run_cli, given):
    write_tilt_angles(given / "all.tlt", np.linspace(-60, 60, PAIR_SIDE))
    command = "reconstruct sizeless.mrc --tilt-angles all.tlt --thickness 16 -o out.mrc"
    refused(command, "sizeless.mrc", "pass --pixel-size")
    assert run_cli(*command.split(), "--pixel-size", 7).code == 0
    assert read_volume(given / "out.mrc").voxel_size == pytest.approx(7)


def test_reconstruct_never_replaces_its_stack(refused):
    refused(f"{RECONSTRUCT} -o ./stack.mrc", "would overwrite")


def test_train_refuses_to_go_on_from_another_network_or_another_file(refused, given, tiny_model):
    Trainer(TrainingConfig(channels=(2, 3), crop=16), []).save(given / "model.checkpoint")
    resume = "train pairs --config tiny.yaml --resume -o"
    refused(f"{resume} model", "model.checkpoint", "checkpoint of a network", "[2, 3]", "[2, 2]")
    (given / "other.checkpoint").write_text("no checkpoint")
    begin = f"train pairs --config tiny.yaml -o model --start-from {tiny_model}"
    refused(begin, str(tiny_model), "[2, 2, 2, 2]", "the configuration asks for")
    refused(f"{resume} other", "other.checkpoint", "not a training checkpoint")


@pytest.mark.parametrize("command", ["specimen", "acquire density.mrc", "simulate"])
@pytest.mark.parametrize("output", ["a-file", "a-file/deeper", "/proc/nowhere"])
def test_folder_that_cannot_be_written_is_refused_before_any_work(refused, command, output, monkeypatch):
    for work in ("specimen.files.build_specimen", "training.simulate.simulate_pair"):
        monkeypatch.setattr(f"cryomend.{work}", None)
    refused(f"{command} -o {output}", f"cannot write into {output}")


@pytest.mark.parametrize(
    "command",
    [
        RECONSTRUCT,
        "train pairs --config tiny.yaml",
        "noise extract stack.mrc",
        "noise fit no.h5",
        f"noise {SAMPLE}",
    ],
)
@pytest.mark.parametrize("output", ["a-file/model", "none", "absent/model"])
def test_file_that_cannot_be_written_is_refused_before_any_work(refused, command, output):
    refused(f"{command} -o {output}", f"cannot write {output}")


@pytest.mark.parametrize(
    "command", ["specimen", "acquire density.mrc", RECONSTRUCT, "train pairs --config tiny.yaml"]
)
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_absent_device_is_refused(refused, monkeypatch, command, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    refused(f"{command} -o out --device {device}", f"no {device} device", "pass --device cpu")


def test_reconstruct_and_report_say_what_they_wrote_and_nothing_else(given, run_cli, monkeypatch):
    monkeypatch.chdir(given)
    monkeypatch.setattr("cryomend.reconstruction.reconstruct_file", lambda *_, **__: ["a note"])
    command = [
        "reconstruct",
        "stack.mrc",
        "--thickness",
        16,
        "--tilt-angles",
        "three.tlt",
        "-o",
        "sub.d/r.mrc",
    ]
    assert run_cli(*command).err.splitlines() == ["a note", "wrote sub.d/r.mrc"]
    halves = run_cli(*command, "--even", "stack.mrc", "--odd", "stack.mrc").err.splitlines()
    assert halves[1:] == ["wrote sub.d/r.mrc", "wrote sub.d/r_EVN.mrc", "wrote sub.d/r_ODD.mrc"]
    monkeypatch.setattr("cryomend.restoration.report.write_report", lambda *_, **__: None)
    assert run_cli("report", "density.mrc", "-o", "page.html").err == "wrote page.html\n"


def test_evaluate_says_where_the_scores_are(given, run_cli, monkeypatch):
    monkeypatch.chdir(given)
    result = run_cli("evaluate", "density.mrc", "--truth", "density.mrc", "--json", "s.json")
    assert result.code == 0 and result.err.splitlines()[-1] == "wrote s.json"
