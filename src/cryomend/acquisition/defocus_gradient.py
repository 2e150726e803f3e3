"""Images of a specimen whose depths lie at different defocus."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix
from torch import Tensor

from cryomend.ctf import Optics, coma_phase, contrast_transfer, electron_wavelength
from cryomend.fourier import shift_phase

__all__ = [
    "depth_nodes",
    "parallax",
    "project_slabs",
    "smear_slabs",
    "transfer_specimen",
    "voxel_depths",
]


def depth_nodes(
    shape: tuple[int, int, int],
    tilt_angle: float,
    *,
    pixel_size: float,
    voltage_kv: float | None = None,
    beam_tilt_mrad_xy: tuple[float, float] = (0.0, 0.0),
    error: float = 0.01,
) -> NDArray[np.float64]:
    """Depths between which the transfer is interpolated, so dense that it errs by less than ``error``.

    Between nodes ``d`` apart the linear interpolation of ``exp(i φ(z'))`` is off by at most ``(φ' d)² / 8``,
    where ``φ' = π λ k² + 2π k tan β`` is what defocus and beam tilt β add per depth; k is taken at Nyquist.

    Parameters
    ----------
    shape : tuple of int
        Volume (Z, Y, X).
    tilt_angle : float
        Degrees.
    pixel_size : float
        Å.
    voltage_kv : float, optional
        Sets the wavelength; no defocus if None.
    beam_tilt_mrad_xy : pair of float
        Beam tilt along X and Y.
    error : float
        Error of the amplitude at Nyquist.

    Returns
    -------
    array, shape (nodes,)
        Å from the rotation centre along the beam, evenly spaced, two at least; all voxels lie between.
    """
    theta, nyquist = math.radians(tilt_angle), 1 / (2 * pixel_size)
    half = abs(math.cos(theta)) * (shape[0] // 2) + abs(math.sin(theta)) * (shape[2] // 2)
    half = max(half, 0.5) * pixel_size
    wavelength = 0.0 if voltage_kv is None else electron_wavelength(voltage_kv)
    parallax_rate = math.hypot(*parallax(1.0, beam_tilt_mrad_xy))
    rate = math.pi * wavelength * nyquist**2 + 2 * math.pi * nyquist * parallax_rate
    return np.linspace(-half, half, max(2, math.ceil(2 * half * rate / math.sqrt(8 * error)) + 1))


def voxel_depths(depth: int, width: int, tilt_angle: float, voxel_size: float) -> NDArray[np.float64]:
    """Depth ``z' = -x sin t + z cos t`` of the voxels of a (z, x) plane, Å from the rotation centre."""
    z, x = np.arange(depth)[:, None] - depth // 2, np.arange(width)[None] - width // 2
    theta = math.radians(tilt_angle)
    return (z * math.cos(theta) - x * math.sin(theta)) * voxel_size


def _slab_matrix(depth: int, width: int, tilt_angle: float, nodes_px: NDArray[np.float64]) -> csc_matrix:
    """Joseph's rays through a (z, x) plane, split between the two nodes beside each voxel's depth.

    Row ``j * width + x'`` is the ray through pixel ``x'``, weighted by the hat function of node ``j``.
    A voxel at the place ``q`` of the image has the weights ``max(0, 1 - |x' - q| / m) / m``,
    ``m = max(|cos t|, |sin t|)``, in the two pixels beside it; see `cryomend.projection`.
    """
    c, s = math.cos(math.radians(tilt_angle)), math.sin(math.radians(tilt_angle))
    m = max(abs(c), abs(s))
    z, x = np.arange(depth)[:, None] - depth // 2, np.arange(width)[None] - width // 2
    q = (x * c + z * s).ravel() + width // 2
    depths = voxel_depths(depth, width, tilt_angle, 1.0).ravel()
    place = (depths - nodes_px[0]) / (nodes_px[1] - nodes_px[0])
    node = np.clip(np.floor(place).astype(np.int32), 0, len(nodes_px) - 2)
    share = np.clip(place - node, 0, 1)
    pixel = np.floor(q).astype(np.int32)
    rows, weights = [], []
    for beside in (pixel, pixel + 1):
        weight = np.clip(1 - abs(beside - q) / m, 0, None) / m * ((beside >= 0) & (beside < width))
        row = node * width + np.clip(beside, 0, width - 1)
        rows += [row, row + width]
        weights += [weight * (1 - share), weight * share]
    entries = np.stack(weights, 1).astype(np.float32).ravel(), np.stack(rows, 1).ravel()
    ends = np.arange(0, 4 * depth * width + 1, 4, dtype=np.int32)
    return csc_matrix((*entries, ends), shape=(len(nodes_px) * width, depth * width))


def _multiply(matrix: csc_matrix | csr_matrix, columns: Tensor) -> Tensor:
    """Product with a dense tensor; SciPy's on a CPU, where it is several times as fast."""
    if columns.device.type == "cpu":
        return torch.from_numpy(matrix @ columns.numpy())
    return _multiply_on_device(matrix, columns)


def _multiply_on_device(matrix: csc_matrix | csr_matrix, columns: Tensor) -> Tensor:
    """`_multiply` with PyTorch on any device."""
    entries = matrix.tocoo()
    places = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64)).to(columns.device)
    values = torch.from_numpy(entries.data).to(columns.device)
    sparse = torch.sparse_coo_tensor(places, values, entries.shape, check_invariants=False)
    product: Tensor = torch.sparse.mm(sparse, columns)
    return product


def project_slabs(density: Tensor, tilt_angle: float, *, nodes_px: NDArray[np.float64]) -> Tensor:
    """Project a tilted specimen, split by depth along the beam.

    Each voxel is shared by its two neighbours among the nodes of depth ``z' = -x sin t + z cos t`` in
    proportion (hat functions, which add up to one), so that the parts add up to the projection.

    Parameters
    ----------
    density : Tensor of float32, shape (Z, Y, X)
        Any unit. Without a copy if Y is what runs fastest in memory.
    tilt_angle : float
        Degrees.
    nodes_px : array, shape (nodes,)
        Evenly spaced depths in voxels from the rotation centre; what lies outside counts for the nearest.

    Returns
    -------
    Tensor of float32, shape (nodes, Y, X)
        Line integrals in voxels.
    """
    parts: Tensor = _Slabs.apply(density, tilt_angle, nodes_px)  # type: ignore[no-untyped-call]
    return parts


class _Slabs(torch.autograd.Function):
    """`project_slabs`, whose derivative is its adjoint."""

    @staticmethod
    def forward(ctx: Any, density: Tensor, tilt_angle: float, nodes_px: NDArray[np.float64]) -> Tensor:
        depth, height, width = density.shape
        ctx.pose = tilt_angle, nodes_px, depth
        columns = density.detach().float().permute(0, 2, 1).reshape(depth * width, height)
        parts = _multiply(_slab_matrix(depth, width, tilt_angle, nodes_px), columns)
        return parts.reshape(len(nodes_px), width, height).permute(0, 2, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        tilt_angle, nodes_px, depth = ctx.pose
        return smear_slabs(gradient, tilt_angle, nodes_px=nodes_px, depth=depth), None, None


def smear_slabs(parts: Tensor, tilt_angle: float, *, nodes_px: NDArray[np.float64], depth: int) -> Tensor:
    """Smear the images of slabs back into a volume: the exact adjoint of `project_slabs`.

    Parameters
    ----------
    parts : Tensor of float32, shape (nodes, Y, X)
        Images.
    tilt_angle, nodes_px
        As in `project_slabs`.
    depth : int
        Z extent of the volume in voxels.

    Returns
    -------
    Tensor of float32, shape (depth, Y, X)
    """
    nodes, height, width = parts.shape
    columns = parts.float().permute(0, 2, 1).reshape(nodes * width, height)
    matrix = _slab_matrix(depth, width, tilt_angle, nodes_px).T
    return _multiply(matrix, columns).reshape(depth, width, height).permute(0, 2, 1)


def transfer_specimen(
    density: Tensor,
    tilt_angle: float,
    *,
    pixel_size: float,
    defocus_um: float,
    optics: Optics,
    astigmatism_um: float = 0.0,
    astigmatism_angle: float = 0.0,
    defocus_hand: int = 1,
    beam_tilt_mrad_xy: tuple[float, float] = (0.0, 0.0),
    nodes: NDArray[np.float64] | None = None,
) -> Tensor:
    """Project a tilted specimen through the lens, every depth with its own defocus.

    The specimen is split among ``nodes`` of depth (`project_slabs`). Each part is multiplied by the CTF
    at ``Δf0 - hand z'``; a beam tilted by ``β`` shows it displaced by ``z' tan β``, with coma.

    Parameters
    ----------
    density : Tensor, shape (Z, Y, X)
        V.
    tilt_angle : float
        Degrees.
    pixel_size : float
        Å, equal to the voxel size.
    defocus_um : float
        At the rotation centre, positive = underfocus.
    optics : Optics
        The lens.
    astigmatism_um, astigmatism_angle : float
        As in `contrast_transfer`.
    defocus_hand : int
        1 as IMOD has it: the right side is more underfocused at positive tilt; or -1.
    beam_tilt_mrad_xy : pair of float
        Beam tilt along X and Y.
    nodes : array, optional, shape (nodes,)
        Evenly spaced depths in Å; `depth_nodes` if None. A single one: no gradient.

    Returns
    -------
    Tensor of complex64, shape of ``rfft2`` of an image
        Transform of projected potential times CTF, V Å.

    Notes
    -----
    Weak phase: multiple scattering is left out.
    """
    volume = (density.shape[0], density.shape[1], density.shape[2])
    if nodes is None:
        nodes = depth_nodes(
            volume, tilt_angle, pixel_size=pixel_size, voltage_kv=optics.voltage_kv,
            beam_tilt_mrad_xy=beam_tilt_mrad_xy,
        )  # fmt: skip
    shape, device = volume[1:], density.device
    around = nodes if len(nodes) > 1 else nodes[0] + np.array([0.0, 1e9])  # a second that gets nothing
    parts = project_slabs(density, tilt_angle, nodes_px=around / pixel_size)
    total = torch.zeros(shape[0], shape[1] // 2 + 1, dtype=torch.complex64, device=device)
    for node, part in zip(nodes.tolist(), parts, strict=False):
        spectrum = torch.fft.rfft2(part) * contrast_transfer(
            shape,
            pixel_size=pixel_size,
            defocus_um=defocus_um - 1e-4 * defocus_hand * node,
            optics=optics,
            astigmatism_um=astigmatism_um,
            astigmatism_angle=astigmatism_angle,
            device=device,
        )
        if any(beam_tilt_mrad_xy):
            spectrum = spectrum * shift_phase(shape, parallax(node / pixel_size, beam_tilt_mrad_xy), device)
        total += spectrum
    if any(beam_tilt_mrad_xy):
        total = total * coma_phase(
            shape, pixel_size=pixel_size, optics=optics, beam_tilt_mrad_xy=beam_tilt_mrad_xy, device=device
        )
    return total * pixel_size


def parallax(depth: float, beam_tilt_mrad_xy: tuple[float, float]) -> tuple[float, float]:
    """Displacement ``z' tan β`` along X and Y of what lies at a depth, in its unit."""
    return depth * math.tan(1e-3 * beam_tilt_mrad_xy[0]), depth * math.tan(1e-3 * beam_tilt_mrad_xy[1])
