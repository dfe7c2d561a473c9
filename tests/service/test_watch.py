"""Watching: newest frames to answers over several frames, while classes are taught."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.cli.main import main
from accrue.service.box import Box
from accrue.service.settings import Settings
from accrue.service.watch import Sighting, Watch
from accrue.vision import FakeSource
from accrue.vision.live import Live

Photo = Callable[..., np.ndarray]
DEADLINE_S = 20.0


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=tiny_bundle, actor="tester", views=2)


@pytest.fixture
def box(settings: Settings) -> Iterator[Box]:
    with Box(settings) as opened:
        yield opened


def teach(box: Box, photo: Photo, kinds: dict[str, int], count: int = 6) -> None:
    for name, kind in kinds.items():
        images = [(f"{name}{i}", photo(100 * kind + i, kind=kind)) for i in range(count)]
        assert all(receipt.shot for receipt in box.teach(name, images))


class Hand(FakeSource):
    """A camera whose next frame somebody holds up."""

    def __init__(self) -> None:
        super().__init__([])
        self._held: list[np.ndarray] = []
        self._there = threading.Condition()

    def show(self, image: np.ndarray) -> None:
        with self._there:
            self._held.append(image)
            self._there.notify()

    def __next__(self) -> Any:
        with self._there:
            while not self._held:
                if self.closed:
                    raise StopIteration
                self._there.wait(0.05)
            return self._frame(self._held.pop(0), f"{self.name}#{self._index}")


@contextmanager
def watching(box: Box, *hands: Hand) -> Iterator[Watch]:
    waiting = iter(hands)
    with Watch(
        box,
        [f"hand{i}" for i in range(len(hands))],
        opened=lambda spec, arrived: Live(spec, arrived=arrived, opener=lambda _: next(waiting)),
    ) as watch:
        yield watch
        for hand in hands:
            hand.close()  # so that its thread need not be waited for


def look(watch: Watch, hand: Hand, image: np.ndarray) -> Sighting:
    hand.show(image)
    seen = watch.step(DEADLINE_S)
    assert seen is not None
    return seen


def test_a_few_frames_make_an_answer_and_an_unchanged_scene_is_not_encoded_for_ever(
    box: Box, photo: Photo
) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    hand = Hand()
    with watching(box, hand) as watch:
        image = photo(150, kind=1)
        seen = [look(watch, hand, image) for _ in range(12)]
    assert seen[0].answer.verdict == "not_ready"
    assert {s.answer.label for s in seen} == {"bolt"}
    assert [s.of for s in seen] == [*range(1, 9), 8, 8, 8, 8]
    assert ["encode" in s.stages_ms for s in seen] == [True] * 8 + [False] * 4
    assert [s.gate for s in seen] == ["new"] + ["unchanged"] * 11
    assert set(seen[0].stages_ms) == {"gate", "encode", "decide"}


def test_what_is_taught_meanwhile_is_answered_without_a_restart(
    box: Box, settings: Settings, photo: Photo
) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    hand = Hand()
    with watching(box, hand) as watch:
        image = photo(350, kind=3)
        assert look(watch, hand, image).answer.label != "gear"
        before = watch.knowledge.current
        with Box(settings) as other:
            teach(other, photo, {"gear": 3})
        deadline = threading.Event()
        for _ in range(int(DEADLINE_S / 0.05)):
            if watch.knowledge.current is not before and len(watch.knowledge.current.names) == 3:
                break
            deadline.wait(0.05)
        seen = look(watch, hand, image)
        assert (seen.answer.label, seen.of) == ("gear", 1)  # earlier votes were of other classes


def test_cameras_take_turns(box: Box, photo: Photo) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    hands = Hand(), Hand()
    with watching(box, *hands) as watch:
        for hand in hands:
            hand.show(photo(150, kind=1))
        first, second = watch.step(DEADLINE_S), watch.step(DEADLINE_S)
        assert first is not None
        assert second is not None
        assert len(watch.cameras) == 2
        assert watch.step(0.01) is None


def test_a_device_that_knows_nothing_watches_too(box: Box, photo: Photo) -> None:
    hand = Hand()
    with watching(box, hand) as watch:
        seen = look(watch, hand, photo(1))
    assert (seen.answer.label, seen.answer.verdict) == ("", "not_ready")


def test_the_command_tells_changed_answers_and_the_state_of_a_camera(
    box: Box, settings: Settings, photo_file: Any, capsys: Any, photo: Photo
) -> None:
    teach(box, photo, {"bolt": 1, "nut": 2})
    folder = photo_file("shown/a.png", 150, kind=1).parent
    words = [
        "--state", str(settings.state), "--bundle", str(settings.bundle),
        "watch", f"play:{folder}", "--seconds", "1.5", "--jsonl",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    out, err = capsys.readouterr()
    told = [json.loads(line) for line in out.splitlines()]
    assert [t["label"] for t in told] == ["bolt"] * len(told)
    assert told[0]["verdict"] == "not_ready"
    assert told[0].keys() == {
        "schema", "camera", "at", "gate", "label", "verdict", "score", "margin", "alternatives",
        "votes", "of", "stages_ms",
    }  # fmt: skip
    assert "is playing" in err
