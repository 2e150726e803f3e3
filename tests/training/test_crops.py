import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryomend.fourier import filter_fourier, radial_frequency
from cryomend.geometry import missing_wedge_mask, random_rotations
from cryomend.training.crops import (
    DENSITY_LIMITS,
    cut_crop,
    prepare_pair,
    random_radial_gain,
)
from cryomend.training.rotate import _sample_in_pairs, rotate_crop, rotated_side, rotated_wedge_mask
from cryomend.training.spline_kernel import sample_spline


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
    crop = cut(source)
    x, y = crop.tomogram, crop.density
    assert not crop.turned
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


def smooth_cube(channels, side):
    """Noise below 0.2 cycles per voxel, as large features are."""
    noise = torch.randn(channels, side, side, side, generator=torch.Generator().manual_seed(0))
    low = (radial_frequency((side,) * 3, half=True) < 0.2).float()
    return filter_fourier(noise, low)


def test_rotating_a_smooth_cube_by_a_quarter_turn_is_exact_to_one_per_cent():
    cube = smooth_cube(1, 32)
    quarter = Rotation.from_euler("x", 90, degrees=True).as_matrix()  # about the first axis: Z
    turned = rotate_crop(cube, quarter, side=16)
    errors = [turned - torch.rot90(cube, k=k, dims=(2, 3))[:, 8:24, 8:24, 8:24] for k in (1, -1)]
    assert min(e.std().item() for e in errors) < 0.01 * cube.std()


def test_identity_rotation_cuts_the_centre():
    cube = smooth_cube(2, 32)
    error = rotate_crop(cube, np.eye(3), side=20) - cube[:, 6:26, 6:26, 6:26]
    assert error.std() < 0.01 * cube.std()


def test_the_compiled_loop_and_the_accelerator_agree():
    cube = torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    matrix = random_rotations(np.random.default_rng(0), 1)[0].astype(np.float32)
    compiled = torch.empty(2, 12, 12, 12)
    for source, target in zip(cube, compiled, strict=True):
        sample_spline(source.numpy(), matrix, target.numpy())
    torch.testing.assert_close(
        _sample_in_pairs(cube, torch.from_numpy(matrix), 12), compiled, atol=1e-4, rtol=0
    )


def test_cubes_too_small_to_be_turned_are_refused():
    rotation = Rotation.from_rotvec([0.5, 0.5, 0.5]).as_matrix()
    with pytest.raises(ValueError, match=rf"a cube of 40 voxels is too small .* needs {rotated_side(40)}"):
        rotate_crop(torch.zeros(1, 40, 40, 40), rotation, side=40)


def test_turning_there_and_back_gives_a_smooth_cube_again():
    cube = smooth_cube(1, 60)
    rotation = Rotation.random(random_state=3).as_matrix()
    back = rotate_crop(rotate_crop(cube, rotation, side=34), rotation.T, side=16)
    assert (back - cube[:, 22:38, 22:38, 22:38]).std() < 0.02 * cube.std()


def test_rotated_white_noise_stays_white_up_to_0_35_cycles_per_voxel():
    side, rng = 32, np.random.default_rng(0)
    window = torch.hann_window(side, periodic=False)
    taper = window[:, None, None] * window[:, None] * window
    generator, power, n = torch.Generator().manual_seed(0), torch.zeros(side, side, side), 24
    for rotation in random_rotations(rng, n):
        noise = torch.randn(4, *[rotated_side(side)] * 3, generator=generator)
        turned = rotate_crop(noise, rotation, side=side) * taper
        power += (torch.fft.fftn(turned, dim=(1, 2, 3)).abs() ** 2).sum(0)
    power /= 4 * n * taper.square().sum()
    radius = radial_frequency((side,) * 3)
    shells = [power[(radius > f - 0.025) & (radius <= f + 0.025)].mean().item() for f in SHELLS]
    np.testing.assert_allclose(
        shells, 1, atol=0.04
    )  # of which sampling is about 0.01; trilinear: 0.42 at 0.35


SHELLS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.325)


def test_no_corner_of_a_rotated_crop_is_empty():
    source = prepare_pair(torch.ones(60, 60, 60) + 0.01 * torch.randn(60, 60, 60), torch.ones(60, 60, 60))
    for seed in range(10):
        crop = cut(source, seed, side=24, rotation_share=1.0)
        assert crop.turned
        torch.testing.assert_close(crop.density, torch.ones(24, 24, 24), atol=1e-3, rtol=0)


def test_every_crop_has_its_own_rotation():
    source = pair((60, 60, 60))
    a, b = (cut(source, seed, rotation_share=1.0) for seed in (0, 1))
    assert not np.allclose(a.pose, b.pose)
    assert not torch.equal(a.tomogram, b.tomogram)


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


@pytest.mark.parametrize("rotation_share", [0.0, 1.0])
def test_a_crop_knows_where_its_own_wedge_lies_mirrored_or_turned(rotation_share):
    """With an asymmetric range a mirror turns the wedge too."""
    n, low, high = 72, -35.0, 65.0
    noise = torch.randn(n, n, n, generator=torch.Generator().manual_seed(0))
    mask = missing_wedge_mask((n, n, n), tilt_min=low, tilt_max=high)
    tomogram = torch.fft.ifftn(torch.fft.fftn(noise) * mask).real
    source = prepare_pair(-tomogram, tomogram, tilt_range=(low, high))
    side, k = 32, radial_frequency((32,) * 3)
    window = torch.hann_window(side, periodic=False)
    taper = window[:, None, None] * window[:, None] * window
    band = (k > 0.12) & (k < 0.3)
    for seed in range(6):
        crop = cut(source, seed, side=side, rotation_share=rotation_share)
        where = rotated_wedge_mask((side,) * 3, crop.pose, tilt_min=low, tilt_max=high)
        power = torch.fft.fftn(crop.tomogram * taper).abs() ** 2
        assert power[band & ~where].mean() < 0.15 * power[band & where].mean()


def test_spectral_gain_keeps_the_variance_of_the_whole_tomogram():
    source = pair((48, 48, 48))
    stds = [cut(source, s, side=48, spectrum_jitter=0.5).tomogram.std().item() for s in range(8)]
    np.testing.assert_allclose(stds, 1, atol=0.03)  # the gain table has 48 bins
    gain = random_radial_gain(np.random.default_rng(0), 0.3)
    assert gain.shape == (48,)
    assert (gain > 0).all()


def test_crops_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"a crop of 64 voxels does not fit"):
        cut(pair(), side=64)
    with pytest.raises(ValueError, match=rf"a crop of {rotated_side(32)} voxels \(side 32, rotated\)"):
        cut(pair(), side=32, rotation_share=1.0)
