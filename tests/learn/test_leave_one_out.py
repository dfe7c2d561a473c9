"""Left-out scores are those of a refit without the shot."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from learn_cases import classes, each_head, off_by, taught, textbook, unit

from accrue.learn import (
    Gaussian,
    Learner,
    LeftOut,
    Prototype,
    Ridge,
    leave_half_out,
    leave_one_out,
)
from accrue.learn.leave_one_out import familiarity, halves
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
        query = unit(rows).mean(axis=0)[None]
        expected = textbook(served, without(shots, i), query, held=True)[0]
        k = served.index[class_id]
        rival = max((j for j in range(len(served)) if j != k), key=lambda j: expected[j])
        told = np.array([found.own[at], found.rival[at]])
        assert off_by(told, expected[[k, rival]]) <= 1e-6
        assert found.rival_id[at] == served.ids[rival]


@each_head
@pytest.mark.parametrize("views", [None, 2], ids=str)
def test_half_out_scores_equal_refits_without_the_half(head: Head, views: int | None) -> None:
    """A shot's scores are those of a refit without the half of its class that it lies in."""
    served = head.solve(taught(ROWS, DIM))
    shots = cut(ROWS, [2, 1])
    found = leave_half_out(served, shots, views)
    told = dict(zip(found.shots.tolist(), zip(found.own, found.rival, strict=True), strict=True))
    seen = 0
    for class_id, r in ROWS.items():
        members = [i for i, (c, _) in enumerate(shots) if c == class_id]
        rows = [unit(shots[i][1]) for i in members]
        for half in halves(rows):
            if len(half) == len(members):
                assert not told.keys() & set(members)
                continue
            out = {members[j] for j in half}
            rest = {c: rr for c, rr in ROWS.items() if c != class_id}
            rest[class_id] = np.vstack([shots[i][1] for i in members if i not in out])
            assert len(rest[class_id]) < len(r)
            for j in half:
                query = rows[j][:views].mean(axis=0)[None]
                expected = textbook(served, rest, query, held=True)[0]
                k = served.index[class_id]
                rival = np.delete(expected, k).max()
                assert off_by(np.array(told[members[j]]), np.array([expected[k], rival])) <= 1e-6
                seen += 1
    assert seen == len(found)


def test_halves_are_unlike() -> None:
    """Two runs of photos of one class end up in different halves, whatever their order."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, DIM))
    shots = [first + 0.1 * rng.normal(size=(2, DIM)) for _ in range(4)]
    shots += [second + 0.1 * rng.normal(size=(2, DIM)) for _ in range(4)]
    order = rng.permutation(8)
    found = halves([shots[i] for i in order])
    assert sorted(sorted(int(order[j]) for j in half) for half in found) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert halves(shots[:1]) == [[0]]
    assert sorted(halves([shots[0]] * 3)[0] + halves([shots[0]] * 3)[1]) == [0, 1, 2]


def test_familiarity_is_best_less_half_of_second() -> None:
    """One class alone has no second best."""
    scores = np.array([[1.0, 4.0, 2.0], [3.0, 3.0, 0.0]])
    assert familiarity(scores).tolist() == [3.0, 1.5]
    assert familiarity(scores[:, :1]).tolist() == [1.0, 3.0]


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


def test_accuracy_and_margin() -> None:
    """A tie is no win; margin is own less rival."""
    own, rival = np.array([2.0, 1.0, 1.0]), np.array([1.0, 1.0, 3.0])
    found = LeftOut(np.arange(3), own, rival, ["b", "a", "a"], own)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.margin.tolist() == [1.0, 0.0, -2.0]
