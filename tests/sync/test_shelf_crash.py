"""Pulling the plug while a device hears and teaches: the tables are what the contributions say.

Real SIGKILLs at random instants, in a folder in memory where there is one.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shelf_cases import Device, exchange, require_sound

KILLS = 40


def test_a_device_killed_at_any_instant_is_whole_and_loses_nothing_acknowledged():
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        _kill(Path(folder))


def _kill(folder: Path) -> None:
    said = []
    gate = Device(folder / "gate", "g" * 12)
    for number in range(8):  # each class at several revisions, to be heard in any order
        gate.teach(f"class {number % 4}", 2)
        if number % 3 == 2:
            gate.store.remove(f"class {number % 4}")
        said += gate.said()
    (folder / "said").write_bytes(pickle.dumps(said))
    chance = random.Random(3)
    heard: set[int] = set()
    taught: set[str] = set()

    def note(word: str) -> None:
        what, _, which = word.partition("/")
        if what == "heard":
            heard.add(int(which))
        else:
            assert what == "taught"
            taught.add(which)

    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("shelf_crash_child.py")), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path},
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(KILLS):
            parent.stdin.write("\n")
            parent.stdin.flush()
            word, pid = parent.stdout.readline().split()
            assert word == "go"
            wanted, started = chance.randrange(5), time.perf_counter()
            for _ in range(wanted):
                note(parent.stdout.readline().strip())
            per_word_s = (time.perf_counter() - started) / max(1, wanted)
            time.sleep(chance.random() * per_word_s)  # some instant within the next commit
            os.kill(int(pid), signal.SIGKILL)
            while (line := parent.stdout.readline().strip()) != "dead":
                note(line)
        parent.stdin.close()
        assert parent.wait(10) == 0
    dock = Device(folder / "state", "d" * 12)
    require_sound(dock)
    assert len(heard) > 5
    assert len(taught) > KILLS / 2
    with dock.store.database() as db:
        kept = {row[0] for row in db.execute("SELECT id FROM shot WHERE device = ''")}
    assert taught <= kept
    known = dock.ledger.revisions()
    for each in said:
        if each.contribution.revision in heard:
            assert known[each.contribution.key] >= each.contribution.revision
    exchange(dock, gate)
