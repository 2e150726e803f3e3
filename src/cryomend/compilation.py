"""How inner loops are compiled for the CPU; every kernel in the package goes through here."""

from __future__ import annotations

from typing import Any

import numba

__all__ = ["compile_kernel"]


def compile_kernel(function: Any) -> Any:
    """Compile without holding the interpreter; kept on disk where a place for it can be found."""
    try:
        return numba.njit(nogil=True, fastmath=True, boundscheck=False, cache=True)(function)
    except RuntimeError:  # neither the package nor the user has a folder that can be written
        return numba.njit(nogil=True, fastmath=True, boundscheck=False)(function)
