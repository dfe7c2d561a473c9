"""One connection to an MQTT 5 broker, over paho-mqtt, kept up and driven from one thread.

A `Link` connects, stays connected and hands over what arrives; a `Loop` waits for any number of
links. Nothing is kept in paho: each connection is a new paho client, so whatever was not
acknowledged comes back as ``Sent.LOST`` and is sent again by whoever still wants it sent. A message
above the broker's maximum packet size is never handed to paho: the broker would end the connection
for it, and would do so again after every reconnect.
"""

from __future__ import annotations

import enum
import functools
import math
import os
import random
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from accrue.errors import AccrueError, BrokerUnreachable, LinkError
from accrue.sync.endpoint import (
    NOT_AUTHORIZED,
    Endpoint,
    ended,
    lost_again,
    not_mqtt,
    rejected,
    tls_context,
    unreachable,
    untrusted,
)
from accrue.sync.topics import Topic
from accrue.sync.wire import Wire

KIB = 1024
READS_PER_STEP = 8  # of 64 KiB, before other links get their turn
OUT_BUFFER_BYTES = 512 * KIB  # handed to paho and not yet to the kernel
SUSPICIOUS = 3  # connections in a row that were lost at once
NOWHERE = "the-wire-is-connected.invalid"  # for paho, which must never connect by itself
UNLIMITED_BYTES = 268_435_455  # MQTT's own limit of a packet


@dataclass(frozen=True)
class Timing:
    """Seconds, and the limits that hold for a connection."""

    connect_s: float = 10.0  # name, TCP, TLS and CONNACK together
    keepalive_s: int = 30
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    settled_s: float = 10.0  # up for so long: the next loss starts at the base again
    session_expiry_s: int = 0  # the retained messages are the memory, not the broker's queues
    receive_maximum: int = 1_024  # what arrives is dealt with at once, so this costs no memory
    accept_bytes: int = 1024 * KIB  # larger packets are not delivered to us
    window: int = 32  # messages under way at most; the broker may want fewer


class Sent(enum.Enum):
    """What became of a message."""

    DONE = "done"  # the broker has it
    LOST = "lost"  # the connection ended before the broker said so
    OVERSIZED = "oversized"  # above the broker's maximum, never sent
    DENIED = "denied"  # the broker's access list forbids the topic
    REFUSED = "refused"  # the broker would not take it, for another reason


@dataclass(frozen=True)
class Message:
    """To send: how it is sent is a matter of its kind."""

    topic: str
    payload: bytes
    kind: Topic

    @property
    def packet_bytes(self) -> int:
        """Bytes of the PUBLISH packet, header included."""
        rest = 2 + len(self.topic.encode()) + _properties(self.kind)[1] + len(self.payload)
        rest += 2 if self.kind.qos else 0
        return 1 + _varint_bytes(rest) + rest


@dataclass(frozen=True)
class Received:
    topic: str
    payload: bytes
    retained: bool  # it was kept by the broker, and is not news of this moment


@dataclass(frozen=True)
class Limits:
    """What the broker said when it accepted us."""

    packet_bytes: int = UNLIMITED_BYTES
    receive_maximum: int = 65_535
    retain: bool = True
    wildcards: bool = True
    session_expiry_s: int = 0


class Listener(Protocol):
    """Called from `Loop.step`, in its thread."""

    def on_up(self, limits: Limits) -> None: ...
    def on_down(self, error: AccrueError) -> None: ...
    def on_message(self, message: Received) -> None: ...


class Phase(enum.Enum):
    CLOSED = "closed"  # not wanted
    WAITING = "waiting"  # for the back-off to end
    TCP = "tcp"
    TLS = "tls"
    MQTT = "mqtt"  # CONNECT is sent
    UP = "up"


Done = Callable[[Sent], None]
Subscribed = Callable[[bool], None]


class Link:
    """Keeps one client connected. A step blocks for nothing but looking a host's name up.

    Attributes:
        phase: where it stands.
        limits: the broker's, of the present or the last connection.
        error: why it is not up, or why it last went down; None after it came up.
        attempts: connections tried in a row without one that settled.
        oversized: messages that were above the broker's maximum and stayed here.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client_id: str,
        listener: Listener,
        *,
        will: Callable[[], Message | None] = lambda: None,
        timing: Timing = Timing(),
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`will` is asked for the last will before each connection; `jitter` gives [0, 1)."""
        self.endpoint = endpoint
        self.client_id = client_id
        self.timing = timing
        self.phase = Phase.CLOSED
        self.limits = Limits()
        self.error: AccrueError | None = None
        self.attempts = 0
        self.connections = 0
        self._past_bytes = [0, 0]
        self.oversized = 0
        self.busy = False
        self.loop: Loop | None = None
        self._listener = listener
        self._will = will
        self._clock = clock
        self._jitter = jitter
        self._due = 0.0
        self._up_since = 0.0
        self._short_lived = 0  # connections in a row that came up and did not settle
        self._addresses: deque[Any] = deque()
        self._socket: socket.socket | None = None
        self._wire: Wire | None = None
        self._client: _Client | None = None
        self._registered: tuple[int, int] | None = None
        self._events: deque[Callable[[], None]] = deque()
        self._waiting: deque[tuple[Message, Done]] = deque()
        self._flying: dict[int, tuple[Message, Done]] = {}
        self._subscribing: dict[int, Subscribed] = {}
        self._failure: AccrueError | None = None

    # ---- for the user of a link ------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self.phase is Phase.UP

    @property
    def due(self) -> float:
        """When `tick` has something to do, on the link's clock."""
        return self._due

    @property
    def unsent(self) -> int:
        """Messages that are queued or under way."""
        return len(self._waiting) + len(self._flying)

    @property
    def sent_bytes(self) -> int:
        """MQTT bytes over all connections; TLS adds 22 to 29 a record of at most 64 KiB."""
        return self._past_bytes[0] + (self._wire.sent_bytes if self._wire else 0)

    @property
    def received_bytes(self) -> int:
        return self._past_bytes[1] + (self._wire.received_bytes if self._wire else 0)

    def open(self) -> None:
        """From now on the link is wanted up. The first attempt is made by the next step."""
        if self.phase is Phase.CLOSED:
            self.phase, self._due, self.attempts = Phase.WAITING, self._clock(), 0

    def close(self) -> None:
        """Says goodbye, so that the broker drops the will, and stays closed."""
        if self._client is not None and self.phase is Phase.UP and self._wire is not None:
            self._client.disconnect()
            self._client.loop_write()
            self._wire.drain()
        self._end(Phase.CLOSED)

    def cut(self) -> None:
        """Stays closed, without a goodbye: the broker sends the will."""
        self._end(Phase.CLOSED)

    def abort(self) -> None:
        """Ends the connection as a power cut would; the link reconnects after its back-off."""
        if self.phase not in (Phase.CLOSED, Phase.WAITING):
            self._down(BrokerUnreachable(f"the connection to {self.endpoint} was cut here"))

    def send(self, message: Message, done: Done = lambda _: None) -> None:
        """Queues a message. `done` is called once, from a step, or here where it cannot be sent."""
        if self.phase is not Phase.UP:
            done(Sent.LOST)
            return
        if message.packet_bytes > self.limits.packet_bytes:
            self.oversized += 1
            done(Sent.OVERSIZED)
            return
        self._waiting.append((message, done))
        self._pump()

    def subscribe(
        self,
        filters: Sequence[str],
        done: Subscribed = lambda _: None,
        *,
        retained: bool = True,
        own: bool = True,
    ) -> None:
        """At QoS 1. `done` gets False where the broker grants less, or the connection ended.

        Args:
            retained: also what the broker has kept, not only what comes from now on.
            own: also what this link itself publishes.
        """
        if self._client is None or self.phase is not Phase.UP:
            done(False)
            return
        options = SubscribeOptions(
            qos=1,
            noLocal=not own,
            retainAsPublished=False,
            retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
            if retained
            else SubscribeOptions.RETAIN_DO_NOT_SEND,
        )
        _, mid = self._client.subscribe([(one, options) for one in filters])
        if mid is None:
            done(False)
        else:
            self._subscribing[mid] = done
        self._interest()

    def unsubscribe(self, filters: Sequence[str]) -> None:
        if self._client is not None and self.phase is Phase.UP:
            self._client.unsubscribe(list(filters))
            self._interest()

    # ---- for the loop ----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """What time alone brings about: the next attempt, a time-out, the keep-alive."""
        if now < self._due or self.phase is Phase.CLOSED:
            return
        if self.phase is Phase.WAITING:
            self._attempt(now)
        elif self.phase is Phase.UP and self._client is not None:
            self._due = now + 1.0
            self._client.loop_misc()
            self._after()
        else:
            self._try_next_address(
                BrokerUnreachable(
                    f"broker {self.endpoint} did not answer within {self.timing.connect_s:g} s",
                    hint="check the address and the port, and that no firewall drops them",
                )
            )

    def ready(self, events: int) -> None:
        """The socket can be read or written."""
        if self.phase is Phase.TCP:
            self._tcp_ready()
        elif self.phase is Phase.TLS:
            self._shake_hands()
        elif self._wire is not None:
            self._read() if events & selectors.EVENT_READ else self._after()

    # ---- connecting ------------------------------------------------------------------------------

    def _attempt(self, now: float) -> None:
        self.attempts += 1
        self._failure = None
        host, port = self.endpoint.host, self.endpoint.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            self._down(
                BrokerUnreachable(
                    f"no address is known for the broker {host!r}: {error}",
                    hint=_hint_for(host),
                )
            )
            return
        self._addresses = deque(found)
        self._due = now + self.timing.connect_s
        self._try_next_address(None)

    def _try_next_address(self, failure: AccrueError | None) -> None:
        self._drop_socket()
        while self._addresses:
            family, kind, proto, _, address = self._addresses.popleft()
            try:
                opened = self._socket = socket.socket(family, kind, proto)
                opened.setblocking(False)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.phase = Phase.TCP
                opened.connect(address)
            except BlockingIOError:
                pass
            except OSError as error:
                failure = unreachable(self.endpoint, error)
                self._drop_socket()
                continue
            self._due = self._clock() + self.timing.connect_s
            self._watch(opened.fileno(), selectors.EVENT_WRITE)
            return
        self._down(failure or BrokerUnreachable(f"broker {self.endpoint} has no address"))

    def _tcp_ready(self) -> None:
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._try_next_address(unreachable(self.endpoint, OSError(code, os.strerror(code))))
            return
        if not self.endpoint.tls:
            self._greet()
            return
        try:
            context = tls_context(self.endpoint.ca, self.endpoint.verify)
            self._unwatch()
            self._socket = context.wrap_socket(
                self._socket, server_hostname=self.endpoint.host, do_handshake_on_connect=False
            )
        except (OSError, ValueError, LinkError) as error:
            self._down(error if isinstance(error, LinkError) else untrusted(self.endpoint, error))
            return
        self.phase = Phase.TLS
        self._shake_hands()

    def _shake_hands(self) -> None:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(self._socket.fileno(), selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._watch(self._socket.fileno(), selectors.EVENT_WRITE)
        except (OSError, ValueError) as error:
            self._down(untrusted(self.endpoint, error))
        else:
            self._greet()

    def _greet(self) -> None:
        """CONNECT, over the connected socket."""
        assert self._socket is not None
        self.phase = Phase.MQTT
        self._unwatch()
        wire = self._wire = Wire(self._socket, self._unwatch)
        client = self._client = _Client(self.client_id, wire)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        if self.endpoint.user:
            client.username_pw_set(self.endpoint.user, self.endpoint.password)
        will = self._will()
        if will is not None:
            properties = Properties(PacketTypes.WILLMESSAGE)
            properties.ContentType = will.kind.content
            client.will_set(will.topic, will.payload, will.kind.qos, will.kind.retain, properties)
        connect = Properties(PacketTypes.CONNECT)
        connect.SessionExpiryInterval = self.timing.session_expiry_s
        connect.ReceiveMaximum = self.timing.receive_maximum
        connect.MaximumPacketSize = self.timing.accept_bytes
        client.connect_async(
            NOWHERE,
            self.endpoint.port,
            self.timing.keepalive_s,
            clean_start=self.timing.session_expiry_s == 0,
            properties=connect,
        )
        try:
            client.reconnect()
        except OSError as error:
            self._failure = unreachable(self.endpoint, error)
        self._after()

    # ---- called by paho: only noted, so that no exception of ours passes through it --------------

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._failure = rejected(self.endpoint, reason)
        else:
            limits = Limits(
                packet_bytes=getattr(properties, "MaximumPacketSize", UNLIMITED_BYTES),
                receive_maximum=getattr(properties, "ReceiveMaximum", 65_535),
                retain=bool(getattr(properties, "RetainAvailable", 1)),
                wildcards=bool(getattr(properties, "WildcardSubscriptionAvailable", 1)),
                session_expiry_s=getattr(
                    properties, "SessionExpiryInterval", self.timing.session_expiry_s
                ),
            )
            self._events.append(functools.partial(self._up, limits))

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if self._failure is None:
            before = self.phase is not Phase.UP
            self._failure = ended(
                self.endpoint, reason, flags.is_disconnect_packet_from_server, before
            )

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            received = Received(message.topic, bytes(message.payload), message.retain)
        except UnicodeDecodeError:
            return  # no topic of ours
        self._events.append(functools.partial(self._listener.on_message, received))

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason: ReasonCode, properties: Any
    ) -> None:
        outcome = Sent.DONE
        if reason.is_failure:
            outcome = Sent.DENIED if reason.value == NOT_AUTHORIZED else Sent.REFUSED
        self._events.append(functools.partial(self._landed, mid, outcome))

    def _on_subscribe(
        self, client: Any, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Any
    ) -> None:
        granted = all(reason.value == 1 for reason in reasons)
        self._events.append(functools.partial(self._subscribed, mid, granted))

    # ---- while connected -------------------------------------------------------------------------

    def _read(self) -> None:
        wire, client = self._wire, self._client
        assert wire is not None
        assert client is not None
        self.busy = False
        for _ in range(READS_PER_STEP):
            more = wire.fill()
            try:
                while wire.has_input and not wire.closed:
                    client.loop_read()
                if wire.at_end and not wire.closed:
                    client.loop_read()  # it sees the end and says so
            except Exception as error:  # nothing of ours runs in there: see the callbacks above
                self._failure = not_mqtt(self.endpoint, error)
            self._after()
            if not more or self._wire is not wire:
                return
        self.busy = True

    def _after(self) -> None:
        """Hands over what was noted, sends what is queued, and sees whether it is over."""
        while self._events:
            self._events.popleft()()
        if self._wire is None or self._client is None:
            return
        if self.phase is Phase.UP:
            self._pump()
        if self._client.want_write() and not self._wire.closed:
            self._client.loop_write()
        self._wire.flush()
        if self._wire.closed or self._failure is not None:
            self._down(
                self._failure or BrokerUnreachable(f"the connection to {self.endpoint} broke")
            )
        else:
            self._interest()

    def _up(self, limits: Limits) -> None:
        self.phase, self.limits, self.error = Phase.UP, limits, None
        self.connections += 1
        self._up_since = self._clock()
        self._due = self._up_since + 1.0
        self._listener.on_up(limits)

    def _pump(self) -> None:
        client, wire = self._client, self._wire
        if client is None or wire is None:
            return
        window = min(self.timing.window, self.limits.receive_maximum)
        while (
            self._waiting and len(self._flying) < window and wire.waiting_bytes < OUT_BUFFER_BYTES
        ):
            message, done = self._waiting.popleft()
            kind = message.kind
            info = client.publish(
                message.topic, message.payload, kind.qos, kind.retain, _properties(kind)[0]
            )
            if info.mid in self._flying:  # 65,535 numbers, and a window of dozens
                raise LinkError(f"message number {info.mid} was given twice")
            self._flying[info.mid] = (message, done)
        self._interest()

    def _landed(self, mid: int, outcome: Sent) -> None:
        if mid in self._flying:
            _, done = self._flying.pop(mid)
            done(outcome)

    def _subscribed(self, mid: int, granted: bool) -> None:
        if mid in self._subscribing:
            self._subscribing.pop(mid)(granted)

    # ---- the end of a connection -----------------------------------------------------------------

    def _down(self, error: AccrueError) -> None:
        now = self._clock()
        if self.phase is Phase.UP:
            if now - self._up_since >= self.timing.settled_s:
                self.attempts = self._short_lived = 0
            else:
                self._short_lived += 1
                if self._short_lived >= SUSPICIOUS and type(error) is BrokerUnreachable:
                    error = lost_again(self.endpoint, self._short_lived)
        self.error = error
        self._end(Phase.WAITING)
        self._due = now + backoff_s(self.attempts, self.timing, self._jitter)
        self._listener.on_down(error)

    def _end(self, phase: Phase) -> None:
        self.phase = phase
        self._drop_socket()
        self._events.clear()
        self.busy = False
        given, self._flying = list(self._flying.values()), {}
        queued, self._waiting = list(self._waiting), deque()
        subscribing, self._subscribing = list(self._subscribing.values()), {}
        for _, done in [*given, *queued]:
            done(Sent.LOST)
        for subscribed in subscribing:
            subscribed(False)

    def _drop_socket(self) -> None:
        self._unwatch()
        client, self._client = self._client, None
        wire, self._wire = self._wire, None
        if client is not None:
            client.on_disconnect = None
        if wire is not None:
            wire.close()
            self._past_bytes[0] += wire.sent_bytes
            self._past_bytes[1] += wire.received_bytes
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # ---- the selector ----------------------------------------------------------------------------

    def _interest(self) -> None:
        wire = self._wire
        if wire is None or wire.closed:
            return
        events = selectors.EVENT_READ
        if wire.waiting_bytes or (self._client is not None and self._client.want_write()):
            events |= selectors.EVENT_WRITE
        self._watch(wire.fileno(), events)

    def _watch(self, number: int, events: int) -> None:
        if self.loop is None or self._registered == (number, events):
            return
        if self._registered is not None and self._registered[0] == number:
            self.loop.selector.modify(number, events, self)
        else:
            self._unwatch()
            self.loop.selector.register(number, events, self)
        self._registered = (number, events)

    def _unwatch(self) -> None:
        if self._registered is not None and self.loop is not None:
            self.loop.selector.unregister(self._registered[0])
        self._registered = None


class Loop:
    """Waits for any number of links in one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.selector = selectors.DefaultSelector()
        self.links: list[Link] = []
        self._clock = clock

    def add(self, link: Link) -> None:
        link.loop = self
        self.links.append(link)

    def remove(self, link: Link) -> None:
        """Closes it first. Nothing happens where it is not in the loop."""
        if link in self.links:
            link.close()
            link.loop = None
            self.links.remove(link)

    def step(self, timeout_s: float) -> set[Link]:
        """Waits at most so long for something to happen, and deals with it.

        Returns:
            The links with which something happened.
        """
        now = self._clock()
        wanted = [link for link in self.links if link.phase is not Phase.CLOSED]
        if any(link.busy for link in wanted):
            timeout_s = 0.0
        elif wanted:
            timeout_s = min(timeout_s, max(0.0, min(link.due for link in wanted) - now))
        touched = set()
        if self.selector.get_map():
            for key, events in self.selector.select(timeout_s):
                link: Link = key.data
                touched.add(link)
                link.ready(events)
        elif timeout_s > 0:
            time.sleep(timeout_s)
        now = self._clock()
        for link in wanted:
            if link.busy and link not in touched:
                link.ready(selectors.EVENT_READ)
                touched.add(link)
            if link.due <= now and link.phase is not Phase.CLOSED:
                touched.add(link)
                link.tick(now)
        return touched

    def close(self) -> None:
        for link in list(self.links):
            self.remove(link)
        self.selector.close()


class _Client(mqtt.Client):
    """paho on a socket that is connected already: its own way of connecting blocks the thread.

    It knows neither the broker's name nor TLS, so a paho that no longer asks for the socket here
    cannot send the password unencrypted: it finds no such host.
    """

    def __init__(self, client_id: str, wire: Wire) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
        )
        self.max_inflight_messages = 0  # `Link` counts
        self._ready_wire = wire

    def _create_socket(self) -> Any:
        return self._ready_wire


def _hint_for(host: str) -> str:
    """What to type in the place of a name without an address."""
    name, colon, port = host.partition(":")
    if colon and port.isdecimal():
        return f"the port is an option of its own: {name} with --port {port}"
    return "check its name, or give its IP address"


def backoff_s(attempts: int, timing: Timing, jitter: Callable[[], float]) -> float:
    """Full jitter: anything between nothing and a ceiling that doubles up to the cap.

    Devices that lost their broker together come back spread out over the whole time.
    """
    ceiling = math.ldexp(timing.backoff_base_s, min(max(attempts - 1, 0), 30))
    return jitter() * min(timing.backoff_cap_s, ceiling)


# ---- sizes ---------------------------------------------------------------------------------------


@functools.cache
def _properties(kind: Topic) -> tuple[Properties, int]:
    """The MQTT properties of a kind of message, and their bytes."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = kind.content
    if kind.expiry_s is not None:
        properties.MessageExpiryInterval = kind.expiry_s
    return properties, len(properties.pack())


def _varint_bytes(value: int) -> int:
    return 1 if value < 128 else 2 if value < 16_384 else 3 if value < 2_097_152 else 4
