import numpy as np
import pytest
import torch

from cryomend.config import AcquisitionConfig, SimulationConfig, SpecimenConfig
from cryomend.specimen import procedural_macromolecule
from cryomend.training.files import find_pairs
from cryomend.training.pairs import read_pair, simulate_pair, write_pair
from cryomend.training.simulate import find_structures, simulate_pairs

SMALL = SpecimenConfig(shape=(32, 40, 40), slab_margin=(20.0, 40.0), mass_kda=(60.0, 300.0), species=(2, 2))
CONFIG = SimulationConfig(
    specimens={"small": SMALL}, acquisition=AcquisitionConfig(tilt_step=(5.0, 5.0), fluence=(100.0, 100.0))
)


def test_equal_seeds_give_equal_pairs():
    a, b = simulate_pair(CONFIG, seed=3), simulate_pair(CONFIG, seed=3)
    assert torch.equal(a.tomogram, b.tomogram)
    assert a.record == b.record
    assert not torch.equal(a.tomogram, simulate_pair(CONFIG, seed=4).tomogram)


def test_tomogram_is_dark_where_the_density_is():
    pair = simulate_pair(CONFIG, seed=3)
    both = torch.stack([pair.tomogram.flatten(), pair.density.flatten()])
    assert torch.corrcoef(both)[0, 1] < -0.2


def test_drawn_values_are_recorded():
    record = simulate_pair(CONFIG, seed=3).record
    assert record["kind"] == "small"
    assert record["exposure"]["fluence"] == pytest.approx(100)
    assert record["tilt_angles"][0] == record["tilt_range"][0]


def test_learned_noise_takes_its_stated_share_of_the_power():
    def sample(angles, shape, generator):
        return torch.randn(len(angles), *shape, generator=generator)

    empty = SpecimenConfig(shape=(32, 96, 96), species=(0, 0), occupancy=(0, 0))
    acquisition = AcquisitionConfig(mtf_nyquist=(1.0, 1.0), phase_flip_share=0, sirt_like_share=0)
    variances = []
    for share in (0.0, 0.5, 0.75):
        config = SimulationConfig(specimens={"empty": empty}, acquisition=acquisition, noise_share=share)
        variances.append(simulate_pair(config, seed=0, sample_noise=sample).tomogram.var().item())
    # Images are divided by their mean or deviation alike in all three; counting noise alone has variance 1.
    record = simulate_pair(
        SimulationConfig(specimens={"empty": empty}, acquisition=acquisition), seed=0
    ).record
    ratio = np.array(variances) / variances[0]
    expected = [1, 2, 4] if record["processing"]["normalised_by"] == "mean" else [1, 1, 1]
    np.testing.assert_allclose(ratio, expected, rtol=0.05)


def test_unresolved_solvent_is_seen_by_the_beam_and_not_in_the_target():
    loud = CONFIG.model_copy(update={"solvent_variation": (2.0, 2.0)})
    a, b = simulate_pair(CONFIG, seed=3), simulate_pair(loud, seed=3)
    assert not torch.allclose(a.tomogram, b.tomogram)
    # The draw comes after the specimen's own.
    torch.testing.assert_close(a.density, b.density)


def test_pairs_go_to_disk_and_back_and_finished_ones_are_not_made_again(tmp_path):
    names = simulate_pairs(CONFIG, tmp_path, count=2, seed=7)
    assert find_pairs(tmp_path) == names == ["pair_000007", "pair_000008"]
    tomogram, density, voxel_size = read_pair(tmp_path, "pair_000007")
    assert tomogram.shape == density.shape == SMALL.shape
    assert voxel_size == pytest.approx(10)
    stamp = (tmp_path / "pair_000007_input.mrc").stat().st_mtime_ns
    (tmp_path / "pair_000008.json").unlink()
    simulate_pairs(CONFIG, tmp_path, count=2, seed=7)
    assert (tmp_path / "pair_000007_input.mrc").stat().st_mtime_ns == stamp
    assert (tmp_path / "pair_000008.json").exists()


def test_two_workers_make_the_same_pairs_as_one(tmp_path):
    species = [procedural_macromolecule(np.random.default_rng(0), mass_kda=100, name="given")]
    simulate_pairs(CONFIG, tmp_path / "a", count=2, seed=0, structures=species)
    simulate_pairs(CONFIG, tmp_path / "b", count=2, seed=0, structures=species, workers=2)
    a, b = (read_pair(tmp_path / d, "pair_000001")[0] for d in "ab")
    # Another number of threads sums in another order, which may turn the odd electron into two or none.
    assert (a - b).abs().mean() < 1e-4 * a.std()
    assert (a - b).abs().max() < 0.1 * a.std()


def test_pairs_of_different_shapes_are_refused(tmp_path):
    pair = simulate_pair(CONFIG, seed=0)
    write_pair(tmp_path, "p", pair)
    from cryomend.io import write_volume

    write_volume(tmp_path / "p_target.mrc", np.random.default_rng(0).normal(size=(20, 20, 20)), voxel_size=10)
    with pytest.raises(ValueError, match="differs from"):
        read_pair(tmp_path, "p")


@pytest.mark.parametrize("names", [("nowhere",), ()])
def test_structures_that_are_not_there_are_refused(tmp_path, names):
    paths = [tmp_path / n for n in names] or [tmp_path]
    with pytest.raises(ValueError, match=r"no such file|holds no structure"):
        find_structures(paths)
