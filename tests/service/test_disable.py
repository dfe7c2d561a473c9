"""A disabled class is not answered, exactly as if it had never been taught, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accrue.errors import Conflict, NotFound
from accrue.learn import HEADS, quantise
from accrue.service.box import Box, Learned
from accrue.service.evaluation import Evaluation, _score
from accrue.service.guarded import measured
from accrue.service.knowledge import Knowledge, same
from accrue.service.settings import Settings
from accrue.store import class_id

NAMES = ("bolt", "nut", "gear", "ball valve")


@pytest.fixture
def settings(tmp_path: Path, tiny_bundle: Path) -> Settings:
    return Settings(state=tmp_path / "state", bundle=tiny_bundle, actor="tester", guard=1.0)


@pytest.fixture
def box(settings: Settings) -> Iterator[Box]:
    with Box(settings) as opened:
        yield opened


@pytest.fixture
def without(settings: Settings) -> Iterator[Box]:
    """A box beside, in which "nut" is never taught."""
    with Box(replace(settings, state=settings.state.with_name("without"))) as opened:
        yield opened


def some(name: str, seed: int, dim: int, count: int = 2) -> np.ndarray:
    mean = np.random.default_rng([1, *name.encode()]).normal(size=dim)
    rows = mean + 0.8 * np.random.default_rng([2, seed]).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fill(box: Box, *names: str, shots: int = 5) -> None:
    store = box.store(create=True)
    for name in names:
        teaching = store.begin_teach(name, actor="tester")
        for shot in range(shots):
            store.add_shot(teaching, quantise(some(name, shot, store.dim)), source="made up")


def queries(dim: int) -> np.ndarray:
    return np.concatenate([some(name, 100, dim, 4) for name in NAMES])


def answers(learned: Learned) -> list[object]:
    return [vars(one) for one in learned.decide(queries(learned.state.dim))]


@pytest.mark.parametrize("head", ["auto", *sorted(HEADS)])
def test_answers_are_bit_for_bit_those_of_a_device_that_was_never_taught_the_class(
    box: Box, without: Box, head: str
) -> None:
    for one in (box, without):
        one.settings = replace(one.settings, head=head)
    fill(box, *NAMES)
    fill(without, *(name for name in NAMES if name != "nut"))
    for one in (box, without):
        one.store().refuse("gear", [("x", quantise(some("bolt", 50, one.store().dim)))])
    box.disable("nut")
    there, here = without.learned(), box.learned()
    assert answers(here) == answers(there)
    assert here.answering.state.digest() == there.state.digest()
    np.testing.assert_array_equal(here.answering.state.total, there.state.total)
    assert vars(measured(here)) == vars(measured(there))
    assert box.quality() == without.quality()
    assert class_id("default", "nut") not in here.choice.served.ids


def test_what_was_learned_stays_and_its_digest_too_and_undo_brings_it_back(box: Box) -> None:
    fill(box, *NAMES)
    before, told = box.learned(), answers(box.learned())
    entry = box.disable("NUT")
    assert (entry.verb, entry.summary) == ("disable", 'disabled "nut"')
    after = box.learned()
    assert after.state.digest() == before.state.digest()
    assert answers(after) != told
    assert [row.name for row in box.classes() if row.disabled] == ["nut"]
    assert box.show("nut")[0].shots == 5
    undone = box.undo()
    assert undone.summary.startswith("undid")
    assert answers(box.learned()) == told
    assert box.undo(undone.seq).verb == "redo"
    assert box.show("nut")[0].disabled
    assert box.enable("nut").summary == 'enabled "nut"'
    assert answers(box.learned()) == told
    assert box.store().check() == []


def test_a_disabled_class_is_taught_renamed_split_and_moved_as_before(box: Box) -> None:
    fill(box, "bolt", "nut")
    box.disable("nut")
    fill(box, "nut", shots=2)
    box.rename("nut", "hex nut")
    row, shots = box.show("nut")
    assert (row.name, row.shots, row.disabled) == ("hex nut", 7, True)
    box.relabel([shots[0].id], "bolt")
    assert box.suggest_split("hex nut").label == "hex nut"
    box.split("hex nut", [shots[1].id], "washer")
    assert {one.name: one.disabled for one in box.classes()} == {
        "bolt": False,
        "hex nut": True,
        "washer": False,
    }


def test_it_is_told_twice_only_with_an_error(box: Box) -> None:
    fill(box, "bolt")
    with pytest.raises(Conflict, match='class "bolt" is enabled already'):
        box.enable("bolt")
    box.disable("bolt")
    with pytest.raises(Conflict, match='class "bolt" is disabled already'):
        box.disable("bolt")
    with pytest.raises(NotFound):
        box.disable("nut")
    assert [entry.verb for entry in box.history()] == ["disable", "teach"]


def test_the_root_of_a_merge_decides(box: Box) -> None:
    fill(box, "bolt", "nut", "gear")
    box.disable("nut")
    box.merge("nut", "bolt")  # its shots are those of bolt now
    assert box.learned().answering.state.count(class_id("default", "bolt")) == 20
    box.merge("bolt", "gear")
    box.disable("gear")
    assert box.learned().answering.names == {}
    box.undo(), box.undo(), box.undo()
    assert [row.disabled for row in box.classes()] == [False, True, False]


def test_a_class_that_is_forgotten_and_taught_again_is_answered(box: Box) -> None:
    fill(box, "bolt")
    box.disable("bolt")
    box.remove("bolt")
    fill(box, "bolt")
    assert not box.show("bolt")[0].disabled


def test_a_class_that_has_but_a_name_is_left_out_too(box: Box) -> None:
    fill(box, "bolt")
    store = box.store()
    store.teach_by_name("nut", quantise(some("nut", 0, store.dim, 1))[0])
    assert class_id("default", "nut") in box.learned().choice.served.ids
    box.disable("nut")
    assert list(box.learned().choice.served.ids) == [class_id("default", "bolt")]


def test_with_every_class_disabled_the_device_says_that_it_is_not_ready(box: Box) -> None:
    fill(box, "bolt", "nut")
    box.disable("bolt")
    box.disable("nut")
    assert {one.verdict for one in box.learned().decide(queries(box.store().dim))} == {"not_ready"}
    assert box.quality() == []


def test_photos_of_a_disabled_class_count_as_never_taught(box: Box) -> None:
    fill(box, *NAMES)
    box.disable("nut")
    result = Evaluation()
    learned = box.learned().answering
    _score(learned, [(name, some(name, 100, learned.state.dim)) for name in NAMES], result)
    assert (result.photos, result.never_taught) == (3, 1)


@pytest.mark.parametrize("change", [Box.disable, Box.enable])
def test_a_running_device_follows_with_the_next_frame(
    box: Box, settings: Settings, change: Callable[[Box, str], object]
) -> None:
    fill(box, *NAMES)
    if change is Box.enable:
        box.disable("nut")
    store = box.store()
    store.teach_by_name("nut", quantise(some("nut", 0, store.dim, 1))[0])
    knowledge = Knowledge(settings, poll_s=3600)
    try:
        before = knowledge.current
        change(box, "nut")
        evidence = box.learned()
        assert not same(before, evidence)
        knowledge._follow(evidence)
        known = class_id("default", "nut") in knowledge.current.choice.served.ids
        assert known == (change is Box.enable)
        assert same(knowledge.current, evidence)
    finally:
        knowledge.close()


def test_what_is_measured_is_what_is_answered_with_what_was_noted_as_not_it(box: Box) -> None:
    fill(box, *NAMES)
    dim = box.store().dim
    photo = some("bolt", 100, dim)
    before, after = Evaluation(), Evaluation()
    _score(box.learned().answering, [("bolt", photo)], before)
    assert before.accuracy == 1
    box.store().refuse("bolt", [("x", quantise(photo.mean(axis=0)[None]))])
    _score(box.learned().answering, [("bolt", photo)], after)
    assert after.accuracy == 0
