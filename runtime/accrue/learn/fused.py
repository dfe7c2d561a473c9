"""The fused head: two heads that vote, each in units of its own spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from accrue.errors import UsageError
from accrue.learn.cosine import Cosine
from accrue.learn.ridge import Ridge
from accrue.learn.served import Head, Served
from accrue.learn.state import State
from accrue.learn.statistics import Floats, Rows


@dataclass(frozen=True)
class Fused:
    """``(1 - share) z_first + share z_second``: a weighted sum of standardised scores.

    ``z = (s - mean_k s) / sigma`` for each query, with ``sigma`` the spread of a head's scores over
    the classes, averaged over the class means as queries. The share is for whoever solves it to
    choose; `choose` takes it from left-out shots, never from a test set.

    Worth its cost, twice that of one head, where the two err on different classes.

    Args:
        share: of the second head, between 0 and 1 exclusive.
    """

    first: Head = field(default_factory=Cosine)
    second: Head = field(default_factory=Ridge)
    share: float = 0.5
    name: ClassVar[str] = "fused"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UsageError(
                f"share {self.share}; expected a number between 0 and 1, both exclusive",
                found=self.share,
            )

    def solve(self, state: State) -> Served:
        return self.join(self.first.solve(state), self.second.solve(state), state)

    def join(self, first: Served, second: Served, state: State) -> Served:
        """The fused head of two that have been solved for this state, and are not changed since.

        They are followed along with it from then on.
        """
        return _FusedServed(self, first, second, state)


class _FusedServed(Served):
    def __init__(self, head: Fused, first: Served, second: Served, state: State) -> None:
        super().__init__(state)
        self._share = head.share
        self._first, self._second = first, second
        self._spreads: tuple[float, float] | None = None

    def describe(self) -> str:
        first, second = self._first.describe(), self._second.describe()
        return f"fused, {1 - self._share:.0%} {first} + {self._share:.0%} {second}"

    def _mixed(self, first: Floats, second: Floats) -> Floats:
        """Of float64 (n, n_classes) from each head; the second's columns in the first's order."""
        if self._spreads is None:
            means = self.means
            self._spreads = _spread(self._first.scores(means)), _spread(self._second.scores(means))
        one, other = self._spreads
        mixed: Floats = (1 - self._share) * _centred(first) / one
        mixed += self._share * _centred(second) / other
        return mixed

    def _scores(self, x: Floats) -> Floats:
        if not self.ids:
            return np.empty((len(x), 0))
        return self._mixed(self._first.scores(x), self._second.scores(x))

    def follow(self, state: State, class_id: str, rows: Rows, sign: int) -> bool:
        self._spreads = None
        first = self._first.follow(state, class_id, rows, sign)
        second = self._second.follow(state, class_id, rows, sign)
        return first and second and super().follow(state, class_id, rows, sign)

    def _follow_rows(self, k: int, x: Floats, sign: int, mean: Floats) -> bool:
        return True

    def _settle(self, state: State) -> bool:
        return self._first.ids == self._second.ids == self.ids

    def left_out(
        self, k: int, blocks: Sequence[Sequence[Floats]], views: int | None = None
    ) -> list[Floats | None]:
        first = self._first.left_out(k, blocks, views)
        second = self._second.left_out(k, blocks, views)
        return [
            None if one is None or other is None else self._mixed(one, other)
            for one, other in zip(first, second, strict=True)
        ]


def _centred(scores: Floats) -> Floats:
    centred: Floats = scores - scores.mean(axis=1, keepdims=True)
    return centred


def _spread(scores: Floats) -> float:
    return float(scores.std(axis=1).mean()) or 1.0
