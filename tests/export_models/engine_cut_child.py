"""Builds engines with the real builder of TensorRT-RTX, each in a process that is killed.

What is slow, importing the builder, is done once: each build is a fork of this process. Without a
GPU an engine cannot be checked against the golden images, so the check is left out: it passes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from accrue.service.engines import Engines
from accrue.service.settings import Settings
from accrue.vision.encode import Parity
from accrue.vision.engines import Engine, load_module

if __name__ == "__main__":
    load_module("tensorrt-rtx")
    engines = Engines(Settings(state=Path(sys.argv[1]), actor="test"))

    def passes(engine: Engine) -> Engine:
        return engines.folder.activate(engine, Parity(1.0, 1.0, True), on="a GPU")

    engines._check = passes  # type: ignore[method-assign]
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.setsid()  # a group of its own, to be killed with all that it began
            engines.build(flavour="tensorrt-rtx")
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
