"""What takes longer than a second says so, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Step = Callable[[str], AbstractContextManager[None]]


def silent(what: str) -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def shown(what: str) -> Iterator[None]:
    """A spinner where stderr is a terminal; else a line at the begin and the time at the end."""
    began = time.perf_counter()
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(f"{what} ..."):
            yield
    else:
        print(f"{what} ...", file=sys.stderr, flush=True)
        yield
    print(f"{what}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
