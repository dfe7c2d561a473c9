"""`tools/demo` shows what it promises, on the samples and on a folder of one's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tools" / "samples"


def demo(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ACCRUE_DEMO_FROM": str(tmp_path), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py"), *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.slow
def test_demo_teaches_forgets_exactly_undoes_and_says_unknown(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stderr
    for name in (folder.name for folder in (SAMPLES / "teach").iterdir()):
        assert name in done.stdout
    assert "The same, bit for bit." in done.stdout
    assert "digest after undo = before" in done.stdout
    assert "(never taught):" in done.stdout
    assert "accrue class list" in done.stdout


@pytest.mark.slow
def test_demo_runs_on_a_folder_of_ones_own(tmp_path: Path) -> None:
    for folder in sorted((SAMPLES / "test").iterdir())[:4]:
        (tmp_path / "mine" / folder.name).mkdir(parents=True)
        for photo in sorted(folder.iterdir())[:8]:
            (tmp_path / "mine" / folder.name / photo.name).write_bytes(photo.read_bytes())
    done = demo(tmp_path, "--images", "mine")
    assert done.returncode == 0, done.stderr
    assert "The same, bit for bit." in done.stdout


@pytest.mark.slow
def test_two_devices_share_what_one_is_taught_and_the_owner_rolls_back(tmp_path: Path) -> None:
    if not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists()):
        pytest.skip("no Mosquitto here: apt-get install mosquitto")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo_fleet.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "ACCRUE_DEMO_FOLDER": str(tmp_path / "fleet"), "COLUMNS": "120"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the last of them is on the disk" in done.stdout
    assert "Bit for bit what it was before." in done.stdout


def test_demo_says_what_a_folder_must_hold(tmp_path: Path) -> None:
    done = demo(tmp_path, "--images", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("demo: no file or folder")
    assert len(done.stderr.splitlines()) == 1
