"""The configuration models: their defaults, what they refuse, and the files that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cryomend import config
from cryomend.config import (
    AblationConfig,
    AcquisitionConfig,
    BenchmarkConfig,
    ClutterConfig,
    DataSetTrainingConfig,
    EffortConfig,
    ExternalConfig,
    FilamentConfig,
    MembraneConfig,
    NoiseConfig,
    ProcessingConfig,
    Recipe,
    ReconstructionConfig,
    RecordedDataConfig,
    SimulatedDataConfig,
    SimulationConfig,
    SpecimenConfig,
    StageConfig,
    StreamConfig,
    TrainingConfig,
    UserConfig,
    list_mistakes,
    load_config,
    load_recipe,
)

MODELS = [
    AblationConfig,
    AcquisitionConfig,
    BenchmarkConfig,
    ClutterConfig,
    DataSetTrainingConfig,
    EffortConfig,
    ExternalConfig,
    FilamentConfig,
    MembraneConfig,
    NoiseConfig,
    ProcessingConfig,
    Recipe,
    ReconstructionConfig,
    RecordedDataConfig,
    SimulatedDataConfig,
    SimulationConfig,
    SpecimenConfig,
    StreamConfig,
    TrainingConfig,
    UserConfig,
]
FILES = {
    "wide-model.yaml": Recipe,
    "default-model.yaml": Recipe,
    "smoke.yaml": Recipe,
    "reference.yaml": Recipe,
    "held-out.yaml": SimulationConfig,
}
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def dotted(error: pytest.ExceptionInfo[ValidationError]) -> set[str]:
    return {".".join(map(str, e["loc"])) for e in error.value.errors()}


def ranges(model: type[StageConfig]) -> list[str]:
    """Fields that hold a (low, high) pair by default."""
    defaults = model().model_dump()
    return [k for k, v in defaults.items() if isinstance(v, tuple) and len(v) == 2]


def test_every_model_stands_in_this_list():
    public = {v for v in vars(config).values() if isinstance(v, type) and issubclass(v, StageConfig)}
    assert public - {StageConfig} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_defaults_pass_their_own_validation(model):
    assert model.model_validate(model().model_dump()) == model()


@pytest.mark.parametrize("model", MODELS)
def test_defaults_come_back_from_yaml(model, tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(model().model_dump(mode="json")))
    assert load_config(model, tmp_path / "a.yaml") == model()


@pytest.mark.parametrize("model", MODELS)
def test_every_field_has_a_description(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("model", MODELS)
def test_models_are_frozen_and_refuse_unknown_keys(model):
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model(), next(iter(model.model_fields)), None)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted") as error:
        model(colour="red")
    assert dotted(error) == {"colour"}


def test_unknown_keys_are_named_by_their_dotted_path(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "simulation: {specimens: {few: {spiecies: [1, 2]}}, acquisition: {snrr: 1}}\ntraining: {step: 1}"
    )
    with pytest.raises(ValidationError) as error:
        load_recipe(path)
    assert dotted(error) == {
        "simulation.specimens.few.spiecies",
        "simulation.acquisition.snrr",
        "training.step",
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (m, n)
        for m in (SpecimenConfig, AcquisitionConfig, SimulationConfig, ProcessingConfig)
        for n in ranges(m)
    ],
)
def test_a_range_in_the_wrong_order_is_refused(model, name):
    low, high = getattr(model(), name)
    span = (high, low) if low < high else (high or 1, low / 2)
    with pytest.raises(ValidationError, match=r"a range is \(low, high\)"):
        model(**{name: span})


def test_ranges_are_found_by_the_test_above():
    assert set(ranges(SpecimenConfig)) >= {"occupancy", "slab_margin", "species", "shells", "blur"}
    assert set(ranges(MembraneConfig)) >= {"count", "radius", "proteins"}
    assert set(ranges(AcquisitionConfig)) >= {"tilt_min", "defocus_um", "fluence", "mtf_nyquist"}


REFUSED = {
    SpecimenConfig: {
        "shape": [(0, 48, 48), (48, 15, 48), (48, 48)],
        "voxel_size": [0, -10, float("inf"), float("nan")],
        "occupancy": [(-0.1, 0.2), (0.1, 1.1)],
        "slab_margin": [(-1, 10)],
        "species": [(-1, 2), (0.5, 2)],
        "gold": [(-1, 1)],
        "mass_kda": [(0, 100)],
        "vesicle_radius": [(0, 100)],
        "blur": [(-1, 2)],
        "file_share": [-0.1, 1.1],
    },
    AcquisitionConfig: {
        "tilt_min": [(-91, -60)],
        "tilt_max": [(60, 91)],
        "tilt_step": [(0, 3)],
        "amplitude_contrast": [(0, 1.1)],
        "defocus_um": [(float("nan"), 3)],
        "fluence": [(0, 100)],
        "snr": [0, -1],
        "snr_db": [float("inf"), float("nan")],
        "snr_band": [(0, 10), (20, 10)],
        "mtf_nyquist": [(0, 0.5), (0.5, 1.1)],
        "misalignment": [(-1, 1)],
        "mean_free_path": [(0, 1)],
    },
    SimulationConfig: {
        "voxel_size": [(0, 10)],
        "noise_share": [-0.1, 1.1],
        "noise_total": ["halved"],
        "solvent_variation": [(-1, 0)],
    },
    ProcessingConfig: {
        "methods": [{"fbp": 1}, {"wbp": 0}, {"wbp": -1}, {}],
        "ctf": [{"left": 0.0}],
        "binning": [{"bilinear": 1}],
        "cutoff": [(0.3, 0.6)],
        "sart_relaxation": [(0.1, 2.0)],
        "clip_percent": [(0, 50)],
        "highpass_period": [(0, 10)],
        "eight_bit_share": [1.1],
    },
    StreamConfig: {"buffer": [0], "first": [0], "reuse": [0], "validation_structures": [1]},
    TrainingConfig: {
        "channels": [(), (4, 0)],
        "stem": ["quarter"],
        "crop": [8],
        "batch": [0],
        "steps": [0],
        "learning_rate": [0],
        "lambda_recon": [-0.1],
        "recon_share": [0],
        "rotation_share": [1.1],
        "validation_share": [1],
    },
    NoiseConfig: {
        "width": [0],
        "latent": [0],
        "steps": [0],
        "batch": [0],
        "learning_rate": [0],
        "ema_decay": [1],
    },
}


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [(m, n, v) for m, cases in REFUSED.items() for n, vs in cases.items() for v in vs],
)
def test_values_without_physical_meaning_are_refused(model, name, value):
    with pytest.raises(ValidationError) as error:
        model(**{name: value})
    assert {path.split(".")[0] for path in dotted(error)} == {name}


def test_tilt_ranges_that_meet_are_refused():
    with pytest.raises(ValidationError, match="must lie below tilt_max"):
        AcquisitionConfig(tilt_min=(-60, 40), tilt_max=(40, 60))


def test_signal_to_noise_is_given_once_and_its_band_is_not_empty():
    with pytest.raises(ValidationError, match="snr and snr_db exclude each other"):
        AcquisitionConfig(snr=1, snr_db=0)
    with pytest.raises(ValidationError, match=r"snr_band \(20\.0, 20\.0\) is empty"):
        AcquisitionConfig(snr=1, snr_band=(20, 20))


def test_learned_noise_cannot_be_all_of_it_and_come_on_top():
    assert SimulationConfig(noise_share=1).noise_total == "kept"
    with pytest.raises(ValidationError, match="has no end"):
        SimulationConfig(noise_share=1, noise_total="grows")


def test_options_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("{snr: 0.5, voltage_kv: 200}")
    read = load_config(AcquisitionConfig, tmp_path / "a.yaml", snr=2.0, fluence=None)
    assert (read.snr, read.voltage_kv, read.fluence) == (2.0, 200, AcquisitionConfig().fluence)


def test_an_empty_file_means_all_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert load_recipe(tmp_path / "a.yaml") == load_recipe(None) == Recipe()


def test_a_recipe_begins_with_the_file_that_it_names_as_its_base(tmp_path):
    (tmp_path / "a.yaml").write_text("training: {steps: 7, crop: 32}\nstream: {buffer: 3}\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("base: ../a.yaml\ntraining: {crop: 48}\n")
    read = load_recipe(tmp_path / "sub" / "b.yaml", {"training": {"steps": 9, "batch": 5}})
    assert (read.training.steps, read.training.crop, read.training.batch) == (7, 48, 5)
    assert read.stream.buffer == 3
    (tmp_path / "a.yaml").write_text("base: sub/b.yaml\n")
    with pytest.raises(ValueError, match=r"a\.yaml: base sub/b\.yaml leads back to itself"):
        load_recipe(tmp_path / "sub" / "b.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "a configuration is a YAML mapping"),
        ("a: [", "not a readable YAML file"),
        ("1: 2", "Keys should be strings"),
        ("a: !!python/object/apply:os.getcwd []", "not a readable YAML file"),
    ],
)
def test_files_that_hold_no_mapping_of_options_are_refused(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=says):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match=r"none\.yaml: not a readable YAML file"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="the tests stand outside the repository")
def test_every_file_in_configs_is_read_by_its_model():
    assert {path.name for path in CONFIGS.glob("*.yaml")} == set(FILES)
    for name, model in FILES.items():
        read = load_recipe(CONFIGS / name) if model is Recipe else load_config(model, CONFIGS / name)
        assert read != model(), name


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="the tests stand outside the repository")
def test_structures_of_the_held_out_tests_are_in_no_training():
    trained = load_recipe(CONFIGS / "default-model.yaml").simulation.structures
    held_out = load_config(SimulationConfig, CONFIGS / "held-out.yaml").structures
    assert trained and held_out
    assert not set(trained) & set(held_out)


def test_a_refusal_names_the_file_if_the_mistake_is_in_it(tmp_path):
    (tmp_path / "a.yaml").write_text("voxel_size: -1\n")
    with pytest.raises(ValidationError) as error:
        load_config(SpecimenConfig, tmp_path / "a.yaml")
    assert list_mistakes(error.value) == f"{tmp_path / 'a.yaml'}: voxel_size: Input should be greater than 0"
    with pytest.raises(ValidationError) as error:
        load_config(SpecimenConfig, tmp_path / "a.yaml", voxel_size=-2.0)
    assert list_mistakes(error.value) == "voxel_size: Input should be greater than 0"


def test_a_misspelt_option_is_told_with_the_nearest_of_its_section(tmp_path):
    (tmp_path / "a.yaml").write_text("ocupancy: [0, 1]\nmembranes: [{knd: sheet}]\nsteps: 3\n")
    with pytest.raises(ValidationError) as error:
        load_config(SpecimenConfig, tmp_path / "a.yaml")
    assert list_mistakes(error.value) == (
        f"{tmp_path / 'a.yaml'}: membranes.0.knd: no such option; did you mean kind?; "
        "ocupancy: no such option; did you mean occupancy?; steps: no such option"
    )
    (tmp_path / "b.yaml").write_text(
        "simulation: {specimens: {few: {spiecies: [1, 2]}}, acquisition: {snrr: 1}}\nstreem: {}"
    )
    with pytest.raises(ValidationError) as error:
        load_recipe(tmp_path / "b.yaml")
    told = list_mistakes(error.value)
    assert "simulation.specimens.few.spiecies: no such option; did you mean species?" in told
    assert "simulation.acquisition.snrr: no such option; did you mean snr?" in told
    assert "streem: no such option; did you mean stream?" in told


def test_a_mistake_on_the_command_line_is_called_by_its_option_and_once():
    with pytest.raises(ValidationError) as error:
        load_config(AcquisitionConfig, None, fluence=(-1.0, -1.0))
    assert list_mistakes(error.value, options=["acquire", "--fluence=-1"]) == (
        "--fluence: Input should be greater than 0"
    )
    assert "fluence.0: Input" in list_mistakes(error.value, options=["acquire", "--flu"])


def test_a_preset_gives_what_is_not_said_otherwise(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: virus\nshells: [7, 7]\n")
    mine, virus = (
        load_config(SpecimenConfig, tmp_path / "mine.yaml"),
        load_config(SpecimenConfig, None, preset="virus"),
    )
    assert mine.shells == (7, 7) != virus.shells
    assert mine.membranes == virus.membranes
    with pytest.raises(ValidationError, match=r"unknown preset '\.\./x'; choose one of anything, cytosol"):
        load_config(SpecimenConfig, None, preset="../x")
