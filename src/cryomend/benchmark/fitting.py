"""Fitting a network to the data of one tilt series, for so many steps or so long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor, nn

from cryomend.network.precision import autocast_dtype

__all__ = ["Progress", "build_seeded", "fit_network", "run_as_fitted"]

Progress = Callable[[float, str], None]
"""Told the share done, 0 to 1, and a line of text. What it raises ends the work; nothing is left behind."""

Network = TypeVar("Network", bound=nn.Module)
_WARM_UP = 20  # steps in which the learning rate rises
_BETAS = (0.9, 0.99)  # runs of a few hundred steps: the second moment forgets the first ones


def build_seeded(make: Callable[[], Network], *, seed: int, device: torch.device | str) -> Network:
    """Make a network whose weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().to(device)


def run_as_fitted(device: torch.device | str) -> AbstractContextManager[object]:
    """Number format in which networks run here: bfloat16 where the device has it in hardware."""
    dtype = autocast_dtype("auto", device)
    return torch.autocast(torch.device(device).type, dtype or torch.bfloat16, enabled=dtype is not None)


def fit_network(
    network: nn.Module,
    draw_loss: Callable[[float], Tensor],
    *,
    steps: int | None,
    seconds: float | None,
    learning_rate: float,
    progress: Progress | None = None,
) -> int:
    """Minimise a loss by Adam; the learning rate falls to zero by a half cosine.

    Parameters
    ----------
    network : Module
        Its parameters are changed.
    draw_loss : callable
        Told the share of the work that is done, 0 to 1; gives the loss of the next step.
    steps : int or None
        Steps at most; with ``seconds`` None the result does not depend on the clock.
    seconds : float or None
        Wall clock at most, for the fit alone.
    learning_rate : float
        At its highest.
    progress : callable, optional
        See `Progress`.

    Returns
    -------
    int
        Steps made.

    Raises
    ------
    ValueError
        If neither steps nor seconds are given, or one is not positive.
    FloatingPointError
        If the loss is not finite.
    """
    limits = [limit for limit in (steps, seconds) if limit is not None]
    if not limits or min(limits) <= 0:
        raise ValueError(f"give a positive number of steps or seconds, got {steps} and {seconds}")
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=_BETAS)
    begin, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        rate = learning_rate * min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss = draw_loss(share)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} after {step} steps; lower the learning rate")
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step += 1
        by_steps = 0.0 if steps is None else step / steps
        by_clock = 0.0 if seconds is None else (time.monotonic() - begin) / seconds
        share = min(1.0, max(by_steps, by_clock))
        if progress is not None:
            progress(share, f"step {step}, loss {loss.item():.4f}")
    return step
