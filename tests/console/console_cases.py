"""A device that watches photos played as cameras, its server, and a tab of Chromium before it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from accrue.service.access import OWNER, Access
from accrue.service.console import console_routes
from accrue.service.daemon import Device
from accrue.service.http.app import create_app
from accrue.service.http.replies import Replies
from accrue.service.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "tools" / "samples"
PICTURES = Path(os.environ.get("ACCRUE_SCREENSHOTS", REPOSITORY / "build" / "screenshots"))
CLASSES = ("hex-bolt", "spur-gear", "ball-valve")
STRANGER = "light-bulb"
PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 640},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 1.5,
}
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
WAIT_MS = 25_000  # of two busy cores


def find_chromium() -> str:
    named = os.environ.get("ACCRUE_CHROMIUM")
    found = named or next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), ""
    )
    if not found:
        pytest.skip("no Chromium here: apt-get install chromium, or name it in ACCRUE_CHROMIUM")
    return found


@dataclass
class Served:
    """A device and its server on loopback."""

    device: Device
    access: Access
    port: int
    server: uvicorn.Server
    paired: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def code(self, role: str = OWNER) -> str:
        return self.access.invite(role, by="test").code


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(state: Path, cameras: list[str], **more: Any) -> Iterator[Served]:
    """Runs a device and its server until left; `more`: settings."""
    settings = Settings(state=state, thumbnails=160, threads=2, **more)
    with Device(settings, cameras=cameras) as device:
        access = Access(state)
        replies = Replies(settings.state)
        pages = console_routes(device, access, replies)
        app = create_app(device, access=access, replies=replies, more=pages)
        port = free_port()
        config = uvicorn.Config(
            app, port=port, log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield Served(device, access, port, server)
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            access.close()


@dataclass
class Screen:
    """A tab of somebody, and all that its console and network said.

    Every request must go to the device itself: others are refused and fail the test.
    """

    page: Any
    home: Served
    faults: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def go(self, path: str) -> None:
        self.page.goto(self.home.url + path)

    def picture(self, name: str, *, full: bool = False) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        still = "(how) => document.querySelector('.bar')?.style.setProperty('position', how)"
        if full:  # the bar would lie over the middle of the page
            self.page.evaluate(still, "static")
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=full)
        if full:
            self.page.evaluate(still, "")

    def see(self, selector: str, *, timeout: int = WAIT_MS) -> Any:
        found = self.page.locator(selector).first
        found.wait_for(state="visible", timeout=timeout)
        return found

    def allow(self, *patterns: str) -> None:
        """Faults that this test causes on purpose."""
        self.allowed += patterns

    def check(self) -> None:
        bad = [f for f in self.faults if not any(re.search(p, f) for p in self.allowed)]
        assert not bad, f"the browser's console says: {bad}"
        assert not self.foreign, f"asked of other hosts: {self.foreign}"


def add_tab(context: Any, home: Served) -> Screen:
    page = context.new_page()
    screen = Screen(page, home)
    page.on(
        "console",
        lambda m: (
            m.type in ("error", "warning")
            and screen.faults.append(f"{m.text} {m.location.get('url', '')}")
        ),
    )
    page.on("pageerror", lambda error: screen.faults.append(str(error)))

    def route(route: Any) -> None:
        if route.request.url.startswith((home.url, *screen.others, "blob:", "data:")):
            route.continue_()
        else:
            screen.foreign.append(route.request.url)
            route.abort()

    page.route("**/*", route)
    return screen


def wait_for_moments(home: Served, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with home.device.reading() as box:
            if box.unknown():
                return
        time.sleep(0.5)
    raise AssertionError("the stranger was never kept to be asked about")
