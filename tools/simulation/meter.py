"""Reads what the broker counts of itself, and measures what it retains, in bytes on the wire."""

from __future__ import annotations

import time

from accrue.errors import AccrueError, UsageError
from accrue.sync.contribution import Contribution, Scope
from accrue.sync.endpoint import Endpoint
from accrue.sync.link import Limits, Link, Loop, Message, Received, Timing
from accrue.sync.signed import parse, split
from accrue.sync.topics import BY_NAME, Topics

COUNTERS = {
    "$SYS/broker/publish/messages/sent": "publishes_sent",
    "$SYS/broker/publish/messages/dropped": "publishes_dropped",
    "$SYS/broker/bytes/received": "bytes_received",
    "$SYS/broker/bytes/sent": "bytes_sent",
}


class Meter:
    """One more client of the broker, with the owner's rights."""

    def __init__(self, endpoint: Endpoint, scope: Scope) -> None:
        self._topics = Topics(scope.fleet)
        self._counters: dict[str, int] = {}
        self._heard: dict[str, bytes] = {}
        self._fence = False
        self._loop = Loop()
        self._link = Link(
            endpoint,
            "meter",
            self,
            timing=Timing(accept_bytes=16 * 2**20, receive_maximum=1024, backoff_cap_s=2.0),
        )
        self._loop.add(self._link)
        self._link.open()

    def step(self, timeout_s: float) -> None:
        self._loop.step(timeout_s)

    def close(self) -> None:
        self._loop.close()

    def counters(self) -> dict[str, int]:
        """Of the broker's present process, at most a second or two old."""
        return dict(self._counters)

    def retained(self, until: float) -> dict[str, object]:
        """Bytes of contributions and parts, topics and MQTT headers included: the snapshot that a
        new device takes.

        Raises:
            UsageError: it did not come in time.
        """
        self._heard.clear()
        self._fence = False
        fence = self._topics.path("roster")
        kinds = [self._topics.filter(kind) for kind in ("class", "data")]
        self._link.subscribe(kinds)
        self._link.subscribe([fence], retained=False)
        self._link.send(Message(fence, b"fence", BY_NAME["roster"]))
        while not self._fence:
            if time.monotonic() > until:
                raise UsageError("time is up while reading what the broker retains")
            self.step(0.1)
        self._link.unsubscribe([*kinds, fence])
        return self._measured()

    def _measured(self) -> dict[str, object]:
        class_of: dict[str, str] = {}
        sizes: dict[str, int] = {}
        unclaimed = 0
        parsed = [(self._topics.parse(topic), topic, data) for topic, data in self._heard.items()]
        for address, topic, data in parsed:
            if address is not None and address.name == "class" and data:
                for part in Contribution.from_body(parse(split(data)[1])).parts:
                    class_of[part.sha256] = address.class_id
                size = Message(topic, data, BY_NAME["class"]).packet_bytes
                sizes[address.class_id] = sizes.get(address.class_id, 0) + size
        for address, topic, data in parsed:
            if address is not None and address.name == "data" and data:
                size = Message(topic, data, BY_NAME["data"]).packet_bytes
                if address.sha256 in class_of:
                    sizes[class_of[address.sha256]] += size
                else:
                    unclaimed += size
        per_class = list(sizes.values()) or [0]
        return {
            "messages": len(self._heard),
            "bytes": sum(per_class) + unclaimed,
            "bytes_per_class_mean": round(sum(per_class) / len(per_class)),
            "bytes_per_class_max": max(per_class),
            "bytes_that_no_class_names": unclaimed,
        }

    def on_up(self, limits: Limits) -> None:
        self._link.subscribe(list(COUNTERS))

    def on_down(self, error: AccrueError) -> None: ...

    def on_message(self, message: Received) -> None:
        if message.topic in COUNTERS:
            self._counters[COUNTERS[message.topic]] = int(message.payload)
        elif message.topic == self._topics.path("roster"):
            self._fence = True
        else:
            self._heard[message.topic] = message.payload
