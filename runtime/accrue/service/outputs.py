"""Events for others: a webhook, JSON lines, MQTT. What they cannot take is counted, not awaited."""

from __future__ import annotations

import json
import logging
import random
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO
from urllib.parse import urlsplit

from accrue import __version__
from accrue.errors import AccrueError, ConfigError
from accrue.service.daemon import Device
from accrue.service.events import ACCESS, ANSWER, TEACH, UNKNOWN, Event

WAITING = 1000  # events that wait for a webhook; then the oldest are dropped
TIMEOUT_S = 5.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
TRIES = 8  # of one event: a bit over two minutes; then the next one has its turn
FILE_BYTES = 16 << 20  # of a file of events; then it is set aside as FILE.1, and one is kept
FIGURE = "accrue_webhook_events_total"
log = logging.getLogger("accrue.outputs")


def told(event: Event) -> bool:
    """Whether an event is for others: what changed, without votes and without who has access."""
    if event.type == ANSWER:
        return bool(event.data.get("new"))
    if event.type == TEACH:
        return event.data.get("state") != "recording"
    return event.type not in (ACCESS, UNKNOWN)


class Outputs:
    """The outputs that the settings name, each with a thread that follows the device's events."""

    def __init__(self, device: Device) -> None:
        settings = device.settings
        self._parts: list[_Part] = []
        if settings.events is not None:
            self._parts.append(Lines(device, settings.events))
        if settings.webhook is not None:
            self._parts.append(Webhook(device, settings.webhook))
        if settings.mqtt is not None:
            self._parts.append(_mqtt(device))

    def close(self) -> None:
        for part in self._parts:
            part.close()


class _Part(Protocol):
    def close(self) -> None: ...


def _mqtt(device: Device) -> _Part:
    try:
        from accrue.service.mqtt import MqttEvents
    except ModuleNotFoundError as error:
        raise AccrueError(
            f"setting `mqtt` needs the package {error.name}, which is missing",
            hint="install it: pip install 'accrue[sync]'",
            found=error.name,
        ) from error
    return MqttEvents(device, told)


class _Follower:
    """A thread that is given each event once, from now on."""

    def __init__(self, device: Device, name: str) -> None:
        self._device = device
        self._news = threading.Event()
        self._over = threading.Event()
        self._after = device.events.last
        self._end = device.events.subscribe(self._news.set)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._news.set()
        self._end()
        self._thread.join(timeout=TIMEOUT_S + 1)

    def _new(self) -> list[Event]:
        found = self._device.events.since(self._after)
        if found:
            self._after = found[-1].id
        return [event for event in found if told(event)]

    def _run(self) -> None:
        raise NotImplementedError


class Lines(_Follower):
    """One JSON object a line, appended to a file or written to stdout."""

    def __init__(self, device: Device, where: str) -> None:
        self._path = None if where == "-" else Path(where).expanduser()
        self._file: TextIO = sys.stdout if self._path is None else self._opened(self._path)
        super().__init__(device, "events to lines")

    @staticmethod
    def _opened(path: Path) -> TextIO:
        try:
            return path.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"events cannot be written to {path}: {error.strerror}",
                hint="choose another file with the setting `events`",
                path=str(path),
            ) from None

    def _run(self) -> None:
        failed = False
        while not self._over.is_set():
            self._news.wait()
            self._news.clear()
            lines = [json.dumps(e.document(), ensure_ascii=False) + "\n" for e in self._new()]
            if not lines:
                continue
            try:
                if self._path is not None and self._file.tell() > FILE_BYTES:
                    self._file.close()
                    self._path.replace(f"{self._path}.1")
                    self._file = self._path.open("a", encoding="utf-8")
                self._file.write("".join(lines))
                self._file.flush()
                failed = False
            except (OSError, ValueError) as error:  # a full disk; a reader that is gone
                self._device.figures.add("accrue_lines_lost_total", len(lines))
                if not failed:
                    log.error("events cannot be written to %s: %s", self._path or "stdout", error)
                failed = True
        if self._path is not None:
            self._file.close()


class Webhook(_Follower):
    """Posts events one after the other, and tries again for a while.

    Args:
        post: (address, body), raises OSError; for tests.
        wait: (seconds) to whether it is over; for tests.
    """

    def __init__(
        self,
        device: Device,
        address: str,
        *,
        post: Callable[[str, bytes], None] | None = None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._address, self._post = address, post or _posted
        parts = urlsplit(address)
        self._shown = f"{parts.scheme}://{parts.hostname or ''}"  # the rest may be a secret
        self._waiting: deque[Event] = deque()
        self._wait = wait
        super().__init__(device, "webhook")

    def _run(self) -> None:
        pause = self._wait or self._over.wait
        said = ""
        while not self._over.is_set():
            if not self._waiting:
                self._news.wait()
                self._news.clear()
            self._gather()
            if not self._waiting or self._over.is_set():
                continue
            event, wait = self._waiting.popleft(), FIRST_WAIT_S
            body = json.dumps(event.document(), ensure_ascii=False).encode()
            for attempt in range(1, TRIES + 1):
                try:
                    self._post(self._address, body)
                    self._count("sent")
                    said = ""
                    break
                except _RefusedForGood as error:
                    self._count("refused")
                    self._tell(str(error), said)
                    said = str(error)
                    break
                except (OSError, ValueError) as error:
                    reason = " ".join(str(getattr(error, "reason", error)).split())
                    self._tell(reason, said)
                    said = reason
                    self._count("failed")
                    if attempt == TRIES:
                        self._count("dropped")
                    elif pause(wait * (0.5 + random.random() / 2)):
                        return
                    self._gather()
                    wait = min(2 * wait, LONGEST_WAIT_S)

    def _gather(self) -> None:
        self._waiting.extend(self._new())
        while len(self._waiting) > WAITING:
            self._waiting.popleft()
            self._count("dropped")

    def _tell(self, reason: str, said: str) -> None:
        if reason != said:
            log.warning("the webhook at %s takes no events: %s", self._shown, reason)

    def _count(self, what: str) -> None:
        self._device.figures.add(FIGURE, what=what)


class _RefusedForGood(Exception):
    """The other side does not want this event; sending it again would change nothing."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _posted(address: str, body: bytes) -> None:
    request = urllib.request.Request(
        address,
        body,
        {"Content-Type": "application/json", "User-Agent": f"accrue/{__version__}"},
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 500 and error.code not in (408, 425, 429):
            raise _RefusedForGood(f"it answered {error.code}") from None
        raise OSError(f"it answered {error.code}") from None
