"""A disk that fails at each of its changes in turn, and power that fails behind each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faulty import preloaded

CHILD = Path(__file__).with_name("fault_child.py")


def found(library: Path, folder: Path, what: str, start: int = 0, stride: int = 1) -> Any:
    environment = preloaded(library) | {"PYTHONPATH": ":".join(sys.path)}
    words = [sys.executable, str(CHILD), what, str(folder), str(start), str(stride)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


# The nightly run tries each change. Here it is every so many, beginning with another one for each
# kind of error: neighbours are mostly writes of one transaction.
@pytest.mark.parametrize(
    ("scenario", "stride"), [("teaching", 19), ("updating", 1), ("saving", 13), ("beside", 7)]
)
def test_a_disk_that_fails_anywhere_loses_nothing_and_leaves_nothing_half_done(
    library: Path, memory_folder: Path, scenario: str, stride: int, nightly: bool
) -> None:
    """Full, failing and read-only; once, and from then on. Every step is done, or not at all."""
    report = found(library, memory_folder, scenario, stride=1 if nightly else stride)
    assert report["wrong"] == []
    assert report["hit"] > 0.9 * report["tried"] > 20


def test_power_that_fails_anywhere_loses_nothing_acknowledged(
    library: Path, memory_folder: Path, nightly: bool
) -> None:
    """What nothing had synced is there, is not, or is in part, in any order."""
    report = found(library, memory_folder, "cuts", stride=1 if nightly else 9)
    assert report["wrong"] == []
    assert report["tried"] > 200


def test_the_failing_disk_would_find_a_store_that_does_not_sync(
    library: Path, memory_folder: Path
) -> None:
    """The same power cuts lose what a database with `synchronous = OFF` acknowledged."""
    report = found(library, memory_folder, "careless", stride=9)
    assert len(report["wrong"]) > 10
