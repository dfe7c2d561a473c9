"""Sure, maybe, unknown or not ready, with the stated share of known objects rejected."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_cases import taught

from accrue.learn import Calibration, Gaussian, LeftOut, Prototype, Ridge, leave_one_out, quantise
from accrue.learn.decision import LEAST_SHOTS, MAYBE, NOT_READY, SURE, UNKNOWN, share_below
from accrue.learn.leave_one_out import familiarity
from accrue.learn.served import Head, Served

quick = settings(deadline=None, max_examples=60)
numbers = st.floats(-100, 100)
known_values = st.lists(numbers, min_size=2, max_size=30).map(lambda v: np.sort(np.array(v)))


def left_out(own: list[float], rival: list[float]) -> LeftOut:
    scores = np.array([own, rival]).T
    told = familiarity(np.where(np.isfinite(scores), scores, 0.0))
    return LeftOut(np.arange(len(own)), scores[:, 0], scores[:, 1], ["r"] * len(own), told)


class World:
    """Gaussian classes, taught with some shots each, and as many queries as wanted."""

    def __init__(self, shots: int, seed: int, dim: int = 24, classes: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.dim = dim
        self.centres = self.rng.normal(size=(classes, dim)) / np.sqrt(dim)
        self.rows = {f"k{k}": quantise(self.seen(k, shots)) for k in range(classes)}

    def seen(self, k: int, n: int) -> np.ndarray:
        x = self.centres[k] + 0.35 * self.rng.normal(size=(n, self.dim)) / np.sqrt(self.dim)
        return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))

    def served(self, head: Head) -> tuple[Served, LeftOut]:
        served = head.solve(taught(self.rows, self.dim))
        shots = [(c, r[None]) for c, rows in self.rows.items() for r in rows]
        return served, leave_one_out(served, shots)


@pytest.mark.parametrize("head", [Prototype(), Gaussian(), Ridge()], ids=lambda h: h.name)
@pytest.mark.parametrize("shots", [4, 20])  # under 100 left-out shots, and over
@pytest.mark.parametrize("reject", [0.05, 0.2])
def test_the_stated_share_of_known_objects_is_rejected(
    head: Head, shots: int, reject: float
) -> None:
    """Of known objects about the stated share is called unknown, whatever the head."""
    rejected = []
    for seed in range(6):
        world = World(shots, seed)
        served, left = world.served(head)
        calibration = Calibration(left, reject)
        x = np.vstack([world.seen(k, 25) for k in range(len(world.centres))])
        verdicts = [calibration.decide(s, served.ids).verdict for s in served.scores(x)]
        rejected.append(np.mean([v == UNKNOWN for v in verdicts]))
    assert reject / 3 <= np.mean(rejected) <= reject * 1.8


def test_what_is_far_from_all_classes_is_unknown() -> None:
    """A direction in which nothing was taught is unknown."""
    world = World(10, 3)
    served, left = world.served(Gaussian())
    calibration = Calibration(left)
    outside = -np.sum(world.centres, axis=0)
    x = outside / np.linalg.norm(outside)
    decision = calibration.decide(served.scores(x[None])[0], served.ids)
    assert decision.verdict == UNKNOWN
    assert decision.score < 0.05
    assert len(decision.alternatives) >= 1


def test_halfway_between_two_classes_is_maybe() -> None:
    """Between two near classes both are named, best first; at a class's centre it is sure."""
    world = World(15, 1, classes=4)
    world.centres[1] = world.centres[0] + 0.4 * world.rng.normal(size=world.dim) / np.sqrt(24)
    world.rows = {f"k{k}": quantise(world.seen(k, 15)) for k in range(4)}
    served, left = world.served(Gaussian())
    calibration = Calibration(left)
    means = dict(zip(served.ids, served.means, strict=True))
    half = ((means["k0"] + means["k1"]) / 2)[None]
    decision = calibration.decide(served.scores(half / np.linalg.norm(half))[0], served.ids)
    assert decision.verdict == MAYBE
    assert {a.class_id for a in decision.alternatives} == {"k0", "k1"}
    assert decision.alternatives[0].class_id == decision.class_id
    sure = calibration.decide(served.scores(means["k3"][None])[0], served.ids)
    assert (sure.class_id, sure.verdict, len(sure.alternatives)) == ("k3", SURE, 1)


GOOD = left_out([5.0, 6.0, 7.0, 8.0, 9.0, 7.5], [1.0, 2.0, 1.0, 2.0, 1.0, 2.0])


def test_nothing_taught_is_not_ready() -> None:
    """Without classes there is no answer and no alternative."""
    decision = Calibration(GOOD).decide(np.empty(0), [])
    assert (decision.class_id, decision.verdict, decision.alternatives) == ("", NOT_READY, ())
    assert math.isnan(decision.score)
    assert math.isnan(decision.margin)


def test_few_left_out_shots_are_not_ready_but_tell_the_best() -> None:
    """Under five left-out shots the best class is told, without a claim."""
    few = left_out([5.0] * (LEAST_SHOTS - 1), [1.0] * (LEAST_SHOTS - 1))
    calibration = Calibration(few)
    assert not calibration.ready
    decision = calibration.decide(np.array([1.0, 4.0]), ["a", "b"])
    assert (decision.class_id, decision.verdict, decision.margin) == ("b", NOT_READY, 3.0)
    assert [a.class_id for a in decision.alternatives] == ["b"]
    assert math.isnan(decision.alternatives[0].p)
    assert Calibration(GOOD).ready


def test_one_class_is_not_ready() -> None:
    """With one class no shot has a rival, so nothing can be told."""
    calibration = Calibration(left_out([5.0] * 9, [-math.inf] * 9))
    decision = calibration.decide(np.array([5.0]), ["only"])
    assert (decision.class_id, decision.verdict, decision.margin) == ("only", NOT_READY, math.inf)


def test_how_many_alternatives_are_told_does_not_change_the_verdict() -> None:
    """`most` shortens the list and nothing else."""
    unsure = left_out([5.0, 6.0, 7.0, 8.0, 9.0, 7.5], [6.0, 5.5, 6.0, 6.0, 6.0, 3.5])
    calibration = Calibration(unsure)
    scores, ids = np.array([7.0, 6.9, 6.8, -50.0]), ["a", "b", "c", "d"]
    left = calibration.decide(scores, ids, most=5)
    one = calibration.decide(scores, ids, most=1)
    assert left.verdict == one.verdict == MAYBE
    assert [a.class_id for a in one.alternatives] == ["a"]


@quick
@given(
    st.lists(st.tuples(numbers, numbers), min_size=5, max_size=40),
    st.lists(numbers, min_size=1, max_size=8),
    st.floats(0, 0.5),
    st.integers(1, 6),
)
def test_decisions_keep_their_promises(
    pairs: list[tuple[float, float]], scores: list[float], reject: float, most: int
) -> None:
    """The best class leads, p falls along the list, and the verdict is that of score and list."""
    calibration = Calibration(left_out([a for a, _ in pairs], [b for _, b in pairs]), reject)
    ids = [f"k{i}" for i in range(len(scores))]
    decision = calibration.decide(np.array(scores), ids, most)
    assert decision.class_id == ids[int(np.argmax(scores))]
    assert decision.alternatives[0].class_id == decision.class_id
    assert 1 <= len(decision.alternatives) <= most
    ps = [a.p for a in decision.alternatives]
    assert ps == sorted(ps, reverse=True)
    assert all(0 <= p <= 1 for p in ps)
    assert (decision.verdict == UNKNOWN) == (decision.score < reject)
    assert decision.verdict != SURE or len(decision.alternatives) == 1
    assert decision.margin >= 0


@quick
@given(known_values, numbers, numbers)
def test_share_below_is_a_share_and_monotone(known: np.ndarray, a: float, b: float) -> None:
    """It lies in 0 to 1, never falls as the value grows, and is never above the counted share."""
    low, high = sorted([a, b])
    shares = [share_below(known, low), share_below(known, high)]
    assert 0 <= shares[0] <= shares[1] <= 1
    for value, share in zip((low, high), shares, strict=True):
        assert share <= (1 + (known <= value).sum()) / (len(known) + 1)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(100, 140), st.floats(-3, 3))
def test_share_below_counts_where_there_are_enough(seed: int, n: int, value: float) -> None:
    """From 100 known values on it is the plain conformal p-value."""
    known = np.random.default_rng(seed).normal(size=n).round(1)
    expected = (1 + (known <= value).sum()) / (len(known) + 1)
    assert share_below(np.sort(known), value) == expected


def test_share_below_of_equal_values() -> None:
    """With no spread, what is lower than all known values has no share."""
    known = np.full(6, 3.0)
    assert share_below(known, 3.0) == 1.0
    assert share_below(known, 2.9) == 0.0
