"""What a fleet's owner decides in a browser, with a real broker and devices that follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from console_cases import DESK, PHONE, SAMPLES, Screen, Served, served
from test_screens import SMALL, WIDER, violations

from accrue.bundle import default_bundle_path
from accrue.service.access import OPERATOR, OWNER
from accrue.service.console.words import LANGUAGES
from fleet_world import World

pytestmark = pytest.mark.slow
KNOWN = ("hex bolt", "spur gear")
DONE = ".card.quiet[role=status]"


def photos(name: str, first: int = 0, kind: str = "teach") -> list[Path]:
    found = sorted((SAMPLES / kind / name.replace(" ", "-")).glob("*.jpg"))
    return found[first : first + 4]


def teach(world: World, device: str, *names: str) -> None:
    for name in names:
        world.device(device, "class", "teach", name, *photos(name))
    world.sync(device)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Two docks that know two classes."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("ACCRUE_ACTOR", "tester")
    monkeypatch.setenv("ACCRUE_VIEWS", "2")
    made = World(tmp_path, default_bundle_path())
    made.start()
    try:
        made.join("dock-1", "dock-2")
        teach(made, "dock-1", *KNOWN)
        made.sync("dock-2")
        yield made
    finally:
        made.stop_broker()


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Iterator[Served]:
    """The owner's own console, without a camera."""
    with served(tmp_path / "desk", [], fleet_owner=world.folder / "owner") as home:
        yield home


def press(screen: Screen, selector: str) -> None:
    """Presses what loads a page, and waits for that."""
    with screen.page.expect_navigation():
        screen.see(selector).tap()


def look_at(screen: Screen, selector: str, name: str) -> None:
    """A picture of the screen with this at its top."""
    screen.see(selector).evaluate(
        "(e) => scrollTo(0, e.getBoundingClientRect().top + scrollY - 16)"
    )
    screen.picture(name)


def ask(screen: Screen) -> None:
    press(screen, "form[action$=propose] button")
    screen.see(DONE)


def test_an_owner_decides_with_a_thumb(
    world: World, desk: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """Ask, curate, approve with a remark, deny, try on a share, publish, compare, roll back."""
    screen = open_screen(desk, **PHONE)
    pair(screen, "Olga")
    page = screen.page
    screen.go("/fleet")
    press(screen, "a[href='/fleet/owner']")
    screen.see("text=The devices were not asked yet.")
    ask(screen)
    screen.see("section .pill:has-text('live at once')")
    screen.see("summary:has-text('When it goes live')").tap()
    press(screen, "form[action$=policy] button")
    screen.see("section .pill:has-text('live once published')")

    teach(world, "dock-1", "bevel gear", "gate valve")
    world.device("dock-2", "class", "teach", "hex bolt", *photos("hex bolt", kind="test"))
    world.device("dock-2", "class", "teach", "bolt M8", *photos("hex bolt", 4))
    world.sync("dock-2")
    ask(screen)
    assert page.locator("li.card form [name=proposals]").count() == 4
    screen.picture("phone-owner-proposals", full=True)
    look_at(screen, "h3:has-text('To decide')", "phone-owner")
    bevel = "li.card:has(h4:has-text('bevel gear'))"
    screen.see("li.card:has(h4:has-text('bolt M8')) .pill:has-text('looks like hex bolt')")
    screen.page.fill(f"{bevel} [name=remark]", "good light")
    press(screen, f"{bevel} button.primary")
    assert "approved proposal" in screen.see(DONE).inner_text()
    valve = "li.card:has(h4:has-text('gate valve'))"
    screen.page.fill(f"{valve} [name=remark]", "belongs to line 2")
    press(screen, f"{valve} button.danger")
    press(screen, f"{DONE} button")  # a slip of the thumb, taken back
    screen.see(valve)
    screen.page.fill(f"{valve} [name=remark]", "belongs to line 2")
    press(screen, f"{valve} button.danger")
    screen.see("li.card:has(.pill:has-text('denied')) :text('belongs to line 2')")

    page.locator("[name=percent]").select_option("50")
    press(screen, "button[formaction$=canary]")
    screen.see(".pill:has-text('Version 2 is on trial with 50')")
    look_at(screen, "h2:has-text('Class set')", "phone-owner-trial")
    press(screen, "form[action$=publish] button.primary")
    screen.see("strong:has-text('Version 2 is in force')")
    world.sync("dock-1", "dock-2")
    assert set(world.classes("dock-1")) == {*KNOWN, "bevel gear"}
    assert set(world.classes("dock-2")) == {*KNOWN, "bevel gear", "bolt M8"}, "and its own draft"

    press(screen, "a[href^='/fleet/owner/diff']")
    screen.see("table.diff th:has-text('bolt M8')")  # from what is in force to what is taught
    screen.see("h2:has-text('May be confused') + ul li:has-text('looks like')")
    look_at(screen, "table.diff", "phone-owner-diff")
    page.locator("#from").select_option("1")
    page.locator("#to").select_option("2")
    press(screen, "form[action$=diff] button")
    screen.see("table.diff th:has-text('bevel gear')")
    now = screen.see("svg.bars .now.added").bounding_box()
    assert now["width"] > 100, "the picture has a bar for the new class"

    screen.go("/fleet/owner")
    screen.see("summary:has-text('Roll back')").tap()
    press(screen, "form[action$=rollback] button")
    screen.see("strong:has-text('Version 3 is in force')")
    world.sync("dock-1", "dock-2")
    assert set(world.classes("dock-1")) == set(KNOWN)
    press(screen, f"{DONE} button")
    screen.see("strong:has-text('Version 2 is in force')")
    world.sync("dock-1", "dock-2")
    assert set(world.classes("dock-1")) == {*KNOWN, "bevel gear"}
    ask(screen)
    devices = page.locator("ul.cards li.card")
    assert devices.count() == 2
    assert "Version 2" in devices.first.inner_text()
    screen.see("#log + ol li:has-text('Olga')")
    assert {step["actor"] for step in world.owner("log", "--json").json["steps"]} >= {"Olga"}


def test_the_second_of_two_owners_is_told_and_nothing_is_published_unseen(
    world: World, desk: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    world.owner("policy", "default", "curated")
    teach(world, "dock-1", "bevel gear", "gate valve")
    first, second = open_screen(desk, **DESK), open_screen(desk, **DESK)
    pair(first, "Olga")
    pair(second, "Otto")
    first.go("/fleet/owner")
    with first.page.expect_navigation():
        first.see("form[action$=propose] button").click()
    with first.page.expect_navigation():
        first.see("li.card:has(h4:has-text('bevel gear')) button.primary").click()
    second.go("/fleet/owner")
    with first.page.expect_navigation():
        first.see("li.card:has(h4:has-text('gate valve')) button.primary").click()
    second.see("#old:not([hidden])")
    with second.page.expect_navigation():
        second.see("form[action$=publish] button.primary").click()
    second.see(".banner[role=alert]:has-text('Somebody else changed this')")
    assert len(world.owner("manifests", "--json").json["manifests"]) == 1
    second.picture("desk-owner-stale")
    with second.page.expect_navigation():
        second.see("form[action$=publish] button.primary").click()
    second.see("strong:has-text('Version 2 is in force')")
    second.picture("desk-owner", full=True)


def test_a_stolen_device_is_cut_off_forgotten_and_taken_back(
    world: World, desk: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(desk, **PHONE)
    pair(screen, "Olga")
    ask(screen)
    dock = "ul.cards li:has(h3:has-text('dock-1'))"
    screen.see(f"{dock} summary").tap()
    press(screen, f"{dock} button[formaction$=revoke]")
    screen.see(f"{dock} .pill:has-text('cut off')")
    assert "does not accept user" in world.device("dock-1", "fleet", "sync", code=1).err
    screen.see(f"{dock} summary").tap()
    press(screen, f"{dock} form[action$=forget] button")
    screen.see(f"{dock} .pill:has-text('forgotten')")
    world.sync("dock-2")
    assert world.classes("dock-2") == {}
    press(screen, f"{DONE} button")
    screen.see(f"{dock} .pill:has-text('cut off')")
    world.sync("dock-2")
    assert set(world.classes("dock-2")) == set(KNOWN)


def test_without_javascript_and_without_the_broker(
    world: World, desk: Served, open_screen: Callable[..., Screen]
) -> None:
    """The forms work plainly, and what the broker did not hear of was not decided."""
    screen = open_screen(desk, **DESK, java_script_enabled=False)
    page = screen.page
    screen.go("/pair")
    page.fill("#code", desk.code())
    page.fill("#name", "Plain")
    page.click("main button.big")
    screen.go("/fleet/owner")
    page.click("form[action$=propose] button")
    screen.see(f"{DONE}:has-text('Asked: 0 proposals')")
    screen.go("/device")
    page.click("a:has-text('Asking the devices of the fleet')")
    screen.see("h1:has-text('Asking the devices of the fleet')")
    screen.go("/fleet/owner")
    world.stop_broker()
    page.click("summary:has-text('When it goes live')")
    page.click("form[action$=policy] button")
    screen.see(".banner[role=alert]:has-text('broker did not take part')")
    screen.see("section .pill:has-text('live at once')")
    world.start_broker()
    page.click("summary:has-text('When it goes live')")
    page.click("form[action$=policy] button")
    screen.see("section .pill:has-text('live once published')")
    teach(world, "dock-1", "bevel gear")
    page.click("form[action$=propose] button")
    page.fill("[name=remark]", "fine")
    page.click("li.card button.primary")
    page.click("form[action$=publish] button.primary")
    screen.see("strong:has-text('Version 2 is in force')")
    world.sync("dock-2")
    assert "bevel gear" in world.classes("dock-2")


def test_every_screen_of_an_owner_can_be_read_and_pressed_in_every_language(
    world: World, desk: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """axe finds nothing in both colours; nothing is wider than a phone, nor too small to press."""
    world.owner("policy", "default", "curated")
    teach(world, "dock-1", "bevel gear", "gate valve", "hose clamp")
    found = world.owner("propose", "--json").json["proposals"]
    world.owner("approve", found[0]["id"], "--remark", "good light")
    world.owner("canary", 50)
    world.owner("approve", found[1]["id"])
    paths = ("/fleet", "/fleet/owner", "/fleet/owner/diff")
    bad: dict[str, Any] = {}
    axe = Axe()
    for theme, device in (("sun", PHONE), ("dark", DESK)):
        screen = open_screen(desk, **device)
        cookie = {"name": "accrue_look", "value": f"theme:{theme}", "url": desk.url}
        screen.page.context.add_cookies([cookie])
        pair(screen, theme)
        for path in paths:
            screen.go(path)
            opened = "document.querySelectorAll('main details').forEach((d) => (d.open = true))"
            screen.page.evaluate(opened)
            bad[f"{path} {theme}"] = violations(axe, screen)
            screen.picture(f"{theme}-owner{path.replace('/', '-')}", full=True)
    for language in sorted(LANGUAGES):
        screen = open_screen(desk, **{**PHONE, "locale": language})
        pair(screen, language)
        for path in paths:
            screen.go(path)
            screen.page.evaluate(opened)
            bad[f"{path} {language} small"] = screen.page.evaluate(SMALL)
            for width, height in ((360, 640), (320, 568), (640, 400)):
                screen.page.set_viewport_size({"width": width, "height": height})
                if screen.page.evaluate(WIDER) > 0:
                    bad[f"{path} {language} {width} px"] = "wider than the screen"
            screen.page.set_viewport_size(PHONE["viewport"])
        screen.go("/fleet/owner")
        screen.picture(f"owner-{language}", full=True)
    assert {where: what for where, what in bad.items() if what} == {}


def test_the_screen_of_a_member_says_what_waits_for_the_owner(
    world: World, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """On a device that runs and is in a curated fleet."""
    world.owner("policy", "default", "curated")
    world.device("dock-1", "class", "teach", "bevel gear", *photos("bevel gear"))
    with served(world.folder / "dock-1", []) as home:
        end = time.monotonic() + 60
        while not ((view := home.device.fleet()) and view["synced_at"] and view["drafted"]):
            assert time.monotonic() < end, view
            time.sleep(0.1)
        screen = open_screen(home, **PHONE)
        pair(screen, "Anna", OPERATOR)
        screen.go("/fleet")
        screen.see("strong:has-text('Version 1 is in force')")
        screen.see(".facts:has-text('all exchanged')")
        screen.picture("phone-fleet")
        press(screen, "a.button:has-text('bevel gear')")
        screen.see("h1:has-text('bevel gear')")


def test_an_operator_does_not_get_there(
    tmp_path: Path, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """Nor does anybody on a device that was not given the folder."""
    from accrue.sync.workspace import Workspace

    Workspace.create(tmp_path / "owner", "plant").close()
    with served(tmp_path / "desk", [], fleet_owner=tmp_path / "owner") as home:
        screen = open_screen(home)
        pair(screen, "Op", OPERATOR)
        screen.allow("403")
        screen.go("/fleet")
        assert screen.page.locator("a[href='/fleet/owner']").count() == 0
        screen.go("/fleet/owner")
        screen.see(".banner[role=alert]:has-text('Your role may not do this')")
    with served(tmp_path / "other", []) as home:
        screen = open_screen(home)
        pair(screen, "Owner", OWNER)
        screen.allow("404")
        screen.go("/fleet")
        assert screen.page.locator("a[href='/fleet/owner']").count() == 0
        screen.go("/fleet/owner")
        screen.see(".banner[role=alert]:has-text('holds no key')")
