"""The served head, followed row by row, is the exact solve."""

from __future__ import annotations

import numpy as np
import pytest
from learn_cases import SPACE, drift, each_head, queries

from accrue.learn import Calibrated, Gaussian, Learner, Ridge, State, quantise
from accrue.learn.served import ERROR_BUDGET, WAITING_UPDATES, Head, Inverse

TOLERANCE = 1e-6


def walk(head: Head, dim: int, steps: int, every: int, seed: int = 0) -> tuple[float, Learner]:
    """Random lessons and removals; the worst drift seen at the checks."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, dim)) / np.sqrt(dim)
    spread = rng.choice([0.02, 0.3, 1.0], size=12)[:, None] / np.sqrt(dim)
    learner = Learner(State(SPACE, dim), head)
    held: list[tuple[str, np.ndarray]] = []
    x, worst = queries(5, dim), 0.0
    for step in range(steps):
        aim = (8, 60, 200)[step * 6 // steps % 3]  # rows: fewer than dimensions, more, many
        choice = rng.random()
        if choice < 0.01 and held:
            gone = held[rng.integers(len(held))][0]
            learner.remove(gone)
            held = [h for h in held if h[0] != gone]
        elif held and choice < (0.3 if len(held) < aim else 0.7):
            learner.subtract(*held.pop(rng.integers(len(held))))
        else:
            k = rng.integers(12)
            noise = rng.normal(size=(rng.integers(1, 4), dim))
            rows = quantise(centres[k] + spread[k] * noise)
            if held and choice > 0.95:
                rows = held[rng.integers(len(held))][1]  # a duplicate, perhaps of another class
            learner.add(f"c{k}", rows)
            held.append((f"c{k}", rows))
        if step % every == every - 1:
            worst = max(worst, drift(learner, x))
    return worst, learner


@each_head
def test_ten_thousand_steps(head: Head) -> None:
    """Over 10,000 random teach, remove and remove-class steps the drift stays within 1e-6."""
    worst, learner = walk(head, 12, 10_000, 50)
    assert worst <= TOLERANCE
    if not isinstance(head, Calibrated):  # which is solved exactly at every row
        assert learner.exact_solves < 9_000  # it did follow


@each_head
def test_hundreds_of_steps_at_128_dimensions(head: Head) -> None:
    """The same at a dimension where n < d most of the time."""
    worst, _ = walk(head, 128, 250, 25, seed=1)
    assert worst <= TOLERANCE


@pytest.mark.parametrize(
    "head",
    [
        Gaussian(shrinkage=1e-4),
        Gaussian(shrinkage=1e-6),
        Ridge(strength=1e-6),
        Ridge(strength=1e-8),
    ],
    ids=str,
)
def test_rows_that_come_and_go_in_an_empty_direction(head: Head) -> None:
    """With hardly a regulariser, strangers that come and go do not wear the inverse out."""
    rng = np.random.default_rng(0)
    dim = 12
    learner = Learner(State(SPACE, dim), head)
    centres = rng.normal(size=(3, dim))
    for k in range(3):
        learner.add(f"c{k}", quantise(centres[k] + 1e-3 * rng.normal(size=(80, dim))))
    x = queries(5, dim)
    for step in range(200):
        stranger = quantise(rng.normal(size=(1, dim)))
        learner.add("c0", stranger)
        learner.subtract("c0", stranger)
        if step % 10 == 9:
            assert drift(learner, x) <= TOLERANCE


@pytest.mark.parametrize("ridge", [1.0, 1e-2, 1e-3, 1e-4, 1e-5, 1e-7])
def test_inverse_keeps_to_its_budget(ridge: float) -> None:
    """However little of a direction a downdate leaves, the error stays within the budget."""
    rng = np.random.default_rng(1)
    dim = 10
    inverse, followed = Inverse(ridge * np.eye(dim)), 0
    for _ in range(400):
        v = rng.normal(size=dim)
        v /= np.linalg.norm(v)
        assert inverse.update(v[None], 1) is not None
        before = inverse.updates
        if inverse.update(v[None], -1) is None:
            assert inverse.updates == before
            break
        followed += 1
        assert np.abs(inverse.matrix() * ridge - np.eye(dim)).max() <= 100 * ERROR_BUDGET
    assert followed == 400 or ridge < 1e-2


def test_inverse_follows_the_definition_across_the_fold() -> None:
    """Products with waiting terms, and the matrix after the fold, are those of the true inverse."""
    rng = np.random.default_rng(2)
    dim = 6
    matrix = np.eye(dim)
    inverse = Inverse(matrix)
    x = rng.normal(size=(3, dim))
    for i in range(2 * WAITING_UPDATES + 5):
        v = rng.normal(size=(1 + i % 3, dim)) / 4
        found = inverse.update(v, 1, x[1])
        assert found is not None
        before, matrix = np.linalg.inv(matrix), matrix + v.T @ v
        expected = np.linalg.inv(matrix)
        u, weights, square = found
        np.testing.assert_allclose(before + (u.T * weights) @ u, expected, atol=1e-12)
        assert square == pytest.approx(x[1] @ expected @ x[1])
        np.testing.assert_allclose(inverse @ x, x @ expected, atol=1e-12)
        np.testing.assert_allclose(inverse @ x[0], expected @ x[0], atol=1e-12)
        if i % 10 == 0:
            np.testing.assert_allclose(inverse.matrix(), expected, atol=1e-12)


def test_an_impossible_downdate_is_refused() -> None:
    """Taking away more than there is asks for the exact solve."""
    assert Inverse(np.eye(2)).update(np.array([[1.0, 0.0]]), -1) is None
    assert Inverse(np.eye(2)).update(np.array([[2.0, 0.0]]), -1) is None


def test_first_row_of_a_class_adds_nothing_to_the_covariance() -> None:
    """Deep-SLDA's leak: a class's row c + 1 adds c / (c + 1), so its first row adds nothing."""
    rng = np.random.default_rng(4)
    dim = 8
    learner = Learner(State(SPACE, dim), Gaussian(shrinkage=0.2))
    rows = {f"c{k}": quantise(rng.normal(size=(12, dim))) for k in range(5)}
    for class_id in rows:
        learner.add(class_id, rows[class_id][:1])
    assert learner.served.within == 0.0  # type: ignore[attr-defined]
    followed = 0
    for i in range(1, 12):
        for class_id in rows:
            solves = learner.exact_solves
            learner.add(class_id, rows[class_id][i : i + 1])
            followed += learner.exact_solves == solves
            served = learner.served
            scatter = np.zeros((dim, dim))
            for told in rows:
                data = learner.state.kept(told) / 2.0**15
                scatter += (data - data.mean(axis=0)).T @ (data - data.mean(axis=0))
            inverse = served.inverse.matrix()  # type: ignore[attr-defined]
            found = np.linalg.inv(inverse) - served.rho * np.eye(dim)  # type: ignore[attr-defined]
            np.testing.assert_allclose(found, scatter, atol=1e-9)
            assert served.within == pytest.approx(scatter.trace())  # type: ignore[attr-defined]
    assert followed > 10


def test_most_lessons_are_followed_without_a_solve() -> None:
    """With a few hundred rows, a row more or less seldom needs the exact solve."""
    rng = np.random.default_rng(5)
    dim = 32
    for head in (Gaussian(), Ridge(strength=0.1)):
        learner = Learner(State(SPACE, dim), head)
        for k in range(8):
            learner.add(f"c{k}", quantise(rng.normal(size=dim) + 0.5 * rng.normal(size=(50, dim))))
        before = learner.exact_solves
        for i in range(100):
            learner.add(f"c{i % 8}", quantise(rng.normal(size=(1, dim))))
        assert learner.exact_solves - before <= 12
