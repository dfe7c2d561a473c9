"""In a browser: a class is left out and taken back in, and a video is taught, with a finger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from console_cases import PHONE, SAMPLES, Screen, Served

pytestmark = pytest.mark.slow


def test_a_disabled_class_is_not_answered_any_more_until_undo_brings_it_back(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught, **PHONE)
    page = screen.page
    pair(screen)
    screen.see(".answer:has-text('hex bolt')")
    screen.go("/classes")
    page.tap("[data-name='hex bolt'] a")
    page.tap("form[action$=disable] button")
    screen.see(".card.quiet:has-text('disabled \"hex bolt\"')")
    screen.see(".banner:has-text('not answered on this device')")
    class_page = page.url.partition("?")[0]
    screen.go("/")
    screen.see(".answer:not(:has-text('hex bolt')) .name")
    page.wait_for_timeout(3_000)
    assert page.locator(".answer:has-text('hex bolt')").count() == 0

    # it can still be taught, and the screen says what that means
    screen.go("/teach?class=hex+bolt")
    screen.see(".banner:has-text('This class is disabled')")
    page.tap("button.change")
    screen.see(".picker li")
    assert page.locator(".picker li").last.inner_text().endswith("hex bolt")

    # the bar of undo that came with it is gone; the history has it
    screen.go("/history")
    page.tap("li:has-text('disabled \"hex bolt\"') button")
    screen.see(".card.quiet:has-text('undid entry')")
    page.goto(class_page)
    screen.see("form[action$=disable]")
    screen.go("/")
    screen.see(".answer:has-text('hex bolt')")


def test_leaving_a_class_out_waits_for_the_network(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught, **PHONE)
    page = screen.page
    screen.allow(r"ERR_INTERNET_DISCONNECTED", r"WebSocket connection")
    pair(screen)
    screen.go("/classes")
    page.tap("[data-name='spur gear'] a")
    screen.see("form[action$=disable] button")
    page.wait_for_load_state("load")
    page.context.set_offline(True)
    page.tap("form[action$=disable] button")
    screen.see("#waiting:has-text('1 waiting')")
    assert not taught.device.box.show("spur gear")[0].disabled
    page.context.set_offline(False)
    screen.see(".banner:has-text('not answered on this device')")  # the page is shown anew
    with taught.device.writing("test") as box:
        assert [entry.verb for entry in box.history(2)].count("disable") == 1
        box.enable("spur gear")


def test_a_list_that_cannot_be_followed_offers_to_be_loaded_anew(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """The network went while the page was loading."""
    screen = open_screen(taught, **PHONE)
    screen.allow(r"ERR_FAILED")
    pair(screen)
    screen.page.route("**/socket.js", lambda route: route.abort())
    screen.go("/classes")
    screen.see("#old a")
    screen.page.unroute("**/socket.js")
    screen.page.tap("#old a")
    screen.page.wait_for_load_state("networkidle")
    assert screen.page.locator("#old").is_hidden()


def test_a_video_from_the_phone_becomes_a_shot_while_the_page_follows(
    taught: Served,
    open_screen: Callable[..., Screen],
    pair: Callable[..., None],
    tmp_path: Path,
) -> None:
    cv2: Any = pytest.importorskip("cv2", reason="videos need OpenCV: accrue[camera]")
    film = tmp_path / "wing nut.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (640, 480))
    for photo in sorted((SAMPLES / "teach" / "wing-nut").glob("*.jpg")):
        for _ in range(5):
            writer.write(cv2.resize(cv2.imread(str(photo)), (640, 480)))
    writer.release()
    screen = open_screen(taught, **PHONE)
    page = screen.page
    pair(screen)
    screen.go("/teach")
    page.tap("summary:has-text('From a video')")
    page.fill("#video-name", "wing nut")
    page.locator("#video").set_input_files(film)
    page.tap("form[action$=clip] button")
    screen.see("[data-job]")
    screen.see("h2:has-text('Learned: wing nut')")
    with taught.device.reading() as box:
        (shot,) = box.show("wing nut")[1]
        assert shot.source == "wing nut.avi"
    page.tap("form[action='/history/undo'] button")
    screen.see(".card.quiet:has-text('undid entry')")
    with taught.device.reading() as box:
        assert "wing nut" not in [row.name for row in box.classes()]
