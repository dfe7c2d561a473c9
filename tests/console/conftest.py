"""Fixtures of the console's tests; what they are made of is in `console_cases`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from console_cases import (
    CLASSES,
    DESK,
    SAMPLES,
    STRANGER,
    WAIT_MS,
    Screen,
    Served,
    add_tab,
    find_chromium,
    served,
)

from accrue.service.access import OWNER
from accrue.vision import sources


@pytest.fixture(scope="session")
def faster() -> Iterator[None]:
    """Each photo is shown for 0.8 s instead of 2 s, in 4 frames: ten a second of four cameras are
    all that two cores can encode, and leave the browser waiting."""
    before = sources.PLAY_FPS, sources.PLAY_HOLD_S
    sources.PLAY_FPS, sources.PLAY_HOLD_S = 5.0, 0.8
    yield
    sources.PLAY_FPS, sources.PLAY_HOLD_S = before


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


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


@pytest.fixture
def pair() -> Callable[..., None]:
    """Pairs a screen through the page, as with the address of a QR code."""

    def do(screen: Screen, name: str = "Anna", role: str = OWNER) -> None:
        screen.go(f"/#pair={screen.home.code(role)}")
        screen.page.fill("#name", name)
        screen.page.keyboard.press("Enter")
        screen.page.wait_for_url(lambda url: "/pair" not in url and "#" not in url)

    return do


@pytest.fixture
def make_shop(
    tmp_path_factory: pytest.TempPathFactory, faster: None
) -> Iterator[Callable[[], Served]]:
    """Makes a device with nothing taught and four cameras: three known things and a stranger."""
    cameras = [f"play:{SAMPLES / 'teach' / name}" for name in CLASSES]
    cameras.append(f"play:{SAMPLES / 'never-taught' / STRANGER}")
    with ExitStack() as open_ones:
        yield lambda: open_ones.enter_context(served(tmp_path_factory.mktemp("shop"), cameras))


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
