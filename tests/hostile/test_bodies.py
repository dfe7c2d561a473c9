"""What schemathesis does not send: nested without end, forms of thousands, bombs, long headers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hostile_device import Open, opened

from accrue.service.http import guard
from accrue.service.http.table import source_of


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[Open]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "REQUESTS_PER_S", 1e6)
        patch.setattr(guard, "STRANGER_PER_S", 1e6)
        with opened(tmp_path_factory.mktemp("bodies"), tiny_bundle) as found:
            yield found


def asked(device: Open, method: str, path: str, who: str = "owner", **more: object) -> int:
    headers = device.headers(who) | dict(more.pop("headers", {}))  # type: ignore[call-overload]
    with httpx.Client(base_url=device.url, timeout=30) as client:
        response = client.request(method, path, headers=headers, **more)  # type: ignore[arg-type]
    assert response.status_code < 500, response.text
    assert "\n" not in response.json().get("detail", "") if response.content else True
    return response.status_code


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 150_000,
        b'{"entry": ' + b"9" * 500_000 + b"}",
        b'{"entry": 1e999}',
        b'{"entry": NaN}',
        b'{"entry": 1, "entry": 2, "\\ud800": 3}',
        b"\xff\xfe{}",
        b"\x00",
        b'{"__proto__": {"entry": 1}}',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_json_that_is_none_or_without_end_is_refused(device: Open, body: bytes) -> None:
    assert asked(device, "POST", "/api/v1/undo", content=body, headers=JSON) == 400


def png_bomb() -> bytes:
    """100 megapixels of nothing in a hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(3_751 * 30_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_pictures_that_unpack_to_gigabytes_are_refused_by_their_header(device: Open) -> None:
    form = [("image", (f"{i}.png", png_bomb())) for i in range(8)]
    assert asked(device, "POST", "/api/v1/predict", files=form) in (200, 400)
    assert asked(device, "POST", "/api/v1/classes/bomb/teach", files=form) == 400


def test_forms_of_thousands_of_parts_are_refused(device: Open) -> None:
    form = [("image", (f"{i}.png", b"x")) for i in range(1500)]
    assert asked(device, "POST", "/api/v1/predict", files=form) == 400
    assert asked(device, "POST", "/api/v1/predict", files={"other": ("a", b"x")}) == 400


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "a\r\nX-Evil: 1", "\x00", "é" * 3000, ""])
def test_what_a_photo_is_called_is_no_path(name: str) -> None:
    """It stands beside the shot, as a name that can be shown."""
    clean = source_of(name)
    assert "/" not in clean
    assert clean.isprintable()
    assert 0 < len(clean) <= 120


@pytest.mark.parametrize("path", ["/api/v1/pair", "/pair", "/look"])
def test_who_is_not_known_may_send_a_code_and_not_a_film(device: Open, path: str) -> None:
    with httpx.Client(base_url=device.url, timeout=30) as client:
        response = client.post(path, content=bytes(100_000), headers=JSON)
    assert response.status_code == 413


def test_headers_without_end_are_refused(device: Open) -> None:
    with httpx.Client(base_url=device.url, timeout=30) as client:
        for headers in ({"x-a": "b" * 200_000}, {f"x-{i}": "b" * 100 for i in range(3000)}):
            try:
                assert client.get("/healthz", headers=headers).status_code in (400, 431)
            except httpx.TransportError:  # cut off while it was still sending
                continue
        assert client.get("/healthz").status_code == 200


def test_numbers_beyond_what_a_database_holds_are_not_there(device: Open) -> None:
    for path in (
        "/api/v1/unknown/99999999999999999999/thumb.jpg",
        "/api/v1/cameras/9" + "9" * 40 + "/snapshot.jpg",
    ):
        assert asked(device, "GET", path) == 404
