from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import built


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes disks fail and clocks jump, in processes of its own."""
    found = built(tmp_path_factory.mktemp("faulty"))
    if found is None:
        pytest.skip(
            "no C compiler here, which makes disks fail and clocks jump: "
            "apt-get install gcc libc6-dev"
        )
    return found


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """In memory where the system has that: a killed process loses nothing of it either."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="accrue-faults-") as folder:
        yield Path(folder)
