"""A live camera: its newest frame, whatever happens to it; and what an encoder need not see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from accrue.errors import ImageError, NotFound, SourceError
from accrue.vision import FakeSource, open_source, sources
from accrue.vision.gate import BLURRED, NEW, UNCHANGED, Gate
from accrue.vision.live import ENDED, PLAYING, STALLED, WAITING, Live, Status
from accrue.vision.sources import PLAY_FPS, PlaySource

DEADLINE_S = 10.0


def picture(value: int) -> np.ndarray:
    return np.full((12, 16, 3), value, np.uint8)


class Gated(FakeSource):
    """Gives its next frame when it is let."""

    def __init__(self, images: list[Any]) -> None:
        super().__init__(images)
        self.may = threading.Semaphore(0)

    def __next__(self) -> Any:
        assert self.may.acquire(timeout=DEADLINE_S)
        return super().__next__()

    def close(self) -> None:
        super().close()
        self.may.release()


def until(live: Live, true: Callable[[Status], bool]) -> Status:
    with live.arrived:
        assert live.arrived.wait_for(lambda: true(live.status), DEADLINE_S), live.status
        return live.status


@pytest.fixture
def opened() -> Iterator[Callable[..., Live]]:
    made: list[Live] = []
    given: list[Any] = []

    def make(*sources: Any, **more: Any) -> Live:
        given.extend(sources)
        waiting = iter(sources)

        def opener(_: str) -> Any:
            source = next(waiting)
            if isinstance(source, Exception):
                raise source
            return source

        made.append(Live("fake", opener=opener, **more))
        return made[-1]

    yield make
    for source in given:
        if isinstance(source, Gated):
            source.close()
    for live in made:
        live.close()


def test_only_the_newest_frame_is_kept_and_given_once(opened: Callable[..., Live]) -> None:
    source = Gated([picture(value) for value in range(5)])
    live = opened(source)
    assert live.take() is None
    source.may.release(3)
    until(live, lambda s: s.frames == 3)
    frame = live.take()
    assert frame is not None
    assert frame.image[0, 0, 0] == 2
    assert live.take() is None
    assert live.status.dropped == 2


def test_a_camera_that_dies_is_opened_again_and_says_why_meanwhile(
    opened: Callable[..., Live],
) -> None:
    source = Gated([picture(1), SourceError("fake stopped giving frames")])
    again = Gated([picture(2)])
    live = opened(SourceError("fake cannot be opened"), source, again, draw=lambda: 0.0)
    status = until(live, lambda s: s.state == WAITING)
    assert status.reason == "fake cannot be opened"
    source.may.release(2)
    status = until(live, lambda s: s.state == WAITING and s.frames == 1)
    assert status.reason == "fake stopped giving frames"
    again.may.release()
    status = until(live, lambda s: s.state == PLAYING and s.frames == 2)
    assert (status.reason, status.opened) == ("", 2)


def test_waits_between_attempts_double_to_half_a_minute() -> None:
    waits: list[float] = []

    class Patient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            if len(waits) == 9:
                self.set()
            return self.is_set()

    def opener(_: str) -> Any:
        raise SourceError("no camera")

    live = Live.__new__(Live)
    live.spec, live.arrived, live._opener = "fake", threading.Condition(), opener
    live._clock, live._draw = lambda: 0.0, lambda: 1.0
    live._status, live._over = Status("fake", "opening", 0.0), Patient()
    live._run()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_file_that_is_over_is_not_a_failure(opened: Callable[..., Live]) -> None:
    live = opened(FakeSource([picture(1), ImageError("one bad photo"), picture(3)]))
    status = until(live, lambda s: s.state == ENDED)
    assert status.frames == 2
    frame = live.take()
    assert frame is not None
    assert frame.image[0, 0, 0] == 3


def test_a_camera_without_a_frame_for_three_seconds_is_stalled(
    opened: Callable[..., Live],
) -> None:
    now, clock = [100.0], [5000.0]
    source = Gated([picture(1), picture(2)])
    live = opened(source, clock=lambda: clock[0], ticks=lambda: now[0])
    source.may.release()
    until(live, lambda s: s.state == PLAYING)
    clock[0] += 3600  # set right: nothing has stalled
    assert live.status.state == PLAYING
    clock[0] -= 7200
    now[0] = 103.5
    assert (live.status.state, live.status.since) == (STALLED, clock[0] - 0.5)
    source.may.release()
    until(live, lambda s: s.frames == 2 and s.state == PLAYING)


def test_the_gate_lets_changes_through_and_holds_back_noise() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(60, 180, (270, 480, 3)).astype(np.int16)
    noisy = [np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255) for _ in range(20)]
    gate = Gate()
    judged = [gate.judge(image.astype(np.uint8)) for image in noisy]
    assert judged == [NEW] + [UNCHANGED] * 19
    object_there = noisy[0].copy()
    object_there[100:150, 200:260] = 250  # one of 192 cells and its neighbours
    assert gate.judge(object_there.astype(np.uint8)) == NEW
    assert gate.judge(noisy[1].astype(np.uint8)) == NEW
    assert Gate(change=0).judge(picture(1)) == NEW


def test_a_slow_change_is_seen_since_the_gate_compares_with_what_it_let_through() -> None:
    gate = Gate(change=6)
    judged = [gate.judge(picture(value)) for value in range(100, 130)]
    assert [i for i, one in enumerate(judged) if one == NEW] == [0, 6, 12, 18, 24]


def test_a_blurred_frame_is_left_out_and_not_what_the_next_is_compared_with() -> None:
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (64, 96, 3)).astype(np.uint8)
    smooth = np.repeat(np.linspace(0, 255, 96)[None, :, None], 64, 0).repeat(3, 2).astype(np.uint8)
    gate = Gate(blurred=0.6)
    assert [gate.judge(image) for image in (sharp, smooth, sharp)] == [NEW, BLURRED, UNCHANGED]


def test_frames_of_another_size_can_be_compared() -> None:
    gate = Gate()
    assert gate.judge(np.full((1080, 1920, 3), 90, np.uint8)) == NEW
    assert gate.judge(np.full((540, 960, 3), 91, np.uint8)) == UNCHANGED
    assert gate.judge(np.full((3, 5, 3), 200, np.uint8)) == NEW


def test_photos_play_as_a_camera_shows_them(photo_file: Callable[..., Any]) -> None:
    paths = [photo_file("a.png", 1), photo_file("b.png", 2)]
    now = [0.0]
    source = PlaySource(
        "play:x",
        paths,
        clock=lambda: now[0],
        ticks=lambda: now[0],
        sleep=lambda s: now.__setitem__(0, now[0] + s),
    )
    each = int(PLAY_FPS * sources.PLAY_HOLD_S)  # the console tests hurry them
    frames = [next(source) for _ in range(2 * each + 1)]
    assert np.array_equal(frames[0].image, frames[each - 1].image)
    assert not np.array_equal(frames[0].image, frames[each].image)
    assert np.array_equal(frames[0].image, frames[2 * each].image)
    assert frames[-1].at - frames[0].at == pytest.approx(2 * each / PLAY_FPS)
    source.close()
    assert list(source) == []


def test_nothing_to_play_is_named() -> None:
    with pytest.raises(NotFound, match="no file or folder nowhere"):
        open_source("play:nowhere")
