"""What answers follows what is taught: exactly, at once, and with the best head a little later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accrue.learn import quantise
from accrue.service import knowledge as knowledge_module
from accrue.service.box import Box, Learned
from accrue.service.knowledge import Knowledge, same
from accrue.service.settings import Settings

DEADLINE_S = 60.0


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=tiny_bundle, actor="tester", guard=1.0)


@pytest.fixture
def box(settings: Settings) -> Iterator[Box]:
    with Box(settings) as opened:
        yield opened


def taught(box: Box, name: str, seed: int, shots: int = 1) -> list[str]:
    """Shots of two rows, near to the mean that a name stands for."""
    store = box.store(create=True)
    mean = np.random.default_rng([1, *name.encode()]).normal(size=store.dim)
    teaching = store.begin_teach(name, actor="tester")
    ids = []
    for n in range(shots):
        noise = np.random.default_rng([2, seed, n]).normal(size=(2, store.dim))
        rows = mean + 0.3 * noise
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        ids.append(store.add_shot(teaching, quantise(rows.astype(np.float32)), source="made up"))
    return ids


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_following_the_changes_gives_the_sums_that_reading_everything_gives(
    box: Box, settings: Settings
) -> None:
    bolts = taught(box, "bolt", 1, 3)
    taught(box, "nut", 2, 2)
    changes: list[Callable[[], object]] = [
        lambda: taught(box, "bolt", 3),
        lambda: taught(box, "gear", 4, 2),
        lambda: box.rename("nut", "hex nut"),
        lambda: box.relabel(bolts[:1], "gear"),
        lambda: box.merge("hex nut", "gear"),
        box.undo,
        lambda: box.remove("bolt"),
        box.undo,
        lambda: box.retention("gear", "statistics", None),
        lambda: taught(box, "gear", 5),
        lambda: box.purge("bolt"),
        lambda: box.remove("gear"),
    ]
    box.learned()
    for change in changes:
        change()
        followed = box.learned()
        with Box(settings) as other:
            fresh = other.learned()
        assert followed.state.digest() == fresh.state.digest()
        assert followed.shot_ids == fresh.shot_ids
        np.testing.assert_array_equal(followed.state.total, fresh.state.total)
        assert followed.state.n == fresh.state.n


def test_what_was_read_before_stays_as_it_was(box: Box) -> None:
    taught(box, "bolt", 1)
    before = box.learned()
    digest = before.state.digest()
    taught(box, "bolt", 2)
    assert box.learned().state.digest() != digest
    assert before.state.digest() == digest


def filled(box: Box, classes: int = 6, shots: int = 4) -> None:
    for k in range(classes):
        taught(box, f"class {k}", k, shots)


def test_a_new_shot_is_answered_by_the_head_of_before_and_the_best_one_follows(
    box: Box, settings: Settings
) -> None:
    filled(box)
    knowledge = Knowledge(settings, poll_s=0.01)
    try:
        first = knowledge.current
        assert first.earlier is None
        (shot,) = taught(box, "new", 9)
        until(lambda: shot in knowledge.current.shot_ids)
        until(lambda: knowledge.current.earlier is None)
        best = knowledge.current
        fresh = box.learned()
        query = np.random.default_rng(3).normal(size=(4, fresh.state.dim))
        np.testing.assert_array_equal(best.choice.served.scores(query),
                                      fresh.choice.served.scores(query))  # fmt: skip
        assert len(best.calibration._known) == len(fresh.calibration._known)
    finally:
        knowledge.close()


def test_the_head_of_before_is_solved_exactly_for_what_is_known_now(box: Box) -> None:
    filled(box)
    before = box.learned()
    taught(box, "new", 9)
    now = box.learned()
    quick = now.answered_by(before.choice)
    assert quick.choice.served.ids == before.choice.head.solve(now.state).ids
    assert quick.choice.left_out is before.choice.left_out
    assert quick.calibration.ready
    row = now.shots[-1][1].astype(np.float32).mean(axis=0)
    (decision,) = quick.decide((row / np.linalg.norm(row))[None])
    assert now.names[decision.class_id] == "new"


def test_a_box_beside_it_answers_at_once_by_what_it_knows(box: Box, settings: Settings) -> None:
    filled(box)
    knowledge = Knowledge(settings, poll_s=60)
    try:
        with Box(settings) as reader:
            reader.sharing = knowledge.share
            assert reader.learned() is knowledge.current
            (shot,) = taught(box, "new", 9)
            quick = reader.learned()
            assert shot in quick.shot_ids
            assert quick.earlier is not None
    finally:
        knowledge.close()


def test_nothing_is_worked_out_in_a_thread_where_too_little_is_known_to_take_long(
    box: Box, settings: Settings
) -> None:
    knowledge = Knowledge(settings, poll_s=0.01)
    try:
        assert knowledge.current.shots == []
        (shot,) = taught(box, "bolt", 1)
        until(lambda: shot in knowledge.current.shot_ids)
        assert knowledge.current.earlier is None
    finally:
        knowledge.close()


def test_a_big_state_is_answered_by_the_usual_head_until_one_is_chosen(
    box: Box, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge_module, "MANY_SHOTS", 10)
    filled(box, 8, 5)
    knowledge = Knowledge(settings, poll_s=0.01)
    try:
        seen: list[Learned] = [knowledge.current]
        assert seen[0].calibration.ready
        assert seen[0].choice.reason == "for the start"
        until(lambda: knowledge.current.earlier is None)
        assert knowledge.current.choice.reason != "for the start"
    finally:
        knowledge.close()


def test_another_head_is_no_other_evidence_but_another_shot_or_name_is(box: Box) -> None:
    filled(box, 2, 2)
    before = box.learned()
    assert same(before, replace(before))
    box.rename("class 0", "bolt")
    renamed = box.learned()
    assert not same(before, renamed)
    taught(box, "bolt", 5)
    assert not same(renamed, box.learned())


def test_sums_without_rows_are_evidence_too(box: Box) -> None:
    filled(box, 2, 2)
    box.retention("class 0", "statistics", None)
    before = box.learned()
    taught(box, "class 0", 5)
    now = box.learned()
    assert before.shot_ids == now.shot_ids
    assert not same(before, now)
