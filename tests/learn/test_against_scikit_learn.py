"""Each head is what an independent batch solve of the same method gives."""

from __future__ import annotations

import numpy as np
import pytest
from learn_cases import classes, off_by, queries, taught, textbook, unit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge as SkRidge
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics.pairwise import cosine_similarity

from accrue.learn import Gaussian, Prototype, Ridge, Statistics
from accrue.learn.ridge import GCV_OCTAVES

DIM = 20
X = queries(30, DIM)
SETS = {
    "more rows than dimensions": classes({"a": 40, "b": 7, "c": 25, "d": 12}, DIM),
    "fewer rows than dimensions": classes({"a": 3, "b": 2, "c": 5}, DIM, seed=1),
    "a one-shot class": classes({"a": 10, "b": 1, "c": 4}, DIM, seed=2),
    "tight classes": classes({"a": 9, "b": 9, "c": 9}, DIM, seed=3, spread=0.02),
}
each_set = pytest.mark.parametrize("case", SETS)


def labelled(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.vstack([unit(r) for r in rows.values()]),
        np.repeat(np.arange(len(rows)), [len(r) for r in rows.values()]),
    )


@pytest.mark.filterwarnings("ignore:Only one sample available:UserWarning")
@each_set
@pytest.mark.parametrize("shrinkage", [None, 0.3, 0.01])
def test_gaussian_is_linear_discriminant_analysis(case: str, shrinkage: float | None) -> None:
    """Scores equal scikit-learn's LDA (lsqr) with the shrinkage in force and the same priors."""
    rows = SETS[case]
    data, labels = labelled(rows)
    shares = {c: len(r) / len(data) for c, r in rows.items()}
    served = Gaussian(shrinkage, priors=shares).solve(taught(rows, DIM))
    lda = LinearDiscriminantAnalysis(
        solver="lsqr",
        shrinkage=served.shrinkage,  # type: ignore[attr-defined]
        priors=list(shares.values()),
    ).fit(data, labels)
    assert off_by(served.scores(X), lda.decision_function(X)) <= 1e-6
    assert off_by(served.scores(X), textbook(served, rows, X)) <= 1e-6


@each_set
def test_gaussian_shrinkage_is_the_rule_to_a_grid_point(case: str) -> None:
    """Without a shrinkage it is dim / (dim + N - 1), with one it is that, to a grid point."""
    rows = SETS[case]
    n = sum(len(r) for r in rows.values())

    def odds(share: float) -> float:
        return share / (1 - share)

    for asked, head in ((DIM / (DIM + n - 1), Gaussian()), (0.3, Gaussian(0.3))):
        served = head.solve(taught(rows, DIM))
        ratio = odds(served.shrinkage) / odds(asked)  # type: ignore[attr-defined]
        assert 2 ** (-1 / 16) * (1 - 1e-9) <= ratio <= 2 ** (1 / 16) * (1 + 1e-9)


def test_gaussian_with_one_shot_a_class_is_the_nearest_mean() -> None:
    """Where nothing is known of the spread, the class with the nearest mean wins."""
    rows = {c: r[:1] for c, r in SETS["more rows than dimensions"].items()}
    served = Gaussian().solve(taught(rows, DIM))
    means = np.vstack([unit(r) for r in rows.values()])
    nearest = ((X[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(served.scores(X).argmax(axis=1), nearest)


def test_gaussian_priors() -> None:
    """Named priors are taken, the others share what is left, and none named means all equal."""
    rows = SETS["more rows than dimensions"]
    state = taught(rows, DIM)
    flat, given = Gaussian(), Gaussian(priors={"b": 0.7, "absent": 0.1})
    shift = given.solve(state).scores(X) - flat.solve(state).scores(X)
    expected = np.log([0.1, 0.7, 0.1, 0.1]) - np.log(0.25)
    np.testing.assert_allclose(shift, np.broadcast_to(expected, shift.shape), atol=1e-9)


@each_set
@pytest.mark.parametrize("strength", [None, 1.0, 0.01])
def test_ridge_is_ridge_regression_of_one_hot_labels(case: str, strength: float | None) -> None:
    """Scores equal scikit-learn's Ridge on one-hot labels, and RidgeClassifier's decision."""
    rows = SETS[case]
    data, labels = labelled(rows)
    served = Ridge(strength).solve(taught(rows, DIM))
    alpha = served.lam  # type: ignore[attr-defined]
    fitted = SkRidge(alpha=alpha, solver="svd").fit(data, np.eye(len(rows))[labels])
    assert off_by(served.scores(X), fitted.predict(X)) <= 1e-6
    decision = RidgeClassifier(alpha=alpha, solver="svd").fit(data, labels).decision_function(X)
    assert off_by(2 * served.scores(X) - 1, decision) <= 1e-6
    assert off_by(served.scores(X), textbook(served, rows, X)) <= 1e-6


@each_set
def test_ridge_strength_is_the_best_by_cross_validation(case: str) -> None:
    """The strength chosen is the one with the least GCV, computed with the hat matrix."""
    rows = SETS[case]
    data, labels = labelled(rows)
    one_hot = np.eye(len(rows))[labels]
    n = len(data)
    mean_eigenvalue = (data**2).sum() / DIM
    z = data - data.mean(axis=0)
    costs = {}
    for octave in GCV_OCTAVES:
        penalty = 2.0**octave * mean_eigenvalue * np.eye(DIM)
        hat = z @ np.linalg.solve(z.T @ z + penalty, z.T) + 1 / n
        residual = ((one_hot - hat @ one_hot) ** 2).sum() / n
        costs[2.0**octave] = residual / (1 - np.trace(hat) / n) ** 2
    chosen = Ridge().solve(taught(rows, DIM)).strength  # type: ignore[attr-defined]
    assert costs[chosen] <= min(costs.values()) * (1 + 1e-9)


@pytest.mark.parametrize("centred", [False, True])
@each_set
def test_prototype_is_the_cosine_to_the_mean(case: str, centred: bool) -> None:
    """Scores equal scikit-learn's cosine similarity to the class means, centred or not."""
    rows = SETS[case]
    means = np.array([unit(r).mean(axis=0) for r in rows.values()])
    centre = np.vstack([unit(r) for r in rows.values()]).mean(axis=0) if centred else 0.0
    expected = cosine_similarity(X - centre, means - centre)
    served = Prototype(centred).solve(taught(rows, DIM))
    assert off_by(served.scores(X), expected) <= 1e-9
    assert off_by(served.scores(3 * X), expected) <= 1e-9 or centred


def test_heads_see_sums_not_rows() -> None:
    """A head solved from folded statistics is the head solved from the rows."""
    rows = SETS["more rows than dimensions"]
    folded = taught({}, DIM)
    for class_id, class_rows in rows.items():
        folded.add_statistics(class_id, Statistics.of(class_rows))
    for head in (Prototype(), Gaussian(), Ridge()):
        a, b = head.solve(folded), head.solve(taught(rows, DIM))
        np.testing.assert_array_equal(a.scores(X), b.scores(X))
