"""Accrue's learner with the interface of a peer: the one file that knows `accrue.learn`."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import find_accrue
from numpy.typing import NDArray
from peers.base import Floats, Labels, Peer

find_accrue()

from accrue.learn import Calibration, Choice, State, choose, leave_one_out, quantise  # noqa: E402
from accrue.learn.decision import UNKNOWN  # noqa: E402
from accrue.learn.leave_one_out import familiarity  # noqa: E402

REJECT = 0.05  # share of known objects that may be called unknown


class AccrueLearner(Peer):
    name = "Accrue"
    paper = "this repository"

    def __init__(self, seed: int = 0, text: Floats | None = None) -> None:
        super().__init__(seed, text)
        self.state: State | None = None
        self.shots: list[tuple[str, Any]] = []
        self._choice: Choice | None = None
        self.views: int | None = None  # of a query: of the first one, if it was asked before taught

    def partial_fit(self, rows: NDArray[Any], labels: Labels) -> None:
        rows = rows[:, None] if rows.ndim == 2 else rows
        self.state = self.state or State("0" * 64, rows.shape[2])
        for views, label in zip(rows, labels, strict=True):  # a shot is all views of a photo
            self.shots.append((_id(label), quantise(views)))
            self.state.add(*self.shots[-1])
        self.classes = [int(class_id) for class_id in self.state]
        self._choice = None

    @property
    def choice(self) -> Choice:
        assert self.state is not None
        if self._choice is None:
            texts = {} if self.text is None else {_id(c): self.text[c] for c in self.classes}
            self._choice = choose(self.state, self.shots, texts=texts, views=self.views)
        return self._choice

    def name_classes(self, labels: list[int]) -> None:
        super().name_classes(labels)
        self.classes.sort()
        self._choice = None

    def scores(self, x: NDArray[Any]) -> Floats:
        x = x[:, None] if x.ndim == 2 else x
        self.views = self.views or x.shape[1]
        scores = self.choice.served.scores(x.mean(axis=1))
        return scores[:, np.argsort([int(c) for c in self.choice.served.ids])]

    def known(self, x: NDArray[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        """How much like what was taught each query is, to rank by, and which are refused."""
        calibration = Calibration(self.choice.left_out, REJECT)
        ids = [_id(c) for c in self.classes]
        scores = self.scores(x)
        refused = [calibration.decide(row, ids).verdict == UNKNOWN for row in scores]
        return familiarity(scores), np.array(refused)

    def suspects(self) -> Labels:
        """Positions of the shots, those to look at first in front."""
        left_out = leave_one_out(self.choice.served, self.shots)
        return left_out.shots[np.argsort(left_out.margin, kind="stable")]

    def digest(self) -> str:
        return self.state.digest() if self.state else ""

    def n_bytes(self) -> int:
        return sum(rows.nbytes for _, rows in self.shots)  # the store keeps rows, sums follow


def _id(label: int) -> str:
    return f"{label:06d}"
