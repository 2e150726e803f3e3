"""Several training processes, as ``torchrun`` starts them; one process is the case of count 1."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

__all__ = ["Processes", "is_first_process", "join_processes"]


@dataclass(frozen=True)
class Processes:
    """The processes of a run: number of this one, how many there are, and the device of this one."""

    rank: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def add(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over all processes; every process must call it."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(value) for value in total]

    def of_first(self, value: float) -> float:
        """The first process's value, so that all take the same decision by the clock."""
        return self.add([value if self.first else 0.0])[0]

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in order of rank; every process must call it."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def share_gradients(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that ``backward`` averages the gradients over all processes."""
        if self.count == 1:
            return network
        # of 1x1x1 convolutions, whose strides mean nothing
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)


def is_first_process() -> bool:
    """Whether this process is to speak to the user."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def join_processes(device: torch.device | str) -> Iterator[Processes]:
    """Join the process group that ``torchrun`` describes in the environment, if it does.

    Parameters
    ----------
    device : torch.device or str
        A CUDA device becomes the one of this process's ``LOCAL_RANK``, over NCCL; all else talks by Gloo.

    Yields
    ------
    Processes
    """
    device = torch.device(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    processes = Processes(distributed.get_rank(), count, device)
    try:
        yield processes
        processes.add([0.0])  # none leaves while another still writes
    finally:
        distributed.destroy_process_group()
