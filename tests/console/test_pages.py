"""Pages as the server makes them, without a browser."""

from __future__ import annotations

import re
import time
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
    "drafted": ["no-such-class"],
    "synced_at": 1.8e9,
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
        "all exchanged",
        "live here alone until the owner publishes it",
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


def seen(answer: httpx.Response) -> str:
    """What a page shows, without the words that it brings along for the scripts."""
    return re.sub(r'<script type="application/json".*?</script>', "", answer.text, flags=re.DOTALL)


def taught_here(home: Served, *names: str) -> dict[str, str]:
    """Teaches the samples of these classes; their ids."""
    samples = Path(__file__).parents[2] / "tools/samples/teach"
    with home.device.writing("test") as box:
        for name in names:
            photos = sorted((samples / name).glob("*.jpg"))
            list(box.teach(name, [(p.name, p) for p in photos]))
        return {row.name: row.id for row in box.classes()}


def test_a_class_is_disabled_and_enabled_by_its_forms_and_says_so(empty: Served) -> None:
    ids = taught_here(empty, "hex-bolt", "spur-gear")
    bolt = f"/classes/{ids['hex-bolt']}"
    with client(empty, OPERATOR) as http:
        go = http.post(bolt + "/disable").headers["location"]
        page = seen(http.get(go))
        assert "disabled &#34;hex-bolt&#34;" in page
        assert "not answered on this device" in page
        assert "DISABLED" in seen(http.get("/classes"))
        assert "Disable this class" not in page
        options = re.findall(r'<option value="([^"]+)"></option>', seen(http.get("/teach")))
        assert options == ["spur-gear", "hex-bolt"]  # what is not answered comes last
        assert http.post(bolt + "/enable").status_code == 303
        assert "DISABLED" not in seen(http.get("/classes"))
        again = seen(http.get(http.post(bolt + "/enable").headers["location"]))
        assert "Something else stands in the way" in again


def test_how_shots_are_kept_is_changed_by_an_owner_who_ticks_that_it_is_for_good(
    empty: Served,
) -> None:
    ids = taught_here(empty, "hex-bolt")
    bolt = f"/classes/{ids['hex-bolt']}"
    fields = {"retain": "statistics", "budget": "500"}
    with client(empty, OPERATOR) as http:
        assert "How its shots are kept" not in seen(http.get(bolt))
        answer = http.post(bolt + "/retention", data=fields, headers={"Accept": "application/json"})
        assert answer.status_code == 403
    with client(empty) as http:
        said = seen(http.get(http.post(bolt + "/retention", data=fields).headers["location"]))
        assert "Nothing was changed" in said
        assert re.search(r"<details[^>]* open><summary[^>]*>How its shots are kept", said)
        assert empty.device.box.show("hex-bolt")[0].retain == "rows"
        said = seen(
            http.get(
                http.post(bolt + "/retention", data={**fields, "sure": "yes"}).headers["location"]
            )
        )
        assert "8 shots folded, which cannot be undone" in said
    row = empty.device.box.show("hex-bolt")[0]
    assert (row.retain, row.budget, row.rows) == ("statistics", 500, 0)


def ended(http: httpx.Client, address: str) -> str:
    """The page of a job once it is over."""
    assert re.fullmatch(r"/jobs/\w+", address), address
    for _ in range(600):
        text = seen(http.get(address))
        if 'data-state="running"' not in text:
            return text
        time.sleep(0.1)
    raise AssertionError("the job does not end")


def test_a_video_from_the_form_becomes_a_shot_and_its_page_says_what_was_kept(
    empty: Served, tmp_path: Path
) -> None:
    cv2 = pytest.importorskip("cv2", reason="videos need OpenCV: pip install 'accrue[camera]'")
    photos = sorted((Path(__file__).parents[2] / "tools/samples/teach/hex-bolt").glob("*.jpg"))
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (480, 360))
    for photo in photos:
        for _ in range(3):
            writer.write(cv2.resize(cv2.imread(str(photo)), (480, 360)))
    writer.release()
    with client(empty, OPERATOR) as http:
        files = {"video": ("film.avi", film.read_bytes(), "video/x-msvideo")}
        sent = http.post("/teach/clip", data={"name": "bolt"}, files=files)
        page = ended(http, sent.headers["location"])
        assert "Learned: bolt" in page
        assert "One shot from" in page
        assert "repeat" in page  # each photo stood for three frames
        files["video"] = ("film.mp4", b"no film", "video/mp4")
        sent = http.post("/teach/clip", data={"name": "bolt"}, files=files)
        said = seen(http.get(sent.headers["location"]))
        assert "film.mp4 is no video that is taken here" in said
        assert re.search(r"<details[^>]* open><summary[^>]*>From a video", said)
        assert 'value="bolt"' in said
        for name, value in (("", b"x"), ("film.mp4", b"")):
            files["video"] = (name or "film.mp4", value, "video/mp4")
            assert http.post("/teach/clip", data={"name": name}, files=files).status_code == 303
    (shot,) = empty.device.box.show("bolt")[1]
    assert (shot.source, shot.actor) == ("film.avi", "Olga")


def test_folders_of_photos_are_measured_and_the_page_says_how_good_it_is(empty: Served) -> None:
    taught_here(empty, "hex-bolt", "spur-gear", "padlock")
    tests = Path(__file__).parents[2] / "tools/samples/test"
    with client(empty, OPERATOR) as http:
        files = [
            ("image", (f"test/{name}/{photo.name}", photo.read_bytes(), "image/jpeg"))
            for name in ("hex-bolt", "spur-gear")
            for photo in sorted((tests / name).glob("*.jpg"))
        ]
        files.append(("image", ("test/hex-bolt/torn.jpg", b"torn", "image/jpeg")))
        page = ended(http, http.post("/device/evaluate", files=files).headers["location"])
        assert re.search(r"\d+ % right · \d+ photos", page)
        assert "<bdi>spur-gear</bdi>" in page
        assert "1 photo could not be read" in page
        assert "hex-bolt/torn.jpg" in page
        flat = [("image", ("a.jpg", b"x", "image/jpeg"))]
        said = seen(http.get(http.post("/device/evaluate", files=flat).headers["location"]))
        assert "the photo a.jpg is of no class" in said
        assert http.get("/jobs/none").status_code == 404


def test_engines_are_checked_and_cleaned_from_the_device_page(empty: Served) -> None:
    folder = empty.device.settings.engines_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "left.plan").write_bytes(b"x")
    with client(empty) as http:
        page = ended(http, http.post("/device/engine/verify").headers["location"])
        assert "no engine for this encoder and device" in page
        said = seen(http.get(http.post("/device/engine/clean").headers["location"]))
        assert "1 file removed" in said
    with client(empty, OPERATOR) as http:
        json = {"Accept": "application/json"}
        assert http.post("/device/engine/clean", headers=json).status_code == 403


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("engine build", {"engine": "mobilenet-7f", "unchecked": "no driver"}),
        ("engine verify", {"engine": "mobilenet-7f", "parity": None}),
        ("what no page knows", {"any": "thing"}),
    ],
)
def test_every_job_has_a_page(empty: Served, name: str, result: dict[str, Any]) -> None:
    job = empty.device.jobs.start(name, lambda step: result, actor="test")
    with client(empty) as http:
        page = ended(http, f"/jobs/{job.id}")
        assert "done" in page
        assert http.get("/device").status_code == 200
        for text in (result.get("engine"), result.get("unchecked")):
            assert text is None or text in page


def test_the_settings_are_shown_to_an_owner_and_to_nobody_else(empty: Served) -> None:
    with client(empty) as http:
        assert "predict_views" not in seen(http.get("/device"))
        assert "<dt title=" in seen(http.get("/device?config=1"))
    with client(empty, OPERATOR) as http:
        assert "predict_views" not in seen(http.get("/device?config=1"))


def test_an_encoder_that_reads_no_text_offers_no_teaching_by_name(empty: Served) -> None:
    with client(empty, OPERATOR) as http:
        assert "By its name alone" not in seen(http.get("/teach"))
        said = seen(http.get(http.post("/teach/by-name", data={"name": "nut"}).headers["location"]))
        assert "no text part" in said


def test_an_address_that_leads_nowhere_has_a_page_and_programs_get_a_problem(
    empty: Served,
) -> None:
    html = {"Accept": "text/html,application/xhtml+xml"}
    with client(empty) as http:
        for path in ("/nowhere", "/classes/x/y", "/console/none.js", "/teach/"):
            answer = http.get(path, headers=html)
            assert answer.status_code == 404, path
        page = seen(http.get("/nowhere", headers=html))
        assert "That is not there" in page
        assert 'href="/"' in page
        for path in ("/nowhere", "/api/v1/nowhere"):
            answer = http.get(path, headers=html if "api" in path else {"Accept": "*/*"})
            assert answer.headers["content-type"] == "application/problem+json"
        assert http.post("/nowhere").status_code in (404, 405)
    stranger = httpx.get(empty.url + "/nowhere", headers=html)
    assert stranger.status_code == 404
    assert "nav class" not in stranger.text


def test_the_history_is_told_in_the_language_of_the_page(empty: Served) -> None:
    taught_here(empty, "hex-bolt")
    with client(empty, OPERATOR) as http:
        german = {"Accept-Language": "de"}
        assert "&#34;hex-bolt&#34; gelernt: 8 Aufnahmen" in seen(
            http.get("/history", headers=german)
        )
        undone = http.post(
            "/history/undo",
            data={"entry": "1"},
            headers={**german, "Accept": "application/json"},
        ).json()
        assert undone["text"].startswith('Eintrag 1 zurückgenommen: "hex-bolt" gelernt')
