"""Moments that look alike come in one group, whatever varies within every class."""

from __future__ import annotations

import numpy as np
import pytest

from accrue.learn import State, quantise
from accrue.learn.clusters import _average_linkage, clusters

DIM = 24


def scene(rng: np.random.Generator, centre: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """A view of a thing: its centre, strong common variation, little of its own."""
    return centre + nuisance * rng.normal(0, 3.0) + rng.normal(0, 0.05, DIM)


@pytest.fixture
def world() -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    centres = rng.normal(0, 0.5, (28, DIM))
    nuisance = rng.normal(0, 1, DIM)
    return rng, centres, nuisance / np.linalg.norm(nuisance)


def taught(
    rng: np.random.Generator, centres: np.ndarray, nuisance: np.ndarray, classes: int
) -> State:
    state = State("0" * 64, DIM)
    for k in range(classes):
        rows = quantise(np.array([scene(rng, centres[k], nuisance) for _ in range(20)]))
        state.add(f"class {k}", rows)
    return state


def test_what_varies_within_classes_does_not_part_a_group(world: tuple) -> None:
    rng, centres, nuisance = world
    owners = [24, 25, 26, 27] * 5
    moments = [quantise(scene(rng, centres[k], nuisance)[None]) for k in owners]
    groups = clusters(moments, taught(rng, centres, nuisance, 24))
    assert groups == [0, 1, 2, 3] * 5
    assert len(set(clusters(moments, State("0" * 64, DIM)))) > 4  # nothing taught: light parts them


def test_without_anything_taught_plain_likeness_makes_groups() -> None:
    a, b = np.eye(DIM)[:2]
    rng = np.random.default_rng(0)
    moments = [quantise((base + rng.normal(0, 0.02, DIM))[None]) for base in (a, b, a, b, b)]
    assert clusters(moments, State("0" * 64, DIM)) == [0, 1, 0, 1, 1]
    assert clusters([], State("0" * 64, DIM)) == []


def test_the_order_of_moments_does_not_change_who_is_with_whom(world: tuple) -> None:
    rng, centres, nuisance = world
    state = taught(rng, centres, nuisance, 24)
    moments = [quantise(scene(rng, centres[24 + i % 4], nuisance)[None]) for i in range(16)]
    order = rng.permutation(16)
    first = clusters(moments, state)
    second = clusters([moments[i] for i in order], state)
    pairs = {(i, j): first[i] == first[j] for i in range(16) for j in range(16)}
    assert all(pairs[order[i], order[j]] == (second[i] == second[j]) for i in range(16) for j in range(16))  # fmt: skip  # noqa: E501


def test_linkage_is_that_of_scipy() -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (60, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = _average_linkage(x @ x.T, 0.2)
    tree = hierarchy.linkage(x, "average", metric="cosine")
    expected = hierarchy.fcluster(tree, 1 - 0.2, "distance")
    assert len(set(found)) == len(set(expected))
    assert len(set(zip(found, expected.tolist(), strict=True))) == len(set(found))
