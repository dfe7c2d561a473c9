"""Each screen by itself: sizes, roles, languages, no script, no network, and who is first wins."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from console_cases import DESK, PHONE, Screen, Served, add_tab, wait_for_moments

from accrue.service.access import OPERATOR, VIEWER
from accrue.service.console.words import LANGUAGES, Words

pytestmark = pytest.mark.slow
SCREENS = ("/", "/teach", "/classes", "/unknown", "/history", "/fleet", "/device")
NOWHERE = "/no/such/page"
MEASURED: dict[str, Any] = {
    "accuracy": 0.75,
    "photos": 4,
    "per_class": {"hex bolt": {"accuracy": 0.75, "photos": 4}},
    "never_taught": 3,
    "never_taught_unknown": 2,
    "refused": [{"path": "hex bolt/torn.jpg", "error": {"message": "found text"}}],
}
FILMED: dict[str, Any] = {
    "class": "hex bolt",
    "shot": "x",
    "kept": 5,
    "dropped": {"near-duplicate": 4, "blurred": 1},
    "hint": "turn",
    "quality": {"verdict": "needs_shots"},
    "entry": {"seq": 1},
}
TARGET_PX = 56
FIRST_LOAD_BYTES = 150_000
SMALL = """() => [...document.querySelectorAll(
  'button, a[href], input:not([type=hidden]), select, summary')].filter((element) => {
    const box = element.getBoundingClientRect();
    if (!box.width || element.closest('.sr, .skip') || element.matches('.skip')) return false;
    if (element.matches('input[type=checkbox]')) {
      const label = element.closest('label').getBoundingClientRect();
      return label.height < LEAST;
    }
    return box.height < LEAST - 0.5 || box.width < LEAST - 0.5;
  }).map((element) => element.outerHTML.slice(0, 120))""".replace("LEAST", str(TARGET_PX))
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def settle(screen: Screen, path: str) -> None:
    """Until what a screen shows is there."""
    what = {"/": ".answer", "/teach": "#picker-text, .shutter", "/unknown": ".group, .hint"}
    screen.see(what.get(path, "main h1"))
    if path == "/":
        screen.see(".preview img")


def unfold(screen: Screen) -> None:
    """Opens every part of a page, but not the bar's menu."""
    screen.page.evaluate(
        "document.querySelectorAll('main details').forEach((one) => { one.open = true; })"
    )


def class_page(home: Served, name: str = "hex bolt") -> str:
    with home.device.reading() as box:
        return f"/classes/{box.show(name)[0].id}"


@pytest.fixture
def everything(taught: Served) -> Iterator[tuple[str, ...]]:
    """The screens, with all that they can unfold, a class that is disabled, and jobs that ended."""
    jobs = [
        taught.device.jobs.start("evaluate", lambda step: MEASURED, actor="test"),
        taught.device.jobs.start("teach clip", lambda step: FILMED, actor="test"),
    ]
    with taught.device.writing("test") as box:
        box.disable("ball valve")
    yield (
        *SCREENS,
        class_page(taught),
        class_page(taught) + "?split=1",
        class_page(taught, "ball valve"),
        "/device?doctor=1&config=1",
        *(f"/jobs/{job.id}" for job in jobs),
        NOWHERE,
    )
    with taught.device.writing("test") as box:
        box.enable("ball valve")


@pytest.mark.parametrize("theme", ["sun", "dark"])
def test_axe_finds_nothing_serious_on_any_screen(
    theme: str,
    taught: Served,
    open_screen: Callable[..., Screen],
    pair: Callable[..., None],
    everything: tuple[str, ...],
) -> None:
    """Nor anything moderate or minor that has a rule."""
    screen = open_screen(taught, **(PHONE if theme == "sun" else DESK))
    cookie = {"name": "accrue_look", "value": f"theme:{theme}", "url": taught.url}
    screen.page.context.add_cookies([cookie])
    axe = Axe()
    screen.go("/pair")
    found = {"/pair": violations(axe, screen)}
    screen.picture(f"{theme}-pair")
    pair(screen)
    screen.allow("status of 404")
    for path in everything:
        screen.go(path)
        settle(screen, path)
        unfold(screen)
        found[path] = violations(axe, screen)
        name = path.split("?")[0].strip("/").split("/")[0] or "live"
        screen.picture(f"{theme}-{name}{'-more' if '?' in path or path.count('/') > 1 else ''}")
    screen.go("/")
    settle(screen, "/")
    for button, what in ((3, "fix"), (2, "why")):
        screen.page.locator(f".verbs button:nth-child({button})").click()
        screen.see("dialog .thumbs, dialog .picker")
        found[f"dialog {what}"] = violations(axe, screen)
        screen.page.keyboard.press("Escape")
    assert {path: bad for path, bad in found.items() if bad} == {}


def violations(axe: Axe, screen: Screen) -> list[str]:
    return [
        f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:150]}"
        for one in axe.run(screen.page).response["violations"]
    ]


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_screen_speaks_the_language_and_fits(
    language: str,
    taught: Served,
    open_screen: Callable[..., Screen],
    pair: Callable[..., None],
    everything: tuple[str, ...],
) -> None:
    """Targets of 56 px, nothing wider than a phone, and at 200 % zoom of a desk neither."""
    screen = open_screen(taught, **{**PHONE, "locale": language})
    pair(screen)
    screen.allow("status of 404")
    for path in everything:
        screen.go(path)
        settle(screen, path)
        unfold(screen)
        assert screen.page.locator("html").get_attribute("lang") == language
        assert screen.page.locator("html").get_attribute("dir") == Words(language).direction
        assert screen.page.evaluate(SMALL) == [], path
        for width, height in ((360, 640), (320, 568), (640, 400)):
            screen.page.set_viewport_size({"width": width, "height": height})
            assert screen.page.evaluate(WIDER) <= 0, f"{path} at {width} px"
        screen.page.set_viewport_size(PHONE["viewport"])
        if path == "/":
            screen.picture(f"live-{language}")
    shutter = Words(language)("nav.teach")
    assert screen.page.locator(f"nav >> text={shutter}").count()


def test_the_shutter_and_undo_have_96_px_and_gloves_get_more(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught, **PHONE)
    pair(screen, "Gloves")
    screen.go("/teach?class=hex+bolt")
    assert screen.see(".shutter").bounding_box()["width"] >= 96
    screen.go("/device")
    for key, value in (("size", "glove"), ("hand", "left"), ("theme", "dark")):
        screen.page.locator(f"#look-{key}").select_option(value)
    with screen.page.expect_navigation():
        screen.page.locator("form[action='/look'] button").tap()
    screen.go("/teach?class=hex+bolt")
    box = screen.see(".shutter").bounding_box()
    assert box["width"] >= 128
    assert box["x"] < 180, "the left hand holds it"
    assert screen.page.locator("html").get_attribute("data-theme") == "dark"
    screen.picture("phone-teach-left-glove-dark")


def test_the_first_load_is_small(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """All that a fresh browser fetches for Live, but the camera's pictures, as if gzipped."""
    screen = open_screen(taught)
    pair(screen, "First")
    screen.page.context.clear_cookies(name="accrue_look")
    bodies: dict[str, bytes] = {}
    screen.page.on(
        "response",
        lambda r: r.url.endswith(".jpg") or r.status != 200 or bodies.update({r.url: b""}),
    )
    screen.go("/")
    settle(screen, "/")
    cookies = {c["name"]: c["value"] for c in screen.page.context.cookies()}
    total = 0
    for url in bodies:
        if url.startswith("http"):
            total += len(gzip.compress(httpx.get(url, cookies=cookies).content))
    assert {url.rpartition("/")[2] for url in bodies} >= {"live.js", "style.css", "app.js"}
    print(f"first load: {total} bytes gzipped")
    assert total <= FIRST_LOAD_BYTES


def test_what_changes_something_is_not_shown_to_a_viewer_nor_done_for_one(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught)
    pair(screen, "Guest", VIEWER)
    screen.go(class_page(taught))
    assert screen.page.locator("main form button").count() == 0
    screen.go("/history")
    assert screen.page.locator("main form").count() == 0
    screen.go("/")
    settle(screen, "/")
    assert screen.page.locator(".verbs button.primary").count() == 0
    cookies = {c["name"]: c["value"] for c in screen.page.context.cookies()}
    for path, data in (
        ("/history/undo", {"entry": "1"}),
        (class_page(taught) + "/remove", {}),
        ("/device/pairing", {"role": "owner"}),
    ):
        headers = {"Origin": taught.url, "Accept": "application/json"}
        answer = httpx.post(taught.url + path, data=data, cookies=cookies, headers=headers)
        assert (answer.status_code, answer.json()["kind"]) == (403, "AccessDenied"), path


def test_a_form_of_another_page_is_refused(taught: Served) -> None:
    _, token = taught.access.add("Mallory's victim", OPERATOR, by="test")
    answer = httpx.post(
        taught.url + "/history/undo",
        data={"entry": "1"},
        cookies={"accrue": token},
        headers={"Origin": "http://evil.example"},
    )
    assert answer.status_code == 403


def test_without_javascript_lists_and_forms_work(
    taught: Served, browser: Any, open_screen: Callable[..., Screen]
) -> None:
    screen = open_screen(taught, **DESK, java_script_enabled=False)
    page = screen.page
    screen.go("/pair")
    page.fill("#code", taught.code())
    page.fill("#name", "Plain")
    page.click("main button.big")
    screen.see(".answer .name")
    assert page.locator("img[src*='snapshot.jpg']").count()
    screen.go("/classes?q=spur")
    assert page.locator("main li").count() == 1
    screen.go(class_page(taught, "spur gear"))
    page.click("summary:has-text('Rename')")
    page.fill("#new-name", "cog")
    page.click("form[action$=rename] button")
    screen.see("h1 bdi:text-is('cog')")
    page.click(".card.quiet button.big")  # undo
    screen.see("h1 bdi:text-is('spur gear')")
    for path in SCREENS:
        screen.go(path)
        assert page.locator("nav a").count() >= 7


def test_two_operators_on_one_class_and_the_second_is_told_kindly(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    anna, ben = open_screen(taught), open_screen(taught)
    pair(anna, "Anna", OPERATOR)
    pair(ben, "Ben", OPERATOR)
    ben.allow("412")
    path = class_page(taught, "ball valve")
    for screen in (anna, ben):
        screen.go(path)
        screen.page.click("summary:has-text('Rename')")
    anna.page.fill("#new-name", "tap")
    anna.page.keyboard.press("Enter")
    anna.see("h1 bdi:text-is('tap')")
    ben.see("#old:not([hidden])")  # Ben's page says that something has changed
    ben.page.fill("#new-name", "faucet")
    ben.page.keyboard.press("Enter")
    ben.see(".banner[role=alert]:has-text('Somebody else changed this')")
    ben.see("h1 bdi:text-is('tap')")  # as it is now
    assert ben.page.locator("#new-name").input_value() == "faucet"  # and nothing typed twice
    ben.picture("desk-conflict")
    ben.page.locator("form[action$=rename] button").click()
    ben.see("h1 bdi:text-is('faucet')")
    with taught.device.writing("test") as box:
        box.rename("faucet", "ball valve")


def test_seven_tabs_all_show_the_camera(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """A browser allows six connections to a host; one WebSocket for each tab is no such one."""
    screen = open_screen(taught)
    pair(screen, "Many")
    tabs = [screen, *(add_tab(screen.page.context, taught) for _ in range(6))]
    for tab in tabs:
        tab.go("/")
    for tab in tabs:
        tab.page.bring_to_front()
        tab.see(".preview img")
        tab.see(".answer .votes:has-text('of')")
    tabs[-1].go("/classes")  # a further request still comes through
    tabs[-1].see("a.card")
    for tab in tabs[1:]:
        tab.check()


def test_a_cut_in_mid_teach_loses_nothing(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    """The device goes on recording; what was decided meanwhile waits, is seen, and is sent once."""
    screen = open_screen(taught, **PHONE)
    screen.allow("ERR_", "WebSocket", "409.*commit")  # it is asked for again while it is at work
    pair(screen, "Cut", OPERATOR)
    page, context = screen.page, screen.page.context
    screen.go("/teach")
    page.fill("#picker-text", "washer")
    page.locator("button.create").tap()
    page.locator(".cameras button >> nth=1").tap()
    screen.see(".preview img")
    page.locator(".shutter").tap()
    screen.see(".counts")
    page.wait_for_timeout(2000)
    context.set_offline(True)
    screen.see(".banner:has-text('The device goes on recording')")
    screen.picture("phone-teach-away")
    context.set_offline(False)
    screen.see(".shutter[aria-pressed=true]")
    page.locator(".shutter").tap()
    screen.see(".review")
    context.set_offline(True)
    page.locator(".shutter-place button.primary").tap()
    screen.see("#waiting:has-text('1 waiting')")
    page.locator(".row button:has-text('Another class')").tap()
    screen.picture("phone-waiting")
    context.set_offline(False)
    page.reload()  # it outlives the page
    page.locator("#waiting").wait_for(state="hidden")
    with taught.device.reading() as box:
        _, shots = box.show("washer")
        assert len(shots) == 1
        assert box.history(1)[0].actor == "Cut"
    with taught.device.writing("test") as box:
        box.remove("washer")


def test_a_change_of_a_class_waits_for_the_network_and_is_made_once(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught)
    screen.allow("ERR_", "WebSocket")
    pair(screen, "Far", OPERATOR)
    page, context = screen.page, screen.page.context
    screen.go(class_page(taught, "spur gear"))
    page.click("summary:has-text('Rename')")
    context.set_offline(True)
    page.fill("#new-name", "gear")
    page.keyboard.press("Enter")
    screen.see("#waiting:has-text('1 waiting')")
    page.locator("#new-name").fill("gear wheel")
    page.keyboard.press("Enter")
    screen.see("#waiting:has-text('2 waiting')")
    screen.allow("412")  # the second was decided on what the first has changed
    context.set_offline(False)
    page.locator("#waiting").wait_for(state="hidden")
    with taught.device.reading() as box:
        assert box.show("gear")[0].name == "gear"
    with taught.device.writing("test") as box:
        box.rename("gear", "spur gear")


def test_motion_is_reduced_and_the_answer_is_told_to_screen_readers(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught, **DESK, reduced_motion="reduce")
    pair(screen, "Ear")
    settle(screen, "/")
    region = screen.page.locator("#said")
    assert region.get_attribute("aria-live")
    region.filter(has_text=re.compile(".{4}")).wait_for(state="attached")
    probe = "getComputedStyle(document.querySelector('.rec') || document.body).animationName"
    assert screen.page.evaluate(probe) == "none"


def test_a_code_for_another_screen_is_shown_with_its_picture_and_can_be_revoked(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    owner, guest = open_screen(taught), open_screen(taught)
    pair(owner, "Olga")
    owner.go("/device")
    owner.page.click("form[action='/device/pairing'] button")
    code = owner.see(".code").inner_text()
    assert owner.page.locator(".qr svg path").count()
    owner.picture("desk-pairing")
    guest.go(f"/#pair={code}")
    guest.page.fill("#name", "Gast")
    guest.page.keyboard.press("Enter")
    guest.page.wait_for_url(taught.url + "/")
    owner.go("/device")
    guest.allow("401")
    owner.page.click("li:has-text('Gast') button")
    owner.see(".card.quiet:has-text('taken back')")
    guest.page.wait_for_url(taught.url + "/pair")  # at once, without a touch


def test_unknown_is_answered_with_single_keys(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught)
    pair(screen, "Quick", OPERATOR)
    screen.allow(r"404 .*/api/v1/unknown/\d+/thumb\.jpg")  # answered before its picture came
    wait_for_moments(taught)
    page = screen.page
    for key, name in (("1", None), ("b", "background"), ("x", "")):
        wait_for_moments(taught)
        screen.go("/unknown")
        screen.see(".group .picker li bdi")
        first = page.locator(".picker li bdi").first.inner_text()
        page.keyboard.press(key)
        screen.see(".toast:not(.bad)")
        with taught.device.reading() as box:
            newest = box.history(1)[0]
        if name != "":
            assert (newest.verb, newest.actor) == ("teach", "Quick")
            assert (name or first) in newest.summary
            with taught.device.writing("test") as box:
                box.undo(newest.seq)


def test_a_wrong_shot_is_moved_from_the_why_of_an_answer(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught)
    pair(screen, "Judge", OPERATOR)
    settle(screen, "/")
    page = screen.page
    page.keyboard.press("w")
    screen.see("dialog .thumbs button").click()
    page.fill("dialog #picker-text", "odd one")
    page.click("dialog button.create")
    screen.see(".toast")
    if page.locator(".toast .undo").count():  # unless the guard held it back
        with taught.device.writing("test") as box:
            newest = box.history(1)[0]
            assert (newest.verb, newest.actor) == ("relabel", "Judge")
            box.undo(newest.seq)
    else:
        screen.allow("409")
        screen.see(".toast.bad:has-text('worse')")


def test_the_shutter_can_be_held_by_finger_and_by_key(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught)
    pair(screen, "Hold", OPERATOR)
    cookie = {"name": "accrue_look", "value": "shutter:hold", "url": taught.url}
    screen.page.context.add_cookies([cookie])
    screen.go("/teach?class=hex+bolt")
    screen.see(".preview img")
    page = screen.page
    box = screen.see(".shutter").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    for press, let_go in (
        (page.mouse.down, page.mouse.up),
        (lambda: page.keyboard.down("Space"), lambda: page.keyboard.up("Space")),
    ):
        press()
        screen.see(".shutter[aria-pressed=true]")
        page.wait_for_timeout(1200)
        let_go()
        screen.see(".review, .hint:has-text('No picture')")
        page.locator("button.danger").click()
        screen.see(".shutter[aria-pressed=false]")


def test_enter_on_the_shutter_and_the_keys_of_live_do_what_they_say(
    taught: Served, open_screen: Callable[..., Screen], pair: Callable[..., None]
) -> None:
    screen = open_screen(taught)
    pair(screen, "Keys", OPERATOR)
    page = screen.page
    screen.go("/teach?class=hex+bolt")
    screen.see(".preview img")
    page.locator(".shutter").focus()
    page.keyboard.press("Enter")
    screen.see(".shutter[aria-pressed=true]")
    page.wait_for_timeout(1000)
    page.keyboard.press("Space")  # the other key, on the same button: once
    screen.see(".review, .hint:has-text('No picture')")
    page.locator("button.danger").click()
    screen.go("/")
    settle(screen, "/")
    page.keyboard.press("Space")
    screen.see(".verbs button[aria-pressed=true]")
    page.keyboard.press("w")
    screen.see("dialog .thumbs")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    for _ in range(20):  # the dialog before may still be on its way out
        page.keyboard.press("f")
        page.wait_for_timeout(500)
        if page.locator("dialog .picker").count():
            break
    screen.see("dialog .picker")
    first = page.locator("dialog .picker li bdi").first.inner_text()
    page.locator("dialog h2").click()
    page.keyboard.press("1")
    screen.see(".toast")
    with taught.device.reading() as box:
        newest = box.history(1)[0]
    if page.locator(".toast .undo").count():  # unless it repeats a shot that is there
        assert (newest.verb, newest.actor) == ("teach", "Keys")
        assert first in newest.summary
        with taught.device.writing("test") as box:
            box.undo(newest.seq)
