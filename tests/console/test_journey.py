"""What an operator does, from pairing to a second device, with a thumb and with the keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from console_cases import (
    CLASSES,
    DESK,
    PHONE,
    SAMPLES,
    Screen,
    Served,
    served,
    wait_for_moments,
)

pytestmark = pytest.mark.slow
LABELS = [name.replace("-", " ") for name in CLASSES]
BURST_MS = 4500  # one round of the photos that a camera plays


class Hands:
    """What a person does on a screen; by touch, or with the keyboard alone."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.page = screen, screen.page

    def press(self, selector: str) -> None:
        """A button or a link."""
        self.screen.see(selector)
        self.page.locator(selector).first.tap()

    def write(self, selector: str, text: str) -> None:
        self.press(selector)
        self.page.fill(selector, text)

    def shutter(self) -> None:
        self.press(".shutter")

    def open_more(self) -> None:
        self.press(".bar details summary")


class Keys(Hands):
    """No mouse and no finger."""

    def press(self, selector: str) -> None:
        self.reach(selector)
        self.page.keyboard.press("Enter")

    def reach(self, selector: str) -> None:
        found = self.screen.see(selector)
        for _ in range(150):
            if found.evaluate("(element) => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {selector}")

    def write(self, selector: str, text: str) -> None:
        self.reach(selector)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def shutter(self) -> None:
        self.page.keyboard.press("Space")

    def open_more(self) -> None:
        """Wide screens show all that there is."""


def settled(page: Any) -> int:
    """Kept pictures, once their number stays: what is no part of the object is told at the end."""
    before = -1
    while True:
        kept = int(page.locator(".counts").get_attribute("data-kept"))
        pressed = page.locator('.review button[aria-pressed="true"]').count()
        if before == kept == pressed:
            return kept
        before = kept
        page.wait_for_timeout(1_000)


def teach_by_burst(hands: Hands, name: str, camera: int) -> None:
    screen, page = hands.screen, hands.page
    screen.go("/teach")
    screen.see("#picker-text, button.change")
    if page.locator("button.change").count():
        hands.press("button.change")
    hands.write("#picker-text", name)
    hands.press("button.create")
    camera_button = f".cameras button >> nth={camera}"
    screen.see(camera_button)
    if isinstance(hands, Keys):
        page.locator(camera_button).focus()  # Tab leads there; this is about what follows
        page.keyboard.press("Enter")
        page.evaluate("document.activeElement.blur()")
    else:
        page.locator(camera_button).tap()
    screen.see(".preview img")
    hands.shutter()
    screen.see(".counts")
    page.wait_for_timeout(BURST_MS)
    screen.picture(f"{kind(hands)}-teach-recording")
    hands.shutter()
    screen.see(".review")
    kept = settled(page)
    assert kept >= 3, "a round of five photos has three keyframes or more"
    screen.picture(f"{kind(hands)}-teach-review")
    hands.press('.review button[aria-pressed="true"]')  # the first is left out
    assert page.locator('.review button[aria-pressed="true"]').count() == kept - 1
    hands.press(".shutter-place button.primary")
    screen.see(f"h2:has-text('Learned: {name}')")
    screen.picture(f"{kind(hands)}-teach-done")


def kind(hands: Hands) -> str:
    return "desk" if isinstance(hands, Keys) else "phone"


def teach_by_photos(hands: Hands, name: str, photos: list[Path]) -> None:
    """The way without JavaScript: a form."""
    page = hands.page
    hands.screen.go(f"/teach?class={name.replace(' ', '+')}")
    hands.press("details.part:has(#photos) summary")
    page.locator("#photos").set_input_files(photos)
    hands.press("details.part:has(#photos) button.primary")
    page.wait_for_url("**/classes?said=*")


def undo_of_toast(hands: Hands) -> None:
    button = hands.screen.see(".toast .undo")
    box = button.bounding_box()
    assert min(box["width"], box["height"]) >= 96
    hands.press(".toast .undo")


def journey(hands: Hands, home: Served, second: Served, tmp_path: Path) -> None:
    screen, page = hands.screen, hands.page
    for camera, name in enumerate(LABELS):
        teach_by_burst(hands, name, camera)
    for folder, name in zip(CLASSES, LABELS, strict=True):
        photos = sorted((SAMPLES / "test" / folder).glob("*.jpg"))
        teach_by_photos(hands, name, photos)
    screen.picture(f"{kind(hands)}-classes")

    # seen again, and recognised
    for camera, name in enumerate(LABELS):
        page.evaluate(f"sessionStorage.setItem('camera', {camera})")
        screen.go("/")
        screen.see(f".answer.sure:has-text('{name}'), .answer.maybe:has-text('{name}')")
    screen.picture(f"{kind(hands)}-live")

    # why: the shots that spoke for it
    hands.press(".verbs button:nth-child(2)")
    screen.see("dialog .thumbs img")
    screen.picture(f"{kind(hands)}-why")
    page.keyboard.press("Escape")

    # a stranger: put right, and taken back
    page.evaluate("sessionStorage.setItem('camera', 3)")
    screen.go("/")
    screen.see(".preview img")
    before = home.device.box.history(1)[0].seq
    hands.press(".verbs button.primary")
    hands.write("dialog #picker-text", "lamp")
    screen.picture(f"{kind(hands)}-fix")
    hands.press("dialog button.create")
    undo_of_toast(hands)
    screen.see(".toast:has-text('undid entry')")
    with home.device.reading() as box:
        assert box.history(1)[0].verb == "undo"
        assert box.history(1)[0].undoes == before + 1
        assert "lamp" not in [row.name for row in box.classes()]

    # what nobody named gets a name
    wait_for_moments(home)
    screen.go("/unknown")
    screen.see(".group .review img")
    screen.picture(f"{kind(hands)}-unknown")
    if isinstance(hands, Keys):
        page.keyboard.press("n")
        page.keyboard.type("light bulb")
    else:
        hands.write("#picker-text", "light bulb")
    hands.press("button.create")
    screen.see(".toast:has-text('light bulb')")

    # renamed, and merged into another
    screen.go("/classes")
    hands.press("[data-name='light bulb'] a")
    hands.press("summary:has-text('Rename')")
    hands.write("#new-name", "bulb")
    hands.press("form[action$=rename] button")
    screen.see("h1 bdi:text-is('bulb')")
    screen.see(".card.quiet button.big")  # undo, at once
    screen.picture(f"{kind(hands)}-class", full=True)
    hands.press("summary:has-text('Merge')")
    if isinstance(hands, Keys):
        hands.reach("#into")
        page.keyboard.type("bulb (1")  # the options begin with what goes; the arrow chooses
        page.keyboard.press("ArrowDown")
    else:
        page.locator("#into").select_option(index=1)
    into = page.locator("#into").input_value()
    assert into in LABELS
    screen.allow(r"409 \(Conflict\).*/merge")  # of a guard that holds it back
    hands.press("form[action$=merge] button.primary")
    screen.see(f"h1 bdi:text-is('{into}'), .banner[role=alert]")
    if page.locator(".banner[role=alert]").count():  # the guard held it back: it is our wish
        hands.press("form[action$=merge] input[type=checkbox]") if not isinstance(
            hands, Keys
        ) else (hands.reach("form[action$=merge] input[type=checkbox]"), page.keyboard.press(" "))
        hands.press("form[action$=merge] button.primary")
    screen.see(f"h1 bdi:text-is('{into}')")
    with home.device.reading() as box:
        assert [row.merged for row in box.classes() if row.name == into] == [("bulb",)]

    # the history has it all, by whom and when, and can take it back
    screen.go("/history")
    screen.see("h2:has-text('Merged')")
    screen.picture(f"{kind(hands)}-history")
    hands.press("ol li:first-child button")
    screen.see(".card.quiet:has-text('undid entry')")

    # carried to a second device
    screen.go("/device")
    screen.picture(f"{kind(hands)}-device", full=True)
    with page.expect_download() as saved:
        hands.press("a[href='/api/v1/backup']")
    file = tmp_path / "first.accrue"
    saved.value.save_as(file)
    other = (
        Hands(Screen(page, second)) if not isinstance(hands, Keys) else Keys(Screen(page, second))
    )
    return_to = screen.home
    screen.home = second
    screen.go(f"/#pair={second.code()}")
    other.write("#name", "Anna")
    page.keyboard.press("Enter")
    page.wait_for_url(second.url + "/")
    screen.go("/device")
    page.locator("#backup-file").set_input_files(file)
    other.press("form[action$=restore] button")
    screen.see(".card.quiet:has-text('Restored')")
    screen.home = return_to
    with home.device.reading() as one, second.device.reading() as two:
        assert two.learned().state.digest() == one.learned().state.digest()


@pytest.fixture
def second(tmp_path: Path) -> Any:
    with served(tmp_path / "second", []) as home:
        yield home


@pytest.mark.parametrize("how", ["touch", "keyboard"])
def test_from_pairing_to_a_second_device(
    how: str,
    make_shop: Callable[[], Served],
    second: Served,
    open_screen: Callable[..., Screen],
    pair: Callable[..., None],
    tmp_path: Path,
) -> None:
    """Pair, teach three by burst, see them, correct, undo, name, rename, merge, carry over."""
    home = make_shop()
    screen = open_screen(home, **(PHONE if how == "touch" else DESK))
    screen.others = (second.url,)
    pair(screen)
    journey(Hands(screen) if how == "touch" else Keys(screen), home, second, tmp_path)
    names = {entry.actor for entry in home.device.box.history() if re.match("Anna", entry.actor)}
    assert names == {"Anna"}
