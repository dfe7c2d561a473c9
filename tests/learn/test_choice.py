"""The head that is served is the one that does best on shots left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from learn_cases import classes, each_head, taught

from accrue.learn import HEADS, Gaussian, Prototype, Ridge, choose, leave_one_out
from accrue.learn.choice import LEAST_SHOTS
from accrue.learn.served import Head
from accrue.learn.statistics import Rows

DIM = 12


def shots_of(rows: dict[str, Rows]) -> list[tuple[str, Rows]]:
    return [(c, r[None]) for c, class_rows in rows.items() for r in class_rows]


def test_nothing_taught() -> None:
    """Without classes it is the prototype head, and nothing fails."""
    chosen = choose(taught({}, DIM), [])
    assert chosen.head == Prototype()
    assert chosen.reason == "no class has two shots yet"
    assert len(chosen.left_out) == 0


def test_one_shot_a_class_is_for_prototypes() -> None:
    """Where no class has two shots it is the prototype head, also when a shot has many rows."""
    rows = classes({"a": 4, "b": 4, "c": 4}, DIM)
    chosen = choose(taught(rows, DIM), list(rows.items()))
    assert chosen.head == Prototype()
    assert chosen.reason == "no class has two shots yet"


def test_few_shots_are_for_the_gaussian_head() -> None:
    """From two shots of some class on, and up to too few to choose by, it is the gaussian head."""
    rows = classes({"a": 2, "b": 1}, DIM)
    chosen = choose(taught(rows, DIM), shots_of(rows))
    assert chosen.head == Gaussian()
    assert chosen.reason == "the first choice from two shots a class on"
    rows = classes({"a": LEAST_SHOTS - 1, "b": 1}, DIM)
    assert choose(taught(rows, DIM), shots_of(rows)).head == Gaussian()


def test_one_class_is_for_the_gaussian_head() -> None:
    """With one class there is nothing to be right or wrong about."""
    rows = classes({"a": LEAST_SHOTS + 5}, DIM)
    assert choose(taught(rows, DIM), shots_of(rows)).head == Gaussian()


def test_the_best_by_left_out_accuracy_wins() -> None:
    """A rival wins that beats gaussian by more than its standard error, the best of them first."""
    winners = set()
    for seed in range(12):
        spread = 1.0 + seed % 5
        rows = classes(dict.fromkeys("abcdefgh", 3 + seed % 4), DIM, seed, spread)
        state, shots = taught(rows, DIM), shots_of(rows)
        accuracy = {
            name: leave_one_out(head().solve(state), shots).accuracy for name, head in HEADS.items()
        }
        chosen = choose(state, shots)
        winners.add(chosen.head.name)
        usual = accuracy["gaussian"]
        bar = usual + math.sqrt(usual * (1 - usual) / len(shots))
        if max(accuracy.values()) > bar:
            assert accuracy[chosen.head.name] == max(accuracy.values())
        else:
            assert chosen.head == Gaussian()
        assert chosen.left_out.accuracy == accuracy[chosen.head.name]
        assert chosen.reason == (
            f"{chosen.left_out.accuracy:.0%} of {len(shots)} shots right when left out"
        )
    assert len(winners) > 1  # none can be shipped alone


@each_head
def test_a_named_head_is_taken(head: Head) -> None:
    """A head that was set is solved, with its left-out scores, whatever the others would do."""
    rows = classes({"a": 15, "b": 15}, DIM)
    state, shots = taught(rows, DIM), shots_of(rows)
    chosen = choose(state, shots, head)
    assert (chosen.head, chosen.reason) == (head, "as set")
    expected = head.solve(state)
    x = rows["a"] / 2.0**15
    np.testing.assert_array_equal(chosen.served.scores(x), expected.scores(x))
    np.testing.assert_array_equal(chosen.left_out.own, leave_one_out(expected, shots).own)


def test_choosing_reads_only() -> None:
    """The state is as it was after a choice."""
    rows = classes({"a": 15, "b": 15}, DIM)
    state = taught(rows, DIM)
    before = state.to_bytes()
    choose(state, shots_of(rows))
    assert state.to_bytes() == before


def test_a_shot_of_an_unknown_class_is_an_error_of_the_caller() -> None:
    """Shots that are not in the state are a mistake in the program."""
    rows = classes({"a": 3}, DIM)
    with pytest.raises(KeyError):
        leave_one_out(Ridge(1.0).solve(taught(rows, DIM)), [("b", rows["a"])])
