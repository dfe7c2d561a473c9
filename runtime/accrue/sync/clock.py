"""A hybrid logical clock: stamps that never go back and stay close to wall-clock time.

Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", OPODIS 2014. A stamp is
one integer, ``(unix milliseconds << 16) | counter``; what a device says after it has heard
something always has the greater stamp, however wrong its wall clock is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SKEW_MS = 600_000  # ten minutes: more than any clock that was ever set drifts between two settings
COUNTER_BITS = 16
STAMP_LIMIT = 2**63  # stamps lie below it: they fit a signed 64-bit integer until the year 6429


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def stamp_ms(stamp: int) -> int:
    """The unix milliseconds in a stamp."""
    return stamp >> COUNTER_BITS


class Clock:
    """Stamps of one device. Safe for use from several threads.

    Args:
        last: the greatest stamp made or heard before the last stop; keeps it monotonic.
        now_ms: wall clock in unix milliseconds.

    Attributes:
        last: the greatest stamp made or heard so far; what to write down before stopping.

    Example:
        >>> clock = Clock(now_ms=lambda: 1000)
        >>> first, second = clock.tick(), clock.tick()
        >>> stamp_ms(first), second - first
        (1000, 1)
        >>> clock.observe(stamp := (2000 << 16))
        >>> clock.tick() > stamp
        True
    """

    def __init__(self, last: int = 0, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self.last = last
        self.now_ms = now_ms
        self._lock = threading.Lock()

    def tick(self) -> int:
        """A stamp greater than every one made or heard before."""
        with self._lock:
            self.last = max(self.last + 1, self.now_ms() << COUNTER_BITS)
            return self.last

    def observe(self, stamp: int) -> None:
        """Takes note of a stamp of another device, which must not be `is_future`."""
        with self._lock:
            self.last = max(self.last, stamp)

    def is_future(self, stamp: int) -> bool:
        """Whether a stamp is more than `SKEW_MS` ahead of the own wall clock."""
        return stamp_ms(stamp) > self.now_ms() + SKEW_MS
