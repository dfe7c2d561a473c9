"""A device that watches photos played as cameras, its server, and Chromium to look at it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from accrue.service.access import OWNER, Access
from accrue.service.console import console_routes
from accrue.service.daemon import Device
from accrue.service.http.app import create_app
from accrue.service.settings import Settings
from accrue.vision import sources

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
def served(state: Path, cameras: list[str]) -> Iterator[Served]:
    """Runs a device and its server until left."""
    with Device(Settings(state=state, thumbnails=160, threads=2), cameras=cameras) as device:
        access = Access(state)
        app = create_app(device, access=access, more=console_routes(device, access))
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


@pytest.fixture(scope="session")
def faster() -> Iterator[None]:
    """Each photo is shown for 0.7 s instead of 2 s."""
    before = sources.PLAY_HOLD_S
    sources.PLAY_HOLD_S = 0.7
    yield
    sources.PLAY_HOLD_S = before


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


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

    def go(self, path: str) -> None:
        self.page.goto(self.home.url + path)

    def picture(self, name: str, *, full: bool = False) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=full)

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


@pytest.fixture
def open_screen(browser: Any) -> Iterator[Callable[..., Screen]]:
    """`open_screen(served, **context)`: a tab with a profile of its own, not paired."""
    screens: list[Screen] = []
    contexts: list[Any] = []

    def make(home: Served, **context: Any) -> Screen:
        given = {"locale": "en-GB", **(context or DESK)}
        made = browser.new_context(**given)
        made.set_default_timeout(WAIT_MS)
        contexts.append(made)
        screen = add_tab(made, home)
        screens.append(screen)
        return screen

    yield make
    for screen in screens:
        screen.check()
    for made in contexts:
        made.close()


def add_tab(context: Any, home: Served) -> Screen:
    page = context.new_page()
    screen = Screen(page, home)
    page.on("console", lambda m: m.type in ("error", "warning") and screen.faults.append(m.text))
    page.on("pageerror", lambda error: screen.faults.append(str(error)))

    def route(route: Any) -> None:
        if route.request.url.startswith((home.url, "blob:", "data:")):
            route.continue_()
        else:
            screen.foreign.append(route.request.url)
            route.abort()

    page.route("**/*", route)
    return screen


@pytest.fixture
def pair() -> Callable[..., None]:
    """Pairs a screen through the page, as with the address of a QR code."""

    def do(screen: Screen, name: str = "Anna", role: str = OWNER) -> None:
        screen.go(f"/#pair={screen.home.code(role)}")
        screen.page.fill("#name", name)
        screen.page.keyboard.press("Enter")
        screen.page.wait_for_url(screen.home.url + "/")

    return do


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, faster: None) -> Iterator[Served]:
    """A device with nothing taught and four cameras: three known things and a stranger."""
    cameras = [f"play:{SAMPLES / 'teach' / name}" for name in CLASSES]
    cameras.append(f"play:{SAMPLES / 'never-taught' / STRANGER}")
    with served(tmp_path_factory.mktemp("shop"), cameras) as home:
        yield home


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, faster: None) -> Iterator[Served]:
    """A device that knows three classes, with a camera that shows a stranger and one a known."""
    cameras = [
        f"play:{SAMPLES / 'test' / 'hex-bolt'}",
        f"play:{SAMPLES / 'never-taught' / STRANGER}",
    ]
    with served(tmp_path_factory.mktemp("taught"), cameras) as home:
        with home.device.writing("test") as box:
            for name in CLASSES:
                photos = sorted((SAMPLES / "teach" / name).glob("*.jpg"))
                list(box.teach(name.replace("-", " "), [(p.name, p) for p in photos]))
        yield home
