"""The best classes of a query are those of all scores, told without scoring all exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_cases import classes, each_head, off_by, queries, taught

import accrue.learn.gaussian
from accrue.learn import Cosine, Gaussian, Learner
from accrue.learn.served import Head, best_of

DIM = 16
MANY = classes({f"c{i:03d}": 2 for i in range(300)}, DIM, seed=3)
X = queries(5, DIM)


@pytest.fixture
def screening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Screens from few classes on."""
    monkeypatch.setattr(accrue.learn.gaussian, "SCREEN_FROM", 1)


@each_head
def test_the_best_are_those_of_all_scores(head: Head) -> None:
    """Positions and scores are the head of the sorted list of all."""
    rows = classes({"a": 5, "b": 3, "c": 4, "d": 2}, DIM)
    served = head.solve(taught(rows, DIM))
    for x in X:
        scores = served.scores(x[None])[0]
        for most in (1, 3, 4, 9):
            order, told = served.top(x, most)
            assert order.tolist() == np.argsort(-scores, kind="stable")[:most].tolist()
            assert off_by(told, scores[order]) <= 1e-12


@pytest.mark.usefixtures("screening")
@pytest.mark.parametrize("head", [Cosine(), Gaussian(0.4)], ids=lambda h: h.name)
def test_screening_hides_no_class(head: Head) -> None:
    """Screened in float32, before and after lessons, the best are those of all scores."""
    learner = Learner(taught(MANY, DIM), head)
    for step in range(4):
        for x in X:
            scores = learner.served.scores(x[None])[0]
            order, told = learner.served.top(x, 5)
            assert order.tolist() == np.argsort(-scores, kind="stable")[:5].tolist()
            assert off_by(told, scores[order]) <= 1e-9
        if step == 0:
            learner.add("c007", MANY["c200"])
        elif step == 1:
            learner.add("new", MANY["c100"])
        elif step == 2:
            learner.remove("c013")


@pytest.mark.usefixtures("screening")
def test_classes_that_are_too_alike_are_scored_exactly() -> None:
    """Where float32 cannot tell classes apart, screening decides nothing."""
    rng = np.random.default_rng(0)
    near = rng.normal(size=DIM)
    rows = {
        f"c{i:03d}": np.rint(9000 * near + rng.normal(size=(2, DIM))).astype(np.int16) // 4
        for i in range(200)
    }
    served = Gaussian(0.9).solve(taught(rows, DIM))
    x = near / np.linalg.norm(near)
    scores = served.scores(x[None])[0]
    order, _ = served.top(x, 5)
    assert order.tolist() == np.argsort(-scores, kind="stable")[:5].tolist()


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_best_of_is_a_stable_sort(values: list[int], most: int) -> None:
    """Ties stay in their order."""
    scores = np.array(values, np.float64)
    assert best_of(scores, most).tolist() == np.argsort(-scores, kind="stable")[:most].tolist()
