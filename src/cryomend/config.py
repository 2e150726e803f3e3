"""Configuration models: one per stage, the only place where a user's default lives.

YAML and the command line are validated here and unpacked once, by keyword, into the stages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "AcquisitionConfig",
    "NoiseConfig",
    "Recipe",
    "SimulationConfig",
    "SpecimenConfig",
    "StageConfig",
    "TrainingConfig",
    "load_config",
    "load_recipe",
]

Number = TypeVar("Number", int, float)


def _ordered(value: tuple[Number, Number]) -> tuple[Number, Number]:
    if value[0] > value[1]:
        raise ValueError(f"a range is (low, high), got {value}")
    return value


_Ordered = AfterValidator(_ordered)
_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Mtf = Annotated[float, Field(gt=0, le=1)]
_Angle = Annotated[float, Field(ge=-90, le=90)]
_Count = Annotated[int, Field(ge=0)]

Range = Annotated[tuple[float, float], _Ordered]
PositiveRange = Annotated[tuple[_Positive, _Positive], _Ordered]
NotNegativeRange = Annotated[tuple[_NotNegative, _NotNegative], _Ordered]
ShareRange = Annotated[tuple[_Share, _Share], _Ordered]
MtfRange = Annotated[tuple[_Mtf, _Mtf], _Ordered]
AngleRange = Annotated[tuple[_Angle, _Angle], _Ordered]
CountRange = Annotated[tuple[_Count, _Count], _Ordered]
Side = Annotated[int, Field(ge=16)]  # voxels; the reader of volumes asks for as many
Width = Annotated[int, Field(ge=1)]


class StageConfig(BaseModel):
    """Frozen; refuses keys that it does not know and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SpecimenConfig(StageConfig):
    """What is packed into one specimen; pairs are ranges from which each specimen is drawn."""

    shape: tuple[Side, Side, Side] = Field((96, 160, 160), description="volume (Z, Y, X) in voxels")
    voxel_size: float = Field(10.0, gt=0, description="Å")
    slab_margin: NotNegativeRange = Field((40.0, 160.0), description="free ice above and below, Å each")
    occupancy: ShareRange = Field((0.05, 0.22), description="share of the slab taken by macromolecules")
    species: CountRange = Field((3, 12), description="number of macromolecule species")
    mass_kda: PositiveRange = Field((60.0, 4000.0), description="mass of procedural macromolecules")
    file_share: float = Field(
        0.5, ge=0, le=1, description="chance that a species is taken from the given structure files"
    )
    vesicles: CountRange = Field((0, 0), description="number of closed membranes")
    vesicle_radius: PositiveRange = Field((150.0, 450.0), description="mean radius, Å")
    vesicle_axis_ratio: PositiveRange = Field(
        (1.0, 1.0), description="longest over shortest axis; 1 is a sphere"
    )
    membrane_proteins: NotNegativeRange = Field((0.5, 4.0), description="per 10,000 Å² of membrane")
    shells: CountRange = Field((0, 0), description="number of closed protein shells without a membrane")
    filaments: CountRange = Field((0, 0), description="number of filaments")
    microtubule_share: float = Field(0.4, ge=0, le=1, description="share of filaments that are microtubules")
    gold: CountRange = Field((0, 0), description="number of gold beads")
    contrast: NotNegativeRange = Field(
        (0.8, 1.25), description="factor on the potential of each species and membrane"
    )
    blur: NotNegativeRange = Field((5.0, 9.0), description="standard deviation of the final Gaussian blur, Å")


class AcquisitionConfig(StageConfig):
    """The microscope; pairs are ranges from which each tilt series is drawn."""

    tilt_min: AngleRange = Field((-60.0, -48.0), description="degrees")
    tilt_max: AngleRange = Field((48.0, 60.0), description="degrees")
    tilt_step: PositiveRange = Field((2.0, 3.0), description="degrees")
    voltage_kv: float = Field(300.0, gt=0, description="kV")
    spherical_aberration_mm: float = Field(2.7, ge=0, description="mm")
    amplitude_contrast: ShareRange = Field((0.07, 0.1), description="0 to 1")
    defocus_um: Range = Field((2.0, 6.0), description="positive = underfocus, µm")
    fluence: PositiveRange = Field((60.0, 130.0), description="e⁻/Å² over the whole series")
    snr: float | None = Field(
        None, gt=0, description="signal over noise power per tilt; replaces counting noise when given"
    )
    mean_free_path: PositiveRange = Field(
        (2500.0, 4000.0), description="of what removes electrons from the image, Å"
    )
    dqe: MtfRange = Field(
        (1.0, 1.0), description="detective quantum efficiency: share of the electrons that counts, up to 1"
    )
    mtf_nyquist: MtfRange = Field((0.4, 0.9), description="detector MTF at Nyquist")
    misalignment: NotNegativeRange = Field((0.0, 4.0), description="standard deviation of residual shifts, Å")
    radiation_damage: bool = Field(True, description="fade by the critical-exposure curve")
    phase_flip_share: float = Field(0.3, ge=0, le=1, description="chance that the series is phase-flipped")
    sirt_like_share: float = Field(0.2, ge=0, le=1, description="chance of a SIRT-like radial filter")

    @model_validator(mode="after")
    def _spans_a_range(self) -> AcquisitionConfig:
        if self.tilt_min[1] >= self.tilt_max[0]:
            raise ValueError(f"tilt_min {self.tilt_min} must lie below tilt_max {self.tilt_max}")
        return self


class SimulationConfig(StageConfig):
    """Training pairs: kinds of specimens, one microscope."""

    specimens: dict[str, SpecimenConfig] = Field(
        default_factory=dict, description="named kinds; one is drawn per pair"
    )
    acquisition: AcquisitionConfig = Field(
        default_factory=AcquisitionConfig, description="the microscope of all pairs"
    )
    voxel_size: PositiveRange | None = Field(
        None, description="drawn per pair, Å; each kind's own if not given"
    )
    solvent_variation: NotNegativeRange = Field(
        (0.0, 0.0),
        description="standard deviation of what the ice holds unresolved, V per voxel; not in the target",
    )
    noise_share: float = Field(
        0.5, ge=0, le=1, description="share of learned in all noise, when a noise model is given"
    )
    structures: tuple[str, ...] | None = Field(
        None, description="names of the structure files to use; all that are given if None"
    )


class TrainingConfig(StageConfig):
    """The network, the loss and the optimiser."""

    channels: tuple[Width, ...] = Field((32, 48, 64, 96), min_length=1, description="features per level")
    stem: Literal["halve", "double", "none"] = Field("halve", description="see network/unet.py")
    crop: int = Field(64, ge=16, description="side of the training crops, voxels")
    batch: int = Field(2, ge=1, description="crops per step")
    steps: int = Field(4000, ge=1, description="optimiser steps")
    learning_rate: float = Field(4e-4, gt=0, description="of AdamW, after the warm-up")
    warm_up: int = Field(150, ge=0, description="steps over which the learning rate rises")
    gradient_clip: float = Field(0.3, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the moving average of the weights")
    lambda_recon: float = Field(0.1, ge=0, description="weight of the wedge-filling task")
    recon_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of steps that evaluate that task, weighted up to the same expectation",
    )
    rotation_share: float = Field(
        1.0, ge=0, le=1, description="share of crops in a random rotation; the rest keep the true pose"
    )
    spectrum_jitter: float = Field(
        0.0, ge=0, description="spread of a random radial gain on the input, nepers"
    )
    validation_share: float = Field(0.1, ge=0, lt=1, description="share of the pairs kept for validation")


class NoiseConfig(StageConfig):
    """How the learned noise model is trained; the numbers of the WGAN-GP are the published ones."""

    width: int | None = Field(
        None, ge=1, description="narrowest channel count; None: 64 on an accelerator, 16 on a CPU"
    )
    latent: int = Field(100, ge=1, description="length of the latent vector")
    steps: int = Field(20_000, ge=1, description="generator steps")
    critic_steps: int = Field(5, ge=1, description="critic steps per generator step")
    batch: int = Field(64, ge=2, description="patches per step; no more than there are")
    learning_rate: float = Field(1e-4, gt=0, description="of Adam, betas 0.5 and 0.999")
    gradient_penalty: float = Field(10.0, ge=0, description="weight of the gradient penalty")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the moving average of the generator")
    flips: bool = Field(True, description="mirror training patches at random along Y and X")


class Recipe(StageConfig):
    """One file for `cryomend simulate` and `cryomend train`."""

    simulation: SimulationConfig = Field(default_factory=SimulationConfig, description="of the pairs")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="of the network")


Model = TypeVar("Model", bound=StageConfig)


def load_config(model: type[Model], path: str | Path | None, **overrides: Any) -> Model:
    """Read a YAML file into a configuration model; ``overrides`` that are not None win.

    Raises
    ------
    ValueError
        If the file is missing, is no YAML mapping or holds a key or value that the model refuses
        (pydantic names it by its dotted path).
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: a configuration is a YAML mapping of option: value")
    return model.model_validate({**values, **{k: v for k, v in overrides.items() if v is not None}})


def load_recipe(path: str | Path | None) -> Recipe:
    """Read the sections ``simulation`` and ``training`` of a YAML file; all defaults if None.

    Raises
    ------
    ValueError
        As `load_config`.
    """
    return load_config(Recipe, path)
