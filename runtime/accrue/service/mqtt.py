"""Events for an MQTT broker, below a prefix of one's own. The topics of a fleet are not touched."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from accrue.errors import AccrueError, ConfigError
from accrue.service.daemon import Device
from accrue.service.events import ANSWER, CAMERA, Event
from accrue.service.settings import Settings
from accrue.sync.endpoint import Endpoint
from accrue.sync.link import Limits, Link, Loop, Message, Received, Sent, Timing
from accrue.sync.topics import JSON, Topic

FIGURE = "accrue_mqtt_events_total"
STEP_S = 0.1  # the longest that an event waits for the loop
GOODBYE_S = 2.0
WAITING = 1000  # events; then the oldest are dropped
ONLINE, OFFLINE = b"online", b"offline"
log = logging.getLogger("accrue.outputs")
_NEWS = Topic("news", "", "device", (), "something happened", content=JSON, retain=False)
_NOW = Topic("now", "", "device", (), "how it is now", content=JSON, retain=True)
_STATUS = Topic("status", "", "device", (), "whether it is there", content="text/plain")
_KEPT = (ANSWER, CAMERA)  # of each camera the last one is kept by the broker


class MqttEvents:
    """A thread that sends each event once and in order, and goes on where it was after a cut.

    Args:
        told: which events are for others.

    Raises:
        ConfigError: the password's file cannot be read.
    """

    def __init__(
        self, device: Device, told: Callable[[Event], bool], *, timing: Timing | None = None
    ) -> None:
        self._device, self._told = device, told
        endpoint, self._prefix = broker_of(device.settings)
        self._link = Link(
            endpoint,
            f"accrue-{secrets.token_hex(6)}",
            self,
            will=lambda: self._message("status", OFFLINE, _STATUS),
            timing=timing or Timing(),
        )
        self._loop = Loop()
        self._loop.add(self._link)
        self._waiting: deque[Event] = deque()
        self._under_way = False
        self._after = device.events.last
        self._over = threading.Event()
        self._said = ""
        self._link.open()
        self._thread = threading.Thread(target=self._run, name="events to MQTT", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sends what waits, if that is quick, and says goodbye."""
        self._over.set()
        self._thread.join(timeout=2 * GOODBYE_S)

    # ---- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._step()
            self._leave()
        finally:
            self._loop.close()

    def _step(self) -> None:
        self._loop.step(STEP_S)
        new = self._device.events.since(self._after)
        if new:
            self._after = new[-1].id
            self._waiting.extend(event for event in new if self._told(event))
        while len(self._waiting) > WAITING:
            self._waiting.popleft()
            self._count("dropped")
        self._send_next()

    def _send_next(self) -> None:
        """One at a time, so that what is lost with a connection is sent again in its place."""
        if self._under_way or not self._waiting or not self._link.is_up:
            return
        event = self._waiting[0]
        body = json.dumps(event.document(), ensure_ascii=False).encode()
        self._under_way = True

        def done(outcome: Sent) -> None:
            self._under_way = False
            if outcome is Sent.LOST:
                return
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()
            self._count("sent" if outcome is Sent.DONE else outcome.value)
            if outcome is not Sent.DONE:
                self._tell(f"{self._topic(event)} is {outcome.value}")
            self._send_next()

        self._link.send(
            self._message(self._topic(event), body, _NOW if event.type in _KEPT else _NEWS), done
        )

    def _leave(self) -> None:
        deadline = time.monotonic() + GOODBYE_S
        while self._waiting and self._link.is_up and time.monotonic() < deadline:
            self._step()
        gone = threading.Event()
        self._link.send(self._message("status", OFFLINE, _STATUS), lambda _: gone.set())
        while not gone.is_set() and time.monotonic() < deadline:
            self._loop.step(STEP_S)

    # ---- from the link --------------------------------------------------------------------------

    def on_up(self, limits: Limits) -> None:
        if self._said:
            log.info("the MQTT broker %s takes events again", self._link.endpoint)
        self._said = ""
        self._link.send(self._message("status", ONLINE, _STATUS))

    def on_down(self, error: AccrueError) -> None:
        self._tell(error.message)

    def on_message(self, message: Received) -> None:
        """Nothing was subscribed to."""

    # ---- parts ----------------------------------------------------------------------------------

    def _topic(self, event: Event) -> str:
        return f"{event.type}/{event.data['camera']}" if event.type in _KEPT else event.type

    def _message(self, topic: str, payload: bytes, kind: Topic) -> Message:
        return Message(f"{self._prefix}/{topic}", payload, kind)

    def _tell(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            log.warning("events for MQTT: %s", reason)

    def _count(self, what: str) -> None:
        self._device.figures.add(FIGURE, what=what)


def broker_of(settings: Settings) -> tuple[Endpoint, str]:
    """Broker and prefix of the setting `mqtt`, which has passed its check.

    Raises:
        ConfigError: the file of the password cannot be read.
    """
    parts = urlsplit(settings.mqtt or "")
    tls = parts.scheme == "mqtts"
    password = ""
    if settings.mqtt_password is not None:
        password = _read(settings.mqtt_password)
    return (
        Endpoint(
            parts.hostname or "",
            parts.port or (8883 if tls else 1883),
            unquote(parts.username or ""),
            password,
            settings.mqtt_ca,
            tls,
        ),
        parts.path.strip("/"),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            f"the password for MQTT cannot be read from {path}: {reason}",
            hint="setting `mqtt_password` names a file that the service may read",
            path=str(path),
        ) from None
