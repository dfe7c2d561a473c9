"""What every head shares: solved exactly, then followed row by row.

A head is a pure function of a `State`: `solve` computes it exactly, in O(dim**3 + C dim**2).
What `solve` returns, a `Served` head, can then follow the state shot by shot in O(m dim**2): with
m more rows each matrix involved changes by rank m (Woodbury 1950), and the class vectors are never
multiplied out, so that teaching touches one of them. `Learner` keeps the two
together and solves exactly again where an update cannot follow.

Scores are in units of the embedding's own length: rows are divided by 2**15.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from accrue.errors import RowsError
from accrue.learn.state import State
from accrue.learn.statistics import SCALE, Floats, Rows

STEPS_PER_OCTAVE = 8
SPARE_CLASSES = 16  # room for new ones, so that the first needs no copy of all
WAITING_UPDATES = 32  # rank-one terms kept apart from the inverse before they are folded in
ROWS_AT_ONCE = 24  # of a lesson; each is one such term, and their mean one more
ROUNDING = 2.0**-52  # of one float64 operation, relative
RESOLVE_AFTER = 4096  # updates after which the exact solve takes rounding away again
ONE: Floats = np.ones((1, 1))  # the axes of a single row
ERROR_BUDGET = 1e-9  # relative error of an inverse from downdates; 1e-6 is what is promised


def on_grid(value: float) -> float:
    """The nearest power of ``2**(1/8)``.

    A regulariser tied to the trace of the data would move with every row and turn each update
    into a full solve. On this grid it is still a pure function of the statistics, is within 4.5 %
    of what was asked for, and stands still between grid points.
    """
    return float(2.0 ** (round(STEPS_PER_OCTAVE * math.log2(value)) / STEPS_PER_OCTAVE))


class Inverse:
    """A symmetric positive definite inverse, and the rank-one terms that wait beside it."""

    def __init__(self, matrix: Floats) -> None:
        """Inverts `matrix`, float64 (dim, dim), symmetric positive definite."""
        inverse = np.linalg.inv(matrix)
        self.base: Floats = (inverse + inverse.T) / 2
        self._vectors: Floats = np.empty((WAITING_UPDATES, len(matrix)))
        self._weights: Floats = np.empty(WAITING_UPDATES)
        self._waiting = 0
        self._error = 0.0
        self.updates = 0

    def __matmul__(self, x: Floats) -> Floats:
        """``R x`` for x (dim,), or row by row for x (n, dim)."""
        y: Floats = (self.base @ x.T).T  # twice as fast as x @ base for two rows, which a shot is
        if self._waiting:
            u = self._vectors[: self._waiting]
            y += ((x @ u.T) * self._weights[: self._waiting]) @ u
        return y

    def matrix(self) -> Floats:
        self._fold()
        return self.base

    def update(
        self, V: Floats, sign: float, x: Floats | None = None
    ) -> tuple[Floats, Floats, float] | None:
        """Follows ``M + sign V^T V`` (Woodbury 1950): ``R`` gains ``U^T diag(w) U``.

        A downdate that leaves the share ``pivot`` of a direction magnifies the rounding in it by
        ``1 / pivot**2`` at most; the sum of those is the error counted against `ERROR_BUDGET`.

        Args:
            V: float64 (r, dim), at most `WAITING_UPDATES` rows.
            x: float64 (dim,), a vector whose ``x . R x`` is asked for in the same pass over R.

        Returns:
            U (r, dim), w (r,) and ``x . R x`` after the update; None where the error is used up.
        """
        image = self @ (V if x is None else np.vstack([V, x]))
        U = image[: len(V)]
        gain = np.eye(len(V)) + sign * (V @ U.T)
        pivots, axes = (gain[0], ONE) if len(V) == 1 else np.linalg.eigh(gain)
        if sign < 0:
            smallest = pivots[0] if len(pivots) else 1.0
            self._error += ROUNDING * float((pivots**-2.0).sum()) if smallest > 0 else math.inf
        if self._error > ERROR_BUDGET or self.updates >= RESOLVE_AFTER:
            return None
        if self._waiting + len(V) > WAITING_UPDATES:
            self._fold()
        U, weights = axes.T @ U, -sign / pivots
        waiting = slice(self._waiting, self._waiting + len(V))
        self._vectors[waiting], self._weights[waiting] = U, weights
        self._waiting += len(V)
        self.updates += len(V)
        return U, weights, 0.0 if x is None else float(x @ image[-1] + (U @ x) ** 2 @ weights)

    def _fold(self) -> None:
        if self._waiting:
            u = self._vectors[: self._waiting]
            self.base += (u.T * self._weights[: self._waiting]) @ u
            self._waiting = 0


class Served:
    """A solved head: class ids, their counts and means, and what the head adds to them.

    Attributes:
        ids: class ids, one for each column of `scores`. Removing a class may reorder them.
    """

    def __init__(self, state: State) -> None:
        self.dim = state.dim
        self.ids: list[str] = list(state)
        self.index = {class_id: k for k, class_id in enumerate(self.ids)}
        counts = state.counts()
        room = len(counts) + SPARE_CLASSES + len(counts) // 8
        self._n: Floats = np.zeros(room)
        self._n[: len(counts)] = counts
        self._means: Floats = np.zeros((room, state.dim))
        np.divide(state.sums(), counts[:, None] * SCALE, out=self._means[: len(counts)])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n(self) -> Floats:
        """Rows of each class: float64 (n_classes,)."""
        return self._n[: len(self.ids)]

    @property
    def means(self) -> Floats:
        """Mean embedding of each class: float64 (n_classes, dim), not unit length."""
        return self._means[: len(self.ids)]

    def scores(self, x: NDArray[Any]) -> Floats:
        """Scores, higher is better: float (n, dim) embeddings to float64 (n, n_classes)."""
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise RowsError(
                f"embeddings of shape {x.shape}; expected (n, {self.dim})",
                found=x.shape,
                expected=self.dim,
            )
        return self._scores(x.astype(np.float64))

    def _scores(self, x: Floats) -> Floats:
        raise NotImplementedError

    def top(self, x: NDArray[Any], most: int) -> tuple[NDArray[np.intp], Floats]:
        """The best classes of one query, without telling the scores of all.

        Args:
            x: float (dim,).

        Returns:
            Positions in `ids` of the `most` best classes (all where there are fewer), best first,
            and their scores, as `scores` gives them.
        """
        scores = self.scores(np.asarray(x)[None])[0]
        order = best_of(scores, most)
        return order, scores[order]

    def describe(self) -> str:
        """Name and the parameters in force, for people."""
        raise NotImplementedError

    def follow(self, state: State, class_id: str, rows: Rows, sign: int) -> bool:
        """Follows rows that `state` has just gained (sign +1) or lost (-1).

        Returns:
            False where only an exact solve will do; this object is then no longer to be used.
        """
        k = self.index.get(class_id)
        if k is None:
            k = self._append(class_id)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            x = rows[start : start + ROWS_AT_ONCE].astype(np.float64) / SCALE
            n = self._n[k] + sign * len(x)
            if n == 0:
                mean = np.zeros(self.dim)
            elif start + len(x) == len(rows):
                # the exact sum, so that means carry no rounding along
                mean = state.sum(class_id) / (n * SCALE)
            else:
                mean = (self._n[k] * self._means[k] + sign * x.sum(axis=0)) / n
            if not self._follow_rows(k, x, sign, mean):
                return False
            self._n[k], self._means[k] = n, mean
            if n == 0:
                self._drop(k)
        return self._settle(state)

    def _follow_rows(self, k: int, x: Floats, sign: int, mean: Floats) -> bool:
        """Called before class k gains or loses rows x (m, dim), after which it has this mean."""
        raise NotImplementedError

    def _settle(self, state: State) -> bool:
        """Whether the parameters in force still are those that `state` asks for."""
        raise NotImplementedError

    def left_out(
        self, k: int, blocks: Sequence[Sequence[Floats]], views: int | None = None
    ) -> list[Floats | None]:
        """What `scores` would say of shots of class k, had their block never been taught.

        Args:
            blocks: shots that are left out together, float64 (m, dim) each, kept rows of class k.
            views: how many of a shot's first rows make a query, as their mean; None for all.

        Returns:
            float64 (shots, n_classes) for each block; None for one that is all of its class.
        """
        n = self.n[k]
        found: list[Floats | None] = []
        for block in blocks:
            rows = np.vstack(block)
            queries = query_rows(block, views) @ rows
            found.append(self._left_out(k, rows, queries) if n > len(rows) else None)
        return found

    def _left_out(self, k: int, x: Floats, queries: Floats) -> Floats:
        """`left_out` of one block of rows x (m, dim), asked with queries (shots, dim)."""
        raise NotImplementedError

    def _append(self, class_id: str) -> int:
        k = len(self.ids)
        if k == len(self._n):
            self._grow(2 * k)
        self._n[k] = 0
        self._means[k] = 0
        self.ids.append(class_id)
        self.index[class_id] = k
        return k

    def _grow(self, size: int) -> None:
        for name, value in self.__dict__.items():
            if name in self.per_class:
                grown = np.zeros((size, *value.shape[1:]))
                grown[: len(value)] = value
                setattr(self, name, grown)

    per_class: ClassVar[tuple[str, ...]] = ("_n", "_means")

    def _drop(self, k: int) -> None:
        """Removes class k; the last class takes its place."""
        last = len(self.ids) - 1
        del self.index[self.ids[k]]
        if k != last:
            for name in self.per_class:
                column = getattr(self, name)
                column[k] = column[last]
            self.ids[k] = self.ids[last]
            self.index[self.ids[k]] = k
        self.ids.pop()


def best_of(scores: Floats, most: int) -> NDArray[np.intp]:
    """Positions of the largest values of float64 (n,), largest first, ties in their order."""
    if most < len(scores):
        least = np.partition(scores, -most)[-most]
        chosen = np.flatnonzero(scores >= least)
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")[:most]]


def scatter_change(x: Floats, n: float, mean: Floats, sign: int) -> Floats:
    """What rows add to the scatter of n others about their common mean, or take from it.

    Args:
        x: float64 (m, dim), to be added to n rows of this mean, or to be taken from among them.

    Returns:
        V, float64 (m or m + 1, dim): the scatter changes by ``sign V^T V``.
    """
    m, centre = len(x), x.mean(axis=0)
    about: Floats = x - centre
    if n == 0 or n + sign * m == 0:
        return about
    shift = math.sqrt(n * m / (n + sign * m)) * (centre - mean)
    return np.array([shift] if m == 1 else [*about, shift])


def query_rows(block: Sequence[Floats], views: int | None) -> Floats:
    """The matrix that averages the first `views` rows of each shot: float64 (shots, rows)."""
    mean = np.zeros((len(block), sum(len(shot) for shot in block)))
    start = 0
    for i, shot in enumerate(block):
        used = len(shot) if views is None else min(views, len(shot))
        mean[i, start : start + used] = 1 / used
        start += len(shot)
    return mean


class Head(Protocol):
    """What a head is: a name, and a pure function from statistics to a served head."""

    name: ClassVar[str]

    def solve(self, state: State) -> Served: ...
