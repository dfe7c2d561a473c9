"""Pulling the plug: 200 real SIGKILLs at random instants lose no acknowledged shot.

A killed process loses nothing that it handed to the kernel, so a folder in memory, where there is
one, asks the same question as a disk and answers faster.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from accrue.store import Store

KILLS = 200
MOST_SHOTS_BEFORE_A_KILL = 5


def test_killing_the_process_at_any_instant_loses_no_acknowledged_shot(memory_folder: Path):
    state = memory_folder / "state"
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    chance = random.Random(2)
    acknowledged: list[str] = []
    per_shot_s = 0.002
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crash_child.py")), str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environment,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(KILLS):
            parent.stdin.write("\n")
            parent.stdin.flush()
            word, pid = parent.stdout.readline().split()
            assert word == "go"
            started, wanted = time.perf_counter(), chance.randrange(MOST_SHOTS_BEFORE_A_KILL)
            for _ in range(wanted):
                acknowledged.append(parent.stdout.readline().strip())
            if wanted:
                per_shot_s = (time.perf_counter() - started) / wanted
            time.sleep(chance.random() * per_shot_s)  # some instant within the next commit
            os.kill(int(pid), signal.SIGKILL)
            while (line := parent.stdout.readline().strip()) != "dead":
                acknowledged.append(line)
        parent.stdin.close()
        assert parent.wait(10) == 0
    assert len(acknowledged) > KILLS
    with Store.open(state) as store:
        assert store.check() == []  # integrity_check, and the journal agrees with the rows
        present = [shot.id for shot in store.shots()]
        evidence = store.rows_by_class()
        entries = store.history()
    assert set(acknowledged) <= set(present)
    assert len(present) - len(acknowledged) <= KILLS  # at most the one in flight at each kill
    assert sum(one.statistics().n for one in evidence) == 2 * len(present)
    assert {entry.verb for entry in entries} == {"teach"}
    for one in evidence:
        for _, rows in one.by_shot():
            assert (rows == rows[0, 0]).all()
    print(f"{len(acknowledged)} shots acknowledged, {len(present)} present, {KILLS} kills")
