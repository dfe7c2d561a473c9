"""A picture of every screen on a phone, as docs/console.md shows them.

    ACCRUE_SCREENSHOTS=docs/console python -m pytest tests/console/test_pictures.py

makes those of the documents anew.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console_cases import (
    CLASSES,
    PHONE,
    PICTURES,
    REPOSITORY,
    SAMPLES,
    Screen,
    Served,
    served,
    wait_for_moments,
)
from PIL import Image

from accrue.service.console.pages import SCREENS

pytestmark = pytest.mark.slow
PAGE = REPOSITORY / "docs" / "console.md"
OF_OTHERS = {"/fleet", "/fleet/owner", "/fleet/owner/diff"}  # need a fleet; test_owner_console.py
MADE = {  # picture -> screen
    **{"live": "/", "why": "/", "fix": "/", "dark": "/", "arabic": "/classes"},
    **{"teach": "/teach", "teach-name": "/teach", "review": "/teach", "taught": "/teach"},
    **{"photos": "/teach", "classes": "/classes", "class": "/classes/{id}"},
    **{"class-end": "/classes/{id}", "unknown": "/unknown", "history": "/history"},
    **{"chinese": "/history", "device": "/device", "device-more": "/device"},
    **{"evaluated": "/jobs/{id}", "pair": "/pair", "nowhere": ""},
}


@pytest.fixture
def shop(tmp_path: Path, faster: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A device that knows three things, with cameras on one of them, on a new one and a stranger.

    They are named from the repository's folder, as somebody there would name them.
    """
    monkeypatch.chdir(REPOSITORY)
    folders = ("test/hex-bolt", "teach/wing-nut", "never-taught/light-bulb")
    with served(tmp_path / "state", [f"play:tools/samples/{one}" for one in folders]) as home:
        with home.device.writing("Ben") as box:
            for name in CLASSES:
                photos = sorted((SAMPLES / "teach" / name).glob("*.jpg"))
                list(box.teach(name.replace("-", " "), [(p.name, p) for p in photos]))
        yield home


def has_chinese() -> bool:
    if shutil.which("fc-list") is None:
        return False
    done = subprocess.run(["fc-list", ":lang=zh"], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


def picture(screen: Screen, name: str) -> None:
    """Of what the phone shows, in 256 colours: half the bytes."""
    assert name in MADE
    PICTURES.mkdir(parents=True, exist_ok=True)
    shot = Image.open(io.BytesIO(screen.page.screenshot()))
    shot.convert("RGB").quantize(256).save(PICTURES / f"{name}.png", optimize=True)


def down_to(screen: Screen, selector: str) -> None:
    screen.page.locator(selector).first.evaluate("e => e.scrollIntoView({block: 'start'})")
    screen.page.evaluate("scrollBy(0, -60)")  # below the bar at the top


def test_every_screen_is_in_the_documents_and_every_picture_there_is_made_here() -> None:
    shown = set(re.findall(r"\(console/([\w-]+)\.png\)", PAGE.read_text(encoding="utf-8")))
    assert shown >= set(MADE)
    there = {path.stem for path in (REPOSITORY / "docs" / "console").glob("*.png")}
    assert there >= shown
    assert {path for path, _, _ in SCREENS} - OF_OTHERS == {path for path in MADE.values() if path}


def test_an_operator_goes_through_every_screen_on_a_phone(
    shop: Served, open_screen: Callable[..., Screen], tmp_path: Path
) -> None:
    screen = open_screen(shop, **PHONE)
    page = screen.page
    made: list[str] = []

    def take(name: str) -> None:
        page.wait_for_timeout(150)  # a picture that is just being shown
        picture(screen, name)
        made.append(name)

    # let in
    screen.go(f"/#pair={shop.code()}")
    page.fill("#name", "Anna")
    take("pair")
    page.tap("main form button.big")
    screen.see(".answer.sure, .answer.maybe")
    screen.see(".preview img")
    take("live")
    page.tap(".verbs button:nth-child(2)")
    screen.see("dialog .thumbs img")
    take("why")
    page.keyboard.press("Escape")
    page.tap(".verbs button.primary")
    screen.see("dialog .picker")
    take("fix")
    page.keyboard.press("Escape")

    # teach: name it, record, look it through
    screen.go("/teach")
    screen.see("#picker-text")
    page.fill("#picker-text", "wing nut")
    take("teach-name")
    page.tap("button.create")
    page.tap(".cameras button:nth-child(2)")
    screen.see(".preview img")
    page.wait_for_timeout(1_000)
    page.tap("button.shutter")
    screen.see(".counts")
    page.wait_for_timeout(4_000)
    take("teach")
    page.tap("button.shutter")
    screen.see(".review button[aria-pressed]")
    page.wait_for_timeout(1_500)
    take("review")
    page.tap(".shutter-place button.primary")
    screen.see("h2:has-text('Learned: wing nut'), .toast")
    take("taught")
    screen.go("/teach?class=hex+bolt")
    page.tap("summary:has-text('From a video')")
    down_to(screen, "summary:has-text('From photos')")
    take("photos")

    # what is known, and one of them left out
    with shop.device.writing("Ben") as box:
        box.disable("ball valve")
    screen.go("/classes")
    screen.see("main li")
    take("classes")
    page.tap("[data-name='hex bolt'] a")
    screen.see("h1:has-text('hex bolt')")
    take("class")
    page.tap("summary:has-text('How its shots are kept')")
    down_to(screen, "form[action$=disable]")
    take("class-end")
    wait_for_moments(shop)
    screen.go("/unknown")
    screen.see(".group .review img")
    take("unknown")
    screen.go("/history")
    screen.see("main li")
    take("history")

    # the device, and how good it is
    screen.go("/device?doctor=1")
    screen.see("main h1")
    take("device")
    down_to(screen, "h2:has-text('Backup')")
    take("device-more")
    screen.go("/device")
    folder = tmp_path / "photos"
    for name in (*CLASSES, "padlock"):
        shutil.copytree(SAMPLES / "test" / name, folder / name.replace("-", " "))
    page.locator("#folder").set_input_files(folder)
    page.tap("form[action$=evaluate] button")
    screen.see(".card[data-state=done]")
    take("evaluated")
    screen.allow(r"status of 404")
    screen.go("/no/such/page")
    screen.see(".banner[role=alert]")
    take("nowhere")

    # as others see it
    def look(words: str) -> None:
        cookie = {"name": "accrue_look", "value": words, "url": shop.url}
        page.context.add_cookies([cookie])

    look("theme:dark")
    screen.go("/")
    screen.see(".answer.sure, .answer.maybe")
    screen.see(".preview img")
    take("dark")
    look("language:ar")
    screen.go("/classes")
    screen.see("main li")
    take("arabic")
    look("language:zh")
    screen.go("/history")
    screen.see("main li")
    assert screen.page.locator("main li p").first.inner_text().startswith("已停用")
    if has_chinese():
        take("chinese")
        assert set(made) == set(MADE)
    else:
        pytest.skip("no Chinese font for one picture: apt-get install fonts-wqy-microhei")
