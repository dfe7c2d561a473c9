""" "Not this": what the operator has said a class is not, as rows that every refit obeys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accrue.learn.statistics import Floats, Rows

TIE = 1e-6  # of a cosine: quantising alone moves it by 2e-8


class Refusals:
    """The rule: class k is no answer for a query that is nearer to something refused for k than to
    everything that was taught as k.

    Nearer is by cosine, and strictly: a photo that was both taught as k and refused for k is a
    tie, and stays an answer. The rule is local (a query elsewhere is answered as before) and
    exact: it is in no sum, so no refit can wear it away, and taking the refusal back leaves no
    trace. Where the rows of k are folded, its mean stands for them.

    Args:
        refused: int16 (m, dim) by class id, m > 0.
        kept: (n, dim) by class id, what queries of the kept shots of (at least) the classes in
            `refused` are, one for each shot.
        sums: float64 (dim,) by class id, used where no row is kept.

    Cost of a query: one dot product for each refused row and each kept row of those classes.
    """

    def __init__(
        self,
        refused: Mapping[str, Rows],
        kept: Mapping[str, NDArray[Any]],
        sums: Mapping[str, Floats] | None = None,
    ) -> None:
        self._classes: dict[str, tuple[Floats, Floats]] = {}
        for class_id, rows in refused.items():
            own: NDArray[Any] = kept.get(class_id, rows[:0])
            if len(own) == 0 and sums is not None and class_id in sums:
                own = sums[class_id][None]
            self._classes[class_id] = (_unit(rows), _unit(own))

    def __len__(self) -> int:
        return len(self._classes)

    def allowed(self, x: NDArray[Any], ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which classes may be the answer: float (n, dim) queries to bool (n, n_classes)."""
        x = np.asarray(x, dtype=np.float64)
        allowed = np.ones((len(x), len(ids)), dtype=np.bool_)
        for k, class_id in enumerate(ids):
            if class_id in self._classes:
                refused, own = self._classes[class_id]
                to_own = (x @ own.T).max(axis=1, initial=-np.inf)
                length = np.maximum(np.linalg.norm(x, axis=1), 1e-12)
                allowed[:, k] = (x @ refused.T).max(axis=1) - to_own <= TIE * length
        return allowed


def _unit(rows: NDArray[Any]) -> Floats:
    x = rows.astype(np.float64)
    unit: Floats = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit
