"""Who may do what, from where, how often: tried for every operation of the table."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from http_cases import Running

from accrue.errors import AccessDenied, NotFound, RateLimited, UsageError
from accrue.service.access import ROLES, Access
from accrue.service.daemon import Device
from accrue.service.http import guard
from accrue.service.http.app import operations
from accrue.service.http.guard import Buckets, host_name
from accrue.service.settings import Settings

OPERATIONS = [one for one in operations() if one.method != "WS"]
WHO = (None, *ROLES, "revoked")


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Any) -> Iterator[Running]:
    """One device for all: nothing that is asked of it below is carried out."""
    state = tmp_path_factory.mktemp("state")
    settings = Settings(state=state, bundle=tiny_bundle)
    with Device(settings, cameras=()) as device, Access(state) as access:
        running = Running(device, access)
        grant, running.tokens["revoked"] = access.add("once", "owner", by="tests")
        access.revoke(grant.id)
        yield running
        running.close()


def asked(running: Running, operation: Any, who: str | None) -> int:
    """Status of an operation on what is not there; streams are not read."""
    path = re.sub(r"{id}|{name:path}", "nothing-of-this-name", operation.url)
    path = re.sub(r"{n:int}|{id:int}", "99", path)
    headers = {} if who is None else {"authorization": f"Bearer {running.tokens[who]}"}
    if operation.method not in ("GET", "DELETE"):
        headers["content-type"] = "application/x-nothing"  # so that nothing is done
    with httpx.Client(base_url=running.url, timeout=20) as client:
        client.headers.update(headers)
        with client.stream(operation.method, path) as response:
            return response.status_code


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.method} {o.url}")
def test_an_operation_is_open_to_its_role_and_those_above_alone(
    everybody: Running, operation: Any, who: str | None
) -> None:
    status = asked(everybody, operation, who)
    allowed = operation.role is None or (
        who in ROLES and ROLES.index(who) >= ROLES.index(operation.role)
    )
    if allowed:
        assert status not in (401, 403), status
    else:
        assert status == (401 if who in (None, "revoked") else 403)


def test_only_these_operations_are_open_to_all() -> None:
    free = {(one.method, one.url) for one in operations() if one.role is None}
    assert free == {
        ("POST", "/api/v1/pair"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),  # its handler wants loopback or a viewer
    }


def test_no_viewer_may_write_but_ask() -> None:
    writes = {one.path for one in operations() if one.role == "viewer" and one.method != "GET"}
    assert writes == {"/predict", "/why", "/live"}


# ---- origins, names, rates ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "OWN"}, 400),
        ({"sec-fetch-site": "same-origin"}, 400),
        ({}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "OWN0"}, 403),
    ],
)
def test_a_write_by_cookie_must_come_from_a_page_of_the_device(
    everybody: Running, headers: dict[str, str], status: int
) -> None:
    given = {k: v.replace("OWN", everybody.url) for k, v in headers.items()}
    given["cookie"] = f"other=1; accrue={everybody.tokens['owner']}"
    response = httpx.post(f"{everybody.url}/api/v1/undo", headers=given, content=b"{")
    assert response.status_code == status, response.text


def test_a_page_of_elsewhere_writes_nothing_with_a_token_either(everybody: Running) -> None:
    headers = {
        "authorization": f"Bearer {everybody.tokens['owner']}",
        "origin": "https://elsewhere.example",
    }
    response = httpx.post(f"{everybody.url}/api/v1/undo", headers=headers)
    assert (response.status_code, response.json()["kind"]) == (403, "AccessDenied")


def test_the_device_answers_to_its_own_names_alone(everybody: Running) -> None:
    for host, status in (
        ("localhost:1", 200),
        ("192.0.2.7", 200),
        ("[2001:db8::1]:8420", 200),
        ("accrue.localhost", 200),
        ("elsewhere.example", 403),
        ("127.0.0.1.elsewhere.example", 403),
        ("", 403),
    ):
        response = httpx.get(f"{everybody.url}/healthz", headers={"host": host})
        assert response.status_code == status, host


def test_a_further_name_is_a_setting(run: Callable[..., Running], settings: Settings) -> None:
    running = run(settings, hosts=("Line3.example",))
    response = httpx.get(f"{running.url}/healthz", headers={"host": "line3.EXAMPLE:8420"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("host", "name"),
    [("a.b:80", "a.b"), ("A", "a"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("", "")],
)
def test_the_name_of_a_host_is_without_its_port(host: str, name: str) -> None:
    assert host_name(host) == name


def test_every_answer_carries_the_headers_that_keep_a_browser_safe(everybody: Running) -> None:
    for path in ("/healthz", "/api/v1/device", "/nothing"):
        headers = httpx.get(everybody.url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "server" not in headers or "uvicorn" in headers["server"]


def test_who_asks_too_often_waits_and_others_do_not() -> None:
    now = 0.0
    buckets = Buckets(clock=lambda: now)
    assert [buckets.take("a", 10, 3) for _ in range(5)] == [True] * 3 + [False] * 2
    assert buckets.take("b", 10, 3)
    now = 0.1
    assert [buckets.take("a", 10, 3) for _ in range(2)] == [True, False]


def test_a_flood_of_an_unknown_is_refused(
    run: Callable[..., Running], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "STRANGER_BURST", 5)
    monkeypatch.setattr(guard, "STRANGER_PER_S", 0.01)
    running = run(settings)
    with httpx.Client(base_url=running.url) as client:
        found = [client.get("/healthz") for _ in range(8)]
    assert [response.status_code for response in found] == [200] * 5 + [429] * 3
    assert found[-1].headers["retry-after"] == "1"
    with running.client("viewer") as client:
        assert client.get("/device").status_code == 200


# ---- pairing -----------------------------------------------------------------------------------


def test_a_code_pairs_one_browser_and_no_other(
    run: Callable[..., Running], settings: Settings
) -> None:
    running = run(settings)
    with running.client("owner") as owner:
        made = owner.post("/pairing", json={"role": "operator"}).json()
        assert made["url"] == f"{running.url}/#pair={made['code']}"
        assert made["qr"].startswith("<svg")
        assert 290 < made["expires"] - time.time() <= 300
        with running.client(None) as browser:
            typed = made["code"].lower().replace("-", " ")
            paired = browser.post("/pair", json={"code": typed, "name": "tablet"})
            assert paired.status_code == 201
            assert paired.json()["access"]["role"] == "operator"
            cookie = paired.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert "secure" not in cookie
            assert browser.get("/device").json()["me"]["name"] == "tablet"
            again = browser.post("/pair", json={"code": made["code"], "name": "b"})
            assert again.status_code == 403
        listed = owner.get("/access").json()["access"]
        assert listed[-1]["name"] == "tablet"
        assert listed[-1]["made_by"] == "a owner"
        assert "hash" not in listed[-1]
        assert owner.delete(f"/access/{listed[-1]['id']}").status_code == 204
        token = paired.json()["token"]
        headers = {"authorization": f"Bearer {token}"}
        assert httpx.get(f"{running.url}/api/v1/device", headers=headers).status_code == 401


def test_the_last_owner_cannot_lock_everybody_out(
    run: Callable[..., Running], settings: Settings
) -> None:
    with run(settings).client("owner") as owner:
        me = owner.get("/access").json()["me"]
        assert owner.delete(f"/access/{me}").status_code == 409


def test_metrics_are_for_the_machine_itself(run: Callable[..., Running], taught: Settings) -> None:
    from accrue.service.http.health import _is_loopback

    text = httpx.get(f"{run(taught).url}/metrics").text
    assert "accrue_classes 3" in text
    assert 'accrue_info{version="' in text
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .+|[a-z_]+(\{[^}]*\})? -?[0-9.e+-]+", line), line
    assert [_is_loopback(a) for a in ("127.0.0.1", "::1", "192.0.2.1", "")] == [1, 1, 0, 0]


# ---- the list itself ---------------------------------------------------------------------------


def test_a_code_expires_and_guessing_is_slowed(tmp_path: Any) -> None:
    now = 1000.0
    with Access(tmp_path, clock=lambda: now, ticks=lambda: now) as access:
        code = access.invite("viewer", by="tests")
        with pytest.raises(UsageError):
            access.redeem(code.code, " ")
        now += 301
        with pytest.raises(AccessDenied):
            access.redeem(code.code, "late")
        for _ in range(19):
            with pytest.raises(AccessDenied):
                access.redeem("0000-0000", "guess")
        with pytest.raises(RateLimited):
            access.redeem(access.invite("viewer", by="tests").code, "anybody")
        now += 61
        assert access.redeem(access.invite("viewer", by="tests").code, "x")[0].role == "viewer"


def test_tokens_and_codes_are_nowhere_in_the_file(tmp_path: Any) -> None:
    with Access(tmp_path) as access:
        _, token = access.add("crane", "viewer", by="tests")
        code = access.invite("owner", by="tests").code
        assert access.who(token) is not None
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token.encode() not in content
    assert code.encode() not in content
    assert code.replace("-", "").encode() not in content
    assert (tmp_path / "access.db").stat().st_mode & 0o077 == 0


def test_who_is_let_in_here_is_known_to_another_process_at_once(tmp_path: Any) -> None:
    with Access(tmp_path) as one, Access(tmp_path) as other:
        grant, token = one.add("crane", "viewer", by="tests")
        found = other.who(token)
        assert found is not None
        assert replace(found, seen=None) == grant
        other.revoke(grant.id)
        assert one.who(token) is None
        with pytest.raises(NotFound):
            one.revoke(grant.id)
