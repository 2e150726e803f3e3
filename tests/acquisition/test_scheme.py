import numpy as np
import pytest

from cryomend.acquisition.scheme import recording_order, share_fluence

ANGLES = np.array([-9.0, -6, -3, 0, 3, 6, 9])


def sequence(**options):
    return ANGLES[np.argsort(recording_order(ANGLES, **options))].tolist()


def test_the_dose_symmetric_scheme_alternates_outwards():
    assert sequence() == [0, 3, -3, 6, -6, 9, -9]
    assert sequence(group=2) == [0, 3, 6, -3, -6, 9, -9]
    assert sequence(start=3) == [3, 6, 0, 9, -3, -6, -9]


def test_the_bidirectional_and_the_continuous_scheme():
    assert sequence(scheme="bidirectional") == [0, 3, 6, 9, -3, -6, -9]
    assert sequence(scheme="bidirectional", start=-6) == [-6, -3, 0, 3, 6, 9, -9]
    assert sequence(scheme="continuous") == ANGLES.tolist()


def test_the_order_of_the_list_does_not_matter_and_repeats_are_recorded():
    shuffled = ANGLES[[3, 0, 6, 1, 5, 2, 4]]
    assert shuffled[np.argsort(recording_order(shuffled))].tolist() == sequence()
    assert sorted(recording_order(np.array([0.0, 3, 3, -3]))) == [0, 1, 2, 3]


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="unknown tilt scheme 'spiral'"):
        recording_order(ANGLES, scheme="spiral")


def test_the_fluence_is_shared_out_whole():
    equal, more = share_fluence(ANGLES, fluence=70.0), share_fluence(ANGLES * 6, fluence=70.0, exponent=1.0)
    np.testing.assert_allclose(equal, 10)
    assert more.sum() == pytest.approx(70)
    assert more[0] / more[3] == pytest.approx(1 / np.cos(np.radians(54)))


def test_the_other_direction_mirrors_every_scheme():
    assert sequence(direction=-1) == [0, -3, 3, -6, 6, -9, 9]
    assert sequence(direction=-1, group=2) == [0, -3, -6, 3, 6, -9, 9]
    assert sequence(scheme="bidirectional", direction=-1) == [0, -3, -6, -9, 3, 6, 9]
    assert sequence(scheme="continuous", direction=-1) == ANGLES[::-1].tolist()
