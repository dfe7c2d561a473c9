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
    per_class: ClassVar[tuple[str, ...]] = ("_n", "_means", "_lengths")

    def __init__(self, head: Prototype, state: State) -> None:
        super().__init__(state)
        self._centred = head.centred
        self._lengths: Floats = np.linalg.norm(self._means, axis=1)

    def describe(self) -> str:
        return "prototype, centred" if self._centred else "prototype"

    def _scores(self, x: Floats) -> Floats:
        means = self.means
        if self._centred and len(means) > 1:
            centre = self.n @ means / self.n.sum()
            return self._cosine(x - centre, means - centre)
        return self._cosine(x, means, self._lengths[: len(self)])

    def _cosine(self, x: Floats, means: Floats, lengths: Floats | None = None) -> Floats:
        if lengths is None:
            lengths = np.linalg.norm(means, axis=1)
        own = np.linalg.norm(x, axis=1, keepdims=True)
        cosine: Floats = (x @ means.T) / np.maximum(lengths * own, 1e-12)  # (n, C)
        return cosine

    def _follow_rows(self, k: int, x: Floats, sign: int, mean: Floats) -> bool:
        self._lengths[k] = np.linalg.norm(mean)
        return True

    def _settle(self, state: State) -> bool:
        return True

    def _left_out(self, k: int, x: Floats, queries: Floats) -> Floats:
        gone = x.sum(axis=0)
        without = (self.n[k] * self.means[k] - gone) / (self.n[k] - len(x))
        means = self.means
        if self._centred and len(means) > 1:  # the centre moves with the mean
            centre = (self.n @ means - gone) / (self.n.sum() - len(x))
            means, without, queries = means - centre, without - centre, queries - centre
        scores = self._cosine(queries, means)
        scores[:, [k]] = self._cosine(queries, without[None])
        return scores
