"""The head that is served is the one that does best on shots left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from learn_cases import classes, each_head, taught

from accrue.learn import (
    Calibrated,
    Cosine,
    Ridge,
    Statistics,
    choose,
    leave_half_out,
    leave_one_out,
)
from accrue.learn.choice import LEAST_CLASSES, LEAST_SHOTS
from accrue.learn.served import Head
from accrue.learn.statistics import Rows

DIM = 12


def shots_of(rows: dict[str, Rows]) -> list[tuple[str, Rows]]:
    return [(c, r[None]) for c, class_rows in rows.items() for r in class_rows]


def test_nothing_taught() -> None:
    """Without classes it is the cosine head, and nothing fails."""
    chosen = choose(taught({}, DIM), [])
    assert chosen.head == Cosine()
    assert chosen.reason == "the first choice"
    assert len(chosen.left_out) == 0


@pytest.mark.parametrize("counts", [{"a": 4, "b": 4, "c": 4}, {"a": LEAST_SHOTS + 5}], ids=str)
def test_too_little_to_choose_by(counts: dict[str, int]) -> None:
    """With few shots, or one class, there is nothing to be right or wrong about."""
    rows = classes(counts, DIM)
    chosen = choose(taught(rows, DIM), shots_of(rows))
    assert chosen.head == Cosine()
    assert chosen.reason == "the first choice"
    assert chosen.rivals == {}


def test_one_shot_a_class_leans_on_its_likes() -> None:
    """With no shot to leave out and enough classes it is the calibrated head."""
    rows = classes({f"c{i}": 4 for i in range(LEAST_CLASSES)}, DIM)
    chosen = choose(taught(rows, DIM), list(rows.items()))
    assert chosen.head == Calibrated(Cosine())
    assert chosen.reason == "no class has two shots yet"


def test_the_best_by_left_out_accuracy_wins() -> None:
    """The best rival wins where it beats the first choice by more than its standard error."""
    winners = set()
    for seed in range(12):
        spread = 1.0 + seed % 5
        rows = classes(dict.fromkeys("abcdefgh", 4 + seed % 4), DIM, seed, spread)
        state, shots = taught(rows, DIM), shots_of(rows)
        chosen = choose(state, shots)
        usual = leave_half_out(Cosine().solve(state), shots).accuracy
        assert chosen.rivals[Cosine().solve(state).describe()] == usual
        ridge = Ridge().solve(state)
        assert chosen.rivals[ridge.describe()] == leave_half_out(ridge, shots).accuracy
        winners.add(chosen.head.name)
        best = max(chosen.rivals.values())
        if best > usual + math.sqrt(usual * (1 - usual) / len(shots)):
            assert chosen.left_out.accuracy == best
        else:
            assert chosen.head == Cosine()
        assert chosen.left_out.accuracy == leave_half_out(chosen.served, shots).accuracy
        assert chosen.reason == (
            f"{chosen.left_out.accuracy:.0%} of {len(shots)} shots right when left out"
        )
    assert len(winners) > 1  # none can be shipped alone


def test_random_features_compete_where_they_are_asked_for() -> None:
    """They take part with a width, and not where rows have been folded into statistics."""
    rows = classes(dict.fromkeys("abcdef", 5), DIM)
    state, shots = taught(rows, DIM), shots_of(rows)
    told = choose(state, shots, random_features=16).rivals
    assert [name for name in told if name.startswith("random features 16")]
    assert not [name for name in choose(state, shots).rivals if name.startswith("random")]
    state.add_statistics("a", Statistics.of(rows["b"]))
    assert not [
        name for name in choose(state, shots, random_features=16).rivals if name[0:6] == "random"
    ]


def test_texts_compete_by_their_weight() -> None:
    """With text vectors, cosine heads of several text weights take part, and all of them answer
    for a class that has nothing but a name."""
    rows = classes(dict.fromkeys("abcdef", 5), DIM)
    texts = {c: r.mean(axis=0) for c, r in classes({"a": 1, "b": 1, "new": 1}, DIM, seed=4).items()}
    chosen = choose(taught(rows, DIM), shots_of(rows), texts=texts)
    assert "new" in chosen.served.ids
    heads = [name for name in chosen.rivals if "3 texts" in name]
    assert len(heads) == 6


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
    np.testing.assert_array_equal(chosen.left_out.own, leave_half_out(expected, shots).own)


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
