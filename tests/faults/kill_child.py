"""`accrue run` again and again: imports once and forks a service per line of input.

    python kill_child.py STATE BUNDLE

Lines on stdout: `go PID PORT` when a service takes requests, `dead` when it was reaped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import onnxruntime  # noqa: F401 (imported once, for all)

from accrue import device as accrue_device
from accrue.service.access import Access
from accrue.service.daemon import Device
from accrue.service.http.server import Service
from accrue.service.settings import Settings


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def settings(state: Path, bundle: Path) -> Settings:
    # what repeats a shot is taught too, so that there is always something to learn
    return Settings(
        state=state,
        bundle=bundle,
        actor="kills",
        listen="127.0.0.1:0",
        views=2,
        thumbnails=64,
        duplicates=1.0,
        blur=1.0,
        threads=1,
    )


def serve(state: Path, bundle: Path) -> None:
    with Device(settings(state, bundle), cameras=()) as device, Access(state) as access:

        def started() -> None:
            say(f"go {os.getpid()} {service.place.port}")

        service = Service(device, access, started=started)
        service.serve_until_told()


def main() -> None:
    state, bundle = Path(sys.argv[1]), Path(sys.argv[2])
    known = accrue_device.installed_packages(sys.path)  # reading it takes longer than all the rest
    accrue_device.installed_packages = lambda search: known
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                serve(state, bundle)
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    main()
