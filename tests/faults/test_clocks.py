"""The clock of the wall is set while a device watches and is taught: by hours, by years, and back.

A Jetson without a battery begins in the past and is set right by NTP, in the midst of all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from faulty import preloaded

CHILD = Path(__file__).with_name("clock_child.py")


def test_a_device_goes_on_however_its_clock_is_set(
    library: Path, memory_folder: Path, tiny_bundle: Path, photo_file: Callable[..., Path]
) -> None:
    for number in range(3):
        path = photo_file(f"camera/{number}.jpg", 150 + number, kind=number, size=(320, 240))
    words = [sys.executable, str(CHILD), str(memory_folder), str(tiny_bundle), str(path.parent)]
    environment = preloaded(library) | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["taught"] == found["set"] == 5
