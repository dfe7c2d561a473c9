"""Bursts and clips: many frames, one shot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from accrue.errors import NotFound, Refused
from accrue.service.box import Box
from accrue.service.burst import (
    BACKGROUND,
    CLOSER,
    GLARE,
    LIGHT,
    STEADY,
    TURN,
    Note,
    _hint,
    pooled,
    told,
)
from accrue.service.settings import Settings

Photo = Callable[..., np.ndarray]
PX = (320, 240)


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=tiny_bundle, actor="tester", views=4)


@pytest.fixture
def box(settings: Settings) -> Iterator[Box]:
    with Box(settings) as opened:
        yield opened


def textured(seed: int) -> np.ndarray:
    """A picture with sharp edges everywhere: uint8 (240, 320, 3)."""
    tiles = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return tiles.repeat(20, axis=0).repeat(20, axis=1)


def softened(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(10)))


def test_a_burst_is_one_shot_and_one_entry_that_can_be_undone(box: Box, photo: Photo) -> None:
    burst = box.burst()
    for i in range(6):
        burst.feed(photo(100 + i, PX, kind=1))
    burst.stop()
    receipt = box.teach_burst("bolt", burst, source="camera:0")
    assert (receipt.rows, receipt.class_name, receipt.source) == (4, "bolt", "camera:0")
    row, shots = box.show("bolt")
    assert (row.shots, [shot.id for shot in shots]) == (1, [receipt.shot])
    assert len(box.history()) == 1
    box.undo()
    assert box.classes() == []


def test_an_image_is_a_clip_of_one_frame(box: Box, settings: Settings, photo_file: Any) -> None:
    path = photo_file("one.png", 7)
    burst = box.burst()
    assert burst.clip(path) == 1
    assert box.teach_burst("bolt", burst).shot
    with Box(replace(settings, state=settings.state.with_name("other"))) as other:
        list(other.teach("bolt", [("one.png", path)]))
        assert other.learned().state.digest() == box.learned().state.digest()


def test_each_frame_that_is_left_out_has_its_reason_and_its_picture(box: Box, photo: Photo) -> None:
    burst = box.burst()
    sharp = textured(1)
    for at, image in enumerate((sharp, sharp, softened(sharp), sharp // 30, photo(2, PX))):
        burst.feed(image, float(at))
    assert [(note.n, note.at, note.kept, note.reason) for note in burst.notes] == [
        (0, 0.0, True, ""),
        (1, 1.0, False, "near-duplicate"),
        (2, 2.0, False, "blurred"),
        (3, 3.0, False, "too dark"),
        (4, 4.0, True, ""),
    ]
    assert burst.kept == 2
    assert burst.dropped == {"near-duplicate": 1, "blurred": 1, "too dark": 1}
    assert told(5, burst.dropped) == "kept 2 of 5: 1 near-duplicate, 1 blurred, 1 too dark"
    for note in burst.notes:
        assert max(Image.open(BytesIO(burst.thumb(note.n))).size) == 160
    with pytest.raises(NotFound, match="no picture"):
        burst.thumb(5)


def test_a_frame_of_something_else_is_left_out_when_it_stops_and_may_be_kept_all_the_same(
    box: Box, photo: Photo
) -> None:
    burst = box.burst()
    big = photo(100, (640, 480), kind=1)
    for i in range(6):
        x = 12 * i
        burst.feed(big[x : x + 400, x : x + 560])
        if i == 2:
            burst.feed(photo(900, PX, kind=9))
    assert burst.notes[3].kept
    burst.stop()
    assert [note.n for note in burst.notes if note.reason == "off-object"] == [3]
    assert 3 in burst.choosable
    assert len(burst.rows([3])) == 4
    burst.feed(photo(901, PX, kind=9))  # went on after a look at it
    burst.stop()
    assert not burst.notes[3].kept


def test_the_operator_chooses_among_what_is_held(box: Box, photo: Photo) -> None:
    burst = box.burst()
    for seed in (1, 1, 2):
        burst.feed(photo(seed, PX))
    burst.stop()
    alone = box.burst()
    alone.feed(photo(2, PX))
    np.testing.assert_array_equal(burst.rows([2]), alone.rows())
    with pytest.raises(NotFound, match="frame 1 is not held") as refused:
        burst.rows([0, 1])
    assert refused.value.hint == "choose among 0, 2"
    with pytest.raises(Refused, match="nothing to teach"):
        burst.rows([])


def test_a_burst_without_a_usable_frame_teaches_nothing_and_says_why(
    box: Box, photo: Photo
) -> None:
    burst = box.burst()
    for _ in range(3):
        burst.feed(softened(textured(1)))
    burst.stop()
    with pytest.raises(Refused) as refused:
        box.teach_burst("bolt", burst)
    assert refused.value.message == "nothing to teach: kept 0 of 3: 3 blurred"
    assert refused.value.hint == "hold it still for a moment"
    assert box.classes() == []


def test_the_same_burst_again_repeats_its_shot(box: Box, photo: Photo) -> None:
    for expected in (True, False):
        burst = box.burst()
        for seed in (1, 2, 3):
            burst.feed(photo(seed, PX))
        receipt = box.teach_burst("bolt", burst)
        assert bool(receipt.shot) is expected
    assert receipt.skipped is not None
    assert receipt.skipped.reason == "near-duplicate"


def test_a_thumbnail_of_the_shot_is_kept_where_that_is_set(
    settings: Settings, photo: Photo
) -> None:
    with Box(replace(settings, thumbnails=80)) as box:
        burst = box.burst()
        burst.feed(photo(1, PX))
        receipt = box.teach_burst("bolt", burst)
        store = box.reading()
        assert store is not None
        thumb = store.thumb(receipt.shot)
        assert thumb is not None
        assert max(Image.open(BytesIO(thumb)).size) == 80


def test_what_is_held_is_bounded(box: Box, photo: Photo) -> None:
    burst = box.burst()
    for seed in range(60):
        burst.feed(photo(seed, PX))
    assert len(burst.choosable) <= 24
    assert burst.kept == len(burst.choosable)
    assert len(burst.notes) == 60
    burst.thumb(0)


def test_a_closed_burst_keeps_its_notes_and_pictures_and_lets_go_of_the_rest(
    box: Box, photo: Photo
) -> None:
    burst = box.burst()
    burst.feed(photo(1, PX))
    burst.close()
    assert burst.kept == 1
    assert burst.thumb(0)
    assert burst.choosable == []
    with pytest.raises(NotFound):
        burst.rows()


# ---- which rows ---------------------------------------------------------------------------------


def test_one_frame_gives_all_its_views_in_their_order() -> None:
    assert pooled(np.eye(1, dtype=np.float32), 4) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_the_first_two_rows_are_of_the_most_central_frame_as_a_query_would_be() -> None:
    rows = np.array([[1, 0], [0.7, 0.7], [0, 1]], np.float32)
    plan = pooled(rows, 6)
    assert plan[:2] == [(1, 0), (1, 1)]
    assert len(set(plan)) == 6
    assert {frame for frame, _ in plan} == {0, 1, 2}


def test_no_more_rows_than_views_however_many_frames() -> None:
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
    assert len(pooled(rows, 10)) == 10
    assert len(pooled(rows, 1)) == 1


# ---- what to do next ----------------------------------------------------------------------------


def notes(reason: str, n: int = 10) -> list[Note]:
    return [Note(i, 0.0, reason == "", reason) for i in range(n)]


def sights(frames: int, centre: float, border: float) -> np.ndarray:
    """Grey levels of the cells of keyframes that change by so much within and without."""
    cells = np.full((frames, 12, 16), 100.0, np.float32)
    step = np.arange(frames, dtype=np.float32)[:, None, None]
    cells += border * step
    cells[:, 2:-2, 2:-2] = 100 + centre * step
    return cells


DIFFERENT = np.eye(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("reason", "hint"), [("too dark", LIGHT), ("too bright", GLARE), ("blurred", STEADY)]
)
def test_what_spoils_most_frames_is_said_first(reason: str, hint: str) -> None:
    assert _hint(notes(reason), 6, sights(6, 20, 20), DIFFERENT) == hint


def test_one_side_alone_wants_turning() -> None:
    assert _hint(notes(""), 1, sights(1, 0, 0), DIFFERENT[:1]) == TURN
    alike = np.tile(DIFFERENT[:1], (6, 1))
    assert _hint(notes(""), 6, sights(6, 20, 20), alike) == TURN


def test_a_change_in_a_small_part_of_the_picture_wants_going_closer() -> None:
    cells = np.full((6, 12, 16), 100.0, np.float32)
    cells[::2, 5:8, 6:10] = 160
    assert _hint(notes(""), 6, cells, DIFFERENT) == CLOSER


def test_a_background_that_never_changes_wants_another() -> None:
    assert _hint(notes(""), 6, sights(6, 20, 0), DIFFERENT) == BACKGROUND


def test_different_frames_with_different_backgrounds_want_nothing_more() -> None:
    assert _hint(notes(""), 6, sights(6, 20, 20), DIFFERENT) == ""
    assert _hint([], 0, sights(1, 0, 0)[:0], DIFFERENT[:0]) == ""
