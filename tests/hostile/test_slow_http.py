"""Those who connect and say nothing, or little: the others are served, and it ends."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import uvicorn
from hostile_device import Open, opened

from accrue.service.http import patience


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[Open]:
    with (
        pytest.MonkeyPatch.context() as patch,
        opened(tmp_path_factory.mktemp("slow"), tiny_bundle, limit_concurrency=60) as found,
    ):
        patch.setattr(patience, "REQUEST_WITHIN_S", 1.0)
        patch.setattr(patience, "BODY_WITHIN_S", 1.0)
        patch.setattr(patience, "MOST_OF_ADDRESS", 40)
        yield found


def connected(served: Open, said: bytes = b"") -> socket.socket:
    found = socket.create_connection(served.address, timeout=10)
    found.sendall(said)
    return found


def closed_within(one: socket.socket, seconds: float) -> bool:
    """Whether the other end closes; what it says before is read away."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([one], [], [], left)[0]:
            try:
                if not one.recv(65_536):
                    return True
            except ConnectionError:
                return True
    return False


HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize("said", [b"", b"G", HEAD, HEAD + b"X-Y: " + b"z" * 900])
def test_a_connection_on_which_nothing_is_asked_is_closed(served: Open, said: bytes) -> None:
    with connected(served, said) as one:
        assert closed_within(one, 8.0)


def test_a_request_that_drips_is_closed_however_steadily_it_drips(served: Open) -> None:
    with connected(served, HEAD) as one:
        until = time.monotonic() + 8.0
        while time.monotonic() < until:
            try:
                one.sendall(b"a")
            except ConnectionError:
                return
            if closed_within(one, 0.1):
                return
    raise AssertionError("it went on")


def test_a_next_request_that_drips_is_closed_too(served: Open) -> None:
    with connected(served, HEAD + b"\r\n") as one:
        assert one.recv(65_536).startswith(b"HTTP/1.1 200")
        one.sendall(HEAD)
        assert closed_within(one, 8.0)


def test_a_body_that_drips_is_told_so_and_teaches_nothing(served: Open) -> None:
    head = (
        "POST /api/v1/classes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {served.tokens['operator']}\r\nContent-Length: 400\r\n\r\n{{"
    )
    with connected(served, head.encode()) as one:
        answer = b""
        until = time.monotonic() + 8.0
        while b"too slowly" not in answer and time.monotonic() < until:
            one.sendall(b" ")
            if select.select([one], [], [], 0.1)[0]:
                answer += one.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"kind": "TooSlow"' in answer


def test_many_silent_connections_of_one_address_leave_room_for_others(served: Open) -> None:
    """More of them than there is room for: those above the limit of one address are cut off."""
    with ExitStack() as silent:
        ones = [silent.enter_context(connected(served)) for _ in range(80)]
        assert sum(closed_within(one, 0.02) for one in ones) >= 30
        assert all(closed_within(one, 8.0) for one in ones[:5])
        with httpx.Client(base_url=served.url) as client:
            assert client.get("/healthz").status_code == 200


def test_a_page_that_stays_open_is_not_slow(served: Open) -> None:
    """An event stream and a WebSocket last longer than a request may take."""
    head = (
        "GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {served.tokens['viewer']}\r\n\r\n"
    )
    upgrade = (
        "GET /api/v1/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {served.tokens['viewer']}\r\n\r\n"
    )
    with connected(served, head.encode()) as stream, connected(served, upgrade.encode()) as tab:
        assert not closed_within(stream, 2.5)
        assert not closed_within(tab, 0.5)


def test_the_server_of_accrue_run_is_the_patient_one() -> None:
    from accrue.service.http import server

    assert server.Patient is patience.Patient
    assert issubclass(patience.Patient, uvicorn.protocols.http.h11_impl.H11Protocol)
