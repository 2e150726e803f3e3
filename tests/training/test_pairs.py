from dataclasses import replace

import numpy as np
import pytest
import torch

from cryomend.acquisition import acquire
from cryomend.config import AcquisitionConfig, SimulationConfig, SpecimenConfig
from cryomend.fourier import gaussian_lowpass
from cryomend.specimen import procedural_macromolecule
from cryomend.specimen.structure import find_structures
from cryomend.training import pairs
from cryomend.training.files import find_pairs
from cryomend.training.pairs import read_pair, simulate_pair, write_pair
from cryomend.training.processing import tomogram_of
from cryomend.training.simulate import simulate_pairs

SMALL = SpecimenConfig(shape=(32, 40, 40), slab_margin=(20.0, 40.0), mass_kda=(60.0, 300.0), species=(2, 2))
CONFIG = SimulationConfig(
    specimens={"small": SMALL},
    acquisition=AcquisitionConfig(tilt_step=(5.0, 5.0), fluence=(100.0, 100.0)),
    processing=None,
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


def sample(angles, shape, pixel_size, generator):
    """Blurred noise with an offset, as a learned model might have."""
    return 50 + gaussian_lowpass(torch.randn(len(angles), *shape, generator=generator), 0.7, ndim=2)


@pytest.fixture
def series_of(monkeypatch):
    """The tilt series of which a pair with empty or filled ice is made, and the record of its noise."""

    def make(*, counted=True, empty=False, seed=0, **changes):
        filled = {"shape": (32, 96, 96), "species": (2, 2)}
        kind = SpecimenConfig(**{**filled, **({"occupancy": (0, 0)} if empty else {})})
        microscope = AcquisitionConfig(tilt_step=(5.0, 5.0), **changes.pop("acquisition", {}))
        config = SimulationConfig(specimens={"one": kind}, acquisition=microscope, processing=None, **changes)
        caught = []

        def catch(series, *args, **how):
            caught.append(series)
            return tomogram_of(series, *args, **how)

        with monkeypatch.context() as patched:
            patched.setattr(pairs, "tomogram_of", catch)
            if not counted:
                patched.setattr(acquire, "count_electrons", lambda expected, generator: expected)
            record = simulate_pair(config, seed=seed, sample_noise=sample).record
        return caught[0], record["noise"]

    return make


def powers(images):
    return images.var(dim=(1, 2)).numpy()


@pytest.mark.parametrize("total", ["kept", "grows"])
@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_share_of_learned_noise_measures_back_from_the_series(series_of, share, total):
    clean = series_of(noise_share=0.0, counted=False, empty=True)[0]
    counting = series_of(noise_share=0.0, empty=True)[0] - clean
    series, record = series_of(noise_share=share, noise_total=total, empty=True)
    noise = series - clean
    # Of the noise that is there, what follows the counts of the same seed is counting noise.
    followed = ((noise * counting).mean(dim=(1, 2)) / counting.square().mean(dim=(1, 2)))[:, None, None]
    learned = noise - followed * counting
    growth = 1.0 if total == "kept" else 1 / (1 - share)
    assert (powers(learned) / powers(noise)).mean() == pytest.approx(share, rel=0.02)
    assert (powers(noise) / powers(counting)).mean() == pytest.approx(growth, rel=0.02)
    assert followed.mean().item() == pytest.approx((1 - share if total == "kept" else 1) ** 0.5, rel=0.02)
    assert (record["learned_share"], record["total"]) == (share, total)


def test_the_powers_in_the_record_are_those_of_the_noise(series_of):
    flat = {"acquisition": {"tilt_min": (-5, -5), "tilt_max": (5, 5), "misalignment": (0, 0)}}
    clean = series_of(noise_share=0.0, counted=False, **flat)[0]
    series, record = series_of(noise_share=0.4, **flat)
    learned, counting, signal = (np.array(record[f"{n}_power"]) for n in ("learned", "counting", "signal"))
    np.testing.assert_allclose(learned / (learned + counting), 0.4, rtol=1e-4)
    np.testing.assert_allclose(powers(series - clean), learned + counting, rtol=0.05)
    assert powers(series - clean).mean() == pytest.approx((learned + counting).mean(), rel=0.02)
    np.testing.assert_allclose(powers(clean), signal, rtol=0.05)  # all but the edges at ±5°


def test_a_given_snr_stands_whatever_the_share(series_of):
    given = {"acquisition": {"snr_db": -10, "snr_band": (40.0, 400.0)}}
    for share in (0.0, 0.5, 1.0):
        record = series_of(noise_share=share, **given)[1]
        noise = np.array(record["learned_power"]) + np.array(record["counting_power"])
        np.testing.assert_allclose(np.array(record["signal_power"]) / noise, 0.1, rtol=1e-3)


def test_without_a_noise_model_all_noise_is_counted():
    record = simulate_pair(CONFIG, seed=3).record["noise"]
    assert record["learned_share"] == 0 and not any(record["learned_power"])
    assert min(record["counting_power"]) > 0


def test_unresolved_solvent_is_seen_by_the_beam_and_not_in_the_target():
    loud = CONFIG.model_copy(update={"solvent_variation": (2.0, 2.0)})
    a, b = simulate_pair(CONFIG, seed=3), simulate_pair(loud, seed=3)
    assert not torch.allclose(a.tomogram, b.tomogram)
    # The draw comes after the specimen's own.
    torch.testing.assert_close(a.density, b.density)


def test_halves_show_the_same_specimen_with_noise_of_their_own_and_add_up_to_the_whole():
    pair = simulate_pair(CONFIG, seed=3, halves=True)
    even, odd = pair.halves
    assert torch.equal(pair.density, simulate_pair(CONFIG, seed=3).density)

    def correlation(a, b):
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]

    assert correlation(even + odd, pair.tomogram) > 0.999
    assert correlation(even, odd) < 0.9 * correlation(even, pair.tomogram)
    # of each tilt the images have unit deviation, so half of the electrons are as bright as all of them
    assert even.std() == pytest.approx(odd.std().item(), rel=0.02)
    assert simulate_pair(CONFIG, seed=3).halves is None


def test_halves_of_noise_that_is_not_counted_are_refused():
    with pytest.raises(ValueError, match="halves count electrons"):
        simulate_pair(
            CONFIG.model_copy(update={"noise_share": 0.5}), seed=3, sample_noise=sample, halves=True
        )


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


def test_a_pair_of_empty_ice_is_read_back(tmp_path):
    empty = replace(simulate_pair(CONFIG, seed=0), density=torch.zeros(SMALL.shape))
    write_pair(tmp_path, "ice", empty)
    assert (read_pair(tmp_path, "ice")[1] == 0).all()


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
