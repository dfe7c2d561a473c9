"""Teaching from a camera that is being watched: record, look through, commit."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accrue.errors import Conflict
from accrue.store import clean_name
from accrue.vision.sources import Frame

if TYPE_CHECKING:
    from accrue.service.box import Box, Receipt
    from accrue.service.burst import Burst

RECORDING, REVIEW, COMMITTED, CANCELLED, EXPIRED = (
    *("recording", "review", "committed", "cancelled", "expired"),
)
OPEN = (RECORDING, REVIEW)
FRAMES_PER_S = 10.0  # that a session looks at
TOLD_EVERY_S = 0.25


@dataclass(frozen=True)
class TeachFrame:
    """A frame of a session.

    Attributes:
        n: its number, from 0. at: unix seconds. kept: whether it goes into the shot.
        reason: why not; "" for a kept one. of: the frame that it repeats.
        choosable: whether it may be kept, as `keep` of a commit.
    """

    n: int
    at: float
    kept: bool
    reason: str
    of: int | None
    choosable: bool


@dataclass(frozen=True)
class TeachView:
    """A teach session as it stands.

    Attributes:
        class_name: that is taught. camera: its number. actor: who teaches.
        state: `recording`, `review` (stopped, to be looked through), `committed`, `cancelled` or
            `expired`.
        frames: looked at so far, oldest first. kept: of them. dropped: count by reason.
        hint: key of `accrue.service.burst.HINTS`, or "". enough: whether the burst shows enough.
        started, expires: unix seconds; an open session that nobody touches until then is dropped.
        shot: that it became, or "".
    """

    id: str
    class_name: str
    camera: int
    actor: str
    state: str
    frames: tuple[TeachFrame, ...]
    kept: int
    dropped: dict[str, int]
    hint: str
    enough: bool
    started: float
    expires: float
    shot: str


class TeachSession:
    """Frames of one camera gathered for one class, by a thread of its own.

    Nothing is taught before `commit`. A session that records for longer than `timeout_s` stops by
    itself; one that is not committed `timeout_s` after that is dropped.

    Args:
        newest: the newest frame of the camera. source: its name.
        changed: told of each change worth showing.
    """

    def __init__(
        self,
        name: str,
        camera: int,
        actor: str,
        burst: Burst,
        newest: Callable[[], Frame | None],
        source: str,
        *,
        timeout_s: float,
        changed: Callable[[TeachSession], object],
    ) -> None:
        self.id = secrets.token_hex(6)
        self.name = clean_name(name)
        self.camera, self.actor = camera, actor
        self.burst = burst
        self.state = RECORDING
        self.shot = ""
        self.started = time.time()
        self._newest, self._source = newest, source
        self._changed, self._timeout_s = changed, timeout_s
        self._keep_open()
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"teach {self.id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def view(self) -> TeachView:
        with self._lock:
            choosable = set(self.burst.choosable)
            frames = tuple(
                TeachFrame(note.n, note.at, note.kept, note.reason, note.of, note.n in choosable)
                for note in self.burst.notes
            )
            dropped = Counter(frame.reason for frame in frames if not frame.kept)
            return TeachView(
                id=self.id,
                class_name=self.name,
                camera=self.camera,
                actor=self.actor,
                state=self.state,
                frames=frames,
                kept=sum(frame.kept for frame in frames),
                dropped=dict(dropped),
                hint=self.burst.hint,
                enough=self.burst.enough,
                started=self.started,
                expires=self.expires,
                shot=self.shot,
            )

    def thumb(self, n: int) -> bytes:
        """JPEG of a frame. Raises NotFound."""
        return self.burst.thumb(n)

    def stop(self) -> None:
        """Ends the recording, for review. Again, it does nothing."""
        self._end(RECORDING, REVIEW)

    def cancel(self) -> None:
        """Drops what was recorded. Raises Conflict once it was committed."""
        with self._lock:
            if self.state == COMMITTED:
                raise Conflict(
                    f"teach session {self.id} was committed", hint="take it back: `accrue undo`"
                )
        self._end(OPEN, CANCELLED)

    def commit(self, box: Box, keep: Sequence[int] | None = None) -> Receipt:
        """Teaches what was kept, or the frames of those numbers, as one shot.

        It ends the session, but where the receipt says that the shot was skipped: then it may be
        committed with other frames, or cancelled.

        Raises:
            Conflict: it is over already. NotFound, Refused: as `Box.teach_burst`.
        """
        self.stop()
        with self._lock:
            if self.state != REVIEW:
                raise Conflict(
                    f"teach session {self.id} is over: {self.state}", hint="begin another one"
                )
            receipt = box.teach_burst(
                self.name, self.burst, keep=keep, source=self._source, actor=self.actor
            )
            self.shot, self.name = receipt.shot, receipt.class_name
            self.state = COMMITTED if receipt.shot else REVIEW
            if receipt.shot:
                self.burst.close()
        self._changed(self)
        return receipt

    def _keep_open(self) -> None:
        self.expires = time.time() + self._timeout_s  # as others see it; the clock may be set
        self._due = time.monotonic() + self._timeout_s

    def expire(self, now: float) -> None:
        """Stops or drops a session whose time is up. now: as of `time.monotonic`."""
        if now < self._due:
            return
        if self.state == RECORDING:
            self.stop()
        else:
            self._end(OPEN, EXPIRED)

    def _end(self, when: str | tuple[str, ...], state: str) -> None:
        with self._lock:
            if self.state not in (when if isinstance(when, tuple) else (when,)):
                return
            self.state = state
            self._keep_open()
            self._over.set()
        if state == REVIEW:
            self.burst.stop()
        else:
            self.burst.close()
        self._changed(self)

    def _run(self) -> None:
        last: Frame | None = None
        told = 0.0
        while not self._over.wait(1 / FRAMES_PER_S):
            frame = self._newest()
            if frame is None or (last is not None and frame.at <= last.at):
                continue
            last = frame
            with self._lock:
                if self.state != RECORDING:
                    return
                self.burst.feed(frame.image, frame.at)
            if time.monotonic() - told >= TOLD_EVERY_S:
                told = time.monotonic()
                self._changed(self)
