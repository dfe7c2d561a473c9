"""What a state needs that is in no fleet, and what one needs that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shelf_cases import Device

SCRIPT = """
import sys
from pathlib import Path
for missing in sys.argv[2].split(","):
    sys.modules[missing] = None
from accrue.errors import AccrueError
from accrue.service.box import Box
from accrue.service.settings import Settings
with Box(Settings(state=Path(sys.argv[1]), actor="tester")) as box:
    print([row.name for row in box.classes()])
    try:
        print(box.rename("bolt", "screw").summary)
    except AccrueError as error:
        print(error)
"""


def run(state: Path, missing: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(state), missing],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    return done.stdout.splitlines()


def test_a_state_that_never_joined_needs_nothing_of_the_extra_sync(tmp_path):
    alone = Device(tmp_path, "d" * 12, join=False)
    alone.teach("bolt")
    alone.store.close()
    assert run(tmp_path, "paho,paho.mqtt,cryptography") == [
        "['bolt']",
        'renamed "bolt" to "screw"',
    ]


def test_a_state_of_a_fleet_is_changed_without_paho_and_not_without_cryptography(tmp_path):
    dock = Device(tmp_path, "d" * 12)
    dock.teach("bolt")
    dock.store.close()
    classes, refused = run(tmp_path, "cryptography")
    assert classes == "['bolt']"
    assert "belongs to a fleet, and the package cryptography" in refused
    assert "pip install 'accrue[sync]'" in refused
    assert run(tmp_path, "paho,paho.mqtt")[1] == 'renamed "bolt" to "screw"'
    dock.open()
    assert dock.problems() == []
    assert dock.names() == {"screw": 1}
    assert len(dock.ledger.unsent()) == 1
