"""Everything is killed at random moments while an engine is built: the engine that served
before serves, or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from accrue.service.engines import Engines
from accrue.service.settings import Settings

CHILD = Path(__file__).with_name("engine_cut_child.py")
CUTS = int(os.environ.get("ACCRUE_CUTS", "12"))
DEADLINE_S = 240.0
pytestmark = [
    pytest.mark.skipif(
        find_spec("tensorrt_rtx") is None,
        reason="TensorRT-RTX is not here: pip install 'accrue[rtx]'",
    ),
    pytest.mark.slow,
    pytest.mark.timeout(600 + 20 * CUTS),
]


class Builder:
    """`engine_cut_child.py`."""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def build(self, cut_after_s: float | None = None) -> tuple[int, float]:
        """Exit code of a build (-9: it was killed), and seconds that it took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        started = time.monotonic()
        if cut_after_s is not None:
            time.sleep(cut_after_s)
            with suppress(ProcessLookupError):  # it was over
                os.killpg(pid, signal.SIGKILL)
        return int(self.process.stdout.readline()), time.monotonic() - started

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(DEADLINE_S)
        self.process.stdout.close()


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    one = Builder(tmp_path / "state")
    yield one
    one.close()


def test_a_power_cut_in_a_build_leaves_the_old_engine_or_the_new_one(
    builder: Builder, tmp_path: Path
) -> None:
    code, seconds = builder.build()
    assert code == 0
    engines = Engines(Settings(state=tmp_path / "state", actor="test"))
    space = engines.bundle.manifest.space_id
    moments = random.Random(20261121)
    ended = []
    for _ in range(CUTS):
        code, took = builder.build(cut_after_s=moments.uniform(0, 1.2 * seconds))
        ended.append(code)
        if code == 0:
            seconds = took
        assert engines.folder.building() is None
        active, *before = engines.folder.serving(space, "tensorrt-rtx")
        for engine in [active, *before]:
            engines.folder.read(engine)  # raises where it is not as it was written
        if moments.random() < 0.2:
            engines.clean()
            assert engines.folder.serving(space, "tensorrt-rtx")[0] == active
    assert set(ended) <= {0, -signal.SIGKILL}
    assert ended.count(-signal.SIGKILL) >= CUTS // 2, ended
    assert builder.build()[0] == 0
    engines.clean()
    left = {path.name for path in engines.folder.path.iterdir()}
    kept = {f"{e.stem}{end}" for e in engines.folder.engines() for end in (".plan", ".json")}
    assert left == kept | {"active.json", "builds.json", ".lock"}
    assert len(engines.folder.engines()) == 2
