"""A second simulator that shares nothing with the package: other physics, other code.

A model that is trained and tested on one simulator may have learned that simulator. Here on purpose

- the specimen goes on beyond the field of view; maps keep their soft borders, membranes have two unequal
  leaflets;
- electrons pass through it slab by slab (multislice at 200 kV), so that contrast is not linear;
- counts are overdispersed, with row noise and a correlated readout on top of them;
- volumes are turned by ``scipy.ndimage`` and reconstructed by scikit-image, from images multiplied by the
  CTF, and high-passed.

Only numpy, scipy and scikit-image. Axes, units and signs are those of CONVENTIONS.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
from scipy.fft import fft2, fftfreq, fftn, ifft2, ifftn
from scipy.ndimage import affine_transform, gaussian_filter, shift
from scipy.spatial.transform import Rotation
from skimage.transform import iradon, iradon_sart

VOXEL = 10.0  # Å
SHAPE = (64, 128, 128)  # of the tomogram
IMAGE = (128, 160)  # of the tilts, wider than the tomogram so that its corners are seen
FIELD = (64, 128, 432)  # of the specimen: what a tilt of 60 degrees sees of it
KINDS = ("complexes", "vesicles", "tubes")
SLAB = 8  # voxels of one slice of the multislice
PAD = 32  # pixels around an image while the wave propagates


@dataclass(frozen=True)
class Recording:
    """What was drawn for one tilt series."""

    defocus_um: float
    fluence: float
    tilt_angles: tuple[float, ...]
    kilovolts: float = 200.0
    cs_mm: float = 2.0
    absorption: float = 0.08
    dqe: float = 0.45
    dispersion: float = 150.0  # counts at which gamma and Poisson variance are alike
    readout: float = 0.35  # of the correlated readout and of the rows, in deviations of the counts
    b_per_electron: float = 6.0  # Å² of B-factor per e⁻/Å²
    mean_free_path: float = 2400.0  # Å
    reported_defocus_um: float = field(default=0.0)

    def record(self) -> dict:
        """All of it, for JSON."""
        return asdict(self)


def draw_recording(rng: np.random.Generator) -> Recording:
    """Tilts to ±48..60 degrees, 60 to 130 e⁻/Å², as in the held-out test; the defocus is known to 0.1 µm."""
    low, high, step = -rng.uniform(48, 60), rng.uniform(48, 60), rng.uniform(2, 3)
    defocus = rng.uniform(2, 5)
    return Recording(
        defocus_um=defocus,
        fluence=rng.uniform(60, 130),
        tilt_angles=tuple(float(a) for a in np.arange(low, high + 1e-6, step)),
        reported_defocus_um=defocus + 0.1 * rng.standard_normal(),
    )


# ---- specimen ---------------------------------------------------------------------------------------


def read_maps(folder: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Maps cut to their content, as they are but for one factor: a mean of 1 where they exceed a fifth."""
    maps = {}
    for name in names:
        path = Path(folder) / f"{name}.mrc"
        if path.exists():
            data = mrcfile.read(path).astype(np.float32)
            content = np.argwhere(data > 0.02 * data.max())
            low, high = content.min(0), content.max(0) + 1
            half = np.maximum(
                np.abs(low - np.array(data.shape) // 2), np.abs(high - np.array(data.shape) // 2)
            )
            middle = [
                slice(max(n // 2 - h, 0), n // 2 + h + 1) for n, h in zip(data.shape, half, strict=True)
            ]
            data = np.clip(data[tuple(middle)], 0, None)
            maps[name] = data / data[data > 0.2 * data.max()].mean()
    return maps


def build_specimen(
    kind: str, maps: dict[str, np.ndarray], membrane_maps: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Potential in V of one kind of specimen, shape FIELD."""
    density = np.zeros(FIELD, np.float32)
    taken = np.zeros(FIELD, bool)
    slab = (rng.integers(6, 11), FIELD[0] - rng.integers(6, 11))
    if kind == "vesicles":
        add_vesicles(density, taken, membrane_maps, rng, count=int(rng.integers(12, 20)))
    if kind == "tubes":
        add_tubes(density, taken, rng, count=int(rng.integers(16, 28)))
    count = {"complexes": rng.integers(150, 500), "vesicles": 60, "tubes": 40}[kind]
    add_complexes(density, taken, maps, rng, count=int(count), slab=slab)
    density[: slab[0]] = 0
    density[slab[1] :] = 0
    return density


def add_complexes(density, taken, maps, rng, *, count, slab) -> None:
    """Place maps at random poses where nothing is yet; a place is tried ten times."""
    names = rng.choice(sorted(maps), size=min(5, len(maps)), replace=False) if maps else []
    heights = {name: rng.uniform(1.8, 3.5) for name in names}  # V
    for _ in range(count if len(names) else 0):
        name = str(rng.choice(names))
        body = heights[name] * turn(maps[name], Rotation.random(random_state=rng).as_matrix())
        for _ in range(10):
            centre = [rng.integers(*slab), rng.integers(0, FIELD[1]), rng.integers(0, FIELD[2])]
            if add_body(density, taken, body, centre):
                break


def turn(volume: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A map turned about its middle inside a cube that holds every pose of it."""
    side = int(np.ceil(np.linalg.norm(volume.shape))) | 1
    centre = np.array(volume.shape) // 2
    offset = centre - matrix.T @ np.full(3, side // 2)
    return affine_transform(volume, matrix.T, offset=offset, output_shape=(side,) * 3, order=1)


def add_body(density, taken, body, centre) -> bool:
    """Add a body at a voxel unless it would overlap; what lies outside the field is cut."""
    half = body.shape[0] // 2
    low = [max(0, half - c) for c in centre]
    high = [min(body.shape[0], half + n - c) for c, n in zip(centre, FIELD, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return False
    part = body[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    place = tuple(slice(c - half + a, c - half + b) for c, a, b in zip(centre, low, high, strict=True))
    solid = part > 0.1 * body.max()
    if (taken[place] & solid).any():
        return False
    density[place] += part
    taken[place] |= solid
    return True


def add_vesicles(density, taken, membrane_maps, rng, *, count) -> None:
    """Closed bilayers of a bumpy radius; two Gaussian leaflets that differ; proteins along the normal."""
    for _ in range(count):
        centre = np.array([rng.uniform(24, 40), rng.uniform(0, FIELD[1]), rng.uniform(0, FIELD[2])])
        radius = rng.uniform(12, 24)  # voxels
        axes = Rotation.random(4, random_state=rng).as_matrix()[:, 0]
        bumps = rng.uniform(-0.15, 0.15, 4)

        def length(direction, radius=radius, axes=axes, bumps=bumps):
            return radius * (1 + ((direction @ axes.T) ** 2 - 1 / 3) @ bumps)

        box = [slice(max(0, int(c - 36)), min(n, int(c + 37))) for c, n in zip(centre, FIELD, strict=True)]
        grid = np.stack(np.meshgrid(*[np.arange(b.start, b.stop) for b in box], indexing="ij"), -1) - centre
        r = np.linalg.norm(grid, axis=-1)
        distance = (r - length(grid / np.maximum(r, 1e-6)[..., None])) * VOXEL
        place = tuple(box)
        if taken[place][np.abs(distance) < 60].any():
            continue
        density[place] += bilayer(distance, rng)
        taken[place] |= np.abs(distance) < 40
        _add_proteins(density, membrane_maps, rng, centre, length, count=int(rng.integers(0, 12)))


def bilayer(distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two Gaussians 42 to 54 Å apart, 6 to 11 Å wide, one of them stronger."""
    apart, heights, widths = rng.uniform(42, 54), rng.uniform(1.2, 2.8, 2), rng.uniform(6, 11, 2)
    inner = heights[0] * np.exp(-0.5 * ((distance + apart / 2) / widths[0]) ** 2)
    outer = heights[1] * np.exp(-0.5 * ((distance - apart / 2) / widths[1]) ** 2)
    return (inner + outer).astype(np.float32)


def _add_proteins(density, membrane_maps, rng, centre, length, *, count) -> None:
    """Membrane proteins with their z along the radius; their own overlaps only are avoided."""
    own = np.zeros(FIELD, bool)
    for _ in range(count if membrane_maps else 0):
        body = membrane_maps[str(rng.choice(sorted(membrane_maps)))]
        normal = rng.standard_normal(3)
        normal /= np.linalg.norm(normal)
        pose = Rotation.align_vectors([normal], [[1, 0, 0]])[0] * Rotation.from_rotvec(
            [rng.uniform(0, 2 * np.pi), 0, 0]
        )
        where = np.round(centre + normal * length(normal)).astype(int)
        if all(0 <= w < n for w, n in zip(where, FIELD, strict=True)):
            add_body(density, own, rng.uniform(1.8, 3.0) * turn(body, pose.as_matrix()), where)


def add_tubes(density, taken, rng, *, count) -> None:
    """Wavy hollow tubes with a smooth wall, and thinner solid rods."""
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in FIELD], indexing="ij", sparse=True)
    for i in range(count):
        azimuth = rng.uniform(0, np.pi)
        along = x * np.cos(azimuth) + y * np.sin(azimuth)
        wave = rng.uniform(0, 4) * np.sin(along / rng.uniform(20, 60) + rng.uniform(0, 6))
        middle = -np.sin(azimuth) * rng.uniform(0, FIELD[2]) + np.cos(azimuth) * rng.uniform(0, FIELD[1])
        across = y * np.cos(azimuth) - x * np.sin(azimuth) - middle - wave
        r = np.hypot(across, z - rng.uniform(18, 46) - rng.uniform(-0.08, 0.08) * (along - 100)) * VOXEL
        if i % 3 < 2:
            radius, width = rng.uniform(80, 150), rng.uniform(10, 18)
            profile = np.exp(-0.5 * ((r - radius) / width) ** 2)
        else:
            profile = np.exp(-((r / rng.uniform(28, 45)) ** 4))
        solid = profile > 0.1
        if not (taken & solid).any():
            density += rng.uniform(1.5, 3.0) * profile.astype(np.float32)
            taken |= solid


# ---- microscope -------------------------------------------------------------------------------------


def wavelength(kilovolts: float) -> float:
    """De Broglie wavelength in Å, relativistic."""
    volts = 1e3 * kilovolts
    return 12.2643 / np.sqrt(volts + 0.97845e-6 * volts**2)


def interaction(kilovolts: float) -> float:
    """Phase per projected potential, rad/(V Å)."""
    volts, rest = 1e3 * kilovolts, 510998.95
    return 2 * np.pi / (wavelength(kilovolts) * volts) * (rest + volts) / (2 * rest + volts)


def aberration(k_squared: np.ndarray, defocus_um: float, recording: Recording) -> np.ndarray:
    """Phase of the lens at squared frequencies in 1/Å², positive at underfocus."""
    lam = wavelength(recording.kilovolts)
    focus = np.pi * lam * 1e4 * defocus_um * k_squared
    return focus - 0.5 * np.pi * 1e7 * recording.cs_mm * lam**3 * k_squared**2


def squared_frequency(shape: tuple[int, ...]) -> np.ndarray:
    """Squared frequencies in 1/Å², layout of ``fftn``."""
    return sum(
        (fftfreq(n, VOXEL) ** 2).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        for axis, n in enumerate(shape)
    )


def tilt_volume(volume: np.ndarray, angle: float, width: int) -> np.ndarray:
    """Turn a specimen by the stage: (z', Y, x') of all depths that a field of so many pixels meets."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    depth = int(np.ceil((volume.shape[0] / c + width * abs(s / c)) * 0.5)) * 2 + 2
    matrix = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # (z', y, x') to (z, y, x)
    centre_in = np.array([volume.shape[0] // 2, 0, volume.shape[2] // 2])
    offset = centre_in - matrix @ np.array([depth // 2, 0, width // 2])
    return affine_transform(
        volume, matrix, offset=offset, output_shape=(depth, volume.shape[1], width), order=1
    )


def exit_image(volume: np.ndarray, angle: float, recording: Recording) -> np.ndarray:
    """Intensity behind the lens for unit illumination: multislice, then ``|ψ|²``; nothing is linearised."""
    tilted = tilt_volume(volume, angle, IMAGE[1])
    depth = tilted.shape[0]
    shape = tuple(n + 2 * PAD for n in tilted.shape[1:])
    k_squared = squared_frequency(shape)
    sigma, lam = interaction(recording.kilovolts), wavelength(recording.kilovolts)
    kappa = np.tan(np.arcsin(recording.absorption))
    step = np.exp(-1j * np.pi * lam * SLAB * VOXEL * k_squared)
    spectrum = np.zeros(shape, complex)
    spectrum[0, 0] = shape[0] * shape[1]
    for start in reversed(range(0, depth, SLAB)):  # from the most underfocused side, z' = +depth / 2 ...
        slice_ = tilted[start : start + SLAB].sum(0) * VOXEL
        if slice_.any():
            phase = sigma * np.pad(slice_, PAD, mode="reflect")
            spectrum = fft2(ifft2(spectrum) * np.exp((1j - kappa) * phase))
        spectrum *= step
    # ... so the wave stands one slice behind the middle of the last one; the lens focuses on the tilt axis
    behind = (depth // 2 + SLAB - (SLAB - 1) / 2) * VOXEL * 1e-4
    gamma = aberration(k_squared, recording.defocus_um + behind, recording)
    wave = ifft2(spectrum * np.exp(1j * gamma))
    return (np.abs(wave) ** 2)[PAD:-PAD, PAD:-PAD].astype(np.float32)


def count_electrons(expected: np.ndarray, recording: Recording, rng: np.random.Generator) -> np.ndarray:
    """Counts of a gamma-Poisson law (variance m + m²/k), with rows and a correlated readout on top."""
    k = recording.dispersion
    counts = rng.poisson(rng.gamma(k, np.maximum(expected, 1e-3) / k)).astype(np.float32)
    deviation = np.sqrt(expected.mean())
    grain = gaussian_filter(rng.standard_normal(expected.shape), 0.8)
    rows = rng.standard_normal((expected.shape[0], 1))
    return counts + recording.readout * deviation * (grain / grain.std() + 0.3 * rows)


def record_series(
    density: np.ndarray, recording: Recording, rng: np.random.Generator, *, ice: float = 0.3
) -> np.ndarray:
    """Images (tilt, Y, X) in counts, protein dark; tilts from the lowest up, recorded in that order.

    ``ice`` is the deviation in V of a grain that the target does not hold.
    """
    unresolved = gaussian_filter(rng.standard_normal(FIELD, dtype=np.float32), 0.7)
    unresolved *= ice / unresolved.std()
    unresolved[:4] = unresolved[-4:] = 0
    volume = density + unresolved
    k_squared = squared_frequency(IMAGE)
    per_tilt = recording.fluence / len(recording.tilt_angles)
    images = []
    for i, angle in enumerate(recording.tilt_angles):
        off = 0.3 * rng.standard_normal()  # the stage says one angle and stands at another
        intensity = exit_image(volume, angle + off, recording)
        fading = np.exp(-recording.b_per_electron * per_tilt * (i + 0.5) * k_squared / 4)
        sharp = np.exp(-np.sqrt(k_squared) * VOXEL)  # of the detector: 0.61 at Nyquist
        intensity = ifft2(fft2(intensity) * fading * sharp).real
        path = 500 / np.cos(np.radians(angle))
        expected = per_tilt * VOXEL**2 * recording.dqe * np.exp(-path / recording.mean_free_path) * intensity
        counts = count_electrons(expected, recording, rng)
        images.append(shift(counts, 0.3 * rng.standard_normal(2), order=3, mode="nearest"))
    return np.stack(images).astype(np.float32)


# ---- processing -------------------------------------------------------------------------------------


def multiply_ctf(images: np.ndarray, recording: Recording) -> np.ndarray:
    """Multiply by the CTF of the defocus that the user knows, with the sign that keeps protein dark."""
    gamma = aberration(squared_frequency(images.shape[1:]), recording.reported_defocus_um, recording)
    return ifft2(fft2(images) * np.sin(gamma + np.arcsin(recording.absorption))).real


def reconstruct(images: np.ndarray, tilt_angles: tuple[float, ...], method: str) -> np.ndarray:
    """Reconstruct slice by slice with scikit-image: ``fbp`` (Hann) or ``sart`` (two sweeps); shape SHAPE."""
    normal = (images - images.mean((1, 2), keepdims=True)) / images.std((1, 2), keepdims=True)
    theta = -np.asarray(tilt_angles, np.float64)  # scikit-image turns the other way round
    width = images.shape[2]
    rows = [slice(width // 2 - n // 2, width // 2 - n // 2 + n) for n in (SHAPE[0], SHAPE[2])]
    volume = np.empty((SHAPE[0], images.shape[1], SHAPE[2]), np.float32)
    for y in range(images.shape[1]):
        sinogram = np.ascontiguousarray(normal[:, y].T, np.float64)
        if method == "fbp":
            section = iradon(sinogram, theta, output_size=width, filter_name="hann", circle=False)
        else:
            section = iradon_sart(sinogram, theta, relaxation=0.1)
            section = iradon_sart(sinogram, theta, image=section, relaxation=0.1)
        volume[:, y] = section[rows[0], rows[1]]
    return volume


def highpass(volume: np.ndarray, period: float) -> np.ndarray:
    """Filter by ``1 - exp(-(k P)² / 2)``; 0.4 of the amplitude is left at the period P in Å."""
    gain = 1 - np.exp(-0.5 * squared_frequency(volume.shape) * period**2)
    return ifftn(fftn(volume) * gain).real.astype(np.float32)


def crop_density(density: np.ndarray) -> np.ndarray:
    """The part of the specimen that the tomogram shows."""
    x = FIELD[2] // 2 - SHAPE[2] // 2
    return density[:, :, x : x + SHAPE[2]]
