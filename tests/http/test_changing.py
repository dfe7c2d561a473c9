"""What is changed over HTTP: by whom, once, and not against what somebody else has done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from http_cases import Running, jpeg, until

from accrue.errors import Refused, StoreFull
from accrue.service.settings import Settings

Photo = Callable[..., Any]


def forms(photo: Photo, kind: int, count: int, first: int = 50) -> list[tuple[str, Any]]:
    return [
        ("image", (f"{i}.jpg", jpeg(photo(100 * kind + i, kind=kind))))
        for i in range(first, first + count)
    ]


def test_photos_are_taught_and_then_recognised_with_the_actor_in_the_journal(
    run: Callable[..., Running], taught: Settings, photo: Photo
) -> None:
    with run(taught).client("operator") as client:
        done = client.post("/classes/cog wheel/teach", files=forms(photo, 7, 4)).json()
        assert (done["class"], len(done["shots"])) == ("cog wheel", 4)
        assert done["quality"]["shots"] == 4
        assert [one["skipped"] for one in done["receipts"]] == [None] * 4
        (entry, *_) = client.get("/history").json()["entries"]
        assert (entry["verb"], entry["actor"]) == ("teach", "a operator")
        (found,) = client.post("/predict", files=forms(photo, 7, 1, 90)).json()["predictions"]
        assert found["label"] == "cog wheel"


def test_a_name_may_have_a_slash_and_an_id_teaches_its_class(
    run: Callable[..., Running], taught: Settings, photo: Photo
) -> None:
    with run(taught).client("operator") as client:
        done = client.post("/classes/M8%2Fzinc/teach", files=forms(photo, 7, 1)).json()
        assert done["class"] == "M8/zinc"
        bolt = client.get("/classes/bolt").json()["about"]
        done = client.post(f"/classes/{bolt['id']}/teach", files=forms(photo, 1, 1)).json()
        assert done["class"] == "bolt"
        assert client.get("/classes/bolt").json()["about"]["shots"] == bolt["shots"] + 1


def test_a_request_that_is_sent_again_teaches_nothing_again_not_even_after_a_restart(
    run: Callable[..., Running], taught: Settings, photo: Photo
) -> None:
    running = run(taught)
    headers = {"idempotency-key": "one"}
    form = forms(photo, 1, 2)
    with running.client("operator") as client:
        first = client.post("/classes/bolt/teach", files=form, headers=headers)
        again = client.post("/classes/bolt/teach", files=form, headers=headers)
        assert again.json() == first.json()
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in first.headers
        other = client.post("/classes/nut/teach", files=form, headers=headers)
        assert (other.status_code, other.json()["kind"]) == (409, "Conflict")
        assert client.get("/classes/bolt").json()["about"]["shots"] == 7
    running.close()
    running.device.stop()
    operator = running.tokens["operator"]
    running = run(taught)
    running.tokens["operator"] = operator
    with running.client("operator") as client:
        once_more = client.post("/classes/bolt/teach", files=form, headers=headers)
        assert once_more.json() == first.json()
        assert client.get("/classes/bolt").json()["about"]["shots"] == 7


def test_of_two_who_change_one_class_the_second_is_told(
    run: Callable[..., Running], taught: Settings
) -> None:
    running = run(taught)
    with running.client("operator") as one, running.client("owner") as other:
        seen = one.get("/classes/bolt").headers["etag"]
        headers = {"if-match": seen}
        renamed = other.patch("/classes/bolt", json={"name": "hex bolt"}, headers=headers)
        assert renamed.status_code == 200
        assert renamed.json()["about"]["name"] == "hex bolt"
        late = one.patch("/classes/bolt", json={"name": "screw"}, headers=headers)
        assert (late.status_code, late.json()["kind"]) == (412, "Stale")
        assert one.delete("/classes/bolt", headers=headers).status_code == 412
        now = {"if-match": renamed.headers["etag"]}
        assert one.patch("/classes/bolt", json={"name": "screw"}, headers=now).status_code == 200
        assert one.get("/classes/bolt").json()["about"]["aliases"] == ["bolt", "hex bolt"]


def test_merge_split_relabel_not_this_remove_and_undo_are_the_verbs_of_the_box(
    run: Callable[..., Running], taught: Settings, photo: Photo
) -> None:
    with run(taught).client("owner") as client:
        before = client.get("/classes").json()["digest"]

        def undo() -> None:
            assert client.post("/undo", json={}).status_code == 200
            assert client.get("/classes").json()["digest"] == before

        body = {"into": "nut", "force": True}
        assert client.post("/classes/bolt/merge", json=body).json()["about"]["name"] == "nut"
        undo()
        shots = [shot["id"] for shot in client.get("/classes/bolt/shots").json()["shots"]]
        body = {"shots": shots[:2], "new": "long bolt"}
        assert client.post("/classes/bolt/split", json=body).json()["about"]["shots"] == 2
        undo()
        body = {"shots": shots[:1], "class": "nut", "force": True}
        assert client.post("/shots/relabel", json=body).json()["about"]["shots"] == 6
        undo()
        noted = client.post("/classes/bolt/not", files=forms(photo, 2, 1)).json()
        assert noted["entry"]["verb"] == "refuse"
        (refusal,) = client.get("/classes/bolt").json()["not_this"]
        assert client.delete(f"/not/{refusal['id']}").json()["entry"]["verb"] == "allow"
        assert client.delete("/classes/bolt").json()["entry"]["verb"] == "remove"
        undo()
        purged = client.delete("/classes/bolt?purge=true").json()["purged"]
        assert (purged["classes"], purged["shots"]) == (1, 5)
        assert client.get("/classes/bolt").status_code == 404


def test_an_operator_purges_nothing(run: Callable[..., Running], taught: Settings) -> None:
    with run(taught).client("operator") as client:
        assert client.delete("/classes/bolt?purge=true").status_code == 403
        assert client.get("/classes/bolt").status_code == 200


def test_a_change_that_a_gate_holds_back_is_a_conflict_and_changes_nothing(
    run: Callable[..., Running], taught: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: Any) -> Any:
        raise Refused("held back, nothing was changed", hint="add force")

    running = run(taught)
    monkeypatch.setattr(running.device.box, "_guarded", lambda change, force: no())
    with running.client("operator") as client:
        response = client.post("/classes/bolt/merge", json={"into": "nut"})
        assert (response.status_code, response.json()["kind"]) == (409, "Refused")
        assert client.get("/classes/bolt").json()["about"]["name"] == "bolt"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("PATCH", "/classes/bolt", {"nom": "x"}, 400, "unknown field 'nom'"),
        ("PATCH", "/classes/bolt", {}, 400, "lacks the field 'name'"),
        ("PATCH", "/classes/bolt", {"name": 3}, 400, "name is 3; expected a text"),
        ("PATCH", "/classes/bolt", [], 400, "the body is a list"),
        ("PATCH", "/classes/bolt", {"name": "nut"}, 409, "nut"),
        ("PATCH", "/classes/none", {"name": "x"}, 404, "none"),
        ("POST", "/classes/bolt/merge", {"into": "none"}, 404, "none"),
        ("POST", "/shots/relabel", {"shots": [], "class": "nut"}, 400, "0 at once"),
        ("POST", "/shots/relabel", {"shots": [1], "class": "nut"}, 400, "shots[0] is 1"),
        ("POST", "/undo", {"entry": 99}, 404, "99"),
        ("POST", "/undo", {"entry": True}, 400, "entry is true"),
        ("POST", "/access", {"name": "x", "role": "king"}, 400, "viewer, operator, owner"),
        ("POST", "/teach", {"class": "x", "camera": 0}, 404, "no camera 0"),
        ("POST", "/unknown/name", {"moments": [7], "name": "x"}, 404, "7"),
        ("GET", "/history?limit=0", None, 400, "limit is 0"),
        ("GET", "/history?limit=x", None, 400, "limit is 'x'"),
        ("GET", "/history?limits=1", None, 400, "unknown field 'limits'"),
        ("GET", "/nothing", None, 404, "/api/v1/nothing"),
        ("PUT", "/classes", None, 405, "PUT"),
    ],
)
def test_what_cannot_be_done_says_why(
    run: Callable[..., Running],
    taught: Settings,
    method: str,
    path: str,
    body: Any,
    status: int,
    says: str,
) -> None:
    more = {} if body is None else {"json": body}
    with run(taught).client("owner") as client:
        response = client.request(method, path, **more)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == status, response.text
    assert says in response.json()["detail"]


def test_bodies_that_are_too_large_are_refused_before_they_are_read(
    run: Callable[..., Running], settings: Settings
) -> None:
    headers = {"content-type": "image/jpeg"}
    with run(settings, upload=2**16).client("viewer") as client:
        told = client.post("/predict", content=b"x" * (2**16 + 1), headers=headers)
        untold = client.post("/predict", content=iter([b"x" * 4096] * 20), headers=headers)
        form = client.post("/predict", files=[("image", ("a", b"x" * 2**16))])
        body = client.post("/undo", content=b"x" * 10, headers=headers)
    assert [r.status_code for r in (told, untold, form, body)] == [413, 413, 413, 403]
    assert told.json()["kind"] == "TooLarge"


def test_a_session_from_a_camera_is_reviewed_and_committed(
    run: Callable[..., Running], taught: Settings, playing: str
) -> None:
    running = run(taught, (playing,), duplicates=0.999)
    with running.client("operator") as client:
        begun = client.post("/teach", json={"class": "screw", "camera": 0})
        assert begun.status_code == 201
        where = begun.headers["location"].removeprefix("/api/v1")
        second = client.post("/teach", json={"class": "other", "camera": 0})
        assert (second.status_code, second.json()["kind"]) == (409, "Conflict")
        until(lambda: client.get(where).json()["kept"] >= 1)
        stopped = client.post(f"{where}/stop").json()
        assert stopped["state"] == "review"
        assert stopped["kept"] + sum(stopped["dropped"].values()) == len(stopped["frames"])
        n = next(frame["n"] for frame in stopped["frames"] if frame["kept"])
        picture = client.get(f"{where}/frames/{n}.jpg")
        assert picture.headers["content-type"] == "image/jpeg"
        assert client.get(f"{where}/frames/9999.jpg").status_code == 404
        done = client.post(f"{where}/commit", json={"keep": [n]}).json()
        assert (done["class"], bool(done["shot"])) == ("screw", True)
        assert client.get(where).json()["state"] == "committed"
        again = client.post(f"{where}/commit", json={})
        assert again.status_code == 409
        about = client.get("/classes/screw").json()["about"]
        assert about["shots"] == 1
        assert client.get("/history").json()["entries"][0]["actor"] == "a operator"
        other = client.post("/teach", json={"class": "other"}).json()
        assert client.delete(f"/teach/{other['id']}").json()["state"] == "cancelled"
        assert client.get("/classes/other").status_code == 404


def test_what_nobody_named_is_named(
    run: Callable[..., Running], taught: Settings, photo_file: Any
) -> None:
    strange = photo_file("strange/a.jpg", 9000, kind=77).parent
    running = run(taught, (f"play:{strange}",), reject=0.3)
    with running.client("operator") as client:
        until(lambda: client.get("/unknown").json()["groups"])
        (group, *_) = client.get("/unknown").json()["groups"]
        moment = group["moments"][0]
        picture = client.get(f"/unknown/{moment['id']}/thumb.jpg")
        assert picture.headers["content-type"] == "image/jpeg"
        body = {"moments": [moment["id"]], "name": "stranger"}
        done = client.post("/unknown/name", json=body).json()
        assert (done["class"], len(done["shots"])) == ("stranger", 1)
        until(lambda: client.get("/cameras").json()["cameras"][0]["answer"]["label"] == "stranger")


def test_a_backup_is_restored_on_a_second_device_while_it_runs(
    run: Callable[..., Running], taught: Settings, settings: Settings, tmp_path: Any, playing: str
) -> None:
    with run(taught).client("owner") as client:
        kept = client.get("/backup").content
        digest = client.get("/classes").json()["digest"]
    second = run(settings, (playing,), state=tmp_path / "second")
    media = {"content-type": "application/octet-stream"}
    with second.client("owner") as client:
        done = client.post("/restore", content=kept, headers=media)
        assert done.json()["info"]["classes"] == 3
        assert done.json()["aside"] is None
        assert client.get("/classes").json()["digest"] == digest
        until(lambda: client.get("/cameras").json()["cameras"][0]["answer"]["label"] == "bolt")
        assert client.post("/restore", content=kept, headers=media).status_code == 409
        done = client.post("/restore?replace=true", content=kept, headers=media)
        assert done.json()["aside"].startswith("state.db")
        assert client.patch("/classes/bolt", json={"name": "screw"}).status_code == 200
        broken = client.post("/restore?replace=true", content=kept[:-9], headers=media)
        assert (broken.status_code, broken.json()["kind"]) == (400, "FormatError")
        assert client.get("/classes/screw").status_code == 200


def test_an_engine_that_cannot_be_built_is_a_job_that_says_why(
    run: Callable[..., Running], settings: Settings
) -> None:
    with run(settings).client("owner") as client:
        begun = client.post("/engine/build", json={})
        assert begun.status_code == 202
        where = begun.headers["location"].removeprefix("/api/v1")
        job = until(lambda: (j := client.get(where).json())["state"] != "running" and j)
        assert job["state"] == "failed"
        assert "tensorrt" in job["error"]["message"].lower()
        assert client.get("/jobs/none").status_code == 404


def test_a_full_disk_locks_nobody_out_and_makes_no_failure_of_what_was_done(
    run: Callable[..., Running], taught: Settings, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when somebody was last seen nor the kept answer is worth the request itself."""
    running = run(taught)

    def full(*_: Any) -> Any:
        raise StoreFull("no room left to write")

    with monkeypatch.context() as patch, running.client("operator") as client:
        patch.setattr(running.access._database, "atomic", full)
        patch.setattr("accrue.service.http.replies.Replies._keep", full)
        assert client.get("/device").status_code == 200
        form, headers = forms(photo, 1, 1), {"idempotency-key": "one"}
        done = client.post("/classes/bolt/teach", files=form, headers=headers)
        assert (done.status_code, len(done.json()["shots"])) == (200, 1)
