"""What each head would have said of every kept shot, had that shot never been taught.

Closed form: a shot of m rows changes the inverse by rank m + 1 at most, and everything needed of
it lies in the span of the shot's rows and its class mean, so the left-out scores come from small
matrices (the block form of the classical leave-one-out identities, Cook and Weisberg 1982). The
regulariser is held at the value in force. A shot is left out as a whole: views of one shot would
otherwise vouch for each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accrue.learn.served import Served
from accrue.learn.statistics import SCALE, Floats, Rows


@dataclass(frozen=True)
class LeftOut:
    """Scores of left-out shots, averaged over the rows of each.

    Attributes:
        shots: int (n,), position of each in the sequence that was given; shots that were all of
            their class are missing, because without them there is nothing to compare.
        own: float64 (n,), score of the right class.
        rival: float64 (n,), best score of another class (-inf where there is none).
        rival_id: class id of that rival ("" where there is none).
    """

    shots: NDArray[np.intp]
    own: Floats
    rival: Floats
    rival_id: list[str]

    def __len__(self) -> int:
        return len(self.shots)

    @property
    def best(self) -> Floats:
        return np.maximum(self.own, self.rival)

    @property
    def margin(self) -> Floats:
        return self.own - self.rival

    @property
    def accuracy(self) -> float:
        """Share of left-out shots whose own class won; nan where there are none."""
        return float((self.margin > 0).mean()) if len(self) else math.nan


def leave_one_out(served: Served, shots: Sequence[tuple[str, Rows]]) -> LeftOut:
    """Left-out scores of kept shots.

    Args:
        served: a solved head, in step with a state that contains the shots.
        shots: (class id, int16 (m, dim)) of each kept shot.

    Cost: O(N dim**2 + N C dim) for N rows and C classes.
    """
    by_class: dict[str, list[int]] = {}
    for i, (class_id, _) in enumerate(shots):
        by_class.setdefault(class_id, []).append(i)
    found: list[tuple[int, float, float, str]] = []
    for class_id, members in by_class.items():
        k = served.index[class_id]
        rows = [shots[i][1].astype(np.float64) / SCALE for i in members]
        for i, left_out in zip(members, served.left_out(k, rows), strict=True):
            if left_out is None:
                continue
            own = float(left_out[k])
            left_out[k] = -math.inf
            rival = int(left_out.argmax())
            rival_id = served.ids[rival] if len(served) > 1 else ""
            found.append((i, own, float(left_out[rival]), rival_id))
    found.sort()
    return LeftOut(
        np.array([f[0] for f in found], np.intp),
        np.array([f[1] for f in found]),
        np.array([f[2] for f in found]),
        [f[3] for f in found],
    )
