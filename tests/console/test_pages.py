"""Pages as the server makes them, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from console_cases import Served, served

from accrue.service.access import OPERATOR, OWNER

MEMBER: dict[str, Any] = {
    "device": "7f3a",
    "fleet": "plant-7",
    "name": "dock <1>",
    "connected": False,
    "settled": False,
    "unsent": 4,
    "drafts": 1,
    "devices": 12,
    "revoked": False,
    "new_key": "",
    "problems": ["10.0.0.5:8883 cannot be reached"],
    "installed": {
        "number": 6,
        "wanted": 7,
        "refused": "known shots would be answered worse",
        "accuracy": 0.9,
        "before": 0.95,
        "remarks": [("no-such-class", True, "thank you")],
    },
}


@pytest.fixture
def empty(tmp_path: Path) -> Any:
    with served(tmp_path, []) as home:
        yield home


def client(home: Served, role: str = OWNER) -> httpx.Client:
    _, token = home.access.add("Olga", role, by="test")
    headers = {"Origin": home.url}
    return httpx.Client(base_url=home.url, cookies={"accrue": token}, headers=headers, timeout=60)


def test_a_device_that_knows_nothing_and_has_no_camera_says_so_on_every_page(empty: Served) -> None:
    with client(empty) as http:
        for path in ("/", "/teach", "/classes", "/unknown", "/history", "/fleet", "/device"):
            answer = http.get(path)
            assert answer.status_code == 200, path
            assert "unsafe" not in answer.headers["content-security-policy"]
        assert "No camera is set up" in http.get("/").text
        assert "belongs to no fleet" in http.get("/fleet").text
        assert "Nothing has been taught yet" in http.get("/classes").text


def test_who_is_not_paired_sees_the_page_to_pair_alone(empty: Served) -> None:
    for path in ("/", "/classes", "/device"):
        answer = httpx.get(empty.url + path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/pair")
    refused = httpx.post(
        empty.url + "/pair", data={"code": "WRNG-CODE", "name": "x"}, headers={"Origin": empty.url}
    )
    assert refused.status_code == 303
    assert "set-cookie" not in refused.headers
    said = httpx.get(empty.url + refused.headers["location"]).text
    assert "this pairing code is wrong" in said
    assert 'value="WRNG-CODE"' in said


def test_the_fleet_screen_shows_how_the_device_stands(
    empty: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(empty.device, "fleet", lambda: MEMBER)
    with client(empty, OPERATOR) as http:
        text = http.get("/fleet").text
    for part in (
        "plant-7",
        "dock &lt;1&gt;",
        "4 changes wait to be sent",
        "1 change waits for the owner",
        "Version 6 is in force",
        "Version 7 is on its way",
        "A version was rolled back",
        "90 % right when left out; 95 % before",
        "10.0.0.5:8883 cannot be reached",
        "thank you",
    ):
        assert part in text, part


def test_a_fleet_that_cannot_be_followed_has_a_screen_all_the_same(
    empty: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(empty.device, "fleet", lambda: {"connected": False, "problems": ["gone"]})
    with client(empty) as http:
        assert "gone" in http.get("/fleet").text


def test_a_class_that_is_not_there_is_told_on_a_page(empty: Served) -> None:
    with client(empty) as http:
        answer = http.get("/classes/nothing")
    assert answer.status_code == 404
    assert "That is not there" in answer.text


def test_a_form_goes_nowhere_but_to_this_console(empty: Served) -> None:
    with client(empty) as http:
        for go in ("//evil.example/", "https://evil.example", "/\\evil.example"):
            answer = http.post("/look", data={"go": go, "language": "de"})
            assert answer.headers["location"] == "/"
        assert 'lang="de"' in http.get("/").text


def test_the_same_form_sent_twice_is_done_once(empty: Served) -> None:
    photos = sorted((Path(__file__).parents[2] / "tools/samples/teach/hex-bolt").glob("*.jpg"))
    with client(empty, OPERATOR) as http:
        files = [("image", (p.name, p.read_bytes(), "image/jpeg")) for p in photos]
        assert http.post("/teach", data={"name": "bolt"}, files=files).status_code == 303
        row = empty.device.box.classes()[0]
        for _ in range(2):
            answer = http.post(
                f"/classes/{row.id}/rename",
                data={"name": "hex bolt", "key": "once"},
                headers={"Accept": "application/json"},
            )
            assert answer.status_code == 200
            assert answer.json()["entry"]["seq"] == 2
    assert [entry.verb for entry in empty.device.box.history()] == ["rename", "teach"]


def test_the_forms_of_a_class_do_what_they_say_and_each_can_be_undone(empty: Served) -> None:
    """Split, move, take a "not this" back, merge, forget, delete for good."""
    samples = Path(__file__).parents[2] / "tools/samples/teach"
    with empty.device.writing("test") as box:
        for name in ("hex-bolt", "spur-gear", "padlock"):
            photos = sorted((samples / name).glob("*.jpg"))
            list(box.teach(name, [(p.name, p) for p in photos]))
        box.not_this("padlock", [("gear", sorted((samples / "spur-gear").glob("*.jpg"))[0])])
    told = {row.name: row.id for row in empty.device.box.classes()}
    shots = {name: [s.id for s in empty.device.box.show(name)[1]] for name in told}

    with client(empty) as http:

        def send(path: str, **fields: Any) -> Any:
            answer = http.post(path, data=fields, headers={"Accept": "application/json"})
            return answer.status_code, answer.json()

        def undone(path: str, **fields: Any) -> str:
            status, said = send(path, **fields)
            assert status == 200, said
            with empty.device.writing("test") as box:
                box.undo(said["entry"]["seq"])
            return str(said["text"])

        bolt = f"/classes/{told['hex-bolt']}"
        page = http.get(bolt + "?split=1").text
        assert "Goes into the new class" in page
        text = undone(bolt + "/split", shots=shots["hex-bolt"][:2], new="long bolt")
        assert text.startswith("split")
        fields = {"shots": shots["hex-bolt"][:1], "class": "padlock", "force": "yes"}
        assert undone(bolt + "/relabel", **fields).startswith("relabelled")
        assert "spur-gear/" not in http.get(f"/classes/{told['padlock']}").text
        (refusal,) = empty.device.box.refusals("padlock")
        assert undone(f"/classes/{told['padlock']}/allow", refusal=refusal.id)
        assert undone(bolt + "/merge", into="padlock", force="yes").startswith("merged")
        assert undone(bolt + "/remove").startswith("removed")
        status, said = send(bolt + "/purge", sure="hex bolts")
        assert (status, said["detail"][:20]) == (400, "What you typed is no")
        assert send(bolt + "/relabel")[0] == 400  # nothing was chosen
        status, said = send(bolt + "/purge", sure="HEX-bolt ")
        assert (status, said["text"]) == (200, "Deleted for good: 8 shots")
    assert sorted(row.name for row in empty.device.box.classes()) == ["padlock", "spur-gear"]


def test_a_merge_that_makes_answers_worse_is_held_back_and_can_be_forced(empty: Served) -> None:
    samples = Path(__file__).parents[2] / "tools/samples/teach"
    with empty.device.writing("test") as box:
        for name in ("hex-bolt", "spur-gear", "padlock", "coil-spring"):
            photos = sorted((samples / name).glob("*.jpg"))
            list(box.teach(name, [(p.name, p) for p in photos]))
        bolt = box.show("hex-bolt")[0].id
        spring = [shot.id for shot in box.show("coil-spring")[1]]
    with client(empty) as http:
        fields = {"shots": spring[:4], "class": "padlock"}
        answer = http.post(f"/classes/{bolt}/relabel", data=fields)
        text = http.get(answer.headers["location"]).text
        assert "Held back: it would make the answers worse." in text
        assert "Do it all the same" in text
