"""The prototype head: cosine to the class mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from accrue.learn.served import Served
from accrue.learn.state import State
from accrue.learn.statistics import Floats


@dataclass(frozen=True)
class Prototype:
    """Cosine to the class mean (nearest class mean; Snell et al. 2017 for the few-shot use).

    Use it with one shot a class, where no covariance can be known. From a few shots on it is the
    weakest of the heads, because it takes all directions of the embedding to be equally telling.

    Args:
        centred: take the mean of all rows away from prototypes and queries first.

    Cost: an update is O(dim); a prediction O(C dim).
    """

    centred: bool = False
    name: ClassVar[str] = "prototype"

    def solve(self, state: State) -> Served:
        return _PrototypeServed(self, state)


class _PrototypeServed(Served):
    def __init__(self, head: Prototype, state: State) -> None:
        super().__init__(state)
        self._centred = head.centred

    def describe(self) -> str:
        return "prototype, centred" if self._centred else "prototype"

    def _scores(self, x: Floats) -> Floats:
        means = self.means
        if self._centred and len(self) > 1:
            centre = self.n @ means / self.n.sum()
            means, x = means - centre, x - centre
        lengths = np.linalg.norm(means, axis=1)
        own = np.linalg.norm(x, axis=1, keepdims=True)
        cosine: Floats = (x @ means.T) / np.maximum(lengths * own, 1e-12)  # (n, C)
        return cosine

    def _follow_row(self, k: int, x: Floats, sign: int) -> bool:
        return True

    def _settle(self, state: State) -> bool:
        return True

    def _left_out(self, k: int, x: Floats) -> Floats:
        n, m = float(self.n[k]), len(x)
        without = (n * self.means[k] - x.sum(axis=0)) / (n - m)
        scores: Floats = self._scores(x)
        norms = np.linalg.norm(without) * np.linalg.norm(x, axis=1)
        scores[:, k] = x @ without / np.maximum(norms, 1e-12)
        mean: Floats = scores.mean(axis=0)
        return mean
