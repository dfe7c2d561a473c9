"""Repair and explain: suspects, "not this", nearest shots, two groups, quality, the guard."""

from __future__ import annotations

import math

import numpy as np
import pytest
from learn_cases import classes, taught, unit

from accrue.learn import Gaussian, LeftOut, State, leave_one_out, quantise
from accrue.learn.explain import nearest
from accrue.learn.groups import two_groups
from accrue.learn.guard import Measured, compare
from accrue.learn.quality import (
    CONFUSABLE,
    ENOUGH,
    NEEDS_SHOTS,
    NOT_TESTED,
    likest,
    quality,
)
from accrue.learn.refuse import Refusals
from accrue.learn.statistics import Rows
from accrue.learn.suspects import suspects

DIM = 24
Shots = list[tuple[str, Rows]]


def left_out(shots: Shots) -> tuple[State, LeftOut]:
    state = State("0" * 64, shots[0][1].shape[1])
    for class_id, rows in shots:
        state.add(class_id, rows)
    return state, leave_one_out(Gaussian().solve(state), shots)


def singles(rows: dict[str, Rows]) -> Shots:
    return [(c, r[i : i + 1]) for c, r in rows.items() for i in range(len(r))]


# ---- suspects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_wrong_labels_stand_first_among_the_suspects(seed: int) -> None:
    """With a fifth of the labels wrong, the first third of the list holds 70 % of them."""
    rng = np.random.default_rng(seed)
    shots = singles(classes({f"c{k}": 15 for k in range(6)}, DIM, seed=seed))
    wrong = set(rng.permutation(len(shots))[: len(shots) // 5].tolist())
    noisy = [
        (f"c{(int(c[1]) + rng.integers(1, 6)) % 6}", r) if i in wrong else (c, r)
        for i, (c, r) in enumerate(shots)
    ]
    _, left = left_out(noisy)
    listed = suspects(left, [c for c, _ in noisy])
    first = {s.shot for s in listed[: len(noisy) // 3]}
    assert len(first & wrong) >= 0.7 * len(wrong)


def test_a_suspect_names_what_it_was_taught_as_and_what_it_looks_like() -> None:
    """The one mislabelled shot comes first, with both classes and a negative margin."""
    shots = singles(classes({"a": 8, "b": 8, "c": 8}, DIM, seed=3))
    shots[2] = ("a", shots[10][1])  # one of b's own rows, as a
    first = suspects(left_out(shots)[1], [c for c, _ in shots])[0]
    assert (first.shot, first.class_id, first.rival_id) == (2, "a", "b")
    assert first.margin < 0


def test_shots_that_nothing_can_be_held_against_are_not_suspects() -> None:
    """A class of one shot is left out of the list, and one class alone has none."""
    shots = singles(classes({"a": 5, "b": 5, "lone": 1}, DIM))
    assert "lone" not in {s.class_id for s in suspects(left_out(shots)[1], [c for c, _ in shots])}
    alone = singles(classes({"a": 5}, DIM))
    assert suspects(left_out(alone)[1], ["a"] * 5) == []


# ---- not this -----------------------------------------------------------------------------------


def test_a_class_is_refused_only_for_queries_nearer_to_its_refusals() -> None:
    """Whatever is nearer to the refused row than to every kept row, and nothing else, and for
    that class alone; by the definition, over random queries."""
    rows = classes({"a": 5, "b": 5}, DIM, seed=4)
    refused = quantise(np.random.default_rng(5).normal(size=(2, DIM)))
    rule = Refusals({"a": refused}, rows)
    x = unit(quantise(np.random.default_rng(6).normal(size=(200, DIM))))

    def cosine(kept: Rows) -> np.ndarray:
        values = unit(kept)
        return (x @ values.T / np.linalg.norm(values, axis=1)).max(axis=1)

    expected = cosine(refused) <= cosine(rows["a"])
    allowed = rule.allowed(x, ["b", "a"])
    assert allowed[:, 0].all()
    assert (allowed[:, 1] == expected).all()
    assert 0 < expected.sum() < len(x)


def test_what_was_both_taught_and_refused_stays_an_answer() -> None:
    """A tie goes to what was taught, whatever the rounding of the two products."""
    rows = classes({"a": 40}, DIM)["a"]
    rule = Refusals({"a": rows[3:4]}, {"a": rows})
    assert rule.allowed(unit(rows), ["a"])[3].all()


def test_the_mean_stands_for_rows_that_were_folded() -> None:
    """Without a kept row the class is refused where the refusal is nearer than its mean."""
    rows = classes({"a": 5}, DIM)["a"]
    refused = quantise(-unit(rows[:1]))
    sums = {"a": rows.sum(axis=0).astype(np.float64)}
    rule = Refusals({"a": refused}, {}, sums)
    mean, opposite = sums["a"][None], unit(refused)
    assert rule.allowed(mean, ["a"]).tolist() == [[True]]
    assert rule.allowed(opposite, ["a"]).tolist() == [[False]]


# ---- why ----------------------------------------------------------------------------------------


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a.astype(float)) / np.linalg.norm(b))


def test_the_nearest_shots_are_those_of_the_greatest_cosine() -> None:
    """Nearest first, of the asked class alone, a shot by the mean of its views."""
    rows = classes({"a": 6, "b": 6}, DIM, seed=1)
    shots: Shots = [("a", rows["a"][:3]), ("b", rows["b"]), ("a", rows["a"][3:5])]
    query = unit(rows["a"])[4]
    found = nearest(query, shots, "a", views=1)
    assert [n.shot for n in found] == sorted([0, 2], key=lambda i: -cosine(shots[i][1][0], query))
    assert [n.cosine for n in found] == pytest.approx(
        [cosine(shots[n.shot][1][0], query) for n in found]
    )
    together = nearest(query, shots, "a")
    for near in together:
        assert near.cosine == pytest.approx(cosine(shots[near.shot][1].mean(axis=0), query))
    assert len(nearest(query, shots, "a", most=1)) == 1


# ---- two groups ---------------------------------------------------------------------------------


def test_two_things_under_one_name_come_apart_and_one_thing_does_not() -> None:
    """The groups of a class made of two are the two, advisable; those of one class are not."""
    rows = classes({"x": 9, "y": 6, "z": 12, "w": 12}, 12, seed=2, spread=0.25)
    mixed = np.concatenate([rows["x"], rows["y"]])
    order = np.random.default_rng(0).permutation(15)
    state = taught({"mixed": mixed, "z": rows["z"], "w": rows["w"]}, 12)
    found = two_groups([mixed[i : i + 1] for i in order], state, "mixed")
    assert found is not None
    assert found.second.tolist() == [i >= 9 for i in order]  # y, the smaller
    assert found.advisable
    one = two_groups([r[None] for r in rows["z"]], state, "z")
    assert one is None or not one.advisable


def test_the_same_shots_are_always_grouped_the_same_way() -> None:
    """Nothing in it is drawn at random."""
    rows = classes({"a": 20, "b": 9}, DIM, seed=8)
    state, shots = taught(rows, DIM), [r[None] for r in rows["a"]]
    first, again = two_groups(shots, state, "a"), two_groups(shots, state, "a")
    assert first is not None
    assert again is not None
    assert first.second.tolist() == again.second.tolist()


def test_too_few_shots_have_no_groups() -> None:
    """Five shots are too few to look for two things in."""
    rows = classes({"a": 5, "b": 5}, DIM)
    assert two_groups([r[None] for r in rows["a"]], taught(rows, DIM), "a") is None


# ---- quality ------------------------------------------------------------------------------------


def test_each_class_gets_the_verdict_that_its_left_out_shots_give() -> None:
    """Enough, needs shots, confusable with its twin, and not tested where no row is kept."""
    rows = classes({"good": 12, "few": 3, "far": 12}, DIM, seed=1, spread=0.2)
    twins = classes({"t": 12}, DIM, seed=9)["t"]
    shots = singles(rows) + singles({"twin-1": twins[::2], "twin-2": twins[1::2]})
    state, left = left_out(shots)
    folded = State("0" * 64, DIM)
    folded.add("folded", rows["far"])
    state.add_statistics("folded", folded.statistics("folded"))
    found = {q.class_id: q for q in quality(left, [c for c, _ in shots], state)}
    assert found["good"].verdict == ENOUGH
    assert found["few"].verdict == NEEDS_SHOTS
    assert found["folded"].verdict == NOT_TESTED
    assert {found["twin-1"].verdict, found["twin-2"].verdict} == {CONFUSABLE}
    assert found["twin-1"].rivals[0].class_id == "twin-2"
    assert found["twin-1"].rivals[0].share == pytest.approx(1 - found["twin-1"].accuracy)
    assert found["good"].accuracy == 1.0
    assert math.isnan(found["folded"].accuracy)


def test_a_class_of_many_more_rows_than_usual_is_told() -> None:
    """Balance is rows over the median class; five times that is imbalanced."""
    shots = singles(classes({"a": 4, "b": 4, "many": 24}, DIM))
    state, left = left_out(shots)
    found = {q.class_id: q for q in quality(left, [c for c, _ in shots], state)}
    assert found["many"].balance == 6.0
    assert [q.imbalanced for q in found.values()] == [False, False, True]


def test_the_likest_row_is_the_one_of_greatest_cosine() -> None:
    """Lengths do not count, and among no rows there is none."""
    rows = quantise(np.eye(3) + 0.1)
    assert likest((rows[1] // 2).astype(np.int16), rows)[0] == 1
    assert likest(rows[0], rows[:0]) == (-1, -1.0)


# ---- the guard ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        (Measured(0.90, 100), Measured(0.89, 100), True),
        (Measured(1.00, 24), Measured(23 / 24, 24), True),  # one shot
        (Measured(0.90, 9000), Measured(0.87, 9000), False),
        (Measured(0.90, 100), Measured(0.80, 100), False),
        (Measured(0.80, 100), Measured(0.90, 100), True),
        (Measured(1.00, 5), Measured(0.20, 5), True),  # too few to say
        (Measured(math.nan, 0), Measured(0.50, 100), True),
        (Measured(0.90, 100, 0.7), Measured(0.90, 100, 0.6), False),
        (Measured(0.90, 100, 0.7), Measured(0.90, 100), True),
    ],
)
def test_the_guard_holds_back_what_falls_by_more_than_is_allowed(
    before: Measured, after: Measured, passes: bool
) -> None:
    """Either share, where both sides have it and enough shots stand behind it."""
    verdict = compare(before, after, 0.02)
    assert verdict.passed is passes
    assert bool(verdict.reason) is not passes
