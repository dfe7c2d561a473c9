"""Small data sets and textbook formulas that the learning tests compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from accrue.learn import (
    HEADS,
    Calibrated,
    Cosine,
    Fused,
    Gaussian,
    Learner,
    Prototype,
    RandomFeatures,
    Ridge,
    State,
    quantise,
)
from accrue.learn.served import Head, Served
from accrue.learn.statistics import SCALE, Floats, Rows

SPACE = "5e" * 32
OTHER_SPACE = "a0" * 32

NON_DEFAULT: dict[str, Head] = {
    "prototype": Prototype(centred=True),
    "gaussian": Gaussian(shrinkage=0.03, priors={"c0": 0.5, "c1": 0.2}),
    "ridge": Ridge(strength=0.02),
    "cosine": Cosine(shrinkage=0.2),
    "random": RandomFeatures(width=24, strength=0.1, seed=3),
    "calibrated": Calibrated(Cosine(0.3), share=0.4, sharpness=5.0),
    "fused": Fused(Gaussian(0.4), Prototype(), share=0.3),
}
DEFAULT: dict[str, Head] = {
    name: RandomFeatures(width=40) if name == "random" else head() for name, head in HEADS.items()
}
ALL_HEADS = [
    *((f"{name}-default", head) for name, head in DEFAULT.items()),
    *((f"{name}-other", NON_DEFAULT[name]) for name in HEADS),
]
each_head = pytest.mark.parametrize("head", [pytest.param(h, id=n) for n, h in ALL_HEADS])
# random features are of rows, so there is nothing to make of folded statistics
each_head_of_sums = pytest.mark.parametrize(
    "head", [pytest.param(h, id=n) for n, h in ALL_HEADS if not isinstance(h, RandomFeatures)]
)


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
    return _in_force(learner.head, learner.served)


def _in_force(head: Head, served: Any) -> Head:
    if isinstance(head, Ridge):
        return Ridge(strength=served.strength)
    if isinstance(head, RandomFeatures):
        return replace(head, strength=served._ridge.strength)
    if isinstance(head, Fused):
        first = _in_force(head.first, served._first)
        return replace(head, first=first, second=_in_force(head.second, served._second))
    return head


def drift(learner: Learner, x: Floats) -> float:
    """How far the served scores are from the exact solve."""
    exact = exact_head(learner).solve(learner.state)
    assert sorted(learner.served.ids) == sorted(exact.ids)
    return off_by(by_id(learner.served, x), by_id(exact, x))


def unit(rows: Rows) -> Floats:
    values: Floats = rows.astype(np.float64) / SCALE
    return values


def textbook(served: Served, rows: Mapping[str, Rows], x: Floats, *, held: bool = False) -> Floats:
    """Scores of a refit on `rows`, from the definition, the regulariser of `served` held.

    The columns are in the order of `served.ids`.
    """
    found: Any = served
    data = [unit(rows[class_id]) for class_id in served.ids]
    if isinstance(getattr(found, "head", None), Calibrated):
        return (
            textbook(found._cosine, rows, x) @ (found._mixed if held else _leaning(found, rows)).T
        )
    if hasattr(found, "_share"):
        share = found._share
        inner = [found._first, found._second]
        means = np.array([d.mean(axis=0) for d in data])
        spreads = [textbook(one, rows, means).std(axis=1).mean() for one in inner]
        scores = [textbook(one, rows, x) for one in inner]
        if held:  # left-out scores: the spreads are held as well
            spreads = [one.scores(served.means).std(axis=1).mean() for one in inner]
        first, second = (
            (s - s.mean(axis=1, keepdims=True)) / spread
            for s, spread in zip(scores, spreads, strict=True)
        )
        return (1 - share) * first + share * second
    if hasattr(found, "_expanded"):
        expanded = {c: _relu(found, r.astype(np.float64)) for c, r in rows.items()}
        return textbook(
            found._ridge, {c: quantise(e) for c, e in expanded.items()}, _relu(found, x)
        )
    means = np.array([d.mean(axis=0) for d in data])
    if hasattr(found, "rho"):
        scatter = sum((d - d.mean(axis=0)).T @ (d - d.mean(axis=0)) for d in data)
        precision = np.linalg.inv(scatter + found.rho * np.eye(x.shape[1]))
        if found.describe().startswith("cosine"):
            root = np.linalg.cholesky(precision)
            centre = means.mean(axis=0) if len(means) > 1 else np.zeros(x.shape[1])
            return _unit_length((x - centre) @ root) @ _unit_length((means - centre) @ root).T
        weights = precision @ means.T
        bias = -np.einsum("kd,dk->k", means, weights) / 2
        logits: Floats = found.scale * (x @ weights + bias) + found.log_priors
        return logits
    joint = np.vstack(data)
    if hasattr(found, "lam"):
        one_hot = np.repeat(np.eye(len(data)), [len(d) for d in data], axis=0)
        z = joint - joint.mean(axis=0)
        weights = np.linalg.solve(
            z.T @ z + found.lam * np.eye(x.shape[1]), z.T @ (one_hot - one_hot.mean(axis=0))
        )
        regressed: Floats = (x - joint.mean(axis=0)) @ weights + one_hot.mean(axis=0)
        return regressed
    if "centred" in found.describe():
        means, x = means - joint.mean(axis=0), x - joint.mean(axis=0)
    return _unit_length(x) @ _unit_length(means).T


def _leaning(served: Any, rows: Mapping[str, Rows]) -> Floats:
    means = np.array([unit(rows[class_id]).mean(axis=0) for class_id in served.ids])
    alike = textbook(served._cosine, rows, means)
    return np.array(
        [
            row / np.sqrt(row @ alike @ row)
            for row in (_leaning_row(alike[k], k, served.head) for k in range(len(alike)))
        ]
    )


def _leaning_row(alike: Floats, k: int, head: Calibrated) -> Floats:
    weights = np.exp(head.sharpness * alike)
    weights[k] = 0
    row: Floats = head.share * weights / weights.sum()
    row[k] = 1 - head.share
    return row


def _relu(served: Any, x: Floats) -> Floats:
    return _unit_length(np.maximum(x @ served._weights, 0))


def _unit_length(x: Floats) -> Floats:
    found: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found
