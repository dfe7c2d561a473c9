"""The calibrated cosine head: few-shot classes lean on the classes that they resemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from accrue.errors import UsageError
from accrue.learn.cosine import Cosine
from accrue.learn.served import Served
from accrue.learn.state import State
from accrue.learn.statistics import Floats, Rows


@dataclass(frozen=True)
class Calibrated:
    """Cosine scoring with every class mean drawn towards those of similar classes (TEEN).

    ``z_k' = (1 - share) z_k + share sum_j softmax_j(sharpness cos(z_k, z_j)) z_j`` over the other
    classes j, with z the whitened class means of the cosine head at unit length (Wang et al. 2023,
    "Few-Shot Class-Incremental Learning via Training-Free Prototype Calibration"; there from base
    classes to new ones, here between all, so that no order of teaching counts).

    A mean of one shot is mostly chance, and its neighbours tell where such means lie. With one shot
    a class it gains half a point at best on groceries; from five shots on it loses.

    Args:
        share: between 0 and 1 exclusive. sharpness: of the softmax, above 0.

    Cost: every row more is an exact solve, O(dim**3 + C**2 dim); a prediction O(dim**2 + C dim +
    C**2).
    """

    cosine: Cosine = field(default_factory=Cosine)
    share: float = 0.2
    sharpness: float = 16.0
    name: ClassVar[str] = "calibrated"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not self.sharpness > 0:
            raise UsageError(
                f"share {self.share}, sharpness {self.sharpness}; expected a share between 0 and "
                "1, both exclusive, and a sharpness above 0"
            )

    def solve(self, state: State) -> Served:
        return _CalibratedServed(self, state)


class _CalibratedServed(Served):
    def __init__(self, head: Calibrated, state: State) -> None:
        super().__init__(state)
        self.head = head
        self._cosine = head.cosine.solve(state)
        self.ids, self.index = self._cosine.ids, self._cosine.index
        self._n, self._means = self._cosine._n, self._cosine._means
        alike = self._cosine.scores(self.means)  # (C, C)
        weights = head.sharpness * (alike - 1)
        np.fill_diagonal(weights, -np.inf)
        weights = np.exp(weights)
        total = weights.sum(axis=1, keepdims=True)
        share = head.share * (total > 0)  # one class alone leans on nothing
        mixed = (1 - share) * np.eye(len(alike)) + share * weights / np.where(total > 0, total, 1)
        lengths = np.sqrt(np.maximum(((mixed @ alike) * mixed).sum(axis=1), 1e-12))
        self._mixed: Floats = mixed / lengths[:, None]

    def describe(self) -> str:
        return f"calibrated {self._cosine.describe()}"

    def _scores(self, x: Floats) -> Floats:
        scores: Floats = self._cosine.scores(x) @ self._mixed.T
        return scores

    def follow(self, state: State, class_id: str, rows: Rows, sign: int) -> bool:
        return False  # every mean moves with every other

    def left_out(
        self, k: int, blocks: Sequence[Sequence[Floats]], views: int | None = None
    ) -> list[Floats | None]:
        """With the mixture held as it is."""
        found = self._cosine.left_out(k, blocks, views)
        return [None if scores is None else scores @ self._mixed.T for scores in found]
