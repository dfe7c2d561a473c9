"""Cameras that go on: the newest frame of each, reopened when it dies, and never a queue."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from accrue.errors import AccrueError, ImageError
from accrue.vision.sources import Frame, Source, open_source, without_password

OPENING, PLAYING, STALLED, WAITING, ENDED = "opening", "playing", "stalled", "waiting", "ended"
STALLED_AFTER_S = 3.0  # without a frame
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # before a source is opened again


@dataclass(frozen=True)
class Status:
    """How a camera is doing.

    Attributes:
        name: as the operator gave it, without a password.
        state: `OPENING`, `PLAYING`, `STALLED` (open, but gave no frame for 3 s), `WAITING` (failed,
            to be opened again) or `ENDED` (a file that is over).
        since: Unix time in seconds at which it came into this state.
        reason: of the last failure; "" where there was none since it played.
        frames: read so far. dropped: of those, replaced by a newer one before anybody looked.
        opened: how often it was opened.
    """

    name: str
    state: str
    since: float
    reason: str = ""
    frames: int = 0
    dropped: int = 0
    opened: int = 0


class Live:
    """One source, read by a thread of its own that keeps its newest frame only.

    A source that fails is opened again after a wait that doubles from 0.5 to 30 s, with jitter, for
    as long as it takes; a frame makes the next wait short again. A video file or folder that is
    over is not a failure: it ends.

    Args:
        spec: as for `open_source`.
        arrived: told whenever a frame comes or the state changes, so that one loop can wait for
            several cameras; made if None.
        opener, clock, ticks, draw: for tests. ticks: seconds that pass evenly, whatever is done to
            the clock. draw: a number of 0 to 1, the jitter.
    """

    def __init__(
        self,
        spec: str,
        *,
        arrived: threading.Condition | None = None,
        opener: Callable[[str], Source] = open_source,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.spec = spec
        self.arrived = arrived or threading.Condition()
        self._opener, self._clock, self._ticks, self._draw = opener, clock, ticks, draw
        self._newest: Frame | None = None
        self._taken = True
        self._last_frame_tick = ticks()
        self._status = Status(without_password(spec), OPENING, clock())
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"camera {self._status.name}", daemon=True
        )
        self._thread.start()

    def take(self) -> Frame | None:
        """The newest frame, once; None until there is one that was not taken yet."""
        with self.arrived:
            if self._taken:
                return None
            self._taken = True
            return self._newest

    @property
    def newest(self) -> Frame | None:
        """The newest frame, taken or not; for those who only look on."""
        with self.arrived:
            return self._newest

    @property
    def status(self) -> Status:
        with self.arrived:
            quiet = self._ticks() - self._last_frame_tick
            if self._status.state == PLAYING and quiet > STALLED_AFTER_S:
                since = self._clock() - (quiet - STALLED_AFTER_S)
                return replace(self._status, state=STALLED, since=since)
            return self._status

    def close(self) -> None:
        """Lets the thread end; one that hangs in a driver is left behind."""
        self._over.set()
        self._thread.join(timeout=2)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        wait = FIRST_WAIT_S
        while not self._over.is_set():
            before = self._status.frames
            try:
                with self._opener(self.spec) as source:
                    with self.arrived:
                        self._status = replace(self._status, name=source.name)
                    self._enter(OPENING, opened=self._status.opened + 1)
                    if self._play(source):
                        self._enter(ENDED)
                    return
            except Exception as error:  # whatever a driver throws, the camera is tried again
                if self._status.frames > before:
                    wait = FIRST_WAIT_S
                if isinstance(error, AccrueError):
                    self._enter(WAITING, reason=error.message)
                else:
                    self._enter(WAITING, reason=f"{type(error).__name__}: {error}")
            self._over.wait(wait * (0.5 + self._draw() / 2))
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _play(self, source: Source) -> bool:
        """Whether the source came to its end; False where it was told to close."""
        while not self._over.is_set():
            try:
                frame = next(source)
            except StopIteration:
                return True
            except ImageError as error:  # one bad photo of a folder
                with self.arrived:
                    self._status = replace(self._status, reason=error.message)
                continue
            with self.arrived:
                dropped = self._status.dropped + (not self._taken)
                self._newest, self._taken = frame, False
                self._last_frame_tick = self._ticks()
                frames = self._status.frames + 1
                if self._status.state != PLAYING:
                    self._status = replace(
                        self._status, state=PLAYING, since=self._clock(), reason=""
                    )
                self._status = replace(self._status, frames=frames, dropped=dropped)
                self.arrived.notify_all()
        return False

    def _enter(self, state: str, **changes: str | int) -> None:
        with self.arrived:
            self._status = replace(self._status, state=state, since=self._clock(), **changes)  # type: ignore[arg-type]
            self.arrived.notify_all()
