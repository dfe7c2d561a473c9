"""What a device shows without a browser: on its console above the login, to systemd, by its LED.

A device that is new stands somewhere with a display or none, with a network or none. Whoever comes
reads there where to open it and with which code, whether its camera was found, and how far its
engine is; from the first line on it can be taught.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accrue import __version__
from accrue.service.access import OWNER, Access, Code
from accrue.service.notify import Notifier
from accrue.vision.engines import EngineFolder
from accrue.vision.live import PLAYING

if TYPE_CHECKING:
    from accrue.service.daemon import CameraView, Device
    from accrue.service.http.server import Place

LOOK_S = 2.0
CODE_S, RENEWED_BEFORE_S = 900, 300  # a code that is read off is good for five minutes at least
STEP_PERCENT = 5  # of a build; the console is drawn anew for each
LONGEST_LINE = 76
LAMP = "lamp"  # beside the panel: name of the LED and what it shows
PAIR, BUILD, READY, TROUBLE = "pair", "build", "ready", "trouble"
BY = "the device's own display"
log = logging.getLogger("accrue.panel")


@dataclass(frozen=True)
class Shown:
    """All that stands on the panel.

    Attributes:
        name: of the device. ready: why it does not answer yet; "" where it does.
        url: where browsers reach it. local: whether that is on this machine alone.
        code: for the first owner; None once there is one. until: local time of its end.
        cameras: a line each. serves: which encoder. building: percent of an engine, None: none is
            being built; -1: not known.
        playing: whether a camera gives frames.
    """

    name: str
    ready: str
    url: str
    local: bool
    code: str | None
    until: str
    cameras: tuple[str, ...]
    serves: str
    building: int | None
    playing: bool

    @property
    def lamp(self) -> str:
        if self.ready or not self.playing:
            return TROUBLE
        if self.code is not None:
            return PAIR
        return BUILD if self.building is not None else READY

    @property
    def engine(self) -> str:
        if self.building is None:
            return self.serves
        share = f": {self.building} %" if self.building >= 0 else ""
        return f"{self.serves}; building an engine{share}"

    @property
    def status(self) -> str:
        """In a line, for `systemctl status`."""
        parts = (self.ready or "ready", self.url, *self.cameras, self.engine)
        return "; ".join(parts)

    def text(self) -> str:
        """For a console of 80 x 25 characters. No backslash: agetty would take it for a code."""
        lines = [f"Accrue {__version__} on {self.name}" + (f": {self.ready}" if self.ready else "")]
        for camera in self.cameras or ("none; name one: setting cameras",):
            lines.append(f"  camera   {camera}")
        lines.append(f"  encoder  {self.engine}")
        if self.local:
            lines.append(f"  address  {self.url}, from this machine alone (setting listen)")
        else:
            lines.append(f"  address  {self.url}")
        if self.code is not None:
            lines.append(f"  pair     {self.code} makes you its owner, until {self.until}")
        clean = [_plain(line) for line in lines]
        if not self.local:
            clean += qr(self.url if self.code is None else f"{self.url}/#pair={self.code}")
        return "\n".join(clean) + "\n\n"


class Panel:
    """A thread that looks every two seconds, and writes where something has changed.

    Args:
        place: where the device listens now.
        file: to write; the LED's state goes beside it. None: systemd alone is told.
        led: of /sys/class/leds, from the board's description; "": none.
    """

    def __init__(
        self,
        device: Device,
        access: Access,
        place: Callable[[], Place],
        notifier: Notifier,
        file: Path | None,
        led: str = "",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._device, self._access, self._place = device, access, place
        self._notifier, self._file, self._led, self._clock = notifier, file, led, clock
        self._folder = EngineFolder(device.settings.engines_folder)
        self._code: Code | None = None
        self._written: dict[Path, str] = {}
        self._said, self._status = "", ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Takes away what would not be true any more."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        for path in self._written:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            try:
                self.show()
                said = ""
            except Exception as error:  # a device without a display goes on
                said = " ".join(f"{type(error).__name__}: {error}".split())
                if said != self._said:
                    log.warning("the panel cannot be shown: %s", said)
            self._said = said
            if self._over.wait(LOOK_S):
                return

    def show(self) -> None:
        """Looks once, and writes what has changed."""
        shown = self.look()
        if shown.status != self._status:
            self._status = shown.status
            self._notifier.status(shown.status)
        if self._file is not None:
            self._write(self._file, shown.text())
            if self._led:
                self._write(self._file.with_name(LAMP), f"{self._led} {shown.lamp}\n")

    def look(self) -> Shown:
        device, place = self._device, self._place()
        cameras = device.cameras()
        serving = device.box.serving
        code = self._first_code()
        until = "" if code is None else time.strftime("%H:%M", time.localtime(code.expires))
        return Shown(
            name=socket.gethostname(),
            ready=device.ready,
            url=place.url,
            local=place.is_loopback,
            code=None if code is None else code.code,
            until=until,
            cameras=tuple(_camera(one) for one in cameras),
            serves=serving.candidate,
            building=self._building(),
            playing=any(one.state == PLAYING for one in cameras),
        )

    def _first_code(self) -> Code | None:
        """Till somebody owns the device there is a code, made anew before it ends; where there is
        no display, nobody can read one, and none is made."""
        if self._file is None or self._access.owned:
            self._code = None
        elif self._code is None or self._code.expires - self._clock() < RENEWED_BEFORE_S:
            self._code = self._access.invite(OWNER, by=BY, seconds=CODE_S)
        return self._code

    def _building(self) -> int | None:
        found = self._folder.building()
        if found is None:
            return None
        if found.total <= 0:
            return -1
        percent = 100 * min(found.done, found.total) // found.total
        return percent - percent % STEP_PERCENT

    def _write(self, path: Path, text: str) -> None:
        if self._written.get(path) == text and path.exists():
            return
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)  # nobody reads half of it
        self._written[path] = text


def _camera(view: CameraView) -> str:
    because = f": {view.reason}" if view.reason and view.state != PLAYING else ""
    return f"{view.name} is {view.state}{because}"


def _plain(line: str) -> str:
    """What a camera calls itself, or a driver says, must not steer the terminal."""
    clean = "".join(c if c.isprintable() and c != "\\" else "/" for c in line)
    return clean if len(clean) <= LONGEST_LINE else clean[: LONGEST_LINE - 3] + "..."


def qr(text: str) -> list[str]:
    """The QR picture of a text, two rows of it in a line, light on dark."""
    import segno

    rows = [list(row) for row in segno.make(text, error="l", micro=False).matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    glyphs = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}  # 0 is light
    return [
        "".join(glyphs[int(a), int(b)] for a, b in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]
