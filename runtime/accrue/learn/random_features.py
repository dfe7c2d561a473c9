"""The random-feature head: ridge regression on a random expansion of the embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from accrue.errors import Refused, UsageError
from accrue.learn.ridge import Ridge
from accrue.learn.served import Served
from accrue.learn.state import State
from accrue.learn.statistics import SCALE, Floats, Rows, quantise

LARGEST_WIDTH = 16_384
_STEPS = 32  # of one standard deviation


@dataclass(frozen=True)
class RandomFeatures:
    """Ridge regression of one-hot labels on ``relu(W x)``, W a seeded gaussian matrix.

    The random projection of RanPAC (McDonnell et al. 2023, eq. 6 and 7) with the exact sums of
    everything here: expanded rows are quantised like embeddings. For bigger devices: the matrix
    to invert is (width, width). It needs the rows themselves, so it cannot serve classes whose
    rows have been folded into statistics.

    Args:
        width: number of random features, 1 to 16,384.
        strength: as of `Ridge`. seed: of W.

    Cost: memory 16 * width**2 bytes; one row more is O(width**2).
    """

    width: int = 1024
    strength: float | None = None
    seed: int = 0
    name: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        Ridge(self.strength)  # checks it
        if not 1 <= self.width <= LARGEST_WIDTH:
            raise UsageError(
                f"{self.width} random features; expected 1 to {LARGEST_WIDTH:,}", found=self.width
            )

    def solve(self, state: State) -> Served:
        folded = state.folded()
        if folded:
            raise Refused(
                f"the random-feature head needs the rows of each class; {len(folded)} of "
                f"{len(state)} classes have theirs folded into statistics",
                hint="use another head: --head auto",
            )
        return _RandomServed(self, state)


class _RandomServed(Served):
    def __init__(self, head: RandomFeatures, state: State) -> None:
        super().__init__(state)
        normal = np.random.default_rng(head.seed).standard_normal((state.dim, head.width))
        # whole numbers, so that a row's features are exact whatever batch it is expanded in
        self._weights: Floats = np.clip(np.rint(normal * _STEPS), -127, 127)
        self._expanded = State(state.space, head.width)
        for class_id in state:
            self._expanded.add(class_id, self._quantised(state.kept(class_id)))
        self._ridge = Ridge(head.strength).solve(self._expanded)

    def _expand(self, x: Floats) -> Floats:
        """Features of any length: float64 (n, dim) to (n, width)."""
        h = np.maximum(x @ self._weights, 0)
        # a row on the dark side of every plane has all features alike
        return np.where(h.any(axis=1, keepdims=True), h, 1.0)

    def _quantised(self, rows: Rows) -> Rows:
        return quantise(self._expand(rows.astype(np.float64)))

    def describe(self) -> str:
        return f"random features {self._expanded.dim}, {self._ridge.describe()}"

    def _scores(self, x: Floats) -> Floats:
        if not self.ids:
            return np.empty((len(x), 0))
        return self._ridge.scores(self._unit(x))

    def _unit(self, x: Floats) -> Floats:
        h = self._expand(x)
        unit: Floats = h / np.linalg.norm(h, axis=1, keepdims=True)
        return unit

    def follow(self, state: State, class_id: str, rows: Rows, sign: int) -> bool:
        expanded = self._quantised(rows)
        if sign > 0:
            self._expanded.add(class_id, expanded)
        else:
            self._expanded.subtract(class_id, expanded)
        followed = self._ridge.follow(self._expanded, class_id, expanded, sign)
        return super().follow(state, class_id, rows, sign) and followed

    def _follow_rows(self, k: int, x: Floats, sign: int, mean: Floats) -> bool:
        return True

    def _settle(self, state: State) -> bool:
        return self._ridge.ids == self.ids

    def _left_out(self, k: int, x: Floats, queries: Floats) -> Floats:
        rows = quantise(self._expand(x * SCALE)).astype(np.float64) / SCALE
        return self._ridge._left_out(k, rows, self._unit(queries))
