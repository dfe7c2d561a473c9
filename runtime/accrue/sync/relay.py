"""The relay: what many devices say in a quarter of a second, in one message for all of them.

Optional. 100 teaches a second to 1,000 devices are 200,000 deliveries a second one by one, and
4,000 in batches; the bytes stay the same. It passes on what the devices signed, byte for byte,
holds no key and keeps nothing on the disk. docs/scale.md says when it pays.
"""

from __future__ import annotations

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
BEAT_S = 5.0
LARGEST_BATCH_BYTES = 256 * 1024
HEADER_BYTES = 512  # of a PUBLISH: topic and properties, generously
PENDING_LIMIT_BYTES = 64 * 1024 * 1024
KINDS = ("class", "data")


@dataclass
class _Channel:
    """What goes to one class set and space."""

    pending: dict[str, bytes] = field(default_factory=dict)
    number: int = 0


class Relay:
    """Gathers and passes on, over one link.

    Each connection is an epoch of its own: what was said while the relay was away it cannot know,
    so devices take a snapshot when they see another epoch. If another relay is at work already,
    this one stands by.

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
        self._pending_bytes = 0
        self._since: float | None = None  # when the oldest pending message came
        self._beat_at = 0.0
        self._ready = False
        self.link = Link(
            endpoint,
            client_id,
            self,
            will=self._will,
            timing=timing or Timing(accept_bytes=16 * 1024 * 1024, receive_maximum=1024),
            clock=clock,
        )
        self.loop = Loop(clock)
        self.loop.add(self.link)

    def open(self) -> None:
        self.link.open()

    def describe(self) -> str:
        """How it stands, for people."""
        if self.error is not None:
            return str(self.error)
        if not self._ready:
            return f"connecting to {self.link.endpoint}"
        return "standing by: another relay is at work" if self.standing_by else "ready"

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
        filters = [self._topics.filter(kind) for kind in KINDS]
        self.link.subscribe(filters, self._subscribed, retained=False)

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
        if not message.payload or self.standing_by:  # cleared: nobody needs to hear of that
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

    def _will(self) -> Message:
        """Asked for before each connection: the epoch whose end it tells of begins with it."""
        self._start_over()
        return self._state("offline")

    def _subscribed(self, granted: bool) -> None:
        if not granted:
            return
        self._ready = True
        self._beat_at = self._clock()

    def _heard_state(self, payload: bytes) -> None:
        epoch, state, _ = read_state(payload)
        if state == "ready" and epoch == self.epoch:
            self.standing_by = False
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
                self.link.send(Message(topic, payload, BY_NAME["batch"]), self._sent)
                self.relayed += len(group)
                self.batches += 1
        self._drop()

    def _sent(self, outcome: Sent) -> None:
        if outcome in (Sent.DONE, Sent.LOST):  # with a new connection there is a new epoch
            return
        self.error = BrokerDenied(
            f"the broker did not take a batch ({outcome.value})",
            hint="may this user write batch/# and relay/state of the fleet?",
        )
        self._start_over()

    def _start_over(self) -> None:
        """What was gathered is given up: devices see another epoch and take a snapshot."""
        self.epoch = secrets.token_hex(8)
        for channel in self._channels.values():
            channel.number = 0
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
