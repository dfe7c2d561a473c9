"""Which rows stay: those whose moments are nearest to those of all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from learn_cases import classes, unit

from accrue.learn import reduce
from accrue.learn.reduce import dispensable
from accrue.learn.statistics import Rows


def discrepancy(kept: list[Rows], every: list[Rows]) -> float:
    """Squared distance of mean and second moment, per row, by their definition."""

    def moments(shots: list[Rows]) -> np.ndarray:
        x = unit(np.concatenate(shots))
        pairs = np.einsum("ni,nj->nij", x, x).reshape(len(x), -1)
        return np.concatenate([np.sqrt(2) * x, pairs], axis=1).mean(axis=0)

    return float(((moments(kept) - moments(every)) ** 2).sum())


@pytest.mark.parametrize("sizes", [[1], [3, 1, 2]], ids=str)
def test_each_step_lets_go_of_the_shot_that_leaves_the_moments_nearest(sizes: list[int]) -> None:
    """Compared with trying every shot, by explicit moments."""
    rows = classes({"a": 18}, 5, seed=2)["a"]
    shots, at = [], 0
    for size in itertools.cycle(sizes):
        shots.append(rows[at : at + size])
        at += size
        if at >= len(rows):
            break
    gone = dispensable(shots, 6)
    present = list(range(len(shots)))
    for i in gone:
        tried = {
            j: discrepancy([shots[k] for k in present if k != j], shots)
            for j in present
            if len(present) > 1
        }
        assert tried[i] == pytest.approx(min(tried.values()), abs=1e-12)
        present.remove(i)
    left = sum(len(shots[i]) for i in present)
    assert left <= 6 < left + len(shots[gone[-1]])


def test_nothing_goes_where_all_may_stay_and_all_where_none_may() -> None:
    """The ends of the range."""
    shots = [r[None] for r in classes({"a": 4}, 6)["a"]]
    assert dispensable(shots, 4) == []
    assert sorted(dispensable(shots, 0)) == [0, 1, 2, 3]


def test_the_kernel_is_bounded_by_looking_at_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more rows than fit, the newest are no candidates, and as many go as must."""
    monkeypatch.setattr(reduce, "MOST_ROWS", 6)
    shots = [r[None] for r in classes({"a": 12}, 6)["a"]]
    gone = dispensable(shots, 9)
    assert len(gone) == 3
    assert max(gone) < 6


def test_only_candidates_go() -> None:
    """The first ones alone, even where that leaves too many."""
    shots = [r[None] for r in classes({"a": 8}, 6)["a"]]
    assert max(dispensable(shots, 5, candidates=4)) < 4
    assert sorted(dispensable(shots, 1, candidates=3)) == [0, 1, 2]
    assert dispensable(shots, 1, candidates=0) == []
