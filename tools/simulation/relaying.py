"""The relay in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from accrue.sync.endpoint import Endpoint
from accrue.sync.relay import Relay
from simulation.plan import FLEET


@contextmanager
def relaying(endpoint: Endpoint) -> Iterator[Callable[[], dict[str, Any]]]:
    """A running relay; what is yielded asks it how it is doing."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_main, args=(there, endpoint), daemon=True)
    process.start()

    def ask() -> dict[str, Any]:
        here.send("figures")
        found: dict[str, Any] = here.recv()
        return found

    try:
        ask()  # it is there
        yield ask
        here.send("stop")
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _main(pipe: Connection, endpoint: Endpoint) -> None:
    relay = Relay(endpoint, FLEET, client_id="relay")
    relay.open()
    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        while True:
            if pipe.poll():
                if pipe.recv() == "stop":
                    break
                usage = resource.getrusage(resource.RUSAGE_SELF)
                pipe.send(
                    {
                        "batches": relay.batches,
                        "relayed": relay.relayed,
                        "connections": relay.link.connections,
                        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
                        "peak_rss_bytes": usage.ru_maxrss * 1024,
                    }
                )
            relay.step(0.05)
    relay.close()
