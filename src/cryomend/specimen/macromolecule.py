"""Macromolecules as weighted points, and the electrostatic potential that they make on a grid.

A point carries potential times volume (V Å³) relative to the ice that it displaces; its kind says
how that is spread around it. The points come from `cryomend.specimen.atoms`, `density_map` or
`procedural`; `potential_grid` turns them into a template at any voxel size and resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "ICE_POTENTIAL",
    "PROTEIN_CONTRAST",
    "PROTEIN_VOLUME_PER_DALTON",
    "VOLT_PER_FORM_FACTOR",
    "FormFactor",
    "Macromolecule",
    "potential_grid",
    "sigma_of_resolution",
    "template_grid",
]

ICE_POTENTIAL = 4.57  # V, vitreous ice at 0.94 g/cm³ from the same form factors (CONVENTIONS.md)
PROTEIN_CONTRAST = 3.3  # V above ice, the mean over the atomic models of proteins tried (docs/stages.md)
VOLT_PER_FORM_FACTOR = 47.878  # h²/(2π m e) in V Å²: potential integral per Å of scattering factor at s = 0
PROTEIN_VOLUME_PER_DALTON = 1.21  # Å³/Da, partial specific volume 0.73 cm³/g

_POINTS_AT_ONCE = 16_384  # of 64 grid points each: bounds the memory of splatting


@dataclass(frozen=True)
class FormFactor:
    """Fourier transform of one kind of point, 1 at ``k = 0``.

    ``sum_i amplitudes[i] exp(-2 π² variances[i] k²)``, with ``k`` in 1/Å: Gaussians in space whose
    variances along each axis are given in Å². Amplitudes may be negative.

    Raises
    ------
    ValueError
        If the amplitudes do not sum to 1, or variances are negative or not as many.
    """

    amplitudes: tuple[float, ...]
    variances: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.amplitudes) != len(self.variances) or min(self.variances, default=-1) < 0:
            raise ValueError("a form factor needs one variance of at least 0 for each amplitude")
        if abs(sum(self.amplitudes) - 1) > 1e-6 * max(1.0, *map(abs, self.amplitudes)):
            raise ValueError(f"amplitudes of a form factor must sum to 1, got {sum(self.amplitudes):g}")

    def __call__(self, k_squared: Tensor) -> Tensor:
        """Value at squared spatial frequencies in 1/Å²."""
        value = torch.zeros_like(k_squared)
        for amplitude, variance in zip(self.amplitudes, self.variances, strict=True):
            value += amplitude * torch.exp(-2 * math.pi**2 * variance * k_squared)
        return value


@dataclass(frozen=True)
class Macromolecule:
    """A named set of points that carry potential.

    Attributes
    ----------
    name : str
        Name of the species.
    positions_zyx : array, shape (n, 3)
        float32, Å from the origin, about which poses turn.
    weights : array, shape (n,)
        float32, V Å³: integral over space of the potential of a point relative to ice.
    kinds : array of uint8, shape (n,), optional
        Number of each point's form factor.
    form_factors : tuple of FormFactor
        How the points of each kind are spread; none for points without extent.

    Raises
    ------
    ValueError
        If there are no points, or the arrays do not belong together.
    """

    name: str
    positions_zyx: NDArray[np.float32]
    weights: NDArray[np.float32]
    kinds: NDArray[np.uint8] | None = None
    form_factors: tuple[FormFactor, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.weights)
        if n == 0 or self.positions_zyx.shape != (n, 3):
            raise ValueError(
                f"{self.name}: need positions (n, 3) and weights (n,) of at least one point, "
                f"got {self.positions_zyx.shape} and {self.weights.shape}"
            )
        if self.kinds is not None and (len(self.kinds) != n or self.kinds.max() >= len(self.form_factors)):
            raise ValueError(f"{self.name}: every point needs a kind that has a form factor")

    @property
    def radius(self) -> float:
        """Distance of the farthest point from the origin, in Å."""
        return float(np.sqrt(np.square(self.positions_zyx).sum(1).max()))

    @property
    def volume(self) -> float:
        """Volume in Å³ that protein of the same total potential fills."""
        return float(self.weights.sum(dtype=np.float64)) / PROTEIN_CONTRAST


def sigma_of_resolution(resolution: float) -> float:
    """Standard deviation in Å of the Gaussian that blurs to a resolution in Å.

    ``0.225 d``: the Gaussian falls to 1/e of its Fourier amplitude at ``k = 1/d`` (as molmap does in
    ChimeraX).
    """
    return resolution / (math.pi * math.sqrt(2))


def potential_grid(
    molecule: Macromolecule,
    *,
    spacing: float,
    sigma: float = 0.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Electrostatic potential of a macromolecule on a cubic grid around its origin.

    What lies below the Nyquist frequency of the grid is exact to about 1 %, what lies above is cut
    off. The cut-off makes ripples around sharp things: for a lone point they reach 4 % of its peak at
    a blur of ``0.6 spacing`` and 1 % at ``0.8 spacing``, so blur at least as much before interpolating.

    Parameters
    ----------
    molecule : Macromolecule
        Points and how they are spread.
    spacing : float
        Grid spacing in Å.
    sigma : float
        Standard deviation of a Gaussian blur in Å, see `sigma_of_resolution`.
    device : torch.device or str, optional
        Where the grid is made.

    Returns
    -------
    Tensor of float32, shape (n, n, n)
        Potential in V relative to ice; ``n`` is odd and the origin is voxel ``n // 2``. Its sum times
        ``spacing³`` is the sum of the weights.

    Raises
    ------
    ValueError
        If the spacing is not positive or the blur negative.

    Notes
    -----
    ``φ(k) = exp(-2 π² σ² k²) Σ_j w_j f_j(k) exp(-2πi k·r_j)``. The sum is evaluated by splatting the
    points with cubic B-splines and dividing by their transform ``sinc⁴``; the grid of the splat is
    twice as fine unless the blur hides its aliases (as a non-uniform FFT, doi:10.1137/0914081).
    """
    if not (spacing > 0 and sigma >= 0):
        raise ValueError(f"need spacing > 0 and sigma >= 0, got {spacing:g}, {sigma:g}")
    extent = math.sqrt(sigma**2 + max((v for f in molecule.form_factors for v in f.variances), default=0.0))
    n = 2 * math.ceil((molecule.radius + 3 * extent) / spacing + 2) + 1
    least = math.sqrt(sigma**2 + min((min(f.variances) for f in molecule.form_factors), default=0.0))
    fine = 1 if least >= 1.2 * spacing else 2
    k = torch.fft.fftfreq(n, device=device)  # cycles per voxel
    half = k[: n // 2 + 1]
    k_squared = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + half**2) / spacing**2
    spectrum: Tensor | None = None
    for points, weights, form_factor in _kinds(molecule):
        splat = _splat_periodic(
            torch.as_tensor(points * (fine / spacing), device=device),
            torch.as_tensor(weights, device=device),
            n * fine,
        )
        part = _low_frequencies(torch.fft.rfftn(splat), n)
        if form_factor is not None:
            part = part * form_factor(k_squared)
        spectrum = part if spectrum is None else spectrum.add_(part)
    assert spectrum is not None  # a macromolecule has points
    spline = torch.sinc(k / fine) ** -4
    spectrum *= spline[:, None, None] * spline[None, :, None] * spline[: n // 2 + 1]
    spectrum *= torch.exp(-2 * (math.pi * sigma) ** 2 * k_squared) / spacing**3
    return torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(n, n, n)))


def _kinds(
    molecule: Macromolecule,
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], FormFactor | None]]:
    """Positions, weights and form factor of each kind of point."""
    if molecule.kinds is None:
        form_factor = molecule.form_factors[0] if molecule.form_factors else None
        return [(molecule.positions_zyx, molecule.weights, form_factor)]
    present = np.unique(molecule.kinds)
    chosen = [(int(kind), molecule.kinds == kind) for kind in present]
    return [
        (molecule.positions_zyx[of_kind], molecule.weights[of_kind], molecule.form_factors[kind])
        for kind, of_kind in chosen
    ]


def _low_frequencies(spectrum: Tensor, n: int) -> Tensor:
    """Cut the ``rfftn`` of a finer grid down to that of an odd grid of ``n``."""
    half = n // 2
    for dim in (0, 1):
        low = spectrum.narrow(dim, 0, half + 1)
        spectrum = torch.cat([low, spectrum.narrow(dim, spectrum.shape[dim] - half, half)], dim)
    return spectrum[..., : half + 1].contiguous()


def _splat_periodic(positions_px: Tensor, weights: Tensor, n: int) -> Tensor:
    """Cubic B-spline splat into a periodic (n, n, n) grid whose voxel 0 is the origin."""
    volume = torch.zeros(n**3, dtype=torch.float32, device=positions_px.device)
    offsets = torch.arange(-1, 3, device=positions_px.device)
    for start in range(0, len(weights), _POINTS_AT_ONCE):
        points = positions_px[start : start + _POINTS_AT_ONCE]
        weight = weights[start : start + _POINTS_AT_ONCE]
        corner = points.floor()
        share = _cubic_spline(points - corner)  # (m, 3, 4)
        index = (corner.long()[..., None] + offsets) % n
        plane = index[:, 0, :, None] * n + index[:, 1, None, :]
        flat = plane[..., None] * n + index[:, 2, None, None, :]
        value = (share[:, 0] * weight[:, None])[:, :, None] * share[:, 1, None, :]
        volume.index_add_(0, flat.flatten(), (value[..., None] * share[:, 2, None, None, :]).flatten())
    return volume.reshape(n, n, n)


def _cubic_spline(fraction: Tensor) -> Tensor:
    """Weights of the four neighbours -1, 0, 1, 2 of a point ``fraction`` after neighbour 0, last axis."""
    t, u = fraction, 1 - fraction
    return torch.stack([u**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * u**2 + 3 * u**3, t**3], dim=-1) / 6


def template_grid(molecule: Macromolecule, *, voxel_size: float) -> tuple[Tensor, float]:
    """Potential of a macromolecule as a template to look for in a tomogram of ``voxel_size`` Å.

    Its grid is twice as fine, and blurred by one of its points, so that it can be interpolated in every pose.

    Returns
    -------
    density : Tensor of float32, shape (n, n, n)
        As from `potential_grid`.
    spacing : float
        Of its grid, Å.
    """
    spacing = voxel_size / 2
    return potential_grid(molecule, spacing=spacing, sigma=spacing), spacing
