"""The relay: what many devices say in a quarter of a second, in one message for all of them.

Optional. 100 teaches a second to 1,000 devices are 200,000 deliveries a second one by one, and
4,000 in batches; the bytes stay the same. It passes on what the devices signed, byte for byte,
holds no key and keeps nothing on the disk. docs/scale.md says when it pays.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from accrue.errors import AccrueError, BrokerDenied
from accrue.sync.batch import Batch, divided, read_state
from accrue.sync.endpoint import Endpoint
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent, Timing
from accrue.sync.topics import BY_NAME, Topics

WINDOW_S = 0.25
BEAT_S = 10.0
LARGEST_BATCH_BYTES = 256 * 1024
HEADER_BYTES = 512  # of a PUBLISH: topic and properties, generously
PENDING_LIMIT_BYTES = 64 * 1024 * 1024
KINDS = ("class", "data")
_SHORT = 16  # bytes of a hash that tell whether a retained message was seen before


@dataclass
class _Channel:
    """What goes to one class set and space."""

    pending: dict[str, bytes] = field(default_factory=dict)
    number: int = 0


class Relay:
    """Gathers and passes on, over one link.

    A relay that loses its connection reads what is retained when it is back, and passes on what it
    had not seen: whoever follows it misses nothing. One that starts anew has another epoch, which
    makes devices take a snapshot. If another relay is at work already, this one stands by.

    Attributes:
        epoch: 16 hex characters.
        standing_by: another relay is at work.
        relayed, batches: messages passed on, and in how many.
        error: why it is not connected; None while it is.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        fleet: str,
        *,
        client_id: str,
        window_s: float = WINDOW_S,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self.standing_by = False
        self.relayed = 0
        self.batches = 0
        self.error: AccrueError | None = None
        self._topics = Topics(fleet)
        self._state_topic = self._topics.path("relay-state")
        self._window_s = window_s
        self._clock = clock
        self._channels: dict[tuple[str, str], _Channel] = {}
        self._seen: dict[str, bytes] = {}
        self._pending_bytes = 0
        self._since: float | None = None  # when the oldest pending message came
        self._beat_at = 0.0
        self._ready = False
        self._knows = False  # what was retained when it first connected has been read
        self._again: list[Message] = []  # batches that a lost connection left in doubt
        self.link = Link(
            endpoint,
            client_id,
            self,
            will=lambda: self._state("offline"),
            timing=timing or Timing(accept_bytes=16 * 1024 * 1024, receive_maximum=1024),
            clock=clock,
        )
        self.loop = Loop(clock)
        self.loop.add(self.link)

    def open(self) -> None:
        self.link.open()

    def step(self, timeout_s: float) -> None:
        """Waits at most so long, takes what arrives and passes on what is due."""
        if self._since is not None:
            timeout_s = min(timeout_s, max(0.0, self._since + self._window_s - self._clock()))
        self.loop.step(timeout_s)
        now = self._clock()
        if not self._ready:
            return
        if self._since is not None and now >= self._since + self._window_s:
            self._flush()
        if now >= self._beat_at:
            self._beat(now)

    def close(self) -> None:
        """Passes on what is left and says that it ends."""
        if self._ready:
            self._flush()
            self._say("stopped")
            until = self._clock() + 2.0
            while self.link.unsent and self.link.is_up and self._clock() < until:
                self.loop.step(0.05)
        self.loop.close()

    # ---- from the link ---------------------------------------------------------------------------

    def on_up(self, limits: Limits) -> None:
        self.error = None
        self._ready = False
        self.link.subscribe([self._state_topic])
        self.link.subscribe([self._topics.filter(kind) for kind in KINDS], self._subscribed)

    def on_down(self, error: AccrueError) -> None:
        self.error = error
        self._ready = False

    def on_message(self, message: Received) -> None:
        if message.topic == self._state_topic:
            self._heard_state(message.payload)
            return
        address = self._topics.parse(message.topic)
        if address is None or address.name not in KINDS:
            return
        if not message.payload:  # cleared; nobody needs to hear of that
            self._seen.pop(message.topic, None)
            return
        digest = hashlib.sha256(message.payload).digest()[:_SHORT]
        known = self._seen.get(message.topic) == digest
        self._seen[message.topic] = digest
        if message.retained and (known or not self._knows):
            return
        if self.standing_by:
            return
        channel = self._channels.setdefault((address.set, address.space), _Channel())
        name = message.topic[len(self._topics.prefix) :]
        earlier = channel.pending.pop(name, b"")  # replaced: the newer one says all
        channel.pending[name] = message.payload
        self._pending_bytes += len(message.payload) - len(earlier)
        if self._since is None:
            self._since = self._clock()
        if self._pending_bytes > PENDING_LIMIT_BYTES:
            self._start_over()

    # ---- within ----------------------------------------------------------------------------------

    def _subscribed(self, granted: bool) -> None:
        if not granted:
            return
        self._ready = True
        self._beat_at = self._clock()
        again, self._again = self._again, []
        for message in again:
            self._send(message)

    def _heard_state(self, payload: bytes) -> None:
        epoch, state, _ = read_state(payload)
        if state == "ready" and epoch == self.epoch:
            self.standing_by, self._knows = False, True
        elif state == "ready":
            self.standing_by = True
            self._drop()
        else:  # the other relay ended, or a late last will of our own was sent
            self.standing_by = False
            self._beat_at = self._clock()

    def _beat(self, now: float) -> None:
        self._beat_at = now + BEAT_S
        if not self.standing_by:
            self._say("ready")

    def _flush(self) -> None:
        if self.link.unsent > 2 * self.link.timing.window:  # the broker does not keep up:
            self._since = self._clock()  # fewer and larger batches
            return
        limit = min(LARGEST_BATCH_BYTES, self.link.limits.packet_bytes - HEADER_BYTES)
        for (class_set, space), channel in self._channels.items():
            topic = self._topics.path("batch", set=class_set, space=space)
            for group in divided(list(channel.pending.items()), limit):
                channel.number += 1
                payload = Batch(self.epoch, channel.number, group).to_bytes()
                self._send(Message(topic, payload, BY_NAME["batch"]))
                self.relayed += len(group)
                self.batches += 1
        self._drop()

    def _send(self, message: Message) -> None:
        """With the same number again where the connection was lost before the broker had it; who
        got it drops the second."""

        def sent(outcome: Sent) -> None:
            if outcome is Sent.LOST:
                self._again.append(message)
                if sum(len(m.payload) for m in self._again) > PENDING_LIMIT_BYTES:
                    self._start_over()
            elif outcome is not Sent.DONE:
                self.error = BrokerDenied(
                    f"the broker did not take a batch ({outcome.value})",
                    hint="may this user write batch/# and relay/state of the fleet?",
                )
                self._start_over()

        self.link.send(message, sent)

    def _start_over(self) -> None:
        """What was gathered is given up: devices see another epoch and take a snapshot."""
        self.epoch = secrets.token_hex(8)
        self._again.clear()
        self._drop()
        self._beat_at = self._clock()

    def _drop(self) -> None:
        for channel in self._channels.values():
            channel.pending.clear()
        self._pending_bytes, self._since = 0, None

    def _say(self, state: str) -> None:
        self.link.send(self._state(state))

    def _state(self, state: str) -> Message:
        last = {f"{s}/{p}": channel.number for (s, p), channel in self._channels.items()}
        text = json.dumps(
            {"state": state, "epoch": self.epoch, "last": last},
            sort_keys=True,
            separators=(",", ":"),
        )
        return Message(self._state_topic, text.encode(), BY_NAME["relay-state"])
