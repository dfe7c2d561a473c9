"""Teaching by name from the console, and over HTTP, with an encoder that reads text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the console: pip install 'accrue[console]'")
from starlette.testclient import TestClient

from accrue.service.access import OPERATOR, Access
from accrue.service.console import console_routes
from accrue.service.daemon import Device
from accrue.service.http.app import create_app
from accrue.service.http.replies import Replies
from accrue.service.settings import Settings


@pytest.fixture
def operator(tmp_path: Path, text_bundle: Path) -> Iterator[TestClient]:
    settings = Settings(state=tmp_path / "state", bundle=text_bundle)
    with Device(settings, cameras=()) as device, Access(settings.state) as access:
        replies = Replies(settings.state)
        pages = console_routes(device, access, replies)
        app = create_app(device, access=access, replies=replies, more=pages)
        _, token = access.add("Olga", OPERATOR, by="test")
        base = "http://127.0.0.1:8420"
        headers = {"Origin": base, "Authorization": f"Bearer {token}"}
        yield TestClient(app, base_url=base, headers=headers)


def shown(client: TestClient, address: str) -> str:
    text = client.get(address).text
    return re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)


def test_a_form_teaches_a_class_by_its_name_or_by_what_it_looks_like(operator: TestClient) -> None:
    page = shown(operator, "/teach")
    assert "By its name alone" in page
    assert "accrue class teach NAME --by-name" in page
    sent = operator.post("/teach/by-name", data={"name": "hex bolt"}, follow_redirects=False)
    assert sent.headers["location"].startswith("/classes/")
    assert "taught &#34;hex bolt&#34; by name" in shown(operator, sent.headers["location"])
    fields = {"name": "wing nut", "prompt": "a photo of a brass wing nut"}
    sent = operator.post("/teach/by-name", data=fields, follow_redirects=False)
    page = shown(operator, sent.headers["location"])
    assert "by its name: <bdi>a photo of a brass wing nut</bdi>" in page
    told = {
        one["name"]: one["by_name"] for one in operator.get("/api/v1/classes").json()["classes"]
    }
    assert told == {"hex bolt": "hex bolt", "wing nut": "a photo of a brass wing nut"}


def test_what_was_typed_is_there_again_when_it_went_wrong(operator: TestClient) -> None:
    fields = {"name": "nut", "prompt": "brass " * 200}
    sent = operator.post("/teach/by-name", data=fields, follow_redirects=False)
    page = shown(operator, sent.headers["location"])
    assert 'role="alert"' in page
    assert re.search(r"<details[^>]* open><summary[^>]*>By its name alone", page)
    assert "brass brass" in page
