"""What goes on as long as somebody looks: the WebSocket, event streams, and their limits."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from http_cases import DEADLINE_S, Running, until
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from accrue.service.events import Events
from accrue.service.settings import Settings


@contextmanager
def tab(running: Running, role: str = "viewer", **headers: str) -> Iterator[ClientConnection]:
    given = {"authorization": f"Bearer {running.tokens[role]}", **headers}
    address = running.url.replace("http", "ws", 1) + "/api/v1/live"
    with connect(address, additional_headers=given, proxy=None) as tabbed:
        yield tabbed


def say(tabbed: ClientConnection, **what: Any) -> None:
    tabbed.send(json.dumps(what))


def hear(tabbed: ClientConnection, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The next text that is wanted; others and frames are passed over."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        message = tabbed.recv(timeout=DEADLINE_S)
        if isinstance(message, str) and wanted(found := json.loads(message)):
            return found
    raise AssertionError("it was not said")


def frame(tabbed: ClientConnection, timeout_s: float = DEADLINE_S) -> bytes | None:
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            message = tabbed.recv(timeout=left)
        except TimeoutError:
            return None
        if isinstance(message, bytes):
            return message
    return None


def test_a_tab_gets_the_next_frame_only_after_it_has_shown_the_last(
    run: Callable[..., Running], taught: Settings, playing: str
) -> None:
    running = run(taught, (playing,))
    figures = running.device.figures
    made = "accrue_preview_frames_total", (("camera", "0"),)
    with tab(running) as tabbed:
        assert hear(tabbed, lambda m: m["type"] == "hello")["id"] >= 0
        time.sleep(0.3)
        assert made not in figures.all(), "a frame was made a picture, and nobody looked"
        say(tabbed, watch=0, fps=15)
        first = frame(tabbed)
        assert first is not None
        assert first[0] == 0
        assert Image.open(io.BytesIO(first[1:])).size == (640, 480)
        assert frame(tabbed, 0.6) is None
        say(tabbed, ready=True)
        assert frame(tabbed) is not None
        say(tabbed, watch=None)
        say(tabbed, ready=True)
        frame(tabbed, 0.3)
        before = figures.all()[made]
        assert frame(tabbed, 0.5) is None
        assert figures.all()[made] == before
    until(lambda: running.app.state.hub.viewers == 0)


def test_events_come_as_they_happen_and_after_one_that_was_seen(
    run: Callable[..., Running], taught: Settings
) -> None:
    running = run(taught)
    with running.client("operator") as client:
        with tab(running) as tabbed:
            hear(tabbed, lambda m: m["type"] == "hello")
            client.patch("/classes/bolt", json={"name": "screw"}).raise_for_status()
            told = hear(tabbed, lambda m: m["type"] == "classes")
            assert (told["verb"], told["actor"]) == ("rename", "a operator")
        client.post("/undo", json={}).raise_for_status()
        with tab(running) as tabbed:
            say(tabbed, after=told["id"])
            missed = hear(tabbed, lambda m: m["type"] == "classes")
            assert missed["id"] > told["id"]
            assert missed["verb"] == "undo"
        with tab(running) as tabbed:
            say(tabbed, after=told["id"] + 10_000)  # of before a restart
            assert hear(tabbed, lambda m: m["type"] == "gap")["id"] >= missed["id"]


def test_a_tab_that_says_nonsense_is_told_and_goes_on(
    run: Callable[..., Running], taught: Settings, playing: str
) -> None:
    with tab(run(taught, (playing,))) as tabbed:
        for said in ("x", "[]", '{"watch": true}', '{"watch": 9}', '{"fps": 0}', '{"after": "1"}'):
            tabbed.send(said)
            problem = hear(tabbed, lambda m: m["type"] == "error")["problem"]
            assert problem["status"] in (400, 404), said
        say(tabbed, watch=0)
        assert frame(tabbed) is not None


def test_seven_tabs_look_on_at_once_and_share_the_pictures(
    run: Callable[..., Running], taught: Settings, playing: str
) -> None:
    running = run(taught, (playing,))
    with ExitStack() as tabs, running.client("viewer") as client:
        sockets = [tabs.enter_context(tab(running)) for _ in range(7)]
        for tabbed in sockets:
            say(tabbed, watch=0, fps=5)
        for _ in range(3):
            for tabbed in sockets:
                assert frame(tabbed) is not None
                say(tabbed, ready=True)
        assert client.get("/cameras").status_code == 200
        shown = running.device.cameras()[0].frames
        made = running.device.figures.all()["accrue_preview_frames_total", (("camera", "0"),)]
        assert made <= shown


def test_one_more_viewer_than_there_may_be_gets_events_but_no_pictures(
    run: Callable[..., Running], taught: Settings, playing: str
) -> None:
    running = run(taught, (playing,), viewers=1)
    with tab(running) as one, tab(running) as other, running.client("viewer") as client:
        say(one, watch=0)
        assert frame(one) is not None
        say(other, watch=0)
        problem = hear(other, lambda m: m["type"] == "error")["problem"]
        assert (problem["status"], problem["kind"]) == (429, "RateLimited")
        assert client.get("/cameras/0/mjpeg").status_code == 429
        assert client.get("/cameras/0/snapshot.jpg").status_code == 200


def test_a_tab_of_somebody_whose_access_is_revoked_is_closed(
    run: Callable[..., Running], taught: Settings
) -> None:
    running = run(taught)
    grants = {grant.role: grant.id for grant in running.access.all()}
    with tab(running) as tabbed, running.client("owner") as client:
        hear(tabbed, lambda m: m["type"] == "hello")
        assert client.delete(f"/access/{grants['viewer']}").status_code == 204
        with pytest.raises(ConnectionClosed) as closed:
            hear(tabbed, lambda _: False)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_who_has_access_is_told_to_owners_alone(
    run: Callable[..., Running], taught: Settings
) -> None:
    running = run(taught)
    with tab(running) as viewer, tab(running, "owner") as owner, running.client() as client:
        for tabbed in (viewer, owner):
            hear(tabbed, lambda m: m["type"] == "hello")
        client.post("/access", json={"name": "crane", "role": "viewer"}).raise_for_status()
        assert hear(owner, lambda m: m["type"] == "access")["name"] == "crane"
        running.device.events.publish("job", job={})
        assert hear(viewer, lambda m: m["type"] != "hello")["type"] == "job"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer nobody"},
        {"origin": "https://elsewhere.example"},
    ],
)
def test_a_tab_from_elsewhere_or_of_nobody_does_not_open(
    run: Callable[..., Running], settings: Settings, headers: dict[str, str]
) -> None:
    with pytest.raises(InvalidStatus) as refused, tab(run(settings), **headers):
        pass
    assert refused.value.response.status_code == 403


def test_a_tab_that_calls_the_device_by_another_name_does_not_open(
    run: Callable[..., Running], settings: Settings
) -> None:
    running = run(settings)
    headers = {"authorization": f"Bearer {running.tokens['owner']}"}
    to = socket.create_connection(running.socket.getsockname())
    address = "ws://elsewhere.example/api/v1/live"
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(address, sock=to, additional_headers=headers, proxy=None),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_events_are_streamed_to_programs_too(run: Callable[..., Running], taught: Settings) -> None:
    running = run(taught)
    running.device.events.publish("job", job={"id": "x"})
    headers = {"last-event-id": "0"}
    with (
        running.client("viewer") as client,
        client.stream("GET", "/events", headers=headers) as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = ""
        for chunk in stream.iter_text():
            text += chunk
            if "data:" in text and text.endswith("\n\n"):
                break
    assert "event: job\nid: 1\ndata: " in text
    until(lambda: running.app.state.hub.listeners == 0)


def test_the_ring_says_what_was_missed() -> None:
    events = Events(kept=3)
    assert events.since(0) == []
    assert not events.missed(0)
    for n in range(5):
        assert events.publish("job", n=n) == n + 1
    assert [event.data["n"] for event in events.since(0)] == [2, 3, 4]
    assert [event.id for event in events.since(4)] == [5]
    assert events.missed(0)
    assert events.missed(1)
    assert not events.missed(2)
    assert not events.missed(5)
    assert events.missed(6)


def test_a_listener_hears_until_it_ends() -> None:
    events, heard = Events(), []
    end = events.subscribe(lambda: heard.append(events.last))
    events.publish("job")
    end()
    events.publish("job")
    assert heard == [1]
