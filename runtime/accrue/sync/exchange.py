"""One device's conversation with the fleet's broker, from its ledger, in one thread.

On each connection: last will, state `init`, subscriptions, a fence that tells when all that the
broker had retained has arrived, then whatever of the own contributions the broker lacks (all, where
it lost everything), state `ready`. From then on each own change goes out and each one that comes in
is applied, all of a step in one call of the ledger.

A part goes out before the contribution that names it, and is cleared from the broker once the
contribution that no longer names it has been acknowledged.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from accrue import __version__
from accrue.errors import (
    AccrueError,
    BrokerDenied,
    Conflict,
    FormatError,
    LinkError,
    StoreBusy,
    StoreFull,
)
from accrue.sync.batch import read_state
from accrue.sync.chunks import CHUNK_BYTES, HEADER_BYTES, Assembly, cut
from accrue.sync.clock import wall_clock_ms
from accrue.sync.contribution import Contribution
from accrue.sync.endpoint import Endpoint
from accrue.sync.follow import Follow
from accrue.sync.inbox import Inbox
from accrue.sync.ledger import Applied, Heard, Ledger
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent, Timing
from accrue.sync.outbox import MemoryOutbox, Outbox
from accrue.sync.parts import hash_of
from accrue.sync.presence import Presence, Sessions, State
from accrue.sync.signed import parse, split
from accrue.sync.topics import BY_NAME, Address, Topics

PACKET_OVERHEAD_BYTES = 1024  # topic, properties and header of a chunk; no topic of ours needs more
QUEUED_LIMIT = 64  # messages handed to the link at a time
SENDING_LIMIT = 8  # contributions under way at a time
FETCH_FILTERS = 8  # of one SUBSCRIBE: what the strictest brokers take
FETCHES_LIMIT = 256  # parts asked for at a time
FETCH_S = 20.0  # then asked for again
AGAIN_S = 20.0  # at least, between two readings of all that is retained
RETRY_S = 30.0  # after the broker refused a message that it may take later
BUSY_S = 1.0  # before what came in is applied again, where another process held the state's lock
FULL_S = 300.0  # before what had no room is asked for again
REPORT_S = 15.0  # at most one report in this time
DOCUMENTS = ("roster", "manifest", "coming")
DOCUMENT_LIMIT_BYTES = 64 * 2**20


class Stage(enum.Enum):
    """Where the start-up stands."""

    DOWN = "down"
    SUBSCRIBING = "subscribing"
    LISTENING = "listening"  # until the fence
    REFILLING = "refilling"  # what the broker lacks, and what is unsent
    READY = "ready"
    STOPPED = "stopped"


@dataclass
class Figures:
    """Counts since the start. `oversized`, `denied`, `refused`: messages that the broker would not
    have, or did not take."""

    heard: int = 0
    applied: int = 0
    sent: int = 0
    refilled: int = 0
    cleared: int = 0
    fetched: int = 0
    oversized: int = 0
    denied: int = 0
    refused: int = 0


@dataclass
class _Sending:
    """A contribution on its way: done when all of its messages are."""

    class_id: str
    revision: int
    parts: dict[str, int]  # SHA-256 to chunks
    waiting: int = 0
    failed: Sent | None = None


@dataclass
class _OnBroker:
    """What the broker retains of an own contribution."""

    revision: int
    parts: dict[str, int] = field(default_factory=dict)


@dataclass
class _Fetch:
    """Contents of the owner on their way here."""

    assembly: Assembly[str]
    done: list[Callable[[bytes], None]]
    due: float = 0.0


class Exchange:
    """Drives a ledger over a link.

    Args:
        ledger: what is said and heard. inbox: checks and assembles what comes in.
        outbox: keeps what must still be cleared over a restart.
        on_applied: told after contributions changed the ledger.
        on_document: gets each roster, manifest and announcement, as it came: (address, payload).
        on_other: gets what came on no topic of the fleet; somebody else subscribed to it.
        report: makes the signed report when one is due; None: nothing to report.
        follow: chooses between the devices' own topics and a relay's batches.
        loop: shared by many exchanges of one process; its own where none is given.

    Attributes:
        stage, figures, problems: how it stands. A problem is keyed by what it is about, and gone
            when it is solved.
    """

    def __init__(
        self,
        ledger: Ledger,
        inbox: Inbox,
        endpoint: Endpoint,
        *,
        outbox: Outbox | None = None,
        on_applied: Callable[[Applied], None] = lambda _: None,
        on_document: Callable[[Address, bytes], None] = lambda address, payload: None,
        on_other: Callable[[Received], object] = lambda message: None,
        report: Callable[[], bytes | None] = lambda: None,
        follow: Follow | None = None,
        loop: Loop | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.ledger = ledger
        self.inbox = inbox
        self.stage = Stage.DOWN
        self.figures = Figures()
        self.problems: dict[str, AccrueError] = {}
        self.follow = follow or Follow()
        self._outbox = outbox if outbox is not None else MemoryOutbox()
        self._on_applied = on_applied
        self._on_document = on_document
        self._on_other = on_other
        self._report = report
        self._clock = clock
        self._now_ms = now_ms
        scope = ledger.scope
        self.topics = Topics(scope.fleet)
        self._own = {"device": ledger.device, "set": scope.class_set, "space": scope.space16}
        self._others = {"set": scope.class_set, "space": scope.space16}
        self._sessions = Sessions(now_ms)
        self._fence = b""
        self._snapshot = 0  # the one of `follow` that was asked for
        self._direct = False  # subscribed to the devices' own topics
        self._waiting: list[Callable[[], None]] = []  # for the snapshot that is asked for next
        self._looking: list[Callable[[], None]] = []  # for the one under way
        self._looks: dict[bytes, Callable[[], None]] = {}  # fences behind `look_at`
        self._look = 0
        self._granted = 0
        self._on_broker: dict[str, _OnBroker] = {}
        self._owned: dict[str, int] = {}  # when the connection came up
        self._sending: dict[str, _Sending] = {}
        self._lacking: dict[str, None] = {}  # classes to send anew though acknowledged, in order
        self._parked: dict[str, tuple[int, float]] = {}  # class to (revision, until)
        self._clearing: set[str] = set()
        self._heard: list[Heard] = []
        self._asked: dict[tuple[str, str], float] = {}  # (device, SHA-256) to when to ask again
        self._fetches: dict[str, _Fetch] = {}
        self._again_due = 0.0
        self._apply_due = 0.0
        self._report_due = 0.0
        self._reported: object = None
        self.link = Link(
            endpoint,
            ledger.device,
            self,
            will=self._will,
            timing=timing or Timing(),
            clock=clock,
        )
        self.loop = loop or Loop(clock)
        self._owns_loop = loop is None
        self.loop.add(self.link)

    def __repr__(self) -> str:
        return (
            f"<Exchange of {self.ledger.device}: {self.stage.value}, {self.figures}, "
            f"problems {self.problems}, refused {dict(self.inbox.refused)}, "
            f"link {self.link.phase.value} {self.link.error or ''}>"
        )

    # ---- for whoever runs it ---------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Connected, with all that was retained applied and all of its own acknowledged."""
        return self.stage is Stage.READY

    @property
    def is_settled(self) -> bool:
        """Ready, and nothing is under way in either direction."""
        return (
            self.is_ready
            and not (self._sending or self._heard or self.link.unsent)
            and not self.inbox.wanted()
            and not self._to_send()
        )

    def open(self) -> None:
        """Starts; the steps do the rest, reconnecting included."""
        self.link.open()

    def step(self, timeout_s: float) -> None:
        """Waits at most so long for something to happen, and deals with it.

        What another process keeps from being applied (StoreBusy) is applied a second later; what
        there is no room for (StoreFull) is asked for again in five minutes, and the rest goes on.
        Both are `problems`.

        Raises:
            StoreError: the ledger could not write. Nothing is lost: the next step tries again.
        """
        self.loop.step(timeout_s)
        self.work()

    def work(self) -> None:
        """What a step does after waiting; for those who share a loop."""
        self._apply()
        if self.stage in (Stage.DOWN, Stage.STOPPED):
            return
        self._listen()
        self._fetch()
        if self.stage in (Stage.REFILLING, Stage.READY):
            waiting = self._to_send()
            self._send(waiting)
            if not waiting and not self._sending:
                if self.stage is Stage.REFILLING:
                    self.stage = Stage.READY
                    self._say("ready")
                    self.report_soon()
                self._clear()
        self._send_report()

    def publish(
        self,
        name: str,
        payload: bytes,
        done: Callable[[Sent], None] = lambda _: None,
        **fields: str,
    ) -> None:
        """Sends a message of a kind of the table of topics; `done` is told what became of it."""
        self.link.send(Message(self.topics.path(name, **fields), payload, BY_NAME[name]), done)

    def fetch(self, sha256: str, done: Callable[[bytes], None]) -> None:
        """Asks for contents of the owner; `done` gets them, whole and checked, from a step.

        It is asked for again until it comes, over reconnects too.
        """
        known = self._fetches.get(sha256)
        if known is not None:
            known.done.append(done)
            return
        assembly: Assembly[str] = Assembly(DOCUMENT_LIMIT_BYTES, DOCUMENT_LIMIT_BYTES)
        self._fetches[sha256] = _Fetch(assembly, [done])

    def report_soon(self) -> None:
        """A new report with the next step, changed counts or not."""
        self._report_due, self._reported = 0.0, None

    def look_again(self, done: Callable[[], None] = lambda: None) -> None:
        """Asks the broker for all that it retains of the others, as after a reconnect.

        Args:
            done: called from a step once all of it is here; not where the connection ends before,
                because the next one begins with the same.
        """
        self._waiting.append(done)
        self.follow.look_again(self._clock())

    def look_at(self, devices: Sequence[str], done: Callable[[], None] = lambda: None) -> None:
        """Asks the broker for all that it retains of these devices.

        Args:
            done: as of `look_again`.
        """
        filters = [self.topics.filter("class", **{**self._own, "device": d}) for d in devices]
        self._look += 1
        fence = f"{self._fence.decode()}/{self._look}".encode()

        def looked() -> None:
            self._unsubscribe(filters)
            done()

        self._looks[fence] = looked
        self._subscribe(filters)
        self.publish("fence", fence, device=self.ledger.device)

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Sends what is unsent for so long at most, says `stopped` and ends the connection.

        Returns:
            Whether everything was acknowledged.
        """
        until = self._clock() + timeout_s
        while self.link.is_up and self._clock() < until and not self.is_settled:
            self.step(min(0.1, max(0.0, until - self._clock())))
        clean = self.is_settled
        if self.link.is_up:
            self.report_soon()
            self._send_report()
            said: list[Sent] = []
            self._say("stopped", said.append)
            while not said and self._clock() < until + 1.0:
                self.loop.step(0.1)
        self.stage = Stage.STOPPED
        self.link.close()
        return clean

    def close(self) -> None:
        """Frees what it holds. Where it was not stopped before, the broker sends the last will."""
        self.stage = Stage.STOPPED
        self.link.cut()
        self.loop.remove(self.link)
        if self._owns_loop:
            self.loop.close()

    # ---- from the link ---------------------------------------------------------------------------

    def on_up(self, limits: Limits) -> None:
        self.stage = Stage.SUBSCRIBING
        self._on_broker.clear()
        self._owned = self.ledger.owned()
        self._sending.clear()
        self._lacking.clear()
        self._parked.clear()
        self._clearing.clear()
        self._asked.clear()
        self._waiting, self._looking = [], []
        self._looks.clear()
        for fetch in self._fetches.values():
            fetch.due = 0.0
        self._say("init")
        self.follow.connected(self._clock())
        self._snapshot, self._direct = self.follow.snapshots, True
        self._fence = self._new_fence()
        documents = [
            self.topics.path("roster"),
            self.topics.filter("manifest", **self._others),
            self.topics.filter("coming", set=self._others["set"]),
            self.topics.path("state", device=self.ledger.device),
            self.topics.path("fence", device=self.ledger.device),
            self.topics.path("relay-state"),
            self.topics.path("batch", **self._others),
        ]
        self._granted = 4
        self.link.subscribe(documents, self._subscribed)
        self.link.subscribe([self.topics.filter("class", **self._own)], self._subscribed)
        self._subscribe_devices(self._subscribed)

    def on_down(self, error: AccrueError) -> None:
        if self.stage is not Stage.STOPPED:
            self.stage = Stage.DOWN

    def on_message(self, message: Received) -> None:
        address = self.topics.parse(message.topic)
        if address is None:
            self._on_other(message)
            return
        if address.name == "relay-state":
            self._heard_relay(message)
        else:
            self.hear(address, message.payload)

    def hear(self, address: Address, payload: bytes) -> None:
        """A message of the fleet, however it came."""
        name = address.name
        if name in ("class", "data"):
            if (address.set, address.space) != (self._others["set"], self._others["space"]):
                return
            if address.device == self.ledger.device:
                if name == "class":
                    self._heard_own(address.class_id, payload)
            elif payload:  # an empty message clears what the broker retains, and says nothing
                self.figures.heard += 1
                if name == "class":
                    self.inbox.contribution(payload, address.device, address.class_id)
                else:
                    self.inbox.chunk(address.device, address.sha256, address.chunk, payload)
        elif name == "fence":
            if payload in self._looks:
                self._looks.pop(payload)()
            elif payload == self._fence:
                self._looked()
        elif name == "batch":
            self._heard_batch(payload)
        elif name == "state":
            self._heard_own_state(payload)
        elif name == "owner-data":
            self._heard_content(address, payload)
        elif name in DOCUMENTS:
            self._on_document(address, payload)

    # ---- start-up --------------------------------------------------------------------------------

    def _will(self) -> Message:
        will = Presence("offline", self._sessions.next())
        topic = self.topics.path("state", device=self.ledger.device)
        return Message(topic, will.to_bytes(), BY_NAME["state"])

    def _say(self, state: State, done: Callable[[Sent], None] = lambda _: None) -> None:
        said = Presence(state, self._sessions.last, self._now_ms(), __version__)
        self.publish("state", said.to_bytes(), done, device=self.ledger.device)

    def _subscribe_devices(self, done: Callable[[bool], None] = lambda _: None) -> None:
        """Two subscriptions: `done` is called for each."""
        classes, data = self._device_filters
        self.link.subscribe([classes], done, own=False)
        # what was retained is fetched part by part, where it is lacking
        self.link.subscribe([data], done, retained=False, own=False)

    @property
    def _device_filters(self) -> tuple[str, str]:
        return (
            self.topics.filter("class", **self._others),
            self.topics.filter("data", **self._others),
        )

    def _new_fence(self) -> bytes:
        return f"{self._sessions.last}-{self.follow.snapshots}".encode()

    def _listen(self) -> None:
        """To the devices' own topics, or to the relay alone."""
        if self.follow.direct(self._clock()):
            if self._snapshot != self.follow.snapshots:
                self._snapshot, self._direct = self.follow.snapshots, True
                self._subscribe_devices()
                self._fence = self._new_fence()
                self._looking, self._waiting = self._looking + self._waiting, []
                self.publish("fence", self._fence, self._fenced, device=self.ledger.device)
        elif self._direct:
            self._direct = False
            self.link.unsubscribe(self._device_filters)

    def _subscribed(self, granted: bool) -> None:
        if not granted:
            if self.link.is_up:
                self.problems["subscribe"] = BrokerDenied(
                    "the broker does not let this device subscribe to the topics of its fleet",
                    hint="its owner may have to write the access list again: accrue-fleet broker",
                )
            return
        self._granted -= 1
        if self._granted == 0:
            self.problems.pop("subscribe", None)
            self.stage = Stage.LISTENING
            self.publish("fence", self._fence, self._fenced, device=self.ledger.device)

    def _fenced(self, sent: Sent) -> None:
        """A broker that does not take the fence must not keep the device from going on."""
        if sent in (Sent.DENIED, Sent.REFUSED):
            self.problems["fence"] = BrokerDenied(
                f"the broker does not let user {self.link.endpoint.user!r} write below "
                f"{self.topics.path('state', device=self.ledger.device).rpartition('/')[0]}/",
                hint="the user name must be the device id; its owner may have to add it again",
            )
            self._looked()
        elif sent is Sent.DONE:
            self.problems.pop("fence", None)

    def _looked(self) -> None:
        """All that the broker retained when it was last asked is here."""
        self.follow.snapshot_complete()
        if self.stage is Stage.LISTENING:
            self._listened()
        looking, self._looking = self._looking, []
        for done in looking:
            done()

    def _heard_batch(self, payload: bytes) -> None:
        try:
            messages = self.follow.batch(payload, self._clock())
        except FormatError as error:
            self.problems["relay"] = error
            return
        for topic, each in messages:
            address = self.topics.parse(self.topics.prefix + topic)
            if address is None or address.name not in ("class", "data"):
                continue
            if address.device != self.ledger.device:  # what it says itself tells nothing of what
                self.hear(address, each)  # the broker retains

    def _heard_relay(self, message: Received) -> None:
        epoch, state, last = read_state(message.payload)
        if epoch:
            self.follow.relay_state(
                epoch,
                state == "ready",
                self._clock(),
                last=last.get("{set}/{space}".format(**self._others), 0),
                retained=message.retained,
            )

    def _heard_own(self, class_id: str, envelope: bytes) -> None:
        """What the broker retains of what this device said; only during the start-up."""
        if self.stage not in (Stage.SUBSCRIBING, Stage.LISTENING) or not envelope:
            return
        try:
            said = Contribution.from_body(parse(split(envelope)[1]))
        except AccrueError:
            return  # not worth keeping: it is sent again
        chunks = {part.sha256: self._chunks(part.size) for part in said.parts}
        self._on_broker[class_id] = _OnBroker(said.revision, chunks)
        if said.revision > self._owned.get(class_id, 0):
            self._heard_later_self(class_id, envelope)

    def _heard_later_self(self, class_id: str, envelope: bytes) -> None:
        """This device said more once than its ledger knows: it was restored, or begun anew.

        A restored ledger says again what it has. One that is empty may have been lost: then what
        the fleet remembers of this device is left alone.
        """
        if not self._owned:
            self.problems["forgotten"] = Conflict(
                "the fleet has shots of this device that its state does not have: this is a new "
                "state with the identity of an older one",
                hint="restore a backup, or let the owner take them out: accrue-fleet forget-device",
            )
            return
        found = self.inbox.opened(envelope)
        if found is not None and (found.device, found.class_id) == (self.ledger.device, class_id):
            self._heard.append(Heard(found, envelope, {}))

    def _heard_own_state(self, payload: bytes) -> None:
        """A late last will of an earlier connection marked this device as lost: say it again."""
        found = Presence.from_bytes(payload)
        mine = found is not None and found.session == self._sessions.last
        if self.stage in (Stage.DOWN, Stage.STOPPED) or mine:
            return
        self._say("ready" if self.is_ready else "init")

    def _listened(self) -> None:
        """The end of the start-up's reading: now it is known what the broker lacks."""
        self.link.unsubscribe([self.topics.filter("class", **self._own)])
        unsent = set(self.ledger.unsent())
        for class_id, revision in self.ledger.owned().items():
            found = self._on_broker.get(class_id)
            if class_id not in unsent and (found is None or found.revision < revision):
                self._lacking[class_id] = None
        self.stage = Stage.REFILLING

    # ---- what comes in ---------------------------------------------------------------------------

    def _apply(self) -> None:
        if self._clock() < self._apply_due:
            return  # meanwhile what comes in waits in the inbox, whose memory is bounded
        self._heard += self.inbox.ready()
        if not self._heard:
            return
        try:
            self._take(self._heard)
        except StoreBusy as error:  # nothing was taken: once more, and what goes out goes on
            self.problems["store"] = error
            self._apply_due = self._clock() + BUSY_S
            return
        if self._heard:
            self.problems.pop("store", None)
        self._heard.clear()

    def _take(self, heard: Sequence[Heard]) -> None:
        """Applies as much as there is room for; what has none is asked for again later."""
        try:
            applied = self.ledger.hear(heard)
        except StoreFull as error:
            if len(heard) > 1:
                half = len(heard) // 2
                self._take(heard[:half])
                self._take(heard[half:])
                return
            self.problems["full"] = error
            self.inbox.give_up(heard[0].contribution)
            self._again_due = self._clock() + FULL_S
            return
        if applied.taken:
            self.problems.pop("full", None)
            self.figures.applied += applied.taken
            self._on_applied(applied)

    def _fetch(self) -> None:
        """Asks for the parts that are lacking; one that came with its contribution is not."""
        now = self._clock()
        if self.inbox.lost and now >= self._again_due:
            self.inbox.lost = False
            self._again_due = now + AGAIN_S
            self.look_again()
        wanted = self.inbox.wanted()
        here = [key for key in self._asked if key not in wanted]
        if here:
            for key in here:
                del self._asked[key]
            self.figures.fetched += len(here)
            self._unsubscribe(self._part_filter(*key) for key in here)
        lacking = [key for key in wanted if self._asked.get(key, 0.0) <= now]
        lacking = lacking[: max(0, FETCHES_LIMIT - len(self._asked))]
        for key in lacking:
            self._asked[key] = now + FETCH_S
        self._subscribe(self._part_filter(*key) for key in lacking)
        for sha256, fetch in self._fetches.items():
            if fetch.due <= now:
                fetch.due = now + FETCH_S
                self._subscribe([self.topics.filter("owner-data", sha256=sha256)])

    def _part_filter(self, device: str, sha256: str) -> str:
        return self.topics.filter("data", **{**self._own, "device": device}, sha256=sha256)

    def _subscribe(self, filters: Iterable[str]) -> None:
        for group in _groups(list(filters)):
            self.link.subscribe(group)

    def _unsubscribe(self, filters: Iterable[str]) -> None:
        for group in _groups(list(filters)):
            self.link.unsubscribe(group)

    def _heard_content(self, address: Address, payload: bytes) -> None:
        fetch = self._fetches.get(address.sha256)
        if fetch is None or not payload:
            return
        try:
            data = fetch.assembly.add(address.sha256, address.chunk, payload)
        except AccrueError:
            return
        if data is None or hash_of(data) != address.sha256:
            return
        del self._fetches[address.sha256]
        self._unsubscribe([self.topics.filter("owner-data", sha256=address.sha256)])
        for done in fetch.done:
            done(data)

    # ---- what goes out ---------------------------------------------------------------------------

    def _to_send(self) -> list[str]:
        """Classes to send now, in the order of their changes."""
        now = self._clock()
        waiting = []
        for class_id in dict.fromkeys([*self.ledger.unsent(), *self._lacking]):
            if class_id in self._sending:
                continue
            parked = self._parked.get(class_id)
            if parked is not None and now < parked[1]:
                if self.ledger.owned().get(class_id) == parked[0]:
                    continue
                del self._parked[class_id]
            waiting.append(class_id)
        return waiting

    def _send(self, waiting: Sequence[str]) -> None:
        for class_id in waiting:
            if len(self._sending) >= SENDING_LIMIT or self.link.unsent >= QUEUED_LIMIT:
                return
            self._send_class(class_id)

    def _send_class(self, class_id: str) -> None:
        own = self.ledger.own(class_id)
        listed = {part.sha256: self._chunks(part.size) for part in own.contribution.parts}
        stored = {sha256 for known in self._on_broker.values() for sha256 in known.parts}
        sending = _Sending(class_id, own.contribution.revision, listed)
        messages = []
        for sha256, data in own.parts.items():
            if sha256 in stored:
                continue
            for i, chunk in enumerate(cut(data, self._chunk_bytes())):
                topic = self.topics.path("data", **self._own, sha256=sha256, chunk=i)
                messages.append(Message(topic, chunk, BY_NAME["data"]))
        topic = self.topics.path("class", **self._own, class_id=class_id)
        messages.append(Message(topic, own.envelope, BY_NAME["class"]))
        before = self._on_broker.get(class_id)
        for sha256, chunks in (before.parts if before else {}).items():
            if sha256 not in listed:
                for i in range(chunks):
                    self._outbox.put(
                        self.topics.path("data", **self._own, sha256=sha256, chunk=i), b""
                    )
        self._sending[class_id] = sending
        sending.waiting = len(messages)
        for message in messages:
            self.link.send(message, lambda sent: self._landed(sending, sent))

    def _landed(self, sending: _Sending, sent: Sent) -> None:
        sending.waiting -= 1
        if sent is not Sent.DONE and sending.failed is not Sent.LOST:
            sending.failed = sent
        if sending.waiting or self._sending.get(sending.class_id) is not sending:
            return
        del self._sending[sending.class_id]
        if sending.failed is None:
            self._on_broker[sending.class_id] = _OnBroker(sending.revision, sending.parts)
            if sending.class_id in self._lacking:
                del self._lacking[sending.class_id]
                self.figures.refilled += 1
            self.figures.sent += 1
            self.problems.pop(sending.class_id, None)
            self.ledger.acknowledge(sending.class_id, sending.revision)
        elif sending.failed is not Sent.LOST:
            self._park(sending)

    def _park(self, sending: _Sending) -> None:
        """The broker will not have it: it waits, and the others go on."""
        class_id, what = sending.class_id, f"the contribution to class {sending.class_id}"
        if sending.failed is Sent.OVERSIZED:
            self.figures.oversized += 1
            limit = self.link.limits.packet_bytes
            self.problems[class_id] = LinkError(
                f"{what} does not fit the broker's packets of {limit:,} bytes; it was not sent",
                hint="raise max_packet_size in mosquitto.conf to 131072 or more",
                expected=limit,
            )
        elif sending.failed is Sent.DENIED:
            self.figures.denied += 1
            self.problems[class_id] = BrokerDenied(
                f"the broker's access list does not let this device send {what}",
                hint="its owner may have to add the device again: accrue-fleet broker",
            )
        else:
            self.figures.refused += 1
            self.problems[class_id] = LinkError(
                f"the broker did not take {what}; it is sent again in {RETRY_S:g} s",
                hint="see the broker's log: its memory or disk may be full",
            )
        again = RETRY_S if sending.failed is Sent.REFUSED else float("inf")
        self._parked[class_id] = (sending.revision, self._clock() + again)

    def _clear(self) -> None:
        """Topics of parts that no own contribution names any more."""
        entries = [entry for entry in self._outbox.entries() if entry[0] not in self._clearing]
        if not entries:
            return
        used = {sha256 for known in self._on_broker.values() for sha256 in known.parts}
        for topic, payload in entries:
            address = self.topics.parse(topic)
            if address is None or (address.name == "data" and address.sha256 in used):
                self._outbox.remove(topic, payload)
                continue
            if self.link.unsent >= QUEUED_LIMIT:
                return
            self._clearing.add(topic)
            self.link.send(Message(topic, payload, address.topic), self._cleared(topic, payload))

    def _cleared(self, topic: str, payload: bytes) -> Callable[[Sent], None]:
        def done(sent: Sent) -> None:
            if sent is Sent.DONE:
                self._clearing.discard(topic)
                self.figures.cleared += 1
                self._outbox.remove(topic, payload)

        return done

    def _send_report(self) -> None:
        now = self._clock()
        if not self.is_ready or now < self._report_due:
            return
        self._report_due = now + REPORT_S
        state = (replace(self.figures), dict(self.inbox.refused), sorted(self.problems))
        if state == self._reported:
            return
        payload = self._report()
        if payload is not None:
            self._reported = state
            self.publish("report", payload, device=self.ledger.device)

    def _chunk_bytes(self) -> int:
        room = self.link.limits.packet_bytes - PACKET_OVERHEAD_BYTES
        return max(HEADER_BYTES + 1024, min(CHUNK_BYTES, room))

    def _chunks(self, size: int) -> int:
        """Of content of so many bytes, with this broker."""
        return max(1, -(-size // (self._chunk_bytes() - HEADER_BYTES)))


def _groups(filters: Sequence[str]) -> Iterable[Sequence[str]]:
    return (filters[i : i + FETCH_FILTERS] for i in range(0, len(filters), FETCH_FILTERS))
