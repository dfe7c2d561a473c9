"""Hears and teaches until it is killed. A parent process imports once and forks a child per line.

Lines on stdout, each written at once: `go` with its process id when a child has opened the store,
`heard/` with a revision and `taught/` with a shot id after each was committed, `dead` when the
child was reaped.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from contextlib import suppress
from pathlib import Path

from shelf_cases import Device, some_rows

from accrue.errors import Conflict


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def hear(folder: Path, run: int) -> None:
    said = pickle.loads((folder / "said").read_bytes())
    device = Device(folder / "state", "d" * 12)
    say(f"go {os.getpid()}")
    start = run * 7 % len(said)
    for number, each in enumerate(said[start:] + said[:start]):
        device.hear([each])
        say(f"heard/{each.contribution.revision}")
        for shot in device.teach(f"class {number % 3}", rows=[some_rows()]):
            say(f"taught/{shot}")
        if number % 4 == 3:
            with suppress(Conflict):
                device.store.undo(device.store.history(1)[0].seq)


def main() -> None:
    for run, _ in enumerate(sys.stdin):
        child = os.fork()
        if child == 0:
            try:
                hear(Path(sys.argv[1]), run)
                signal.pause()  # nothing left to do but to be killed
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    main()
