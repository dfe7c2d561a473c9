"""What is read over HTTP: the same as the box says, for those who may."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from http_cases import DEADLINE_S, KINDS, Running, jpeg, until
from PIL import Image

from accrue.service.box import Box
from accrue.service.settings import Settings


def test_the_device_tells_what_it_is_and_who_asks(
    run: Callable[..., Running], taught: Settings
) -> None:
    with run(taught).client("viewer") as client:
        about = client.get("/device").raise_for_status().json()
    assert (about["classes"], about["shots"], about["ready"]) == (3, 15, True)
    assert about["encoder"]["name"] == "tiny"
    assert about["me"]["role"] == "viewer"


def test_classes_shots_and_pictures_are_those_of_the_box(
    run: Callable[..., Running], taught: Settings
) -> None:
    with Box(taught) as box:
        digest = box.learned().state.digest()
    with run(taught).client("viewer") as client:
        found = client.get("/classes").json()
        assert [c["name"] for c in found["classes"]] == list(KINDS)
        assert found["digest"] == digest
        bolt = found["classes"][0]
        response = client.get(f"/classes/{bolt['id']}")
        assert response.headers["etag"] == bolt["etag"]
        detail = response.json()
        assert detail["about"] == bolt
        assert [shot["source"] for shot in detail["shots"]] == [f"bolt{i}.jpg" for i in range(5)]
        assert client.get("/classes/bolt").json() == detail
        unchanged = client.get("/classes/bolt", headers={"if-none-match": bolt["etag"]})
        assert unchanged.status_code == 304
        picture = client.get(f"/shots/{detail['shots'][0]['id']}/thumb.jpg")
        assert max(Image.open(io.BytesIO(picture.content)).size) == 64
        assert client.get("/shots/none/thumb.jpg").status_code == 404
        assert len(client.get("/history").json()["entries"]) == 3
        assert {c["name"] for c in client.get("/quality").json()["classes"]} == set(KINDS)
        assert client.get("/suspects").status_code == 200
        assert client.get("/unknown").json() == {"groups": []}
        assert client.get("/fleet").json() == {"fleet": None}
        assert client.get("/engine").json()["serves"] == "onnx-cpu"


def test_an_empty_device_answers_too(run: Callable[..., Running], settings: Settings) -> None:
    with run(settings).client("viewer") as client:
        for path in ("device", "classes", "quality", "suspects", "history", "unknown", "cameras"):
            assert client.get(f"/{path}").status_code == 200, path
        assert client.get("/classes/none").status_code == 404


def test_photos_are_answered_one_by_one_or_in_a_form(
    run: Callable[..., Running], taught: Settings, photo: Any
) -> None:
    picture = jpeg(photo(150, kind=1))
    with run(taught).client("viewer") as client:
        one = client.post("/predict", content=picture, headers={"content-type": "image/jpeg"})
        (found,) = one.json()["predictions"]
        assert found["label"] == "bolt"
        form = [("image", ("a.jpg", picture)), ("image", ("../b.jpg", b"no image"))]
        first, second = client.post("/predict", files=form).json()["predictions"]
        assert (first["label"], first["source"]) == ("bolt", "a.jpg")
        assert (second["label"], second["source"]) == (None, "b.jpg")
        assert second["error"]["kind"] == "ImageError"
        (reason, *_) = client.post("/why", files=form[:1]).json()["answers"][0]["reasons"]
        assert reason["label"] == "bolt"
        assert {near["shot"]["source"] for near in reason["shots"]} <= {
            f"bolt{i}.jpg" for i in range(5)
        }


@pytest.mark.parametrize(
    ("what", "status", "says"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 400, "text/plain"),
        ({"files": [("photo", ("a.jpg", b"x"))]}, 400, "'photo'"),
        ({"content": b"", "headers": {"content-type": "image/jpeg"}}, 400, "no image"),
    ],
)
def test_what_is_no_photo_is_refused_with_a_hint(
    run: Callable[..., Running], settings: Settings, what: dict[str, Any], status: int, says: str
) -> None:
    with run(settings).client("viewer") as client:
        response = client.post("/predict", **what)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status)
    assert says in problem["detail"]
    assert problem["hint"]


def test_a_camera_shows_its_state_its_answer_and_its_picture(
    run: Callable[..., Running], taught: Settings, playing: str
) -> None:
    running = run(taught, (playing,))
    with running.client("viewer") as client:

        def answered() -> Any:
            (camera,) = client.get("/cameras").json()["cameras"]
            return camera if camera["answer"] and camera["answer"]["verdict"] == "sure" else None

        camera = until(answered)
        assert (camera["n"], camera["state"], camera["answer"]["label"]) == (0, "playing", "bolt")
        response = client.get("/cameras/0/snapshot.jpg")
        assert Image.open(io.BytesIO(response.content)).size == (640, 480)
        assert client.get("/cameras/1/snapshot.jpg").status_code == 404
        with client.stream("GET", "/cameras/0/mjpeg") as stream:
            parts = b""
            for chunk in stream.iter_bytes():
                parts += chunk
                if parts.count(b"--accrue-frame") == 3:
                    break
        assert parts.startswith(b"--accrue-frame\r\nContent-Type: image/jpeg")
    until(lambda: running.app.state.hub.viewers == 0, DEADLINE_S)


def test_the_file_for_support_is_for_owners(run: Callable[..., Running], taught: Settings) -> None:
    running = run(taught, webhook="http://127.0.0.1:9/hooks/secret-path")
    with running.client("operator") as client:
        assert client.get("/support").status_code == 403
    with running.client("owner") as client:
        response = client.get("/support")
    assert response.headers["content-disposition"].endswith('-support.zip"')
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "python: " in parts["doctor.txt"]
    assert '"http://127.0.0.1:9/***"' in parts["settings.json"]
    assert not any("secret-path" in text for text in parts.values())


def test_a_backup_over_http_can_be_restored(
    run: Callable[..., Running], taught: Settings, tmp_path: Any
) -> None:
    running = run(taught)
    with running.client("owner") as client:
        response = client.get("/backup")
    assert response.headers["content-disposition"].endswith('.accrue"')
    (tmp_path / "b.accrue").write_bytes(response.content)
    other = Settings(state=tmp_path / "other", bundle=taught.bundle)
    with Box(other) as box:
        box.restore(tmp_path / "b.accrue")
        assert len(box.classes()) == 3
    until(lambda: not list(taught.state.glob(".backup-*")))
