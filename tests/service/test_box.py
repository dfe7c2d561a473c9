"""The box without a command line: arrays instead of files, cache, retention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accrue.errors import Conflict, NotFound
from accrue.learn import HEADS, Statistics, quantise
from accrue.learn.guard import compare
from accrue.service.box import Box
from accrue.service.guarded import measured
from accrue.service.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    # frames of one colour repeat one another, and are wanted here all the same
    return Settings(
        state=tmp_path / "state", bundle=tiny_bundle, actor="tester", duplicates=1.0, views=1
    )


@pytest.fixture
def box(settings: Settings) -> Iterator[Box]:
    with Box(settings) as opened:
        yield opened


def frames(seed: int, colour: tuple[int, int, int], count: int = 6) -> list[tuple[str, Any]]:
    rng = np.random.default_rng(seed)
    noise = rng.integers(-30, 30, (count, 60, 80, 3))
    images = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    return [(f"frame {i}", image) for i, image in enumerate(images)]


RED, GREEN, BLUE = (200, 40, 40), (40, 200, 40), (40, 40, 200)


def test_frames_can_be_taught_and_asked_without_a_file(box: Box) -> None:
    for name, colour in (("red", RED), ("green", GREEN)):
        receipts = list(box.teach(name, frames(1, colour)))
        assert [r.rows for r in receipts] == [1] * 6
    answers = list(box.predict(frames(2, GREEN, 2)))
    assert [a.label for a in answers] == ["green", "green"]


def test_a_receipt_is_given_only_for_a_shot_that_another_process_can_read(
    box: Box, settings: Settings
) -> None:
    for receipt in box.teach("red", frames(1, RED, 3)):
        with Box(settings) as other:
            assert receipt.shot in [shot.id for shot in other.show("red")[1]]


def test_an_abandoned_teach_keeps_what_was_acknowledged(box: Box) -> None:
    teaching = box.teach("red", frames(1, RED))
    first = next(teaching)
    teaching.close()
    assert [shot.id for shot in box.show("red")[1]] == [first.shot]


def test_the_learned_state_is_read_again_only_after_a_change(box: Box) -> None:
    list(box.teach("red", frames(1, RED)))
    once = box.learned()
    assert box.learned() is once
    list(box.teach("green", frames(1, GREEN)))
    assert len(box.learned().state) == 2


def test_a_change_by_another_process_is_seen(box: Box, settings: Settings) -> None:
    list(box.teach("red", frames(1, RED)))
    before = box.learned().state.digest()
    with Box(settings) as other:
        list(other.teach("green", frames(1, GREEN)))
    assert box.learned().state.digest() != before


def test_statistics_only_gives_the_digest_that_kept_rows_give(
    settings: Settings, tmp_path: Path
) -> None:
    digests = []
    for name, change in (
        ("rows", {}),
        ("statistics", {"retain": "statistics"}),
        ("budget", {"budget": 2}),
    ):
        with Box(replace(settings, state=tmp_path / name, **change)) as box:
            list(box.teach("red", frames(1, RED)))
            list(box.teach("green", frames(2, GREEN)))
            digests.append(box.learned().state.digest())
            kept = [row.rows for row in box.classes()]
            assert kept == {"rows": [6, 6], "statistics": [0, 0], "budget": [2, 2]}[name] or (
                name == "budget" and max(kept) <= 2
            )
    assert len(set(digests)) == 1


def test_a_class_removed_after_folding_is_still_removed_exactly(
    settings: Settings, tmp_path: Path
) -> None:
    with Box(replace(settings, retain="statistics")) as box:
        list(box.teach("red", frames(1, RED)))
        never_green = box.learned().state.digest()
        list(box.teach("green", frames(2, GREEN)))
        box.remove("green")
        assert box.learned().state.digest() == never_green


def test_the_state_holds_the_sum_of_the_kept_rows(box: Box) -> None:
    list(box.teach("red", frames(1, RED)))
    store = box.reading()
    assert store is not None
    (found,) = store.rows_by_class()
    assert box.learned().state.statistics(found.id) == Statistics.of(found.rows)


def test_unknown_is_answered_for_what_looks_like_nothing_taught(box: Box) -> None:
    for seed, (name, colour) in enumerate((("red", RED), ("green", GREEN))):
        list(box.teach(name, frames(seed, colour, 12)))
    known = [a.verdict for a in box.predict(frames(9, RED, 12))]
    strange = [a.verdict for a in box.predict(frames(9, BLUE, 12))]
    assert known.count("unknown") <= 3
    assert strange.count("unknown") >= 9


def test_nothing_taught_is_said_with_what_to_type(box: Box) -> None:
    with pytest.raises(NotFound, match=r"nothing has been taught .* accrue class teach"):
        box.rename("red", "blue")
    assert box.classes() == []
    assert box.history() == []


def test_restoring_over_classes_needs_to_be_meant(box: Box, tmp_path: Path) -> None:
    list(box.teach("red", frames(1, RED)))
    box.backup(tmp_path / "b")
    with pytest.raises(Conflict, match="already holds 1 classes"):
        box.restore(tmp_path / "b")
    done = box.restore(tmp_path / "b", replace=True)
    assert done.aside is not None
    assert done.aside.exists()
    assert [row.name for row in box.classes()] == ["red"]


def test_listing_tells_the_retention_that_is_set(settings: Settings) -> None:
    with Box(replace(settings, retain="statistics")) as box:
        list(box.teach("red", frames(1, RED)))
    with Box(replace(settings, retain="statistics")) as box:
        assert [row.retain for row in box.classes()] == ["statistics"]


def test_the_byte_budget_of_the_settings_is_kept_to(settings: Settings) -> None:
    """Thumbnails and then shots go, and what is answered is what is left."""
    with Box(replace(settings, views=1, thumbnails=64, memory=2 * 64 * 8)) as box:
        list(box.teach("red", frames(1, RED, 12)))
        list(box.teach("green", frames(2, GREEN, 3)))
        store = box.reading()
        assert store is not None
        assert store.held().total <= 2 * 64 * 8
        rows = {row.name: row.rows for row in box.classes()}
        assert rows["green"] == 3
        assert rows["red"] == 5
        assert box.learned().state.count(box.classes()[0].id) == 5


def test_a_photo_that_was_left_out_gets_a_receipt_that_says_why(settings: Settings) -> None:
    """No shot, no error, the reason, and the shot that it repeats."""
    with Box(replace(settings, duplicates=0.97)) as box:
        (frame,) = frames(1, RED, 1)
        first, again = box.teach("red", [frame, frame])
        assert (again.shot, again.error) == ("", None)
        assert again.skipped is not None
        assert (again.skipped.reason, again.skipped.of) == ("near-duplicate", first.shot)
        assert [shot.id for shot in box.show("red")[1]] == [first.shot]


def test_a_shot_is_its_views_and_a_query_the_mean_of_some(settings: Settings) -> None:
    """Ten views are kept of each photo, the first that of the photo as it is."""
    with Box(replace(settings, views=10, predict_views=3)) as box:
        red = frames(1, RED, 2)
        assert [r.rows for r in box.teach("red", red)] == [10, 10]
        learned = box.learned()
        rows = [views for _, views in box.embed(red, 10)]
        plain = [views for _, views in box.embed(red)]
        for (_, kept), views, alone in zip(learned.shots, rows, plain, strict=True):
            np.testing.assert_array_equal(kept, quantise(views))
            np.testing.assert_array_equal(alone[0], views[0])
        list(box.teach("green", frames(1, GREEN, 3)))
        learned = box.learned()
        asked = frames(5, GREEN, 1)
        (answer,) = box.predict(asked)
        ((_, views),) = box.embed(asked, 3)
        expected = learned.decide(views.mean(axis=0)[None])[0]
        assert (answer.label, answer.margin) == ("green", pytest.approx(expected.margin))


def test_without_mirroring_no_view_is_mirrored(settings: Settings) -> None:
    """With `mirror: no` there are eight views, and none of a mirrored photo."""
    with Box(replace(settings, views=16, mirror=False)) as box:
        assert [r.rows for r in box.teach("red", frames(1, RED, 1))] == [8]


def test_a_class_by_name_alone_is_answered(box: Box) -> None:
    """A text vector competes with the classes that have shots."""
    for name, colour in (("red", RED), ("green", GREEN)):
        list(box.teach(name, frames(1, colour)))
    learned = box.learned()
    here = {c: learned.state.sum(c) / np.linalg.norm(learned.state.sum(c)) for c in learned.names}
    blue = np.mean([views[0] for _, views in box.embed(frames(1, BLUE))], axis=0)
    by_name = replace(learned, texts={**here, "blue's id": blue})
    ((_, views),) = box.embed(frames(7, BLUE, 1))
    assert by_name.decide(views)[0].class_id == "blue's id"
    ((_, views),) = box.embed(frames(7, RED, 1))
    assert learned.names[by_name.decide(views)[0].class_id] == "red"


def test_the_guard_sees_a_class_by_name_that_is_answered_no_more(box: Box) -> None:
    """Of two classes by name with one text one is lost, and a change that does so is held back."""
    for name, colour in (("red", RED), ("green", GREEN)):
        list(box.teach(name, frames(1, colour)))
    learned = box.learned()
    blue = np.mean([views[0] for _, views in box.embed(frames(1, BLUE))], axis=0)
    assert math.isnan(measured(learned).zero_shot)
    texts = {"blue": blue, "azure": np.roll(blue, 1), "grey": np.roll(blue, 2)}
    apart = measured(replace(learned, texts=texts))
    alike = measured(replace(learned, texts={**texts, "azure": blue}))
    assert apart.zero_shot == 1.0
    assert alike.zero_shot < 1.0
    assert not compare(apart, alike).passed


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_can_be_set(settings: Settings, head: str) -> None:
    """The setting serves the head of that name."""
    with Box(replace(settings, head=head)) as box:
        for name, colour in (("red", RED), ("green", GREEN)):
            list(box.teach(name, frames(1, colour)))
        assert box.learned().choice.head.name == head
        assert [a.label for a in box.predict(frames(2, GREEN, 2))] == ["green", "green"]
