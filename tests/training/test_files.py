from pathlib import Path

import pytest

from cryomend.config import AcquisitionConfig, SimulationConfig, SpecimenConfig, TrainingConfig
from cryomend.io import InputError
from cryomend.network.weights import load_model
from cryomend.training.files import _held_out
from cryomend.training.run import train_from_folders
from cryomend.training.simulate import simulate_pairs

CONFIG = SimulationConfig(
    specimens={"small": SpecimenConfig(shape=(32, 40, 40), slab_margin=(20.0, 40.0), species=(1, 1))},
    acquisition=AcquisitionConfig(tilt_step=(5.0, 5.0)),
)

SMALL = TrainingConfig(channels=(4, 4), crop=16, batch=1, steps=3, rotation_share=0.0, learning_rate=1e-9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = [tmp_path_factory.mktemp("pairs") for _ in range(2)]
    for i, folder in enumerate(made):
        simulate_pairs(CONFIG, folder, count=2, seed=10 * i)
    return made


def test_training_on_two_folders_counts_all_their_pairs(folders, tmp_path):
    config = SMALL.model_copy(update={"validation_share": 0.5})
    facts = train_from_folders(folders, tmp_path / "m.safetensors", config=config)
    assert (facts["pairs"], facts["validation_pairs"], facts["steps"]) == (2, 2, 3)
    assert not list(tmp_path.glob("*.checkpoint"))


def test_training_starts_from_the_given_weights(folders, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    train_from_folders(folders[:1], first, config=SMALL, seed=1)
    train_from_folders(folders[:1], second, config=SMALL, seed=2, start_from=first)
    a, b = (load_model(p)[0].state_dict() for p in (first, second))
    # At this learning rate three steps of AdamW move no weight by more than some 1e-8.
    assert all((a[k] - b[k]).abs().max() < 1e-6 for k in a)
    wide, deep = (SMALL.model_copy(update={"channels": c}) for c in ((4, 6), (4, 4, 4)))
    notes = []
    train_from_folders(folders[:1], second, config=wide, start_from=first, on_notes=notes.extend)
    assert load_model(second)[0].arguments["channels"] == [4, 6]
    assert "its levels of [4, 4] features become [4, 6]" in notes[0]
    with pytest.raises(InputError, match=r"the configuration asks for .* wider levels"):
        train_from_folders(folders[:1], second, config=deep, start_from=first)


def test_first_pairs_of_each_folder_are_held_out_and_a_lone_pair_is_not():
    a, b = Path("a"), Path("b")
    assert _held_out([a, a, a, a, b], 0.5) == [True, True, False, False, False]
