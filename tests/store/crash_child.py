"""Adds shots until it is killed. A parent process imports once and forks a child per line of input.

Lines on stdout, each written at once: `go` when a child has opened the store, a shot id after its
commit, `dead` when the child was reaped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from accrue.store import Store


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def add_shots(state: Path, run: int) -> None:
    with Store.open(state, space_id="5" * 64, dim=8, budget=2000) as store:
        say(f"go {os.getpid()}")
        number = 0
        while True:
            teaching = store.begin_teach(f"class {(run + number) % 5}", actor=str(run))
            for _ in range(4):
                number += 1
                rows = np.full((2, 8), (run * 1000 + number) % 32767, np.int16)
                say(store.add_shot(teaching, rows, source=f"{run}/{number}"))


def main() -> None:
    for run, _ in enumerate(sys.stdin):
        child = os.fork()
        if child == 0:
            add_shots(Path(sys.argv[1]), run)
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    main()
