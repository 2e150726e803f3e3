import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomend.geometry import missing_wedge_mask
from cryomend.training.crops import (
    DENSITY_LIMITS,
    cut_crop,
    prepare_pair,
    random_radial_gain,
)
from cryomend.training.rotate import rotate_crop, rotated_side, rotated_wedge_mask


def pair(shape=(40, 48, 44), seed=0):
    rng = torch.Generator().manual_seed(seed)
    return prepare_pair(50 + 3 * torch.randn(shape, generator=rng), 10 * torch.randn(shape, generator=rng))


def cut(source, seed=0, **changes):
    options = {"side": 16, "rotation_share": 0.0, "spectrum_jitter": 0.0, **changes}
    return cut_crop(source, rng=np.random.default_rng(seed), **options)


def test_prepared_tomogram_is_standardised_bright_and_its_target_clipped():
    prepared = pair()
    assert prepared.tomogram.float().mean().abs() < 1e-2
    assert prepared.tomogram.float().std() == pytest.approx(1, abs=1e-2)
    assert (prepared.density.min(), prepared.density.max()) == DENSITY_LIMITS
    assert prepared.power.sum() == pytest.approx(1)
    dark = torch.zeros(20, 20, 20)
    dark[8:12, 8:12, 8:12] = -1
    assert prepare_pair(dark + 0.01 * torch.randn(20, 20, 20), -dark).tomogram[10, 10, 10] > 0


def test_a_crop_in_the_true_pose_is_a_flipped_piece_of_both_volumes():
    source = pair()
    x, y, rotated = cut(source)
    assert not rotated
    assert x.shape == y.shape == (16, 16, 16)
    found = [
        flips
        for flips in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
        for z in range(25)
        for row in range(33)
        if torch.equal(source.tomogram[z, row, :].float()[:16], x.flip(flips)[0, 0])
        or _holds(source, x.flip(flips), y.flip(flips), z, row)
    ]
    assert len(set(found)) == 1


def _holds(source, x, y, z, row):
    windows = source.tomogram[z, row].float().unfold(0, 16, 1)
    hits = (windows == x[0, 0]).all(1).nonzero().flatten().tolist()
    return any(
        torch.equal(source.tomogram[z : z + 16, row : row + 16, c : c + 16].float(), x)
        and torch.equal(source.density[z : z + 16, row : row + 16, c : c + 16].float(), y)
        for c in hits
    )


def test_rotating_by_a_quarter_turn_is_exact():
    cube = torch.randn(1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    quarter = Rotation.from_euler("x", 90, degrees=True).as_matrix()  # about the first axis: Z
    turned = rotate_crop(cube, quarter, side=12)
    expected = torch.rot90(cube, k=1, dims=(2, 3))
    other = torch.rot90(cube, k=-1, dims=(2, 3))
    error = min((turned - expected).abs().max().item(), (turned - other).abs().max().item())
    assert error < 1e-5


def test_identity_rotation_cuts_the_centre():
    cube = torch.randn(2, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        rotate_crop(cube, np.eye(3), side=10), cube[:, 5:15, 5:15, 5:15], atol=1e-5, rtol=0
    )


def test_no_corner_of_a_rotated_crop_is_empty():
    source = prepare_pair(torch.ones(60, 60, 60) + 0.01 * torch.randn(60, 60, 60), torch.ones(60, 60, 60))
    for seed in range(10):
        _, y, rotated = cut(source, seed, side=24, rotation_share=1.0)
        assert rotated
        torch.testing.assert_close(y, torch.ones(24, 24, 24))


def test_every_crop_has_its_own_rotation():
    source = pair((60, 60, 60))
    assert not torch.equal(cut(source, 0, rotation_share=1.0)[0], cut(source, 1, rotation_share=1.0)[0])


def test_rotated_wedge_without_rotation_is_the_wedge_and_keeps_its_share_when_turned():
    shape = (33, 33, 33)
    plain = rotated_wedge_mask(shape, None, tilt_min=-60, tilt_max=60)
    assert torch.equal(plain, missing_wedge_mask(shape, tilt_min=-60, tilt_max=60))
    assert torch.equal(rotated_wedge_mask(shape, np.eye(3), tilt_min=-60, tilt_max=60), plain)
    k = torch.fft.fftfreq(33)
    ball = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2 < 0.25
    turned = rotated_wedge_mask(shape, Rotation.random(random_state=0).as_matrix(), tilt_min=-60, tilt_max=60)
    # 2/3 of all directions lie within 60 degrees of the plane kz = 0 in (kx, kz).
    assert turned[ball].float().mean().item() == pytest.approx(2 / 3, abs=0.01)
    mate = turned.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    assert torch.equal(turned, mate)


def test_a_rotated_image_has_its_wedge_where_the_rotated_mask_says():
    rng = torch.Generator().manual_seed(0)
    n, rotation = 48, Rotation.from_rotvec([0.3, -0.5, 0.4]).as_matrix()
    mask = missing_wedge_mask((n, n, n), tilt_min=-50, tilt_max=50)
    noise = torch.fft.ifftn(torch.fft.fftn(torch.randn(n, n, n, generator=rng)) * mask).real
    turned = rotate_crop(noise[None], rotation, side=24)[0]
    window = torch.hann_window(24, periodic=False)
    power = torch.fft.fftn(turned * window[:, None, None] * window[:, None] * window).abs() ** 2
    where = rotated_wedge_mask((24, 24, 24), rotation, tilt_min=-50, tilt_max=50)
    k = torch.fft.fftfreq(24)
    band = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2 < 0.3**2) & (
        k[:, None, None] ** 2 + k[:, None] ** 2 + k**2 > 0.1**2
    )
    # The empty wedge holds what the window smears into it; wrongly turned masks give about a half.
    assert power[band & ~where].mean() < 0.15 * power[band & where].mean()


def test_spectral_gain_keeps_the_variance_of_the_whole_tomogram():
    source = pair((48, 48, 48))
    stds = [cut(source, s, side=48, spectrum_jitter=0.5)[0].std().item() for s in range(8)]
    np.testing.assert_allclose(stds, 1, atol=0.03)  # the gain table has 48 bins
    gain = random_radial_gain(np.random.default_rng(0), 0.3)
    assert gain.shape == (48,)
    assert (gain > 0).all()


def test_crops_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"a crop of 64 voxels does not fit"):
        cut(pair(), side=64)
    with pytest.raises(ValueError, match=rf"a crop of {rotated_side(32)} voxels \(side 32, rotated\)"):
        cut(pair(), side=32, rotation_share=1.0)
