"""The OpenAPI document is what the code makes, and what the server answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_cases import Running, jpeg, until

from accrue.errors import UsageError
from accrue.service.http.app import operations
from accrue.service.http.openapi import document, text
from accrue.service.http.schema import plain, read, read_text
from accrue.service.http.shapes import CommitTeach, Limit, Merge, Relabel
from accrue.service.settings import Settings

FILE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "openapi.json"
DOCUMENT = document()


def misfits(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """Where a value is not as its schema says; fields that are not documented count, too."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return misfits(value, DOCUMENT["components"]["schemas"][name], where)
    if "anyOf" in schema:
        each = [misfits(value, one, where) for one in schema["anyOf"]]
        return [] if [] in each else each[0]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    found = {
        bool: ["boolean"],
        int: ["integer", "number"],
        float: ["number"],
        str: ["string"],
        type(None): ["null"],
        list: ["array"],
        dict: ["object"],
    }[type(value)]
    if kinds and not set(kinds) & set(found):
        return [f"{where} is {found[0]}, not {kinds}"]
    wrong = []
    if isinstance(value, list):
        for i, item in enumerate(value):
            wrong += misfits(item, schema.get("items", {}), f"{where}[{i}]")
    if isinstance(value, dict) and kinds:
        properties = schema.get("properties", {})
        wrong += [
            f"{where} lacks {name}" for name in schema.get("required", []) if name not in value
        ]
        for name, item in value.items():
            more = schema.get("additionalProperties")
            if name in properties:
                wrong += misfits(item, properties[name], f"{where}.{name}")
            elif more is not None:
                wrong += misfits(item, more, f"{where}.{name}")
            elif properties:
                wrong.append(f"{where}.{name} is not documented")
    return wrong


def schema_of(method: str, path: str, status: int) -> dict[str, Any]:
    answers = DOCUMENT["paths"][path][method]["responses"]
    answer = answers[str(status)] if status < 400 else answers["default"]
    (content,) = answer["content"].values()
    return content["schema"]  # type: ignore[no-any-return]


def test_the_file_in_the_documents_is_what_the_code_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == text(), (
        "python -m accrue.service.http.openapi > docs/reference/openapi.json"
    )


def test_every_operation_has_a_summary_a_role_and_an_answer() -> None:
    found = [one for path in DOCUMENT["paths"].values() for one in path.values()]
    assert len(found) == len(list(operations()))
    assert len({one["operationId"] for one in found}) == len(found)
    for one in found:
        assert one["summary"].endswith("."), one["operationId"]
        assert one["responses"]
        assert {"viewer", "operator", "owner", None} >= {one["x-role"]}


def test_every_reference_leads_somewhere() -> None:
    said = json.dumps(DOCUMENT)
    for name in {part.partition('"')[0] for part in said.split("#/components/schemas/")[1:]}:
        assert name in DOCUMENT["components"]["schemas"]


def test_what_the_server_answers_is_as_documented(
    run: Callable[..., Running], taught: Settings, playing: str, photo: Any
) -> None:
    running = run(taught, (playing,), reject=0.4)
    form = [("image", ("a.jpg", jpeg(photo(150, kind=1))))]
    with running.client("owner") as client:

        def check(method: str, path: str, template: str = "", **more: Any) -> Any:
            response = client.request(method, path.removeprefix("/api/v1"), **more)
            value = response.json()
            schema = schema_of(method.lower(), f"/api/v1{template or path}", response.status_code)
            assert misfits(value, schema) == [], f"{method} {path}"
            return value

        until(lambda: client.get("/cameras").json()["cameras"][0]["answer"])
        plain_paths = ("device", "cameras", "classes", "quality", "suspects", "unknown", "history")
        for path in (*plain_paths, "engine", "fleet", "access", "doctor"):
            check("GET", f"/{path}")
        check("GET", "/classes/bolt", "/classes/{id}")
        check("GET", "/classes/bolt/shots", "/classes/{id}/shots")
        check("GET", "/classes/bolt/split-suggestion", "/classes/{id}/split-suggestion")
        check("POST", "/predict", files=form)
        check("POST", "/why", files=form)
        check("POST", "/classes/new/teach", "/classes/{name}/teach", files=form)
        check("POST", "/classes/bolt/not", "/classes/{id}/not", files=form)
        check("PATCH", "/classes/new", "/classes/{id}", json={"name": "newer"})
        check("PATCH", "/classes/new", "/classes/{id}", json={"nom": "newer"})
        check("POST", "/classes/newer/merge", "/classes/{id}/merge", json={"into": "bolt"})
        check("POST", "/undo", json={})
        check("DELETE", "/classes/newer", "/classes/{id}")
        check("DELETE", "/classes/gear", "/classes/{id}", params={"purge": True})
        check("DELETE", "/classes/gear", "/classes/{id}")
        session = check("POST", "/teach", json={"class": "x"})
        until(lambda: client.get(f"/teach/{session['id']}").json()["frames"])
        check("GET", f"/teach/{session['id']}", "/teach/{id}")
        check("POST", f"/teach/{session['id']}/stop", "/teach/{id}/stop")
        check("DELETE", f"/teach/{session['id']}", "/teach/{id}")
        check("POST", "/access", json={"name": "x", "role": "viewer"})
        check("POST", "/pairing", json={"role": "viewer"})
        check("POST", "/pair", json={"code": "0", "name": "x"})
        check("POST", "/engine/build", json={})


def test_a_value_that_is_not_as_documented_is_found() -> None:
    schema = DOCUMENT["components"]["schemas"]["Merge"]
    assert misfits({"into": "a"}, schema) == []
    assert misfits({"into": 1}, schema)
    assert misfits({"force": True}, schema)
    assert misfits({"into": "a", "more": 1}, schema)


def test_what_comes_in_is_checked_field_by_field() -> None:
    assert read(Merge, {"into": "a", "force": True}) == Merge("a", True)
    assert read(CommitTeach, {}) == CommitTeach(None)
    assert read(CommitTeach, {"keep": [1, 2]}) == CommitTeach((1, 2))
    assert read(Relabel, {"shots": ["a"], "class": "b"}) == Relabel(("a",), "b")
    assert read_text(Limit, {"limit": "7"}) == Limit(7)
    assert plain(Relabel(["a"], "b")) == {"shots": ["a"], "class": "b", "force": False}
    for value in (
        {"into": "\ud800"},
        {"into": None},
        {"into": "a", "force": 1},
        {"into": "a", "x": 1},
        "a",
        None,
    ):
        with pytest.raises(UsageError):
            read(Merge, value)
    for value in ({"keep": "1"}, {"keep": [1.5]}, {"keep": [True]}, {"keep": [2**70]}):
        with pytest.raises(UsageError):
            read(CommitTeach, value)
