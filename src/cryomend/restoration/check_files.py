"""`cryomend evaluate` on files: scores against a truth, checks on the user's own data, and their page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryomend.evaluation import evaluate_files, summary_rows
from cryomend.evaluation.checks import require_matching, require_tilt_range
from cryomend.evaluation.halves import require_different
from cryomend.evaluation.metrics import correlation
from cryomend.evaluation.projections import BAND
from cryomend.evaluation.verdict import Check, check_rows
from cryomend.io import (
    InputError,
    check_writable,
    open_stack,
    open_volume,
    read_sections,
    read_tilt_angles,
    read_volume,
)
from cryomend.restoration.check import TiltData, check_halves, check_held_out, check_noise, check_reprojection
from cryomend.restoration.check_inputs import (
    MEASURE,
    CheckData,
    CheckSettings,
    choose_checks,
    choose_held_out,
    plan_tilts,
    possible_checks,
    require_pair,
)
from cryomend.restoration.engine import device_error
from cryomend.restoration.model import choose_model, load_model
from cryomend.restoration.page import ReportData, write_page
from cryomend.restoration.predict import choose_device, restore_tomogram
from cryomend.restoration.resample import resample_volume, shape_for_network

__all__ = ["CheckData", "CheckSettings", "check_files", "evaluate_and_check", "result_tables"]

_CROSSED = 0.02  # sum of two correlations
_SAME = 0.95  # correlation of two restorations of one tomogram by one model, tiles cut anyhow

Progress = Callable[[float, str], None]


def evaluate_and_check(
    volume: Path,
    data: CheckData,
    settings: CheckSettings,
    *,
    report: Path | None = None,
    further: Mapping[str, Any] | None = None,
    command: str = "",
    on_progress: Progress = lambda share, text: None,
    **scoring: Any,
) -> dict[str, Any]:
    """Score a volume as `cryomend.evaluation.evaluate_files` does, carry out its checks, and write the page.

    Parameters
    ----------
    volume : Path
        Restored tomogram.
    data : CheckData
        What the checks compare it with; none are made without.
    settings : CheckSettings
        Which, and how.
    report : Path, optional
        HTML page with the checks; needs ``data.raw``.
    further : mapping, optional
        Scores that were found already, for the page.
    command : str
        What was asked for, for the page.
    on_progress : callable
        Told the share that is done and what is being done.
    **scoring
        ``truth_path``, ``areas``, ``negate`` of `cryomend.evaluation.evaluate_files`.

    Returns
    -------
    dict
        The scores, and under ``checks`` a record of each check, under ``notes`` what to know of them, under
        ``model`` the name of the one that restored for them, if any, and under ``tilt_range_degrees`` the
        extreme tilt angles, if known.

    Raises
    ------
    InputError
        If a file cannot be used, files do not belong together, or something that was asked for needs another.
    """
    require_tilt_range(settings.tilt_range)
    if report is not None and data.raw is None:
        raise InputError("--report shows the tomogram before and after restoration; give --raw FILE too")
    if data.confidence is not None and report is None:
        raise InputError("--confidence is drawn in the report; give --report FILE too")
    if not (settings.wanted is not None or report is not None or possible_checks(data)):
        return evaluate_files(
            volume, tilt_range=settings.tilt_range, voxel_size=settings.voxel_size, **scoring
        )
    session = _Session(volume, data, settings)
    session.check_places(report)
    about = session.describe()  # reads the angles before the work
    result: dict[str, Any] = {}
    if scoring.get("truth_path") is not None or scoring.get("areas") is not None:
        result = evaluate_files(
            volume, tilt_range=session.tilt_range, voxel_size=settings.voxel_size, **scoring
        )
    result = result | about | {"checks": [check.record() for check in session.run(on_progress)]}
    result["notes"] = session.notes
    if report is not None:
        shown = ReportData(
            scoring.get("truth_path"), scoring.get("areas"), scoring.get("negate", False), command=command
        )
        write_page(volume, report, data, settings, shown, dict(further or {}) | result)
    return result


def check_files(volume: Path, data: CheckData, settings: CheckSettings | None = None) -> list[Check]:
    """Carry out the checks of a restored tomogram.

    Parameters
    ----------
    volume : Path
        Restored tomogram.
    data : CheckData
        What it is compared with.
    settings : CheckSettings, optional
        Which checks, and how; all that the files allow if None.

    Returns
    -------
    list of Check

    Raises
    ------
    InputError
        As `evaluate_and_check`.
    """
    return _Session(volume, data, settings or CheckSettings()).run(lambda share, text: None)


def result_tables(result: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Lay a result of `evaluate_and_check` out as tables, the first row of each being its head."""
    tables = [summary_rows(result)] if "truth" in result or "areas" in result else []
    if result.get("checks"):
        tables.append(check_rows([Check(**record) for record in result["checks"]]))
    return tables


class _Session:
    """Files whose headers fit together, and what several checks share."""

    def __init__(self, volume: Path, data: CheckData, settings: CheckSettings) -> None:
        self.data, self.settings = data, settings
        self.notes: list[str] = []
        self.names = choose_checks(data, settings.wanted)
        if settings.protein not in ("dark", "bright"):
            raise InputError(f"--protein must be dark or bright, got {settings.protein}")
        self.header = open_volume(volume, voxel_size=settings.voxel_size)
        self.path = volume
        pairs = {"--even": data.even, "--odd": data.odd}
        restored = {"--even-restored": data.even_restored, "--odd-restored": data.odd_restored}
        for files in (pairs, restored):
            require_pair(files)
        if data.even_restored is not None and data.even is None:
            raise InputError(
                "--even-restored and --odd-restored are compared with --even and --odd; give them"
            )
        for path in (data.raw, *pairs.values(), *restored.values()):
            if path is not None:
                require_matching(self.header, open_volume(path, voxel_size=settings.voxel_size))
        self.plan = self.stack = None
        self.z_shift = 0.0
        self.apart = np.zeros(0, dtype=bool)
        if data.tilts is not None:
            self.stack = open_stack(data.tilts)
            self.plan, config = plan_tilts(self.stack, self.header, data, volume)
            self.z_shift = config.z_shift
            self.apart = choose_held_out(settings.hold_out, self.plan, data.tilts)
        self.device = choose_device(settings.device)
        if {"held-out", "noise"} & set(self.names) or ("halves" in self.names and not data.even_restored):
            self._load_model()
        else:
            self.model = ""

    def _load_model(self) -> None:
        """Load the model that restores again, and see that it is one for these voxels."""
        self.network, metadata = load_model(choose_model(self.settings.model, self.device).model)
        self.model = str(metadata["name"])
        shape, trained = self.header.data.shape, metadata.get("voxel_size_range")
        try:
            self.sampling = shape_for_network(shape, self.header.voxel_size, trained)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    def describe(self) -> dict[str, Any]:
        """Say what is checked, between which tilts, and with which model, if any."""
        about = {
            "volume": str(self.path),
            "shape_zyx": list(self.header.data.shape),
            "voxel_size_angstrom": self.header.voxel_size,
            "tilt_range_degrees": self.tilt_range,
        }
        return about | ({"model": self.model} if self.model else {})

    def check_places(self, report: Path | None) -> None:
        """See that the page can be written, and that what it shows is sound."""
        if report is not None:
            check_writable(report)
            for path in (self.path, self.data.raw, self.data.confidence):
                if path is not None:
                    opened = open_volume(path, voxel_size=self.settings.voxel_size)
                    require_matching(self.header, opened)
                    for _ in read_sections(opened):  # refuses voxels that are not finite, or all equal
                        pass

    def run(self, on_progress: Progress) -> list[Check]:
        """Carry out the checks, one after the other."""
        work = {
            "reprojection": self._check_reprojection,
            "held-out": self._check_held_out,
            "halves": self._check_halves,
            "noise": self._check_noise,
        }
        checks: list[Check] = []
        for n, name in enumerate(self.names):
            on_progress(n / len(self.names), f"check: {name}")
            try:
                checks += work[name]()
            except InputError:
                raise
            except ValueError as error:  # of a kernel, which does not know the file
                raise InputError(f"{self.path}, check {name}: {error}") from error
            except RuntimeError as error:
                raise device_error(error, self.device) or error from error
        on_progress(1.0, "checked")
        return checks

    def read(self, path: Path) -> Tensor:
        """Read a volume, protein dark."""
        data = torch.from_numpy(read_volume(path, voxel_size=self.settings.voxel_size).data)
        return data.neg_() if self.settings.protein == "bright" else data

    def restore(self, tomogram: Tensor) -> Tensor:
        """Restore with the model, resampled for it as `cryomend restore` does."""
        data = tomogram if self.sampling is None else resample_volume(tomogram, self.sampling[0])
        restored = restore_tomogram(data, self.network, device=self.device)
        return restored if self.sampling is None else resample_volume(restored, self.header.data.shape)

    @property
    def tilt_range(self) -> tuple[float, float] | None:
        """Extreme tilt angles as given or listed, just inside ±90 degrees."""
        if self.settings.tilt_range is not None:
            return self.settings.tilt_range
        angles = self.plan.tilt_angles if self.plan is not None else None
        if angles is None and self.data.tilt_angles is not None:
            angles = read_tilt_angles(self.data.tilt_angles)
        if angles is None or angles.min() == angles.max():
            return None
        return max(float(angles.min()), -89.9), min(float(angles.max()), 89.9)

    @cached_property
    def tilts(self) -> TiltData:
        """The tilts, prepared as for a reconstruction."""
        assert self.plan is not None and self.stack is not None
        images = torch.stack(list(self.plan.prepare(self.stack, self.stack, "cpu")))
        return TiltData(
            images,
            self.plan.tilt_angles,
            self.apart,
            self.header.voxel_size,
            centre_z=self.header.data.shape[0] // 2 + self.z_shift,
            band=self.settings.band or BAND,
        )

    @cached_property
    def unseen(self) -> Tensor:
        """The raw tomogram without the tilts that are kept apart."""
        return self.tilts.reconstruct(self.header.data.shape[0])

    def _check_reprojection(self) -> list[Check]:
        # of the outermost tilts a tomogram without them knows little: no measure of one that has seen them
        volume = self.read(self.path)
        if self.settings.hold_out == MEASURE:
            return list(check_reprojection(volume, self.tilts, unseen=self.unseen))
        assert self.plan is not None and self.data.tilts is not None
        apart = choose_held_out(MEASURE, self.plan, self.data.tilts)
        return list(check_reprojection(volume, replace(self.tilts, apart=apart)))

    def _check_held_out(self) -> list[Check]:
        depth = self.header.data.shape[0]
        return [check_held_out(self.tilts, self.restore, thickness=depth, raw=self.unseen)]

    def _check_halves(self) -> list[Check]:
        data = self.data
        assert data.even is not None and data.odd is not None
        even, odd = _different(self.read(data.even), self.read(data.odd), data.even, data.odd)
        if data.even_restored is not None and data.odd_restored is not None:
            restored = self.read(data.even_restored), self.read(data.odd_restored)
            own = correlation(restored[0], even) + correlation(restored[1], odd)
            crossed = correlation(restored[0], odd) + correlation(restored[1], even)
            if crossed > own + _CROSSED:  # what a restoration keeps of the noise is that of its own half
                raise InputError(
                    f"{data.even_restored} is nearer to {data.odd} than to {data.even}; are the halves mixed "
                    "up? Restore each half by itself"
                )
        else:
            restored = self.restore(even), self.restore(odd)
        size = self.header.voxel_size
        return [check_halves(even, odd, *restored, voxel_size=size, tilt_range=self.tilt_range)]

    def _check_noise(self) -> list[Check]:
        data = self.data
        assert data.raw is not None
        raw, halves = self.read(data.raw), None
        if data.even is not None and data.odd is not None:
            halves = _different(self.read(data.even), self.read(data.odd), data.even, data.odd)
        restored = self.restore(raw)
        if correlation(restored, self.read(self.path)) < _SAME:
            self.notes.append(
                f"{self.path} is not what {self.model} makes of {data.raw}: "
                "held-out, halves and noise judge the model, not the file"
            )
        generator = torch.Generator().manual_seed(self.settings.seed)
        return check_noise(raw, restored, self.restore, generator=generator, halves=halves)


def _different(a: Tensor, b: Tensor, path_a: Path, path_b: Path) -> tuple[Tensor, Tensor]:
    """Refuse halves that are copies of each other: their noise would count as signal."""
    try:
        require_different(a, b)
    except ValueError as error:
        raise InputError(f"{path_a} and {path_b}: {error}") from None
    return a, b
