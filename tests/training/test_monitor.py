import builtins
import csv
import errno
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cryomend.io import InputError
from cryomend.training.monitor import Monitor

PICTURE = np.arange(200, dtype=np.uint8).reshape(10, 20)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_tables_pictures_and_events_are_written(tmp_path):
    monitor = Monitor(tmp_path / "m.run")
    monitor.record_step(1, {"loss": 0.5, "stall": 0.1})
    monitor.record_step(2, {"loss": 0.25, "stall": 0.1})
    monitor.record_validation(2, {"correlation": 0.9}, PICTURE)
    monitor.close()
    assert rows(tmp_path / "m.run/steps.csv") == [
        ["step", "loss", "stall"],
        ["1", "0.5", "0.1"],
        ["2", "0.25", "0.1"],
    ]
    assert rows(tmp_path / "m.run/validation.csv")[1] == ["2", "0.9"]
    with Image.open(tmp_path / "m.run/step_000002.png") as image:
        assert np.array_equal(np.asarray(image), PICTURE)
    assert not list(tmp_path.rglob("*.partial"))


def test_events_hold_the_curves_and_the_picture(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor = Monitor(tmp_path)
    monitor.record_step(1, {"loss": 0.5})
    monitor.record_validation(1, {"wedge_fsc": 0.25}, PICTURE)
    monitor.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("validation/wedge_fsc")] == [(1, 0.25)]
    assert events.Images("sections")[0].width == 20


def test_a_resumed_run_takes_back_the_rows_of_the_steps_it_repeats(tmp_path):
    first = Monitor(tmp_path)
    for step in (1, 2, 3, 4):
        first.record_step(step, {"loss": float(step)})
    first.close()
    second = Monitor(tmp_path)
    second.record_step(3, {"loss": 30.0})
    second.record_step(4, {"loss": 40.0})
    second.close()
    assert [row[1] for row in rows(tmp_path / "steps.csv")] == ["loss", "1.0", "2.0", "30.0", "40.0"]


def test_without_tensorboard_it_says_so_once_and_goes_on(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def without(name, *rest):
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING):
        monitor = Monitor(tmp_path)
        for step in (1, 2, 3):
            monitor.record_step(step, {"loss": 1.0})
        monitor.record_validation(3, {"correlation": 0.5}, PICTURE)
        monitor.close()
    assert [record.message.startswith("tensorboard is not installed") for record in caplog.records] == [True]
    assert len(rows(tmp_path / "steps.csv")) == 4
    assert (tmp_path / "step_000003.png").exists()


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    monitor = Monitor(tmp_path / "m.run")
    monitor.record_step(1, {"loss": 1.0})

    def refuse(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cannot write into .*m\.run: no space left on device; make room"):
        monitor.record_step(2, {"loss": 1.0})
    monkeypatch.undo()
    monitor.close()
