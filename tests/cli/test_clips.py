"""Teaching from videos, cameras and bursts of photos, by the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.cli.main import main

PX = (320, 240)


class Call:
    def __init__(self, capsys: pytest.CaptureFixture[str], *words: object) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        self.code = left.value.code or 0
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def teach(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_bundle: Path,
) -> Callable[..., Call]:
    monkeypatch.setenv("ACCRUE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("ACCRUE_BUNDLE", str(tiny_bundle))
    monkeypatch.setenv("ACCRUE_VIEWS", "4")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    return lambda *words: Call(capsys, "class", "teach", "bolt", *words)


@pytest.fixture
def video(tmp_path: Path, photo: Callable[..., np.ndarray]) -> Path:
    """Half a second each of four sights, 30 frames a second."""
    cv2 = pytest.importorskip("cv2", reason='OpenCV is missing: pip install "accrue[camera]"')
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, PX)
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG")
    for seed in range(4):
        for _ in range(15):
            writer.write(np.ascontiguousarray(photo(seed, PX)[..., ::-1]))
    writer.release()
    return path


def test_a_video_is_one_shot_and_says_what_was_left_out(teach: Any, video: Path) -> None:
    call = teach(video, "--json", "--keep-all")
    assert call.code == 0
    said = json.loads(call.out)
    (clip,) = said["clips"]
    assert said["shots"] == [clip["shot"]]
    assert (clip["path"], clip["class"], clip["frames"]) == (str(video), "bolt", 20)  # 10 a second
    assert clip["kept"] + sum(clip["dropped"].values()) == 20
    assert clip["dropped"]["near-duplicate"] == 16
    assert f"{video}: kept {clip['kept']} of 20: 16 near-duplicates" in call.err
    assert call.err.count("\n") >= 1


def test_seconds_take_the_beginning_of_a_video(teach: Any, video: Path) -> None:
    call = teach(video, "--seconds", "0.45", "--jsonl")
    line = json.loads(call.out)
    assert (line["frames"], line["kept"], line["hint"]) == (5, 1, "turn")
    assert "next time: turn it, or show another side" in call.err


def test_a_camera_is_watched_for_so_many_seconds(teach: Any, photo_file: Any) -> None:
    folder = photo_file("shown/a.png", 3, PX).parent
    call = teach(f"play:{folder}", "--seconds", "0.6")
    assert call.code == 0
    assert f"watching play:{folder} for 0.6 s" in call.err
    assert "taught bolt: 1 shot" in call.out
    again = teach(f"play:{folder}", "--seconds", "0.3")
    assert "left out: near-duplicate of shot" in again.err
    assert "taught bolt: kept 0 of 1: 1 near-duplicate" in again.out


def test_photos_of_one_thing_are_one_shot(teach: Any, photo_file: Any) -> None:
    for i in range(4):
        photo_file(f"mine/{i}.png", 10 + i, PX)
    folder = photo_file("mine/4.png", 10, PX).parent  # repeats the first
    (folder / "5.png").write_text("no image")
    call = teach(folder, "--one-shot", "--json")
    said = json.loads(call.out)
    assert call.code == 1
    assert len(said["shots"]) == 1
    assert [one["path"] for one in said["refused"]] == [str(folder / "5.png")]
    clip = said["clips"][-1]
    assert (clip["kept"], clip["dropped"]) == (4, {"near-duplicate": 1})


def test_photos_and_a_video_go_together(teach: Any, video: Path, photo_file: Any) -> None:
    call = teach(photo_file("one.png", 90, PX), video, "--json")
    said = json.loads(call.out)
    assert len(said["shots"]) == 2
    assert len(said["clips"]) == 1


def test_a_camera_that_is_not_there_is_an_error_and_the_photos_are_taught(
    teach: Any, photo_file: Any
) -> None:
    call = teach(photo_file("one.png", 90, PX), "camera:99", "--json")
    said = json.loads(call.out)
    assert call.code == 1
    assert len(said["shots"]) == 1
    (refused,) = said["refused"]
    assert (refused["path"], refused["kind"]) == ("camera:99", "SourceError")


def test_seconds_without_a_camera_or_video_are_refused(teach: Any, photo_file: Any) -> None:
    call = teach(photo_file("one.png", 90), "--seconds", "3")
    assert call.code == 2
    assert "--seconds is for cameras and videos" in call.err
