"""A fitted noise model: what it holds, how it makes patches, its file.

Three kinds share one interface: ``wgan`` (learned), ``spectral`` (Gaussian field with the measured
spectrum and marginal law) and ``gaussian`` (independent pixels).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryomend.fourier import filter_fourier
from cryomend.io import InputError, atomic_path
from cryomend.noise.networks import NoiseGenerator
from cryomend.noise.spectral import (
    gaussian_power_spectrum,
    map_marginal,
    normal_levels,
    sample_gaussian_field,
)

__all__ = ["NoiseModel", "load_noise_model", "save_noise_model"]

KINDS = ("wgan", "spectral", "gaussian")
_FORMAT = "cryomend noise model 1"
_GENERATOR = "generator."


@dataclass
class NoiseModel:
    """A model of the noise of one kind of tilt series.

    Attributes
    ----------
    kind : str
        ``wgan``, ``spectral`` or ``gaussian``.
    patch : int
        Side of the patches it makes, pixels.
    pixel_size : float
        Å, 0 if unknown.
    std_table : array, shape (k, 2)
        Tilt angle in degrees (increasing) and deviation there; a single row at nan if angles are unknown.
    tensors : dict of Tensor
        ``power`` (P, P // 2 + 1) and ``quantiles`` of the real patches; of ``wgan`` also the calibration
        ``mean`` and ``std`` (P, P), ``gain`` (P, P // 2 + 1) and ``blended_quantiles``.
    config : dict
        How it was fitted.
    generator : NoiseGenerator or None
        Only of ``wgan``.
    """

    kind: str
    patch: int
    pixel_size: float
    std_table: NDArray[np.float64]
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    generator: NoiseGenerator | None = None

    @property
    def device(self) -> torch.device:
        """Where patches are made."""
        return self.tensors["power"].device

    def to(self, device: torch.device | str) -> NoiseModel:
        """Move everything to a device, in place."""
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        if self.generator is not None:
            self.generator.to(device)
        return self

    def interpolate_std(self, tilt_angles: NDArray[Any]) -> NDArray[np.float64]:
        """Deviation at each tilt angle: linear in between, constant beyond the table."""
        angles, std = self.std_table.T
        if np.isnan(angles).any():
            return np.full(len(tilt_angles), std.mean())
        return np.asarray(np.interp(tilt_angles, angles, std))

    def sample_patches(self, count: int, generator: torch.Generator, *, calibrated: bool = True) -> Tensor:
        """Draw independent patches of unit variance, shape (count, P, P).

        For ``spectral`` they are Gaussian: the marginal law is given after blending, by `finish`.
        ``calibrated=False`` shows what the learned generator makes by itself.
        """
        if self.kind == "gaussian":
            shape = (count, self.patch, self.patch)
            return torch.randn(shape, generator=generator, device=generator.device).to(self.device)
        if self.kind == "spectral":
            return sample_gaussian_field(self.tensors["gaussian_power"], count, generator)
        raw = self._generate(count, generator)
        if not calibrated:
            return raw
        level = (raw - self.tensors["mean"]) / self.tensors["std"]
        return filter_fourier(level, self.tensors["gain"])

    def finish(self, noise: Tensor, *, calibrated: bool = True) -> Tensor:
        """Give blended noise of unit variance the marginal law of the real noise."""
        if self.kind == "spectral":
            return map_marginal(noise, normal_levels(noise.device), self.tensors["quantiles"])
        if self.kind == "wgan" and calibrated:
            return map_marginal(noise, self.tensors["blended_quantiles"], self.tensors["quantiles"])
        return noise

    @torch.no_grad()
    def _generate(self, count: int, generator: torch.Generator) -> Tensor:
        """Raw generator output in batches that fit in memory."""
        assert self.generator is not None
        network = self.generator.eval()
        latent = torch.randn(count, network.latent, generator=generator, device=generator.device)
        parts: list[Tensor] = [network(z) for z in torch.split(latent.to(self.device), 64)]
        return torch.cat(parts)


def prepare_spectral(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the spectrum of the underlying Gaussian field (see `gaussian_power_spectrum`)."""
    return {**tensors, "gaussian_power": gaussian_power_spectrum(tensors["power"], tensors["quantiles"])}


def save_noise_model(path: Path, model: NoiseModel) -> None:
    """Write a model as safetensors: weights and tables as tensors, the rest as JSON in the header."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.tensors.items()}
    if model.generator is not None:
        state = model.generator.state_dict()
        tensors |= {_GENERATOR + name: value.cpu().contiguous() for name, value in state.items()}
    tensors["std_table"] = torch.from_numpy(np.ascontiguousarray(model.std_table))
    description = {
        "kind": model.kind,
        "patch": model.patch,
        "pixel_size": model.pixel_size,
        "config": model.config,
    }
    with atomic_path(path) as partial:
        partial.write_bytes(save(tensors, {"format": _FORMAT, "model": json.dumps(description)}))


def load_noise_model(path: Path, *, device: torch.device | str = "cpu") -> NoiseModel:
    """Read a model written by `save_noise_model`.

    Raises
    ------
    InputError
        If the file is missing or is not a noise model.
    """
    tensors, metadata = read_safetensors(path, _FORMAT, "noise model", "make it with `cryomend noise fit`")
    try:
        description = json.loads(metadata["model"])
        std_table = tensors.pop("std_table").numpy()
        weights = {
            k.removeprefix(_GENERATOR): tensors.pop(k) for k in list(tensors) if k.startswith(_GENERATOR)
        }
        generator = _rebuild_generator(description, weights) if description["kind"] == "wgan" else None
        model = NoiseModel(**description, std_table=std_table, tensors=tensors, generator=generator)
        return model.to(device)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: damaged noise model; fit it again ({type(error).__name__})") from error


def _rebuild_generator(description: dict[str, Any], weights: dict[str, Tensor]) -> NoiseGenerator:
    """Network of the stored size with the stored weights."""
    config = description["config"]
    network = NoiseGenerator(description["patch"], width=config["width"], latent=config["latent"])
    network.load_state_dict(weights)
    return network.eval()


def read_safetensors(
    path: Path, form: str, what: str, advice: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose metadata names the format ``form``."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; {advice}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a {what}; {advice}") from error
    if metadata.get("format") != form:
        raise InputError(f"{path}: not a {what} of this version; {advice}")
    return tensors, metadata
