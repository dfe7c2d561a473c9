"""Looking on: cameras to answers, the newest frame first, while what is known may change."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from accrue.learn import quantise
from accrue.learn.decision import MAYBE, UNKNOWN
from accrue.learn.smooth import Smoothed, Smoother
from accrue.service.box import Box, Learned, Prediction, named, thumbnail
from accrue.service.knowledge import Knowledge, same
from accrue.service.unknown import Queue
from accrue.vision.gate import NEW, UNCHANGED, Gate
from accrue.vision.live import ENDED, Live, Status
from accrue.vision.sources import Frame, open_source

Floats32 = NDArray[np.float32]
THUMBNAIL_PX = 160  # of a moment that is kept to be asked about


@dataclass(frozen=True)
class Sighting:
    """What one camera shows at one frame.

    Attributes:
        number: of the camera, from 0. camera: its name.
        at: Unix seconds at which the frame was read. frame: the frame.
        gate: `new`, `unchanged` or `blurred`: only a new frame went through the encoder.
        answer: over the last frames; its `verdict` is that of `accrue.learn.smooth.Smoothed`.
        votes, of: frames that gave this answer, and frames counted.
        stages_ms: milliseconds by stage (gate, encode, decide) of this frame.
    """

    number: int
    camera: str
    at: float
    frame: Frame
    gate: str
    answer: Prediction
    votes: int
    of: int
    stages_ms: dict[str, float]


class _Camera:
    def __init__(self, number: int, live: Live, gate: Gate, smoother: Smoother) -> None:
        self.number, self.live, self.gate, self.smoother = number, live, gate, smoother
        self.knew: Learned | None = None


class Watch:
    """Watches cameras. Iterate over it: each step is the newest frame of the next camera.

    A frame that has not changed is encoded again only until as many frames were looked at as make
    an answer; after that the answer stands.

    Args:
        box: of the encoder. sources: as for `open_source`. remark: as for `Knowledge`.
        opened: makes a camera of a source; for tests.
    """

    def __init__(
        self,
        box: Box,
        sources: Sequence[str],
        *,
        remark: Callable[[str], object] = lambda _: None,
        opened: Callable[[str, threading.Condition], Live] | None = None,
    ) -> None:
        self._box = box
        opener = partial(open_source, board=box.settings.board)
        opened = opened or (lambda spec, arrived: Live(spec, arrived=arrived, opener=opener))
        _ = box.encoder  # fails here, not in the midst
        self.knowledge = Knowledge(box.settings, remark=remark)
        self._arrived = threading.Condition()
        self._cameras = [
            _Camera(n, opened(source, self._arrived), Gate(blurred=box.settings.blur), Smoother())
            for n, source in enumerate(sources)
        ]
        self._turn = 0
        self._parts = ExitStack()
        self._queue = (
            self._parts.enter_context(box.unknown_queue()) if box.settings.unknown else None
        )

    @property
    def cameras(self) -> list[Status]:
        return [camera.live.status for camera in self._cameras]

    def newest(self, camera: int) -> Frame | None:
        """The newest frame of a camera, looked at or not; cameras count from 0."""
        return self._cameras[camera].live.newest

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for camera in self._cameras:
            camera.live.close()
        self.knowledge.close()
        self._parts.close()

    def step(self, timeout_s: float) -> Sighting | None:
        """The next sighting; None where no frame came in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._arrived:
                found = self._next()
                left = deadline - time.monotonic()
                if found is None and (left <= 0 or self.over):
                    return None
                if found is None:
                    self._arrived.wait(min(left, 0.5))
                    continue
            return self._look(*found)

    @property
    def over(self) -> bool:
        """Whether every source came to its end and was looked at."""
        return all(camera.live.status.state == ENDED for camera in self._cameras)

    def __iter__(self) -> Iterator[Sighting]:
        while True:
            sighting = self.step(0.5)
            if sighting is not None:
                yield sighting
            elif self.over:
                return

    def _next(self) -> tuple[_Camera, Frame] | None:
        """In turn, so that a fast camera does not keep a slow one out."""
        for offset in range(len(self._cameras)):
            camera = self._cameras[(self._turn + offset) % len(self._cameras)]
            if (frame := camera.live.take()) is not None:
                self._turn = (self._turn + offset + 1) % len(self._cameras)
                return camera, frame
        return None

    def _look(self, camera: _Camera, frame: Frame) -> Sighting:
        learned = self.knowledge.current
        stages: dict[str, float] = {}
        watch = _Stopwatch(stages)
        judged = camera.gate.judge(frame.image)
        watch.split("gate")
        if learned is not camera.knew:
            if camera.knew is None or not same(camera.knew, learned):
                camera.smoother.clear()  # what is known has changed: the votes are of before
            camera.knew = learned
        if judged == NEW or (judged == UNCHANGED and not camera.smoother.full):
            settings = self._box.settings
            rows = self._box.encoder.encode_views(
                [frame.image], settings.predict_views, mirror=settings.mirror
            )[0]
            watch.split("encode")
            query = rows.mean(axis=0, dtype=np.float32)
            found = camera.smoother.add(learned.decide(query[None])[0], frame.at)
            watch.split("decide")
            if self._queue is not None and found.verdict in (UNKNOWN, MAYBE):
                self._ask_later(self._queue, camera, frame, query, found)
        elif judged == UNCHANGED:
            found = camera.smoother.hold(frame.at)
        else:
            found = camera.smoother.answer(frame.at)
        if found.decision is None:
            answer = Prediction(frame.name, "", found.verdict, math.nan, math.nan, ())
        else:
            answer = replace(
                named(frame.name, found.decision, learned.names), verdict=found.verdict
            )
        name = camera.live.status.name
        return Sighting(
            camera.number, name, frame.at, frame, judged, answer, found.votes, found.of, stages
        )

    def _ask_later(
        self, queue: Queue, camera: _Camera, frame: Frame, query: Floats32, found: Smoothed
    ) -> None:
        """Keeps what was not recognised for the operator, with all the views of a shot."""
        name = camera.live.status.name
        if not queue.wants(name, query, frame.at):
            return
        settings = self._box.settings
        rows = self._box.encoder.encode_views(
            [frame.image], settings.views, mirror=settings.mirror
        )[0]
        decision = found.decision
        margin = None if decision is None or math.isinf(decision.margin) else decision.margin
        queue.add(
            name,
            quantise(rows),
            at=frame.at,
            verdict=found.verdict,
            class_id=decision.class_id if decision is not None else "",
            margin=margin,
            thumb=thumbnail(frame.image, THUMBNAIL_PX),
        )


class _Stopwatch:
    def __init__(self, into: dict[str, float]) -> None:
        self._into, self._at = into, time.perf_counter()

    def split(self, name: str) -> None:
        now = time.perf_counter()
        self._into[name] = 1e3 * (now - self._at)
        self._at = now
