"""The simulator: real devices, a real broker and faults end with one digest; and it can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def simulate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "fleet_sim.py"), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )


def report(*words: str) -> dict[str, Any]:
    done = simulate("--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_a_killed_broker_a_partition_and_duplicates_lose_nothing(mosquitto: Path) -> None:
    faults = "kill=1,partition=0.3,duplicate=0.05"
    found = report(
        *("--devices", "30", "--full", "2", "--classes", "6", "--shots", "3", "--teachers", "3"),
        *("--rate", "6", "--dim", "64", "--faults", faults, "--seconds", "150"),
    )
    assert found["broker"]["kills"] == 1
    assert found["network"]["duplicated"] > 0
    assert found["network"]["refused"] > 0
    assert set(found["digests"].values()) == {found["expected_digest"]}
    assert len(found["digests"]) == 30
    assert found["applied"] == 18 * 29
    assert set(found["device_processes"]["messages_refused"]) <= {"replayed"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--mesh", "--relay"])
def test_with_and_without_a_relay_every_device_applies_every_teach(
    how: str, mosquitto: Path
) -> None:
    found = report("--devices", "12", "--classes", "4", "--shots", "3", "--dim", "64", how)
    assert found["applied"] == found["expected_applied"] == 12 * 11
    assert found["latency_s"]["p50"] <= found["latency_s"]["p95"] <= found["latency_s"]["max"]
    assert (found["relay_process"] is None) == (how == "--mesh")
    assert (found["device_processes"]["relay_batches"] > 0) == (how == "--relay")


def test_when_time_is_up_it_says_what_has_not_come(mosquitto: Path) -> None:
    done = simulate("--devices", "3", "--seconds", "0.01")
    assert done.returncode == 1
    assert "time is up and this has not come: all devices ready" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--faults", "flood=1"], "no fault 'flood'"),
        (["--faults", "duplicate=2"], "expected 0 to 1"),
        (["--faults", "duplicate=0.1", "--tls"], "TLS"),
        (["--devices", "0"], "expected 1 to 5000"),
        (["--devices", "9999999"], "expected 1 to 5000"),
    ],
)
def test_a_run_that_cannot_be_is_refused(words: list[str], said: str, mosquitto: Path) -> None:
    done = simulate(*words)
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_a_latency_is_counted_from_each_teach_to_the_first_revision_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from simulation.devices import Events

    events = Events(["a", "b"], 1)
    for observer, revision, at in [(1, 20, 5.0), (1, 40, 7.0), (0, 40, 9.0)]:
        events.who.extend((observer, 0, 0))
        events.revisions.append(revision)
        events.times.append(at)
    taught = [(0, 0, 10, 1.0), (0, 0, 20, 2.0), (0, 0, 30, 3.0), (0, 0, 50, 4.0)]
    assert events.latencies(taught) == array("f", [4.0, 3.0, 4.0, 8.0, 7.0, 6.0])
