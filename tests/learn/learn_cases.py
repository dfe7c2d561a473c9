"""Small data sets and textbook formulas that the learning tests compare with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from accrue.learn import HEADS, Gaussian, Learner, Prototype, Ridge, State, quantise
from accrue.learn.served import Head, Served
from accrue.learn.statistics import SCALE, Floats, Rows

SPACE = "5e" * 32
OTHER_SPACE = "a0" * 32

NON_DEFAULT: dict[str, Head] = {
    "prototype": Prototype(centred=True),
    "gaussian": Gaussian(shrinkage=0.03, priors={"c0": 0.5, "c1": 0.2}),
    "ridge": Ridge(strength=0.02),
}
DEFAULT: dict[str, Head] = {name: head() for name, head in HEADS.items()}
ALL_HEADS = [
    *((f"{name}-default", head) for name, head in DEFAULT.items()),
    *((f"{name}-other", NON_DEFAULT[name]) for name in HEADS),
]
each_head = pytest.mark.parametrize("head", [pytest.param(h, id=n) for n, h in ALL_HEADS])


def classes(
    counts: Mapping[str, int], dim: int, seed: int = 0, spread: float = 0.4
) -> dict[str, Rows]:
    """int16 rows of classes whose centres are random directions."""
    rng = np.random.default_rng(seed)
    made: dict[str, Rows] = {}
    for class_id, n in counts.items():
        centre = rng.normal(size=dim) / np.sqrt(dim)
        made[class_id] = quantise(centre + spread * rng.normal(size=(n, dim)) / np.sqrt(dim))
    return made


def queries(n: int, dim: int, seed: int = 1) -> Floats:
    x = np.random.default_rng(seed).normal(size=(n, dim))
    unit: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def taught(rows: Mapping[str, Rows], dim: int) -> State:
    state = State(SPACE, dim)
    for class_id, class_rows in rows.items():
        state.add(class_id, class_rows)
    return state


def by_id(served: Served, x: Floats) -> Floats:
    """Scores with their columns in the order of sorted class ids."""
    return served.scores(x)[:, np.argsort(np.array(served.ids, dtype=object), kind="stable")]


def off_by(found: Floats, expected: Floats) -> float:
    """Largest difference, relative to the largest expected score."""
    assert found.shape == expected.shape
    if not expected.size:
        return 0.0
    difference = np.abs(found - expected).max()
    return float(difference / max(np.abs(expected).max(), 1e-300)) if difference else 0.0


def exact_head(learner: Learner) -> Head:
    """The head to solve exactly for comparison: ridge with the strength that is in force."""
    if isinstance(learner.head, Ridge):
        return Ridge(strength=learner.served.strength)  # type: ignore[attr-defined]
    return learner.head


def drift(learner: Learner, x: Floats) -> float:
    """How far the served scores are from the exact solve."""
    exact = exact_head(learner).solve(learner.state)
    assert sorted(learner.served.ids) == sorted(exact.ids)
    return off_by(by_id(learner.served, x), by_id(exact, x))


def unit(rows: Rows) -> Floats:
    values: Floats = rows.astype(np.float64) / SCALE
    return values


def textbook(served: Served, rows: Mapping[str, Rows], x: Floats) -> Floats:
    """Scores of a refit on `rows`, from the definition, the regulariser of `served` held.

    The columns are in the order of `served.ids`.
    """
    data = [unit(rows[class_id]) for class_id in served.ids]
    means = np.array([d.mean(axis=0) for d in data])
    if hasattr(served, "rho"):
        scatter = sum((d - d.mean(axis=0)).T @ (d - d.mean(axis=0)) for d in data)
        weights = np.linalg.solve(scatter + served.rho * np.eye(x.shape[1]), means.T)
        bias = -np.einsum("kd,dk->k", means, weights) / 2
        scores: Floats = served.scale * (x @ weights + bias) + served.log_priors  # type: ignore[attr-defined]
        return scores
    joint = np.vstack(data)
    if hasattr(served, "lam"):
        one_hot = np.repeat(np.eye(len(data)), [len(d) for d in data], axis=0)
        z = joint - joint.mean(axis=0)
        weights = np.linalg.solve(
            z.T @ z + served.lam * np.eye(x.shape[1]), z.T @ (one_hot - one_hot.mean(axis=0))
        )
        return (x - joint.mean(axis=0)) @ weights + one_hot.mean(axis=0)
    if "centred" in served.describe():
        means, x = means - joint.mean(axis=0), x - joint.mean(axis=0)
    scores = (x @ means.T) / np.linalg.norm(means, axis=1)
    return scores / np.linalg.norm(x, axis=1, keepdims=True)
