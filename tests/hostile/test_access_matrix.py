"""Who may do what: every route of the running application, asked by everybody.

The routes are those of the application itself, so a new one is asked too; one that no table gives
a role to makes this fail. The topics of the broker have their matrix in tests/sync/test_broker.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hostile_device import Open, opened
from starlette.applications import Starlette
from starlette.routing import Mount, Route, WebSocketRoute

from accrue.service.access import ROLES
from accrue.service.console import owner
from accrue.service.console.forms import FORMS
from accrue.service.console.pages import SCREENS
from accrue.service.http import guard
from accrue.service.http.app import operations

WHO = (None, *ROLES, "revoked")
# Beside the operations of the API, the console's screens and its forms: files that say nothing of
# the device, the choice of a language, which is kept in the browser, and the page that says that
# there is nothing at an address.
OPEN = {("MOUNT", "/console"), ("POST", "/look"), ("GET", "/{path:path}")}


def roles() -> dict[tuple[str, str], str | None]:
    """The role that each route needs, as the tables say it; None: open to all."""
    found: dict[tuple[str, str], str | None] = dict.fromkeys(OPEN)
    for operation in operations():
        found[operation.method, operation.url] = operation.role
    for path, role, _ in SCREENS:
        found["GET", path] = role
    for path, role, _, _ in (*FORMS, *owner.FORMS):
        found["POST", path] = role
    return found


def routes_of(app: Starlette) -> Iterator[tuple[str, str]]:
    """(method, path) of every route."""
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            yield "WS", route.path
        elif isinstance(route, Mount):
            yield "MOUNT", route.path
        else:
            assert isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, route.path


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[Open]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "REQUESTS_PER_S", 1e6)
        patch.setattr(guard, "STRANGER_PER_S", 1e6)
        with opened(tmp_path_factory.mktemp("matrix"), tiny_bundle) as found:
            yield found


def test_every_route_has_a_role_in_a_table_and_every_role_a_route(device: Open) -> None:
    assert set(routes_of(device.app)) == set(roles())


def asked(device: Open, method: str, path: str, who: str | None) -> tuple[int, str]:
    """Status, and where it leads, of a request for what is not there and with nothing in it."""
    path = re.sub(r"{(?:id|name:path)}", "nothing-of-this-name", path)
    path = re.sub(r"{\w+:int}", "99", path).replace("{path:path}", "nothing/here")
    headers = {} if who is None else device.headers(who)
    headers["accept"] = "application/json"
    if method == "WS":
        method, headers = (
            "GET",
            headers
            | {
                "connection": "Upgrade",
                "upgrade": "websocket",
                "sec-websocket-version": "13",
                "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
        )
    elif method not in ("GET", "DELETE"):
        headers["content-type"] = "application/x-nothing"  # so that nothing is done
    with (
        httpx.Client(base_url=device.url, timeout=30) as client,
        client.stream(method, path, headers=headers) as response,
    ):
        return response.status_code, response.headers.get("location", "")


@pytest.mark.parametrize("who", WHO, ids=str)
def test_a_route_is_open_to_its_role_and_those_above_alone(device: Open, who: str | None) -> None:
    known = roles()
    wrong = []
    for method, path in sorted(routes_of(device.app)):
        if method == "MOUNT":
            method, path = "GET", f"{path}/style.css"
            role = None
        else:
            role = known[method, path]
        status, leads = asked(device, method, path, who)
        refused = status in (401, 403) or leads.startswith("/pair")
        may = role is None or (who in ROLES and ROLES.index(who) >= ROLES.index(role))
        if path in ("/", "/pair", "/api/v1/pair") and role is None:
            refused = False  # a wrong code is refused, and who is paired has no need of the page
        if refused == may or status >= 500:
            wrong.append((method, path, role, status, leads))
    assert wrong == []


def test_nothing_lies_beside_the_routes(device: Open) -> None:
    """No debugging pages, no listing, no files of the package."""
    with httpx.Client(base_url=device.url, headers=device.headers("owner")) as client:
        for path in ("/docs", "/redoc", "/openapi.json", "/console/", "/static", "/.git/config"):
            assert client.get(path).status_code in (404, 405), path


@pytest.mark.parametrize(
    "path",
    [
        "/console/../pages.py",
        "/console/..%2fpages.py",
        "/console/%2e%2e/pages.py",
        "/console/%2e%2e%2f%2e%2e%2fhttp%2fguard.py",
        "/console//etc/passwd",
        "/console/..\\..\\pages.py",
        "/console/%00",
        "/api/v1/shots/..%2f..%2f..%2fetc%2fpasswd/thumb.jpg",
        "/api/v1/teach/../../etc/frames/0.jpg",
    ],
)
def test_no_path_leads_out_of_where_files_lie(device: Open, path: str) -> None:
    """As it is written: a client that tidies paths would hide what is asked."""
    import socket

    with socket.create_connection(device.address, timeout=10) as one:
        one.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Authorization: Bearer {device.tokens['owner']}\r\n\r\n".encode()
        )
        answer = b""
        while part := one.recv(65_536):
            answer += part
    status = int(answer.split()[1])
    assert status in (400, 404, 405), answer[:200]
    assert b"root:" not in answer
    assert b"import " not in answer
