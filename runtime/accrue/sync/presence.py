"""Whether a device is there: its birth, its clean stop, its last will.

A broker may send a last will late, after the device has come back: it would mark a live device as
lost. So every connection has a session number, which the will carries too, and a will of an older
session than the last birth is not believed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

State = Literal["init", "ready", "stopped", "offline"]
STATES: tuple[State, ...] = get_args(State)
LIMIT_BYTES = 1024
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Presence:
    """What stands in a device's state topic.

    Attributes:
        state: init (here, and still sending what the broker lacks), ready, stopped (on purpose),
            offline (the connection was lost; said by the broker).
        session: rises with every connection of the device.
        at_ms: unix milliseconds of the device's clock; 0 in a last will.
        version: of Accrue.
    """

    state: State
    session: int
    at_ms: int = 0
    version: str = ""

    @property
    def is_here(self) -> bool:
        return self.state in ("init", "ready")

    def to_bytes(self) -> bytes:
        fields = {
            "state": self.state,
            "session": self.session,
            "at": self.at_ms,
            "version": self.version,
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Presence | None:
        """None where it is no such message."""
        if len(data) > LIMIT_BYTES:
            return None
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict):
            return None
        state, session = fields.get("state"), fields.get("session")
        at_ms, version = fields.get("at", 0), fields.get("version", "")
        if state not in STATES or not isinstance(version, str):
            return None
        if not all(type(n) is int and 0 <= n <= _LARGEST for n in (session, at_ms)):
            return None
        return cls(cast(State, state), cast(int, session), at_ms, version[:64])


class Sessions:
    """Numbers the connections of this device: unix milliseconds, but always rising."""

    def __init__(self, now_ms: Callable[[], int], last: int = 0) -> None:
        self._now_ms = now_ms
        self.last = last

    def next(self) -> int:
        self.last = max(self.last + 1, self._now_ms())
        return self.last


class Watch:
    """Who is there, as heard on the state topics."""

    def __init__(self) -> None:
        self.devices: dict[str, Presence] = {}

    def heard(self, device: str, payload: bytes) -> Presence | None:
        """Returns what holds for the device now. An empty message makes it unknown."""
        if not payload:
            self.devices.pop(device, None)
            return None
        found, known = Presence.from_bytes(payload), self.devices.get(device)
        if found is None:
            return known
        late = found.state == "offline" and known is not None and found.session < known.session
        if not late:
            self.devices[device] = found
        return self.devices[device]
