"""The encoder of a running device, kept up with the engines that are built beside it.

The first start serves by ONNX Runtime; the engine is built by another process, for minutes. Its
progress is shown as a job of this one, and once it serves, it does so without a restart.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from accrue.errors import AccrueError, Conflict
from accrue.service.box import Box
from accrue.service.jobs import Jobs, Step
from accrue.vision.engines import EngineFolder

LOOK_S = 1.0
JOB = "engine build"  # the same name as of a build by this process: there is one at a time
log = logging.getLogger("accrue.engine")


class Renewal:
    """A thread that looks at the folder of engines.

    Args:
        box: of the encoder that serves; those beside it change with it.
        jobs: where a build by another process is shown.
        seen: `EngineFolder.stamp` of before the encoder was opened.
        renewed: told after another encoder has begun to serve.
        look_s: between two looks.
    """

    def __init__(
        self,
        box: Box,
        jobs: Jobs,
        seen: tuple[int, int],
        renewed: Callable[[], object] = lambda: None,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._box, self._jobs, self._renewed, self._look_s = box, jobs, renewed, look_s
        self._folder = EngineFolder(box.settings.engines_folder)
        self._seen = seen
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engines", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._over.wait(self._look_s):
            try:
                self._look()
            except AccrueError as error:
                log.error("the encoder stays as it is: %s", error)

    def _look(self) -> None:
        if self._folder.building() is not None:
            with suppress(Conflict):  # it is shown already, or it is this process that builds
                self._jobs.start(JOB, self._follow)
        stamp = self._folder.stamp
        if stamp != self._seen:
            self._seen = stamp
            if self._box.serve_anew():
                serving = self._box.serving
                log.info("the encoder now runs as %s %s", serving.candidate, serving.engine)
                self._renewed()

    def _follow(self, step: Step) -> dict[str, Any]:
        """Till whoever builds is done, or was killed."""
        log.info("an engine is being built; the encoder serves meanwhile")
        before = {engine.stem for engine in self._folder.engines()}
        while (found := self._folder.building()) is not None and not self._jobs.cancelled:
            step(found.what, found.done, found.total)
            self._over.wait(self._look_s)
        new = [engine for engine in self._folder.engines() if engine.stem not in before]
        if not new:
            raise AccrueError(
                "the build of an engine ended without one",
                hint="see journalctl -u accrue-engine; by hand: accrue engine build",
            )
        unchecked = "" if new[0].parity else "it was not checked against the golden images"
        return {"engine": new[0].stem, "unchecked": unchecked}
