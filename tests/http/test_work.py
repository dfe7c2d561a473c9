"""What takes long over HTTP: clips, evaluation, engines; and how classes are kept and left out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_cases import KINDS, Running, jpeg, until

from accrue.service.http import work
from accrue.service.settings import Settings

Photo = Callable[..., Any]


def film(path: Path, photo: Photo, kind: int, frames: int = 24) -> bytes:
    """A video of one thing that turns a little from frame to frame."""
    cv2 = pytest.importorskip("cv2", reason="videos need OpenCV: pip install 'accrue[camera]'")
    coder = cv2.VideoWriter_fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), coder, 10.0, (320, 240))
    assert writer.isOpened()
    for n in range(frames):
        image = photo(100 * kind + 50 + n // 6, kind=kind, size=(320, 240))
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return path.read_bytes()


def ended(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    return until(  # type: ignore[no-any-return]
        lambda: (now := client.get(f"/jobs/{job['id']}").json())["state"] != "running" and now
    )


def leftovers(settings: Settings) -> list[str]:
    return [path.name for path in settings.state.iterdir() if path.name.startswith(".")]


# ---- clips --------------------------------------------------------------------------------------


def test_a_video_is_taught_as_one_shot_that_can_be_undone(
    run: Callable[..., Running], taught: Settings, photo: Photo, tmp_path: Path
) -> None:
    content = film(tmp_path / "wheel.mp4", photo, 7)
    with run(taught).client("operator") as client:
        headers = {"content-type": "video/mp4", "idempotency-key": "one"}
        path = "/classes/cog wheel/clip?source=C:\\films\\wheel.mp4"
        begun = client.post(path, content=content, headers=headers)
        assert begun.status_code == 202
        assert begun.headers["location"] == f"/api/v1/jobs/{begun.json()['id']}"
        job = ended(client, begun.json())
        assert (job["state"], job["name"], job["actor"]) == ("done", "teach clip", "a operator")
        told = job["result"]
        assert told["class"] == "cog wheel"
        assert 1 <= told["kept"] <= told["frames"]
        (shot,) = client.get("/classes/cog wheel/shots").json()["shots"]
        assert (shot["id"], shot["source"], shot["actor"]) == (
            told["shot"], "wheel.mp4", "a operator",
        )  # fmt: skip
        assert told["quality"]["name"] == "cog wheel"
        again = client.post(path, content=content, headers=headers)
        assert again.headers["idempotent-replayed"] == "true"
        other = client.post(path, content=content + b"x", headers=headers)
        assert other.status_code == 409
        assert client.post("/undo", json={"entry": told["entry"]["seq"]}).status_code == 200
        assert client.get("/classes/cog wheel").status_code == 404
    assert leftovers(taught) == []


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile state.db\n",
        b"\xff\xd8\xff\xe0 a photo",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"x",
    ],
)
def test_what_is_no_film_is_refused_at_once_and_nothing_of_it_stays(
    run: Callable[..., Running], taught: Settings, content: bytes
) -> None:
    with run(taught).client("operator") as client:
        refused = client.post("/classes/bolt/clip?source=x.mp4", content=content)
        assert (refused.status_code, refused.json()["kind"]) == (400, "ImageError")
        assert "x.mp4 is no video" in refused.json()["detail"]
        assert client.post("/classes/bolt/clip", content=b"").status_code == 400
    assert leftovers(taught) == []


def test_a_film_that_is_broken_fails_the_job_by_the_name_it_was_sent_under(
    run: Callable[..., Running], taught: Settings
) -> None:
    pytest.importorskip("cv2", reason="videos need OpenCV: pip install 'accrue[camera]'")
    content = b"\0\0\0\x18ftypisom" + bytes(range(256)) * 8
    with run(taught).client("operator") as client:
        job = ended(client, client.post("/classes/bolt/clip?source=a.mp4", content=content).json())
        assert (job["state"], job["error"]["kind"]) == ("failed", "SourceError")
        assert job["error"]["message"].startswith("a.mp4")
        assert str(taught.state) not in json.dumps(job)
    assert leftovers(taught) == []


def test_of_a_film_that_was_cut_short_what_can_be_seen_is_taught(
    run: Callable[..., Running], taught: Settings, photo: Photo, tmp_path: Path
) -> None:
    cv2 = pytest.importorskip("cv2", reason="videos need OpenCV: pip install 'accrue[camera]'")
    path = tmp_path / "wheel.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (320, 240))
    for n in range(20):
        writer.write(photo(700 + n // 5, kind=7, size=(320, 240)))
    writer.release()
    with run(taught).client("operator") as client:
        sent = client.post(
            "/classes/wheel/clip", content=path.read_bytes()[: -path.stat().st_size // 3]
        )
        job = ended(client, sent.json())
        assert (job["state"], bool(job["result"]["shot"])) == ("done", True)


def test_what_a_kill_left_of_an_upload_is_gone_after_the_next_start(
    run: Callable[..., Running], taught: Settings
) -> None:
    (taught.state / ".clip-abc").mkdir()
    (taught.state / ".clip-abc" / "clip.mp4").write_bytes(b"x")
    (taught.state / ".restore-abc").write_bytes(b"x")
    run(taught)
    assert leftovers(taught) == []


# ---- evaluation ---------------------------------------------------------------------------------


def test_photos_sorted_into_folders_say_how_good_it_is_and_teach_nothing(
    run: Callable[..., Running], taught: Settings, photo: Photo
) -> None:
    form = [
        ("image", (f"photos/{name}/{i}.jpg", jpeg(photo(100 * kind + i, kind=kind))))
        for name, kind in {**KINDS, "stranger": 9}.items()
        for i in range(60, 63)
    ]
    form.append(("image", ("photos/bolt/broken.jpg", b"no photo")))
    running = run(taught)
    with running.client("operator") as client:
        before = client.get("/classes").json()["digest"]
        job = ended(client, client.post("/evaluate", files=form).json())
        told = job["result"]
        assert (job["state"], told["photos"], told["never_taught"]) == ("done", 9, 3)
        assert told["accuracy"] > 0.8
        assert set(told["per_class"]) == set(KINDS)
        (refused,) = told["refused"]
        assert refused["path"] == "bolt/broken.jpg"
        assert str(taught.state) not in json.dumps(job)
        assert client.get("/classes").json()["digest"] == before
    assert leftovers(taught) == []


def test_photos_without_a_folder_or_of_no_class_are_told(
    run: Callable[..., Running], taught: Settings, photo: Photo
) -> None:
    one = jpeg(photo(1, kind=1))
    with run(taught).client("operator") as client:
        for name in ("bolt.jpg", "../x.jpg", ".hidden/x.jpg", "./x.jpg"):
            refused = client.post("/evaluate", files=[("image", (name, one))])
            assert (refused.status_code, refused.json()["kind"]) == (400, "UsageError"), name
        job = ended(
            client, client.post("/evaluate", files=[("image", ("wrench/1.jpg", one))]).json()
        )
        assert (job["state"], job["error"]["kind"]) == ("failed", "NotFound")
        assert job["error"]["message"].startswith("no folder in these photos bears the name")
    assert leftovers(taught) == []


# ---- classes ------------------------------------------------------------------------------------


def test_a_class_is_left_out_and_taken_back_in(
    run: Callable[..., Running], taught: Settings, photo: Photo
) -> None:
    form = [("image", ("1.jpg", jpeg(photo(170, kind=1))))]
    with run(taught).client("operator") as client:
        seen = client.get("/classes/bolt")
        headers = {"if-match": seen.headers["etag"]}
        digest = client.get("/classes").json()["digest"]
        done = client.post("/classes/bolt/disable", headers=headers).json()
        assert (done["entry"]["verb"], done["about"]["disabled"]) == ("disable", True)
        assert client.post("/classes/bolt/enable", headers=headers).status_code == 412
        (answer,) = client.post("/predict", files=form).json()["predictions"]
        assert answer["label"] != "bolt"
        assert "bolt" not in [one["label"] for one in answer["alternatives"]]
        assert "bolt" not in [one["name"] for one in client.get("/quality").json()["classes"]]
        assert client.get("/classes").json()["digest"] == digest
        assert client.post("/classes/bolt/disable").status_code == 409
        back = client.post(f"/classes/{seen.json()['about']['id']}/enable").json()
        assert back["about"]["disabled"] is False
        (answer,) = client.post("/predict", files=form).json()["predictions"]
        assert answer["label"] == "bolt"


def test_how_a_class_keeps_its_rows_is_for_an_owner_because_it_has_no_way_back(
    run: Callable[..., Running], taught: Settings
) -> None:
    running = run(taught)
    with running.client("operator") as client:
        assert client.post("/classes/bolt/retention", json={"budget": 4}).status_code == 403
    with running.client("owner") as client:
        assert client.post("/classes/bolt/retention", json={}).status_code == 400
        assert client.post("/classes/bolt/retention", json={"budget": -1}).status_code == 400
        digest = client.get("/classes/bolt").json()["about"]["digest"]
        done = client.post("/classes/bolt/retention", json={"retain": "statistics"}).json()
        assert (done["about"]["retain"], done["about"]["kept_rows"]) == ("statistics", 0)
        assert done["about"]["digest"] == digest


# ---- engines, settings --------------------------------------------------------------------------


def test_engines_are_verified_and_cleaned_and_what_is_missing_is_said(
    run: Callable[..., Running], taught: Settings
) -> None:
    left = taught.engines_folder / "left.plan"
    running = run(taught)
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"of a killed build")
    with running.client("operator") as client:
        assert client.post("/engine/verify").status_code == 403
        assert client.post("/engine/clean").status_code == 403
        assert client.get("/config").status_code == 403
    with running.client("owner") as client:
        begun = client.post("/engine/verify")
        assert begun.status_code == 202
        job = ended(client, begun.json())
        assert (job["name"], job["error"]["kind"]) == ("engine verify", "NotFound")
        assert client.post("/engine/clean").json()["removed"] == ["left.plan"]
        assert client.post("/engine/clean", json={"everything": True}).json() == {"removed": []}
        assert not left.exists()


def test_every_setting_is_told_with_its_origin_and_without_secrets(
    run: Callable[..., Running], taught: Settings
) -> None:
    secret = replace(
        taught,
        webhook="https://hooks.example/T0/secret?token=1",
        cameras=("rtsp://op:geheim@10.0.0.2/1",),
    )
    running = run(secret)
    running.device.origins = {"webhook": "environment ACCRUE_WEBHOOK", "views": "default"}
    with running.client("owner") as client:
        told = {one["name"]: one for one in client.get("/config").json()["settings"]}
    assert list(told) == list(vars(Settings()))
    assert told["webhook"]["value"] == "https://hooks.example/…"
    assert told["webhook"]["origin"] == "environment ACCRUE_WEBHOOK"
    assert told["cameras"]["value"] == ["rtsp://op:***@10.0.0.2/1"]
    assert told["views"]["value"] == 2
    assert all(one["meaning"] for one in told.values())
    assert "geheim" not in json.dumps(told)
    assert "secret" not in json.dumps(told)


def test_one_film_at_a_time(
    run: Callable[..., Running], taught: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_taught", lambda *_: time.sleep(1.0) or {})
    content = b"\0\0\0\x18ftypisom" + bytes(64)
    with run(taught).client("operator") as client:
        first = client.post("/classes/bolt/clip", content=content)
        second = client.post("/classes/nut/clip", content=content)
        assert (first.status_code, second.status_code) == (202, 409)
        assert ended(client, first.json())["state"] == "done"
    assert leftovers(taught) == []
