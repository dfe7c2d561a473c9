"""Two processes on one state, as `accrue run` and any command beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from accrue.store import Store

SPACE = "5" * 64
BESIDE = """
import sys
import numpy as np
from accrue.store import Store
with Store.open(sys.argv[1], readonly=sys.argv[2] == "looks") as store:
    if not store.readonly:
        store.add_shot(store.begin_teach("nut"), np.full((2, 4), 7, np.int16))
    print(len(store.shots()))
"""


def beside(state: Path, what: str) -> int:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BESIDE, str(state), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.parametrize("what", ["looks", "teaches"])
def test_a_command_beside_a_process_that_reads_and_writes_takes_no_log_away(
    state: Path, teach, what: str
) -> None:
    """The reader of the first process once dropped the locks of its writer: the command took
    itself for the last one, and what was taught afterwards was lost."""
    with Store.open(state, space_id=SPACE, dim=4) as writer:
        teach(writer, "bolt")
        with Store.open(state, readonly=True) as reader:
            there = beside(state, what)
            assert (state / "state.db-wal").exists()
            teach(writer, "bolt")
            assert len(reader.shots()) == len(writer.shots()) == there + 1
            assert beside(state, "looks") == there + 1
    with Store.open(state) as store:
        assert len(store.shots()) == there + 1
        assert store.check() == []
