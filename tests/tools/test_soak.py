"""The long run of a device, here for a moment; `./tools/soak` is the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_device_that_is_killed_while_it_is_taught_loses_nothing_acknowledged(
    tmp_path: Path,
) -> None:
    report = tmp_path / "report.json"
    words = ["--minutes", "0", "--kills", "3", "--json", report, "--check"]
    subprocess.run([sys.executable, ROOT / "tools" / "soak.py", *words], check=True, timeout=240)
    found = json.loads(report.read_text(encoding="utf-8"))["kills"]
    assert found["acknowledged"] >= 3
    assert (found["lost"], found["faults"]) == ([], [])


@pytest.mark.slow
def test_a_soak_tells_what_was_answered_and_what_it_takes(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    words = ["--minutes", "0.4", "--kills", "0", "--json", report]
    subprocess.run([sys.executable, ROOT / "tools" / "soak.py", *words], check=True, timeout=120)
    found = json.loads(report.read_text(encoding="utf-8"))["soak"]
    assert found["answered"] > 0
    assert found["taught"] > 0
    assert found["errors"] == {}
