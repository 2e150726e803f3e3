"""Configuration models: one per stage, the only place where a user's default lives.

YAML and the command line are validated here and unpacked once, by keyword, into the stages.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from cryomend.io import read_toml

__all__ = [
    "AblationConfig",
    "AcquisitionConfig",
    "BenchmarkConfig",
    "ClutterConfig",
    "DataSetTrainingConfig",
    "EffortConfig",
    "ExternalConfig",
    "FilamentConfig",
    "MembraneConfig",
    "NoiseConfig",
    "ProcessingConfig",
    "Recipe",
    "ReconstructionConfig",
    "RecordedDataConfig",
    "SimulatedDataConfig",
    "SimulationConfig",
    "SpecimenConfig",
    "StageConfig",
    "StreamConfig",
    "TrainingConfig",
    "UserConfig",
    "dump_config",
    "find_preset",
    "list_mistakes",
    "load_benchmark",
    "load_config",
    "load_recipe",
]

Number = TypeVar("Number", int, float)
_PRESETS = Path(__file__).parent / "presets"


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
_Layer = Annotated[int, Field(ge=1)]
LayerRange = Annotated[tuple[_Layer, _Layer], _Ordered]
_Protofilament = Annotated[int, Field(ge=8, le=20)]
ProtofilamentRange = Annotated[tuple[_Protofilament, _Protofilament], _Ordered]
Side = Annotated[int, Field(ge=16)]  # voxels; the reader of volumes asks for as many
Width = Annotated[int, Field(ge=1)]
_Cutoff = Annotated[float, Field(gt=0, le=0.5)]
CutoffRange = Annotated[tuple[_Cutoff, _Cutoff], _Ordered]
_Relaxation = Annotated[float, Field(gt=0, lt=2)]
RelaxationRange = Annotated[tuple[_Relaxation, _Relaxation], _Ordered]
_Percent = Annotated[float, Field(ge=0, lt=50)]
PercentRange = Annotated[tuple[_Percent, _Percent], _Ordered]
Choice = TypeVar("Choice", bound=str)


def _weighed(value: dict[Choice, float]) -> dict[Choice, float]:
    if sum(value.values()) <= 0:
        raise ValueError("at least one of the alternatives needs a weight above 0")
    return value


_Weighed = AfterValidator(_weighed)


class StageConfig(BaseModel):
    """Frozen; refuses keys that it does not know and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MembraneConfig(StageConfig):
    """One kind of membrane; pairs are ranges from which each one is drawn."""

    kind: Literal["ellipsoid", "torus", "tubule", "sheet", "stack", "branched", "labels"] = Field(
        "ellipsoid", description="shape of the mid-surface"
    )
    count: CountRange = Field((1, 1), description="how many")
    radius: PositiveRange = Field(
        (150.0, 450.0), description="of ellipsoids (mean) and tubules, ring radius of tori, Å"
    )
    axis_ratio: PositiveRange = Field((1.0, 1.0), description="longest over shortest axis; 1 is a sphere")
    tube_radius: PositiveRange = Field((100.0, 200.0), description="of the tube of a torus, Å")
    wavelength: PositiveRange = Field(
        (500.0, 1500.0), description="of undulations and of branched surfaces, Å"
    )
    amplitude: NotNegativeRange = Field(
        (0.0, 0.0), description="standard deviation of the undulation normal to the surface, Å"
    )
    layers: LayerRange = Field((2, 5), description="sheets in a stack")
    gap: PositiveRange = Field(
        (110.0, 250.0), description="between mid-surfaces of a stack or a double membrane, Å"
    )
    double_share: float = Field(0.0, ge=0, le=1, description="chance of a second membrane inside the first")
    lining_share: float = Field(
        0.0, ge=0, le=1, description="chance of a protein coat under the inner leaflet, as in a virus"
    )
    labels: str | None = Field(
        None, description="label volume (TIFF or MRC) of mid-surfaces, for kind labels"
    )
    labels_voxel_size: float | None = Field(None, gt=0, description="of the label volume, Å; its header's")
    head_distance: PositiveRange = Field((33.0, 41.0), description="between the head-group peaks, Å")
    proteins: NotNegativeRange = Field(
        (0.5, 4.0), description="membrane proteins per 10,000 Å², fewer where no more fit"
    )
    inward: ShareRange = Field((0.0, 0.6), description="share of them that face the inside")

    @model_validator(mode="after")
    def _labels_are_named(self) -> MembraneConfig:
        if self.kind == "labels" and self.labels is None:
            raise ValueError("membranes of kind labels need the option labels: FILE")
        return self


class FilamentConfig(StageConfig):
    """One kind of filament; pairs are ranges from which each one is drawn."""

    kind: Literal["microtubule", "actin", "helix", "nucleosomes"] = Field("actin", description="what it is")
    count: CountRange = Field((1, 1), description="how many filaments, bundles or networks")
    length: PositiveRange = Field((1000.0, 8000.0), description="Å")
    persistence_um: PositiveRange | None = Field(None, description="persistence length; of the kind if None")
    protofilaments: ProtofilamentRange = Field((12, 15), description="of microtubules")
    bundle: LayerRange = Field((1, 1), description="parallel filaments in a bundle")
    bundle_gap: NotNegativeRange = Field((10.0, 60.0), description="between the surfaces of neighbours, Å")
    branches: CountRange = Field((0, 0), description="daughters that leave at 70° to make a network")
    linker_bp: PositiveRange = Field((20.0, 60.0), description="DNA between nucleosomes, base pairs")


class ClutterConfig(StageConfig):
    """One kind of what nobody wants to see; pairs are ranges from which each one is drawn."""

    kind: Literal["gold", "carbon", "ice", "lipid", "granule"] = Field("gold", description="what it is")
    count: CountRange = Field((1, 1), description="how many")
    radius: PositiveRange | None = Field(None, description="Å; of the kind if None")


class SpecimenConfig(StageConfig):
    """What is packed into one specimen; pairs are ranges from which each specimen is drawn."""

    shape: tuple[Side, Side, Side] = Field((96, 160, 160), description="volume (Z, Y, X) in voxels")
    voxel_size: float = Field(10.0, gt=0, description="Å")
    slab_margin: NotNegativeRange = Field((40.0, 160.0), description="free ice above and below, Å each")
    border: Literal["clip", "periodic"] = Field(
        "clip",
        description="macromolecules, filaments and shells end at the borders in Y and X, or go on at the "
        "other side; membranes and clutter end there",
    )
    occupancy: ShareRange = Field((0.05, 0.22), description="share of the slab taken by macromolecules")
    species: CountRange = Field((3, 12), description="number of macromolecule species")
    mass_kda: PositiveRange = Field((50.0, 4000.0), description="mass of procedural macromolecules")
    symmetries: tuple[str, ...] | None = Field(
        None, description="of procedural macromolecules: Cn, Dn, T, O, I, H (helical); a mix of all if None"
    )
    file_share: float = Field(
        0.5, ge=0, le=1, description="chance that a species is taken from the given structure files"
    )
    abundance: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="copies of a structure file (its name without ending) relative to the others; "
        "drawn for those that are not named",
    )
    cluster_share: float = Field(0.0, ge=0, le=1, description="chance that a species stands in clusters")
    cluster_radius: PositiveRange = Field((200.0, 600.0), description="of a cluster, Å")
    membranes: tuple[MembraneConfig, ...] = Field((), description="kinds of membranes")
    filaments: tuple[FilamentConfig, ...] = Field((), description="kinds of filaments")
    shells: CountRange = Field((0, 0), description="number of closed protein shells without a membrane")
    clutter: tuple[ClutterConfig, ...] = Field((), description="kinds of clutter")
    contrast: NotNegativeRange = Field(
        (0.8, 1.25), description="factor on the potential of each species and membrane"
    )
    blur: NotNegativeRange = Field((5.0, 9.0), description="standard deviation of the final Gaussian blur, Å")

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, values: Any) -> Any:
        """``preset: NAME`` stands for all options of that preset; the others replace them one by one."""
        if not isinstance(values, dict) or "preset" not in values:
            return values
        own = {key: value for key, value in values.items() if key != "preset"}
        return {**_read_yaml(find_preset(str(values["preset"]))), **own}


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
        None,
        gt=0,
        description="power of the signal over that of the noise in every tilt, over the specimen, linear; "
        "white noise then replaces counting",
    )
    snr_db: float | None = Field(None, description="the same in decibels of the power ratio, instead of snr")
    snr_band: PositiveRange | None = Field(
        None,
        description="periods between which powers are compared, for snr and for noise_share, Å; all but the "
        "mean if None",
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
    scheme: Literal["dose-symmetric", "bidirectional", "continuous"] = Field(
        "dose-symmetric", description="order of recording"
    )
    scheme_start: float = Field(0.0, ge=-90, le=90, description="tilt at which the scheme starts, degrees")
    scheme_group: int = Field(1, ge=1, description="tilts of one side in a row in the dose-symmetric scheme")
    scheme_direction: Literal[1, -1] = Field(1, description="side that comes first; -1 is downwards")
    fluence_exponent: float = Field(
        0.0, ge=0, description="n: fluence per tilt grows as 1/cos^n of the tilt, with the same total"
    )
    phase_shift: Range = Field((0.0, 0.0), description="of a phase plate, degrees")
    phase_shift_drift: Range = Field(
        (0.0, 0.0), description="what it gains until the end of the series, with the fluence, degrees"
    )
    defocus_error: NotNegativeRange = Field(
        (0.0, 0.0), description="standard deviation of the defocus from tilt to tilt, µm"
    )
    astigmatism_error: NotNegativeRange = Field(
        (0.0, 0.0), description="of the astigmatism from tilt to tilt, either component, µm"
    )
    astigmatism_um: NotNegativeRange = Field((0.0, 0.1), description="half difference of the defoci, µm")
    focal_spread: NotNegativeRange = Field((40.0, 100.0), description="standard deviation of defocus, Å")
    source_angle_mrad: NotNegativeRange = Field((0.005, 0.02), description="half-angle of the source, mrad")
    defocus_hand: Literal[1, -1] = Field(1, description="sense of the defocus gradient; 1 is IMOD's")
    beam_tilt_mrad: NotNegativeRange = Field(
        (0.0, 0.0), description="off the optical axis, any azimuth: parallax and coma"
    )
    x_tilt: Range = Field((0.0, 0.0), description="of the specimen about X, degrees")
    tilt_axis_angle: Range = Field(
        (0.0, 0.0),
        description="of the axis in the images, from Y towards -X as IMOD counts, degrees",
    )
    rotation_error: NotNegativeRange = Field(
        (0.0, 0.0), description="standard deviation of residual in-plane rotations, degrees"
    )
    magnification_error: NotNegativeRange = Field(
        (0.0, 0.0), description="standard deviation of residual magnification, percent"
    )
    motion: NotNegativeRange = Field(
        (0.0, 0.0), description="local sample motion at the end of the series, largest displacement, Å"
    )
    mtf: str | None = Field(
        None, description="RELION star file of the detector's MTF, instead of mtf_nyquist"
    )
    detector_pixel: float | None = Field(
        None, gt=0, description="Å of the detector's pixel that the MTF file speaks of; the simulated if None"
    )
    noise_power: Literal["mtf", "white"] = Field(
        "mtf",
        description="counting noise is blurred like the signal (DQE flat in frequency), or white (DQE falls "
        "as MTF²)",
    )
    dqe_nyquist: MtfRange | None = Field(
        None, description="DQE at Nyquist, from dqe at 0 as a Gaussian in frequency; instead of noise_power"
    )
    gain_error: NotNegativeRange = Field(
        (0.0, 0.0), description="standard deviation of uncorrected gain, percent, the same in all images"
    )
    hot_pixels: NotNegativeRange = Field((0.0, 0.0), description="per million pixels, in the same places")

    @model_validator(mode="after")
    def _spans_a_range(self) -> AcquisitionConfig:
        if self.tilt_min[1] >= self.tilt_max[0]:
            raise ValueError(f"tilt_min {self.tilt_min} must lie below tilt_max {self.tilt_max}")
        return self

    @model_validator(mode="after")
    def _snr_is_given_once(self) -> AcquisitionConfig:
        if self.snr is not None and self.snr_db is not None:
            raise ValueError("snr and snr_db exclude each other; give one (snr_db is 10 log10 of snr)")
        if self.snr_band is not None and self.snr_band[0] == self.snr_band[1]:
            raise ValueError(f"snr_band {self.snr_band} is empty; give the shortest and the longest period")
        return self

    @model_validator(mode="after")
    def _dqe_falls(self) -> AcquisitionConfig:
        if self.dqe_nyquist is not None and self.dqe_nyquist[1] > self.dqe[0]:
            raise ValueError(f"dqe_nyquist {self.dqe_nyquist} must not rise above dqe {self.dqe}")
        return self


class ReconstructionConfig(StageConfig):
    """How an aligned (or to be aligned) tilt series becomes a tomogram."""

    method: Literal["wbp", "sirt", "sart"] = Field("wbp", description="reconstruction")
    weighting: Literal["ramp", "exact"] = Field(
        "ramp", description="of wbp: ramp with angular weights, or exact for these angles and thickness"
    )
    cutoff: float = Field(0.5, gt=0, le=0.5, description="where the radial filter falls off, cycles/pixel")
    falloff: float = Field(0.0, ge=0, description="standard deviation of that fall-off, cycles/pixel")
    hamming_from: float | None = Field(
        None, ge=0, lt=0.5, description="Hamming-like filter from this frequency on, cycles/pixel"
    )
    sirt_like_iterations: int = Field(0, ge=0, description="of wbp: filter that imitates so many of SIRT")
    iterations: int | None = Field(None, ge=1, description="of sirt (10 if None) and sweeps of sart (2)")
    relaxation: float | None = Field(None, gt=0, lt=2, description="step; 1 for sirt, 0.3 for sart if None")
    subsets: int | None = Field(None, ge=1, description="of sart; as many as tilts if None")
    tolerance: float | None = Field(
        None, gt=0, lt=1, description="stop when the residual falls by less than this share in a sweep"
    )
    non_negative: bool = Field(False, description="of sirt and sart: clip below 0 (protein is dark here)")
    tilt_offset: float = Field(0.0, ge=-90, le=90, description="added to all tilt angles, degrees")
    x_tilt: float = Field(0.0, ge=-45, le=45, description="tilt about X, degrees, as IMOD's XAXISTILT")
    z_shift: float = Field(0.0, description="the specimen is moved up by so many voxels")
    axis_shift: float = Field(
        0.0, description="tilt axis right of pixel n // 2; -0.5 for a stack that IMOD aligned"
    )
    bin: float = Field(1.0, ge=1, description="Fourier cropping of the images by this factor")
    pixel_size: float | None = Field(None, gt=0, description="Å; replaces the header's")
    voltage_kv: float = Field(300.0, gt=0, description="kV, unless the CTF file says")
    spherical_aberration_mm: float = Field(2.7, ge=0, description="mm, unless the CTF file says")
    amplitude_contrast: float = Field(0.07, ge=0, le=1, description="unless the CTF file says")
    defocus_hand: Literal[1, -1] = Field(
        1, description="-1: the left side is more underfocused at positive tilt (IMOD: InvertTiltAngles)"
    )
    defocus_um: float | None = Field(
        None, description="for the deconvolution; that of the smallest tilt in the CTF file if None, µm"
    )
    snr_falloff: float = Field(1.0, gt=0, description="of the deconvolution, as in tom_deconv and IsoNet")
    deconvolution_strength: float = Field(
        1.0,
        gt=0,
        description="SNR starts at 10^(3 strength), as in tom_deconv; a third of IsoNet's",
    )
    memory_limit: float | None = Field(None, gt=0, description="GiB for the whole process")


class ProcessingConfig(StageConfig):
    """What users do to a tilt series and a tomogram before they restore; drawn for each pair.

    Alternatives are given with their weights; those that are not named are never taken.
    """

    methods: Annotated[dict[Literal["wbp", "sirt-like", "sirt", "sart"], _NotNegative], _Weighed] = Field(
        {"wbp": 0.5, "sirt-like": 0.2, "sirt": 0.15, "sart": 0.15},
        description="reconstruction: weights of wbp, sirt-like (wbp with the filter that imitates SIRT), "
        "sirt and sart",
    )
    cutoff: CutoffRange = Field((0.3, 0.5), description="of wbp, where the filter falls off, cycles/pixel")
    falloff: NotNegativeRange = Field(
        (0.02, 0.1), description="of wbp, standard deviation of that fall-off, cycles/pixel"
    )
    exact_share: float = Field(0.1, ge=0, le=1, description="chance of exact weights in wbp")
    sirt_like_iterations: LayerRange = Field((5, 40), description="iterations that the filter imitates")
    sirt_iterations: LayerRange = Field(
        (5, 20), description="of sirt; each costs a projection and its adjoint"
    )
    sart_sweeps: LayerRange = Field((1, 3), description="of sart, one tilt at a time")
    sart_relaxation: RelaxationRange = Field((0.1, 0.5), description="step of sart")
    mean_normalised_share: float = Field(
        0.5, ge=0, le=1, description="chance that tilts are divided by their mean; else by their deviation"
    )
    ctf: Annotated[dict[Literal["left", "flipped", "multiplied"], _NotNegative], _Weighed] = Field(
        {"left": 0.45, "flipped": 0.35, "multiplied": 0.2},
        description="weights of: CTF left in, phases flipped, images multiplied by the CTF",
    )
    defocus_misfit: NotNegativeRange = Field(
        (0.0, 0.15), description="standard deviation of the error of the defocus that users know, µm"
    )
    dose_weight_share: float = Field(0.5, ge=0, le=1, description="chance of dose weighting")
    binning: Annotated[dict[Literal["none", "fourier", "average", "volume"], _NotNegative], _Weighed] = Field(
        {"none": 0.88, "fourier": 0.05, "average": 0.04, "volume": 0.03},
        description="weights of: recorded at the final voxel size, or at half of it and binned by 2: images "
        "by Fourier cropping, images by averaging, tomogram by averaging; all but none cost 8 times as much",
    )
    deconvolve_share: float = Field(
        0.15, ge=0, le=1, description="chance of a Wiener-like deconvolution; never with a multiplied CTF"
    )
    snr_falloff: PositiveRange = Field((0.5, 1.5), description="of the deconvolution, as in tom_deconv")
    deconvolution_strength: PositiveRange = Field(
        (0.25, 1.0), description="of the deconvolution, as in tom_deconv; IsoNet's 1 is a third"
    )
    highpass_share: float = Field(0.25, ge=0, le=1, description="chance of a high-pass of the tomogram")
    highpass_period: PositiveRange = Field(
        (200.0, 2000.0), description="period of which the high-pass leaves half the amplitude, Å"
    )
    eight_bit_share: float = Field(0.25, ge=0, le=1, description="chance of 256 grey levels")
    clip_percent: PercentRange = Field(
        (0.0, 1.0), description="of the voxels cut off at either end by 8 bits, drawn for each end"
    )


class SimulationConfig(StageConfig):
    """Training pairs: kinds of specimens, one microscope, what users do."""

    specimens: dict[str, SpecimenConfig] = Field(
        default_factory=dict, description="named kinds; one is drawn per pair"
    )
    acquisition: AcquisitionConfig = Field(
        default_factory=AcquisitionConfig, description="the microscope of all pairs"
    )
    processing: ProcessingConfig | None = Field(
        default_factory=ProcessingConfig,
        description="what is done before restoration; a WBP with the CTF left in and nothing else if null",
    )
    voxel_size: PositiveRange | None = Field(
        None, description="drawn per pair, Å; each kind's own if not given"
    )
    solvent_variation: NotNegativeRange = Field(
        (0.0, 0.0),
        description="standard deviation of what the ice holds unresolved, V per voxel; not in the target",
    )
    noise_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of learned noise in the power of all noise of a tilt, when a noise model is "
        "given; counting noise is the rest",
    )
    noise_total: Literal["kept", "grows"] = Field(
        "kept",
        description="kept: the noise has the power that fluence or snr say and learned noise replaces "
        "counting noise, so that noise_share changes its kind and not its amount; grows: learned noise "
        "comes on top of all counting noise",
    )
    noise_none_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance that a pair has counting noise alone although noise models are given; else it "
        "draws one of them, each with the same chance",
    )
    rescale_noise: bool = Field(
        False, description="resample a noise model's noise from its own pixel size to the simulation's"
    )
    structures: tuple[str, ...] | None = Field(
        None, description="names of the structure files to use; all that are given if None"
    )

    @model_validator(mode="after")
    def _noise_has_an_end(self) -> SimulationConfig:
        if self.noise_total == "grows" and self.noise_share == 1:
            raise ValueError("noise_share 1 on top of counting noise has no end; set noise_total: kept")
        return self


class StreamConfig(StageConfig):
    """The endless stream of pairs that training draws its crops from."""

    buffer: int = Field(
        64, ge=1, description="pairs that are held, 4 bytes per voxel each; then the oldest goes"
    )
    first: int = Field(4, ge=1, description="pairs that stand before training begins, as far as they fit")
    reuse: int | None = Field(
        None,
        ge=1,
        description="crops cut for every new pair; pairs then enter on schedule, equal seeds give equal runs "
        "and training waits for late ones; as many as the machine makes, without waiting, if None",
    )
    folder_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the crops that come from folders of pairs, where such are given; the stream "
        "makes the others",
    )
    validation_pairs: int = Field(
        8, ge=0, description="pairs of seeds and structures that are never trained on"
    )
    validation_kinds: tuple[str, ...] = Field(
        (), description="kinds of specimens for validation, which training never sees; all kinds if none"
    )
    validation_structures: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="share of the structures that only validation sees, chosen by name; 0: it has all, "
        "in specimens of its own",
    )


class TrainingConfig(StageConfig):
    """The network, the loss and the optimiser."""

    channels: tuple[Width, ...] = Field((32, 48, 64, 96), min_length=1, description="features per level")
    stem: Literal["halve", "double", "none"] = Field("halve", description="see network/unet.py")
    encoder_convs: int = Field(2, ge=1, description="convolutions per encoder level; the decoder has 2")
    residual: bool = Field(False, description="the network adds its input to its output")
    crop: int = Field(64, ge=16, description="side of the training crops, voxels")
    batch: int = Field(2, ge=1, description="crops per step")
    steps: int = Field(4000, ge=1, description="optimiser steps")
    learning_rate: float = Field(4e-4, gt=0, description="of AdamW, after the warm-up")
    warm_up: int = Field(150, ge=0, description="steps over which the learning rate rises")
    gradient_clip: float = Field(0.3, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the moving average of the weights")
    keep_start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share that the weights of the model it begins with have in the result: what was learned "
        "from few pairs is then no step away from what holds for all",
    )
    lambda_recon: float = Field(0.1, ge=0, description="weight of the wedge-filling task; 0 leaves it out")
    wedge_weight: float = Field(
        0.0, ge=0, description="extra weight of the error inside the missing wedge; 0 is the plain error"
    )
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="crops weigh by the mean square of their pair's density to the minus this, between a "
        "quarter and four times; 0 is the plain error, in which thin filaments hardly count",
    )
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
    validate_every: int = Field(500, ge=1, description="steps from one validation to the next")
    checkpoint_minutes: float = Field(4.0, ge=0, description="from one checkpoint to the next, minutes")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of the convolutions; auto is bfloat16 where CUDA or the CPU multiplies it, else float32",
    )
    compile_network: bool = Field(
        False, description="torch.compile; on a CPU it takes a minute and gains nothing"
    )


class NoiseConfig(StageConfig):
    """How the learned noise model is trained.

    None takes what the device can do: on an accelerator the published numbers, on a CPU smaller ones.
    """

    width: int | None = Field(None, ge=1, description="narrowest channel count; 64, on a CPU 16")
    latent: int = Field(100, ge=1, description="length of a latent vector")
    conditioning: Literal["moments", "angle"] = Field(
        "moments",
        description="one texture for all tilts with the deviation of each, or networks told the tilt angle",
    )
    steps: int = Field(20_000, ge=1, description="generator steps at most")
    critic_steps: int | None = Field(None, ge=1, description="critic steps per generator step; 5, on a CPU 2")
    batch: int | None = Field(
        None, ge=1, description="patches per step; 64, on a CPU 16; no more than there are"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="of Adam, betas 0.5 and 0.999; 1e-4, on a CPU 1e-3"
    )
    gradient_penalty: float = Field(10.0, ge=0, description="weight of the gradient penalty")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="of the moving average of the generator")
    flips: bool = Field(True, description="mirror training patches at random along Y and X")
    validation_share: float = Field(
        0.15, gt=0, lt=0.9, description="share of the patches of every tilt that are kept for the score"
    )
    validate_every: int = Field(200, ge=1, description="generator steps from one score to the next")
    classifier_steps: int = Field(400, ge=1, description="steps of the two-sample classifier in the score")
    patience: int = Field(10, ge=1, description="scores without a better one before the training stops")


class UserConfig(StageConfig):
    """What `cryomend train --for` does with the noise of the user's tilt series."""

    noise_model: Literal["wgan", "spectral", "gaussian"] | None = Field(
        None,
        description="wgan on an accelerator or where it has ten minutes, else spectral, if None; spectral "
        "also where there are fewer than 64 patches",
    )
    noise_time_share: float = Field(
        0.2, gt=0, lt=1, description="share of --max-minutes in which the noise may be learned"
    )
    noise_minutes: float = Field(
        30.0, gt=0, description="longest learning of the noise, minutes, also without --max-minutes"
    )
    patches: tuple[Side, ...] = Field(
        (64, 32),
        min_length=1,
        description="sides of noise patches to try, pixels of the final size, until there are 64 patches",
    )


class Recipe(StageConfig):
    """One file for `cryomend simulate` and `cryomend train`."""

    simulation: SimulationConfig = Field(default_factory=SimulationConfig, description="of the pairs")
    stream: StreamConfig = Field(default_factory=StreamConfig, description="of pairs made while training")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="of the network")
    user: UserConfig = Field(default_factory=UserConfig, description="of training for given tilt series")


_Db = Annotated[float, Field(ge=-60, le=60)]
_Positives = Annotated[tuple[_Positive, ...], Field(min_length=1)]


class EffortConfig(StageConfig):
    """How long a learned method may train: whichever ends first."""

    steps: int = Field(100_000, ge=1, description="optimiser steps at most")
    seconds: float = Field(300.0, gt=0, description="wall clock at most, for each tomogram")


class DataSetTrainingConfig(StageConfig):
    """The row per-data-set of a benchmark: `cryomend train --for` on all its tilt series together."""

    minutes: float = Field(20.0, gt=0, description="wall clock for noise and network, for all tomograms")
    structures: tuple[str, ...] = Field(
        (), description="of the specimen; those of the simulation, or procedural ones, if none"
    )
    membrane_structures: tuple[str, ...] = Field((), description="the same for those in membranes")
    options: dict[str, Any] = Field(
        default_factory=dict, description="of the recipe of `cryomend train --for`, as in its YAML"
    )


class AblationConfig(StageConfig):
    """The tables noise and lambda of a benchmark: one small network a row, at equal effort."""

    pairs: int = Field(40, ge=2, description="simulated for each kind of noise")
    gaussian_db: tuple[_Db, ...] = Field(
        (0.0, 2.0, 5.0, 10.0), description="signal to noise of the Gaussian rows in every tilt, dB"
    )
    lambdas: tuple[_NotNegative, ...] = Field(
        (0.0, 0.1, 0.2, 1.0), min_length=1, description="lambda_recon of the rows of the table lambda"
    )
    noise_model: Literal["wgan", "spectral"] = Field(
        "wgan", description="what learns the noise from the tilt series (or empty ones, where simulated)"
    )
    noise_minutes: float = Field(10.0, gt=0, description="longest learning of the noise, minutes")
    patch: int = Field(32, ge=16, description="side of the noise patches, pixels")
    recipe: Recipe = Field(default_factory=Recipe, description="of pairs and network; rows change it")


class SimulatedDataConfig(StageConfig):
    """Tomograms that a benchmark simulates, with their truth."""

    kinds: tuple[str, ...] = Field((), description="of simulation.specimens, in this order; all if none")
    repeats: int = Field(1, ge=1, description="tomograms of each kind")
    shape: tuple[Side, Side, Side] | None = Field(
        None, description="of all tomograms (Z, Y, X) in voxels; that of each kind if None"
    )
    seed: int = Field(700_000, ge=0, description="of the first tomogram; training counts from 0")
    halves: Literal["frames", "tilts"] = Field(
        "frames", description="what the halves are made of: half of the electrons each, or every other tilt"
    )
    structures: tuple[str, ...] = Field(
        (), description="files, folders, PDB or EMDB identifiers; procedural ones of these seeds if none"
    )
    membrane_structures: tuple[str, ...] = Field((), description="the same for those in membranes")
    blanks: int = Field(2, ge=1, description="tilt series of empty ice, from which noise is learned")
    simulation: SimulationConfig = Field(
        default_factory=SimulationConfig, description="specimens and microscope"
    )


class RecordedDataConfig(StageConfig):
    """One tomogram of recorded data: patterns of files below the folder, the first that fits is taken."""

    name: str = Field("tomogram", min_length=1, pattern=r"^[\w.-]+$", description="of the tomogram")
    tilts: tuple[str, ...] = Field((), description="stack of the tilt series")
    even: tuple[str, ...] = Field((), description="stack of its even frames, if there is one")
    odd: tuple[str, ...] = Field((), description="stack of its odd frames")
    frames: tuple[str, ...] = Field(
        (), description=".mdoc whose SubFramePath names movies to sum instead of stacks, without alignment"
    )
    angles: tuple[str, ...] = Field((), description="tilt angles; the .mdoc's or the .aln's if none")
    alignment: tuple[str, ...] = Field((), description=".xf or .aln; aligned already if none")
    ctf: tuple[str, ...] = Field((), description="defocus file, for the deconvolution, if there is one")
    thickness: int = Field(300, ge=16, description="NZ of the tomogram, voxels after binning")
    areas: str | None = Field(None, description="published areas such as empiar-10045, or a TOML file")
    particles: tuple[str, ...] = Field(
        (), description="table of particles (RELION-5 star, centred coordinates), to be looked for"
    )
    template: str | None = Field(None, description="what they are: structure or map file, PDB or EMDB entry")
    species: str | None = Field(None, description="of the table, if it holds several")
    reconstruction: ReconstructionConfig = Field(
        default_factory=ReconstructionConfig, description="binning, pixel size, tilt offset, optics"
    )


class ExternalConfig(StageConfig):
    """A program that the user has installed, as a row of a benchmark."""

    command: str = Field(
        "", description="template; {tomogram} {even} {odd} {tilts} {angles} {output} and others are filled in"
    )
    minutes: float | None = Field(None, gt=0, description="it is ended after so long; never if None")


class BenchmarkConfig(StageConfig):
    """A recipe of `cryomend benchmark`: data, methods, and how long each may take."""

    title: str = Field("benchmark", description="heads the tables")
    page: str = Field("", description="where recorded data come from")
    folder: str | None = Field(None, description="of recorded data; --data replaces it")
    simulated: SimulatedDataConfig | None = Field(None, description="data to simulate")
    tomograms: tuple[RecordedDataConfig, ...] = Field((), description="recorded data")
    methods: tuple[str, ...] = Field(
        ("wbp", "sirt", "sart", "gaussian", "wiener", "two-stage", "deepdewedge", "fast", "best"),
        min_length=1,
        description="rows of the table methods",
    )
    sirt_iterations: int = Field(10, ge=1, description="of sirt")
    sart_sweeps: int = Field(2, ge=1, description="of sart")
    gaussian_sigma: float = Field(1.5, gt=0, description="of gaussian where there is no truth, voxels")
    snr_falloffs: _Positives = Field(
        (0.3, 0.6, 1.0, 1.5), description="of wiener, the best by truth; the one nearest to 1 without"
    )
    deconvolution_strengths: _Positives = Field(
        (0.33, 0.67, 1.0), description="of wiener, the best by truth; the one nearest to 1 without"
    )
    two_stage: EffortConfig = Field(default_factory=EffortConfig, description="of two-stage")
    deepdewedge: EffortConfig = Field(default_factory=EffortConfig, description="of deepdewedge")
    per_data_set: DataSetTrainingConfig = Field(
        default_factory=DataSetTrainingConfig, description="of per-data-set"
    )
    ablation: AblationConfig = Field(
        default_factory=AblationConfig, description="of the tables noise and lambda"
    )
    external: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], ExternalConfig] = Field(
        default_factory=dict, description="programs of the user by name"
    )


Model = TypeVar("Model", bound=StageConfig)


def load_config(model: type[Model], path: str | Path | None, **overrides: Any) -> Model:
    """Read a YAML file into a configuration model; ``overrides`` that are not None win.

    Raises
    ------
    ValueError
        If the file is missing, is no YAML mapping or holds a key or value that the model refuses
        (pydantic names it by its dotted path).
    """
    values = {} if path is None else _read_yaml(Path(path))
    given = {k: v for k, v in overrides.items() if v is not None}
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        if path is None or all(e["loc"][:1] and e["loc"][0] in given for e in error.errors()):
            raise
        raise _refusal_of_file(path, model, error) from None


def _refusal_of_file(path: str | Path, model: type[StageConfig], error: ValidationError) -> ValidationError:
    """A refusal under the name of the file; for an option that does not exist, with the nearest that does."""
    mistakes: list[Any] = []
    for mistake in error.errors():
        *place, name = mistake["loc"] or ("",)
        if mistake["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(name), _options_at(model, place), n=1)
            said = "no such option" + "".join(f"; did you mean {option}?" for option in near)
            mistakes.append(
                {**mistake, "type": PydanticCustomError("no_such_option", "{said}", {"said": said})}
            )
        else:
            mistakes.append(mistake)
    return ValidationError.from_exception_data(str(path), mistakes)


def _options_at(model: type[StageConfig], place: Sequence[int | str]) -> list[str]:
    """Options of the section at a place; numbers of items and names that the user gave lead nowhere."""
    for key in place:
        if key in model.model_fields:
            model = _section_in(model.model_fields[str(key)].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[StageConfig] | None:
    """The model in the type of an option, if it holds one, or several of a kind."""
    if isinstance(annotation, type) and issubclass(annotation, StageConfig):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def list_mistakes(error: Any, *, options: Sequence[str] = ()) -> str:
    """Write a refusal by pydantic in one line: the file, each wrong option with its dotted path.

    What stands in no file and among the ``options`` of the command line is called as it is there.
    """
    file = f"{error.title}: " if "." in error.title else ""  # else the name of the model
    lines: dict[str, None] = {}  # a number that stands for both ends of a range is wrong once
    for mistake in error.errors():
        name = ".".join(map(str, mistake["loc"]))
        flag = "--" + name.split(".")[0].replace("_", "-")
        if not file and any(flag == option.split("=")[0] for option in options):
            name = flag
        said = mistake["msg"].removeprefix("Value error, ")
        said = "no such option" if mistake["type"] == "extra_forbidden" else said
        lines[f"{name}: {said}" if name else said] = None
    return file + "; ".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a configuration is a YAML mapping of option: value")
    return values


def find_preset(name: str) -> Path:
    """YAML file of a preset of specimens that comes with the package.

    Raises
    ------
    ValueError
        If there is no preset of that name.
    """
    known = sorted(file.stem for file in _PRESETS.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(known)}")
    return _PRESETS / f"{name}.yaml"


def dump_config(config: StageConfig, *, comment: str = "") -> str:
    """A configuration with every option as YAML text that `load_config` reads, under a comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)
    return head + text


def load_recipe(path: str | Path | None, *bases: dict[str, Any]) -> Recipe:
    """Read the sections of a YAML file; all defaults if None.

    Parameters
    ----------
    path : str or Path, optional
        The file. Where it has a key ``base``, that file (from its own folder) is read first.
    *bases : dict
        Values for what it leaves out, option by option; later ones win. Kinds of specimens are replaced
        all together.

    Returns
    -------
    Recipe

    Raises
    ------
    ValueError
        As `load_config`.
    """
    values: dict[str, Any] = {}
    for given in (*bases, {} if path is None else _read_with_base(Path(path), read=_read_yaml)):
        values = _merge(values, given)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        if path is None:
            raise
        raise _refusal_of_file(path, Recipe, error) from None


def load_benchmark(path: Path, *, named: Mapping[str, Path] | None = None) -> BenchmarkConfig:
    """Read a recipe of a benchmark (TOML) over the one that it names as its ``base``.

    Parameters
    ----------
    path : Path
        The recipe; its base is a file of the same folder, or one of ``named``.
    named : mapping of str to Path, optional
        Recipes that are known by name.

    Raises
    ------
    ValueError
        If a file is missing, is no TOML, leads back to itself or holds a key or value that the model refuses
        (pydantic names it by its dotted path).
    """
    values = _read_with_base(path, read=read_toml, named=named or {})
    try:
        return BenchmarkConfig.model_validate(values)
    except ValidationError as error:
        raise _refusal_of_file(path, BenchmarkConfig, error) from None


def _read_with_base(
    path: Path,
    above: tuple[Path, ...] = (),
    *,
    read: Callable[[Path], dict[str, Any]],
    named: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, Any]:
    """Options of a file over those of the one that it names as its base."""
    values = read(path)
    base = values.pop("base", None)
    if base is None:
        return values
    file = path.parent / str(base)
    if not file.is_file():
        file = named.get(str(base).removesuffix(".toml"), file)
    if file.resolve() in (path.resolve(), *above):
        raise ValueError(f"{path}: base {base} leads back to itself; name another file or leave it out")
    return _merge(_read_with_base(file, (path.resolve(), *above), read=read, named=named), values)


def _merge(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Options of ``over`` replace those of ``values``, section by section."""
    merged = dict(values)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict) and name != "specimens"
        merged[name] = _merge(merged[name], value) if both else value
    return merged
