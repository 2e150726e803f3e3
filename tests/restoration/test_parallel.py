"""Several processes: results of all tasks, messages, and deaths that stay alone."""

from __future__ import annotations

import importlib
import sys

import pytest

from cryomend.restoration.parallel import Died, work_in_processes

TASKS = """
import os, signal
import torch

def work(task, send):
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "exit":
        os._exit(3)
    send(f"working on {task}")
    return task * 2 if task != "threads" else torch.get_num_threads()
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Does as the task says; of a module that new processes find, wherever the tests are started."""
    (tmp_path / "tasks_of_processes.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("tasks_of_processes").work
    del sys.modules["tasks_of_processes"]


def test_deaths_take_only_their_own_task_with_them(work):
    messages = {}
    tasks = [1, "die", 2, "exit", 3, "threads"]
    ended = dict(work_in_processes(work, tasks, processes=2, threads=1, on_message=messages.__setitem__))
    assert ended == {0: 2, 1: Died(-9), 2: 4, 3: Died(3), 4: 6, 5: 1}
    assert messages == {0: "working on 1", 2: "working on 2", 4: "working on 3", 5: "working on threads"}
    assert str(ended[1]) == "its process ended by signal 9; if memory ran out, fewer --jobs need less"
    assert str(ended[3]).startswith("its process ended with 3")


def test_nothing_to_do_starts_nothing(work):
    assert list(work_in_processes(work, [], processes=3, threads=1, on_message=print)) == []


def test_whoever_stops_listening_ends_the_processes(work):
    running = work_in_processes(work, [1, 2, 3, 4], processes=2, threads=1, on_message=lambda *_: None)
    next(running)
    import multiprocessing

    children = multiprocessing.active_children()
    assert children
    running.close()
    for child in children:
        child.join(10)
        assert not child.is_alive()


@pytest.mark.parametrize("number", [1, 2])
def test_results_come_from_every_number_of_processes(work, number):
    ended = work_in_processes(work, [4, 5], processes=number, threads=1, on_message=lambda *_: None)
    assert sorted(ended) == [(0, 8), (1, 10)]
