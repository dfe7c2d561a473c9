"""A state and the head served from it, kept in step."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from accrue.learn.served import WAITING_UPDATES, Head
from accrue.learn.state import State
from accrue.learn.statistics import Floats, Rows


class Learner:
    """Teaches and forgets in a state, and answers from its head.

    `add`, `subtract` and `remove` change the exact state and bring the served head along by
    rank-one updates; where these cannot follow (a grid point of the regulariser is crossed, too
    many digits are at stake), the head is solved exactly. The served scores stay within 1e-6 of
    an exact solve with the parameters in force, relative to the largest score. (A ridge strength
    left to cross-validation is chosen anew at each exact solve, `resolve`, not at each row.)

    >>> from accrue.learn import Gaussian, State, quantise
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> learner = Learner(State("0" * 64, 8), Gaussian())
    >>> learner.add("bolt", quantise(rng.normal(size=(5, 8)) + 2))
    >>> learner.add("gear", quantise(rng.normal(size=(5, 8)) - 2))
    >>> learner.served.ids[int(learner.scores(np.full((1, 8), 0.4)).argmax())]
    'bolt'
    """

    def __init__(self, state: State, head: Head) -> None:
        self.state = state
        self.head = head
        self.served = head.solve(state)
        self.exact_solves = 0

    def add(self, class_id: str, rows: Rows) -> None:
        """Adds int16 rows (n, dim); raises as `State.add`."""
        self.state.add(class_id, rows)
        self._follow(class_id, rows, +1)

    def subtract(self, class_id: str, rows: Rows) -> None:
        """Takes rows away again; raises as `State.subtract`."""
        self.state.subtract(class_id, rows)
        self._follow(class_id, rows, -1)

    def remove(self, class_id: str) -> None:
        """Forgets a class; raises as `State.remove`."""
        n = self.state.count(class_id)
        rows = self.state.kept(class_id)
        self.state.remove(class_id)
        if len(rows) == n and n <= WAITING_UPDATES:
            self._follow(class_id, rows, -1)
        else:
            self.resolve()

    def _follow(self, class_id: str, rows: Rows, sign: int) -> None:
        if len(rows) and not self.served.follow(self.state, class_id, rows, sign):
            self.resolve()

    def resolve(self) -> None:
        """Replaces the served head by the exact solve."""
        self.served = self.head.solve(self.state)
        self.exact_solves += 1

    def scores(self, x: NDArray[Any]) -> Floats:
        """As `Served.scores`."""
        return self.served.scores(x)
