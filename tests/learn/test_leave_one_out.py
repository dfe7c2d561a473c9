"""Left-out scores are those of a refit without the shot."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from learn_cases import classes, each_head, off_by, taught, textbook, unit

from accrue.learn import Gaussian, Learner, LeftOut, Prototype, Ridge, leave_one_out
from accrue.learn.served import Head
from accrue.learn.statistics import Rows

DIM = 9
ROWS = classes({"c0": 7, "c1": 1, "c2": 12, "c3": 3}, DIM, seed=6)

Shots = list[tuple[str, Rows]]


def cut(rows: dict[str, Rows], sizes: list[int]) -> Shots:
    """Cuts each class into shots of these sizes in turn, interleaving the classes."""
    shots: Shots = []
    for class_id, r in rows.items():
        at, turn = 0, 0
        while at < len(r):
            shots.append((class_id, r[at : at + sizes[turn % len(sizes)]]))
            at += sizes[turn % len(sizes)]
            turn += 1
    return [shots[i] for i in np.random.default_rng(0).permutation(len(shots))]


def without(shots: Shots, i: int) -> dict[str, Rows]:
    rest: dict[str, Rows] = {}
    for j, (class_id, r) in enumerate(shots):
        if i != j:
            rest[class_id] = np.vstack([rest[class_id], r]) if class_id in rest else r
    return rest


@each_head
@pytest.mark.parametrize("sizes", [[1], [3], [2, 1, 4]], ids=str)
@pytest.mark.parametrize("followed", [False, True], ids=["solved", "followed"])
def test_left_out_scores_equal_refits(head: Head, sizes: list[int], followed: bool) -> None:
    """Every shot's left-out scores equal a refit by definition, with the regulariser held."""
    learner = Learner(taught({}, DIM), head)
    for class_id, r in ROWS.items():
        for row in r:
            learner.add(class_id, row[None])
    if not followed:
        learner.resolve()
    served = learner.served
    shots = cut(ROWS, sizes)
    found = leave_one_out(served, shots)
    n = {c: len(r) for c, r in ROWS.items()}
    assert found.shots.tolist() == [i for i, (c, r) in enumerate(shots) if len(r) < n[c]]
    for at, i in enumerate(found.shots):
        class_id, rows = shots[i]
        expected = textbook(served, without(shots, i), unit(rows)).mean(axis=0)
        k = served.index[class_id]
        rival = max((j for j in range(len(served)) if j != k), key=lambda j: expected[j])
        told = np.array([found.own[at], found.rival[at]])
        assert off_by(told, expected[[k, rival]]) <= 1e-6
        assert found.rival_id[at] == served.ids[rival]


@each_head
def test_no_shot_of_a_one_shot_class(head: Head) -> None:
    """Shots that are all of their class are missing, and so is everything where all are."""
    rows = {"a": ROWS["c0"][:3], "b": ROWS["c2"][:2]}
    found = leave_one_out(head.solve(taught(rows, DIM)), list(rows.items()))
    assert len(found) == 0
    assert math.isnan(found.accuracy)


@each_head
def test_one_class_has_no_rival(head: Head) -> None:
    """With one class, the rival is nobody at minus infinity."""
    rows = {"a": ROWS["c0"]}
    found = leave_one_out(head.solve(taught(rows, DIM)), [("a", r[None]) for r in rows["a"]])
    assert len(found) == 7
    assert found.rival_id == [""] * 7
    assert np.isneginf(found.rival).all()


def test_some_shots_kept_and_the_rest_folded() -> None:
    """Only the shots given are left out; what is in the state besides stays in."""
    rows = dict(ROWS)
    served = Gaussian().solve(taught(rows, DIM))
    all_of_them = leave_one_out(served, [("c2", r[None]) for r in rows["c2"]])
    some = leave_one_out(served, [("c2", r[None]) for r in rows["c2"][4:6]])
    np.testing.assert_allclose(some.own, all_of_them.own[4:6], rtol=1e-9)


@pytest.mark.parametrize("head", [Prototype(), Gaussian(), Ridge(strength=0.1)], ids=str)
def test_a_burst_does_not_vouch_for_itself(head: Head) -> None:
    """Copies of one photo in one shot are left out together, so none finds its own copy."""
    burst = np.repeat(ROWS["c0"][:1], 5, axis=0)
    rows = {"a": np.vstack([burst, ROWS["c2"][:3]]), "b": np.vstack([ROWS["c0"][:1], ROWS["c3"]])}
    served = head.solve(taught(rows, DIM))
    together = leave_one_out(served, [("a", burst)])
    apart = leave_one_out(served, [("a", r[None]) for r in burst])
    assert together.own[0] < apart.own.min()


def test_a_class_of_many_rows_needs_no_square_table() -> None:
    """Memory grows with the rows of a class, not with their square."""
    rows = classes({"a": 1500, "b": 5}, 4)
    served = Gaussian().solve(taught(rows, 4))
    shots = [("a", r) for r in np.split(rows["a"], 100)]
    tracemalloc.start()
    try:
        assert len(leave_one_out(served, shots)) == 100
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000  # the square table alone would take 18 MB


def test_accuracy_margin_and_best() -> None:
    """A tie is no win; best is the better of own and rival; margin is own less rival."""
    found = LeftOut(
        np.arange(3), np.array([2.0, 1.0, 1.0]), np.array([1.0, 1.0, 3.0]), ["b", "a", "a"]
    )
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.margin.tolist() == [1.0, 0.0, -2.0]
    assert found.best.tolist() == [2.0, 1.0, 3.0]
