"""Memory that was freed goes back to the system: glibc keeps it otherwise. Elsewhere this does
nothing."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8  # malloc.h


def few_heaps() -> None:
    """Lets dozens of threads share two heaps instead of eight a core, so that what one has freed
    the others use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def trim() -> None:
    """Returns what is free at present; takes some milliseconds."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
