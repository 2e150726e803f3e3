"""A fitted noise model: what it holds, how it makes patches, its file.

Three kinds share one interface: ``wgan`` (learned), ``spectral`` (Gaussian field with the measured
spectrum and marginal law) and ``gaussian`` (independent pixels).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryomend.io import InputError, atomic_path
from cryomend.noise.networks import CONDITIONS, NoiseGenerator, tilt_conditions
from cryomend.noise.spectral import (
    Whitening,
    gaussian_power_spectrum,
    map_marginal,
    normal_levels,
    refine_transfer,
    sample_gaussian_field,
)

__all__ = ["NoiseModel", "describe_noise_model", "is_noise_model", "load_noise_model", "save_noise_model"]

KINDS = ("wgan", "spectral", "gaussian")
_KIND = "cryomend noise model"
_FORMAT = f"{_KIND} 2"
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
        ``power`` (P, P // 2 + 1) and ``quantiles`` of the real patches; of ``spectral`` also
        ``gaussian_power``; of ``wgan`` ``white_quantiles`` and its calibration: ``mean`` and ``std``
        (P / 4, P / 4) over the generator's cell, ``gain`` (P, P // 2 + 1) and ``made_quantiles``.
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
    _kept: tuple[Any, Tensor] | None = field(default=None, repr=False, compare=False)

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

    def sample_field(
        self,
        shape: tuple[int, int],
        generator: torch.Generator,
        *,
        tilt_angle: float = math.nan,
        calibrated: bool = True,
    ) -> Tensor:
        """Draw stationary noise of unit variance and of any size, without seams.

        Parameters
        ----------
        shape : tuple of int
            (Y, X) in pixels.
        generator : torch.Generator
        tilt_angle : float
            Degrees; only a model conditioned on the angle takes note of it.
        calibrated : bool
            False shows what a learned generator makes by itself.

        Returns
        -------
        Tensor of float32, shape (Y, X)
        """
        if self.kind == "gaussian":
            return torch.randn(shape, generator=generator, device=generator.device).to(self.device)
        if self.kind == "spectral":
            field = sample_gaussian_field(self.tensors["gaussian_power"], shape, generator)
            return map_marginal(field, normal_levels(field.device), self.tensors["quantiles"])
        white = self.sample_white(shape, generator, tilt_angle=tilt_angle)
        noise = self.colour(white, calibrated=calibrated)
        first = torch.randint(self.patch // 4, (2,), generator=generator, device=generator.device).tolist()
        return noise[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]

    @torch.no_grad()
    def sample_white(
        self, shape: tuple[int, int], generator: torch.Generator, *, tilt_angle: float = math.nan
    ) -> Tensor:
        """What the generator makes: white, Gaussian-like, periodic, at least ``shape`` and a patch."""
        network = self.generator
        assert network is not None
        # A patch to spare: opposite borders of what is cut out are then independent.
        cells = (
            math.ceil((shape[0] + self.patch) / network.cell),
            math.ceil((shape[1] + self.patch) / network.cell),
        )
        latent = network.draw_latent(1, cells, generator)
        angle = torch.tensor([tilt_angle], device=latent.device)
        made: Tensor = network.eval()(latent, generator, tilt_conditions(angle))[0]
        return made

    def colour(self, white: Tensor, *, calibrated: bool = True, mapped: bool = True) -> Tensor:
        """Give what the generator made the spectrum and (if ``mapped``) marginal law of the real noise."""
        whitening = Whitening(self.tensors["power"].sqrt(), self.tensors["white_quantiles"])
        if not calibrated:
            return whitening.colour(white)
        level = level_cells(white, self.tensors["mean"], self.tensors["std"])
        gain = self._refined(self.tensors["gain"], (white.shape[0], white.shape[1]))
        made = whitening.colour(level, transfer=gain)
        if not mapped:
            return made
        return map_marginal(made, self.tensors["made_quantiles"], self.tensors["quantiles"])

    def correct_gain(self, ratio: Tensor) -> None:
        """Multiply the gain of a learned model by a ratio of amplitudes (P, P // 2 + 1)."""
        self.tensors["gain"] = self.tensors["gain"] * ratio
        self._kept = None

    def _refined(self, transfer: Tensor, shape: tuple[int, int]) -> Tensor:
        """`refine_transfer`, kept from one tilt to the next."""
        if self._kept is None or self._kept[0] != (shape, transfer.device):
            self._kept = ((shape, transfer.device), refine_transfer(transfer, shape))
        return self._kept[1]


def level_cells(white: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Take out the pattern that a generator repeats in every cell: mean and deviation of each pixel of it."""
    rows, columns = (n // c for n, c in zip(white.shape, mean.shape, strict=True))
    return (white - mean.repeat(rows, columns)) / std.repeat(rows, columns)


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


def is_noise_model(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is a noise model, of any version."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format")).startswith(_KIND)
    except (SafetensorError, OSError):
        return False


def describe_noise_model(path: str | os.PathLike[str]) -> dict[str, str]:
    """Tell what is known of a noise model, in the order to print it.

    Raises
    ------
    InputError
        As `load_noise_model`.
    """
    model = load_noise_model(Path(path))
    angles = model.std_table[:, 0]
    known = np.isfinite(angles).all()
    described = {
        "file": os.fspath(path),
        "kind": f"noise model, {model.kind}",
        "patch": f"{model.patch} pixels",
        "pixel size": f"{model.pixel_size:g} Å" if model.pixel_size > 0 else "unknown",
        "tilts": f"{angles.min():g} to {angles.max():g} degrees" if known else "unknown",
    }
    fitted = {key: value for key, value in model.config.items() if value not in ([], None)}
    lists = {key: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in fitted.items()}
    return described | lists


def new_generator(patch: int, config: Mapping[str, Any]) -> NoiseGenerator:
    """Make an untrained generator as a configuration (``width``, ``latent``, ``conditioning``) asks for."""
    conditions = CONDITIONS if config["conditioning"] == "angle" else 0
    return NoiseGenerator(patch, width=config["width"], latent=config["latent"], conditions=conditions)


def _rebuild_generator(description: dict[str, Any], weights: dict[str, Tensor]) -> NoiseGenerator:
    """Network of the stored size with the stored weights."""
    network = new_generator(description["patch"], description["config"])
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
