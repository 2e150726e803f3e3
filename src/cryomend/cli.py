"""The command line: one command per stage, in pipeline order.

Commands parse options, call the stage and print; they hold no science.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# what to say at Ctrl-C of a command that can go on
_GOES_ON = {
    "restore": "what is finished stays, --skip-done goes on",
    "simulate": "what is finished stays, the same command goes on",
    "benchmark": "what is finished stays, the same command goes on",
}


class _Commands(TyperGroup):
    """All commands; ends with exit code 130 and one line at Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as wrong:
            if wrong.param is not None and wrong.param.nargs > 1:
                wrong.message = f"needs {wrong.param.metavar}, {wrong.param.nargs} numbers"
            raise
        except KeyboardInterrupt as stop:
            if os.environ.get("RANK", "0") == "0":  # else another process of torchrun says it
                hint = _GOES_ON.get(ctx.invoked_subcommand)
                said = str(stop) or ("stopped" if hint is None else f"stopped; {hint}")
                typer.echo(f"cryomend: {said}", err=True)
            raise SystemExit(130) from None


# without a markup mode Typer prints errors as plain lines, not in boxes
app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Restore cryo-electron tomograms.",
)
noise_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Learn and sample the noise of real tilt series."
)
areas_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Areas for CNR and ENL.")


def _tell_version(asked: bool) -> None:
    from cryomend import __version__

    if asked:
        typer.echo(f"cryomend {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print it and end")
    ] = False,
) -> None:
    """Restore cryo-electron tomograms."""


# ---- specimen, acquire, simulate, reconstruct, train ----------------------------------------------

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML with the options of this stage")]
Seed = Annotated[int, typer.Option(min=0, help="random seed; equal seeds give equal results")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
OutputFolder = Annotated[Path, typer.Option("-o", "--output", help="folder")]
Structures = Annotated[
    list[str] | None,
    typer.Option(
        help="PDB, mmCIF or MRC files, folders of them, PDB or EMDB identifiers; several may follow"
    ),
]
MembraneStructures = Annotated[
    list[str] | None, typer.Option(help="the same for proteins that stand in membranes, axis along Z")
]

NoiseModels = Annotated[
    list[Path] | None,
    typer.Option(
        help="noise model from `cryomend noise fit`; repeat it for several, of which each pair draws one"
    ),
]
RescaleNoise = Annotated[
    bool, typer.Option("--rescale-noise", help="resample it from its own pixel size to the simulation's")
]


@app.command()
def specimen(
    output: OutputFolder,
    preset: Annotated[
        str | None, typer.Option(help="cytosol, membranes, filaments, virus, nucleus, purified, anything")
    ] = None,
    config: ConfigFile = None,
    shape: Annotated[tuple[int, int, int] | None, typer.Option(metavar="NZ NY NX", help="voxels")] = None,
    voxel_size: Annotated[float | None, typer.Option(help="Å")] = None,
    occupancy: Annotated[float | None, typer.Option(help="share of the slab, 0 to 1")] = None,
    structures: Structures = None,
    membrane_structures: MembraneStructures = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Pack macromolecules, membranes and filaments into a slab of ice."""
    from cryomend.config import SpecimenConfig, load_config
    from cryomend.restoration.predict import choose_device
    from cryomend.specimen import build_to_folder

    share = None if occupancy is None else (occupancy, occupancy)
    settings = load_config(
        SpecimenConfig, config, preset=preset, shape=shape, voxel_size=voxel_size, occupancy=share
    )
    with _progress_bar("building") as show:
        message = build_to_folder(
            settings, output, seed=seed, structures=structures or [],
            membrane_structures=membrane_structures or [], device=choose_device(device), on_progress=show,
        )  # fmt: skip
        show(1.0, "built")
    typer.echo(message, err=True)


@app.command()
def acquire(
    density: Annotated[Path, typer.Argument(help="potential in V, protein positive (MRC)")],
    output: OutputFolder,
    tilt_angles: Annotated[Path | None, typer.Option(help="list of angles (.tlt)")] = None,
    tilt_range: Annotated[
        tuple[float, float, float] | None, typer.Option(metavar="MIN MAX STEP", help="degrees")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="order: dose-symmetric, bidirectional or continuous")
    ] = None,
    mdoc: Annotated[Path | None, typer.Option(help="take exposures and order from this recording")] = None,
    config: ConfigFile = None,
    snr: Annotated[
        float | None, typer.Option(help="signal over noise power in each tilt, instead of counting noise")
    ] = None,
    snr_db: Annotated[float | None, typer.Option(help="the same in decibels, instead of --snr")] = None,
    fluence: Annotated[float | None, typer.Option(help="e⁻/Å² over the whole series")] = None,
    halves: Annotated[bool, typer.Option(help="write the even and odd frames too")] = True,
    voxel_size: Annotated[float | None, typer.Option(help="Å; replaces the header's")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Record a tilt series of a density: projection, CTF, damage, counting."""
    from cryomend.acquisition import acquire_file, choose_angles
    from cryomend.config import AcquisitionConfig, load_config
    from cryomend.restoration.predict import choose_device

    dose = None if fluence is None else (fluence, fluence)
    settings = load_config(AcquisitionConfig, config, snr=snr, snr_db=snr_db, fluence=dose, scheme=scheme)
    repeated = [n for n, v in (("--scheme", scheme), ("--fluence", fluence)) if v is not None]
    angles = choose_angles(tilt_angles, tilt_range, mdoc=mdoc, ordered_by=" and ".join(repeated))
    with _progress_bar("recording") as show:
        notes = acquire_file(
            density, output, config=settings, tilt_angles=angles, seed=seed, mdoc=mdoc, halves=halves,
            voxel_size=voxel_size, device=choose_device(device), on_progress=show,
        )  # fmt: skip
    _print_notes(notes)
    _print_written(output / "tilt_series.mrc")


def _print_notes(notes: list[str]) -> None:
    """Say on stderr what the user should know."""
    for note in notes:
        typer.echo(note, err=True)


def _print_written(*paths: Path | None) -> None:
    """Say on stderr where the results are."""
    _print_notes([f"wrote {path}" for path in paths if path is not None])


@app.command()
def simulate(
    output: OutputFolder,
    config: ConfigFile = None,
    count: Annotated[int, typer.Option(min=1, help="number of pairs")] = 1,
    structures: Structures = None,
    membrane_structures: MembraneStructures = None,
    noise: NoiseModels = None,
    rescale_noise: RescaleNoise = False,
    workers: Annotated[int, typer.Option(min=1, help="pairs simulated at a time")] = 1,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Make training pairs: specimen, acquisition, noise, what users do, and reconstruction in a chain."""
    from cryomend.config import load_recipe
    from cryomend.restoration.predict import choose_device
    from cryomend.training.maker import Ingredients
    from cryomend.training.simulate import simulate_to_folder

    settings = load_recipe(config).simulation
    given = Ingredients(structures or [], membrane_structures or [], noise or [], rescale_noise)
    with _progress_bar("simulating") as show:
        simulate_to_folder(
            settings, output, count=count, seed=seed, ingredients=given,
            workers=workers, device=choose_device(device), on_notes=_print_notes,
            on_done=lambda done: show(done / count, f"simulated {done} of {count}"),
        )  # fmt: skip
    _print_notes([f"{count} pair{'s' * (count > 1)} in {output}"])


@app.command()
def reconstruct(
    stack: Annotated[
        Path, typer.Argument(help="tilt series (MRC), aligned with its axis along Y, or see --alignment")
    ],
    thickness: Annotated[int, typer.Option(help="NZ, voxels after binning")],
    output: Annotated[Path, typer.Option("-o", "--output", help="tomogram (MRC)")],
    tilt_angles: Annotated[
        Path | None, typer.Option(help="list of angles (.tlt, .rawtlt, .mdoc); the .aln's if not given")
    ] = None,
    config: ConfigFile = None,
    method: Annotated[str | None, typer.Option(help="wbp, sirt or sart")] = None,
    iterations: Annotated[int | None, typer.Option(help="of sirt (10), sweeps of sart (2)")] = None,
    weighting: Annotated[str | None, typer.Option(help="of wbp: ramp or exact")] = None,
    alignment: Annotated[Path | None, typer.Option(help="IMOD .xf or AreTomo .aln")] = None,
    correct_ctf: Annotated[
        Path | None, typer.Option(help="CTFFIND, AreTomo, Gctf, RELION or IMOD defocus file: flips phases")
    ] = None,
    dose_weight: Annotated[
        Path | None, typer.Option(help="exposures (list, .mdoc, RELION .star): weights frequencies")
    ] = None,
    even: Annotated[Path | None, typer.Option(help="stack of the even frames, reconstructed alike")] = None,
    odd: Annotated[Path | None, typer.Option(help="stack of the odd frames")] = None,
    deconvolve: Annotated[
        bool, typer.Option("--deconvolve", help="Wiener-like, as tom_deconv and IsoNet")
    ] = False,
    defocus: Annotated[float | None, typer.Option(help="µm, for --deconvolve without --correct-ctf")] = None,
    bin: Annotated[float | None, typer.Option(help="Fourier-crop the images by this factor")] = None,
    tilt_offset: Annotated[float | None, typer.Option(help="degrees added to all tilts")] = None,
    x_tilt: Annotated[float | None, typer.Option(help="degrees, as IMOD's XAXISTILT")] = None,
    z_shift: Annotated[float | None, typer.Option(help="voxels by which the specimen moves up")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Å; replaces the header's")] = None,
    memory_limit: Annotated[float | None, typer.Option(help="GiB for the whole process")] = None,
    device: Device = "auto",
) -> None:
    """Reconstruct a tomogram from a tilt series."""
    from cryomend.config import ReconstructionConfig, load_config
    from cryomend.reconstruction import reconstruct_file
    from cryomend.restoration.predict import choose_device

    settings = load_config(
        ReconstructionConfig, config, method=method, iterations=iterations, weighting=weighting,
        defocus_um=defocus, bin=bin, tilt_offset=tilt_offset, x_tilt=x_tilt, z_shift=z_shift,
        pixel_size=pixel_size, memory_limit=memory_limit,
    )  # fmt: skip
    with _progress_bar("reconstructing") as show:
        _tell_reconstructed(output, even is not None, reconstruct_file(
            stack, output, thickness=thickness, config=settings, tilt_angles=tilt_angles, even=even, odd=odd,
            alignment=alignment, ctf=correct_ctf, doses=dose_weight, deconvolve=deconvolve,
            device=choose_device(device), on_progress=show,
        ))  # fmt: skip


def _tell_reconstructed(output: Path, halves: bool, notes: list[str]) -> None:
    """Say what there is to know of a reconstruction, and where it and its halves are."""
    from cryomend.reconstruction.files import name_halves

    _print_notes(notes)
    _print_written(output, *(name_halves(output) if halves else ()))


@app.command()
def train(
    output: Annotated[Path, typer.Option("-o", "--output", help="model (safetensors)")],
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(help="folders written by `cryomend simulate`; without, pairs are made all the time"),
    ] = None,
    config: ConfigFile = None,
    tilt_series: Annotated[
        list[Path] | None,
        typer.Option(
            "--for", help="tilt series (MRC) whose noise, tilts and pixels to learn; several may follow"
        ),
    ] = None,
    tilt_angles: Annotated[
        list[Path] | None,
        typer.Option(help="of --for: one list (.tlt, .mdoc) for all, or one each; else those beside them"),
    ] = None,
    pixel_size: Annotated[float | None, typer.Option(help="of --for, Å; replaces the headers'")] = None,
    bin: Annotated[
        float | None, typer.Option(help="of --for: voxels of the tomograms over pixels of the series")
    ] = None,
    structures: Structures = None,
    membrane_structures: MembraneStructures = None,
    noise: NoiseModels = None,
    rescale_noise: RescaleNoise = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="processes that make pairs; 0: training itself does, on its device  [default: half of the "
            "cores, on an accelerator 0]",
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            "--start-from",
            help="model whose weights to begin with: a name or a file  [default: none; with --for the one "
            "that restore would take]",
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="with --for: begin with random weights")
    ] = False,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="wall-clock limit")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from OUTPUT.checkpoint")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train the restoration network: on pairs made meanwhile, on those of folders, or for tilt series."""
    from cryomend.restoration.predict import choose_device
    from cryomend.training.maker import Ingredients
    from cryomend.training.series import UserSeries
    from cryomend.training.user import train_as_asked

    _keep_inputs((output,), config, tilt_series, tilt_angles, noise)
    given = Ingredients(structures or [], membrane_structures or [], noise or [], rescale_noise)
    series = UserSeries(tilt_series or [], tilt_angles or [], pixel_size, bin)
    with _training_progress() as (step, show):
        facts = train_as_asked(
            output, config=config, directories=pairs or [], series=series, ingredients=given, workers=workers,
            start_from=start_from, from_scratch=from_scratch, max_minutes=max_minutes, resume=resume,
            seed=seed, device=choose_device(device), on_step=step, on_progress=show, on_notes=_print_notes,
        )  # fmt: skip
    _print_trained(output, facts)


def _print_trained(output: Path, facts: dict[str, Any]) -> None:
    """Say what came of a training, in the first of its processes."""
    if os.environ.get("RANK", "0") == "0":
        made = [facts["stream"]] if "stream" in facts else []
        score = facts["validation_correlation"]
        scored = "no validation pairs" if score is None else f"validation correlation {score:.3f}"
        _print_notes([*made, f"wrote {output}: {scored}"])


@contextmanager
def _progress_bar(what: str, *, steps: bool = False) -> Iterator[Callable[[float, str], None]]:
    """Show a bar with the time left on stderr; yields what sets the share done and the text.

    With ``steps``, a log gets a line at each new one, what the text says up to a colon, instead of the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(what, total=1.0)
    told = [""]

    def show(share: float, text: str) -> None:
        if steps and not bar.console.is_terminal:
            before, told[0] = told[0], text.partition(":")[0]
            if told[0] != before:
                _print_notes([f"{share:4.0%}  {told[0]}"])
            return
        bar.start()  # only now: an error before the first step is to stand alone in one line
        bar.update(task, completed=min(share, 1.0), description=text)

    try:
        yield show
    except (Exception, KeyboardInterrupt):
        bar.remove_task(task)  # so is one after it
        bar.console.quiet = not bar.console.is_terminal  # where a bar that has gone leaves an empty line
        raise
    finally:
        if bar.live.is_started:  # else it would leave an empty line in a log
            bar.stop()


@contextmanager
def _training_progress() -> Iterator[tuple[Callable[[Any, float], None], Callable[[float, str], None]]]:
    """Show step, smoothed loss, best validation score and time left on stderr; the tables have the rest.

    Yields what to call after each step, and what sets the bar before the first.
    """
    smooth: list[float] = []
    with _progress_bar("training") as show:

        def on_step(trainer: Any, loss: float) -> None:
            smooth[:] = [0.98 * smooth[0] + 0.02 * loss] if smooth else [loss]
            best = f", best score {trainer.best_score:.4f}" if trainer.best_score > -1 else ""
            show(trainer.progress, f"step {trainer.step}, loss {smooth[0]:.4f}{best}")

        yield on_step, show


# ---- noise ----------------------------------------------------------------------------------------


@noise_app.command("extract")
def noise_extract(
    stacks: Annotated[list[Path], typer.Argument(help="tilt series, or tomograms (MRC)")],
    output: Annotated[Path, typer.Option("-o", "--output", help="patches (HDF5)")],
    tilt_angles: Annotated[
        list[Path] | None,
        typer.Option(help="one file for all stacks, or repeat it for each; without, they are tomograms"),
    ] = None,
    patch: Annotated[int, typer.Option(help="patch side in pixels")] = 128,
    areas: Annotated[
        list[Path] | None,
        typer.Option(help="use these areas: lines of `tilt y_first y_last x_first x_last`, * for all tilts"),
    ] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Å; replaces the headers'")] = None,
    max_patches: Annotated[int, typer.Option(min=8, help="most patches, shared evenly by the tilts")] = 20000,
    picture: Annotated[
        Path | None, typer.Option(help="tilts with the areas drawn (PNG)  [default: OUTPUT.png]")
    ] = None,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="draw none")] = False,
) -> None:
    """Cut noise patches from areas without structure."""
    from cryomend.io import check_writable
    from cryomend.noise import extract_noise

    drawing = None if no_picture else check_writable(picture or output.with_suffix(".png"))
    _keep_inputs((output, drawing), stacks, tilt_angles, areas)
    with _progress_bar("searching") as show:
        _, report = extract_noise(
            stacks, tilt_angles=tilt_angles or [], patch=patch, areas=areas or [], pixel_size=pixel_size,
            max_patches=max_patches, output=check_writable(output), picture=drawing, on_progress=show,
        )  # fmt: skip
        show(1.0, "written")
    report.append(f"{output}: the patches" + (f"; {drawing}: look where they are from" if drawing else ""))
    typer.echo("\n".join(report), err=True)


@noise_app.command("fit")
def noise_fit(
    patches: Annotated[Path, typer.Argument(help="from `cryomend noise extract`")],
    output: Annotated[Path, typer.Option("-o", "--output", help="model (safetensors)")],
    model: Annotated[str, typer.Option(help="wgan, spectral or gaussian")] = "wgan",
    max_minutes: Annotated[float | None, typer.Option(help="wall-clock limit of the training")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from OUTPUT.checkpoint")] = False,
    config: ConfigFile = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Fit a noise model to patches."""
    from cryomend.config import NoiseConfig, load_config
    from cryomend.noise import fit_noise_file
    from cryomend.restoration.predict import choose_device

    _keep_inputs((output,), patches, config)
    settings = load_config(NoiseConfig, config)
    with _progress_bar("fit") as show:
        fitted = fit_noise_file(
            patches, output, kind=model, config=settings, seed=seed, device=choose_device(device),
            max_minutes=max_minutes, resume=resume, on_progress=show,
        )  # fmt: skip
    _print_notes([*fitted.config["notes"], f"wrote {output} ({fitted.kind})"])


@noise_app.command("sample")
def noise_sample(
    model: Annotated[Path, typer.Argument(help="from `cryomend noise fit`")],
    tilt_angles: Annotated[Path, typer.Option(help="angle file (.tlt)")],
    output: Annotated[Path, typer.Option("-o", "--output", help="noise tilts (MRC)")],
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="NY NX", help="pixels; that of --signal if left out"),
    ] = None,
    seed: Seed = 0,
    raw: Annotated[bool, typer.Option("--raw", help="leave out the calibration of a learned model")] = False,
    pixel_size: Annotated[float | None, typer.Option(help="Å wanted; the model's own if left out")] = None,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="resample noise that was fitted at another pixel size")
    ] = False,
    signal: Annotated[Path | None, typer.Option(help="stack to match the noise to, with --snr-db")] = None,
    snr_db: Annotated[float | None, typer.Option(help="power of --signal over that of the noise")] = None,
    device: Device = "auto",
) -> None:
    """Make noise tilts of any size."""
    from cryomend.noise import SampleOptions, sample_noise_file
    from cryomend.restoration.predict import choose_device

    _keep_inputs((output,), model, tilt_angles, signal)
    options = SampleOptions(seed, not raw, pixel_size, rescale, signal, snr_db)
    with _progress_bar("sampling") as show:
        notes = sample_noise_file(
            model, output, tilt_angles=tilt_angles, shape=size, options=options,
            device=choose_device(device), on_progress=show,
        )  # fmt: skip
    _print_notes(notes)
    _print_written(output)


@noise_app.command("check")
def noise_check(
    real: Annotated[Path, typer.Argument(help="real noise: patches (HDF5) or a stack of noise only (MRC)")],
    sampled: Annotated[list[Path], typer.Argument(help="sampled noise: stacks or patches")],
    json: Annotated[Path, typer.Option(help="scores")],
    figure: Annotated[Path | None, typer.Option(help="spectra and scores (PNG)")] = None,
    tilt_angles: Annotated[
        Path | None, typer.Option(help="angles of the sampled stacks, to compare tilts by angle")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Measure how far sampled noise is from real noise."""
    from cryomend.io import check_writable, write_json
    from cryomend.noise import check_noise, draw_fidelity, summarise_fidelity

    _keep_inputs((json, figure), real, sampled, tilt_angles)
    for path in (json, figure):
        if path is not None:
            check_writable(path)
    with _progress_bar("comparing") as show:
        result = check_noise(real, sampled, tilt_angles=tilt_angles, seed=seed, on_progress=show)
        show(1.0, "compared")
    write_json(json, result)
    if figure is not None:
        draw_fidelity(figure, result)
    typer.echo("\n".join(summarise_fidelity(result)))
    _print_written(json, figure)


app.add_typer(noise_app, name="noise")

# ---- info, restore, sample ------------------------------------------------------------------------


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="MRC, .tlt, .rawtlt, .mdoc, .safetensors, or fast or best")],
) -> None:
    """Print what is understood of a file, or of a model of the package."""
    from cryomend.io import describe_file
    from cryomend.restoration.model import bundled_models, describe_model

    is_model = file.suffix.lower() == ".safetensors" or (str(file) in bundled_models() and not file.exists())
    described = (describe_model if is_model else describe_file)(file)
    width = max(map(len, described))
    for key, value in described.items():
        typer.echo(f"{key:<{width}}  {value}")


@app.command()
def restore(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN", help="tomograms (MRC), directories, patterns, lists")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="file, or directory for several inputs")],
    tilt_range: Annotated[
        tuple[float, float] | None, typer.Option(metavar="MIN MAX", help="extreme tilt angles, degrees")
    ] = None,
    tilt_angles: Annotated[
        Path | None, typer.Option(help="list of tilt angles; else one of the input's name beside it")
    ] = None,
    protein: Annotated[str, typer.Option(help="dark or bright in the input; kept in the output")] = "dark",
    voxel_size: Annotated[float | None, typer.Option(help="Å; replaces the header's")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="fast, best or a file  [default: best on an accelerator, fast on a CPU]"),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, mps, or several GPUs that share the tiles: cuda:0,cuda:1")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="auto, float32, bfloat16 or float16; auto is bfloat16 where the hardware has it"),
    ] = "auto",
    overlap: Annotated[
        int | None,
        typer.Option(help="voxels that neighbouring tiles share  [default: a quarter of the tile]"),
    ] = None,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="compile the network first; pays on GPUs, for many tomograms")
    ] = False,
    on_device_loss: Annotated[
        str, typer.Option(help="when a GPU stops answering: stop, or cpu to go on there")
    ] = "stop",
    jobs: Annotated[int, typer.Option(help="tomograms at a time on a CPU; they share its threads")] = 1,
    batch_report: Annotated[Path | None, typer.Option(help="JSON: one record per input")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML: pictures before and after, one input")] = None,
    average_along_y: Annotated[
        bool, typer.Option("--average-along-y", help="report: x-z pictures averaged along Y too")
    ] = False,
    keep_measured: Annotated[
        bool,
        typer.Option(
            "--keep-measured", help="where measured, the data by their signal-to-noise; network in the wedge"
        ),
    ] = False,
    fill_only: Annotated[
        bool, typer.Option("--fill-only", help="where measured, the data as they are; network in the wedge")
    ] = False,
    denoise_only: Annotated[
        bool, typer.Option("--denoise-only", help="network where measured; the wedge left as it was")
    ] = False,
    even: Annotated[
        Path | None,
        typer.Option(help="tomogram of one half, for --keep-measured and --confidence (with --odd)"),
    ] = None,
    odd: Annotated[Path | None, typer.Option(help="tomogram of the other half")] = None,
    confidence: Annotated[
        Path | None,
        typer.Option(
            help="MRC: one standard deviation over the contrast; costs 8 passes more, 10 with halves"
        ),
    ] = None,
    skip_done: Annotated[
        bool, typer.Option("--skip-done", help="leave alone what this model and these options have restored")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, write nothing")] = False,
) -> None:
    """Denoise tomograms and fill their missing wedge."""
    from cryomend.restoration.batch import Work, restore_files
    from cryomend.restoration.options import choose_options

    options = choose_options(
        keep_measured=keep_measured, fill_only=fill_only, denoise_only=denoise_only,
        even=even, odd=odd, confidence=confidence,
    )  # fmt: skip
    work = Work(precision, compile_network, on_device_loss, jobs, overlap)
    results = restore_files(
        inputs, output, tilt_range=tilt_range, tilt_angles_path=tilt_angles, protein=protein,
        voxel_size=voxel_size, model=model, device=device, batch_report=batch_report, report=report,
        average_along_y=average_along_y, options=options, work=work, skip_done=skip_done, dry_run=dry_run,
    )  # fmt: skip
    if any(result["status"] == "failed" for result in results):
        raise typer.Exit(1)


@app.command()
def sample() -> None:
    """Print the path of the sample tomogram that comes with the package."""
    from cryomend.restoration.model import sample_tomogram

    typer.echo(sample_tomogram())


# ---- evaluate, report -----------------------------------------------------------------------------


class Protein(str, Enum):
    """Grey level of protein in a file."""

    dark = "dark"
    bright = "bright"


@app.command()
def evaluate(
    volume: Annotated[Path, typer.Argument(help="restored (or raw) tomogram, MRC")],
    json: Annotated[Path, typer.Option(help="scores")],
    truth: Annotated[Path | None, typer.Option(help="what the volume should be, MRC")] = None,
    tilt_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="MIN MAX", help="degrees: scores in and outside the wedge"),
    ] = None,
    areas: Annotated[Path | None, typer.Option(help="areas (TOML) to measure CNR and ENL in")] = None,
    areas_of: Annotated[str | None, typer.Option(help="published areas, such as empiar-10045")] = None,
    protein: Annotated[Protein, typer.Option(help="protein in VOLUME")] = Protein.dark,
    truth_protein: Annotated[Protein, typer.Option(help="protein in TRUTH")] = Protein.bright,
    voxel_size: Annotated[float | None, typer.Option(help="Å; replaces what the headers say")] = None,
    raw: Annotated[
        Path | None, typer.Option(help="the tomogram before restoration: check noise; the report")
    ] = None,
    tilts: Annotated[
        Path | None, typer.Option(help="its tilt series (MRC), protein dark: checks reprojection, held-out")
    ] = None,
    tilt_angles: Annotated[Path | None, typer.Option(help="list of angles of --tilts")] = None,
    alignment: Annotated[
        Path | None, typer.Option(help="IMOD .xf or AreTomo .aln, if --tilts is not aligned")
    ] = None,
    reconstruction: Annotated[
        Path | None, typer.Option(help="YAML that the tomogram was reconstructed with, if any")
    ] = None,
    even: Annotated[Path | None, typer.Option(help="raw tomogram of one half: check halves")] = None,
    odd: Annotated[Path | None, typer.Option(help="raw tomogram of the other half")] = None,
    even_restored: Annotated[
        Path | None, typer.Option(help="that half restored; without, the model restores both")
    ] = None,
    odd_restored: Annotated[Path | None, typer.Option(help="the other half restored")] = None,
    check: Annotated[
        str | None,
        typer.Option(
            help="reprojection, held-out, halves, noise, with commas between  [default: all that "
            "the files allow]"
        ),
    ] = None,
    hold_out: Annotated[
        str, typer.Option(help="tilts kept apart: every:K, or outermost:N at each end")
    ] = "every:5",
    band: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LONGEST SHORTEST", help="periods of the tilts that count, Å  [default: 400 40]"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="of the checks: fast, best or a file  [default: that of restore]")
    ] = None,
    device: Device = "auto",
    report: Annotated[Path | None, typer.Option(help="HTML: before and after, with the checks")] = None,
    confidence: Annotated[
        Path | None, typer.Option(help="volume of `cryomend restore --confidence`, hatched in the report")
    ] = None,
    half: Annotated[
        Path | None,
        typer.Option(help="raw tomogram of the other half, where VOLUME is one half: FSC, spectral SNR"),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="map, PDB or mmCIF file to look for in VOLUME, and in --raw if given")
    ] = None,
    particles: Annotated[
        Path | None, typer.Option(help="where it is: particles.star of `cryomend specimen`, or RELION-5's")
    ] = None,
    species: Annotated[str | None, typer.Option(help="of --particles, if the table has several")] = None,
    template_diameter: Annotated[
        float | None, typer.Option(help="Å that are compared around a voxel  [default: the template's]")
    ] = None,
    angular_step: Annotated[
        float | None, typer.Option(help="degrees between the poses of --template  [default: 30]")
    ] = None,
) -> None:
    """Score a volume against a truth or over areas, and check it on the data that it came from."""
    from cryomend.restoration.check_files import CheckData, CheckSettings, evaluate_and_check

    given = CheckData(raw, tilts, tilt_angles, alignment, reconstruction, even, odd, even_restored,
                      odd_restored, confidence)  # fmt: skip
    how = CheckSettings(check, hold_out, band, model, device, protein.value, voxel_size, tilt_range)
    pick = template, particles, species, template_diameter, angular_step
    read = volume, truth, areas, half, template, particles, model, *vars(given).values()
    chosen = _look_before_work((json, report), read, areas, areas_of)
    with _progress_bar("checking") as show:
        further = _further_scores(json, volume, raw, half, pick, how, show)
        result = further | evaluate_and_check(
            volume, given, how, truth_path=truth, areas=chosen, alone=not further, further=further,
            negate=protein != truth_protein, report=report, on_progress=show, command=_typed(),
        )  # fmt: skip
    _tell_result(json, report, result)


def _look_before_work(
    written: tuple[Path | None, ...],
    read: tuple[Path | str | None, ...],
    areas: Path | None,
    areas_of: str | None,
) -> Any:
    """See that no result goes over what is read; the areas."""
    from cryomend.evaluation import choose_areas

    _keep_inputs(written, *read)
    return choose_areas(areas, areas_of)


def _typed() -> str:
    """What the user typed."""
    return shlex.join(["cryomend", *sys.argv[1:]])


def _keep_inputs(written: tuple[Path | None, ...], *read: Path | str | list[Path] | None) -> None:
    """Refuse results that would go over what is read."""
    from cryomend.io import refuse_overwriting

    paths = (path for one in read for path in (one if isinstance(one, list) else [one]))
    refuse_overwriting(written, paths)


def _further_scores(
    json: Path,
    volume: Path,
    raw: Path | None,
    half: Path | None,
    pick: tuple[str | None, Path | None, str | None, float | None, float | None],
    how: Any,
    show: Callable[[float, str], None],
) -> dict[str, Any]:
    """Score a volume against the other half, and by looking for a template; empty if nothing is asked.

    Before any work it sees that the result can be written.
    """
    from cryomend.evaluation import PickSettings, Template, evaluate_half_files, score_picking_files
    from cryomend.io import check_writable, open_volume
    from cryomend.restoration.predict import choose_device
    from cryomend.specimen import load_structure
    from cryomend.specimen.macromolecule import template_grid

    check_writable(json)
    template, particles, species, diameter, step = pick
    settings = PickSettings(species, diameter, step, how.tilt_range, how.protein, how.voxel_size)
    further = evaluate_half_files(volume, half, tilt_range=how.tilt_range, voxel_size=how.voxel_size)
    looked_for = None
    if template is not None:
        molecule = load_structure(template)
        size = open_volume(volume, voxel_size=how.voxel_size).voxel_size
        density, spacing = template_grid(molecule, voxel_size=size)
        looked_for = Template(molecule.name, density, spacing, 2 * molecule.radius)
    return further | score_picking_files(
        {"volume": volume, "raw": raw}, looked_for, particles, settings, device=choose_device(how.device),
        on_progress=show,
    )  # fmt: skip


def _tell_result(path: Path, page: Path | None, result: dict[str, Any]) -> None:
    """Write what an evaluation found, and print it: notes and files on stderr, tables on stdout."""
    from cryomend.evaluation import fourier_rows, picking_rows
    from cryomend.io import write_json
    from cryomend.restoration.check_files import result_tables

    write_json(path, result)
    _print_notes(result.get("notes", []))
    tables = result_tables(result)
    if "halves" in result:
        tables.append(fourier_rows(result["halves"], "half against half"))
    if "template_matching" in result:
        tables.append(picking_rows(result))
    for rows in tables:
        _print_table(rows)
    _print_written(path, page)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows as a table, the first being its head."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    Console().print(table)


@areas_app.command("suggest")
def areas_suggest(
    tomogram: Annotated[Path, typer.Argument(help="tomogram before restoration, MRC")],
    output: Annotated[Path, typer.Option("-o", "--output", help="areas (TOML)")],
    restored: Annotated[
        Path | None, typer.Option(help="the tomogram restored, drawn beside it; nothing is chosen on it")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="areas of each kind")] = 3,
    size: Annotated[
        tuple[int, int, int] | None,
        typer.Option(metavar="NZ NY NX", help="voxels  [default: up to 10 50 50, by the volume]"),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="x-y slice with the areas (PNG)")] = None,
    voxel_size: Annotated[float | None, typer.Option(help="Å; replaces the header's")] = None,
) -> None:
    """Propose foreground and background areas of a tomogram, and draw them."""
    from cryomend.evaluation import suggest_areas_files

    _print_notes(suggest_areas_files(
        tomogram, output, restored=restored, count=count, size=size, picture=picture, voxel_size=voxel_size
    ))  # fmt: skip


app.add_typer(areas_app, name="areas")


@app.command()
def report(
    restored: Annotated[Path, typer.Argument(help="restored tomogram, MRC")],
    output: Annotated[Path, typer.Option("-o", "--output", help="page (HTML)")],
    raw: Annotated[Path | None, typer.Option(help="the tomogram before restoration, MRC")] = None,
    tilt_range: Annotated[
        tuple[float, float] | None, typer.Option(metavar="MIN MAX", help="degrees: draws the wedge")
    ] = None,
    average_along_y: Annotated[
        bool, typer.Option("--average-along-y", help="show the mean section of a filament near y too")
    ] = False,
    voxel_size: Annotated[float | None, typer.Option(help="Å; replaces what the headers say")] = None,
    confidence: Annotated[
        Path | None, typer.Option(help="volume of `cryomend restore --confidence`, striped where doubtful")
    ] = None,
    checks: Annotated[
        Path | None, typer.Option(help="scores and checks of `cryomend evaluate --json`, to show them")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="what the volume should be, MRC: curves, scores")] = None,
    tilts: Annotated[Path | None, typer.Option(help="its tilt series (MRC), protein dark: checks")] = None,
    tilt_angles: Annotated[Path | None, typer.Option(help="list of angles: the wedge; with --tilts")] = None,
    alignment: Annotated[
        Path | None, typer.Option(help="IMOD .xf or AreTomo .aln, if --tilts is not aligned")
    ] = None,
    reconstruction: Annotated[
        Path | None, typer.Option(help="YAML that the tomogram was reconstructed with, if any")
    ] = None,
    even: Annotated[Path | None, typer.Option(help="raw tomogram of one half: checks, curves")] = None,
    odd: Annotated[Path | None, typer.Option(help="raw tomogram of the other half")] = None,
    even_restored: Annotated[Path | None, typer.Option(help="that half restored")] = None,
    odd_restored: Annotated[Path | None, typer.Option(help="the other half restored")] = None,
    areas: Annotated[Path | None, typer.Option(help="areas (TOML) to measure CNR and ENL in")] = None,
    areas_of: Annotated[str | None, typer.Option(help="published areas, such as empiar-10045")] = None,
    check: Annotated[
        str | None,
        typer.Option(
            help="reprojection, held-out, halves, noise, with commas between  [default: with --tilts, or "
            "--even and --odd, all that the files allow; else none]"
        ),
    ] = None,
    protein: Annotated[Protein, typer.Option(help="protein in RESTORED")] = Protein.dark,
    truth_protein: Annotated[Protein, typer.Option(help="protein in TRUTH")] = Protein.bright,
    model: Annotated[
        str | None, typer.Option(help="of the checks: fast, best or a file  [default: that of restore]")
    ] = None,
    device: Device = "auto",
) -> None:
    """Show a restored tomogram on one HTML page: slices, spectra, scores, checks, where it comes from."""
    from cryomend.restoration.check_inputs import CheckData, CheckSettings
    from cryomend.restoration.report import ReportData, write_report

    given = CheckData(raw, tilts, tilt_angles, alignment, reconstruction, even, odd, even_restored,
                      odd_restored, confidence)  # fmt: skip
    how = CheckSettings(check, model=model, device=device, protein=protein.value, voxel_size=voxel_size,
                        tilt_range=tilt_range)  # fmt: skip
    read = restored, truth, checks, areas, model, *vars(given).values()
    chosen = _look_before_work((output,), read, areas, areas_of)
    shown = ReportData(truth, chosen, protein != truth_protein, checks,
                       average_along_y, _typed())  # fmt: skip
    with _progress_bar("checking") as show:
        write_report(restored, output, given, how, shown, on_progress=show)
    _print_written(output)


# ---- benchmark ------------------------------------------------------------------------------------


@app.command()
def benchmark(
    recipe: Annotated[
        str,
        typer.Argument(
            help="tiny, small, full, empiar-10045, empiar-10499, empiar-10678, empiar-10643, or a TOML file"
        ),
    ],
    output: OutputFolder,
    methods: Annotated[
        str | None,
        typer.Option(help="rows of the table methods, with commas between  [default: the recipe's]"),
    ] = None,
    table: Annotated[str, typer.Option(help="methods, noise or lambda")] = "methods",
    data: Annotated[Path | None, typer.Option(help="folder of recorded data")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Compare methods on simulated or recorded data: tables, pictures and one HTML page; resumes."""
    from cryomend.benchmark import BenchmarkOptions, run_benchmark

    command = " ".join(["cryomend", *sys.argv[1:]])
    options = BenchmarkOptions(methods, table, data, seed, device, command)
    with _progress_bar("benchmark", steps=True) as show:
        lines = run_benchmark(recipe, output, options, on_progress=show)
    typer.echo("\n".join(lines))
    _print_written(output / "benchmark.html")


def main() -> None:
    """Run the command line; errors a user can cause end in one line on stderr and exit code 2."""
    _share_cores()
    try:
        _run_command()
    except SystemExit as end:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            # One of several processes of torchrun: threads of its closed process group can abort the
            # interpreter while it shuts down, after all is written, and the run would count as failed.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        raise


def _share_cores() -> None:
    """Let threads that wait for each other sleep after some microseconds, unless the user has said otherwise.

    They spin for milliseconds by default; where other programs run, each waits so for one that has no core.
    To be called before torch is loaded; what is started later inherits it.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _run_command() -> None:
    """The command of the arguments; ends with ``SystemExit``."""
    try:
        app(args=_spread(sys.argv[1:]))
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("CRYOMEND_DEBUG"):
            raise
        typer.echo(f"cryomend: {_one_line(error)}", err=True)
        raise SystemExit(2) from None
    except (RuntimeError, MemoryError) as error:
        said = _said_of_memory(error)
        if said is None or os.environ.get("CRYOMEND_DEBUG"):
            raise
        typer.echo(f"cryomend: {said}", err=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _said_of_memory(error: BaseException) -> str | None:
    """What to say where memory or a device failed; None of other errors, which are ours."""
    from cryomend.restoration.engine import is_device_lost, is_out_of_memory

    if is_out_of_memory(error):
        return "out of memory; free some, take a smaller volume, crop or batch, or another --device"
    if is_device_lost(error):
        return f"a device stopped answering ({str(error).splitlines()[0]}); try again or with --device cpu"
    return None


def _spread(arguments: list[str]) -> list[str]:
    """Repeat an option that takes several values before each of them, as Click wants it."""
    options = ["--structures", "--membrane-structures"]
    if arguments[:1] == ["train"]:
        options += ["--for", "--noise", "--tilt-angles"]
    spread: list[str] = []
    several = ""
    for argument in arguments:
        if argument.startswith("-"):
            several = argument if argument in options else ""
        elif several and spread[-1] != several:
            spread.append(several)
        spread.append(argument)
    return spread


def _one_line(error: Exception) -> str:
    """Write an error in one line."""
    if hasattr(error, "errors"):  # pydantic's
        from cryomend.config import list_mistakes

        return list_mistakes(error, options=sys.argv)
    return " ".join(str(error).split()) or type(error).__name__
