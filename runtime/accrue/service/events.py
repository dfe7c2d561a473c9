"""What happens on the device, in order, for everybody who wants to know."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KEPT = 1000
ANSWER, CAMERA, CLASSES, TEACH = "answer", "camera", "classes", "teach"
UNKNOWN, JOB, FLEET, ACCESS = "unknown", "job", "fleet", "access"
ENCODER = "encoder"  # another realisation of it serves
TYPES = (ANSWER, CAMERA, CLASSES, TEACH, UNKNOWN, JOB, FLEET, ACCESS, ENCODER)


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        id: ascending from 1. type: one of `TYPES`. at: unix seconds. data: by type; plain JSON.
    """

    id: int
    type: str
    at: float
    data: dict[str, Any]

    def document(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.type, "at": self.at, **self.data}


class Events:
    """The last events, in a ring. Any thread may publish, and a slow listener holds nobody up.

    A listener is only told that there is something new; it reads what it has not seen yet with
    `since`, as fast as it can. What has left the ring by then it has missed (`missed`).

    Args:
        kept: events in the ring.
    """

    def __init__(self, kept: int = KEPT, *, clock: Callable[[], float] = time.time) -> None:
        self._ring: deque[Event] = deque(maxlen=kept)
        self._clock = clock
        self._lock = threading.Lock()
        self._last = 0
        self._listeners: dict[object, Callable[[], object]] = {}

    @property
    def last(self) -> int:
        """Id of the newest event; 0 before the first."""
        with self._lock:
            return self._last

    def publish(self, type: str, **data: Any) -> int:
        """Puts an event into the ring; its id."""
        with self._lock:
            self._last += 1
            self._ring.append(Event(self._last, type, self._clock(), data))
            told, number = list(self._listeners.values()), self._last
        for tell in told:
            tell()
        return number

    def since(self, after: int) -> list[Event]:
        """Events after that id, oldest first, as far as the ring still has them."""
        with self._lock:
            if after >= self._last:
                return []
            return [event for event in self._ring if event.id > after]

    def missed(self, after: int) -> bool:
        """Whether events after that id are gone, or the id is of before a restart."""
        with self._lock:
            oldest = self._ring[0].id if self._ring else self._last + 1
            return after > self._last or after + 1 < oldest

    def subscribe(self, tell: Callable[[], object]) -> Callable[[], None]:
        """Calls `tell` whenever there is something new, in the thread that published it.

        `tell` must not wait. Returns what ends it.
        """
        key = object()
        with self._lock:
            self._listeners[key] = tell

        def end() -> None:
            with self._lock:
                self._listeners.pop(key, None)

        return end
